// The prompt token by token, coloured.

import { byId, el, put, visible } from "./elements.js";
import { colour, largest, signed } from "./numbers.js";

/** Colours tokens by their gradient step, or whole demonstrations by their knock-out. */
export function renderTokens(seen, knockOuts) {
  const value = (token) => (knockOuts === null ? token.gradient_step : token.part === null ? null : knockOuts[token.part]);
  const within = seen.tokens.filter((token) => token.part !== null).map(value);
  const most = largest(within) || largest(seen.tokens.map(value));
  byId("tokens-note").textContent =
    knockOuts === null
      ? `Each token by its gradient step; full colour is ${most.toFixed(3)} nats. Point at a token for its number.`
      : `Each demonstration by its exact knock-out; full colour is ${most.toFixed(3)} nats. The rest of the prompt has none.`;
  const pieces = document.createDocumentFragment();
  let before = "";
  for (const token of seen.tokens) {
    const body = token.text.trim() ? token.text.trimStart() : token.text;
    const space = token.text.slice(0, token.text.length - body.length);
    if (space) pieces.append(visible(space));
    const part = token.part === null ? token.role : `#${token.part}`;
    if (token.role !== "separator" && token.role !== "special") {
      if (part !== before) pieces.append(el("b", {}, part));
      before = part;
    }
    const span = el("span", { title: `${part}: ${signed(value(token))}` }, body ? visible(body) : "▫");
    if (token.role === "special") span.classList.add("special");
    colour(span, value(token), most);
    pieces.append(span);
  }
  put(byId("tokens"), pieces);
}
