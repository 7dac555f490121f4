// Layers × heads, and one head as its dual model.

import { boundOf } from "./bound.js";
import { bar, byId, el, oneLine, put, share, svg } from "./elements.js";
import { colour, largest, percent, plain, signed, wide } from "./numbers.js";
import { change, given, state } from "./state.js";

const LEAST_WEIGHT = 1e-4; // training pairs that are shown, beyond the first few
const FEW_PAIRS = 6;

let cells = [];

/** The map: one button for each head; arrow keys walk through it. */
export function renderMap(seen) {
  const chosen = byId("of").value;
  const maps = seen.sources.every((one) => one.by_layer_and_head?.length) ? seen.sources : [];
  put(
    byId("of"),
    el("option", { value: "all" }, "all demonstrations"),
    ...maps.map((one) => el("option", { value: one.index }, `#${one.index} ${oneLine(one.text, 30)}`)),
  );
  byId("of").value = [...byId("of").options].some((option) => option.value === chosen) ? chosen : "all";
  const rows = byId("of").value === "all" ? seen.by_layer_and_head : maps[Number(byId("of").value)].by_layer_and_head;
  byId("of").closest("label").hidden = !maps.length;
  if (!rows.length) {
    byId("map").removeAttribute("role");
    return put(byId("map"), el("p", { class: "note" }, "The map is of direct effects, which were not computed."));
  }
  const most = largest(rows.flat());
  cells = rows.map((row, layer) =>
    row.map((value, head) => {
      const cell = el("button", {
        type: "button",
        role: "gridcell",
        class: "cell",
        "aria-label": `layer ${layer}, head ${head}: ${signed(value)} nats`,
        title: `layer ${layer}, head ${head}: ${signed(value)}`,
        tabindex: "-1",
        onclick: () => choose(layer, head),
        onkeydown: (event) => walk(event, layer, head),
      });
      colour(cell, value, most);
      return cell;
    }),
  );
  const map = byId("map");
  map.style.setProperty("--columns", rows[0].length);
  map.classList.toggle("dense", rows[0].length > 16);
  put(
    map,
    el("div", { class: "row heading", "aria-hidden": "true" }, el("span"), ...rows[0].map((_, head) => el("span", {}, String(head)))),
    ...cells.map((row, layer) => el("div", { role: "row", class: "row" }, el("span", { class: "layer", "aria-hidden": "true" }, String(layer)), ...row)),
  );
  renderChosen();
}

function renderChosen() {
  const at = cells[state.layer]?.[state.head];
  cells.flat().forEach((cell) => {
    cell.setAttribute("aria-selected", cell === at);
    cell.tabIndex = -1;
  });
  (at ?? cells[0][0]).tabIndex = 0;
}

function choose(layer, head) {
  change("head", (now) => Object.assign(now, { layer, head }));
  renderChosen();
}

function walk(event, layer, head) {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  const next = step && cells[layer + step[0]]?.[head + step[1]];
  if (!next) return;
  event.preventDefault();
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

/** The head that moves the margin most, to begin with. */
export function strongest(seen) {
  let best = [0, 0];
  seen.by_layer_and_head.forEach((row, layer) =>
    row.forEach((value, head) => {
      if (Math.abs(value) > Math.abs(seen.by_layer_and_head[best[0]][best[1]])) best = [layer, head];
    }),
  );
  return best;
}

export function renderHeadProblem(sentence) {
  put(byId("head"), el("p", { class: "note" }, sentence));
}

/** One head as a model that is trained on the demonstrations. */
export function renderHead(view, answer) {
  const all = [...view.demonstrations, view.first, view.initial];
  const most = largest(all.map((one) => one.pull));
  const heaviest = largest(all.map((one) => one.weight));
  const reading = oneLine(answer.trim() || answer, 20);
  const row = (name, one, aligned) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, name),
      el("td", {}, el("span", { class: "number" }, percent(one.weight)), share(heaviest > 0 ? Math.max(0, one.weight) / heaviest : 0)),
      el("td", {}, el("span", { class: "number" }, signed(one.pull)), bar(one.pull, most)),
      el("td", { class: "number" }, aligned),
    );
  put(
    byId("head"),
    el("h3", {}, `Layer ${view.layer}, head ${view.head}: its dual model`),
    el(
      "p",
      { class: "note" },
      "What this head adds at the last token ",
      el("code", {}, oneLine(view.token, 20)),
      ` is the prediction of a model after one gradient step on ${view.demonstrations.length} demonstrations. Against the head's own output: ${plain(view.residual)} relative.`,
    ),
    el(
      "dl",
      { class: "facts" },
      fact("Loss", `${wide(view.loss_before)} → ${wide(view.loss_after)}`, "before and after the step; it has no minimum"),
      fact("Alignment", `${plain(view.alignment_before)} → ${plain(view.alignment_after)}`, "mean cosine of prediction and target"),
      fact("Collapse", `${plain(view.collapse_before)} → ${plain(view.collapse_after)}`, "1: all predictions point one way"),
      fact("Initialisation", percent(view.first.weight + view.initial.weight), `the weight outside the demonstrations: ${percent(view.first.weight)} on the first token, ${percent(view.initial.weight)} on the rest`),
    ),
    el(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Demonstrations in this head" },
      el(
        "table",
        { class: "list dual" },
        el(
          "thead",
          {},
          el("tr", {}, ...["trained on", "weight k/D", `direct effect on ${reading}`, "alignment"].map((name) => el("th", { scope: "col" }, name))),
        ),
        el(
          "tbody",
          {},
          ...view.demonstrations.map((one) =>
            row(
              el("span", {}, el("span", { class: "faint" }, `#${one.index} `), el("bdi", {}, oneLine(one.text, 42))),
              one,
              `${one.alignment_before.toFixed(2)} → ${one.alignment_after.toFixed(2)}`.replaceAll("-", "−"),
            ),
          ),
          row(el("span", {}, "the first token ", el("code", {}, oneLine(view.first.text, 12)), " (attention sink)"), view.first, ""),
          row("the rest of the prompt", view.initial, ""),
        ),
      ),
    ),
    el("h3", {}, "Trained one after another"),
    el("p", { class: "note" }, "‖ŷ − h′‖: how far the prediction is from the head's output, as the demonstrations are added in turn to the first token and the rest of the prompt."),
    trajectory(view),
    el("h3", {}, "Training pairs: key → target"),
    el("p", { class: "note" }, "The tokens with the largest weights. A target is read as what it adds to the answers' logits."),
    el("ul", { class: "pairs" }, ...view.pairs.filter((pair, i) => i < FEW_PAIRS || pair.weight >= LEAST_WEIGHT).map((pair) => pairItem(pair, view.readings))),
    ...boundOf(view.bound),
  );
}

function mean(values) {
  return values.length ? values.reduce((sum, one) => sum + one, 0) / values.length : 0;
}

function fact(name, value, hint) {
  return el("div", {}, el("dt", {}, name), el("dd", { class: "number" }, value), el("dd", { class: "hint" }, hint));
}

function pairItem(pair, readings) {
  const order = pair.pulls.map((value, i) => [value - mean(pair.pulls), i]).sort((a, b) => b[0] - a[0]);
  const [value, i] = order[0];
  return el(
    "li",
    {},
    el("code", {}, oneLine(pair.text, 24)),
    el("span", { class: "faint" }, ` #${pair.part} → `),
    el("bdi", {}, oneLine(readings[i].trim(), 16)),
    " ",
    el("span", { class: "number" }, signed(value)),
    el("span", { class: "faint number" }, ` · ${percent(pair.weight)}`),
  );
}

function trajectory(view) {
  const [width, height, left, top] = [420, 150, 44, 10];
  const values = view.trajectory;
  const most = Math.max(...values) || 1;
  const x = (i) => left + (i / Math.max(1, values.length - 1)) * (width - left - 12);
  const y = (value) => top + (1 - value / most) * (height - top - 26);
  const names = values.map((_, i) => (i === 0 ? "rest" : `#${i - 1}`));
  const every = Math.ceil(values.length / 12);
  return el(
    "figure",
    { class: "chart" },
    svg(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Distances: ${values.map((one, i) => `${names[i]} ${plain(one)}`).join(", ")}` },
      svg("path", { class: "rule", d: `M${left} ${y(0)}H${width - 8}M${left} ${y(most)}H${width - 8}` }),
      svg("text", { x: left - 6, y: y(0) + 4, "text-anchor": "end" }, "0"),
      svg("text", { x: left - 6, y: y(most) + 4, "text-anchor": "end" }, plain(most)),
      svg("path", { class: "line", d: values.map((one, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${y(one).toFixed(1)}`).join("") }),
      ...values.map((one, i) => svg("circle", { class: "dot", cx: x(i), cy: y(one), r: values.length > 40 ? 1.5 : 3.5 }, svg("title", {}, `after ${names[i]}: ${plain(one)}`))),
      ...names.map((name, i) => (i % every ? null : svg("text", { x: x(i), y: height - 6, "text-anchor": "middle" }, name))),
    ),
  );
}

export function startHeads(again) {
  byId("of").addEventListener("change", again);
  given.model.n_layers > 16 && byId("map").classList.add("tall");
}
