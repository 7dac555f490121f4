// The sources of the prompt, one row each: their text, their score, and whether they are on; long ones fold to their first line.

import { byId, el, oneLine, put, visible } from "./elements.js";
import { longName, shortName } from "./names.js";
import { colour, largest, plain, signed } from "./numbers.js";
import { renderPieces, scaleOf } from "./pieces.js";
import { nameOf, withUnit } from "./scores.js";
import { change, isNamed, isSaved, state } from "./state.js";

const MOST_LINES = 4; // of a source that is shown unfolded
const MOST_CHARACTERS = 280;
const MOST_FIRST = 140; // characters of a first line

const rows = [];
let unscored = false; // no scores have come since the rows were built
let own = { scores: null, stale: false }; // by the chosen score
let floor = 0; // the least that a full colour stands for
let linked = null; // what each does to the chosen tokens of the response, in place of these

/** Builds the rows anew; `edits` are what a reader may do to a demonstration: buttonsOf(one, i, text), typed(), keys(event, i). */
export function buildSources(edits) {
  unscored = true;
  rows.length = 0;
  rows.push(...state.demonstrations.map((one, i) => buildRow({ ...one, index: i }, one, i, edits)));
  const list = byId("demonstrations");
  put(list, ...rows.map((row) => row.item));
  list.classList.toggle("named", isNamed());
  reach(0);
}

export function sourceRows() {
  return rows;
}

/** Colours the rows by their scores and writes these beside them; null while they are not known.
 *
 * Stale ones, of the prompt as it was, are still shown while the text of a row changes, but not beside other rows. */
export function renderScores(newest, stale = false) {
  if (!stale) unscored = false;
  own = { scores: unscored ? null : newest, stale };
  rows.forEach((row) => {
    row.score.setAttribute("aria-label", `${nameOf(state.colour)} of ${row.name}`);
    row.item.classList.toggle("stale", stale);
  });
  paint();
}

/** Lets the rows take the colour of what they do to some tokens of the response, fully from `least` on; null gives their scores back. */
export function linkSources(values, least = 0) {
  linked = values;
  floor = values === null ? 0 : least;
  byId("demonstrations").classList.toggle("linked", linked !== null);
  paint();
}

function paint() {
  const scores = linked ?? own.scores;
  const most = scores === null ? 0 : Math.max(floor, largest(scores));
  const score = linked === null ? state.colour : "influence";
  byId("full").textContent = most > 0 ? `full colour: ${withUnit(plain(most), score)}` : "";
  rows.forEach((row, i) => {
    const value = scores?.[i] ?? null;
    row.score.textContent = value === null ? "…" : signed(value);
    colour(row.item, value, most);
  });
}

/** Shows what is within each source. */
export function renderInside(explanation) {
  const scale = scaleOf(explanation?.sources ?? [], state.colour);
  rows.forEach((row, i) => {
    const pieces = explanation?.sources[i]?.pieces ?? [];
    row.item.classList.toggle("has-pieces", pieces.length > 1);
    renderPieces(row.pieces, pieces, scale);
  });
}

function isLong(text) {
  return text.length > MOST_CHARACTERS || text.split("\n").length > MOST_LINES;
}

function firstLine(text) {
  return oneLine(text.trim().split("\n")[0], MOST_FIRST);
}

function buildRow(source, one, i, edits) {
  const name = longName(source);
  const isEdited = !isNamed();
  const isFolded = isLong(one.text);
  const on = el("input", {
    type: "checkbox",
    "aria-label": `${name} is on`,
    title: "Switch off to see the answer without it",
    disabled: isSaved,
    tabindex: "-1",
    onchange: () => {
      change("prompt", () => (one.on = on.checked));
      renderSwitches();
    },
  });
  const score = el("output", { class: "number score" }, "…");
  const pieces = el("ol", { class: "pieces" });
  const text = isEdited ? edited(one, i, name, edits) : el("p", { class: "source-text" }, visible(one.text));
  const buttons = isEdited && !isSaved ? edits.buttonsOf(one, i, name, text) : {};
  const icons = Object.keys(buttons).length ? el("span", { class: "icons" }, ...Object.values(buttons)) : null;
  const row = { name, text, on, score, pieces, isEdited, icons: Object.values(buttons), ...buttons };
  if (isEdited) for (const stop of [on, ...row.icons]) stop.addEventListener("keydown", (event) => walkRow(event, i));
  if (isEdited && !isFolded) {
    row.item = el("li", { class: "demonstration", onfocusin: () => reach(i) }, el("label", { class: "number-of" }, on, el("span", {}, shortName(source))), text, score, icons, pieces);
    return row;
  }
  const body = el("div", { class: "source-body", id: `source-${i}`, hidden: isFolded }, text, pieces);
  row.head = el(
    "button",
    { type: "button", class: "source-head", "aria-expanded": isFolded ? "false" : null, "aria-controls": isFolded ? body.id : null, tabindex: isEdited ? null : "-1" },
    el("b", {}, shortName(source)),
    " ",
    el("span", { class: "first-line" }, firstLine(one.text)),
  );
  if (isFolded) row.head.addEventListener("click", () => unfold(row.head, body));
  if (!isEdited) row.head.addEventListener("keydown", (event) => walk(event, i));
  if (!isEdited) on.addEventListener("keydown", (event) => event.key === "ArrowRight" && row.head.focus());
  row.item = el("li", { class: `demonstration source${isFolded ? " folds" : ""}`, onfocusin: () => isEdited && reach(i) }, el("label", { class: "number-of" }, on), row.head, score, icons, body);
  return row;
}

function edited(one, i, name, edits) {
  const text = el("textarea", {
    "aria-label": `Text of ${name}`,
    rows: one.text.split("\n").length,
    spellcheck: "false",
    readonly: isSaved,
    oninput: () => {
      text.rows = text.value.split("\n").length;
      change("prompt", () => (one.text = text.value));
      renderSwitches();
    },
    onkeydown: (event) => edits.keys(event, i),
  });
  text.value = one.text;
  return text;
}

function unfold(head, body) {
  body.hidden = !body.hidden;
  head.setAttribute("aria-expanded", String(!body.hidden));
}

/** Which row the Tab key reaches, of rows that are not edited: arrow keys walk through the others. */
function reach(i) {
  rows.forEach((row, j) => {
    if (row.isEdited) {
      row.on.tabIndex = row.text.tabIndex = i === j ? 0 : -1;
      if (row.head) row.head.tabIndex = row.on.tabIndex;
    } else if (row.head) row.head.tabIndex = i === j ? 0 : -1;
  });
}

/** Arrow keys lead from a row's switch to its buttons, and up and down to the same of other rows. */
function walkRow(event, i) {
  if (event.altKey) return;
  const stops = ({ on, icons }) => [on, ...icons].filter((stop) => !stop.disabled);
  const [at, here] = [stops(rows[i]).indexOf(event.target), stops(rows[i])];
  const to = { ArrowLeft: here[at - 1], ArrowRight: here[at + 1], ArrowUp: rows[i - 1] && (stops(rows[i - 1])[at] ?? rows[i - 1].on), ArrowDown: rows[i + 1] && (stops(rows[i + 1])[at] ?? rows[i + 1].on) }[event.key];
  if (!to) return;
  event.preventDefault();
  to.focus();
}

function walk(event, i) {
  if (event.key === "ArrowLeft" && !rows[i].on.disabled) {
    event.preventDefault();
    return rows[i].on.focus();
  }
  const to = { ArrowUp: i - 1, ArrowDown: i + 1, Home: 0, End: rows.length - 1 }[event.key];
  if (to === undefined || !rows[to]) return;
  event.preventDefault();
  reach(to);
  rows[to].head.focus();
}

/** Which sources are on. */
export function renderSwitches() {
  state.demonstrations.forEach((one, i) => {
    rows[i].on.checked = one.on;
    rows[i].item.classList.toggle("off", !one.on);
  });
  byId("everything").hidden = state.demonstrations.every((one) => one.on);
}
