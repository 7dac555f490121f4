// Layers × heads, and one head as its dual model.

import { boundOf } from "./bound.js";
import { bar, byId, el, oneLine, put, share, svg } from "./elements.js";
import { walk } from "./grid.js";
import { called, noun, nouns, quantity, shortName } from "./names.js";
import { colour, largest, percent, plain, signed, wide } from "./numbers.js";
import { BY_HEAD, beside, fullNameOf, mapOf, nameOf, withUnit } from "./scores.js";
import { change, given, state } from "./state.js";

const LEAST_WEIGHT = 1e-4; // training pairs that are shown, beyond the first few
const FEW_PAIRS = 6;
const MOST_READABLE = 1e6;

let cells = [];
let shown = null; // the map of all sources that is shown
let isUnfolded = false; // the head as a trained model

/** The sources of which there may be a map of their own. */
export function renderMapChoice(seen) {
  const chosen = byId("of").value;
  put(
    byId("of"),
    el("option", { value: "all" }, `all ${nouns()}`),
    ...seen.sources.map((one) => el("option", { value: one.index }, `${shortName(one)} ${oneLine(one.text, 30)}`)),
  );
  byId("of").value = [...byId("of").options].some((option) => option.value === chosen) ? chosen : "all";
}

/** The map of the chosen score, or of one that stands in where that has none; one button for each head. */
export function renderMap(seen, explanation, score) {
  const found = foundMap(seen, explanation, score);
  const { single } = found;
  const rows = byId("of").value === "all" || !single.length ? found.rows : single[Number(byId("of").value)];
  shown = found.rows;
  // It stays where it is while a map is computed.
  if (rows !== null || found.name === null) byId("of").closest("label").hidden = !single.length;
  byId("map-note").textContent = mapNote(found, score);
  byId("map").closest(".map-frame").hidden = byId("map-scale").hidden = found.name === null;
  if (found.name === null) return;
  byId("map").setAttribute("aria-label", `${nameOf(found.name)} by layer and head`);
  if (!cells.length) buildMap(given.model.n_layers, given.model.n_heads);
  const most = rows === null ? 0 : largest(rows.flat());
  byId("map-full").textContent = most > 0 ? `full colour: ${withUnit(plain(most), found.name)}` : "";
  cells.forEach((row, layer) =>
    row.forEach((cell, head) => {
      const value = rows?.[layer][head] ?? null;
      const said = `layer ${layer}, head ${head}: ${rows === null ? "…" : signed(value)}`;
      cell.title = said;
      cell.setAttribute("aria-label", rows === null ? said : withUnit(said, found.name));
      colour(cell, value, most);
    }),
  );
  renderChosen();
}

/** Which score has a map: its name (null for none), its rows (null while they are computed), those of single sources. */
function foundMap(seen, explanation, score) {
  const { sources } = explanation ?? seen;
  const wanted = beside(score);
  for (const name of [wanted, ...BY_HEAD]) {
    const maps = sources.map((one) => mapOf(one, name));
    const single = maps.every(Boolean) ? maps : [];
    const rows = mapOf(seen, name) ?? (single.length ? sum(single) : null);
    const isPending = explanation === null && name === wanted && BY_HEAD.includes(name);
    if (rows || isPending) return { name, rows, single };
  }
  return { name: null, rows: null, single: [] };
}

function sum(maps) {
  return maps[0].map((row, layer) => row.map((_, head) => maps.reduce((all, one) => all + one[layer][head], 0)));
}

function mapNote({ name, rows }, score) {
  if (name === null) return `No map: neither ${nameOf(score)} nor another score that was computed is known for each head.`;
  const own = name === score ? "The" : `Of the ${nameOf(score)} there is no map by heads; this is the`;
  return `${own} ${nouns()}’ ${fullNameOf(name)} through each head${rows === null ? ": …" : "."}`;
}

/** One button for each head; arrow keys walk through them. */
function buildMap(layers, heads) {
  const buttonOf = (layer, head) =>
    el("button", {
      type: "button",
      role: "gridcell",
      class: "cell",
      tabindex: "-1",
      onclick: () => choose(layer, head),
      onkeydown: (event) => walk(event, cells, layer, head),
    });
  const upTo = (n) => [...Array(n).keys()];
  cells = upTo(layers).map((layer) => upTo(heads).map((head) => buttonOf(layer, head)));
  const map = byId("map");
  map.style.setProperty("--columns", heads);
  map.style.setProperty("--rows", layers);
  map.classList.toggle("dense", heads > 16 || layers > 16);
  put(
    map,
    el("div", { class: "row heading", "aria-hidden": "true" }, el("span"), ...upTo(heads).map((head) => el("span", {}, String(head)))),
    ...cells.map((row, layer) => el("div", { role: "row", class: "row" }, el("span", { class: "layer", "aria-hidden": "true" }, String(layer)), ...row)),
  );
}

function renderChosen() {
  const at = cells[state.layer]?.[state.head];
  const reached = at ?? cells.flat().find((cell) => cell === document.activeElement) ?? cells[0][0];
  cells.flat().forEach((cell) => {
    cell.setAttribute("aria-selected", cell === at);
    cell.tabIndex = cell === reached ? 0 : -1;
  });
}

function choose(layer, head) {
  change("head", (now) => Object.assign(now, { layer, head }));
  renderChosen();
}

/** The head with the largest number of the map, to begin with. */
export function strongest() {
  let best = [0, 0];
  shown?.forEach((row, layer) =>
    row.forEach((value, head) => {
      if (Math.abs(value) > Math.abs(shown[best[0]][best[1]])) best = [layer, head];
    }),
  );
  return best;
}

export function renderHeadProblem(sentence) {
  put(byId("head"), el("p", { class: "note" }, sentence));
}

/** One head as a model that is trained on the sources. */
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
    el("h3", {}, `Layer ${view.layer}, head ${view.head}`),
    el(
      "p",
      { class: "note" },
      "Where this head looks from the last token ",
      el("code", {}, oneLine(view.token, 20)),
      `, and what each part adds to the ${quantity()} through it.`,
    ),
    el(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": `The ${nouns()} in this head` },
      el(
        "table",
        { class: "list dual" },
        el(
          "thead",
          {},
          el("tr", {}, ...["part", "weight", `direct effect on ${reading}`, "alignment"].map((name) => el("th", { scope: "col" }, name))),
        ),
        el(
          "tbody",
          {},
          ...view.demonstrations.map((one) =>
            row(
              el("span", {}, el("span", { class: "faint" }, `${called(one.index)} `), el("bdi", {}, oneLine(one.text, 42))),
              one,
              `${one.alignment_before.toFixed(2)} → ${one.alignment_after.toFixed(2)}`.replaceAll("-", "−"),
            ),
          ),
          row(el("span", {}, "the first token ", el("code", {}, oneLine(view.first.text, 12)), " (attention sink)"), view.first, ""),
          row("the rest of the prompt", view.initial, ""),
        ),
      ),
    ),
    theory(view),
  );
}

/** The head as a model that is trained on the sources: for those who ask. */
function theory(view) {
  return el(
    "details",
    { class: "theory", open: isUnfolded, ontoggle: (event) => (isUnfolded = event.target.open) },
    el("summary", {}, "As a trained model: loss, alignment, training pairs, the bound"),
    el(
      "p",
      { class: "note" },
      `What this head adds is the prediction of a model after one gradient step on ${view.demonstrations.length} ${view.demonstrations.length === 1 ? noun() : nouns()}. Against the head's own output: ${plain(view.residual)} relative.`,
    ),
    el(
      "dl",
      { class: "facts" },
      isReadable(view.loss_before) && isReadable(view.loss_after) ? fact("Loss", `${wide(view.loss_before)} → ${wide(view.loss_after)}`, "before and after the step; it has no minimum") : null,
      fact("Alignment", `${plain(view.alignment_before)} → ${plain(view.alignment_after)}`, "mean cosine of prediction and target"),
      fact("Collapse", `${plain(view.collapse_before)} → ${plain(view.collapse_after)}`, "1: all predictions point one way"),
      fact("Initialisation", percent(view.first.weight + view.initial.weight), `the weight outside the ${nouns()}: ${percent(view.first.weight)} on the first token, ${percent(view.initial.weight)} on the rest`),
    ),
    el("h3", {}, "Trained one after another"),
    el("p", { class: "note" }, `‖ŷ − h′‖: how far the prediction is from the head's output, as the ${nouns()} are added in turn to the first token and the rest of the prompt.`),
    trajectory(view),
    el("h3", {}, "Training pairs: key → target"),
    el("p", { class: "note" }, "The tokens with the largest weights. A target is read as what it adds to the answers' logits."),
    el("ul", { class: "pairs" }, ...view.pairs.filter((pair, i) => i < FEW_PAIRS || pair.weight >= LEAST_WEIGHT).map((pair) => pairItem(pair, view.readings))),
    ...boundOf(view.bound),
  );
}

/** Whether a number says something to a reader: losses of real heads may be of any size. */
function isReadable(number) {
  return number.value !== null && Math.abs(number.value) < MOST_READABLE;
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
    el("span", { class: "faint" }, ` ${called(pair.part)} → `),
    el("bdi", {}, oneLine(readings[i].trim(), 16)),
    " ",
    el("span", { class: "number" }, signed(value)),
    el("span", { class: "faint number" }, ` · ${percent(pair.weight)}`),
  );
}

function trajectory(view) {
  const [width, height, left, top] = [420, 150, 56, 10];
  const values = view.trajectory;
  const most = Math.max(...values) || 1;
  const x = (i) => left + (i / Math.max(1, values.length - 1)) * (width - left - 12);
  const y = (value) => top + (1 - value / most) * (height - top - 26);
  const names = values.map((_, i) => (i === 0 ? "rest" : called(i - 1)));
  const widest = Math.max(...names.map((name) => name.length)) * 7 + 12;
  const every = Math.ceil(values.length / Math.min(12, Math.max(1, (width - left) / widest)));
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
}
