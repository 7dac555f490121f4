// A sweep as small multiples: one panel for each value of a setting, all on the same axes.

import { drawnOf, isWide, legend, lineChart, rangeOf } from "./chart.js";
import { byId, el, put } from "./elements.js";
import { ask } from "./server.js";

const MOST_FIRST = 12; // values of a setting that is chosen unasked

export async function refreshPanels(listed, sought, inPlace) {
  renderChoices(listed, sought);
  const { metric, where, panel, colour, x } = sought;
  await inPlace("panels", byId("panels-problem"), async (signal) => {
    put(byId("panels"));
    const found = await ask("panels", { metric, where, panel, colour, x }, signal);
    if (!signal.aborted) renderPanels(found, sought);
  });
}

function renderChoices(listed, sought) {
  const few = listed.axes.filter((axis) => axis.name !== "seed" && axis.n_values > 1 && axis.n_values <= MOST_FIRST).map((axis) => axis.name);
  const known = (name) => name === "" || listed.axes.some((axis) => axis.name === name);
  if (sought.panel === null || !known(sought.panel)) sought.panel = few.find((name) => name !== sought.colour) ?? "";
  if (sought.colour === null || !known(sought.colour)) sought.colour = few.find((name) => name !== sought.panel) ?? "";
  if (!known(sought.x)) sought.x = "";
  const choices = (id, none, axes, value) => {
    put(byId(id), el("option", { value: "" }, none), ...axes.map((axis) => el("option", { value: axis.name }, `${axis.name} (${axis.n_values})`)));
    byId(id).value = value;
  };
  choices("panels-panel", "none: one panel", listed.axes, sought.panel);
  choices("panels-colour", "none: one line", listed.axes, sought.colour);
  choices("panels-x", "its own course", listed.axes.filter((axis) => axis.numeric), sought.x);
}

function renderPanels(found, sought) {
  const indexOf = (value) => found.colours.indexOf(value);
  const name = (setting, value) => (setting ? `${setting.split(".").at(-1)} ${value || "–"}` : "");
  const panels = found.panels.map((panel) => ({
    title: name(found.panel, panel.value),
    lines: panel.lines.map((line) => ({ ...line, y: line.mean, index: indexOf(line.value), name: name(found.colour, line.value) })),
  }));
  const all = panels.flatMap((panel) => panel.lines);
  const values = all.flatMap((line) => line.y).filter((one) => one != null);
  const log = sought.log ?? isWide(values);
  // An interval that reaches towards zero must not squeeze the means on a logarithmic axis.
  const yRange = rangeOf(log ? values : all.flatMap(drawnOf), log);
  const xRange = rangeOf(all.flatMap((line) => line.x), false);
  const count = (name) => all.reduce((sum, line) => sum + line[name], 0);
  const [left, partial] = [count("n_left_out"), count("n_partial")];
  const runs = (n, one, several) => `${n.toLocaleString("en")} ${n === 1 ? `run is ${one}` : `runs are ${several}`}`;
  put(
    byId("panels"),
    found.colour ? legend(found.colours.map((value) => ({ index: indexOf(value), name: `${found.colour} ${value || "–"}` }))) : null,
    el(
      "div",
      { class: "multiples" },
      ...panels.map((panel) =>
        el(
          "div",
          {},
          panel.title ? el("h3", {}, panel.title) : null,
          lineChart(panel.lines, { width: 380, height: 230, log, xName: found.x_name, yName: found.metric, xRange, yRange }),
        ),
      ),
    ),
    el("p", { class: "note" }, `${found.n_runs.toLocaleString("en")} runs${log ? ", on a logarithmic axis" : ""}.`),
    left ? el("p", { class: "note" }, `${runs(left, "left out: it has", "left out: they have")} no finite ${found.metric}, or cannot be read.`) : null,
    partial ? el("p", { class: "note broken" }, `${runs(partial, "in the mean at some places only: it has", "in the mean at some places only: they have")} no finite ${found.metric} at the others. Where a mean is over fewer runs, pointing at it says so.`) : null,
    found.also_over.length
      ? el("p", { class: "note broken" }, `The runs of a line differ in ${found.also_over.join(", ")} too: the mean is over these as well, and the interval is none over seeds. Narrow the runs by a condition to compare like with like.`)
      : null,
  );
}

export function startPanels(sought, again) {
  for (const name of ["panel", "colour", "x"]) {
    byId(`panels-${name}`).addEventListener("change", (event) => {
      sought[name] = event.target.value;
      again();
    });
  }
}
