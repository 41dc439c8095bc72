"""Write the figures of docs/benchmarks.json into docs/benchmarks.md, and the plot.

    python -m benchmarks.report [docs/benchmarks.json]

A generated part stands between ``<!-- generated: NAME -->`` and ``<!-- end of generated -->``; the text around is
written by hand and stays.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.plot import draw
from benchmarks.works import WORKS, Work

_BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end of generated -->)", re.DOTALL)

Results = Mapping[str, Any]


def render(page: str, results: Results) -> str:
    """The page with its generated parts as the results have them.

    Raises:
        KeyError: if the page names a part that there is not.
    """
    return _BLOCK.sub(lambda match: match[1] + PARTS[match[2]](results) + match[3], page)


def middle(runs: Sequence[Mapping[str, Any]], field: str) -> float:
    """Median of one figure over the rounds."""
    return float(median(run[field] for run in runs))


def machine(results: Results) -> str:
    """Machine, versions and date."""
    dates = sorted({work["date"] for work in results["works"].values()})
    rows = [f"| {name} | {value} |" for name, value in results["machine"].items()]
    span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return _lines("| | |", "|---|---|", *rows, f"| measured | {span}, {results['rounds']} rounds, medians |")


def times(results: Results) -> str:
    """Whole processes against each other, and what is left without start-up against the copy floor."""
    rows = []
    for work, found in _measured(results):
        ours, copy = middle(found["ours"], "wall"), median(found["floor"])
        cells = [work.name, f"{ours:.2f} s", *_against(work, found), f"{copy:.2f} s", *_above_floor(work, found)]
        rows.append(f"| {' | '.join(cells)} |")
    return _lines(
        "| work | ours | mergekit | faster | aim | copy floor | ours, no start-up | of the floor | aim |",
        "|---|--:|--:|--:|---|--:|--:|--:|---|",
        *rows,
    )


def _against(work: Work, found: Results) -> Iterator[str]:
    if not found["mergekit"]:
        yield from ("–", "–", f"≥ {work.target.wall:g}×")
        return
    theirs = middle(found["mergekit"], "wall")
    ratio = theirs / middle(found["ours"], "wall")
    once = "" if len(found["mergekit"]) > 1 else " (one run)"
    yield from (
        f"{theirs:.1f} s{once}",
        f"{ratio:.1f}×",
        _verdict(work.target.wall / ratio, f"≥ {work.target.wall:g}×"),
    )


def _above_floor(work: Work, found: Results) -> Iterator[str]:
    engine = middle(found["ours"], "engine")
    ratio = engine / median(found["floor"])
    aim = work.target.floor
    yield from (f"{engine:.2f} s", f"{ratio:.2f}×", "–" if aim is None else _verdict(ratio / aim, f"≤ {aim:g}×"))


def _verdict(share: float, aim: str) -> str:
    """What became of an aim of which ``share`` was needed: more than 1 is too much."""
    return f"{aim}, met" if share <= 1 else f"**{aim}, missed by {share - 1:.1%}**"


def resources(results: Results) -> str:
    """Processor time, memory and bytes of both."""
    rows = []
    for work, found in _measured(results):
        peak = max(run["memory"] for run in found["ours"])
        verdict = _verdict(peak / work.target.memory / 1e6, f"≤ {work.target.memory:g} MB")
        cells = [work.name, f"{peak / 1e6:.0f} MB", verdict, *_resources(found["ours"], memory=False)]
        cells += _resources(found["mergekit"], memory=True)
        rows.append(f"| {' | '.join(cells)} |")
    return _lines(
        "| work | ours: peak memory | aim | CPU | read | written | mergekit: peak memory | CPU | read | written |",
        "|---|--:|---|--:|--:|--:|--:|--:|--:|--:|",
        *rows,
    )


def _resources(runs: Sequence[Mapping[str, Any]], *, memory: bool) -> Iterator[str]:
    if not runs:
        yield from ["–"] * (3 + memory)
        return
    if memory:
        yield f"{max(run['memory'] for run in runs) / 1e6:.0f} MB"
    yield f"{middle(runs, 'cpu'):.1f} s"
    yield from (f"{middle(runs, field) / 1e9:.2f} GB" for field in ("read", "written"))


def growth(results: Results) -> str:
    """How time and memory grow with the size of the models."""
    rows = []
    for name, (small, big) in results.get("growth", {}).items():
        size = big["ours"][0]["output"] / small["ours"][0]["output"]
        time, copy = (middle(big["ours"], "wall") / middle(small["ours"], "wall"), _ratio(big["floor"], small["floor"]))
        peaks = [max(run["memory"] for run in found["ours"]) / 1e6 for found in (small, big)]
        cells = [
            name,
            f"{small['layers']} → {big['layers']}",
            f"{size:.2f}×",
            f"{middle(small['ours'], 'wall'):.2f} s → {middle(big['ours'], 'wall'):.2f} s",
            f"{time:.2f}×",
            _verdict(time / size / 1.1, f"≤ {1.1 * size:.2f}×"),
            f"{copy:.2f}×",
            f"{peaks[0]:.0f} MB → {peaks[1]:.0f} MB",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    if not rows:
        return "Not measured.\n"
    return _lines(
        "| work | layers | size | time | grows | aim | copy floor grows | peak memory |",
        "|---|--:|--:|--:|--:|---|--:|--:|",
        *rows,
    )


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return median(above) / median(below)


def accuracy(results: Results) -> str:
    """Errors at bfloat16 against the float64 truth."""
    rows = [
        f"| {name} | {found['ours']['error']:.3e} | {found['mergekit']['error']:.3e} | "
        f"{found['ours']['exact']:.4%} | {found['mergekit']['exact']:.4%} | "
        f"{'yes' if found['ours']['error'] <= found['mergekit']['error'] else '**no**'} |"
        for name, found in results.get("accuracy", {}).items()
    ]
    return _lines(
        "| work | error, ours | error, mergekit | exactly rounded, ours | exactly rounded, mergekit | ours not above |",
        "|---|--:|--:|--:|--:|---|",
        *rows,
    )


def _measured(results: Results) -> Iterator[tuple[Work, Results]]:
    return ((work, results["works"][work.name]) for work in WORKS if work.name in results["works"])


def _lines(*lines: str) -> str:
    return "\n".join(lines) + "\n"


PARTS: dict[str, Callable[[Results], str]] = {
    "machine": machine,
    "times": times,
    "resources": resources,
    "growth": growth,
    "accuracy": accuracy,
}


def main() -> None:
    """Entry point."""
    source = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/benchmarks.json")
    results = json.loads(source.read_text())
    page = source.with_suffix(".md")
    page.write_text(render(page.read_text(), results))
    picture = source.parent / "images" / "benchmarks.png"
    picture.parent.mkdir(exist_ok=True)
    draw({work.name: found for work, found in _measured(results)}, picture)


if __name__ == "__main__":
    main()
