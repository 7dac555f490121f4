// The candidate answers as chips: each is a text of any characters, commas and line ends too.

import { renderRows } from "./editor.js";
import { byId, el, oneLine } from "./elements.js";
import { change, isSaved, state } from "./state.js";

/** Shows the candidates of the question, each with a button that takes it away. */
export function renderChips() {
  const field = byId("answer-new");
  for (const chip of byId("answers").querySelectorAll(".chip")) chip.remove();
  field.hidden = isSaved;
  field.before(...state.answers.map(chipOf));
}

function chipOf(answer, i) {
  const shown = el("span", { dir: "auto" }, oneLine(answer, 60));
  if (isSaved) return el("span", { class: "chip" }, shown);
  return el("span", { class: "chip" }, shown, el("button", { type: "button", tabindex: "-1", "aria-label": `Remove ${oneLine(answer, 60)}`, onclick: () => remove(i), onkeydown: walk }, "✕"));
}

function take(answers) {
  change("prompt", (now) => Object.assign(now, { answers, answer: null }));
  renderChips();
  renderRows();
}

function remove(i) {
  take(state.answers.filter((_, j) => j !== i));
  byId("answer-new").focus();
}

/** Adds what was typed; what is there already is not added twice. */
function add() {
  const field = byId("answer-new");
  const answer = field.value.trim();
  field.value = "";
  if (answer && !state.answers.includes(answer)) take([...state.answers, answer]);
}

/** Arrow keys lead from the field to the chips and back. */
function walk(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step) return;
  const stops = [...byId("answers").querySelectorAll(".chip button"), byId("answer-new")];
  const to = stops[stops.indexOf(event.target) + step];
  if (!to) return;
  event.preventDefault();
  to.focus();
}

export function startChips() {
  const field = byId("answer-new");
  field.addEventListener("blur", add);
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      event.preventDefault();
      add();
    } else if (event.key === "Backspace" && !field.value && state.answers.length) {
      // What is taken back can be mended.
      event.preventDefault();
      const last = state.answers.at(-1);
      take(state.answers.slice(0, -1));
      field.value = last;
    } else if (!field.value) walk(event);
  });
}
