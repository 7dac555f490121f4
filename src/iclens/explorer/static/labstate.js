// What the Lab view is about: points, a query, and the settings of what answers it.

import { given } from "./state.js";

export const labFacts = given.lab;

/**
 * What a link carries. Coordinates are numbers, or the text of a field that is no number; `from` is a point's place among the
 * drawn ones, or null; `alpha` is null for the best one for the noise.
 */
export const lab = { ...labFacts?.defaults, alpha: null, points: null, bars: "pull", hidden: ["least_squares"] };

const LAB_NUMBERS = ["seed", "noise", "n", "query", "neighbours", "steps", "rate"];

export function labRounded(value) {
  return Math.round(value * 1e4) / 1e4;
}

/** Ridge's strength: chosen, or Bayes' σ²/τ² for the noise. */
export function labAlpha() {
  return lab.alpha ?? Math.max(1e-4, labRounded((lab.noise / labFacts.weight_std) ** 2));
}

/** The question for the server: about the points, or for `n` new ones. */
export function labQuestion(draw = false) {
  const asked = { seed: lab.seed, noise: lab.noise, query: lab.query, attention: lab.attention, features: lab.features };
  Object.assign(asked, { alpha: labAlpha(), neighbours: lab.neighbours, steps: lab.steps, rate: lab.rate });
  if (draw || lab.points === null) asked.n = lab.n;
  else asked.points = lab.points.map((one) => [one.x, one.y]);
  return asked;
}

export function labHash() {
  const kept = { ...lab, points: lab.points?.map((one) => (one.from === null ? [one.x, one.y] : [one.x, one.y, one.from])) ?? null };
  const bytes = new TextEncoder().encode(JSON.stringify(kept));
  const binary = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  return "#lab?s=" + btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

/** Takes over the state of a link; false, and nothing changes, when it carries none that can be read. */
export function labFromHash(hash) {
  if (!hash.startsWith("#lab?s=")) return false;
  try {
    const binary = atob(hash.slice(7).replaceAll("-", "+").replaceAll("_", "/"));
    const read = JSON.parse(new TextDecoder().decode(Uint8Array.from(binary, (one) => one.charCodeAt(0))));
    if (!isLabState(read)) return false;
    const points = read.points?.map(([x, y, from]) => ({ x, y, from: from ?? null })) ?? null;
    for (const name of Object.keys(lab)) if (name in read) lab[name] = read[name];
    lab.points = points;
    return true;
  } catch {
    return false;
  }
}

/** Takes over settings as the server writes them. */
export function labTakeOver(settings) {
  for (const name of Object.keys(lab)) if (name in settings && name !== "points") lab[name] = settings[name];
  lab.points = settings.points.map(([x, y]) => ({ x, y, from: null }));
}

function isLabState(read) {
  const number = (one) => Number.isFinite(one);
  const coordinate = (one) => number(one) || typeof one === "string";
  const point = (one) =>
    Array.isArray(one) && coordinate(one[0]) && coordinate(one[1]) && (one[2] == null || (Number.isInteger(one[2]) && one[2] >= 0 && one[2] < labFacts.most_points));
  return (
    read !== null &&
    typeof read === "object" &&
    LAB_NUMBERS.every((name) => read[name] === undefined || number(read[name])) &&
    (read.alpha == null || number(read.alpha)) &&
    (read.attention === undefined || Object.hasOwn(labFacts.variants, read.attention)) &&
    (read.features === undefined || ["waves", "line"].includes(read.features)) &&
    (read.bars === undefined || ["pull", "left_out"].includes(read.bars)) &&
    (read.hidden === undefined || (Array.isArray(read.hidden) && read.hidden.every((one) => typeof one === "string"))) &&
    (read.points == null || (Array.isArray(read.points) && read.points.length > 0 && read.points.length <= labFacts.most_points && read.points.every(point)))
  );
}

/** The first places among the drawn points that no point on the plot has. */
export function labFree(drawn, count) {
  const used = new Set(lab.points.map((one) => one.from));
  return drawn.x.map((_, i) => i).filter((i) => !used.has(i)).slice(0, count);
}

/** A drawn point with the chosen noise. */
export function labDrawn(drawn, i) {
  const most = labFacts.largest_y;
  const y = drawn.value[i] + lab.noise * drawn.noise[i];
  return { x: drawn.x[i], y: labRounded(Math.max(-most, Math.min(most, y))), from: i };
}
