// Prompts that are ready to be looked at, and where a saved page comes from.

import { byId, el, oneLine, put } from "./elements.js";
import { change, given, isSaved, takeOver } from "./state.js";

/** Offers the prompts, each with a sentence that says what it is about. */
export function startReady() {
  if (isSaved) return renderOrigin();
  const prompts = given.ready ?? [];
  byId("ready-tools").hidden = !prompts.length;
  put(byId("ready"), ...prompts.map((one, i) => el("option", { value: i }, one.name)));
  const tell = () => (byId("ready-caption").textContent = prompts[byId("ready").value]?.caption ?? "");
  byId("ready").addEventListener("change", () => {
    tell();
    change("all", () => takeOver(prompts[byId("ready").value].ask));
  });
  tell();
}

/** Of a saved page: the model and the date. */
function renderOrigin() {
  const { model, date } = given;
  byId("saved-of").hidden = false;
  byId("saved-of").textContent = [oneLine(model.name.split(/[\\/]/).filter(Boolean).at(-1) ?? model.name), date].filter(Boolean).join(" · ");
}
