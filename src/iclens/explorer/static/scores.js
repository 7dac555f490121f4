// The scores of an explanation: what they are called, and where each stands in its JSON.

import { oneLine } from "./elements.js";
import { given } from "./state.js";

/** What scores are called, in which unit they are, and which map by heads stands beside them: the explanation says so. */
const NAMES = new Map((given.score_names ?? given.explanation?.score_names ?? []).map((one) => [one.score, one]));

/** Scores with respect to training weights, which tokens outside the sources do not have. */
const BY_WEIGHT = ["influence", "shares"];

/** Scores that every token may have; the others are of whole sources. */
export const BY_TOKEN = [...BY_WEIGHT, "gradient_step", "path"];

/** Scores that are known for each head, the one that stands in for the others first. */
export const BY_HEAD = ["gradient_step", ...BY_WEIGHT];

/** The score whose parts by head stand beside a score. */
export function beside(score) {
  return NAMES.get(score)?.map ?? score;
}

/** Scores that the rest of the prompt has, too. */
export const OF_THE_REST = ["gradient_step", "path"];

/** A score's name in few words. */
export function nameOf(score) {
  return NAMES.get(score)?.short ?? oneLine(score.replaceAll("_", " "), 40);
}

/** A score's name with the way that it is computed. */
export function fullNameOf(score) {
  return NAMES.get(score)?.long ?? nameOf(score);
}

/** Whether a score is in nats; further methods have units of their own, such as attention weights. */
export function isInNats(score) {
  return Boolean(NAMES.get(score)?.unit);
}

/** A size with the unit of its score. */
export function withUnit(text, score) {
  return isInNats(score) ? `${text} ${NAMES.get(score).unit}` : text;
}

/** A source's score; null where it is not known. */
export function scoreOf(source, score) {
  if (score === "knock_out") return source.knock_out?.margin_change ?? null;
  if (score === "rerun") return source.rerun_margin_change ?? null;
  return source[score] ?? source.scores?.[score] ?? null;
}

/** A token's part of a score; null where it is not known. */
export function ofToken(token, score) {
  return token[score] ?? token.scores?.[score] ?? null;
}

/** A score by layer and head, of a source or of all; null where it is not known. */
export function mapOf(holder, score) {
  const rows = score === "gradient_step" ? holder.by_layer_and_head : holder.maps?.[score];
  return rows?.length ? rows : null;
}
