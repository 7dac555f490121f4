// The answer: probabilities with all sources, and without those that are off.

import { bar, byId, el, oneLine, put, share } from "./elements.js";
import { called, nouns, quantity } from "./names.js";
import { largest, percent, plain, signed } from "./numbers.js";
import { nameOf, scoreOf } from "./scores.js";
import { queryOf } from "./state.js";

const MOST_NEXT = 6;
const MOST_ASKED = 160; // characters of the question
const [MOST_MATTER, MATTERS, MOST_TEXT] = [3, 0.05, 200]; // sources on either side that matter, over the largest score, and their characters
const MOST_SAID = 400; // characters of a sentence

export function renderAnswer(seen) {
  const { without } = seen;
  byId("answer").textContent = oneLine(seen.answer.trim() || seen.answer, 60);
  byId("chance").textContent = seen.response ? "" : percent(seen.probability);
  renderAsked(seen);
  byId("answer-title").textContent = seen.response ? "What it rests on" : "Answer";
  document.title = `${oneLine(seen.answer.trim() || seen.answer, 60)} · iclens`;
  put(byId("margin"), el("b", {}, `${signed(seen.margin)} nats`), ` is its ${quantity()}. ${oneLine(seen.margin_definition, 300)}`);
  const names = without && without.demonstrations.map(called).join(", ");
  const candidates = seen.candidates.length > 0;
  const all = candidates ? seen.candidates : seen.next_tokens.slice(0, MOST_NEXT);
  const less = without && (candidates ? without.measured.candidates : without.measured.next_tokens);
  const key = (one) => (candidates ? one.text : one.token_id);
  const left = (one) => less?.find((other) => key(other) === key(one))?.probability;
  put(
    byId("odds-head"),
    el(
      "tr",
      {},
      el("th", { scope: "col" }, candidates ? "candidate" : "next token"),
      el("th", { scope: "col" }),
      el("th", { scope: "col", class: "number" }, without ? "with all" : ""),
      without ? el("th", { scope: "col", class: "number" }, "without") : null,
    ),
  );
  put(
    byId("odds"),
    ...all.map((one) =>
      el(
        "tr",
        { class: one.chosen ? "chosen" : null },
        el(
          "th",
          { scope: "row" },
          candidates ? el("bdi", {}, oneLine(one.text, 40)) : el("code", {}, oneLine(one.text, 40)),
          one.chosen ? el("span", { class: "mark" }, "explained") : null,
        ),
        el("td", {}, without ? share(left(one) ?? 0, one.probability) : share(one.probability)),
        el("td", { class: "number" }, percent(one.probability)),
        without ? el("td", { class: "number strong" }, percent(left(one))) : null,
      ),
    ),
  );
  const turned = less && likeliest(less);
  renderChanged(names, less && likeliest(all), turned, key);
  renderInSight(seen, names, turned && key(turned) !== key(likeliest(all)) ? turned : null);
  renderWithout(seen, names);
}

/** The question, for those who see the answer first: of a chat the message, without the marks of roles around it. */
function renderAsked(seen) {
  const read = seen.tokens.filter((one) => one.role === "query").map((one) => one.text).join("").trim();
  const asked = queryOf().text.trim() || read;
  put(byId("asked"), el("span", { class: "unseen" }, "Asked: "), oneLine(asked, MOST_ASKED));
}

/** The answer in one line, which a small screen keeps in sight of the switches. */
function renderInSight(seen, names, turned) {
  const said = el("b", {}, oneLine(seen.answer.trim() || seen.answer, 30));
  const { without } = seen;
  if (!without) return put(byId("in-sight"), said, ` ${seen.response ? `${signed(seen.margin)} nats` : percent(seen.probability)}`);
  const now = turned ? [el("b", { class: "turned-to" }, oneLine(turned.text.trim() || turned.text, 30)), ` ${percent(turned.probability)}`] : [said, ` ${seen.response ? `${signed(without.measured.margin)} nats` : percent(without.measured.probability)}`];
  return put(byId("in-sight"), el("span", { class: "faint" }, `without ${oneLine(names, 20)}: `), ...now);
}

/** The few sources that matter most by the first score, with their effect beside the text: what supports the answer, then what opposes it. */
export function renderMatter(explanation) {
  const score = explanation?.scores[0];
  const known = (explanation?.sources ?? []).filter((one) => scoreOf(one, score) !== null);
  const most = largest(known.map((one) => scoreOf(one, score)));
  const ranked = known.filter((one) => Math.abs(scoreOf(one, score)) >= MATTERS * most && most > 0).sort((a, b) => scoreOf(b, score) - scoreOf(a, score));
  const few = [...ranked.filter((one) => scoreOf(one, score) > 0).slice(0, MOST_MATTER), ...ranked.filter((one) => scoreOf(one, score) < 0).slice(-MOST_MATTER)];
  byId("matter").hidden = !few.length;
  byId("matter").setAttribute("aria-label", `The ${nouns()} that matter most, by ${nameOf(score ?? "")}`);
  put(
    byId("matter"),
    ...few.map((one) => {
      const value = scoreOf(one, score);
      return el(
        "li",
        {},
        el("b", {}, called(one.index)),
        el("bdi", { title: oneLine(one.text.trim(), MOST_TEXT) }, oneLine(one.text.trim(), MOST_TEXT)),
        el("span", { class: "number" }, signed(value)),
        bar(value, most),
      );
    }),
  );
}

function likeliest(answers) {
  return answers.reduce((best, one) => (one.probability > best.probability ? one : best));
}

/** Says what is likeliest now, when it was not before. */
function renderChanged(names, before, now, key) {
  const turned = now && key(now) !== key(before);
  put(byId("changed"), turned ? el("span", { class: "turned" }, `without ${names}: `, el("bdi", {}, oneLine(now.text.trim() || now.text, 40))) : null);
}

function renderWithout(seen, names) {
  const { without } = seen;
  byId("without").hidden = !without;
  if (!without) return;
  byId("without-title").textContent = `Without ${names}`;
  const row = (name, margin, probability, style) =>
    el(
      "tr",
      { class: style },
      el("th", { scope: "row" }, ...name),
      el("td", { class: "number" }, signed(margin)),
      el("td", { class: "number" }, percent(probability)),
    );
  put(
    byId("without-rows"),
    row([`with all ${nouns()}`], seen.margin, seen.probability),
    row(
      [`estimated by the knock-out `, el("span", { class: "faint" }, `off by ${signed(without.estimated.error)}`)],
      without.estimated.margin,
      without.estimated.probability,
    ),
    row(["text removed, model run again"], without.measured.margin, without.measured.probability, "strong"),
  );
}

/** What the numbers say, in words; nothing, in as much room, while they are computed. */
export function renderConclusion(explanation) {
  renderGrounding(explanation?.grounding ?? null, Boolean(explanation?.response));
  renderMatter(explanation);
  const node = byId("conclusion");
  node.style.minHeight = explanation === null ? `${node.offsetHeight}px` : "";
  put(node, ...(explanation?.conclusion ?? []).flatMap((sentence) => [el("span", {}, oneLine(sentence, MOST_SAID)), " "]));
}

/** What the model says without the text of any source, and which part of the answer's probability the sources bring. */
function renderGrounding(grounding, isResponse) {
  byId("grounding").hidden = grounding === null;
  if (grounding === null) return;
  const said = oneLine(grounding.answer.trim() || grounding.answer, 60);
  put(
    byId("grounding"),
    el("div", {}, el("dt", {}, `From the ${nouns()}`), el("dd", {}, el("span", { class: "number" }, percent(grounding.share)), share(grounding.share))),
    el("div", {}, el("dt", {}, isResponse ? "Without them it begins with" : "Without them the model says"), el("dd", {}, el("bdi", {}, `‘${said}’`), el("span", { class: "faint number" }, ` ${percent(grounding.probability)}`))),
  );
}

/** The checks of the whole explanation, or what is still being computed. */
export function renderChecks(explanation) {
  const node = byId("checks");
  node.classList.toggle("broken", explanation !== null && !explanation.exact);
  if (explanation === null) return put(node, "Checking the numbers against the model …");
  const worst = explanation.residuals.reduce((most, one) => Math.max(most, one.value ?? Infinity), 0);
  const n = explanation.residuals.length;
  if (explanation.exact) {
    const held = n === 1 ? "The check" : `All ${n} checks`;
    const off = n === 1 ? "relative difference" : "largest relative difference";
    return put(node, `✓ ${held} against the model ${n === 1 ? "holds" : "hold"}; the ${off} is ${plain(worst)}.`);
  }
  const broken = explanation.residuals.filter((one) => !one.holds).map((one) => one.name);
  return put(node, `✗ Do not trust these numbers. Beyond the tolerance: ${broken.join("; ")}.`);
}
