// The link between the response's tokens and the sources: what is pointed at on one side colours the other.

import { byId } from "./elements.js";
import { called, noun } from "./names.js";
import { largest, signed } from "./numbers.js";
import { chosenText, linkResponse, renderResponse, saidOf, startResponse, unchoose } from "./response.js";
import { linkSources, sourceRows } from "./sources.js";
import { change, isNamed, isSaved } from "./state.js";

const MOST_SAID = 3; // sources or tokens that are named
const LITTLE = 0.01; // of the largest number of the matrix: what is smaller is no full colour

let response = null;
let matrix = []; // of every token, what each source does to it
let least = 0; // the smallest number that may have the full colour
let isPending = false; // the matrix is still computed
let tokens = { pointed: null, chosen: null }; // {from, to}
let source = { hovered: null, focused: null, held: null }; // numbers of rows
let drawn = { range: null, column: null }; // what is coloured now

/** Shows the response of a glance, and links it where the explanation is at hand. */
export function renderLinked(seen, explanation) {
  response = seen.response ?? null;
  matrix = explanation?.response?.influence ?? [];
  isPending = explanation === null;
  if (matrix[0]?.length !== sourceRows().length) matrix = [];
  least = LITTLE * largest(matrix.flat());
  drawn = { range: null, column: null };
  linkSources(null);
  renderResponse(response);
  byId("state-all").hidden = isSaved || response === null || response.statement === null;
}

/** Colours the sources by the tokens that count, and these by the source that does. */
function show() {
  if (response === null) return;
  const range = tokens.pointed ?? tokens.chosen;
  const pointed = source.hovered ?? source.focused;
  const column = pointed ?? (range === null ? source.held : null);
  const isKnown = matrix.length > 0;
  if (drawn.range !== range) linkSources(isKnown && range !== null ? sumOf(range) : null, least);
  if (drawn.column !== column) linkResponse(isKnown && column !== null ? columnOf(column) : null, least);
  drawn = { range, column };
  byId("linked-note").textContent = noteOf(pointed === null ? range : null, column);
}

/** What the sources do to some tokens together: the sum of their rows. */
function sumOf({ from, to }) {
  const sums = new Array(matrix[0].length).fill(0);
  for (let t = from; t < to; t++) matrix[t].forEach((value, i) => (sums[i] += value));
  return sums;
}

function columnOf(i) {
  return matrix.map((row) => row[i]);
}

function noteOf(range, column) {
  if (range !== null) return matrix.length ? ofTokens(range) : saidOf(response, range);
  if (column !== null && matrix.length) return `${called(column)}: ${strongest(columnOf(column), (t) => `‘${response.tokens[t].trim() || "↵"}’`)}`;
  const how = matrix.length ? `Point at a token, a sentence or a ${noun()}: the other side takes the colour of its influence.` : `Point at a token for its log-probability.${isPending ? " The influence on every token is being computed …" : ""}`;
  return `${how} Arrow keys walk, Enter keeps, Shift takes several.`;
}

function ofTokens(range) {
  const values = sumOf(range);
  const isLittle = largest(values) < least;
  const advice = isSaved ? "" : "; chosen and explained alone, it gets a weight of its own";
  return `${saidOf(response, range)}: ${strongest(values, called)}.${isLittle ? ` That is little: it is all but certain at the weight of the influence${advice}.` : ""}`;
}

function strongest(values, name) {
  const order = values.map((value, i) => [Math.abs(value), i]).sort((a, b) => b[0] - a[0]);
  const said = order.slice(0, MOST_SAID).map(([, i]) => `${name(i)} ${signed(values[i])}`);
  return said.join(", ");
}

/** Connects rows that were built anew. */
export function linkRows() {
  source = { hovered: null, focused: null, held: null };
  sourceRows().forEach(({ item, head }, i) => {
    item.addEventListener("pointerenter", () => pointAt({ hovered: i }));
    item.addEventListener("pointerleave", () => pointAt({ hovered: null }));
    item.addEventListener("focusin", (event) => event.target.matches(":focus-visible") && pointAt({ focused: i }));
    item.addEventListener("focusout", () => pointAt({ focused: null }));
    if (head && isNamed()) head.addEventListener("click", () => hold(i));
  });
}

function pointAt(change) {
  Object.assign(source, change);
  show();
}

/** A source that was tapped stays, in place of tokens that were; tapped again it goes. */
function hold(i) {
  source.held = source.held === i ? null : i;
  if (source.held !== null) unchoose();
  show();
}

export function startLinked() {
  startResponse((pointed, chosen) => {
    tokens = { pointed, chosen };
    if (chosen !== null) source.held = null;
    const isPart = chosen !== null && response !== null && chosen.to - chosen.from < response.tokens.length;
    byId("state-it").hidden = isSaved || !isPart || response.foil !== null;
    show();
  });
  byId("state-it").addEventListener("click", () => explainOnly(chosenText()));
  byId("state-all").addEventListener("click", () => explainOnly(null));
}

function explainOnly(statement) {
  unchoose();
  change("prompt", (now) => (now.statement = statement));
}
