// The prompt token by token, coloured.

import { byId, el, put, visible } from "./elements.js";
import { called, noun, nouns } from "./names.js";
import { colour, largest, plain, signed } from "./numbers.js";
import { BY_TOKEN, OF_THE_REST, fullNameOf, nameOf, ofToken, withUnit } from "./scores.js";

/** Colours tokens by a score of their own, or whole sources by one of theirs; not at all while it is not known. */
export function renderTokens(seen, explanation, kind, scores) {
  // A glance has direct effects alone.
  const ofTokens = explanation?.tokens ?? seen.tokens;
  const isOwn = ofTokens.some((token) => ofToken(token, kind) !== null);
  const values = ofTokens.map((token) => (isOwn ? ofToken(token, kind) : token.part === null ? null : (scores?.[token.part] ?? null)));
  const most = largest(values.filter((_, i) => seen.tokens[i].part !== null)) || largest(values);
  byId("tokens-note").textContent = noteOf(kind, scores === null, isOwn, most);
  const pieces = document.createDocumentFragment();
  let before = "";
  // A token of a response is written as it stands in the text.
  const said = [...(seen.response?.tokens ?? [])];
  for (const [i, { text, ...rest }] of seen.tokens.entries()) {
    const token = { ...rest, text: rest.role === "answer" ? (said.shift() ?? text) : text };
    const body = token.text.trim() ? token.text.trimStart() : token.text;
    const space = token.text.slice(0, token.text.length - body.length);
    if (space) pieces.append(visible(space));
    const part = token.part !== null ? called(token.part) : roleOf(token.role, seen);
    if (token.role !== "separator" && token.role !== "special") {
      if (part !== before) pieces.append(el("b", { class: before ? "next" : null }, part));
      before = part;
    }
    const span = el("span", { title: titleOf(part, ofTokens[i], isOwn ? {} : { [kind]: values[i] }) }, body ? visible(body) : "▫");
    if (["special", "first"].includes(token.role)) span.classList.add("special");
    colour(span, values[i], most);
    pieces.append(span);
  }
  put(byId("tokens"), pieces);
}

function roleOf(role, { response }) {
  if (role === "answer" && response) return "response";
  return role === "first" ? "first token" : role;
}

function noteOf(kind, isPending, isOwn, most) {
  if (isPending) return `Coloured by ${fullNameOf(kind)}: …`;
  const size = withUnit(plain(most), kind);
  const rest = OF_THE_REST.includes(kind) ? "" : "The rest of the prompt has none. ";
  return `Coloured by ${fullNameOf(kind)}${isOwn ? "" : ` of whole ${nouns()}`}; full colour is ${size}. ${rest}${isOwn ? "Point at a token for its numbers." : ""}`;
}

function titleOf(part, token, ofSource) {
  const own = BY_TOKEN.filter((name) => ofToken(token, name) !== null).map((name) => `${nameOf(name)} ${signed(ofToken(token, name))}`);
  const whole = Object.entries(ofSource).filter(([, value]) => value !== null);
  return `${part}: ${[...own, ...whole.map(([name, value]) => `of the ${noun()} ${nameOf(name)} ${signed(value)}`)].join(", ")}`;
}
