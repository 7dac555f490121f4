// From an edit to what is shown: the answer at once, what costs more right after.

import { writeAddress } from "./address.js";
import { renderAnswer, renderChecks, renderConclusion } from "./answer.js";
import { renderAsking, renderWays, startAsking, takeDocument } from "./asking.js";
import { renderCitations } from "./citations.js";
import { renderDetails } from "./details.js";
import { renderChips, startChips } from "./chips.js";
import { offerRefined, renderEditor, startEditor } from "./editor.js";
import { byId, el } from "./elements.js";
import { startFitting } from "./fitting.js";
import { renderHead, renderHeadProblem, renderMap, renderMapChoice, startHeads, strongest } from "./heads.js";
import { openLab } from "./lab.js";
import { renderLayers, renderLayersProblem } from "./layers.js";
import { linkRows, renderLinked, startLinked } from "./linked.js";
import { speakOf } from "./names.js";
import { isReady, renderReady, startReady } from "./ready.js";
import { openRuns } from "./runs.js";
import { scoreOf } from "./scores.js";
import { ask } from "./server.js";
import { renderShare, startShare } from "./share.js";
import { renderInside, renderScores } from "./sources.js";
import { canUndo, change, fromHash, given, isSaved, onChange, question, state, takeOver, toHash, undo, whole } from "./state.js";
import { renderTokens } from "./tokens.js";
import { renderUpdates } from "./updates.js";
import { addView, startViews, viewOf } from "./views.js";

const PAUSE = 40; // milliseconds without another key before the model is asked
const REST = 120; // and before the slower numbers are

const shown = { asked: null, whole: null, glance: null, explanation: null };
let running = null;
let timer = 0;

function edited() {
  running?.abort();
  clearTimeout(timer);
  document.body.classList.add("waiting");
  if (!isExplained(question())) {
    renderConclusion(null);
    renderCitations(null);
    renderScores(currentScores(), true);
  }
  timer = setTimeout(() => (keepAddress(), refresh()), PAUSE);
}

/** Browsers allow an address only so many changes: one for each pause, not for each key. */
function keepAddress() {
  if (!isSaved && viewOf(location.hash) === "prompt") writeAddress(toHash());
}

async function refresh() {
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  const [asked, now] = [question(), whole()];
  try {
    const glance = await ask("glance", asked, signal);
    if (signal.aborted) return;
    if (!isExplained(asked)) shown.explanation = null;
    shown.asked = asked;
    shown.whole = now;
    shown.glance = glance;
    renderGlance();
    if (!isSaved) await rest(REST, signal);
    const explanation = await ask("explain", asked, signal);
    if (signal.aborted) return;
    shown.explanation = explanation;
    renderConclusion(explanation);
    renderCitations(explanation);
    renderChecks(explanation);
    renderDetails(explanation, glance);
    renderUpdates(explanation);
    renderLinked(glance, explanation);
    renderColours();
    document.body.classList.add("explained");
    await refreshLayers(asked, signal);
    if (signal.aborted) return;
    await refreshHead(asked, signal);
    document.body.classList.add("settled");
  } catch (error) {
    if (error.name !== "AbortError" && !signal.aborted) renderProblem(error.message);
  }
}

async function refreshLayers(asked, signal) {
  try {
    const layers = await ask("layers", asked, signal);
    if (!signal.aborted) renderLayers(layers);
  } catch (error) {
    if (error.name !== "AbortError" && !signal.aborted) renderLayersProblem(error.message);
  }
}

async function refreshHead(asked, signal) {
  const [layer, head] = state.layer === null ? strongest() : [state.layer, state.head];
  try {
    const view = await ask("head", { ...asked, layer, head }, signal);
    if (!signal.aborted) renderHead(view, shown.glance.answer);
  } catch (error) {
    if (error.name !== "AbortError" && !signal.aborted) renderHeadProblem(error.message);
  }
}

function rest(milliseconds, signal) {
  return new Promise((resolve) => {
    const end = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => (clearTimeout(end), resolve()));
  });
}

/** The scores of the chosen colour; null while they are not known. */
function currentScores() {
  const scores = (shown.explanation ?? shown.glance)?.sources.map((one) => scoreOf(one, state.colour));
  return scores?.some((one) => one !== null) ? scores : null;
}

/** Whether the explanation at hand is of this question, but for what is switched off, which changes none of its scores. */
function isExplained(asked) {
  const but = (one) => JSON.stringify({ ...one, off: [] });
  return shown.explanation !== null && but(asked) === but(shown.asked);
}

function renderGlance() {
  document.body.classList.remove("waiting", "settled", "explained");
  document.body.classList.add("answered");
  byId("problem").hidden = true;
  byId("found").classList.remove("stale");
  speakOf(shown.glance);
  renderAnswer(shown.glance);
  renderConclusion(shown.explanation);
  renderCitations(shown.explanation);
  renderChecks(null);
  renderDetails(null);
  renderUpdates(null);
  renderMapChoice(shown.glance);
  renderShare(shown.glance);
  renderWays(shown.glance.ways);
  offerRefined(shown.glance.refined ?? null);
  renderLinked(shown.glance, shown.explanation);
  renderColours();
}

function renderColours(stale = false) {
  const scores = currentScores();
  renderScores(scores, stale);
  renderInside(shown.explanation);
  renderTokens(shown.glance, shown.explanation, state.colour, scores);
  drawMap();
}

function drawMap() {
  renderMap(shown.glance, shown.explanation, state.colour);
}

/** Whether the numbers at hand are of the prompt before the last edit. */
function isStale() {
  return document.body.classList.contains("waiting") || !byId("problem").hidden;
}

/** A sentence in place of the answer; what was typed stays, unless the reader takes back the edit. */
function renderProblem(sentence) {
  document.body.classList.remove("waiting");
  document.body.classList.add("settled");
  byId("problem").hidden = false;
  byId("problem").textContent = sentence;
  const differs = JSON.stringify(question()) !== JSON.stringify(shown.asked);
  const canGoBack = state.document || state.response !== null;
  if (canGoBack && shown.asked && differs) byId("problem").append(" ", el("button", { type: "button", onclick: takeBack }, "Take back the edit"));
  byId("found").classList.add("stale");
}

/** Back to the last question that was answered. */
function takeBack() {
  change("all", ({ layer, head }) => takeOver({ ...shown.whole, layer, head }));
  byId("demonstrations").querySelector("textarea, [tabindex='0']")?.focus();
}

/** Everything that shows the question itself. */
function renderQuestion() {
  renderEditor();
  renderChips();
  renderAsking();
  linkRows();
}

function takeBackLast() {
  undo();
  byId("undo").hidden = !canUndo();
  if (byId("undo").hidden) byId("query").focus();
}

function startUndo() {
  byId("undo").addEventListener("click", takeBackLast);
  document.addEventListener("keydown", (event) => {
    // In a text the browser takes back letters.
    const isText = event.target.matches("textarea, input[type=text], input[type=number]");
    if (isSaved || isText || event.key !== "z" || !(event.ctrlKey || event.metaKey) || viewOf(location.hash) !== "prompt") return;
    event.preventDefault();
    takeBackLast();
  });
}

onChange((kind) => {
  byId("undo").hidden = !canUndo();
  if (kind === "all") renderQuestion();
  if (kind === "prompt" || kind === "all") {
    renderReady();
    edited();
  } else keepAddress();
  if (kind === "view" && shown.glance) renderColours(isStale());
  if (kind === "head" && shown.glance) {
    refreshHead(question(), running.signal);
  }
});

function open() {
  if (isSaved) takeOver(given.ask);
  else if (!fromHash(location.hash)) {
    takeOver(given.example);
    isReady(0);
  }
  renderReady();
  renderQuestion();
  refresh();
}

document.body.classList.toggle("saved", isSaved);
startEditor(given.example, takeOver, takeDocument);
startChips();
startReady();
startUndo();
startAsking();
startLinked();
startHeads(drawMap);
startShare();
window.addEventListener("hashchange", () => {
  if (isSaved || viewOf(location.hash) !== "prompt") return;
  if (location.hash !== toHash() && fromHash(location.hash)) {
    renderQuestion();
    edited();
  } else if (shown.glance) keepAddress();
});
startFitting();
addView("prompt", open);
addView("lab", openLab);
addView("runs", openRuns);
startViews();
