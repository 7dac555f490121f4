// What the page calls the sources and the explained number: by what they are, as the question that was answered says.

import { oneLine } from "./elements.js";

const MOST = 60; // characters of a source's name

let spoken = { noun: "demonstration", quantity: "logit difference", sources: [] };

/** From here on the page speaks of this question's sources and number, in its fixed sentences, too. */
export function speakOf(seen) {
  spoken = { noun: seen.noun, quantity: quantityOf(seen.response), sources: seen.sources };
  const words = { noun: noun(), nouns: nouns(), quantity: quantity() };
  for (const [style, word] of Object.entries(words)) for (const node of document.querySelectorAll(`.${style}`)) node.textContent = word;
}

/** "demonstration", "document", …; "source" where there are several kinds. */
export function noun() {
  return spoken.noun;
}

export function nouns() {
  return `${spoken.noun}s`;
}

/** What the explained number is called. */
export function quantity() {
  return spoken.quantity;
}

function quantityOf(response) {
  if (!response) return "logit difference";
  if (response.foil !== null) return "log-probability difference";
  return response.measure === "logit" ? "logit of the probability" : "log-probability";
}

/** A source's name: "demonstration 4", "document animals". */
export function longName({ name, index }) {
  return name ? oneLine(name, MOST) : `demonstration ${index}`;
}

/** A demonstration by its number, #4, any other source by its name. */
export function shortName({ name, index }) {
  return !name || name === `demonstration ${index}` ? `#${index}` : oneLine(name, MOST);
}

/** The short name of one of the question's sources. */
export function called(index) {
  return shortName(spoken.sources[index] ?? { index });
}
