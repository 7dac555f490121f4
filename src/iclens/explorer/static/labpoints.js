// The points as a table: coordinates that can be typed, and what each does to the answer.

import { bar, byId, el, put } from "./elements.js";
import { largest, plain, short, signed } from "./numbers.js";
import { isSaved } from "./state.js";
import { lab } from "./labstate.js";

/** A row for every point. Rows are kept, so that a field keeps its cursor; what an answer said of others is not. */
export function renderLabRows(edits) {
  const body = byId("lab-rows");
  const held = body.contains(document.activeElement);
  if (body.childElementCount !== lab.points.length) body.querySelectorAll(".lab-pull, .lab-left_out").forEach((cell) => put(cell));
  while (body.childElementCount > lab.points.length) body.lastElementChild.remove();
  while (body.childElementCount < lab.points.length) body.append(labRow(body.childElementCount, edits));
  if (held && !body.contains(document.activeElement)) body.lastElementChild.querySelector("button").focus();
  renderLabFields();
}

/** What each point does to an answer; of points that it is not about, nothing. */
export function renderLabEffects(answer) {
  if (answer.points.length !== lab.points.length) return;
  const most = { pull: largest(answer.points.map((one) => one.pull)), left_out: largest(answer.points.map((one) => one.left_out)) };
  answer.points.forEach((one, i) => {
    for (const name of ["pull", "left_out"]) {
      put(byId("lab-rows").children[i].querySelector(`.lab-${name}`), el("span", { class: "number" }, signed(one[name])), bar(one[name], most[name]));
    }
  });
  put(
    byId("lab-sum"),
    el("b", {}, plain(answer.answers.model)),
    ` is the model's prediction at x = ${short(answer.settings.query)}: the pulls, ${signed(answer.points.reduce((sum, one) => sum + one.pull, 0))}, and ${signed(answer.rest)} that comes through no point (the query's own token, embeddings, feed-forward layers and biases). Against the model's own output the sum is off by ${plain(Math.abs(answer.residual))}.`,
  );
}

/** Coordinates as the state has them, but for the field that is being typed in. */
function renderLabFields() {
  [...byId("lab-rows").children].forEach((row, i) => {
    for (const name of ["x", "y"]) {
      const field = row.querySelector(`input[name=${name}]`);
      const value = lab.points[i]?.[name];
      if (field !== document.activeElement && value !== undefined) field.value = String(value).replace("-", "−");
      field.setAttribute("aria-invalid", !Number.isFinite(value));
    }
  });
}

function labRow(i, edits) {
  const field = (name) =>
    el("td", {}, el("input", { type: "text", inputmode: "decimal", name, size: 7, autocomplete: "off", "aria-label": `${name} of point ${i}`, readonly: isSaved, oninput: (event) => edits.type(i, name, labTyped(event.target.value)) }));
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, String(i)),
    field("x"),
    field("y"),
    el("td", { class: "lab-pull" }),
    el("td", { class: "lab-left_out" }),
    el("td", { class: "editing" }, el("button", { type: "button", class: "icon", "aria-label": `Remove point ${i}`, title: "Remove", onclick: () => edits.remove(i) }, "×")),
  );
}

/** A number, or the text where it is none: the server says what is wrong with it. */
function labTyped(text) {
  const value = Number(text.trim().replace("−", "-").replace(",", "."));
  return text.trim() !== "" && Number.isFinite(value) ? value : text;
}
