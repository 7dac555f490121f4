// Grids of cells: arrow keys walk from cell to cell, and the Tab key reaches one of them.

/** Leads from the cell of an event to the next one, by the arrow key that was pressed. */
export function walk(event, cells, row, column) {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  const next = step && cells[row + step[0]]?.[column + step[1]];
  if (!next) return;
  event.preventDefault();
  event.currentTarget.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}
