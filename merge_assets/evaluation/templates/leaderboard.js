"use strict";
(() => {
  document.documentElement.classList.add("js");
  const table = document.getElementById("board");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.querySelectorAll("thead button[data-key]")];

  // Sorting: a row without a value stays last in both directions; equal values keep the order of ranks.
  const column = (button) => button.closest("th").cellIndex;
  const compare = (a, b) => {
    const x = Number(a), y = Number(b);
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
  };
  const sort = (button, direction) => {
    const index = column(button);
    const sign = direction === "descending" ? -1 : 1;
    const value = (row) => row.cells[index].dataset.v;
    const place = new Map(rows.map((row, i) => [row, i]));
    const sorted = [...rows].sort((a, b) => {
      const x = value(a), y = value(b);
      if ((x === "") !== (y === "")) return x === "" ? 1 : -1;
      return (x === "" ? 0 : sign * compare(x, y)) || place.get(a) - place.get(b);
    });
    for (const other of heads) other.closest("th").removeAttribute("aria-sort");
    button.closest("th").setAttribute("aria-sort", direction);
    body.append(...sorted);
  };
  for (const button of heads) {
    button.addEventListener("click", () => {
      const now = button.closest("th").getAttribute("aria-sort");
      const first = button.dataset.first === "desc" ? "descending" : "ascending";
      const second = first === "descending" ? "ascending" : "descending";
      sort(button, now === first ? second : first);
    });
  }

  // Filters.
  const form = document.querySelector(".controls");
  const output = form.querySelector("output");
  // Columns: those of a suite that is not ticked are hidden, and single ones. The first head spans what is left of its suite.
  const scores = heads.filter((button) => button.closest("th").dataset.suite !== undefined);
  const choose = (data) => {
    const several = form.querySelector("[name=suite]") !== null;
    const suites = new Set(data.getAll("suite")), columns = new Set(data.getAll("column"));
    const left = {};
    for (const button of scores) {
      const head = button.closest("th"), suite = head.dataset.suite;
      const hidden = (several && !suites.has(suite)) || !columns.has(button.dataset.key);
      for (const row of [head.parentElement, ...rows]) row.cells[head.cellIndex].hidden = hidden;
      left[suite] = (left[suite] ?? 0) + (hidden ? 0 : 1);
    }
    for (const head of table.querySelectorAll("thead .suite")) {
      head.colSpan = left[head.dataset.suite] || 1;
      head.hidden = !left[head.dataset.suite];
    }
  };
  const filter = () => {
    const data = new FormData(form);
    const words = String(data.get("text")).toLowerCase().split(/\s+/).filter(Boolean);
    const kind = data.get("kind");
    let shown = 0;
    for (const row of rows) {
      row.hidden = (kind && row.dataset.kind !== kind) || !words.every((word) => row.dataset.text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    choose(data);
    output.textContent = shown === rows.length ? "" : `${shown} of ${rows.length} models`;
  };
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  filter();

  document.addEventListener("click", (event) => {
    const menu = form.querySelector(".pick");
    if (menu && !menu.contains(event.target)) menu.open = false;
  });

  // Details of one model in a panel; the address keeps the model, so that it can be linked to.
  const panel = document.getElementById("panel");
  const content = panel.querySelector(".body");
  const open = (id) => {
    const article = document.getElementById(id);
    if (!article || !id.startsWith("model-")) return;
    const copy = article.cloneNode(true);
    copy.removeAttribute("id");
    content.replaceChildren(copy);
    hide();
    if (!panel.open) panel.showModal();
    panel.scrollTop = 0;
  };
  table.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#model-']");
    if (!link) return;
    event.preventDefault();
    history.replaceState(null, "", link.getAttribute("href"));
    open(link.getAttribute("href").slice(1));
  });
  panel.querySelector(".close").addEventListener("click", () => panel.close());
  panel.addEventListener("click", (event) => {
    if (event.target === panel) panel.close();
  });
  panel.addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));

  // Tooltips. All they say is in the panel, too, which the keyboard reaches.
  const tip = document.getElementById("tip");
  const hide = () => { tip.hidden = true; };
  const show = (cell) => {
    const recipe = cell.dataset.recipe && document.querySelector(`#${cell.dataset.recipe} pre`);
    const text = cell.dataset.tip || (recipe && recipe.textContent);
    if (!text) return hide();
    tip.className = recipe ? "recipe" : "";
    tip.textContent = text;
    tip.hidden = false;
    const at = cell.getBoundingClientRect(), size = tip.getBoundingClientRect();
    const left = recipe ? Math.min(at.right + 10, innerWidth - size.width - 8) : at.left + at.width / 2 - size.width / 2;
    const under = recipe ? at.top : at.bottom + 6;
    const top = under + size.height > innerHeight - 8 ? Math.max(8, at.top - size.height - 6) : under;
    tip.style.left = `${Math.max(8, Math.min(left, innerWidth - size.width - 8))}px`;
    tip.style.top = `${top}px`;
  };
  table.addEventListener("pointerover", (event) => {
    const cell = event.target.closest("[data-tip], [data-recipe]");
    if (cell && event.pointerType !== "touch") show(cell); else hide();
  });
  table.addEventListener("pointerleave", hide);
  table.parentElement.addEventListener("scroll", hide);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

  if (location.hash.startsWith("#model-")) open(location.hash.slice(1));
})();
