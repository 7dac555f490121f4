// Every number of an explanation, in tables: all scores, what is no demonstration, the checks, and what made them.

import { bar, byId, el, oneLine, put } from "./elements.js";
import { largest, percent, plain, signed } from "./numbers.js";

const METHODS = { gradient_step: "gradient step", path: "path", knock_out: "knock-out", rerun: "rerun" };
const OTHERS = {
  instruction: "Instruction before the demonstrations",
  separator: "Separators between the parts",
  special: "Special tokens, such as the beginning of the text",
  query: "The query itself",
  answer: "Tokens of the answer before the one that is read",
  biases: "What the model adds whatever the prompt",
};
const MOST_NAMED = 160;

/** What must be read before anything else: a check that failed. */
export function renderDistrust(explanation) {
  const broken = explanation === null ? [] : explanation.residuals.filter((one) => !one.holds);
  byId("distrust").hidden = broken.length === 0;
  put(
    byId("distrust-list"),
    ...broken.map((one) => el("li", {}, `${oneLine(one.name)}: ${one.value === null ? "not a number" : plain(one.value)}, at most ${plain(one.tolerance)} is accepted`)),
  );
}

/** All tables; without an explanation, what is still being computed. */
export function renderDetails(explanation, seen) {
  renderDistrust(explanation);
  if (explanation === null) return byId("details").classList.add("stale");
  byId("details").classList.remove("stale");
  put(
    byId("details"),
    ...scores(explanation.demonstrations),
    ...others(explanation.others),
    ...likely(seen),
    ...agreement(explanation.agreement),
    ...groups(explanation.group_knock_outs),
    ...faithfulness(explanation.faithfulness),
    ...checks(explanation),
    ...madeBy(explanation, seen),
  );
}

function scores(demonstrations) {
  const columns = {
    "gradient step": (one) => one.gradient_step,
    path: (one) => one.path,
    "knock-out, margin": (one) => one.knock_out.margin_change,
    "knock-out, log-prob.": (one) => one.knock_out.log_probability_change,
  };
  if (demonstrations.some((one) => one.rerun_margin_change != null)) columns["rerun, margin"] = (one) => one.rerun_margin_change;
  const measures = Object.entries(columns).map(([name, of]) => ({ name, of, most: largest(demonstrations.map(of)) }));
  const ranked = [...demonstrations].sort((a, b) => b.gradient_step - a.gradient_step);
  return [
    el("h3", {}, "Demonstrations, from the strongest support"),
    el("p", { class: "note" }, "In nats of the margin. Bars fill each column by its own largest value."),
    el(
      "table",
      { class: "ranked scores" },
      head(["#", "demonstration", ...measures.map((one) => one.name)]),
      el(
        "tbody",
        {},
        ...ranked.map((one) =>
          el(
            "tr",
            {},
            el("th", { scope: "row" }, `#${one.index}`),
            el("td", { class: "text" }, el("bdi", {}, oneLine(one.text, MOST_NAMED)), " ", el("span", { class: "faint" }, `${one.n_tokens} ${one.n_tokens === 1 ? "token" : "tokens"}`)),
            ...measures.map((column) => measure(column.name, column.of(one), column.most)),
          ),
        ),
      ),
    ),
  ];
}

function others(parts) {
  if (!parts.length) return [];
  const [steps, paths] = [largest(parts.map((one) => one.gradient_step ?? 0)), largest(parts.map((one) => one.path))];
  return [
    el("h3", {}, "What is no demonstration"),
    el("p", { class: "note" }, "These parts set the initialisation ", el("i", {}, "W"), el("sub", {}, "0"), " of the dual models, before any demonstration is learnt. In nats of the margin."),
    el(
      "table",
      { class: "ranked narrow" },
      head(["part", "gradient step", "path"]),
      el(
        "tbody",
        {},
        ...parts.map((one) =>
          el("tr", {}, el("th", { scope: "row", class: "text" }, OTHERS[one.name] ?? oneLine(one.name)), measure("gradient step", one.gradient_step, steps), measure("path", one.path, paths)),
        ),
      ),
    ),
  ];
}

function likely(seen) {
  const candidates = seen.candidates.map((one) => [el("bdi", {}, oneLine(one.text, 80)), percent(one.probability), plain(one.log_probability)]);
  const tokens = seen.next_tokens.map((one) => [el("code", {}, oneLine(one.text, 40)), percent(one.probability), plain(one.logit)]);
  return [
    ...(candidates.length ? table("Candidate answers", ["candidate", "probability", "log-probability"], candidates) : []),
    ...table("Most likely next tokens", ["token", "probability", "logit"], tokens),
  ];
}

function agreement(pairs) {
  if (!pairs.length) return [];
  const name = (one) => METHODS[one] ?? oneLine(one);
  const rows = pairs.map((one) => [`${name(one.first)} and ${name(one.second)}`, one.spearman === null ? "undefined" : plain(one.spearman), `${percent(one.top_k)} of ${one.k}`]);
  return table("How far the ways to score agree", ["ways", "rank correlation", "shared at the top"], rows);
}

function groups(found) {
  if (!found.length) return [];
  const rows = found.map((one) => [one.demonstrations.map((i) => `#${i}`).join(", "), signed(one.margin), signed(one.margin_change), signed(one.log_probability_change)]);
  return [
    ...table("Groups knocked out together", ["without", "margin", "change", "log-probability"], rows),
    el("p", { class: "note" }, "Changes are full minus knocked out: positive means that the group supported the answer."),
  ];
}

function faithfulness(tests) {
  if (!tests.length) return [];
  const rows = tests.map((one) => [METHODS[one.method] ?? oneLine(one.method), one.lds === null ? "undefined" : plain(one.lds), `${signed(one.margin_drop)} (top ${one.k})`]);
  return [
    ...table("How well the scores foretell other prompts", ["way", "LDS", "margin lost without the top"], rows),
    el("p", { class: "note" }, `LDS: rank correlation of summed scores with the model's margin over ${tests[0].n_subsets} random subsets of the demonstrations, the others' text deleted.`),
  ];
}

function checks(explanation) {
  const rows = explanation.residuals.map((one) => [oneLine(one.name), one.value === null ? "not a number" : plain(one.value), plain(one.tolerance), one.holds ? "✓ holds" : "✗ exceeded"]);
  const notes = explanation.notes.map((note) => el("li", {}, oneLine(note)));
  return [
    ...table("Checks against the model", ["compared", "relative difference", "tolerance", "verdict"], rows, (row) => (row[3].startsWith("✗") ? "broken" : null)),
    ...(notes.length ? [el("ul", { class: "note" }, ...notes)] : []),
  ];
}

function madeBy(explanation, seen) {
  const { model, cost } = explanation;
  const seconds = Object.entries(cost.seconds).map(([stage, time]) => `${oneLine(stage)} ${plain(time)} s`);
  const context = model.context_length === null ? "no context limit" : `context of ${model.context_length.toLocaleString("en")} tokens`;
  return [
    el("h3", {}, "Made by"),
    el(
      "p",
      { class: "note" },
      `${oneLine(model.name)}: ${oneLine(model.family)}, ${model.n_layers} layers of ${model.n_heads} heads, ${model.n_parameters.toLocaleString("en")} parameters, ${oneLine(model.dtype)}, ${context}. ` +
        `The prompt has ${seen.n_tokens.toLocaleString("en")} tokens. Cost: ${plain(cost.forward_passes)} forward and ${plain(cost.backward_passes)} backward passes${seconds.length ? `; ${seconds.join(", ")}` : ""}. Schema ${explanation.schema_version}.`,
    ),
  ];
}

/** A table under its title; the first column names the row, the others are numbers. */
function table(title, columns, rows, style = () => null) {
  return [
    el("h3", {}, title),
    el(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": title },
      el(
        "table",
        { class: "list detail" },
        head(columns, true),
        el("tbody", {}, ...rows.map((row) => el("tr", { class: style(row) }, el("th", { scope: "row" }, row[0]), ...row.slice(1).map((cell) => el("td", { class: "number" }, cell))))),
      ),
    ),
  ];
}

function head(names, numbers = false) {
  return el("thead", {}, el("tr", {}, ...names.map((name, i) => el("th", { scope: "col", class: numbers && i ? "number" : null }, name))));
}

function measure(name, value, most) {
  return el("td", { "data-name": name }, el("span", { class: "number" }, signed(value)), bar(value ?? 0, most));
}
