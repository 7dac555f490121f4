// Editing the prompt: one row for each demonstration.

import { byId, el, oneLine, put } from "./elements.js";
import { colour, largest, plain, signed } from "./numbers.js";
import { nameOf, withUnit } from "./scores.js";
import { change, given, isSaved, state } from "./state.js";

const MORE = ["path", "knock_out"]; // scores that are offered beyond those that are computed anyway

const rows = [];
let unscored = false; // no scores have come since the rows were built

/** Builds the rows anew, after demonstrations were added, moved or deleted. */
export function renderEditor() {
  unscored = true;
  rows.length = 0;
  rows.push(...state.demonstrations.map(buildRow));
  put(byId("demonstrations"), ...rows.map((row) => row.item));
  byId("answers").closest(".field").hidden = isSaved && !state.answers.length;
  byId("query").value = state.query;
  byId("answers").value = state.answers.join(", ");
  byId("instruction").value = state.instruction;
  offerScores();
  renderSwitches();
}

/** Colours the rows by their scores and writes these beside them; null while they are not known.
 *
 * Stale ones, of the prompt as it was, are still shown while the text of a row changes, but not beside other rows. */
export function renderScores(newest, stale = false) {
  if (!stale) unscored = false;
  const scores = unscored ? null : newest;
  const most = scores === null ? 0 : largest(scores);
  byId("full").textContent = most > 0 ? `full colour: ${withUnit(plain(most), state.colour)}` : "";
  rows.forEach((row, i) => {
    const value = scores?.[i] ?? null;
    row.score.textContent = value === null ? "…" : signed(value);
    row.score.setAttribute("aria-label", `${nameOf(state.colour)} of demonstration ${i}`);
    row.item.classList.toggle("stale", stale);
    colour(row.item, value, most);
  });
}

function buildRow(one, i) {
  const name = `demonstration ${i}`;
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
    onkeydown: (event) => {
      const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (!event.altKey || !step) return;
      event.preventDefault();
      move(i, step, "text");
    },
  });
  text.value = one.text;
  const on = el("input", {
    type: "checkbox",
    "aria-label": `${name} is on`,
    title: "Switch off to see the answer without it",
    disabled: isSaved,
    onchange: () => {
      change("prompt", () => (one.on = on.checked));
      renderSwitches();
    },
  });
  const score = el("output", { class: "number score" }, "…");
  const button = (sign, label, act) =>
    el("button", { type: "button", class: "icon", title: label, "aria-label": `${label}: ${name}`, onclick: act }, sign);
  const flip = button("⇄", "Give it the next candidate answer", () => flipLabel(one, text));
  const buttons = {
    up: button("↑", "Move up (Alt ↑ in the text)", () => move(i, -1, "up")),
    down: button("↓", "Move down (Alt ↓ in the text)", () => move(i, 1, "down")),
    flip,
    remove: button("✕", "Delete", () => remove(i)),
  };
  buttons.up.disabled = i === 0;
  buttons.down.disabled = i === state.demonstrations.length - 1;
  const item = el(
    "li",
    { class: "demonstration" },
    el("label", { class: "number-of" }, on, el("span", {}, `#${i}`)),
    text,
    score,
    isSaved ? null : el("span", { class: "icons" }, ...Object.values(buttons)),
  );
  return { item, text, on, score, ...buttons };
}

function renderSwitches() {
  state.demonstrations.forEach((one, i) => {
    rows[i].on.checked = one.on;
    rows[i].item.classList.toggle("off", !one.on);
    rows[i].flip.disabled = labelOf(one.text) === null;
  });
  byId("everything").hidden = state.demonstrations.every((one) => one.on);
}

function restructure(edit, focus) {
  change("all", edit);
  focus?.();
}

function move(i, step, focused) {
  const to = i + step;
  if (to < 0 || to >= state.demonstrations.length) return;
  restructure(
    (now) => now.demonstrations.splice(to, 0, ...now.demonstrations.splice(i, 1)),
    () => {
      const target = rows[to][focused];
      (target.disabled ? rows[to].text : target).focus();
    },
  );
}

function remove(i) {
  restructure(
    (now) => now.demonstrations.splice(i, 1),
    () => (rows[Math.min(i, rows.length - 1)]?.remove ?? byId("add")).focus(),
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
    byId("more").before(...state.scores.map(choiceOf));
  }
  for (const radio of document.getElementsByName("colour")) radio.checked = radio.value === state.colour;
  byId("more").hidden = MORE.every((name) => state.scores.includes(name));
}

function choiceOf(name) {
  const choose = () => change("view", (now) => (now.colour = name));
  return el("label", {}, el("input", { type: "radio", name: "colour", value: name, onchange: choose }), el("span", {}, nameOf(name)));
}

/** Connects what lies around the rows. */
export function startEditor(example, takeOver) {
  byId("query").addEventListener("input", (event) => change("prompt", (now) => (now.query = event.target.value)));
  byId("instruction").addEventListener("input", (event) => change("prompt", (now) => (now.instruction = event.target.value)));
  byId("answers").addEventListener("input", (event) => {
    const answers = event.target.value.split(",").map((one) => one.trim()).filter(Boolean);
    change("prompt", (now) => {
      now.answers = answers;
      now.answer = null;
    });
    renderSwitches();
  });
  byId("add").addEventListener("click", () =>
    restructure(
      (now) => now.demonstrations.push({ text: now.demonstrations.at(-1)?.text ?? "", on: true }),
      () => {
        rows.at(-1).text.focus();
        rows.at(-1).text.select();
      },
    ),
  );
  byId("everything").addEventListener("click", () => {
    change("prompt", (now) => now.demonstrations.forEach((one) => (one.on = true)));
    renderSwitches();
  });
  byId("take").addEventListener("click", () => {
    const blocks = blocksOf(byId("whole").value.replaceAll("\r\n", "\n"));
    if (blocks.length < 2) {
      byId("whole").setCustomValidity("At least one demonstration, a blank line, and the query.");
      byId("whole").reportValidity();
      return;
    }
    restructure(() => takeOver({ ...blankQuestion(), demonstrations: blocks.slice(0, -1), query: blocks.at(-1) }));
  });
  byId("whole").addEventListener("input", () => byId("whole").setCustomValidity(""));
  byId("more").addEventListener("click", () => {
    change("prompt", (now) => (now.scores = [...new Set([...now.scores, ...MORE])]));
    offerScores();
    document.querySelector("#colour input:checked").focus();
  });
  byId("again").addEventListener("click", () => restructure(() => takeOver(example)));
  if (isSaved) for (const id of ["query", "answers"]) byId(id).readOnly = true;
  const { name, n_layers, n_heads } = given.model;
  byId("model").textContent = `iclens ${isSaved ? "explain" : "explore"} · ${oneLine(name)} · ${n_layers} layers of ${n_heads} heads`;
}

function blankQuestion() {
  return { instruction: "", answers: [], answer: null, off: [], scores: state.scores };
}
