// The query's representation from layer to layer, in two dimensions, and what each layer adds.

import { byId, el, oneLine, put, svg } from "./elements.js";
import { quantity } from "./names.js";
import { colour, largest, percent, signed } from "./numbers.js";

const [WIDTH, HEIGHT] = [520, 380];
const [SIDE, EDGE] = [64, 34];

export function renderLayers(view) {
  const shares = view.explained_variance.map(percent).join(" and ");
  put(
    byId("layers-note"),
    "Where the last token ",
    el("code", {}, oneLine(view.token, 20)),
    ` is after each layer (circles), read as if the model ended there, among the directions of the answers (diamonds). The two axes are the first principal components and carry ${shares} of the spread. Beside it, what each layer adds to the ${quantity()}: with ${signed(view.embedding + view.bias)} of embedding and biases the numbers sum to ${signed(view.margin)}.`,
  );
  put(byId("plot"), plot(view));
  put(byId("layers"), ...table(view));
}

export function renderLayersProblem(sentence) {
  byId("layers-note").textContent = sentence;
  put(byId("plot"));
  put(byId("layers"));
}

function plot(view) {
  const points = [...view.states, ...view.answers];
  const range = (values) => [Math.min(...values), Math.max(...values)];
  const [[x0, x1], [y0, y1]] = [range(points.map((one) => one.x)), range(points.map((one) => one.y))];
  const x = (one) => SIDE + ((one.x - x0) / (x1 - x0 || 1)) * (WIDTH - 2 * SIDE);
  const y = (one) => HEIGHT - EDGE - ((one.y - y0) / (y1 - y0 || 1)) * (HEIGHT - 2 * EDGE);
  const around = (size) => (one) => [x(one) - size, y(one) - size, x(one) + size, y(one) + size];
  const taken = [...view.states.map(around(11)), ...view.answers.map(around(6))];
  const short = view.states.map((_, i) => (i === 0 ? "E" : String(i - 1)));
  const said = (one) => one.probabilities.map((value, i) => `${view.answers[i].text.trim()} ${percent(value)}`).join(", ");
  return svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `The query from layer to layer. ${view.states.map((one) => `${one.name}: ${said(one)}`).join("; ")}` },
    svg("path", { class: "walk", d: view.states.map((one, i) => `${i ? "L" : "M"}${x(one).toFixed(1)} ${y(one).toFixed(1)}`).join("") }),
    ...view.answers.flatMap((one) => {
      const chosen = one.text.trim() === view.answer.trim() ? " chosen" : "";
      const [cx, cy] = [x(one), y(one)];
      const name = oneLine(one.text.trim() || one.text, 16);
      const at = freePlace(cx, cy, name.length * 7.6, taken);
      return [
        svg("path", { class: `answer-mark${chosen}`, d: `M${cx} ${cy - 6}l6 6l-6 6l-6 -6z` }),
        svg("text", { class: `answer-name${chosen}`, x: at.x, y: at.y, "text-anchor": at.anchor }, name),
      ];
    }),
    ...view.states.flatMap((one, i) => [
      svg("circle", { class: i === view.states.length - 1 ? "state last" : "state", cx: x(one), cy: y(one), r: 9 }, svg("title", {}, `${one.name}: ${said(one)}`)),
      svg("text", { class: "state-name", x: x(one), y: y(one) + 3.8, "text-anchor": "middle" }, short[i]),
    ]),
  );
}

/** Where a label of some width fits beside a point without covering what is there already. */
function freePlace(x, y, width, taken) {
  const places = [
    { x: x + 11, y: y + 4, anchor: "start", box: [x + 11, y - 9, x + 11 + width, y + 7] },
    { x: x - 11, y: y + 4, anchor: "end", box: [x - 11 - width, y - 9, x - 11, y + 7] },
    { x, y: y - 11, anchor: "middle", box: [x - width / 2, y - 25, x + width / 2, y - 9] },
    { x, y: y + 20, anchor: "middle", box: [x - width / 2, y + 8, x + width / 2, y + 24] },
  ];
  const covers = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
  const free = (place) =>
    place.box[0] > 0 && place.box[2] < WIDTH && place.box[1] > 0 && place.box[3] < HEIGHT && !taken.some((box) => covers(place.box, box));
  const best = places.find(free) ?? places[0];
  taken.push(best.box);
  return best;
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
