"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const order = (row, column) => row.cells[column].dataset.order;
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    const numeric = head.classList.contains("number");
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].sort((one, other) => {
      const a = order(one, column), b = order(other, column);
      if (a === "" || b === "") return (a === "") - (b === "");
      const difference = numeric ? a - b : a.localeCompare(b);
      return down ? -difference : difference;
    });
    body.append(...rows);
  }));
}
document.addEventListener("keydown", event => {
  if (event.key === "Escape" && document.activeElement.classList.contains("value")) document.activeElement.blur();
});
