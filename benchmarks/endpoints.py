"""What a server's numbers differ by from those of ``hf``, document by document: by hand, with servers that no test has.

    python -m benchmarks.endpoints MODEL SUITE --serve 'vllm serve {model} --port {port}' [--url URL --name NAME]

MODEL is a folder, SUITE the file of a suite of backend ``hf``, whose tasks generate or ask likelihoods. Both backends are asked
the same windows: ``hf`` has two tokens less of context.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from merge_assets.evaluation.endpoint import Endpoint
from merge_assets.evaluation.results import StoredResult, TaskResults
from merge_assets.evaluation.runner import Evaluation, evaluate_suite
from merge_assets.evaluation.suite import load_suite
from merge_assets.model_worker import Limits


def answers(stored: StoredResult) -> Iterator[tuple[tuple[str, int, int], list[Any]]]:
    """What was answered to each request of each document."""
    for task, file in stored.sample_files().items():
        for row in map(json.loads, file.read_text().splitlines()):
            for number, said in enumerate(row["resps"]):
                one = said[0] if isinstance(said[0], list) else said
                yield (task, row["doc_id"], number), one


def evaluated(suite: Path, top: str, model: Path, results: Path, endpoint: Endpoint) -> Evaluation:
    """The suite with more keys."""
    file = suite.with_name(f".{suite.stem}-compared.yaml")
    file.write_text(f"{suite.read_text()}\n{top}\n")
    try:
        return evaluate_suite(
            model, load_suite(file), results=TaskResults(results), endpoint=endpoint, limits=Limits(), device="cpu"
        )
    finally:
        file.unlink()


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("suite", type=Path)
    parser.add_argument("--serve")
    parser.add_argument("--url")
    parser.add_argument("--name")
    parser.add_argument("--context", type=int, default=64, help="tokens that the server may be asked")
    options = parser.parse_args()
    endpoint = Endpoint(options.url, options.name, None, options.serve)
    with tempfile.TemporaryDirectory() as folder:
        here = evaluated(
            options.suite, f"max_length: {options.context - 2}", options.model, Path(folder) / "hf", Endpoint()
        )
        top = f"backend: endpoint\nmax_length: {options.context}"
        there = evaluated(options.suite, top, options.model, Path(folder) / "endpoint", endpoint)
        print("| task | metric | hf | endpoint | requests | largest difference | greedy or text differs |")
        print("|---|---|---|---|---|---|---|")
        for row, other in zip(here.scores.tasks, there.scores.tasks, strict=True):
            ours, theirs = (
                dict(answers(next(one for one in found.results if one.result.key.task == row.task)))
                for found in (here, there)
            )
            numbers = [(float(said[0]), float(theirs[place][0])) for place, said in ours.items() if _is_number(said[0])]
            words = sum(said[-1] != theirs[place][-1] for place, said in ours.items() if not _is_only_number(said))
            largest = max((abs(one - two) for one, two in numbers), default=0.0)
            print(
                f"| {row.task} | {row.metric} | {row.value:.6f} | {other.value:.6f} | {len(ours)} | {largest:.2g} | {words} |"
            )
        print(json.dumps(there.results[0].result.versions))
        failures = [*here.scores.failures, *there.scores.failures]
        print("\n".join(f"{failure.task}: {failure.reason}" for failure in failures))


def _is_number(said: object) -> bool:
    try:
        float(str(said))
    except ValueError:
        return False
    return True


def _is_only_number(said: list[Any]) -> bool:
    return len(said) == 1 and _is_number(said[0])


if __name__ == "__main__":
    main()
