// Editing the prompt: its demonstrations, its query, its candidate answers, and what is done to rows of it.

import { byId, el, oneLine } from "./elements.js";
import { fullNameOf, nameOf } from "./scores.js";
import { buildSources, renderSwitches, sourceRows } from "./sources.js";
import { change, given, isNamed, isSaved, queryOf, state, withQuery } from "./state.js";

const MORE = ["path", "knock_out"]; // scores that are offered beyond those that are computed anyway

let refined = null; // the score that the server would order these sources by if it had more time

/** Builds everything anew, after demonstrations were added, moved or deleted, or another prompt was taken. */
export function renderEditor() {
  buildSources({ buttonsOf, keys });
  const query = queryOf();
  byId("query-name").textContent = query.name;
  byId("query").value = query.text;
  byId("query").readOnly = isSaved || !query.isEdited;
  byId("query-hint").hidden = !query.isEdited;
  byId("instruction").value = state.instruction;
  byId("instruction").closest(".field").hidden = isNamed();
  byId("add").hidden = isNamed();
  offerScores();
  renderRows();
}

function buttonsOf(one, i, name, text) {
  const button = (sign, label, act) =>
    el("button", { type: "button", class: "icon", tabindex: "-1", title: label, "aria-label": `${label}: ${name}`, onclick: act }, sign);
  const buttons = {
    up: button("↑", "Move up (Alt ↑ in the text)", () => move(i, -1, "up")),
    down: button("↓", "Move down (Alt ↓ in the text)", () => move(i, 1, "down")),
    flip: button("⇄", "Give it the next candidate answer", () => flipLabel(one, text)),
    remove: button("✕", "Delete", () => remove(i)),
  };
  buttons.up.disabled = i === 0;
  buttons.down.disabled = i === state.demonstrations.length - 1;
  return buttons;
}

function keys(event, i) {
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (!event.altKey || !step) return;
  event.preventDefault();
  move(i, step, "text");
}

/** What rows show besides their scores. */
export function renderRows() {
  renderSwitches();
  sourceRows().forEach((row, i) => {
    if (row.flip) row.flip.disabled = labelOf(state.demonstrations[i].text) === null;
  });
}

/** Changes the prompt so that its rows are built anew. */
export function restructure(edit, focus) {
  change("all", edit);
  focus?.();
}

function move(i, step, focused) {
  const to = i + step;
  if (to < 0 || to >= state.demonstrations.length) return;
  restructure(
    (now) => now.demonstrations.splice(to, 0, ...now.demonstrations.splice(i, 1)),
    () => {
      const row = sourceRows()[to];
      (row[focused].disabled ? row.text : row[focused]).focus();
    },
  );
}

function remove(i) {
  restructure(
    (now) => now.demonstrations.splice(i, 1),
    () => (sourceRows()[Math.min(i, sourceRows().length - 1)]?.remove ?? byId("add")).focus(),
  );
}

/** Where the last candidate answer stands in a text: which one and at which character. */
function labelOf(text) {
  if (state.answers.length < 2) return null;
  let found = null;
  state.answers.forEach((answer, which) => {
    const at = text.lastIndexOf(answer);
    if (at >= 0 && (found === null || at > found.at || (at === found.at && answer.length > found.answer.length))) {
      found = { at, which, answer };
    }
  });
  return found;
}

function flipLabel(one, text) {
  const label = labelOf(one.text);
  if (label === null) return;
  const next = state.answers[(label.which + 1) % state.answers.length];
  const flipped = one.text.slice(0, label.at) + next + one.text.slice(label.at + label.answer.length);
  text.value = flipped;
  change("prompt", () => (one.text = flipped));
}

/** Parts of a whole prompt: blocks between blank lines, the query last. */
function blocksOf(text) {
  return text
    .split(/\n(?:[^\S\n]*\n)+/)
    .map((block) => block.replace(/^(?:[^\S\n]*\n)+|\n+$/g, ""))
    .filter((block) => block.trim());
}

/** Offers the scores that the explanation holds, and no others. */
function offerScores() {
  const offered = [...document.getElementsByName("colour")];
  if (offered.map((radio) => radio.value).join() !== state.scores.join()) {
    for (const radio of offered) radio.closest("label").remove();
    byId("refine").before(...state.scores.map(choiceOf));
  }
  for (const radio of document.getElementsByName("colour")) radio.checked = radio.value === state.colour;
  byId("more").hidden = MORE.every((name) => state.scores.includes(name));
  offerRefined(refined);
}

/** Offers the score that orders the sources best, which takes longer than an edit may, where it is not computed yet. */
export function offerRefined(name) {
  refined = name;
  byId("refine").hidden = name === null || state.scores.includes(name);
  byId("refine").title = name === null ? "" : `Order by ${fullNameOf(name)}, which predicts deletions better and takes a few more forward passes`;
}

function choiceOf(name) {
  const choose = () => change("view", (now) => (now.colour = name));
  return el("label", {}, el("input", { type: "radio", name: "colour", value: name, onchange: choose }), el("span", {}, nameOf(name)));
}

/** Connects what lies around the rows; `takeDocument` takes a prompt that is written as JSON, and says whether it is. */
export function startEditor(example, takeOver, takeDocument) {
  byId("query").addEventListener("input", (event) => change("prompt", () => withQuery(event.target.value)));
  byId("instruction").addEventListener("input", (event) => change("prompt", (now) => (now.instruction = event.target.value)));
  byId("add").addEventListener("click", () =>
    restructure(
      (now) => now.demonstrations.push({ text: now.demonstrations.at(-1)?.text ?? "", on: true }),
      () => {
        const { text, head } = sourceRows().at(-1);
        if (head?.getAttribute("aria-expanded") === "false") head.click();
        text.focus();
        text.select();
      },
    ),
  );
  byId("everything").addEventListener("click", () => {
    change("prompt", (now) => now.demonstrations.forEach((one) => (one.on = true)));
    renderRows();
  });
  byId("take").addEventListener("click", () => {
    if (takeDocument(byId("whole").value)) return;
    const blocks = blocksOf(byId("whole").value.replaceAll("\r\n", "\n"));
    if (blocks.length < 2) {
      byId("whole").setCustomValidity("At least one demonstration, a blank line, and the query.");
      byId("whole").reportValidity();
      return;
    }
    restructure(() => takeOver({ ...blankQuestion(), demonstrations: blocks.slice(0, -1), query: blocks.at(-1) }));
  });
  byId("whole").addEventListener("input", () => byId("whole").setCustomValidity(""));
  // The buttons are reached from the scores by arrow keys: the Tab key has enough to do.
  byId("colour").addEventListener("keydown", (event) => {
    const line = [...document.getElementsByName("colour")].slice(-1).concat([byId("refine"), byId("more")].filter((button) => !button.hidden));
    const to = line[line.indexOf(event.target) + { ArrowRight: 1, ArrowLeft: -1 }[event.key]];
    if (!to || !line.includes(event.target)) return;
    event.preventDefault();
    to.focus();
  });
  byId("refine").addEventListener("click", () => {
    // The first score orders the sources.
    change("prompt", (now) => Object.assign(now, { scores: [refined, ...now.scores], colour: refined }));
    offerScores();
    document.querySelector("#colour input:checked").focus();
  });
  byId("more").addEventListener("click", () => {
    change("prompt", (now) => (now.scores = [...new Set([...now.scores, ...MORE])]));
    offerScores();
    document.querySelector("#colour input:checked").focus();
  });
  byId("again").addEventListener("click", () => restructure(() => takeOver(example)));
  const { name, n_layers, n_heads } = given.model;
  // Of a folder its own name; the whole path is in the details.
  const own = name.split(/[\\/]/).filter(Boolean).at(-1) ?? name;
  byId("model").textContent = `iclens ${isSaved ? "explain" : "explore"} · ${oneLine(own)} · ${n_layers} layers of ${n_heads} heads`;
  byId("model").title = oneLine(name, 300);
}

function blankQuestion() {
  return { instruction: "", answers: [], answer: null, off: [], scores: state.scores };
}
