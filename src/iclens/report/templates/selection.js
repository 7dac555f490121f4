// The pool's rows: sorted by any column, filtered, and linked to those that say the same. Without this script all is there, too.

const table = document.getElementById("pool");
const body = table.tBodies[0];
const heads = [...table.tHead.rows[0].cells];
const rows = [...body.rows];
const shown = document.getElementById("show");
const said = document.getElementById("sorted");
const SIGNS = { ascending: " ↑", descending: " ↓" };
const keys = new Map(); // of each column that was sorted by: row → number, or null where it has none

function keysOf(column) {
  if (!keys.has(column)) {
    const number = (row) => (row.cells[column].dataset.sort === undefined ? null : Number(row.cells[column].dataset.sort));
    keys.set(column, new Map(rows.map((row) => [row, number(row)])));
  }
  return keys.get(column);
}

/** Sorts by a column; what has no number there comes last either way, and rows that are alike stay as the pool has them. */
function sort(head, direction) {
  const known = keysOf(heads.indexOf(head));
  const index = keysOf(0);
  const sign = direction === "ascending" ? 1 : -1;
  const order = (one, other) => {
    const [a, b] = [known.get(one), known.get(other)];
    const missing = (a === null) - (b === null);
    return missing || sign * (a - b) || index.get(one) - index.get(other);
  };
  body.append(...[...rows].sort(order));
  for (const one of heads) {
    if (one === head) one.setAttribute("aria-sort", direction);
    else one.removeAttribute("aria-sort");
    one.querySelector("[aria-hidden]").textContent = SIGNS[one.getAttribute("aria-sort")] ?? "";
  }
  said.textContent = `Sorted by ${head.dataset.key}, ${direction}`;
}

function buttonOf(head) {
  const button = document.createElement("button");
  const sign = document.createElement("span");
  sign.setAttribute("aria-hidden", "true");
  sign.textContent = SIGNS[head.getAttribute("aria-sort")] ?? "";
  Object.assign(button, { type: "button", className: "sort", title: "Sort by it; again the other way" });
  button.append(...head.childNodes, sign);
  button.addEventListener("click", () => {
    const now = head.getAttribute("aria-sort");
    sort(head, now === null ? head.dataset.first : now === "ascending" ? "descending" : "ascending");
  });
  head.append(button);
}

function filter() {
  const kind = shown.querySelector("input:checked").value;
  for (const row of rows) row.hidden = kind !== "all" && !row.dataset.kinds.split("|").includes(kind);
}

/** The rows that say the same as each other, by the number of the one that was chosen. */
const groups = new Map();
for (const row of rows.filter((one) => one.dataset.group !== undefined)) groups.set(row.dataset.group, [...(groups.get(row.dataset.group) ?? []), row]);
let marked = [];

function mark(event) {
  const row = event.target.closest("tr");
  const group = groups.get(row?.dataset.group) ?? [];
  if (group === marked) return;
  for (const one of marked) one.classList.remove("linked");
  for (const one of group) one.classList.add("linked");
  marked = group;
}

/** A link to a row that is filtered away shows it. */
function reveal(event) {
  const link = event.target.closest('a[href^="#demonstration-"]');
  if (link === null) return;
  if (document.getElementById(link.hash.slice(1)).hidden) {
    shown.querySelector('[value="all"]').checked = true;
    filter();
  }
}

heads.forEach(buttonOf);
shown.hidden = false;
shown.addEventListener("change", filter);
for (const name of ["pointerover", "focusin"]) body.addEventListener(name, mark);
for (const name of ["pointerleave", "focusout"]) body.addEventListener(name, () => mark({ target: body }));
document.addEventListener("click", reveal);
