// What the layers make of the query: the explained number as it builds up from layer to layer, and what each layer adds.

import { lineChart, rangeOf } from "./chart.js";
import { byId, el, oneLine, put } from "./elements.js";
import { quantity } from "./names.js";
import { colour, largest, percent, signed } from "./numbers.js";

const [WIDTH, NARROW, HEIGHT] = [760, 400, 240];

export function renderLayers(view) {
  put(
    byId("layers-note"),
    `The ${quantity()} at the last token `,
    el("code", {}, oneLine(view.token, 20)),
    ` as it builds up: after each layer, the sum of what this one and those before it add, from ${signed(view.embedding + view.bias)} of embedding and biases to ${signed(view.margin)}.`,
  );
  const line = { name: quantity(), index: 0, x: view.margins.map((_, i) => i), y: view.margins };
  const yRange = rangeOf([...view.margins, 0], false);
  put(byId("plot"), lineChart([line], { width: window.innerWidth < WIDTH ? NARROW : WIDTH, height: HEIGHT, log: false, xName: "layers passed", yName: `${quantity()}, nats`, yRange }));
  byId("layers-fold").hidden = false;
  put(byId("layers"), ...table(view));
}

export function renderLayersProblem(sentence) {
  byId("layers-note").textContent = sentence;
  byId("layers-fold").hidden = true;
  put(byId("plot"));
  put(byId("layers"));
}

function table(view) {
  const most = largest(view.layers.flatMap((one) => [one.gradient_step, one.first, one.initial, one.mlp]));
  const number = (value) => {
    const cell = el("td", { class: "number" }, signed(value));
    colour(cell, value, most);
    return cell;
  };
  const names = view.answers.map((one) => oneLine(one.text.trim() || one.text, 12));
  const heading = ["", "direct effect", "first token", "rest and biases", "MLP"];
  return [
    el("caption", { class: "unseen" }, `What each layer adds to the ${quantity()}, and what the model would say after it`),
    el(
      "thead",
      {},
      el("tr", {}, ...heading.map((name) => el("th", { scope: "col", class: "number" }, name)), ...names.map((name) => el("th", { scope: "col", class: "number" }, el("bdi", {}, name)))),
    ),
    el(
      "tbody",
      {},
      ...view.states.map((one, i) => {
        const added = i === 0 ? null : view.layers[i - 1];
        return el(
          "tr",
          {},
          el("th", { scope: "row" }, one.name),
          ...(added ? [added.gradient_step, added.first, added.initial, added.mlp].map(number) : [el("td"), el("td"), el("td"), el("td")]),
          ...one.probabilities.map((value) => el("td", { class: "number" }, percent(value))),
        );
      }),
    ),
  ];
}
