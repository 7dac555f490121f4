// What the page is about: the one thing that a link carries.

import { coded, decoded } from "./address.js";

export const given = JSON.parse(document.getElementById("data").textContent);
export const isSaved = given.mode === "saved";

/** The scores of a saved explanation, or those that the server computes where no others are asked for. */
const SCORES = given.explanation?.scores ?? given.scores ?? [];

export const state = {
  document: null, // pairs or chat messages that the blocks of text show
  instruction: "",
  demonstrations: [],
  query: "",
  answers: [],
  answer: null,
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
  edit(state);
  for (const listener of listeners) listener(kind);
}

/** Takes over a question as the server writes it. */
export function takeOver(question) {
  const off = new Set(question.off ?? []);
  state.document = question.document ?? null;
  state.instruction = question.instruction ?? "";
  state.demonstrations = question.demonstrations.map((text, i) => ({ text, on: !off.has(i) }));
  state.query = question.query;
  state.answers = [...(question.answers ?? [])];
  state.answer = question.answer ?? null;
  state.layer = question.layer ?? null;
  state.head = question.head ?? null;
  state.scores = question.scores?.length ? question.scores : SCORES;
  if (!state.scores.includes(state.colour)) state.colour = state.scores[0];
}

/** The question for the server. */
export function question() {
  const asked = {
    demonstrations: state.demonstrations.map((one) => one.text),
    query: state.query,
    answers: state.answers,
    off: state.demonstrations.flatMap((one, i) => (one.on ? [] : [i])),
  };
  if (state.document) asked.document = state.document;
  // Beside a document, an instruction that was emptied is an edit, too.
  if (state.instruction.trim() || state.document) asked.instruction = state.instruction;
  if (state.answer !== null) asked.answer = state.answer;
  if (state.scores !== SCORES) asked.scores = state.scores;
  return asked;
}

/** The state as a link's hash. */
export function toHash() {
  return "#q=" + coded({ ...question(), layer: state.layer, head: state.head, colour: state.colour });
}

/** The state of a link's hash; false when it carries none that can be read. */
export function fromHash(hash) {
  const read = hash.startsWith("#q=") ? decoded(hash.slice(3)) : undefined;
  if (!isQuestion(read)) return false;
  // Links of earlier versions have a colour that was always computed then.
  if (!read.scores && ["knock_out", "path"].includes(read.colour)) read.scores = [...SCORES, read.colour];
  takeOver(read);
  state.colour = state.scores.includes(read.colour) ? read.colour : state.scores[0];
  return true;
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
    (read.answer == null || typeof read.answer === "string") &&
    index(read.layer) &&
    index(read.head)
  );
}
