"""Mutation testing of the code that decides what is computed, copied and ranked: ``python -m tests.mutants.run``.

Draws the same mutants every time, checks each with the tests that run its lines, cheapest files first, and ends with 1 if a
mutant survives that ``explained.yaml`` does not explain. See docs/testing.md.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from tests.mutants.generate import Mutant, draw, mutants

ROOT = Path(__file__).parents[2]
EXPLAINED = Path(__file__).parent / "explained.yaml"
REPORT = ROOT / "var" / "mutants"
SEED = "merge-assets"
COUNT = 300

FILES = (
    "merge_assets/plan/resolver.py",
    "merge_assets/store/reuse.py",
    "merge_assets/store/cutting.py",
    "merge_assets/architecture/parts.py",
    "merge_assets/architecture/fused.py",
    "merge_assets/architecture/experts.py",
    "merge_assets/architecture/sizes.py",
    "merge_assets/analysis/matrices.py",
    "merge_assets/engine/execute.py",
    "merge_assets/evaluation/leaderboard.py",
)
_ROOMS = {
    "analysis": ("matrices",),
    "api": ("build",),
    "architecture": ("anatomy", "experts", "fused", "parts", "stacks"),
    "checkpoint": ("open",),
    "engine": ("edges", "execute", "faults", "recipes", "report", "work"),
    "evaluation": ("leaderboard",),
    "plan": ("build", "parts"),
    "recipe": ("templates",),
    "store": ("building", "contract", "faults", "housekeeping", "parts", "reuse"),
}
TESTS = (
    "tests/test_semantics.py",
    *(f"tests/{room}/test_{name}.py" for room, names in _ROOMS.items() for name in names),
)
"""Files of tests that may run these, without those that start servers or cost more than they find. Slow tests are left out."""

PATIENCE = 30
"""Seconds of CPU that a mutant has in each file of tests, beside several times what they take without it."""

State = str
"""``killed``, ``ended`` (by the bound of its time, or by a crash), ``explained`` or ``survived``."""

STATES = ("killed", "ended", "explained", "survived")


class Worker:
    """A copy of the repository, and a process there that runs tests in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
        built = [str(file.relative_to(ROOT)) for file in (ROOT / "merge_assets").rglob("*.so")]
        for name in {*names, *built} - {""}:
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mutants.worker"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(
        self, tests: Mapping[str, Sequence[str] | None], bounds: Mapping[str, int], traced: Sequence[str] = ()
    ) -> dict[str, Any]:
        """What :func:`tests.mutants.worker.check` answers; ``bounds`` are the seconds of CPU that each file may take."""
        assert self._process.stdin is not None and self._process.stdout is not None
        request = {"tests": tests, "traced": traced, "bounds": bounds}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def check(self, mutant: Mutant, tests: Mapping[str, Sequence[str]], bounds: Mapping[str, int]) -> dict[str, Any]:
        """The same with a mutant in place."""
        file = self.folder / mutant.file
        text = file.read_text()
        file.write_text(mutant.apply(text))
        for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
            compiled.unlink()  # it is told from others by second and size only
        try:
            return self.ask(tests, bounds)
        finally:
            file.write_text(text)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Measured:
    """Which tests run which lines, and how long they take; measured on the code as it is.

    Raises:
        SystemExit: a test fails without any mutant.
    """

    def __init__(self, answers: Sequence[Mapping[str, Any]]) -> None:
        self.seconds: dict[str, float] = {}
        self._contexts: dict[tuple[str, int], set[str]] = {}
        for answer in answers:
            if answer["failed"] or answer.get("ended"):
                raise SystemExit(f"a test fails without any mutant: {answer['failed'] or 'it does not end'}")
            self.seconds |= answer["seconds"]
            for file, lines in answer["lines"].items():
                for line, contexts in lines.items():
                    self._contexts.setdefault((file, int(line)), set()).update(contexts)

    def tests(self, mutant: Mutant) -> dict[str, list[str]]:
        """The tests that run a mutant's lines, by file, the cheapest files first."""
        first, last = mutant.lines
        contexts = set().union(*(self._contexts.get((mutant.file, line), ()) for line in range(first, last + 1)))
        chosen: dict[str, list[str]] = {}
        for test in self.seconds:
            file = test.partition("::")[0]
            if test in contexts or file in contexts:
                chosen.setdefault(file, []).append(test)
        return dict(sorted(chosen.items(), key=lambda item: self.total({item[0]: item[1]})))

    def bounds(self, tests: Mapping[str, Sequence[str]]) -> dict[str, int]:
        """Seconds of CPU that tests may take with a mutant, by file."""
        return {file: PATIENCE + round(5 * self.total({file: names})) for file, names in tests.items()}

    def total(self, tests: Mapping[str, Sequence[str]]) -> float:
        """Seconds that tests take."""
        return sum(self.seconds[test] for names in tests.values() for test in names)


def explanations() -> dict[str, str]:
    """Why a mutant is no fault, by its name."""
    return {entry["mutant"]: entry["why"] for entry in yaml.safe_load(EXPLAINED.read_text()) or []}


def table(states: Mapping[Mutant, State]) -> str:
    """Counts by file."""
    heads = ("module", "drawn", *STATES)
    rows = []
    for file in (*FILES, "all"):
        counts = Counter(state for mutant, state in states.items() if file in (mutant.file, "all"))
        name = file.removeprefix("merge_assets/").removesuffix(".py")
        rows.append((name, str(counts.total()), *(str(counts[state]) for state in STATES)))
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    return "\n".join([lines[0], "| --- |" + " ---: |" * (len(heads) - 1), *lines[1:]])


def difference(mutant: Mutant) -> str:
    """A mutant as a patch."""
    text = (ROOT / mutant.file).read_text()
    lines = [each.splitlines() for each in (text, mutant.apply(text))]
    return "\n".join(difflib.unified_diff(*lines, mutant.file, mutant.file, n=2, lineterm=""))


def run(drawn: Sequence[Mutant], workers: Sequence[Worker]) -> dict[Mutant, State]:
    """What becomes of every mutant."""
    answers: list[dict[str, Any]] = []  # one for each file of tests, so that what an import runs counts for all of them
    _each(workers, lambda worker, file: answers.append(worker.ask({file: None}, {file: 3600}, FILES)), TESTS)
    measured = Measured(answers)
    print(f"{len(measured.seconds)} tests are green without a mutant", flush=True)
    explained = explanations()
    states: dict[Mutant, State] = {}

    def check(worker: Worker, mutant: Mutant) -> None:
        began = time.monotonic()
        tests = measured.tests(mutant)
        answer = worker.check(mutant, tests, measured.bounds(tests)) if tests else {"failed": ""}
        state = "killed" if answer["failed"] else "ended" if answer.get("ended") else "survived"
        if state == "survived" and mutant.name in explained:
            state = "explained"
        elif mutant.name in explained:
            print(f"explained, but not needed: {mutant.name}", flush=True)
        states[mutant] = state
        by = answer["failed"] or f"after {sum(map(len, tests.values()))} tests"
        seconds = time.monotonic() - began
        print(
            f"{len(states)}/{len(drawn)} {state} {seconds:.1f} s line {mutant.lines[0]} {mutant.name} [{by}]",
            flush=True,
        )

    _each(workers, check, drawn)
    return states


def _each(workers: Sequence[Worker], work: Any, jobs: Sequence[Any]) -> None:
    """Every job by one of the workers."""
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)

    def go_on(worker: Worker) -> None:
        while True:
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            work(worker, job)

    with ThreadPoolExecutor(len(workers)) as threads:
        for done in [threads.submit(go_on, worker) for worker in workers]:
            done.result()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT, help="how many mutants to draw")
    parser.add_argument("--only", default="", metavar="TEXT", help="of those drawn, the ones with TEXT in their names")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args(arguments)
    every = [mutant for file in FILES for mutant in mutants(file, (ROOT / file).read_text())]
    drawn = [mutant for mutant in draw(every, options.count, SEED) if options.only in mutant.name]
    print(f"{len(drawn)} of {len(every)} mutants", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        workers = []
        for number in range(options.workers):
            copy = Path(folder) / str(number)
            copy.mkdir()
            workers.append(Worker(copy))
        states = run(drawn, workers)
        for worker in workers:
            worker.close()
    left = [mutant for mutant, state in states.items() if state == "survived"]
    REPORT.mkdir(parents=True, exist_ok=True)
    patches = [f"{mutant.name}\n{difference(mutant)}\n" for mutant in sorted(left, key=lambda each: each.name)]
    (REPORT / "survivors.txt").write_text("\n".join(patches))
    (REPORT / "table.md").write_text(table(states) + "\n")
    print(table(states), *patches, sep="\n")
    print(f"{(time.monotonic() - began) / 60:.0f} minutes; survivors as patches: {REPORT / 'survivors.txt'}")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
