// The context as weight updates: what each source's part is, how large it is in each layer, and whose are alike.

import { byId, el, put } from "./elements.js";
import { heatMap } from "./heat.js";
import { called, longName, noun, nouns, shortName } from "./names.js";
import { plain } from "./numbers.js";
import { numberTable } from "./tables.js";

const OTHERS = {
  rest: "other tokens that are taken away",
  states: "changed states of the tokens that stay",
  norms: "changed scales of norms",
};
const ROUNDING = 5e-4; // a share of no source that is only rounding

/** The fold is there for explanations that hold the updates, and is filled when it is opened. */
export function renderUpdates(explanation) {
  const fold = byId("updates-fold");
  fold.hidden = !explanation?.patch;
  put(byId("updates"));
  const show = () => !fold.hidden && fold.open && fill(explanation);
  fold.ontoggle = show;
  show();
}

function fill({ patch, sources, residuals }) {
  const check = residuals.find((one) => one.key === "patch");
  put(
    byId("updates"),
    el(
      "p",
      { class: "note" },
      `What the ${nouns()} did to the answer, written as a change ΔW of rank 1 of the weights of ${patch.by_layer.length} MLPs, for the token where the answer begins. ` +
        `The ${patch.n_kept.toLocaleString("en")} tokens that stay without the ${nouns()}, run alone with these weights, get the logits of the whole prompt${check ? ` (off by ${plain(check.value)})` : ""}. ` +
        `Sizes say how much a ${noun()} writes, not whether it helps.`,
    ),
    ...parts(patch, sources),
    ...byLayer(patch, sources),
    ...alike(patch, sources),
  );
}

/** Each source's part, from the largest on, and what belongs to none. */
function parts(patch, sources) {
  const ranked = [...sources].sort((a, b) => patch.sources[b.index].size - patch.sources[a.index].size);
  const rows = ranked.map((one) => {
    const { size, share, displaced, largest_in: layer, alike: other, cosine } = patch.sources[one.index];
    return [shortName(one), perMille(size), partOf(share), partOf(displaced), String(layer), other === null ? "–" : `${called(other)} (${plain(cosine)})`];
  });
  const rest = Object.entries(patch.shares).filter(([, share]) => Math.abs(share) >= ROUNDING);
  rows.push(...rest.map(([name, share]) => [OTHERS[name] ?? name, "", partOf(share), "", "", ""]));
  return [
    ...numberTable(`What each ${noun()} writes`, ["", "size, of |W|", "part of ΔW", "it displaces", "largest in layer", "most alike (cosine)"], rows),
    el("p", { class: "note" }, `Means over layers. The parts and what they displace, the attention that a ${noun()} draws from the tokens that stay, sum to 100 % with the last rows.`),
  ];
}

function byLayer(patch, sources) {
  if (!sources.every((one) => patch.sources[one.index].by_layer?.length)) return [];
  const columns = patch.by_layer.map((_, layer) => ({ short: String(layer), long: `layer ${layer}` }));
  return [
    el("h3", {}, "Where they write it"),
    heatMap({
      label: `Size of each ${noun()}’s part by layer`,
      rows: sources.map(named),
      columns,
      values: sources.map((one) => patch.sources[one.index].by_layer),
      said: (value) => `${perMille(value)} of |W|`,
      hint: `Rows are ${nouns()}, columns layers; point at a cell, or walk with the arrow keys.`,
    }),
  ];
}

function alike(patch, sources) {
  if (sources.length < 2) return [];
  const title = el("h3", {}, "Which write the same");
  if (!patch.cosines?.length) return [title, el("p", { class: "note" }, `This page holds no cosines of these ${nouns()}.`)];
  return [
    title,
    heatMap({
      label: `Cosines between the parts of ${nouns()}`,
      rows: sources.map(named),
      columns: sources.map(named),
      values: sources.map((one) => sources.map((other) => patch.cosines[one.index][other.index])),
      said: (value) => `cosine ${plain(value)}`,
      hint: "Cosines between parts, means over layers: 1 where two write the same, 0 where they write something unrelated.",
    }),
  ];
}

function named(one) {
  return { short: shortName(one), long: longName(one) };
}

function perMille(value) {
  return `${plain(1000 * value)} ‰`;
}

/** A part of ΔW, which is negative where it opposes the whole. */
function partOf(share) {
  return `${(100 * share).toFixed(1).replace(/^-(?=0\.0$)/, "").replace("-", "−")} %`;
}
