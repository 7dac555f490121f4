// Links, commands and files that give the same numbers.

import { byId } from "./elements.js";
import { savedPage } from "./server.js";
import { question, state } from "./state.js";

export function renderShare(seen) {
  byId("command").textContent = seen.command;
  byId("python").textContent = seen.python;
}

export function startShare() {
  byId("copy-link").addEventListener("click", () => copy(location.href, "link"));
  byId("copy-command").addEventListener("click", () => copy(byId("command").textContent, "command"));
  byId("copy-python").addEventListener("click", () => copy(byId("python").textContent, "Python"));
  byId("save").addEventListener("click", save);
}

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    say(`The ${what} is copied.`);
  } catch {
    say(what === "link" ? "The browser does not allow copying: take the address above." : "The browser does not allow copying: select the text below.");
  }
}

async function save() {
  const button = byId("save");
  button.disabled = true;
  say("Writing the page …");
  try {
    const view = state.layer === null ? {} : { layer: state.layer, head: state.head };
    const url = URL.createObjectURL(await savedPage({ ...question(), ...view }));
    const link = document.createElement("a");
    link.href = url;
    link.download = "iclens-explore.html";
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
    say("The page is saved.");
  } catch (error) {
    say(error.message);
  } finally {
    button.disabled = false;
  }
}

function say(sentence) {
  byId("said").textContent = sentence;
}
