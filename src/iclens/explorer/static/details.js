// Every number of an explanation, in tables: all scores, the rest of the prompt, the checks, and what made them.

import { bar, byId, el, oneLine, put } from "./elements.js";
import { called, noun, nouns, quantity, shortName } from "./names.js";
import { largest, percent, plain, signed } from "./numbers.js";
import { BY_TOKEN, OF_THE_REST, isInNats, nameOf, scoreOf } from "./scores.js";
import { head, numberTable } from "./tables.js";

const OTHERS = {
  first: "First token of the text (attention sink)",
  instruction: "Instruction",
  separator: "Separators between the parts",
  special: "Special tokens, such as the marks of a chat",
  query: "The query itself",
  answer: "Tokens of the answer before the one that is read",
  learned_sinks: "Learned sinks, training pairs with target 0",
  biases: "What the model adds whatever the prompt",
  entropy: "Minus the entropy of the predictions, which no token brings",
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
    ...scores(explanation),
    ...outputs(explanation),
    ...others(explanation.others, explanation.scores),
    ...likely(seen),
    ...agreement(explanation.agreement),
    ...groups(explanation.group_knock_outs),
    ...faithfulness(explanation.faithfulness),
    ...checks(explanation),
    ...madeBy(explanation, seen),
  );
}

function scores(explanation) {
  const { sources } = explanation;
  // A budget of passes deletes the text of some sources, which is no score of all.
  const deleted = sources.some((one) => one.rerun_margin_change != null) && !explanation.scores.includes("rerun") ? ["rerun"] : [];
  const columns = [...explanation.scores, ...deleted].flatMap((score) => [
    { name: nameOf(score), of: (one) => scoreOf(one, score), isAdditive: BY_TOKEN.includes(score) },
    ...(score === "knock_out" ? [{ name: "knock-out, log-prob.", of: (one) => one.knock_out.log_probability_change }] : []),
  ]);
  const measures = columns.map((one) => ({ ...one, most: largest(sources.map(one.of)) }));
  const [first] = columns;
  const ranked = [...sources].sort((a, b) => first.of(b) - first.of(a));
  return [
    el("h3", {}, `${capital(nouns())}, from the strongest support by ${first.name}`),
    el("p", { class: "note" }, `${unitOf(explanation)}: positive supports the answer. Bars fill each column by its own largest value. ${taken(explanation)}`),
    el(
      "table",
      { class: "ranked scores" },
      head([noun() === "demonstration" ? "#" : "name", noun() === "demonstration" ? noun() : "text", ...measures.map((one) => one.name)]),
      el(
        "tbody",
        {},
        ...ranked.map((one) =>
          el(
            "tr",
            {},
            el("th", { scope: "row" }, shortName(one)),
            el("td", { class: "text" }, el("bdi", {}, oneLine(one.text, MOST_NAMED)), " ", el("span", { class: "faint" }, `${one.n_tokens} ${one.n_tokens === 1 ? "token" : "tokens"}`)),
            ...measures.map((column) => measure(column.name, column.of(one), column.most)),
          ),
        ),
      ),
      together(sources, columns),
    ),
  ];
}

function unitOf(explanation) {
  return explanation.scores.every(isInNats) ? `In nats of the ${quantity()}` : "Each score in its own unit";
}

/** The sums of the scores that may be summed. */
function together(sources, columns) {
  if (!columns.some((one) => one.isAdditive)) return null;
  const sum = (of) => sources.reduce((all, one) => all + (of(one) ?? 0), 0);
  const cell = ({ name, of, isAdditive }) => (isAdditive ? el("td", { "data-name": name }, el("span", { class: "number" }, signed(sum(of)))) : el("td"));
  return el("tfoot", {}, el("tr", {}, el("td"), el("th", { scope: "row", class: "text" }, "all together"), ...columns.map(cell)));
}

/** Where the influence was taken. */
function taken(explanation) {
  const { influence_at: at, edges } = explanation;
  if (!at) return "";
  const whose = edges === "query" ? "the query’s tokens" : "all later tokens";
  const weight = at.weight === 0.5 ? "half" : `1/${Math.round(1 / at.weight)} of`;
  return `Influence counts per unit of weight, where every ${noun()} has ${weight} its weight in the attention of ${whose}; the ${quantity()} is ${signed(at.margin)} there.`;
}

/** What comes from the tokens of the outputs. */
function outputs({ sources, scores }) {
  const columns = scores.filter((score) => sources.some((one) => score in (one.of_output ?? {})));
  if (!columns.length) return [];
  const rows = sources.map((one) => [shortName(one), ...columns.map((score) => signed(one.of_output[score]))]);
  return [
    ...numberTable(`What comes from the outputs of the ${nouns()}`, [noun(), ...columns.map(nameOf)], rows),
    el("p", { class: "note" }, "The part of each score that the tokens of the output (the label) bring; the rest comes from the input."),
  ];
}

function others(parts, scores) {
  const columns = OF_THE_REST.filter((score) => scores.includes(score));
  if (!parts.length || !columns.length) return [];
  const most = columns.map((score) => largest(parts.map((one) => one[score])));
  return [
    el("h3", {}, "The rest of the prompt"),
    el("p", { class: "note" }, `These parts set where the dual models start, before any ${noun()} is learnt.`),
    el(
      "table",
      { class: "ranked narrow" },
      head(["part", ...columns.map(nameOf)]),
      el(
        "tbody",
        {},
        ...parts.map((one) =>
          el("tr", {}, el("th", { scope: "row", class: "text" }, OTHERS[one.name] ?? oneLine(one.name)), ...columns.map((score, i) => measure(nameOf(score), one[score], most[i]))),
        ),
      ),
    ),
  ];
}

function likely(seen) {
  const candidates = seen.candidates.map((one) => [el("bdi", {}, oneLine(one.text, 80)), percent(one.probability), plain(one.log_probability)]);
  const tokens = seen.next_tokens.map((one) => [el("code", {}, oneLine(one.text, 40)), percent(one.probability), plain(one.logit)]);
  return [
    ...(candidates.length ? numberTable("Candidate answers", ["candidate", "probability", "log-probability"], candidates) : []),
    ...numberTable("Most likely next tokens", ["token", "probability", "logit"], tokens),
  ];
}

function agreement(pairs) {
  if (!pairs.length) return [];
  const rows = pairs.map((one) => [`${nameOf(one.first)} and ${nameOf(one.second)}`, one.spearman === null ? "undefined" : plain(one.spearman), `${percent(one.top_k)} of ${one.k}`]);
  return numberTable("How far the scores agree", ["scores", "rank correlation", "shared at the top"], rows);
}

function groups(found) {
  if (!found.length) return [];
  const rows = found.map((one) => [one.demonstrations.map(called).join(", "), signed(one.margin), signed(one.margin_change), signed(one.log_probability_change)]);
  return numberTable("Groups knocked out together", ["without", quantity(), "knock-out", "knock-out, log-prob."], rows);
}

function faithfulness(tests) {
  if (!tests.length) return [];
  const rows = tests.map((one) => [nameOf(one.method), one.lds === null ? "undefined" : plain(one.lds), `${signed(one.margin_drop)} (top ${one.k})`]);
  return [
    ...numberTable("How well the scores predict shorter prompts", ["score", "LDS", `${quantity()} lost without the top`], rows),
    el("p", { class: "note" }, `LDS: rank correlation of summed scores with the model's ${quantity()} over ${tests[0].n_subsets} random subsets of the ${nouns()}, the text of the others removed.`),
  ];
}

function checks(explanation) {
  const rows = explanation.residuals.map((one) => [oneLine(one.name), one.value === null ? "not a number" : plain(one.value), plain(one.tolerance), one.holds ? "✓ holds" : "✗ exceeded"]);
  const whole = explanation.completeness;
  if (whole) {
    const name = `shares against what the ${nouns()} change, at ${whole.weights.length} weights`;
    rows.push([name, plain(whole.gap), plain(whole.tolerance), whole.gap <= whole.tolerance ? "✓ complete" : "✗ incomplete"]);
  }
  const notes = explanation.notes.map((note) => el("li", {}, oneLine(note)));
  return [
    ...numberTable("Checks against the model", ["compared", "relative difference", "tolerance", "verdict"], rows, (row) => (row[3] === "✗ exceeded" ? "broken" : null)),
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

function capital(word) {
  return word.slice(0, 1).toUpperCase() + word.slice(1);
}

function measure(name, value, most) {
  return el("td", { "data-name": name }, el("span", { class: "number" }, signed(value)), bar(value ?? 0, most));
}
