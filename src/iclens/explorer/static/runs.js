// The store: a list of runs, page by page, and their learning curves.

import { writeAddress } from "./address.js";
import { isWide, legend, lineChart } from "./chart.js";
import { byId, el, put } from "./elements.js";
import { refreshPanels, startPanels } from "./panels.js";
import { openRecipes } from "./recipes.js";
import { ask } from "./server.js";
import { viewOf } from "./views.js";

const PAGE = 25;
const MOST_CHOSEN = 12; // curves that can be told apart
const FIRST_CHOSEN = 5; // runs that are drawn before the reader chooses
const TYPING = 250; // milliseconds without another key before the store is asked

/** What the reader looks at; the address carries it. */
const sought = { where: "", sort: "", reverse: false, offset: 0, metric: "", log: null, keys: null, panel: null, colour: null, x: "" };
const aborts = new Map();
let listed = null;
let typing = 0;

/** A signal for one part of the view; asking again ends what was asked before. */
function only(part) {
  aborts.get(part)?.abort();
  aborts.set(part, new AbortController());
  return aborts.get(part).signal;
}

/** What a part shows: an answer, or a sentence in its place. */
async function inPlace(part, problem, work) {
  const signal = only(part);
  try {
    await work(signal);
    if (!signal.aborted) problem.hidden = true;
  } catch (error) {
    if (error.name === "AbortError" || signal.aborted) return;
    problem.textContent = error.message;
    // A folder that is not there yet is no fault.
    problem.classList.toggle("nothing-yet", /^There is no (store|gallery) /.test(error.message));
    problem.hidden = false;
  }
}

async function refreshRuns() {
  keepAddress();
  await inPlace("runs", byId("runs-problem"), async (signal) => {
    const { where, sort, reverse, offset } = sought;
    const found = await ask("runs", { where, sort, reverse, offset, limit: PAGE }, signal);
    if (signal.aborted) return;
    if (offset > 0 && offset >= found.n_chosen) {
      sought.offset = PAGE * Math.max(0, Math.ceil(found.n_chosen / PAGE) - 1);
      return refreshRuns();
    }
    listed = found;
    sought.keys ??= found.rows.slice(0, FIRST_CHOSEN).map((row) => row[0]);
    if (!found.metrics.includes(sought.metric)) sought.metric = found.metrics[0] ?? "";
    renderRuns();
    refreshCurves();
    byId("panels-section").hidden = found.axes.length === 0 || !found.metrics.length;
    if (!byId("panels-section").hidden) refreshPanels(found, sought, inPlace);
  });
  const failed = listed === null;
  byId("runs-found").hidden = failed;
}

function renderRuns() {
  const { n_runs, n_chosen, n_diverged, offset, rows, columns, metrics } = listed;
  const last = Math.min(offset + PAGE, n_chosen);
  byId("runs-count").textContent =
    (n_chosen ? `Runs ${offset + 1} to ${last} of ${n_chosen.toLocaleString("en")}` : "No run meets the conditions") +
    (n_chosen < n_runs ? `, chosen from ${n_runs.toLocaleString("en")}` : "") +
    (n_diverged ? `; ${n_diverged.toLocaleString("en")} diverged` : "") +
    `, in ${listed.store}. The columns are the settings in which they differ.`;
  put(byId("runs-head"), el("tr", {}, el("th", { scope: "col" }, "curve"), ...columns.map(headCell)));
  put(byId("runs-rows"), ...rows.map((row) => runRow(row, columns)));
  byId("runs-before").disabled = offset === 0;
  byId("runs-after").disabled = last >= n_chosen;
  put(byId("runs-notes"), ...listed.notes.map((note) => el("p", { class: "note" }, note[0].toUpperCase() + note.slice(1))));
  put(byId("runs-metric"), ...metrics.map((name) => el("option", { value: name }, name)));
  byId("runs-metric").value = sought.metric;
}

function headCell(name) {
  const sorted = sought.sort === name ? (sought.reverse ? "descending" : "ascending") : null;
  const sign = { ascending: " ↑", descending: " ↓" }[sorted] ?? "";
  const sort = () => {
    Object.assign(sought, sorted === "descending" ? { sort: "", reverse: false } : { sort: name, reverse: sorted === "ascending" });
    sought.offset = 0;
    refreshRuns().then(() => byId("runs-head").querySelector(`[data-name="${CSS.escape(name)}"]`)?.focus());
  };
  const numbers = !["key", "status"].includes(name);
  return el("th", { scope: "col", "aria-sort": sorted, class: numbers ? "number" : null }, el("button", { type: "button", class: "sort", "data-name": name, title: "Sort by it; again the other way; again as they were added", onclick: sort }, name + sign));
}

function runRow(row, columns) {
  const [key] = row;
  const chosen = el("input", {
    type: "checkbox",
    "aria-label": `Draw run ${key}`,
    onchange: () => {
      sought.keys = sought.keys.filter((one) => one !== key);
      if (chosen.checked) sought.keys.push(key);
      keepAddress();
      refreshCurves();
    },
  });
  chosen.checked = sought.keys.includes(key);
  const cell = (text, i) => {
    if (i === 0) return el("td", {}, el("code", { title: text }, text.slice(0, 8)));
    if (columns[i] === "status") return el("td", { class: text === "diverged" ? "broken" : null }, text);
    return el("td", { class: "number" }, text === "" ? "–" : text);
  };
  return el("tr", {}, el("td", {}, chosen), ...row.map(cell));
}

async function refreshCurves() {
  const out = byId("runs-curves");
  only("curves");
  if (!sought.keys.length) return put(out, el("p", { class: "note" }, "Choose runs in the list to see how they learnt."));
  if (sought.keys.length > MOST_CHOSEN) {
    return put(out, el("p", { class: "note" }, `${sought.keys.length} runs are chosen: ${MOST_CHOSEN} curves can be told apart.`));
  }
  const note = el("p", { class: "problem", role: "alert", hidden: true });
  await inPlace("curves", note, async (signal) => {
    const { metric, keys } = sought;
    const found = await ask("curves", { metric, keys }, signal);
    if (!signal.aborted) renderCurves(found);
  });
  if (!note.hidden) put(out, note);
}

function renderCurves(found) {
  const lines = found.curves.map((curve, index) => ({ ...curve, index, name: nameOf(curve.key) }));
  const drawn = lines.filter((line) => line.x.length);
  const log = logarithmic(drawn.flatMap((line) => line.y));
  const without = lines.filter((line) => !line.x.length);
  put(
    byId("runs-curves"),
    drawn.length ? lineChart(drawn, { width: Math.max(340, Math.min(760, byId("runs-curves").clientWidth)), height: 320, log, xName: found.x_name, yName: found.metric }) : null,
    legend(drawn),
    ...without.map((line) => el("p", { class: "note broken" }, line.problem ?? `${line.name}: it has no ${found.metric}.`)),
    ...drawn.filter((line) => line.y.includes(null)).map((line) => el("p", { class: "note" }, `${line.name}: where its line is missing, the value is infinite or not a number.`)),
    ...drawn.filter((line) => line.n_points > line.x.length).map((line) => el("p", { class: "note" }, `${line.name}: ${line.x.length} of ${line.n_points.toLocaleString("en")} points are drawn.`)),
  );
}

/** A key's beginning, and the settings in which it differs from the others, as far as its row is on the page. */
function nameOf(key) {
  const row = listed.rows.find((one) => one[0] === key);
  const settings = row ? listed.axes.map((axis) => `${axis.name.split(".").at(-1)} ${row[listed.columns.indexOf(axis.name)] || "–"}`) : [];
  return [key.slice(0, 8), ...settings.slice(0, 5)].join(" · ");
}

/** As the reader says; until then, where the values want it. */
function logarithmic(values) {
  const log = sought.log ?? isWide(values);
  byId("runs-log").checked = log;
  return log;
}

function keepAddress() {
  const words = new URLSearchParams();
  for (const name of ["where", "sort", "metric", "panel", "colour", "x"]) if (sought[name]) words.set(name, sought[name]);
  if (sought.reverse) words.set("reverse", "1");
  if (sought.offset) words.set("offset", String(sought.offset));
  if (sought.log !== null) words.set("log", sought.log ? "1" : "0");
  if (sought.keys !== null) words.set("keys", sought.keys.join(","));
  if (viewOf(location.hash) === "runs") writeAddress(`#runs?${words}`);
}

function readAddress() {
  const words = new URLSearchParams(location.hash.split("?").slice(1).join("?"));
  for (const name of ["where", "sort", "metric", "x"]) sought[name] = words.get(name) ?? "";
  for (const name of ["panel", "colour"]) sought[name] = words.get(name);
  sought.reverse = words.get("reverse") === "1";
  sought.offset = Math.max(0, Number.parseInt(words.get("offset") ?? "0", 10) || 0);
  sought.log = words.has("log") ? words.get("log") === "1" : null;
  sought.keys = words.has("keys") ? words.get("keys").split(",").filter(Boolean).slice(0, MOST_CHOSEN) : null;
  byId("runs-where").value = sought.where;
}

export function openRuns() {
  const again = (event, name, value) => byId(name).addEventListener(event, () => (value(), refreshRuns()));
  byId("runs-where").addEventListener("input", (event) => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      Object.assign(sought, { where: event.target.value, offset: 0 });
      refreshRuns();
    }, TYPING);
  });
  again("click", "runs-before", () => (sought.offset = Math.max(0, sought.offset - PAGE)));
  again("click", "runs-after", () => (sought.offset += PAGE));
  again("click", "runs-none", () => (sought.keys = []));
  again("change", "runs-metric", () => (sought.metric = byId("runs-metric").value));
  again("change", "runs-log", () => (sought.log = byId("runs-log").checked));
  startPanels(sought, () => refreshRuns());
  window.addEventListener("hashchange", () => {
    if (viewOf(location.hash) !== "runs") return;
    if (!location.hash.includes("?")) return keepAddress();
    readAddress();
    refreshRuns();
  });
  readAddress();
  Promise.all([refreshRuns(), openRecipes(inPlace)]).then(() => document.body.classList.add("runs-settled"));
}
