// The statements of a response, each with the sources that it rests on and those that oppose it.

import { byId, el, oneLine, put } from "./elements.js";
import { percent, signed } from "./numbers.js";

const MOST_SAID = 160; // characters of a statement
const MOST_NAMED = 60; // of a source's name
const MOST_PIECE = 100; // of a piece of it

/** Lists the citations of an explanation; a response of one statement has its conclusion alone. */
export function renderCitations(explanation) {
  const cited = explanation?.citations ?? [];
  byId("cited").hidden = cited.length < 2;
  put(byId("cited-list"), ...(cited.length < 2 ? [] : cited.map(statementNode)));
}

function statementNode(one) {
  const grounded = one.context_share === null ? null : `; ${percent(one.context_share)} of its probability from the sources`;
  return el(
    "li",
    {},
    el("bdi", { class: "statement" }, oneLine(one.statement.trim(), MOST_SAID)),
    el("span", { class: "faint number" }, ` log-probability ${signed(one.log_probability)} nats`, grounded),
    one.sources.length ? el("p", {}, "rests on ", ...listed(one.sources, (source) => `${signed(source.score)}, ${percent(source.share)}`)) : el("p", {}, "rests on no source"),
    one.opposed_by.length ? el("p", {}, "opposed by ", ...listed(one.opposed_by, (source) => signed(source.score))) : null,
  );
}

function listed(sources, said) {
  return sources.flatMap((source, i) => [
    i ? "; " : null,
    el("bdi", {}, oneLine(source.name, MOST_NAMED)),
    el("span", { class: "number" }, ` (${said(source)})`),
    ...source.pieces.slice(0, 1).map((piece) => el("span", { class: "faint" }, " in ", el("bdi", {}, `‘${oneLine(piece.text.trim(), MOST_PIECE)}’`))),
  ]);
}
