// What theory promises about new tokens for a head's dual model, and the gap that it bounds.

import { el } from "./elements.js";
import { nouns } from "./names.js";
import { plain, short, wide } from "./numbers.js";

const FORMS = {
  printed: ["as printed", "with the factor d_o; the constants are of our derivation"],
  frobenius: ["Frobenius", "the ball of ‖W‖_F, without d_o (derived by us)"],
  spectral: ["spectral", "the ball of ‖W‖₂, with √d_o (derived by us)"],
};

const INGREDIENTS = {
  w_frobenius: "w = ‖Ŵ‖_F",
  w_spectral: "w = ‖Ŵ‖₂",
  rho_values: "ρ, largest ‖v‖",
  rho_predictions: "ρ, largest ‖Ŵφ(k)‖",
  trace: "Tr K_S",
  radius: "B, largest ‖v‖√k(k, k)",
  loss: "L̂, the loss in training",
  loss_range: "range of the loss",
};

const VERDICTS = [
  "None of the three forms is vacuous here.",
  "One of the three forms is vacuous here.",
  "Two of the three forms are vacuous here.",
  "All three forms are vacuous here: they say nothing.",
];

/** The part of a head's view that is about Theorem 3.2. */
export function boundOf(bound) {
  const title = el("h3", {}, "The bound");
  if (bound.problem) return [title, el("p", { class: "note" }, `There is no bound for this head: ${bound.problem}`)];
  const verdict = VERDICTS[bound.forms.filter((form) => form.vacuous).length];
  const sure = `${(100 * (1 - bound.delta)).toFixed(0)} %`;
  return [
    title,
    el(
      "p",
      { class: "note" },
      `Theorem 3.2 of Ren & Liu (2024) bounds how much more loss the trained weights have on new tokens than on the ${bound.n_tokens} tokens of the ${nouns()}: L − L̂, with ${sure} probability, if the tokens were drawn independently, which those of a prompt are not quite. In units of the range of the loss on these tokens, so that 1 or more says nothing. `,
      el("b", {}, verdict),
    ),
    el(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "The bound in three forms" },
      el(
        "table",
        { class: "list bound" },
        el("thead", {}, el("tr", {}, ...["form", "complexity", "confidence", "L − L̂ at most", ""].map((name, i) => el("th", { scope: "col", class: i && i < 4 ? "number" : null }, name)))),
        el(
          "tbody",
          {},
          ...bound.forms.map((form) =>
            el(
              "tr",
              {},
              el("th", { scope: "row", title: FORMS[form.name][1] }, FORMS[form.name][0]),
              ...["complexity", "confidence", "gap"].map((part) => el("td", { class: "number" }, ratio(form[part]))),
              el("td", { class: form.vacuous ? "broken" : "faint" }, form.vacuous ? "vacuous" : "says something"),
            ),
          ),
        ),
      ),
    ),
    el("p", { class: "note" }, measured(bound.measured)),
    el(
      "details",
      {},
      el("summary", {}, "What it is made of"),
      el(
        "dl",
        { class: "facts" },
        ingredient(`N, tokens of ${nouns()}`, String(bound.n_tokens)),
        ingredient("d_o, width of the values", String(bound.d_o)),
        ingredient("δ", short(bound.delta)),
        ...Object.entries(INGREDIENTS).map(([name, said]) => ingredient(said, wide(bound.ingredients[name]))),
      ),
    ),
  ];
}

function measured(found) {
  if (found === null) return `The gap is not measured here: that needs at least two ${nouns()}, to train on one and judge on the other, and a prompt that is not too long.`;
  return (
    `Measured: trained on ${found.n_demonstrations} of the ${nouns()} and judged on the other ${found.n_held_out}, ${found.n_resamples} times, L − L̂ has the median ${plain(found.median)} ` +
    `(5 % to 95 %: ${plain(found.low)} to ${plain(found.high)}). For so few ${nouns()} the Frobenius form allows ${plain(found.bound)}, and it held in ${(100 * found.coverage).toFixed(0)} % of them.`
  );
}

/** A ratio for reading: large ones, which say nothing, by their size alone. */
function ratio(number) {
  return number.value !== null && Math.abs(number.value) < 1000 ? number.value.toFixed(2) : wide(number);
}

function ingredient(name, value) {
  return el("div", {}, el("dt", {}, name), el("dd", { class: "number" }, value));
}
