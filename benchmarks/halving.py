"""What halving saves: two hundred candidates evaluated on all documents, and halving replayed from their answers.

    python -m benchmarks.halving [--trials 200] [--steps 3] [--seeds 10]

Linear merges of the three demo checkpoints with random weights, on the demo's texts and choices. Each seed has its own order of
the candidates and of the documents. That the winner of a replay is as good as the best of all is asked of the documents that
were searched, by the leaderboard's own test.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from merge_assets import api
from merge_assets.evaluation.pairs import Sheet, measure_of, sheet_of
from merge_assets.evaluation.results import StoredResult, TaskResults
from merge_assets.evaluation.samples import samples_of_results
from merge_assets.evaluation.sequential import PairedEvidence
from merge_assets.evaluation.statistics import LEVEL, Measure, Ratio, p_value
from merge_assets.settings import Settings

RECIPE = """\
merge_method: linear
models:
  - {{model: {checkpoints}/base, parameters: {{weight: 0.5}}}}
  - {{model: {checkpoints}/manual, parameters: {{weight: 0.5}}}}
  - {{model: {checkpoints}/scripture, parameters: {{weight: 0.5}}}}
search:
  space:
    "models[0].parameters.weight": {{low: 0.01, high: 1}}
    "models[1].parameters.weight": {{low: 0.01, high: 1}}
    "models[2].parameters.weight": {{low: 0.01, high: 1}}
  objective: {{suite: halving}}
  sampler: random
  trials: {trials}
"""
SUITE = """\
headline: average
include_path: {suites}/tasks
batch_size: 16
dtype: float32
confirm: 0.3
tasks:
  - {task: demo_perplexity_scripture, metric: compression, shots: 0, higher_is_better: true}
  - {task: demo_perplexity_manual, metric: compression, shots: 0, higher_is_better: true}
  - {task: demo_cloze_scripture, metric: acc, shots: 0}
  - {task: demo_cloze_manual, metric: acc, shots: 0}
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 3, 4, 5])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--level", type=float, default=0.05)
    options = parser.parse_args()
    sheets = _answers(options.trials)
    values = [float(measure_of([sheet]).values[0]) for sheet in sheets]
    best = int(np.argmax(values))
    everything = _count(sheets[0], 1) * len(sheets)
    print(
        f"{len(sheets)} candidates, {_count(sheets[0], 1)} documents each; values {min(values):.4f} to {max(values):.4f}"
    )
    for steps in options.steps:
        fewer, same, equal = [], 0, 0
        for seed in range(options.seeds):
            won, asked = _replayed(sheets, values, steps, options.level, seed)
            fewer.append(everything / asked)
            same += won == best
            equal += won == best or p_value(measure_of([sheets[won], sheets[best]])) > LEVEL
        print(
            f"steps {steps}: {min(fewer):.2f} to {max(fewer):.2f} times fewer documents, median {np.median(fewer):.2f}; "
            f"the same winner {same} of {options.seeds}, the same or not significantly worse {equal}"
        )


def _answers(trials: int) -> list[Sheet]:
    """Every candidate's values on all documents of the search, document by document."""
    root, here = Path(".bench/halving").resolve(), Path.cwd()
    for name in ("recipes", "suites"):
        (root / name).mkdir(parents=True, exist_ok=True)
    text = RECIPE.format(checkpoints=here / "examples/checkpoints", trials=trials)
    (root / "recipes/mix.yaml").write_text(text)
    (root / "suites/halving.yaml").write_text(SUITE.replace("{suites}", str(here / "suites")))
    workspace = api.Workspace.open(Settings(root=root, device="cpu", default_suites=[]))
    found = api.search(workspace, "mix")
    results: dict[str, list[StoredResult]] = {}
    for stored in TaskResults(workspace.cache / "evaluations"):
        results.setdefault(stored.result.key.model, []).append(stored)
    sheets = []
    for trial in found.trials.all():
        fingerprint = trial.told["fingerprint"]
        scores = api.evaluate(workspace, root, "halving", documents="search", fingerprint=fingerprint).scores
        sheets.append(sheet_of(scores, None, None, samples_of_results(results[fingerprint])))
    return sheets


def _replayed(sheets: Sequence[Sheet], values: Sequence[float], steps: int, level: float, seed: int) -> tuple[int, int]:
    """The winner, and the documents asked of all candidates together."""
    draws = np.random.default_rng(seed)
    order = [int(one) for one in draws.permutation(len(sheets))]
    places = {name: draws.random(len(strata)) for _, strata, name in sheets[0].parts}
    best, asked = order[0], _count(sheets[0], 1)
    for number in order[1:]:
        evidence, lost = PairedEvidence(level), False
        for step in range(steps, 0, -1):
            part = 1 << step
            two = _part(measure_of([sheets[number], sheets[best]]), sheets[0], places, part)
            if lost := evidence.of(two, 1 / part) >= 1 / level:
                asked += _count(sheets[0], part)
                break
        if not lost:
            asked += _count(sheets[0], 1)
            best = number if values[number] > values[best] else best
    return best, asked


def _part(measure: Measure, sheet: Sheet, places: dict[str, NDArray[np.float64]], part: int) -> Measure:
    """The same of one of ``part`` documents of each stratum, the first by their places."""
    parts = []
    for ratio, (_, strata, name) in zip(measure.parts, sheet.parts, strict=True):
        taken = np.zeros(len(strata), dtype=bool)
        for stratum in np.unique(strata):
            members = np.flatnonzero(strata == stratum)
            first = members[np.argsort(places[name][members])]
            taken[first[: math.ceil(len(members) / part)]] = True
        parts.append(Ratio(ratio.sums[:, taken], strata[taken], ratio.source))
    return Measure(parts, measure.value)


def _count(sheet: Sheet, part: int) -> int:
    tasks = {name: strata for _, strata, name in sheet.parts}
    return sum(math.ceil(int((strata == one).sum()) / part) for strata in tasks.values() for one in np.unique(strata))


if __name__ == "__main__":
    main()
