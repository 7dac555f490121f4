// The response on top, token by token: what is chosen in it, by pointing, by keys, or sentence by sentence.

import { byId, el, oneLine, put, visible } from "./elements.js";
import { colour, largest, percent, plain, signed } from "./numbers.js";
import { sentencesOf } from "./sentences.js";

let tokens = []; // the spans of the tokens, in order
let parts = []; // what can be reached: sentences and tokens, each {node, from, to}
let chosen = null; // the tokens that stay chosen, {from, to}
let hovered = null; // those that are pointed at
let focused = null; // those that have the focus of the keyboard
let anchor = 0; // where a range begins
let tell = () => {}; // called with the tokens that are pointed at and those that stay chosen, each {from, to} or null

/** Shows a response; what was chosen in another one is forgotten. */
export function renderResponse(response) {
  const was = byId("response").contains(document.activeElement) ? parts.findIndex((one) => one.node === document.activeElement) : -1;
  const isSame = response !== null && tokens.length === response.tokens.length && tokens.every((node, t) => node.dataset.text === response.tokens[t]);
  byId("response-section").hidden = response === null;
  document.body.classList.toggle("responding", response !== null);
  if (!isSame) [chosen, hovered, focused, anchor] = [null, null, null, 0];
  tokens = [];
  parts = [];
  if (response === null) return put(byId("response"));
  const pieces = document.createDocumentFragment();
  const sentences = sentencesOf(response.tokens);
  response.tokens.forEach((text, t) => {
    const begun = sentences.length > 1 ? sentences.findIndex((one) => one.from === t) : -1;
    const body = text.trim() ? text.trimStart() : text;
    const space = text.slice(0, text.length - body.length);
    if (space && t > 0 && !isLineEnd(text)) pieces.append(visible(space));
    if (begun >= 0) pieces.append(partOf(sentenceNode(begun, response.tokens, sentences[begun]), sentences[begun]));
    pieces.append(partOf(tokenNode(response, t, body), { from: t, to: t + 1 }));
    // However many line ends follow one another, one is enough to see.
    if (isLineEnd(text) && !isLineEnd(response.tokens[t + 1] ?? "\n")) pieces.append("\n");
  });
  put(byId("response"), pieces);
  tokens = parts.filter((one) => !one.isSentence).map((one) => one.node);
  reach(parts[was] ?? parts[0]);
  if (was >= 0) parts[was]?.node.focus();
  mark();
}

function isLineEnd(text) {
  return !text.trim() && text.includes("\n");
}

function tokenNode(response, t, body) {
  const log_p = response.log_probabilities[t];
  const said = `log-probability ${plain(log_p)} nats, ${percent(Math.exp(log_p))}`;
  const isRead = t >= response.first && t < response.last;
  const shown = body.trim() ? visible(body) : isLineEnd(body) ? "↵" : "▫";
  return el(
    "span",
    { role: "option", class: `token${isRead ? "" : " unread"}`, "data-text": response.tokens[t], title: said, "aria-label": `${oneLine(body.trim() || body, 40)}, ${said}${isRead ? "" : ", not explained"}` },
    shown,
  );
}

function sentenceNode(i, texts, { from, to }) {
  const said = oneLine(texts.slice(from, to).join("").trim(), 120);
  return el("span", { role: "option", class: "sentence", title: "The whole sentence", "aria-label": `Sentence ${i + 1}: ${said}` }, String(i + 1));
}

function partOf(node, { from, to }) {
  node.tabIndex = -1;
  node.dataset.part = parts.length;
  parts.push({ node, from, to, isSentence: node.classList.contains("sentence") });
  return node;
}

/** Colours the tokens by what a source does to each, fully from `least` on; null takes the colours away. */
export function linkResponse(values, least) {
  const most = values === null ? 0 : Math.max(least, largest(values));
  tokens.forEach((node, t) => colour(node, values?.[t] ?? null, most));
}

/** What stays chosen, as text; null for nothing. */
export function chosenText() {
  return chosen && tokens.slice(chosen.from, chosen.to).map((node) => node.dataset.text).join("").trim();
}

/** Forgets what was chosen. */
export function unchoose() {
  chosen = null;
  mark();
}

function mark() {
  const now = chosen ?? { from: 0, to: 0 };
  for (const { node, from, to } of parts) node.setAttribute("aria-selected", String(from >= now.from && to <= now.to && from < to));
  tell(hovered ?? focused, chosen);
}

function hover(part) {
  if (hovered === part) return;
  hovered = part;
  tell(hovered ?? focused, chosen);
}

function focusOn(part) {
  focused = part;
  tell(hovered ?? focused, chosen);
}

function choose(range) {
  const isSame = chosen && chosen.from === range.from && chosen.to === range.to;
  chosen = isSame ? null : { from: range.from, to: range.to };
  mark();
}

function extend(part) {
  const from = Math.min(anchor, part.from);
  chosen = { from, to: Math.max(anchor + 1, part.to) };
  [hovered, focused] = [null, null];
  mark();
}

function reach(part) {
  for (const one of parts) one.node.tabIndex = one === part ? 0 : -1;
}

function partAt(event) {
  return parts[event.target.closest?.("[data-part]")?.dataset.part];
}

/** Where a key leads: the next part, the next sentence, or an end. */
function stepFrom(at, key) {
  const sentence = (step) => {
    for (let i = at + step; parts[i]; i += step) if (parts[i].isSentence) return i;
    return step > 0 ? parts.length - 1 : 0;
  };
  return { ArrowLeft: () => at - 1, ArrowRight: () => at + 1, ArrowUp: () => sentence(-1), ArrowDown: () => sentence(1), Home: () => 0, End: () => parts.length - 1 }[key]?.();
}

function onKey(event) {
  const at = parts.indexOf(partAt(event));
  if (at < 0) return;
  if (event.key === "Escape") return unchoose();
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    anchor = parts[at].from;
    return choose(parts[at]);
  }
  const to = stepFrom(at, event.key);
  if (to === undefined || !parts[to]) return;
  event.preventDefault();
  if (event.shiftKey && !chosen) anchor = parts[at].from;
  reach(parts[to]);
  parts[to].node.focus();
  if (event.shiftKey) extend(parts[to]);
}

/** Connects the response; `told` is called with the tokens that are pointed at and those that stay chosen. */
export function startResponse(told) {
  tell = told;
  const box = byId("response");
  let pressed = null; // where the mouse went down
  let isDragged = false;
  box.addEventListener("pointerover", (event) => {
    const part = partAt(event);
    if (!part) return;
    if (pressed && event.buttons & 1 && part !== pressed) {
      isDragged = true;
      extend(part);
    } else if (!isDragged) hover(part);
  });
  box.addEventListener("pointerleave", () => hover(null));
  box.addEventListener("pointerdown", (event) => {
    isDragged = false;
    pressed = event.pointerType === "mouse" && !event.shiftKey ? (partAt(event) ?? null) : null;
    if (pressed) anchor = pressed.from;
  });
  window.addEventListener("pointerup", () => (pressed = null));
  box.addEventListener("click", (event) => {
    const part = partAt(event);
    if (!part || isDragged) return;
    reach(part);
    if (event.shiftKey) return extend(part);
    anchor = part.from;
    choose(part);
  });
  box.addEventListener("focusin", (event) => {
    const part = partAt(event);
    if (part && part.node.matches(":focus-visible")) focusOn(part);
  });
  box.addEventListener("focusout", () => focusOn(null));
  box.addEventListener("keydown", onKey);
}

/** What is said of some tokens: their text and their log-probability. */
export function saidOf(response, { from, to }) {
  const text = response.tokens.slice(from, to).join("").trim();
  const sum = response.log_probabilities.slice(from, to).reduce((all, one) => all + one, 0);
  return `‘${oneLine(text, 60)}’, log-probability ${signed(sum)} nats`;
}
