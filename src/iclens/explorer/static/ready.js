// Prompts that are ready to be looked at, and where a saved page comes from.

import { byId, el, oneLine, put } from "./elements.js";
import { change, given, isSaved, state, takeOver } from "./state.js";

const known = new Map(); // of what was asked, the place of its prompt in the list

/** What makes a prompt the same: views of it, and sources that are switched off, play no part. */
function asked() {
  const { document: whole, instruction, demonstrations, query, answers, response } = state;
  const text = whole ?? [instruction, demonstrations.map((one) => one.text), query];
  return JSON.stringify([text, answers, response]);
}

/** Offers the prompts, each with a sentence that says what it is about. */
export function startReady() {
  if (isSaved) return renderOrigin();
  const prompts = given.ready ?? [];
  byId("ready-tools").hidden = !prompts.length;
  put(byId("ready"), ...prompts.map((one, i) => el("option", { value: i }, one.name)));
  byId("ready").addEventListener("change", () => {
    const i = byId("ready").selectedIndex;
    change("all", () => {
      takeOver(prompts[i].ask);
      isReady(i);
    });
  });
}

/** Keeps in mind that what is asked now is one of the list. */
export function isReady(i) {
  known.set(asked(), i);
}

/** Shows which of the list is asked now; none, where it was edited. */
export function renderReady() {
  if (isSaved) return;
  const i = known.get(asked()) ?? -1;
  byId("ready").selectedIndex = i;
  byId("ready-caption").textContent = given.ready?.[i]?.caption ?? "";
}

/** Of a saved page: the model and the date. */
function renderOrigin() {
  const { model, date } = given;
  byId("saved-of").hidden = false;
  byId("saved-of").textContent = [oneLine(model.name.split(/[\\/]/).filter(Boolean).at(-1) ?? model.name), date].filter(Boolean).join(" · ");
}
