// Building elements: text from a prompt or a model only ever becomes a text node.

const INVISIBLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;
const KEPT = new Set(["\n", "\t", "\u200c", "\u200d"]);

/** The text with what could reorder, hide or command written out, as ⟨U+202E⟩. */
export function visible(text) {
  return text.replace(INVISIBLE, (one) =>
    KEPT.has(one) ? one : `⟨U+${one.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`,
  );
}

/** Visible text on one line, its middle cut out beyond `most` characters. */
export function oneLine(text, most = 80) {
  const line = [...visible(text.replaceAll("\n", "↵").replaceAll("\t", "→"))];
  if (line.length <= most) return line.join("");
  const tail = Math.floor((most - 1) / 3);
  return [...line.slice(0, most - 1 - tail), "…", ...line.slice(line.length - tail)].join("");
}

export function byId(id) {
  return document.getElementById(id);
}

/** An element: attributes, `on…` listeners and `--…` style properties, then children (strings become text). */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) node.style.setProperty(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

/** Replaces what is in an element. */
export function put(node, ...children) {
  node.replaceChildren(...children.filter((child) => child != null));
  return node;
}

/** A bar from the middle of its track: to the right for support, to the left for opposition. */
export function bar(value, largest) {
  const part = largest > 0 ? Math.max(-1, Math.min(1, value / largest)) * 50 : 0;
  return svg(
    "svg",
    { class: "bar", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("path", { class: "axis", d: "M50 0v8" }),
    svg("rect", { class: part >= 0 ? "for" : "against", x: 50 + Math.min(part, 0), width: Math.abs(part), y: 1, height: 6 }),
  );
}

/** A share of a whole, in [0, 1], with a second one behind it. */
export function share(value, behind = null) {
  return svg(
    "svg",
    { class: "share", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "ground", width: 100, height: 8 }),
    behind === null ? null : svg("rect", { class: "behind", width: 100 * behind, height: 8 }),
    svg("rect", { class: "for", width: 100 * value, height: behind === null ? 8 : 5, y: behind === null ? 0 : 1.5 }),
  );
}
