// Lines over an axis, as SVG: several of them told apart by colour and dashes, with bands, and read off by pointing or by arrow keys.

import { el, svg } from "./elements.js";
import { short } from "./numbers.js";

const PAD = { left: 52, right: 12, top: 10, bottom: 34 };

/** Ticks at round numbers; on a logarithmic axis that is not short at powers of ten, or at 1, 2 and 5 when these are few. */
export function ticksOf(low, high, log, most) {
  if (log) {
    const powers = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) powers.push(power);
    const at = (steps) => powers.flatMap((power) => steps.map((step) => step * 10 ** power)).filter((one) => one >= low * 0.999 && one <= high * 1.001);
    const decades = at([1]);
    if (decades.length > most) return decades.filter((_, i) => i % Math.ceil(decades.length / most) === 0);
    const few = decades.length >= 3 ? decades : at([1, 2, 5]);
    if (few.length >= 2) return few;
  }
  const raw = (high - low) / most || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((one) => one * power >= raw);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found;
}

/** Smallest and largest of the numbers that can be drawn. */
export function rangeOf(values, log) {
  const drawn = values.filter((one) => Number.isFinite(one) && (!log || one > 0));
  if (!drawn.length) return log ? [0.1, 1] : [0, 1];
  let [low, high] = [Infinity, -Infinity];
  for (const one of drawn) [low, high] = [Math.min(low, one), Math.max(high, one)];
  if (low === high) return log ? [low / 2, high * 2] : [low - (Math.abs(low) / 2 || 0.5), high + (Math.abs(high) / 2 || 0.5)];
  return [low, high];
}

/** Whether values want a logarithmic axis: all are positive, and they span more than a factor of ten. */
export function isWide(values) {
  const known = values.filter((one) => one != null);
  return known.length > 0 && Math.min(...known) > 0 && Math.max(...known) > 10 * Math.min(...known);
}

function scaleOf([low, high], log, from, to) {
  const map = log ? Math.log10 : (one) => one;
  const share = (one) => (map(one) - map(low)) / (map(high) - map(low));
  return (one) => from + share(one) * (to - from);
}

/**
 * A figure of lines `{name, index, x, y, low, high}`; `y`, `low` and `high` may hold null where there is no number. A line that
 * is a mean may say over how many of how many runs: `n` at each place, and `n_runs`.
 *
 * Options: `width`, `height`, `log` (of y), `xName`, `yName`, `xRange`, `yRange` (to share axes between figures).
 */
export function lineChart(lines, options) {
  const { width, height, log, xName, yName } = options;
  const xRange = options.xRange ?? rangeOf(lines.flatMap((line) => line.x), false);
  const yRange = options.yRange ?? rangeOf(lines.flatMap(drawnOf), log);
  const x = scaleOf(xRange, false, PAD.left, width - PAD.right);
  const y = scaleOf(yRange, log, height - PAD.bottom, PAD.top);
  const can = (value) => value != null && Number.isFinite(value) && (!log || value > 0);
  const inside = (value) => Math.max(PAD.top, Math.min(height - PAD.bottom, y(value)));
  const read = el("p", { class: "readout note", "aria-live": "polite" });
  const cursor = svg("path", { class: "cursor", d: "" });
  const places = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  const drawing = svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${yName} over ${xName}. ${lines.map(said).join("; ")}` },
    ...ticksOf(...yRange, log, 5).flatMap((tick) => [
      svg("path", { class: "rule", d: `M${PAD.left} ${y(tick).toFixed(1)}H${width - PAD.right}` }),
      svg("text", { x: PAD.left - 7, y: y(tick) + 4, "text-anchor": "end" }, short(tick)),
    ]),
    ...ticksOf(...xRange, false, Math.max(2, width / 110)).map((tick) => svg("text", { x: x(tick), y: height - PAD.bottom + 17, "text-anchor": "middle" }, short(tick))),
    svg("text", { class: "axis-name", x: (PAD.left + width - PAD.right) / 2, y: height - 3, "text-anchor": "middle" }, xName),
    ...lines.filter((line) => line.low).map((line) => svg("path", { class: `band series-${line.index % 8}`, d: bandPath(line, x, inside, can, log) })),
    ...lines.map((line) => svg("path", { class: `curve series-${line.index % 8} dash-${Math.floor(line.index / 8) % 3}`, d: linePath(line, x, y, can) })),
    ...lines.filter((line) => line.x.length <= 12).flatMap((line) => line.x.map((at, i) => (can(line.y[i]) ? svg("circle", { class: `point series-${line.index % 8}`, cx: x(at), cy: y(line.y[i]), r: 2.6 }) : null))),
    cursor,
  );
  let at = null;
  const point = (place) => {
    at = place;
    cursor.setAttribute("d", `M${x(place).toFixed(1)} ${PAD.top}V${height - PAD.bottom}`);
    const values = lines.flatMap((line) => {
      const where = line.x.indexOf(place);
      const value = line.y[where];
      const few = line.n && line.n[where] < line.n_runs ? ` (${line.n[where]} of ${line.n_runs} runs)` : "";
      return value == null ? [] : [`${line.name || yName} ${short(value)}${few}`];
    });
    read.textContent = `${xName} ${short(place)}: ${values.join(" · ")}`;
  };
  const nearest = (value) => places.reduce((best, one) => (Math.abs(one - value) < Math.abs(best - value) ? one : best), places[0]);
  const figure = el(
    "figure",
    {
      class: "lines",
      tabindex: "0",
      onpointermove: (event) => {
        if (!places.length) return;
        const box = drawing.getBoundingClientRect();
        const share = ((event.clientX - box.left) / box.width) * width;
        point(nearest(xRange[0] + ((share - PAD.left) / (width - PAD.left - PAD.right)) * (xRange[1] - xRange[0])));
      },
      onkeydown: (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!step || !places.length) return;
        event.preventDefault();
        const now = at === null ? (step > 0 ? -1 : places.length) : places.indexOf(at);
        point(places[Math.max(0, Math.min(places.length - 1, now + step))]);
      },
    },
    drawing,
    read,
  );
  return figure;
}

/** The names of lines beside their colours. */
export function legend(names) {
  return el(
    "ul",
    { class: "legend" },
    ...names.map(({ name, index }) =>
      el(
        "li",
        {},
        svg("svg", { viewBox: "0 0 24 8", width: 24, height: 8, "aria-hidden": "true" }, svg("path", { class: `curve series-${index % 8} dash-${Math.floor(index / 8) % 3}`, d: "M0 4H24" })),
        el("bdi", {}, name),
      ),
    ),
  );
}

export function drawnOf(line) {
  return line.low ? [...line.y, ...line.low, ...line.high] : line.y;
}

function said(line) {
  const last = line.y.findLast((one) => one != null);
  return `${line.name || "all runs"}: ${line.x.length} points, the last ${last == null ? "no number" : short(last)}`;
}

function linePath(line, x, y, can) {
  let pen = "M";
  return line.x
    .map((at, i) => {
      if (!can(line.y[i])) {
        pen = "M";
        return "";
      }
      const step = `${pen}${x(at).toFixed(1)} ${y(line.y[i]).toFixed(1)}`;
      pen = "L";
      return step;
    })
    .join("");
}

/** The interval; on a logarithmic axis an end that is not positive lies at the lower edge. */
function bandPath(line, x, inside, can, log) {
  const places = line.x.flatMap((at, i) => (line.low[i] != null && line.high[i] != null && can(line.high[i]) ? [[at, line.low[i], line.high[i]]] : []));
  if (!places.length) return "";
  const floor = (value) => (log && value <= 0 ? inside(Number.MIN_VALUE) : inside(value));
  const upper = places.map(([at, , high]) => `${x(at).toFixed(1)} ${inside(high).toFixed(1)}`);
  const lower = places.map(([at, low]) => `${x(at).toFixed(1)} ${floor(low).toFixed(1)}`).reverse();
  return `M${[...upper, ...lower].join("L")}Z`;
}
