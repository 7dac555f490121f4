// The Lab view's controls: what they are called, what they read from the state, and what they call when they are moved.

import { byId, el } from "./elements.js";
import { plain, short } from "./numbers.js";
import { lab, labAlpha, labFacts } from "./labstate.js";
import { LAB_CURVES } from "./labplot.js";

export const LAB_VARIANTS = {
  softmax: ["softmax", "Attention as usual."],
  regularized: ["regularised", "Every token's own value is subtracted in part from what it reads, as a penalty on the weights would."],
  augmented: ["augmented", "Values pass a small learned network before they are read, as augmented views of the same token."],
  negative: ["negative", "From what a token reads, the value of the token that it attends to least is subtracted in part."],
};

const labShown = []; // what brings every control to the state

/** The settings; `acts` has `changed()`, `count(n)` and `noise(σ)`. */
export function labControls(acts) {
  const f = labFacts;
  const set = (name) => (value) => ((lab[name] = value), acts.changed());
  const variants = Object.fromEntries(Object.entries(LAB_VARIANTS).map(([name, [label]]) => [name, label]));
  return [
    labSwitch("attention", "Attention", variants, () => lab.attention, set("attention")),
    el("p", { class: "hint", id: "lab-variant" }),
    labSlider("n", "Points", { min: 1, max: f.most_points, step: 1 }, () => lab.n, acts.count),
    labSlider("noise", "Noise σ", { min: 0, max: 0.6, step: 0.05 }, () => lab.noise, acts.noise),
    labSlider("alpha", "Ridge α", { min: -4, max: 2, step: 0.1 }, () => Math.log10(labAlpha()), (value) => set("alpha")(Number((10 ** value).toPrecision(3))), () => short(Number(labAlpha().toPrecision(2)))),
    el("label", { class: "lab-check" }, el("input", { type: "checkbox", id: "lab-bayes", onchange: (event) => set("alpha")(event.target.checked ? null : labAlpha()) }), " the best α for this noise, σ²/τ²"),
    labSlider("neighbours", "Neighbours k", { min: 1, max: 10, step: 1 }, () => lab.neighbours, set("neighbours")),
    labSlider("steps", "Gradient steps", { min: 0, max: 100, step: 1 }, () => lab.steps, set("steps")),
    labSlider("rate", "Learning rate", { min: 0.05, max: 1, step: 0.05 }, () => lab.rate, set("rate")),
    labSwitch("features", "Linear in", { waves: "waves", line: "a line" }, () => lab.features, set("features")),
  ];
}

function labSlider(name, label, range, read, write, said = () => String(read())) {
  const input = el("input", { type: "range", id: `lab-${name}`, ...range, oninput: () => write(Number(input.value)) });
  const output = el("output", { for: `lab-${name}`, class: "number" });
  labShown.push(() => {
    if (Number(input.value) !== read()) input.value = read();
    input.setAttribute("aria-valuetext", said());
    output.textContent = said();
  });
  return el("p", { class: "lab-slider" }, el("label", { for: `lab-${name}` }, label), input, output);
}

export function labSwitch(name, label, choices, read, write) {
  const inputs = Object.keys(choices).map((value) => el("input", { type: "radio", name: `lab-${name}`, value, onchange: () => write(value) }));
  labShown.push(() => inputs.forEach((input) => (input.checked = input.value === read())));
  return el("fieldset", { class: "switch", id: `lab-switch-${name}` }, el("legend", {}, label), ...inputs.map((input) => el("label", {}, input, el("span", {}, choices[input.value]))));
}

export function labButton(label, act, style = "editing") {
  return el("button", { type: "button", class: style, onclick: act }, label);
}

/** A row for every curve: its prediction, and a box that shows or hides it by `toggle(name, shown)`. */
export function labAnswerRows(toggle) {
  return Object.entries(LAB_CURVES).map(([name, label]) => {
    const box = el("input", { type: "checkbox", onchange: () => toggle(name, box.checked) });
    const value = el("td", { class: "number" });
    labShown.push((answer) => {
      box.checked = !lab.hidden.includes(name);
      value.textContent = answer ? plain(answer.answers[name]) : "…";
    });
    return el("tr", {}, el("th", { scope: "row" }, el("label", { class: "lab-check" }, box, el("span", { class: `lab-swatch lab-${name}` }), el("span", {}, label))), value);
  });
}

/** Brings controls to the state, and predictions to the last answer, or null before there is one. */
export function renderLabControls(answer) {
  for (const show of labShown) show(answer);
  byId("lab-variant").textContent = LAB_VARIANTS[lab.attention][1];
  byId("lab-bayes").checked = lab.alpha === null;
}
