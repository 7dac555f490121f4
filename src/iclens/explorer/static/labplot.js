// The plot of the Lab view: curves, points and a query that can be moved, and the points' pulls below.

import { put, svg } from "./elements.js";
import { largest, plain, short, signed } from "./numbers.js";
import { isSaved } from "./state.js";
import { lab, labFacts, labRounded } from "./labstate.js";

export const LAB_CURVES = {
  model: "the model",
  ridge: "ridge",
  least_squares: "least squares",
  nearest_neighbours: "k-NN",
  gradient_descent: "gradient descent",
  function: "the function drawn from",
};

const LAB_PAD = { left: 34, right: 14, top: 12, gap: 50, strip: 84, bottom: 24 };
const LAB_LEAST = 0.03; // points that do less than this share of what the strongest does stay without colour
const [LAB_STEP_X, LAB_STEP_Y, LAB_LEAP] = [0.02, 0.05, 5];

let labSize = { width: 640, height: 520 };
let labEdits = null;
let labLayers = null;
let labPlotted = null;

const labX = (x) => LAB_PAD.left + ((x + 1) / 2) * (labSize.width - LAB_PAD.left - LAB_PAD.right);
const labFloor = () => labSize.height - LAB_PAD.gap - LAB_PAD.strip - LAB_PAD.bottom;
const labY = (y) => LAB_PAD.top + (1 - (y / labFacts.largest_y + 1) / 2) * (labFloor() - LAB_PAD.top);
const labStripZero = () => labSize.height - LAB_PAD.bottom - LAB_PAD.strip / 2;
const labClamp = (value, most) => labRounded(Math.max(-most, Math.min(most, value)));

/** Makes the plot once; `edits` has `move(i, x, y)`, `query(x)`, `add(x, y)` and `remove(i)`. */
export function startLabPlot(figure, edits) {
  labEdits = edits;
  const layer = (name) => svg("g", { class: `lab-${name}` });
  labLayers = { axes: layer("axes"), curves: layer("curves"), pulls: layer("pulls"), query: labQueryHandle(), points: layer("points") };
  labLayers.clip = svg("rect", {});
  const drawing = svg(
    "svg",
    { class: "lab-drawing", role: "group", "aria-label": "Points, query and curves", ondblclick: labDoubleClick },
    svg("clipPath", { id: "lab-clip" }, labLayers.clip),
    labLayers.axes,
    labLayers.curves,
    labLayers.pulls,
    labLayers.query,
    labLayers.points,
  );
  labLayers.curves.setAttribute("clip-path", "url(#lab-clip)");
  labLayers.drawing = drawing;
  put(figure, drawing);
  new ResizeObserver(() => {
    const width = Math.round(figure.clientWidth);
    if (width > 0 && width !== labSize.width) {
      labSize = { width, height: Math.round(Math.max(430, Math.min(620, width * 0.82))) };
      renderLabPlot(labPlotted);
    }
  }).observe(figure);
}

/** Draws an answer, or null before there is one; points and query as they stand in the state, which may be ahead of it. */
export function renderLabPlot(answer) {
  labPlotted = answer;
  const { width, height } = labSize;
  labLayers.drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
  for (const [name, value] of Object.entries({ x: LAB_PAD.left, y: LAB_PAD.top, width: width - LAB_PAD.left - LAB_PAD.right, height: labFloor() - LAB_PAD.top })) {
    labLayers.clip.setAttribute(name, value);
  }
  put(labLayers.axes, ...labAxes());
  put(labLayers.curves, ...(answer ? labCurves(answer) : []));
  put(labLayers.pulls, ...(answer ? labBars(answer) : []));
  renderLabPoints();
}

function labAxes() {
  const [left, right, top, floor] = [LAB_PAD.left, labSize.width - LAB_PAD.right, LAB_PAD.top, labFloor()];
  const text = (x, y, words, anchor = "middle") => svg("text", { x, y, "text-anchor": anchor }, words);
  return [
    ...[-3, -2, -1, 0, 1, 2, 3].flatMap((y) => [svg("path", { class: y ? "rule" : "rule zero", d: `M${left} ${labY(y)}H${right}` }), text(left - 8, labY(y) + 4, short(y), "end")]),
    ...[-1, -0.5, 0, 0.5, 1].flatMap((x) => [svg("path", { class: "rule", d: `M${labX(x)} ${top}V${floor}` }), text(labX(x), floor + 17, short(x))]),
    text(left + 6, top + 14, "y", "start"),
    text(right - 4, floor - 7, "x", "end"),
  ];
}

function labCurves(answer) {
  return Object.keys(LAB_CURVES)
    .filter((name) => !lab.hidden.includes(name))
    .reverse()
    .map((name) => {
      // Far outside the plot a curve is cut before the browser's coordinates are.
      const y = (value) => labY(Math.max(-50, Math.min(50, value)));
      const d = answer.curves[name].map((value, i) => `${i ? "L" : "M"}${labX(answer.grid[i]).toFixed(1)} ${y(value).toFixed(1)}`).join("");
      return svg("path", { class: `lab-curve lab-${name}`, d });
    });
}

/** Bars of every point's part in the answer, upwards when it raises the answer. */
function labBars(answer) {
  const [left, right, zero, half] = [LAB_PAD.left, labSize.width - LAB_PAD.right, labStripZero(), LAB_PAD.strip / 2 - 4];
  const values = answer.points.map((one) => one[lab.bars]);
  const most = Math.max(1e-9, ...values.map(Math.abs));
  const words = lab.bars === "pull" ? "pull of each point" : "change by each point";
  return [
    svg("text", { x: left, y: zero - half - 8 }, words),
    svg("text", { x: right, y: zero - half - 8, "text-anchor": "end" }, `tallest ${signed(values.find((one) => Math.abs(one) === most) ?? 0)}`),
    svg("path", { class: "rule zero", d: `M${left} ${zero}H${right}` }),
    ...answer.points.map((one, i) => {
      const size = (Math.abs(values[i]) / most) * half;
      const side = values[i] < 0 ? "against" : "for";
      return svg("rect", { class: `lab-bar ${side}`, x: labX(one.x) - 3, width: 6, y: values[i] < 0 ? zero : zero - size, height: Math.max(size, 0.75) }, svg("title", {}, `point ${i}: ${signed(values[i])}`));
    }),
  ];
}

/** Points and query where the state has them. */
export function renderLabPoints() {
  const group = labLayers.points;
  if (!lab.points) return renderLabQuery();
  const focused = [...group.children].indexOf(document.activeElement);
  while (group.childElementCount > lab.points.length) group.lastElementChild.remove();
  while (group.childElementCount < lab.points.length) group.append(labPointHandle());
  if (focused >= lab.points.length) (group.lastElementChild ?? labLayers.query).focus();
  const least = LAB_LEAST * largest(labPlotted?.points.map((one) => one[lab.bars]) ?? []);
  lab.points.forEach((one, i) => {
    const node = group.children[i];
    const drawn = Number.isFinite(one.x) && Number.isFinite(one.y);
    node.classList.toggle("lab-nowhere", !drawn);
    if (!drawn) return;
    const known = labPlotted?.points.length === lab.points.length ? labPlotted.points[i] : null;
    node.setAttribute("transform", `translate(${labX(one.x).toFixed(1)} ${labY(one.y).toFixed(1)})`);
    node.classList.toggle("for", known !== null && known[lab.bars] > least);
    node.classList.toggle("against", known !== null && known[lab.bars] < -least);
    const pull = known ? `, pull ${signed(known.pull)}` : "";
    node.setAttribute("aria-label", `Point ${i}: x ${short(one.x)}, y ${short(one.y)}${pull}`);
    node.querySelector("title").textContent = `point ${i} (${short(one.x)}, ${short(one.y)})${pull}`;
  });
  renderLabQuery();
}

function renderLabQuery() {
  const handle = labLayers.query;
  const floor = labFloor();
  handle.setAttribute("transform", `translate(${labX(lab.query).toFixed(1)} 0)`);
  handle.setAttribute("aria-valuenow", lab.query);
  const prediction = labPlotted?.answers.model;
  handle.setAttribute("aria-valuetext", `x ${short(lab.query)}${prediction === undefined ? "" : `, the model predicts ${plain(prediction)}`}`);
  const [line, reach, knob, dot] = handle.children;
  line.setAttribute("d", `M0 ${LAB_PAD.top}V${labStripZero() + LAB_PAD.strip / 2}`);
  for (const [name, value] of Object.entries({ x: -14, width: 28, y: LAB_PAD.top, height: floor - LAB_PAD.top + 26 })) reach.setAttribute(name, value);
  knob.setAttribute("d", `M0 ${floor - 1}l9 13v9h-18v-9z`);
  dot.setAttribute("visibility", prediction === undefined ? "hidden" : "visible");
  dot.setAttribute("cy", labY(Math.max(-4, Math.min(4, prediction ?? 0))));
}

function labQueryHandle() {
  return svg(
    "g",
    {
      class: "lab-query",
      role: "slider",
      tabindex: isSaved ? null : "0",
      "aria-label": "Query",
      "aria-valuemin": -1,
      "aria-valuemax": 1,
      "aria-valuenow": 0,
      "aria-disabled": isSaved ? "true" : null,
      ontouchstart: labNoScroll,
      onpointerdown: (event) => labGrab(event, (x) => labEdits.query(labClamp(x, 1))),
      onkeydown: labQueryKey,
    },
    svg("path", { class: "lab-query-line" }),
    svg("rect", { class: "lab-reach" }),
    svg("path", { class: "lab-knob" }),
    svg("circle", { class: "lab-prediction", r: 5 }),
  );
}

function labPointHandle() {
  const place = (event) => [...labLayers.points.children].indexOf(event.currentTarget);
  return svg(
    "g",
    {
      class: "lab-point",
      role: isSaved ? "img" : "button",
      tabindex: isSaved ? null : "0",
      "aria-roledescription": isSaved ? null : "point that can be moved",
      "aria-describedby": isSaved ? null : "lab-keys",
      ontouchstart: labNoScroll,
      onpointerdown: (event) => {
        const i = place(event);
        labGrab(event, (x, y) => labEdits.move(i, labClamp(x, 1), labClamp(y, labFacts.largest_y)));
      },
      onkeydown: (event) => labPointKey(event, place(event)),
    },
    svg("circle", { class: "lab-reach", r: 15 }),
    svg("circle", { class: "lab-mark", r: 6 }),
    svg("title", {}),
  );
}

/** Follows a pointer that went down on a handle, keeping the distance between the two. */
function labGrab(event, follow) {
  if (isSaved || event.button > 0) return;
  const node = event.currentTarget;
  event.preventDefault();
  node.focus({ preventScroll: true });
  node.setPointerCapture(event.pointerId);
  node.classList.add("lab-held");
  const moved = (one) => follow(...labAt(one));
  const ended = () => {
    node.classList.remove("lab-held");
    node.removeEventListener("pointermove", moved);
    node.removeEventListener("lostpointercapture", ended);
  };
  node.addEventListener("pointermove", moved);
  node.addEventListener("lostpointercapture", ended);
}

/** A finger that drags does not scroll; `touch-action` alone does not keep every browser from it inside an SVG. */
function labNoScroll(event) {
  if (!isSaved && event.touches.length === 1) event.preventDefault();
}

/** The coordinates under a pointer. */
function labAt(event) {
  const box = labLayers.drawing.getBoundingClientRect();
  const [px, py] = [((event.clientX - box.left) * labSize.width) / box.width, ((event.clientY - box.top) * labSize.height) / box.height];
  const x = ((px - LAB_PAD.left) / (labSize.width - LAB_PAD.left - LAB_PAD.right)) * 2 - 1;
  const y = (1 - ((py - LAB_PAD.top) / (labFloor() - LAB_PAD.top)) * 2) * labFacts.largest_y;
  return [x, y];
}

function labDoubleClick(event) {
  if (isSaved || event.target.closest(".lab-point")) return;
  const [x, y] = labAt(event);
  if (Math.abs(x) <= 1 && Math.abs(y) <= labFacts.largest_y) labEdits.add(labRounded(x), labRounded(y));
}

const LAB_ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

function labPointKey(event, i) {
  if (isSaved || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Delete" || event.key === "Backspace") {
    event.preventDefault();
    labEdits.remove(i);
  }
  const arrow = LAB_ARROWS[event.key];
  if (!arrow) return;
  event.preventDefault();
  const far = event.shiftKey ? LAB_LEAP : 1;
  const { x, y } = lab.points[i];
  labEdits.move(i, labClamp(x + arrow[0] * far * LAB_STEP_X, 1), labClamp(y + arrow[1] * far * LAB_STEP_Y, labFacts.largest_y));
}

function labQueryKey(event) {
  if (isSaved || event.ctrlKey || event.metaKey || event.altKey) return;
  const arrow = LAB_ARROWS[event.key];
  const end = { Home: -1, End: 1 }[event.key];
  if (!arrow && end === undefined) return;
  event.preventDefault();
  const far = event.shiftKey ? LAB_LEAP : 1;
  labEdits.query(end ?? labClamp(lab.query + (arrow[0] + arrow[1]) * far * LAB_STEP_X, 1));
}

/** Moves the focus to a point. */
export function focusLabPoint(i) {
  labLayers.points.children[i]?.focus();
}
