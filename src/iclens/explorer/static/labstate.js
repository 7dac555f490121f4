// What the Lab view is about: points, a query, and the settings of what answers it.

import { coded, decoded } from "./address.js";
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

/** The question for the server: about the points, or to draw `n` new ones with a seed. */
export function labQuestion(draw = null) {
  const asked = { seed: lab.seed, noise: lab.noise, query: lab.query, attention: lab.attention, features: lab.features };
  Object.assign(asked, { alpha: labAlpha(), neighbours: lab.neighbours, steps: lab.steps, rate: lab.rate });
  return Object.assign(asked, draw ?? { points: lab.points.map((one) => [one.x, one.y]) });
}

export function labHash() {
  const points = lab.points?.map((one) => (one.from === null ? [one.x, one.y] : [one.x, one.y, one.from])) ?? null;
  return "#lab?s=" + coded({ ...lab, points });
}

/** Takes over the state of a link; false, and nothing changes, when it carries none that can be read. */
export function labFromHash(hash) {
  const read = hash.startsWith("#lab?s=") ? decoded(hash.slice(7)) : undefined;
  if (!isLabState(read)) return false;
  const points = read.points?.map(([x, y, from]) => ({ x, y, from: from ?? null })) ?? null;
  for (const name of Object.keys(lab)) if (name in read) lab[name] = read[name];
  lab.points = points;
  lab.n = points?.length ?? lab.n;
  return true;
}

/** Takes over settings as the server writes them. */
export function labTakeOver(settings) {
  for (const name of Object.keys(lab)) if (name in settings && name !== "points") lab[name] = settings[name];
  lab.points = settings.points.map(([x, y]) => ({ x, y, from: null }));
  lab.n = lab.points.length;
}

function isLabState(read) {
  const number = (one) => Number.isFinite(one);
  const coordinate = (one) => number(one) || typeof one === "string";
  const point = (one) =>
    Array.isArray(one) && coordinate(one[0]) && coordinate(one[1]) && (one[2] == null || (Number.isInteger(one[2]) && one[2] >= 0 && one[2] < labFacts.most_points));
  return (
    read instanceof Object &&
    LAB_NUMBERS.every((name) => read[name] === undefined || number(read[name])) &&
    (read.alpha == null || number(read.alpha)) &&
    (read.attention === undefined || Object.hasOwn(labFacts.variants, read.attention)) &&
    (read.features === undefined || ["waves", "line"].includes(read.features)) &&
    (read.bars === undefined || ["pull", "left_out"].includes(read.bars)) &&
    (read.hidden === undefined || (Array.isArray(read.hidden) && read.hidden.every((one) => typeof one === "string"))) &&
    (read.points == null || (Array.isArray(read.points) && read.points.length > 0 && read.points.length <= labFacts.most_points && read.points.every(point)))
  );
}

/**
 * Brings the points to their number and noise: more are drawn from the same function, fewer leave the last ones out; those that
 * were drawn keep their noise, times σ, and those that were moved stay.
 */
export function labFit(drawn) {
  lab.points.length = Math.min(lab.points.length, lab.n);
  lab.points = lab.points.map((one) => (one.from === null ? one : labDrawn(drawn, one.from)));
  const used = new Set(lab.points.map((one) => one.from));
  const free = drawn.x.map((_, i) => i).filter((i) => !used.has(i));
  lab.points.push(...free.slice(0, lab.n - lab.points.length).map((i) => labDrawn(drawn, i)));
}

/** A drawn point with the chosen noise. */
function labDrawn(drawn, i) {
  const most = labFacts.largest_y;
  const y = drawn.value[i] + lab.noise * drawn.noise[i];
  return { x: drawn.x[i], y: labRounded(Math.max(-most, Math.min(most, y))), from: i };
}
