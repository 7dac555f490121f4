// The scores of an explanation: what they are called, and where each stands in its JSON.

import { oneLine } from "./elements.js";

const NAMES = { gradient_step: "direct effect", path: "total effect", knock_out: "knock-out", rerun: "text removed" };
const WAYS = { gradient_step: " (gradient step)", path: " (path)" };

/** Scores that every token has; the others are of whole demonstrations. */
export const BY_TOKEN = ["gradient_step", "path"];

/** A score's name in few words. */
export function nameOf(score) {
  return NAMES[score] ?? oneLine(score.replaceAll("_", " "), 40);
}

/** A score's name with the way that it is computed. */
export function fullNameOf(score) {
  return nameOf(score) + (WAYS[score] ?? "");
}

/** A demonstration's score, in nats; null where it was not computed. */
export function scoreOf(source, score) {
  if (score === "knock_out") return source.knock_out?.margin_change ?? null;
  if (score === "rerun") return source.rerun_margin_change ?? null;
  return source[score] ?? source.scores?.[score] ?? null;
}
