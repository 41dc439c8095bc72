"""What the files of tasks declare, without lm-eval: metrics, data sets, code that is run, packages that the code imports."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

METRICS_OF_OUTPUT: Mapping[str, tuple[str, ...]] = {
    "loglikelihood": ("perplexity", "acc"),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    "multiple_choice": ("acc", "acc_norm"),
    "generate_until": ("exact_match",),
}
"""What lm-eval measures by default, by a task's ``output_type``."""

Kind = Literal["task", "class", "group", "tag"]


@dataclass(frozen=True)
class Declared:
    """One name that lm-eval knows.

    Attributes:
        kind: a task, one that a class of Python defines, a group of tasks with a value, or a tag of tasks without one.
        path: its file; of a tag empty.
        members: of a group or tag, the names that it lists.
        metrics: names of its metrics; of a group those that it aggregates. ``None`` if its code alone says them.
        filters: names of its filters.
        is_open: whether its code may give other metrics, too.
        unsafe: whether it runs programs that a model wrote.
        data: what the task's data are loaded from, as its file says it.
        code: Python files with functions of it.
    """

    kind: Kind
    path: str = ""
    members: tuple[str, ...] = ()
    metrics: tuple[str, ...] | None = None
    filters: tuple[str, ...] = ("none",)
    is_open: bool = False
    unsafe: bool = False
    data: str = ""
    code: tuple[str, ...] = ()


def declared_of(config: Mapping[str, Any], path: str, code: tuple[str, ...], functions: set[str]) -> Declared:
    """What the configuration of a task or group says.

    Args:
        config: the content of its file, with what that includes.
        path: the file.
        code: Python files with functions of it.
        functions: the texts in it that stand for functions.
    """
    members = config.get("task")
    if "class" in config:
        return Declared("class", path, code=code)
    if "group" in config:
        listed = members if isinstance(members, list) else []
        aggregated = config.get("aggregate_metric_list") or []
        entries = aggregated if isinstance(aggregated, list) else [aggregated]
        metrics = tuple(str(entry["metric"]) for entry in entries if isinstance(entry, Mapping) and "metric" in entry)
        return Declared("group", path, tuple(_names(listed)), metrics, code=code)
    entries = config.get("metric_list") or []
    found = [entry.get("metric") for entry in entries if isinstance(entry, Mapping)]
    metrics = tuple(map(str, found)) or METRICS_OF_OUTPUT.get(str(config.get("output_type", "generate_until")), ())
    filters = [entry.get("name") for entry in config.get("filter_list") or [] if isinstance(entry, Mapping)]
    return Declared(
        "task",
        path,
        metrics=None if functions.intersection(metrics) else metrics,
        filters=tuple(map(str, filters)) or ("none",),
        is_open=str(config.get("process_results")) in functions,
        unsafe=config.get("unsafe_code") is True,
        data=str(config.get("dataset_path") or ""),
        code=code,
    )


def _names(listed: Iterable[Any]) -> Iterator[str]:
    """The names that a group lists; what it defines within itself is looked through."""
    for one in listed:
        if isinstance(one, Mapping):
            inner = one.get("task", one.get("group"))
            yield from _names(inner if isinstance(inner, list) else [inner])
        elif isinstance(one, str):
            yield one


def missing_modules(files: Iterable[Path]) -> list[str]:
    """Modules that Python files import when they are imported, and that are not installed; nothing is executed.

    Imports within functions count for nothing, nor do those whose failing is caught and left at that. Files of lm-eval's
    tasks that are imported are looked through as well.

    Args:
        files: what is imported.
    """
    found: dict[str, None] = {}
    waiting, seen = [*files], set[Path]()
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        try:
            body = ast.parse(file.read_bytes()).body
        except (OSError, SyntaxError, ValueError):  # which is said when it is imported
            continue
        for name in _imported(body, file):
            if isinstance(name, Path):
                waiting.append(name)
            elif not _is_there(name):
                found.setdefault(name)
    return list(found)


_OWN = "lm_eval.tasks."


def _imported(body: Iterable[ast.stmt], file: Path) -> Iterator[str | Path]:
    """Names of modules, and files of tasks."""
    for node in body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _module(alias.name, (), file)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield from (file.parent / f"{name}.py" for name in [node.module or "", *(a.name for a in node.names)])
            else:
                yield from _module(node.module or "", [alias.name for alias in node.names], file)
        elif isinstance(node, ast.Try):
            caught = bool(node.handlers) and not any(_raises(handler) for handler in node.handlers)
            yield from [] if caught else _imported(node.body, file)


def _raises(handler: ast.ExceptHandler) -> bool:
    return any(isinstance(node, ast.Raise) for node in ast.walk(handler))


def _module(name: str, inner: Iterable[str], file: Path) -> Iterator[str | Path]:
    if not name.startswith(_OWN):
        beside = file.parent / f"{name.partition('.')[0]}.py"
        yield beside if beside.exists() else name.partition(".")[0]
        return
    root = next((folder for folder in file.parents if (folder / "_index.py").exists()), None)
    if root is not None:
        place = root.joinpath(*name.removeprefix(_OWN).split("."))
        yield from (place.with_suffix(".py"), *(place / f"{one}.py" for one in inner))


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False
