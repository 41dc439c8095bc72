"""How long the page of a search takes to be made and until it can be used, and what memory it takes, by its number of trials.

    python -m benchmarks.search_page [--trials 100 1000 3000]

Trials of six places and two objectives lie in an SQLite storage, as those of a search do. Memory is Python's peak while the
page is made, beyond the trials. The page is opened by Chromium, 1440 pixels wide; it can be used when a word in the filter of
its table has been answered.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from merge_assets.recipe import Search
from merge_assets.search.gradients import gradients_of
from merge_assets.search.page import Head, search_page
from merge_assets.search.standing import Standing, goals_of
from merge_assets.search.trials import Trials

_CHROMIUM = "/usr/bin/chromium"
_SPACE: dict[str, Any] = {
    "merge_method": ["linear", "ties"],
    "parameters.density": {"low": 0.01, "high": 1, "log": True, "when": {"merge_method": ["ties"]}},
    **{f"parameters.t[0].value[{n}]": {"low": 0, "high": 1} for n in range(4)},
}
_RECIPE = {"parameters": {"t": [{"value": [0.5, 0.5, 0.5, 0.5]}]}}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000, 3000])
    options = parser.parse_args()
    search = Search.model_validate(
        {"space": _SPACE, "objective": [{"suite": "demo"}, {"size": "parameters"}], "sampler": "random"}
    )
    print(
        "| trials | read | pictures and page | page | peak memory | opened and filtered |\n|---:|---:|---:|---:|---:|---:|"
    )
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        for count in options.trials:
            print(_measured(search, count, Path(folder), browser), flush=True)
        browser.close()


def _measured(search: Search, count: int, folder: Path, browser: Any) -> str:
    trials = Trials(f"sqlite:///{folder / f'{count}.db'}", "study", search, (True, False))
    draw = random.Random(0)
    for _ in range(count):
        asked = trials.ask()
        score = sum(value**2 for value in asked.values.values() if isinstance(value, float)) + draw.gauss(0, 0.1)
        trials.tell(asked.number, [score, 1e6 + draw.random()], {"objectives": {"demo": score}, "merge_seconds": 1.0})
    began = time.perf_counter()
    found = trials.all()
    read = time.perf_counter() - began

    def page() -> str:
        goals = goals_of(search, ("demo", "parameters"), (True, False))
        standing = Standing(found, search.space, goals, gradients_of(search.space, _RECIPE))
        head = Head("best", "study", "", "slerp", ["a", "b"], "random", count, None, datetime.now(UTC), False)
        return search_page(standing, head)

    page()
    began = time.perf_counter()
    text = page()
    made = time.perf_counter() - began
    tracemalloc.start()
    page()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    file = folder / f"{count}.html"
    file.write_text(text)
    tab = browser.new_page(viewport={"width": 1440, "height": 1000})
    began = time.perf_counter()
    tab.goto(f"file://{file}")
    tab.fill("input[type=search]", "ties")
    tab.wait_for_function("document.querySelector('output').textContent !== ''")
    opened = time.perf_counter() - began
    tab.close()
    return (
        f"| {count} | {read:.2f} s | {made:.2f} s | {len(text) / 1e6:.2f} MB | {peak / 1e6:.1f} MB | {opened:.2f} s |"
    )


if __name__ == "__main__":
    main()
