// What is within a source: its sentences, lines or paragraphs, with what each does.

import { el, oneLine, put } from "./elements.js";
import { colour, largest, signed } from "./numbers.js";
import { nameOf } from "./scores.js";

const MOST_SHOWN = 400; // characters of a piece

/** How pieces are shown, of whatever source: by the chosen score, or by the first that is known of pieces; and their largest number. */
export function scaleOf(sources, chosen) {
  const pieces = sources.flatMap((one) => one.pieces ?? []);
  const known = Object.keys(pieces[0]?.scores ?? {});
  const score = known.includes(chosen) ? chosen : (known[0] ?? chosen);
  return { score, isOther: score !== chosen, most: largest(pieces.map((one) => one.scores[score] ?? 0)) };
}

/** The pieces of one source with their part of a score; those that were really deleted say what that changed. A source of one piece is that piece. */
export function renderPieces(list, pieces, { score, isOther, most }) {
  const shown = pieces.length > 1 ? pieces : [];
  put(list, ...shown.map((one) => pieceOf(one, score, most)));
  if (isOther && shown.length) list.prepend(el("li", { class: "faint" }, `by ${nameOf(score)}`));
}

function pieceOf(one, score, most) {
  const value = one.scores[score] ?? null;
  const removed = one.rerun_margin_change;
  const item = el(
    "li",
    {},
    el("span", { class: "faint" }, `${oneLine(one.kind, 40)} ${one.index}`),
    el("bdi", {}, oneLine(one.text, MOST_SHOWN)),
    el(
      "span",
      { class: "number", title: value === null ? `There is no ${nameOf(score)} of pieces` : nameOf(score) },
      value === null ? "–" : signed(value),
      removed == null ? null : el("span", { class: "faint" }, ` removed ${signed(removed)}`),
    ),
  );
  colour(item, value, most);
  return item;
}
