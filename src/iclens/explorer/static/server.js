// Asking the server; a saved page asks its own data.

import { given, isSaved } from "./state.js";

/** The numbers of a view, or an Error with one sentence for the reader. */
export async function ask(view, question, signal) {
  if (isSaved) return fromData(view, question);
  const response = await send(view, question, signal);
  return response.json();
}

/** The page as one file: of the prompt, or of another view. */
export async function savedPage(question, view = "save") {
  return (await send(view, question)).blob();
}

async function send(view, question, signal) {
  let response;
  try {
    response = await fetch(`api/${view}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(question),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. It may have been ended: start it again; what you wrote stays here.");
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw new Error(said.error ?? `The server failed (status ${response.status}). What you wrote stays here.`);
}

function fromData(view, question) {
  const found = {
    glance: { ...given.explanation, ...given.glance },
    explain: given.explanation,
    layers: given.layers,
    head: given.heads?.failed ? given.heads : given.heads?.[`${question.layer},${question.head}`],
  }[view];
  if (found?.failed) throw new Error(found.failed);
  if (found) return found;
  throw new Error("This head is not in the saved page: open the prompt in iclens explore to see it.");
}
