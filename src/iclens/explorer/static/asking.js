// What is explained, an answer or a response of any length, and what is scored: the ways to split the prompt.

import { byId, el, put } from "./elements.js";
import { ask } from "./server.js";
import { change, isNamed, isSaved, question, state, takeOver } from "./state.js";

let ways = []; // in which the prompt may be split
let left = ""; // the response that was given up for an answer

/** Shows what the question holds. */
export function renderAsking() {
  const isResponse = state.response !== null;
  for (const radio of document.getElementsByName("explained")) radio.checked = radio.value === (isResponse ? "response" : "answer");
  byId("answers").closest(".field").hidden = isResponse || (isSaved && !state.answers.length);
  byId("response-fields").hidden = !isResponse;
  byId("response-text").value = state.response ?? "";
  byId("foil").value = state.foil ?? "";
  byId("within").value = state.within ?? "";
  renderWays(ways);
}

/** Offers the ways to split the prompt; none where its sources were marked one by one. */
export function renderWays(found) {
  ways = found ?? [];
  tell("");
  const { document: whole } = state;
  const asWritten = whole?.documents ? "documents" : "demonstrations";
  byId("split").closest("label").hidden = !ways.length;
  put(byId("split"), el("option", { value: "" }, asWritten), ...ways.map((way) => el("option", { value: way }, way)));
  byId("split").value = whole?.split ?? "";
  // Demonstrations that are edited are short enough to be read as they are.
  byId("within").closest("label").hidden = !isNamed() && state.within === null;
}

/** Says why something cannot be done, beside the controls: what the page shows stays as it is. */
function tell(sentence) {
  byId("asking-problem").hidden = !sentence;
  byId("asking-problem").textContent = sentence;
}

/** Connects the controls. */
export function startAsking() {
  for (const radio of document.getElementsByName("explained")) radio.addEventListener("change", () => choose(radio.value === "response"));
  byId("response-text").addEventListener("input", (event) => respond(event.target.value));
  byId("foil").addEventListener("input", (event) => change("prompt", (now) => Object.assign(now, { foil: event.target.value.trim() ? event.target.value : null, statement: null })));
  byId("within").addEventListener("change", (event) => change("prompt", (now) => (now.within = event.target.value || null)));
  byId("split").addEventListener("change", (event) => split(event.target.value || null));
  byId("write").addEventListener("click", write);
}

function choose(isResponse) {
  if (!isResponse) left = state.response;
  change("prompt", (now) => Object.assign(now, { response: isResponse ? left : null, statement: null }));
  renderAsking();
  if (isResponse) byId("response-text").focus();
}

function respond(text) {
  // A part of what was written need not be one of what is.
  change("prompt", (now) => Object.assign(now, { response: text.trim() ? text : "", statement: null }));
}

async function write() {
  const button = byId("write");
  const { response, foil, statement, measure, answers, answer, ...asked } = question();
  const seed = byId("drawn").checked ? Math.floor(Math.random() * 2 ** 31) : null;
  button.disabled = true;
  byId("written").textContent = "The model writes …";
  try {
    const told = await ask("write", { ...asked, generate: byId("n-written").valueAsNumber || null, seed });
    byId("written").textContent = told.same ? "" : "The text is read as other tokens than those that the model wrote.";
    respond(told.response);
    renderAsking();
  } catch (error) {
    byId("written").textContent = "";
    tell(error.message);
  }
  button.disabled = false;
}

async function split(way) {
  if (!(await take({ ...question(), split: way }))) byId("split").value = state.document?.split ?? "";
  byId("split").focus();
}

/** Takes a prompt that is written as JSON, as in a prompt file; false where the text is none. */
export function takeDocument(text) {
  let document;
  try {
    document = JSON.parse(text);
  } catch {
    return false;
  }
  if (!(document instanceof Object)) return false;
  take({ document, split: document.split ?? null });
  return true;
}

/** Takes over what the server makes of a prompt, and says whether it could be read. */
async function take(asked) {
  try {
    const found = await ask("split", asked);
    change("all", () => takeOver(found));
    return true;
  } catch (error) {
    tell(error.message);
    return false;
  }
}
