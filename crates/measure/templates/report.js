// Sorting by a click on a column's head, and dimming of the other lines on hover: the page reads the same without.
for (const table of document.querySelectorAll("table:not(.texts)")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (column === 0) return;
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const key = (row) => {
        const value = parseFloat(row.cells[column].dataset.key);
        return Number.isNaN(value) ? Infinity : descending ? -value : value;
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => key(a) - key(b)));
    });
  });
}
for (const figure of document.querySelectorAll("svg.figure")) {
  const lines = [...figure.querySelectorAll("g.cat")];
  for (const line of lines) {
    const others = lines.filter((other) => other.classList[1] !== line.classList[1]);
    line.addEventListener("pointerenter", () => others.forEach((other) => other.classList.add("dim")));
    line.addEventListener("pointerleave", () => others.forEach((other) => other.classList.remove("dim")));
  }
}
