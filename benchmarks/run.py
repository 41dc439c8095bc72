"""Time this project's engine and mergekit side by side: the same recipes, the same files, taking turns.

    python -m benchmarks.run [--only WORK …] [--rounds 3] [--no-growth]

Every round of a work runs ours, mergekit and the copy floor after each other, each on warm inputs and with nothing left
to be written by the one before. Results go to docs/benchmarks.json, by work, and the page is rendered from it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.measure import RunError, Usage, floor, run, warm
from benchmarks.works import GROWTH, SIZES, WORKS, Work, recipe_text

RESULTS = Path("docs/benchmarks.json")
LAYERS = 22
MODELS = ("base", "one", "two")


class Bench:
    """One run on checkpoints in ``folder``, against the mergekit of the environment ``peer``."""

    def __init__(self, folder: Path, peer: Path, rounds: int) -> None:
        self.folder = folder
        self.peer = peer
        self.rounds = rounds
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        (folder / "recipes").mkdir(exist_ok=True)

    def compare(self, work: Work, layers: int) -> dict[str, Any]:
        """All rounds of one work with mergekit."""
        return self._rounds(work, layers, self.rounds if work.peer_rounds is None else work.peer_rounds)

    def alone(self, work: Work, layers: int) -> dict[str, Any]:
        """All rounds of one work without mergekit."""
        return self._rounds(work, layers, 0)

    def _rounds(self, work: Work, layers: int, peer_rounds: int) -> dict[str, Any]:
        models = {name: self.folder / f"{name}-{layers}" for name in MODELS}
        recipe = self.folder / "recipes" / f"{work.name}-{layers}.yaml"
        recipe.write_text(recipe_text(work.body, models, layers))
        inputs, out = work.inputs(models), self.folder / "out"
        ours: list[Usage] = []
        theirs: list[Usage] = []
        floors: list[float] = []
        failure = ""
        for number in range(self.rounds):
            warm(inputs)
            ours.append(run(_ours(recipe, out), out, self.folder / "logs" / f"{work.name}-ours.log"))
            _say(f"{work.name} {layers} layers, round {number + 1}: ours {_line(ours[-1])}")
            if number < peer_rounds and not failure:
                warm(inputs)
                try:
                    theirs.append(
                        run(
                            [self.peer / "bin" / "mergekit-yaml", recipe, out],
                            out,
                            self.folder / "logs" / f"{work.name}-mergekit.log",
                        )
                    )
                    _say(f"{work.name} {layers} layers, round {number + 1}: mergekit {_line(theirs[-1])}")
                except RunError as error:
                    failure = str(error)
                    _say(failure)
            warm(inputs)
            floors.append(floor(inputs, ours[-1].output, out, copies=work.copies))
            _say(f"{work.name} {layers} layers, round {number + 1}: floor {floors[-1]:.2f} s")
        return {
            "date": _now(),
            "layers": layers,
            "input_bytes": sum(f.stat().st_size for folder in inputs for f in folder.glob("*.safetensors")),
            "ours": [asdict(usage) for usage in ours],
            "mergekit": [asdict(usage) for usage in theirs],
            "mergekit_failure": failure,
            "floor": floors,
        }


def _ours(recipe: Path, out: Path) -> list[str | Path]:
    return [Path(sys.executable).parent / "merge-assets", "merge", recipe, out, "--device", "cpu", "--json"]


def _line(usage: Usage) -> str:
    return f"{usage.wall:.2f} s, cpu {usage.cpu:.2f} s, {usage.memory / 1e6:.0f} MB"


def _say(text: str) -> None:
    print(text, flush=True)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _step(*arguments: str) -> None:
    """Another part, in a process of its own: torch must not make this one large."""
    subprocess.run([sys.executable, "-m", *arguments], check=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; every finished work is saved at once."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(os.environ.get("BENCH_DIR") or ".bench"))
    parser.add_argument("--peer", type=Path, default=Path(os.environ.get("MERGEKIT_VENV") or ".peer"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--only", nargs="+", choices=[work.name for work in WORKS], help="these works, not all")
    parser.add_argument("--no-growth", action="store_true", help="leave out how time grows with the size of the models")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="JSON; the page and the plot are written beside it"
    )
    asked = parser.parse_args(arguments)
    folder, peer = asked.folder.absolute(), asked.peer.absolute()
    if not (peer / "bin" / "mergekit-yaml").exists():
        sys.exit(f"{peer} has no mergekit: run `make bench`, or name its virtual environment with MERGEKIT_VENV")
    works = [work for work in WORKS if asked.only is None or work.name in asked.only]
    results: dict[str, Any] = json.loads(asked.results.read_text()) if asked.results.exists() else {}
    results |= {"machine": describe(folder, peer), "rounds": asked.rounds}
    bench = Bench(folder, peer, asked.rounds)
    _step("benchmarks.checkpoints", str(folder), str(asked.layers))
    for work in works:
        results.setdefault("works", {})[work.name] = bench.compare(work, asked.layers)
        asked.results.write_text(json.dumps(results, indent=1) + "\n")
    if not asked.no_growth:
        for layers in SIZES:
            _step("benchmarks.checkpoints", str(folder), str(layers))
        for work in works:
            if work.name in GROWTH:
                results.setdefault("growth", {})[work.name] = [bench.alone(work, layers) for layers in SIZES]
                asked.results.write_text(json.dumps(results, indent=1) + "\n")
    _step("benchmarks.accuracy", str(folder), str(peer), str(asked.results))
    _step("benchmarks.report", str(asked.results))


if __name__ == "__main__":
    main()
