"""Who computed what, and when: a line in a file for the begin and the end of every merge, evaluation and analysis.

Python imports this file where its folder is on ``PYTHONPATH``, hence in every process of the project that is watched. It
knows nothing of stores, keys in them or Dagster, so that it can be held against what these say.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from hashlib import sha256
from importlib.machinery import ModuleSpec
from typing import Any

FILE = os.environ.get("CHAOS_WITNESS", "")


def note(**fields: Any) -> None:
    """One line, written at once."""
    line = json.dumps({"at": time.time(), "pid": os.getpid(), **fields}) + "\n"
    descriptor = os.open(FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, line.encode())
    os.close(descriptor)


UNCOMMITTED: list[dict[str, Any]] = []
"""Ends to be noted with the next commit of this process."""


@contextmanager
def told(what: str, key: str, *, until_committed: bool = False) -> Iterator[list[str]]:
    """Begin and end of some work; the list takes the pieces that it made. What keeps no pieces ends when it is committed."""
    note(event="begin", what=what, key=key)
    made: list[str] = []
    try:
        yield made
    except BaseException as error:
        note(event="gave up", what=what, key=key, error=type(error).__name__)
        raise
    end = {"event": "end", "what": what, "key": key, "made": made}
    if until_committed:
        UNCOMMITTED.append(end)
    else:
        note(**end)


def watch_merges(module: Any) -> None:
    run = module.execute

    @wraps(run)
    def execute(plan: Any, *arguments: Any, **named: Any) -> Any:
        with told("merge", plan.key) as made:
            report = run(plan, *arguments, **named)
            made += [f"tensor {number}" for number in range(report.tensors_computed)]
        return report

    module.execute = execute


def watch_evaluations(module: Any) -> None:
    run = module.evaluate_suite

    @wraps(run)
    def evaluate_suite(model: Any, suite: Any, **named: Any) -> Any:
        with told("evaluation", f"{named.get('fingerprint')} {suite.digest}") as made:
            evaluation = run(model, suite, **named)
            made += evaluation.evaluated
        return evaluation

    module.evaluate_suite = evaluate_suite


def watch_analyses(module: Any) -> None:
    run = module.analyse

    @wraps(run)
    def analyse(checkpoint: Any, **named: Any) -> Any:
        digests = sorted((named.get("digests") or {}).items())
        key = f"{sha256(str(digests).encode()).hexdigest()} {named.get('modules')}"
        with told("analysis", key, until_committed=True) as made:
            analysis = run(checkpoint, **named)
            made.append("spectra")
        return analysis

    module.analyse = analyse


def watch_commits(module: Any) -> None:
    run = module.Draft.commit

    @wraps(run)
    def commit(*arguments: Any, **named: Any) -> Any:
        artifact = run(*arguments, **named)
        while UNCOMMITTED:
            note(**UNCOMMITTED.pop())
        return artifact

    module.Draft.commit = commit


HOOKS: dict[str, Callable[[Any], None]] = {
    "merge_assets.engine.execute": watch_merges,
    "merge_assets.evaluation.runner": watch_evaluations,
    "merge_assets.analysis.run": watch_analyses,
    "merge_assets.store.draft": watch_commits,
}


class Finder:
    """Lets the modules be found as always, and has them watched once they are loaded."""

    @classmethod
    def find_spec(cls, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        hook = HOOKS.pop(name, None)
        spec = importlib.util.find_spec(name) if hook else None
        if hook is None or spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            load(module)
            hook(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if FILE:
    sys.meta_path.insert(0, Finder)
