// The pool's rows: sorted by any column, filtered, and linked to those that say the same. Without this script all is there, too.

const table = document.getElementById("pool");
const body = table.tBodies[0];
const heads = [...table.tHead.rows[0].cells].filter((one) => one.dataset.key !== undefined);
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
  const known = keysOf(head.cellIndex);
  const index = keysOf(0);
  const sign = direction === "ascending" ? 1 : -1;
  const order = (one, other) => {
    const [a, b] = [known.get(one), known.get(other)];
    const missing = (a === null) - (b === null);
    return missing || sign * (a - b) || index.get(one) - index.get(other);
  };
  // A thousand rows that are moved one by one take twenty times as long.
  body.replaceChildren();
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
const pointed = { pointer: null, focus: null }; // groups that are pointed at by either
let marked = [];

/** Marks the rows of the group that is pointed at; of one that is in no group, those of the link that has the focus. */
function mark(way, target) {
  pointed[way] = target?.closest("tr")?.dataset.group ?? null;
  const group = groups.get(pointed.pointer) ?? groups.get(pointed.focus) ?? [];
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

/** Says what each part is: some browsers forget it of a table whose rows are laid out as grids. */
function nameParts() {
  const roles = { TABLE: "table", THEAD: "rowgroup", TBODY: "rowgroup", TR: "row", TD: "cell" };
  for (const one of [table, ...table.querySelectorAll("thead, tbody, tr, td")]) one.setAttribute("role", roles[one.tagName]);
  for (const one of table.querySelectorAll("th")) one.setAttribute("role", one.scope === "col" ? "columnheader" : "rowheader");
}

nameParts();
heads.forEach(buttonOf);
shown.hidden = false;
shown.addEventListener("change", filter);
body.addEventListener("pointerover", (event) => mark("pointer", event.target));
body.addEventListener("pointerleave", () => mark("pointer", null));
body.addEventListener("focusin", (event) => mark("focus", event.target));
body.addEventListener("focusout", () => mark("focus", null));
document.addEventListener("click", reveal);
