// Tables of numbers under their titles.

import { el } from "./elements.js";

/** A table under its title; the first column names the row, the others are numbers. */
export function numberTable(title, columns, rows, style = () => null) {
  return [
    el("h3", {}, title),
    el(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": title },
      el(
        "table",
        { class: "list detail" },
        head(columns, true),
        el("tbody", {}, ...rows.map((row) => el("tr", { class: style(row) }, el("th", { scope: "row" }, row[0]), ...row.slice(1).map((cell) => el("td", { class: "number" }, cell))))),
      ),
    ),
  ];
}

/** The names of columns; with `numbers`, all but the first stand above numbers. */
export function head(names, numbers = false) {
  return el("thead", {}, el("tr", {}, ...names.map((name, i) => el("th", { scope: "col", class: numbers && i ? "number" : null }, name))));
}
