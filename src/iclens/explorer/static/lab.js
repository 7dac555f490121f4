// The Lab view: a regressor that learns from the points on a plot, beside estimators that do.

import { byId, el, put } from "./elements.js";
import { plain, short } from "./numbers.js";
import { ask, savedPage } from "./server.js";
import { given, isSaved } from "./state.js";
import { viewOf } from "./views.js";
import { LAB_CURVES, focusLabPoint, renderLabPlot, renderLabPoints, startLabPlot } from "./labplot.js";
import { renderLabFields, renderLabTable } from "./labpoints.js";
import { lab, labAlpha, labDrawn, labFacts, labFree, labFromHash, labHash, labQuestion, labRounded, labTakeOver } from "./labstate.js";

const LAB_VARIANTS = {
  softmax: ["softmax", "Attention as usual."],
  regularized: ["regularised", "Every token's own value is subtracted in part from what it reads, as a penalty on the weights would."],
  augmented: ["augmented", "Values pass a small learned network before they are read, as augmented views of the same token."],
  negative: ["negative", "From what a token reads, the value of the token that it attends to least is subtracted in part."],
};

let labAnswer = null;
let labWanted = false;
let labRunning = false;
let labDrawing = false;

const labEdited = {
  move(i, x, y) {
    Object.assign(lab.points[i], { x, y, from: null });
    labChanged();
  },
  type(i, name, value) {
    Object.assign(lab.points[i], { [name]: value, from: null });
    labChanged();
  },
  query(x) {
    lab.query = x;
    labChanged();
  },
  add(x, y) {
    if (!lab.points) return;
    if (lab.points.length >= labFacts.most_points) return labSay(`The model reads at most ${labFacts.most_points} points.`);
    lab.points.push({ x, y, from: null });
    labChanged();
    focusLabPoint(lab.points.length - 1);
  },
  remove(i) {
    if (lab.points.length === 1) return labSay("One point must stay: the model reads at least one.");
    lab.points.splice(i, 1);
    labChanged();
    labSay(`A point was removed: ${lab.points.length} are left.`);
  },
};

/** Shows the state at once, and asks for what follows from it. */
function labChanged() {
  if (labAnswer && lab.points) {
    lab.n = lab.points.length;
    renderLabPoints();
    renderLabFields();
  }
  renderLabControls();
  document.body.classList.remove("lab-settled");
  labRefresh();
}

/** One question at a time, and the last one always: so a drag is answered as fast as the server can. */
async function labRefresh() {
  labWanted = true;
  if (labRunning) return;
  labRunning = true;
  while (labWanted) {
    const drawing = labDrawing || lab.points === null;
    labWanted = labDrawing = false;
    const asked = labQuestion(drawing);
    try {
      const answer = isSaved ? given.lab_answer : await ask("lab", asked);
      labTake(answer, drawing);
    } catch (error) {
      labDrawing ||= drawing;
      labProblem(error.message);
    }
  }
  labRunning = false;
  history.replaceState(null, "", isSaved || viewOf(location.hash) !== "lab" ? location.href : labHash());
  document.body.classList.add("lab-settled");
}

function labTake(answer, drew) {
  labAnswer = answer;
  if (drew) lab.points = answer.settings.points.map(([x, y], i) => ({ x, y, from: i }));
  byId("lab-problem").hidden = true;
  byId("view-lab").classList.remove("stale");
  renderLabPlot(answer);
  renderLabTable(answer, labEdited);
  renderLabControls();
  byId("lab-python").textContent = answer.python;
}

/** A sentence above the plot; points and settings stay. */
function labProblem(sentence) {
  byId("lab-problem").hidden = false;
  byId("lab-problem").textContent = sentence;
  byId("view-lab").classList.add("stale");
}

function labSay(sentence) {
  byId("lab-said").textContent = sentence;
}

export function openLab() {
  if (isSaved) labTakeOver(given.lab_answer.settings);
  else labFromHash(location.hash);
  put(byId("view-lab"), ...labSkeleton());
  startLabPlot(byId("lab-figure"), labEdited);
  renderLabControls();
  labRefresh();
  window.addEventListener("hashchange", () => {
    if (isSaved || viewOf(location.hash) !== "lab") return;
    if (location.hash !== labHash() && labFromHash(location.hash)) labChanged();
    else if (labAnswer) history.replaceState(null, "", labHash());
  });
}

function labSkeleton() {
  return [
    el("header", {}, el("h1", {}, "Teach a regressor with points"), el("p", { class: "lead" }, "A small transformer was trained on many curves. Here it sees points of one that is new to it, changes no weight, and predicts. ", isSaved ? "This page is saved: to drag points, open it with iclens explore." : "Drag a point or the query, and watch its curve beside those of estimators that are known.")),
    el(
      "div",
      { class: "lab-desk" },
      el(
        "section",
        { class: "lab-stage", "aria-label": "Plot" },
        el("div", { id: "lab-problem", class: "problem", role: "alert", hidden: true }),
        el("figure", { id: "lab-figure" }),
        el("p", { class: "hint editing", id: "lab-keys" }, "Drag, or use Tab and the arrow keys (Shift for longer steps). Double-click adds a point, Delete removes one."),
        el(
          "p",
          { class: "tools" },
          labButton("Add a point", labAddAtQuery),
          labButton("New function", () => labDraw(lab.seed + 1)),
          labButton("Points as drawn", () => labDraw(lab.seed)),
          labSwitch("bars", "Bars show", { pull: "pull", left_out: "left out" }, () => (lab.bars === "pull" ? "pull" : "left_out"), (value) => ((lab.bars = value), labRedraw())),
        ),
        el("p", { class: "note", id: "lab-said", role: "status" }),
      ),
      el(
        "section",
        { class: "lab-side", "aria-labelledby": "lab-answers-title" },
        el("h2", { id: "lab-answers-title" }, "Predictions at the query"),
        el("table", { class: "list lab-answers" }, el("caption", { class: "unseen" }, "Predictions; the boxes show or hide the curves"), el("tbody", { id: "lab-answers" }, ...Object.entries(LAB_CURVES).map(labAnswerRow))),
        el("fieldset", { class: "lab-settings", disabled: isSaved }, el("legend", { class: "unseen" }, "Settings"), ...labControls()),
      ),
    ),
    el(
      "section",
      { "aria-labelledby": "lab-points-title" },
      el("h2", { id: "lab-points-title" }, "What each point does to the prediction"),
      el("p", { class: "note", id: "lab-sum" }),
      el(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": "Points" },
        el(
          "table",
          { class: "list lab-points-table" },
          el("thead", {}, el("tr", {}, ...["point", "x", "y", "pull", "left out"].map((name) => el("th", { scope: "col" }, name)), el("th", { scope: "col", class: "editing" }, el("span", { class: "unseen" }, "remove")))),
          el("tbody", { id: "lab-rows" }),
        ),
      ),
    ),
    el(
      "section",
      { "aria-labelledby": "lab-share-title" },
      el("h2", { id: "lab-share-title" }, "Take it with you"),
      el("p", { class: "tools" }, labButton("Copy the link", () => labCopy(location.href, "link")), el("button", { type: "button", onclick: () => labCopy(byId("lab-python").textContent, "Python") }, "Copy the Python"), labButton("Save the page", labSave)),
      el("details", {}, el("summary", {}, "The Python"), el("pre", {}, el("code", { id: "lab-python" }))),
    ),
    el("section", { "aria-labelledby": "lab-how-title" }, el("h2", { id: "lab-how-title" }, "How to read this page"), ...labHow()),
  ];
}

function labHow() {
  const waves = labFacts.frequencies.map((one) => `sin and cos of ${short(one)} x`).join(", ");
  const at = (variant, n) => labFacts.variants[variant].error[n];
  const said = (one) => `${one.mean.toFixed(3)} [${one.low.toFixed(3)}, ${one.high.toFixed(3)}]`;
  const counts = Object.keys(labFacts.ridge_error);
  return [
    el("p", {}, `The regressors are transformers of ${labFacts.variants.softmax.n_parameters.toLocaleString("en")} weights or a few more, one trained for each kind of attention. They were trained on functions that are sums of waves (${waves}, with random weights), on x from −1 to 1, with noise of ${labFacts.noise_std}, and with 1 to ${labFacts.most_points} points. What they do with other points, or with another noise, nothing has trained.`),
    el("p", {}, "On such functions no estimator is better than ", el("b", {}, "ridge"), " on the same waves with strength σ²/τ². Ridge, least squares and gradient descent are linear in the waves, or in 1 and x if you choose the line; k-NN averages the nearest points."),
    el("p", {}, "A point's ", el("b", {}, "pull"), " is its part in the prediction: every attention head is a model after one gradient step on the points, and the pull is the point's part of these steps over all layers and heads, as far as it reaches the prediction directly. Pulls and rest sum to the prediction. The model reads the points in the order of their numbers, and in its later layers a point's token also carries what it has read from the points before. ", el("b", {}, "Left out"), " is another question: how much higher the prediction is with the point than without it, when the model reads only the others."),
    el(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Measured errors" },
      el(
        "table",
        { class: "list lab-errors" },
        el("caption", {}, "Squared error on new functions, by number of points, with 95 % intervals; the noise alone is ", (labFacts.noise_std ** 2).toFixed(3)),
        el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "points"), ...Object.keys(LAB_VARIANTS).map((name) => el("th", { scope: "col", class: "number" }, LAB_VARIANTS[name][0])), el("th", { scope: "col", class: "number" }, "ridge"))),
        el("tbody", {}, ...counts.map((n) => el("tr", {}, el("th", { scope: "row" }, n), ...Object.keys(LAB_VARIANTS).map((name) => el("td", { class: "number" }, said(at(name, n)))), el("td", { class: "number" }, said(labFacts.ridge_error[n]))))),
      ),
    ),
  ];
}

function labControls() {
  const f = labFacts;
  return [
    labSwitch("attention", "Attention", Object.fromEntries(Object.entries(LAB_VARIANTS).map(([name, [label]]) => [name, label])), () => lab.attention, (value) => ((lab.attention = value), labChanged())),
    el("p", { class: "hint", id: "lab-variant" }),
    labSlider("n", "Points", { min: 1, max: f.most_points, step: 1 }, () => lab.points?.length ?? lab.n, labCount),
    labSlider("noise", "Noise σ", { min: 0, max: 0.6, step: 0.05 }, () => lab.noise, labNoise),
    labSlider("alpha", "Ridge α", { min: -4, max: 2, step: 0.1 }, () => Math.log10(labAlpha()), (value) => ((lab.alpha = Number((10 ** value).toPrecision(3))), labChanged()), () => short(Number(labAlpha().toPrecision(2)))),
    el("label", { class: "lab-check" }, el("input", { type: "checkbox", id: "lab-bayes", onchange: (event) => ((lab.alpha = event.target.checked ? null : labAlpha()), labChanged()) }), " the best α for this noise, σ²/τ²"),
    labSlider("neighbours", "Neighbours k", { min: 1, max: 10, step: 1 }, () => lab.neighbours, (value) => ((lab.neighbours = value), labChanged())),
    labSlider("steps", "Gradient steps", { min: 0, max: 100, step: 1 }, () => lab.steps, (value) => ((lab.steps = value), labChanged())),
    labSlider("rate", "Learning rate", { min: 0.05, max: 1, step: 0.05 }, () => lab.rate, (value) => ((lab.rate = value), labChanged())),
    labSwitch("features", "Linear in", { waves: "waves", line: "a line" }, () => lab.features, (value) => ((lab.features = value), labChanged())),
  ];
}

const labShown = []; // what brings every control to the state

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

function labSwitch(name, label, choices, read, write) {
  const inputs = Object.keys(choices).map((value) => el("input", { type: "radio", name: `lab-${name}`, value, onchange: () => write(value) }));
  labShown.push(() => inputs.forEach((input) => (input.checked = input.value === read())));
  return el("fieldset", { class: "switch", id: `lab-switch-${name}` }, el("legend", {}, label), ...inputs.map((input) => el("label", {}, input, el("span", {}, choices[input.value]))));
}

function labAnswerRow([name, label]) {
  const box = el("input", { type: "checkbox", onchange: () => labToggle(name, box.checked) });
  const value = el("td", { class: "number" });
  labShown.push(() => {
    box.checked = !lab.hidden.includes(name);
    value.textContent = labAnswer ? plain(labAnswer.answers[name]) : "…";
  });
  return el("tr", {}, el("th", { scope: "row" }, el("label", { class: "lab-check" }, box, el("span", { class: `lab-swatch lab-${name}` }), el("span", {}, label))), value);
}

function labButton(label, act) {
  return el("button", { type: "button", class: "editing", onclick: act }, label);
}

/** Brings controls and numbers to the state. */
function renderLabControls() {
  for (const show of labShown) show();
  byId("lab-variant").textContent = LAB_VARIANTS[lab.attention][1];
  byId("lab-bayes").checked = lab.alpha === null;
}

function labToggle(name, shown) {
  lab.hidden = shown ? lab.hidden.filter((one) => one !== name) : [...lab.hidden, name];
  labRedraw();
}

function labRedraw() {
  if (labAnswer) renderLabPlot(labAnswer);
  if (!isSaved) history.replaceState(null, "", labHash());
}

/** More points are drawn from the same function; fewer leave the last ones out. */
function labCount(count) {
  lab.n = count;
  if (lab.points && labAnswer) {
    lab.points.length = Math.min(lab.points.length, count);
    for (const i of labFree(labAnswer.drawn, count - lab.points.length)) lab.points.push(labDrawn(labAnswer.drawn, i));
  }
  labChanged();
}

/** Points that were drawn keep their noise, times the new σ; those that were moved stay. */
function labNoise(noise) {
  lab.noise = noise;
  lab.points?.forEach((one, i) => {
    if (one.from !== null) lab.points[i] = labDrawn(labAnswer.drawn, one.from);
  });
  labChanged();
}

/** Draws points of a function, as many as there are; those on the plot stay until the new ones are there. */
function labDraw(seed) {
  lab.seed = seed;
  labDrawing = true;
  labChanged();
}

function labAddAtQuery() {
  labEdited.add(lab.query, labRounded(Math.max(-labFacts.largest_y, Math.min(labFacts.largest_y, labAnswer?.answers.model ?? 0))));
}

async function labCopy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    labSay(`The ${what} is copied.`);
  } catch {
    labSay(what === "link" ? "The browser does not allow copying: take the address above." : "The browser does not allow copying: select the text below.");
  }
}

async function labSave() {
  try {
    const url = URL.createObjectURL(await savedPage(labQuestion(), "lab-save"));
    const link = document.createElement("a");
    link.href = url;
    link.download = "iclens-lab.html";
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
    labSay("The page is saved.");
  } catch (error) {
    labSay(error.message);
  }
}
