// The Lab view's sections, and what they say about themselves.

import { el } from "./elements.js";
import { short } from "./numbers.js";
import { isSaved } from "./state.js";
import { lab, labFacts } from "./labstate.js";
import { LAB_VARIANTS, labAnswerRows, labButton, labControls, labSwitch } from "./labcontrols.js";

/** Its sections; `acts` has what `labControls` needs, and the buttons' `add`, `draw(again)`, `bars(kind)`, `toggle(curve, shown)`, `copyLink`, `copyPython` and `save`. */
export function labSkeleton(acts) {
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
          labButton("Add a point", acts.add),
          labButton("New function", () => acts.draw(false)),
          labButton("Points as drawn", () => acts.draw(true)),
          labSwitch("bars", "Bars show", { pull: "pull", left_out: "left out" }, () => lab.bars, acts.bars),
        ),
        el("p", { class: "note", id: "lab-said", role: "status" }),
      ),
      el(
        "section",
        { class: "lab-side", "aria-labelledby": "lab-answers-title" },
        el("h2", { id: "lab-answers-title" }, "Predictions at the query"),
        el("table", { class: "list lab-answers" }, el("caption", { class: "unseen" }, "Predictions; the boxes show or hide the curves"), el("tbody", { id: "lab-answers" }, ...labAnswerRows(acts.toggle))),
        el("fieldset", { class: "lab-settings", disabled: isSaved }, el("legend", { class: "unseen" }, "Settings"), ...labControls(acts)),
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
      el("p", { class: "tools" }, labButton("Copy the link", acts.copyLink), labButton("Copy the Python", acts.copyPython, null), labButton("Save the page", acts.save)),
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
