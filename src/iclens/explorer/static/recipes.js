// A gallery of reproductions: every recipe with its claims, their verdicts and its picture.

import { byId, el, put } from "./elements.js";
import { ask } from "./server.js";

let gallery = null;

export async function openRecipes(inPlace) {
  await inPlace("recipes", byId("recipes-problem"), async (signal) => {
    gallery = await ask("gallery", {}, signal);
    const outcomes = [...new Set(gallery.recipes.flatMap((one) => one.verdicts.map((verdict) => verdict.outcome)))];
    put(byId("recipes-outcome"), el("option", { value: "" }, "have any verdict"), ...outcomes.map((one) => el("option", { value: one }, one)));
    byId("recipes-outcome").addEventListener("change", renderRecipes);
    byId("recipes-tools").hidden = false;
    renderRecipes();
  });
}

function renderRecipes() {
  const wanted = byId("recipes-outcome").value;
  const kept = gallery.recipes
    .map((one) => ({ ...one, shown: one.verdicts.filter((verdict) => !wanted || verdict.outcome === wanted) }))
    .filter((one) => one.shown.length || (one.problem && !wanted));
  const n = kept.reduce((sum, one) => sum + one.shown.length, 0);
  byId("recipes-count").textContent = `${n} claims of ${kept.length} recipes, in ${gallery.folder}. A claim that does not hold is a result.`;
  put(byId("recipes"), ...kept.map(recipeItem));
}

function recipeItem(one) {
  if (one.problem) return el("p", { class: "note broken" }, one.problem);
  return el(
    "details",
    { class: "recipe" },
    el(
      "summary",
      {},
      el("span", { class: "recipe-title" }, one.title || one.id),
      " ",
      el("span", { class: "tally" }, ...tally(one.verdicts).map(([verdict, count]) => el("span", { class: `outcome ${verdict.style}` }, `${verdict.sign} ${count} ${gallery.counted[verdict.outcome][count > 1 ? 1 : 0]}`))),
    ),
    el("p", { class: "note" }, [one.reference, `preset ${one.preset}`, one.duration].filter(Boolean).join(" · ")),
    one.pictures.includes("figure.svg") ? pictureOf(one) : null,
    one.not_run ? el("p", { class: "note" }, one.not_run) : null,
    el("ul", { class: "claims" }, ...one.shown.map(claimItem)),
    one.command ? el("pre", {}, el("code", {}, one.command)) : null,
  );
}

function pictureOf(one) {
  const at = (file) => `gallery/${encodeURIComponent(one.id)}/${file}`;
  const dark = one.pictures.includes("figure-dark.svg") ? el("source", { srcset: at("figure-dark.svg"), media: "(prefers-color-scheme: dark)" }) : null;
  return el("figure", {}, el("picture", {}, dark, el("img", { src: at("figure.svg"), alt: `The picture of ${one.title || one.id}`, loading: "lazy" })));
}

function claimItem(verdict) {
  const line = (name, text) => (text ? [el("dt", {}, name), el("dd", {}, text)] : []);
  return el(
    "li",
    { class: verdict.style },
    el("p", { class: "outcome" }, `${verdict.sign} ${verdict.outcome}${verdict.condition ? `: ${verdict.condition}` : ""}`),
    el("p", { class: "statement" }, verdict.claim),
    el("p", { class: "note" }, [verdict.source, verdict.trust].filter(Boolean).join(" · ")),
    el("dl", {}, ...line("Measured", verdict.numbers), ...line("Holds if", verdict.test), ...line("Why not", verdict.untested)),
  );
}

function tally(verdicts) {
  const counts = new Map();
  for (const verdict of verdicts) counts.set(verdict.outcome, [verdict, (counts.get(verdict.outcome)?.[1] ?? 0) + 1]);
  return [...counts.values()];
}
