// The prompt token by token, coloured.

import { byId, el, put, visible } from "./elements.js";
import { colour, largest, plain, signed } from "./numbers.js";
import { BY_TOKEN, OF_THE_REST, fullNameOf, nameOf, ofToken, withUnit } from "./scores.js";

/** Colours tokens by a score of their own, or whole demonstrations by one of theirs; not at all while it is not known. */
export function renderTokens(seen, explanation, kind, scores) {
  // A glance has direct effects alone.
  const ofTokens = explanation?.tokens ?? seen.tokens;
  const isOwn = ofTokens.some((token) => ofToken(token, kind) !== null);
  const values = ofTokens.map((token) => (isOwn ? ofToken(token, kind) : token.part === null ? null : (scores?.[token.part] ?? null)));
  const most = largest(values.filter((_, i) => seen.tokens[i].part !== null)) || largest(values);
  byId("tokens-note").textContent = noteOf(kind, scores === null, isOwn, most);
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

function noteOf(kind, isPending, isOwn, most) {
  if (isPending) return `Coloured by ${fullNameOf(kind)}: …`;
  const size = withUnit(plain(most), kind);
  const rest = OF_THE_REST.includes(kind) ? "" : "The rest of the prompt has none. ";
  return `Coloured by ${fullNameOf(kind)}${isOwn ? "" : " of whole demonstrations"}; full colour is ${size}. ${rest}${isOwn ? "Point at a token for its numbers." : ""}`;
}

function titleOf(part, token, ofDemonstration) {
  const own = BY_TOKEN.filter((name) => ofToken(token, name) !== null).map((name) => `${nameOf(name)} ${signed(ofToken(token, name))}`);
  const whole = Object.entries(ofDemonstration).filter(([, value]) => value !== null);
  return `${part}: ${[...own, ...whole.map(([name, value]) => `of the demonstration ${nameOf(name)} ${signed(value)}`)].join(", ")}`;
}
