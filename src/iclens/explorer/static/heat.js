// A small map of numbers by row and column, whose cells say their numbers when they are pointed at or reached by keys.

import { el } from "./elements.js";
import { walk } from "./grid.js";
import { colour, largest } from "./numbers.js";

const FEW = 12; // columns whose names have room on a narrow screen

/** A map and the line that says a cell: rows and columns are called by their names, cells by `said(value)`. */
export function heatMap({ label, rows, columns, values, said, hint }) {
  const most = largest(values.flat());
  const line = el("p", { class: "note readout", "aria-live": "polite" }, hint);
  const cells = values.map((row, i) => row.map((value, j) => cellOf(value, i, j)));

  function cellOf(value, i, j) {
    const text = `${rows[i].long}, ${columns[j].long}: ${said(value)}`;
    const say = () => (line.textContent = text);
    const cell = el("span", {
      role: "gridcell",
      class: "cell",
      tabindex: i || j ? "-1" : "0",
      title: text,
      "aria-label": text,
      onpointerenter: say,
      onfocus: say,
      onkeydown: (event) => walk(event, cells, i, j),
    });
    colour(cell, value, most);
    return cell;
  }

  const heading = el("div", { class: "row heading", "aria-hidden": "true" }, el("span"), ...columns.map((one) => el("span", {}, one.short)));
  const body = rows.map((one, i) => el("div", { role: "row", class: "row" }, el("span", { role: "rowheader", class: "name", title: one.long }, one.short), ...cells[i]));
  const map = { class: columns.length > FEW ? "heat dense" : "heat", role: "grid", "aria-label": label, "--columns": columns.length, "--names": longest(rows) };
  return el("div", { class: "heat-frame" }, el("div", map, heading, ...body), line);
}

/** Characters of the longest short name. */
function longest(rows) {
  return Math.max(...rows.map((one) => [...one.short].length));
}
