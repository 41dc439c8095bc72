"""What a trial of a search takes beside merging and answering, from the second on: by itself, and of a model that stays loaded.

    python -m benchmarks.search_overhead [--trials 6] [--limit 100]

Slerp of the demo's two models on the demo's suite, of each task the first documents. Merging is what the engine takes,
answering what the model takes for its batches; all else is overhead: the plan, the fingerprint, files, processes, loading tasks
and the model, prompts, metrics and writing results down. Both ways try the same candidates, by turns, in caches of their own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import merge_assets.engine.execute as engine
from benchmarks.timed_harness import TIMES
from merge_assets import api
from merge_assets.api.candidates import Candidates
from merge_assets.api.trying import Trying
from merge_assets.evaluation import runner
from merge_assets.evaluation.runner import Evaluation
from merge_assets.recipe import Recipe
from merge_assets.search.trials import Trial
from merge_assets.settings import Settings

_HERE = Path(__file__).parents[1]
_PLACE = "parameters.t[0].value"
_RECIPE = """\
merge_method: slerp
models: [{{model: {models}/scripture}}, {{model: {models}/manual}}]
base_model: {models}/scripture
parameters: {{t: [{{filter: self_attn, value: 0.5}}, {{value: 0.5}}]}}
search: {{space: {{"parameters.t[0].value": {{low: 0, high: 1}}}}, objective: {{suite: demo}}, trials: {trials}}}
"""


class _Times:
    """Seconds of the engine, of the model, and of all; of one trial."""

    def __init__(self, answers: Path) -> None:
        self._answers = answers
        self.merged = 0.0

    def execute(self, *arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return _execute(*arguments, **options)
        finally:
            self.merged += time.perf_counter() - began

    def of(self, trial: Callable[[], Evaluation]) -> tuple[dict[str, float], Evaluation]:
        self.merged = 0.0
        self._answers.write_text("")
        began = time.perf_counter()
        evaluation = trial()
        total = time.perf_counter() - began
        answered = sum(map(float, self._answers.read_text().split()))
        apart = {"merging": self.merged, "answering": answered, "overhead": total - self.merged - answered}
        return apart, evaluation


_execute = engine.execute


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--limit", type=int, default=100)
    options = parser.parse_args()
    root = Path(".bench").resolve() / "search"
    shutil.rmtree(root, ignore_errors=True)
    for folder in ("recipes", "suites", "var"):
        (root / folder).mkdir(parents=True)
    shutil.copytree(_HERE / "suites/tasks", root / "suites/tasks")
    suite = (_HERE / "suites/demo.yaml").read_text()
    (root / "suites/demo.yaml").write_text(suite.replace("limit: null", f"limit: {options.limit}"))
    recipe = _RECIPE.format(models=_HERE / "examples/checkpoints", trials=options.trials)
    (root / "recipes/best.yaml").write_text(recipe)
    alone, together = (
        api.Workspace.open(Settings(root=root, cache_dir=root / name, default_suites=[]))
        for name in ("alone", "together")
    )
    os.environ[TIMES] = str(root / "times")
    times = _Times(root / "times")
    found = api.open_search(together, "best")
    rows: dict[str, list[dict[str, float]]] = {"by itself": [], "of a loaded model": []}
    with (
        mock.patch.object(runner, "HARNESS", "benchmarks.timed_harness"),
        mock.patch.object(engine, "execute", times.execute),
        Trying(together, found.corners) as trying,
    ):
        for number in range(options.trials):
            value = number / max(options.trials - 1, 1)
            made = found.candidate(Trial(number, "running", {_PLACE: value}, (), "", {}, None, None))
            row, one = times.of(lambda made=made: _by_itself(alone, found, made))
            rows["by itself"].append(row)
            row, other = times.of(lambda made=made, number=number: _of_a_loaded_model(trying, found, made, number))
            rows["of a loaded model"].append(row)
            if one.scores.digest != other.scores.digest:
                raise SystemExit(f"trial {number}: the scores differ")
    print(f"{options.trials} trials, all scores equal; load of the machine {os.getloadavg()[0]:.1f}")
    print("| trial | | merging | answering | overhead |")
    print("|---|---|--:|--:|--:|")
    for way, each in rows.items():
        print(_line("first", way, each[0]))
        print(
            _line("others, median", way, {name: statistics.median(one[name] for one in each[1:]) for name in each[0]})
        )
    shutil.rmtree(root)


def _by_itself(workspace: api.Workspace, found: api.OpenSearch, recipe: Recipe) -> Evaluation:
    candidates = Candidates(workspace)
    made = candidates.build(recipe, candidates.plan(recipe, found.corners), "searches/alone/trial-0")
    return api.evaluate(workspace, made.directory(workspace.cache), "demo", fingerprint=made.version)


def _of_a_loaded_model(trying: Trying, found: api.OpenSearch, recipe: Recipe, number: int) -> Evaluation:
    tried = trying.make(recipe, trying.plan(recipe), found.line(number))
    if number and tried.stored:
        raise SystemExit(f"trial {number} was stored: {tried.stored}")
    return trying.evaluate(tried, "demo", "all")


def _line(trial: str, way: str, row: dict[str, float]) -> str:
    return f"| {trial} | {way} | " + " | ".join(f"{row[name]:.2f} s" for name in row) + " |"


if __name__ == "__main__":
    main()
