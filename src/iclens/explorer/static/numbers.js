// Numbers for a reader; the values themselves are computed in Python.

const ROUNDING = 1e-7;

/** A contribution with its sign, in the six digits that a saved page holds, e.g. +1.234, −0.050, +2.1e−5; what float32 cannot tell from 0 as ≈ 0. */
export function signed(value) {
  if (value != null && value !== 0 && Math.abs(value) < ROUNDING) return "≈ 0";
  return exact(value);
}

function exact(value) {
  if (value == null) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 0.001 && size < 10000 ? value.toFixed(size < 1000 ? 3 : 2) : value.toExponential(1);
  return (value > 0 ? "+" : "") + text.replaceAll("-", "−").replace("e+", "e");
}

/** A number of any size, without a plus sign. */
export function plain(value) {
  return exact(value).replace(/^\+/, "");
}

/** A number in few characters, e.g. 0.05, 1500, 2e−5. */
export function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 0.001 && size < 100000 ? String(Number(value.toPrecision(4))) : value.toExponential().replace(/^(-?\d(?:\.\d{1,2})?)\d*/, "$1");
  return text.replaceAll("-", "−").replace("e+", "e");
}

export function percent(value) {
  if (value == null) return "–";
  const share = 100 * value;
  if (share === 100) return "100 %";
  if (share > 0 && share < 0.01) return "< 0.01 %";
  if (share < 100 && share > 99.99) return "> 99.99 %";
  return `${share.toFixed(share < 1 || share > 99 ? 2 : 1)} %`;
}

/** A number that may be given by sign and logarithm alone. */
export function wide(number) {
  if (number.value !== null) return plain(number.value);
  return `${number.sign < 0 ? "−" : ""}e^${plain(number.log_abs)}`;
}

export function largest(values) {
  return values.reduce((most, value) => (Number.isFinite(value) ? Math.max(most, Math.abs(value)) : most), 0);
}

/** Class and strength of a contribution's colour. */
export function tint(value, most) {
  const strength = most > 0 && value != null ? Math.min(1, Math.abs(value) / most) : 0;
  return { side: value < 0 ? "against" : "for", strength: strength.toFixed(3) };
}

/** Colours an element by a contribution. */
export function colour(node, value, most) {
  const { side, strength } = tint(value, most);
  node.classList.toggle("tinted", Number(strength) > 0.004);
  node.classList.toggle("tint-against", side === "against");
  node.style.setProperty("--strength", strength);
}
