// On a phone, a table of three columns or more is read row by row: each cell is told the heading above it.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table.docutils")) {
    const headings = [...table.querySelectorAll("thead th")].map((each) => each.textContent.trim());
    if (headings.length < 3) continue;
    table.classList.add("stacked");
    for (const row of table.querySelectorAll("tbody tr")) {
      [...row.children].forEach((cell, at) => {
        cell.dataset.heading = headings[at] || "";
        if (!cell.textContent.trim()) cell.classList.add("empty");
      });
    }
  }
});
