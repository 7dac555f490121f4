// The page's views (the prompt, and what lies beside it) and which of them is shown: `#runs…` shows `view-runs`.

import { byId } from "./elements.js";
import { given, isSaved } from "./state.js";

const openers = new Map();

/** Says how a view opens: called once, when it is shown for the first time. */
export function addView(name, open) {
  openers.set(name, open);
}

/** The name of the view that the address asks for. */
export function viewOf(hash) {
  const name = /^#([a-z]+)/.exec(hash)?.[1];
  if (isSaved) return given.view ?? "prompt";
  return name && byId(`view-${name}`) ? name : "prompt";
}

function showView() {
  const name = viewOf(location.hash);
  for (const view of document.querySelectorAll(".view")) view.hidden = view.id !== `view-${name}`;
  for (const link of document.querySelectorAll("#views a")) {
    const isCurrent = link.hash === `#${name}`;
    if (isCurrent) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    // A link to where one is needs no stop of the Tab key.
    link.tabIndex = isCurrent ? -1 : 0;
  }
  document.body.dataset.view = name;
  const open = openers.get(name);
  openers.delete(name);
  open?.();
}

export function startViews() {
  window.addEventListener("hashchange", showView);
  showView();
}
