// What the page is about: the one thing that a link carries.

import { coded, decoded } from "./address.js";

export const given = JSON.parse(document.getElementById("data").textContent);
export const isSaved = given.mode === "saved";

/** The scores of a saved explanation, or those that the server computes where no others are asked for. */
const SCORES = given.explanation?.scores ?? given.scores ?? [];

/** What a question holds besides its prompt, answers and scores. */
const SAID = ["response", "statement", "foil", "measure", "within", "budget"];

export const state = {
  document: null, // pairs, documents or chat messages that the blocks of text show
  instruction: "",
  demonstrations: [], // the sources: their text, whether they are on, and what they are called where they are no demonstrations
  query: "",
  answers: [],
  answer: null,
  response: null, // the text that is explained instead of an answer; empty until there is one
  statement: null,
  foil: null,
  measure: null,
  within: null, // which pieces of the sources are shown
  budget: null,
  scores: SCORES,
  colour: SCORES[0],
  layer: null,
  head: null,
};

const listeners = [];

/** Calls `listener` after every change with its kind: "prompt", "view" or "all". */
export function onChange(listener) {
  listeners.push(listener);
}

export function change(kind, edit) {
  if (kind === "prompt" || kind === "all") remember(kind === "all");
  edit(state);
  for (const listener of listeners) listener(kind);
}

const MOST_PAST = 100;
const TOGETHER = 1000; // milliseconds within which changes are taken back together, such as the letters of a word

const past = []; // the questions before the last changes
let changed = -Infinity;

function remember(isWhole) {
  const now = performance.now();
  if (isWhole || now - changed > TOGETHER) past.push(whole());
  if (past.length > MOST_PAST) past.shift();
  changed = isWhole ? -Infinity : now;
}

export function canUndo() {
  return past.length > 0;
}

/** Goes back to what was before the last change of the prompt; the head and the colour stay as they are looked at. */
export function undo() {
  const before = past.pop();
  if (!before) return;
  changed = -Infinity;
  const { layer, head } = state;
  takeOver({ ...before, layer, head });
  for (const listener of listeners) listener("all");
}

/** Takes over a question as the server writes it. */
export function takeOver(question) {
  const off = new Set(question.off ?? []);
  const named = question.sources ?? [];
  state.document = question.document ?? null;
  state.instruction = question.instruction ?? "";
  state.demonstrations = question.demonstrations.map((text, i) => ({ text, on: !off.has(i), name: named[i]?.name, kind: named[i]?.kind }));
  state.query = question.query;
  state.answers = [...(question.answers ?? [])];
  state.answer = question.answer ?? null;
  for (const name of SAID) state[name] = question[name] ?? null;
  state.layer = question.layer ?? null;
  state.head = question.head ?? null;
  state.scores = question.scores?.length ? question.scores : SCORES;
  if (!state.scores.includes(state.colour)) state.colour = state.scores[0];
}

/** Whether the sources are called by names: then they are those of the document, and are no blocks of text. */
export function isNamed() {
  return state.demonstrations.some((one) => one.name);
}

/** The query: what it is called, its text, and whether it can be edited. */
export function queryOf() {
  const { document: whole } = state;
  if (!isNamed()) return { name: "Query", text: state.query, isEdited: true };
  if (typeof whole?.question === "string") return { name: "Question", text: whole.question, isEdited: true };
  const last = whole?.messages?.at(-1);
  const isAsked = last?.role === "user" && typeof last.content === "string";
  if (isAsked) return { name: `Message ${whole.messages.length - 1} (user)`, text: last.content, isEdited: true };
  return { name: "Query", text: state.query, isEdited: false };
}

/** Puts another text in the query's place; documents that are kept elsewhere stay as they are. */
export function withQuery(text) {
  const { document: whole } = state;
  if (!isNamed()) state.query = text;
  else if (typeof whole.question === "string") state.document = { ...whole, question: text };
  else state.document = { ...whole, messages: [...whole.messages.slice(0, -1), { ...whole.messages.at(-1), content: text }] };
}

/** The question for the server. */
export function question() {
  const asked = { off: state.demonstrations.flatMap((one, i) => (one.on ? [] : [i])) };
  if (state.document) asked.document = state.document;
  if (!isNamed()) Object.assign(asked, blocks());
  for (const name of ["statement", "foil", "measure"]) if (state.response && state[name]) asked[name] = state[name];
  for (const name of ["response", "within", "budget"]) if (state[name]) asked[name] = state[name];
  // A response takes the place of the candidate answers, which stay for when it is given up.
  if (!state.response) asked.answers = state.answers;
  if (!state.response && state.answer !== null) asked.answer = state.answer;
  if (state.scores !== SCORES) asked.scores = state.scores;
  return asked;
}

function blocks() {
  const found = { demonstrations: state.demonstrations.map((one) => one.text), query: state.query };
  // Beside a document, an instruction that was emptied is an edit, too.
  if (state.instruction.trim() || state.document) found.instruction = state.instruction;
  return found;
}

/** Everything that the page needs to come back to where it is. */
export function whole() {
  const named = isNamed() ? { sources: state.demonstrations.map(({ name, kind }) => ({ name, kind })) } : {};
  return { ...blocks(), ...question(), answers: state.answers, ...named, layer: state.layer, head: state.head, colour: state.colour };
}

/** The state as a link's hash. */
export function toHash() {
  return "#q=" + coded(whole());
}

/** The state of a link's hash; false when it carries none that can be read. */
export function fromHash(hash) {
  const read = hash.startsWith("#q=") ? decoded(hash.slice(3)) : undefined;
  if (!isQuestion(read)) return false;
  // Links of earlier versions have a colour that was always computed then; the first score orders the sources.
  if (!read.scores && ["knock_out", "path"].includes(read.colour)) read.scores = [...SCORES, read.colour];
  if (!read.scores && read.colour === "influence_deletions") read.scores = [read.colour, ...SCORES];
  takeOver(read);
  state.colour = state.scores.includes(read.colour) ? read.colour : state.scores[0];
  return true;
}

function isNames(list, n) {
  return Array.isArray(list) && list.length === n && list.every((one) => typeof one?.name === "string" && typeof one.kind === "string");
}

function isQuestion(read) {
  const texts = (list) => Array.isArray(list) && list.every((one) => typeof one === "string");
  const index = (one) => one == null || (Number.isInteger(one) && one >= 0);
  return (
    read instanceof Object &&
    texts(read.demonstrations) &&
    typeof read.query === "string" &&
    texts(read.answers ?? []) &&
    texts(read.scores ?? []) &&
    Array.isArray(read.off ?? []) &&
    ["string", "undefined"].includes(typeof read.instruction) &&
    ["answer", "response", "statement", "foil", "measure", "within"].every((name) => read[name] == null || typeof read[name] === "string") &&
    (read.sources == null || isNames(read.sources, read.demonstrations.length)) &&
    index(read.budget) &&
    index(read.layer) &&
    index(read.head)
  );
}
