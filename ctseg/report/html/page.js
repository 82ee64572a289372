// Sorts a table by the column whose title is pressed, upwards first; cells without a value stay last.
function key(row, column) {
  const cell = row.cells[column];
  const text = cell.dataset.value ?? cell.textContent;
  if (text === "-" || text === "") return null;
  const number = Number(text);
  return cell.classList.contains("number") && !Number.isNaN(number) ? number : text;
}

function compare(one, two) {
  if (typeof one === "number" && typeof two === "number") return one - two;
  return String(one).localeCompare(String(two), undefined, { numeric: true });
}

function sort(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const sign = heads[column].getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const head of heads) head.removeAttribute("aria-sort");
  heads[column].setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [key(row, column), row]);
  rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b)));
  body.append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    head.querySelector("button")?.addEventListener("click", () => sort(table, column));
  });
}

// Paper shows what is folded.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const one of opened) one.open = true;
});
addEventListener("afterprint", () => {
  for (const one of opened) one.open = false;
});
