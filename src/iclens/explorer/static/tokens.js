// The prompt token by token, coloured.

import { byId, el, put, visible } from "./elements.js";
import { colour, largest, signed } from "./numbers.js";
import { BY_TOKEN, fullNameOf, nameOf } from "./scores.js";

/** Colours tokens by a score of their own, or whole demonstrations by one of theirs. */
export function renderTokens(seen, explanation, kind, scores) {
  // An explanation has the path, too, which a glance has not.
  const ofTokens = explanation?.tokens ?? seen.tokens;
  const isOwn = BY_TOKEN.includes(kind);
  const values = ofTokens.map((token) => (isOwn ? token[kind] : token.part === null ? null : (scores[token.part] ?? null)));
  const most = largest(values.filter((_, i) => seen.tokens[i].part !== null)) || largest(values);
  byId("tokens-note").textContent =
    `Coloured by ${fullNameOf(kind)}${isOwn ? "" : " of whole demonstrations"}; full colour is ${most.toFixed(3)} nats. ` +
    (isOwn ? "Point at a token for its numbers." : "The rest of the prompt has none.");
  const pieces = document.createDocumentFragment();
  let before = "";
  for (const [i, token] of seen.tokens.entries()) {
    const body = token.text.trim() ? token.text.trimStart() : token.text;
    const space = token.text.slice(0, token.text.length - body.length);
    if (space) pieces.append(visible(space));
    const part = token.part !== null ? `#${token.part}` : token.role === "first" ? "first token" : token.role;
    if (token.role !== "separator" && token.role !== "special") {
      if (part !== before) pieces.append(el("b", {}, part));
      before = part;
    }
    const span = el("span", { title: titleOf(part, ofTokens[i], isOwn ? {} : { [kind]: values[i] }) }, body ? visible(body) : "▫");
    if (["special", "first"].includes(token.role)) span.classList.add("special");
    colour(span, values[i], most);
    pieces.append(span);
  }
  put(byId("tokens"), pieces);
}

function titleOf(part, token, ofDemonstration) {
  const own = BY_TOKEN.filter((name) => token[name] !== null).map((name) => `${nameOf(name)} ${signed(token[name])}`);
  const whole = Object.entries(ofDemonstration).filter(([, value]) => value !== null);
  return `${part}: ${[...own, ...whole.map(([name, value]) => `of the demonstration ${nameOf(name)} ${signed(value)}`)].join(", ")}`;
}
