// Text fields as tall as their text, in browsers that do not know `field-sizing: content`.

const fitted = new WeakMap(); // the text and the width that a field was fitted to: who drags its corner keeps that size

function fit(field) {
  const now = `${field.clientWidth} ${field.value}`;
  if (!field.clientWidth || fitted.get(field) === now) return;
  fitted.set(field, now);
  field.style.height = "auto";
  // Heights are rounded: without a pixel more a scroll bar may show.
  field.style.height = `${field.scrollHeight + field.offsetHeight - field.clientHeight + 1}px`;
}

function fitAll() {
  for (const field of document.querySelectorAll("textarea")) fit(field);
}

export function startFitting() {
  if (CSS.supports("field-sizing", "content")) return;
  let waiting = 0;
  const soon = () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(fitAll);
  };
  for (const name of ["input", "change", "toggle", "click"]) document.addEventListener(name, soon, true);
  window.addEventListener("resize", soon);
  // What the page writes into fields comes with changes around them.
  new MutationObserver(soon).observe(document.body, { childList: true, subtree: true, attributeFilter: ["hidden", "open"] });
  soon();
}
