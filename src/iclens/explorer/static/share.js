// Links, commands and files that give the same numbers.

import { linkTo } from "./address.js";
import { byId } from "./elements.js";
import { savedPage } from "./server.js";
import { question, state, toHash } from "./state.js";

export function renderShare(seen) {
  byId("command").textContent = seen.command;
  byId("python").textContent = seen.python;
}

export function startShare() {
  byId("copy-link").addEventListener("click", () => copy(linkTo(toHash()), "link", say));
  byId("copy-command").addEventListener("click", () => copy(byId("command").textContent, "command", say));
  byId("copy-python").addEventListener("click", () => copy(byId("python").textContent, "Python", say));
  byId("save").addEventListener("click", save);
}

async function save() {
  const button = byId("save");
  button.disabled = true;
  const view = state.layer === null ? {} : { layer: state.layer, head: state.head };
  await download(() => savedPage({ ...question(), ...view }), "iclens-explore.html", say);
  button.disabled = false;
}

function say(sentence) {
  byId("said").textContent = sentence;
}

/** Copies a text, and says that it did, or how else to get it. */
export async function copy(text, what, say) {
  try {
    await navigator.clipboard.writeText(text);
    say(`The ${what} is copied.`);
  } catch {
    say(what === "link" ? "The browser does not allow copying: take the address above." : "The browser does not allow copying: select the text below.");
  }
}

/** Gives the reader a page that is still to be written as a file. */
export async function download(write, name, say) {
  say("Writing the page …");
  try {
    const url = URL.createObjectURL(await write());
    const link = document.createElement("a");
    link.href = url;
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
    say("The page is saved.");
  } catch (error) {
    say(error.message);
  }
}
