// The prompt token by token, coloured.

import { byId, el, put, visible } from "./elements.js";
import { colour, largest, signed } from "./numbers.js";

const SAID = {
  gradient_step: (most) => `Each token by its gradient step; full colour is ${most} nats. Point at a token for its numbers.`,
  path: (most) => `Each token by its path through all layers; full colour is ${most} nats. Point at a token for its numbers.`,
  knock_out: (most) => `Each demonstration by its exact knock-out; full colour is ${most} nats. The rest of the prompt has none.`,
};

/** Colours tokens by their gradient step or path, or whole demonstrations by their knock-out. */
export function renderTokens(seen, explanation, kind, knockOuts) {
  const path = (i) => explanation?.tokens[i]?.path ?? null;
  const valueOf = {
    gradient_step: (token) => token.gradient_step,
    path: (_, i) => path(i),
    knock_out: (token) => (token.part === null ? null : knockOuts[token.part]),
  }[kind];
  const values = seen.tokens.map(valueOf);
  const most = largest(values.filter((_, i) => seen.tokens[i].part !== null)) || largest(values);
  byId("tokens-note").textContent = SAID[kind](most.toFixed(3));
  const pieces = document.createDocumentFragment();
  let before = "";
  for (const [i, token] of seen.tokens.entries()) {
    const body = token.text.trim() ? token.text.trimStart() : token.text;
    const space = token.text.slice(0, token.text.length - body.length);
    if (space) pieces.append(visible(space));
    const part = token.part === null ? token.role : `#${token.part}`;
    if (token.role !== "separator" && token.role !== "special") {
      if (part !== before) pieces.append(el("b", {}, part));
      before = part;
    }
    const span = el("span", { title: titleOf(part, token, path(i), kind === "knock_out" ? values[i] : null) }, body ? visible(body) : "▫");
    if (token.role === "special") span.classList.add("special");
    colour(span, values[i], most);
    pieces.append(span);
  }
  put(byId("tokens"), pieces);
}

function titleOf(part, token, path, knockOut) {
  const numbers = [`gradient step ${signed(token.gradient_step)}`];
  if (path !== null) numbers.push(`path ${signed(path)}`);
  if (knockOut != null) numbers.push(`knock-out of the demonstration ${signed(knockOut)}`);
  return `${part}: ${numbers.join(", ")}`;
}
