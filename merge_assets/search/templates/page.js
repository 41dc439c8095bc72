"use strict";
(() => {
  document.documentElement.classList.add("js");
  const compare = (a, b) => {
    const x = Number(a), y = Number(b);
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
  };
  const all = document.getElementById("all");
  if (!all) return;
  const tables = [...all.querySelectorAll("table.trials")];
  const bodies = tables.map((table) => table.tBodies[0]);
  const shown = bodies[0].rows.length;
  let rows = bodies.flatMap((body) => [...body.rows]);
  const value = (row, index) => { const cell = row.cells[index]; return cell ? cell.dataset.v ?? cell.textContent : ""; };

  // Sorting: those without a value stay last; the first rows are open, as before.
  const sort = (index, direction) => {
    const sign = direction === "descending" ? -1 : 1;
    const place = new Map(rows.map((row, i) => [row, i]));
    rows = [...rows].sort((a, b) => {
      const x = value(a, index), y = value(b, index);
      if ((x === "") !== (y === "")) return x === "" ? 1 : -1;
      return sign * compare(x, y) || place.get(a) - place.get(b);
    });
    bodies[0].append(...rows.slice(0, shown));
    if (bodies[1]) bodies[1].append(...rows.slice(shown));
    for (const table of tables) {
      for (const head of table.tHead.rows[0].cells) head.removeAttribute("aria-sort");
      table.tHead.rows[0].cells[index].setAttribute("aria-sort", direction);
    }
  };
  for (const table of tables) {
    for (const head of table.tHead.rows[0].cells) {
      head.firstElementChild.addEventListener("click", () => {
        sort(head.cellIndex, head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending");
      });
    }
  }

  // Filtering; what is written stays when the page reloads itself.
  const input = all.querySelector("input"), output = all.querySelector("output"), rest = document.getElementById("rest");
  const kept = { get: () => { try { return sessionStorage.getItem(location.pathname) ?? ""; } catch { return ""; } },
    set: (text) => { try { sessionStorage.setItem(location.pathname, text); } catch { /* not kept */ } } };
  const filter = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const text = words.length ? row.textContent.toLowerCase() : "";
      row.hidden = !words.every((word) => text.includes(word));
      count += row.hidden ? 0 : 1;
    }
    if (rest && words.length) rest.open = true;
    output.textContent = words.length ? `${count} of ${rows.length} trials` : "";
    kept.set(input.value);
  };
  input.value = kept.get();
  input.addEventListener("input", filter);
  all.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  if (input.value) filter();
})();
