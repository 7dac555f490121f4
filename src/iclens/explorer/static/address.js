// What the address carries: a view's state as text that a link can hold.

/** A state as letters that need no escape in a link (base64url of its JSON). */
export function coded(state) {
  const bytes = new TextEncoder().encode(JSON.stringify(state));
  const binary = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

/** The state that was coded, or undefined where there is none that can be read. */
export function decoded(text) {
  try {
    const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(binary, (one) => one.charCodeAt(0))));
  } catch {
    return undefined;
  }
}

/** Brings the address to the state; the view goes on when the browser refuses, as some do after many times. */
export function writeAddress(hash) {
  if (hash === location.hash) return;
  try {
    history.replaceState(null, "", hash);
  } catch {
    // The next change tries again.
  }
}

/** The page's address with this state, whatever stands in the browser's bar. */
export function linkTo(hash) {
  return new URL(hash, location.href).href;
}
