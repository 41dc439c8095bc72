"""What takes more than files to know of an evaluation: whether data can be had, how long prompts are, how long it takes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from merge_assets.errors import ModelWorkerError
from merge_assets.evaluation.data import DataHub
from merge_assets.evaluation.declared import Declared
from merge_assets.evaluation.preflight import Finding, leaves
from merge_assets.evaluation.suite import Suite
from merge_assets.evaluation.suite_task import SuiteTask
from merge_assets.evaluation.task_index import Names
from merge_assets.model_worker import Limits, ModelWorker
from merge_assets.work import UNATTENDED, Work

DOCUMENTS = 20
"""Of each task that are made into prompts."""

_MOST_SECONDS = 6.0
"""Of a core, for prompts; tasks whose turn has not come by then are said."""

FLOPS_PER_CORE = 10e9
"""Stated, not measured: what a core of a CPU computes in a second of a model at work, in float32."""

_FILES = frozenset({"json", "csv", "text", "parquet", "arrow", "xml", "imagefolder", "audiofolder", "webdataset"})


def hub_data(suite: Suite, names: Names) -> dict[str, str]:
    """The data sets of the Hub that a suite's tasks are loaded from, each with the key path of the first task that does."""
    found: dict[str, str] = {}
    for index, entry in enumerate(suite.tasks):
        for _, one in leaves(entry.task, names):
            if one.data and one.data not in _FILES and not Path(one.data).exists():
                found.setdefault(one.data, f"{suite.file}: tasks[{index}].task: {entry.task}")
    return found


def reach(data: Mapping[str, str], hub: DataHub, limits: Limits, work: Work = UNATTENDED) -> list[Finding]:
    """Which data sets cannot be had, and what to do.

    Args:
        data: of :func:`hub_data`.
        hub: where they are.
        limits: of the process that asks.
        work: asked throughout.
    """
    if not data:
        return []
    with ModelWorker("merge_assets.evaluation.reaching", limits, offline=False) as worker:
        try:
            told = worker.ask("reach", {"data": list(data), "hub": asdict(hub)}, limit="silence", work=work.silent())
        except ModelWorkerError as error:
            return [Finding("data", f"whether data sets can be had is not known: {error}", fails=False)]
    return [_unreached(name, data[name], *trouble) for name, trouble in told.items()]


def _unreached(name: str, where: str, trouble: str, why: str) -> Finding:
    if trouble == "gated":
        text = (
            f"the data set {name} is gated: ask for access on its page and set hub_token (MERGE_ASSETS_HUB_TOKEN) to a token "
            "of who has it"
        )
    elif trouble == "missing":
        text = f"there is no data set {name} on the Hub, or it is private and the token does not see it"
    elif _is_cached(name):
        return Finding(
            "data", f"{where}: the Hub cannot be asked for {name} ({why}); what lies in the cache is taken", False
        )
    else:
        return Finding(
            "data", f"{where}: the Hub cannot be asked for {name} ({why}), and it is not in the cache", False
        )
    return Finding("data", f"{where}: {text}", fails=not _is_cached(name))


def _is_cached(name: str) -> bool:
    """Whether the library has something of a data set."""
    home = os.environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface")
    folder = os.environ.get("HF_DATASETS_CACHE") or f"{home}/datasets"
    return (Path(folder) / name.replace("/", "___")).is_dir()


@dataclass(frozen=True)
class Prompted:
    """What the prompts of a suite came to.

    Attributes:
        findings: what would fail, or is to be known.
        tokens: that a model would read and write in all, as far as tasks were looked at.
    """

    findings: list[Finding]
    tokens: float


def prompts(
    suite: Suite,
    names: Names,
    model_dir: Path | None,
    *,
    hub: DataHub,
    limits: Limits,
    index: Path | None,
    work: Work = UNATTENDED,
) -> Prompted:
    """Make prompts of a sample of each task's documents, as a model would be asked them.

    Of a group, one task is looked at, and the others are taken as alike.

    Args:
        suite: the suite.
        names: what is declared, by name.
        model_dir: folder with the tokenizer and the config; ``None`` if there is none here yet.
        hub: from which data are fetched that are not local.
        limits: of the processes that do it.
        index: the file with the names of lm-eval's own tasks, if that is kept.
        work: asked throughout.
    """
    common = {
        "suite": suite.model_dump(mode="json"),
        "suite_file": str(suite.file),
        "index": None if index is None else str(index),
    }
    found: list[Finding] = []
    unseen: list[str] = []
    total, spent = 0.0, 0.0
    seen: set[str] = set()
    with (
        ModelWorker("merge_assets.evaluation.fetch", limits, offline=False) as fetcher,
        ModelWorker("merge_assets.evaluation.rehearsal", limits) as worker,
    ):
        for number, entry in enumerate(suite.tasks):
            parts = list(leaves(entry.task, names))
            if not parts or entry.task in seen:
                continue
            seen.add(entry.task)
            if spent > _MOST_SECONDS:
                unseen.append(entry.task)
                continue
            where = f"{suite.file}: tasks[{number}].task: {entry.task}"
            try:
                fetched = _fetched(fetcher, suite, common, parts[0], entry, hub, work)
                told = worker.ask(
                    "rehearse",
                    common
                    | {
                        "task": parts[0][0],
                        "shots": entry.shots,
                        "documents": DOCUMENTS,
                        "revision": entry.revision,
                        "fetched": fetched,
                        "model_dir": None if model_dir is None else str(model_dir),
                    },
                    limit="silence",
                    work=work.silent(),
                )
                spent += float(told["seconds"])
                found += _too_long(where, suite, told)
                total += _tokens(told, entry) * len(parts)
            except ModelWorkerError as error:
                found.append(Finding("task", f"{where}: {parts[0][0]} cannot be loaded: {error}"))
    if unseen:
        text = f"{suite.file}: the prompts of {', '.join(unseen)} were not looked at: the others took {spent:.0f} s"
        found.append(Finding("prompts", text, fails=False))
    if model_dir is None:
        text = f"{suite.file}: no prompt was measured: no model of the recipe has a tokenizer here yet"
        found.append(Finding("prompts", text, fails=False))
    return Prompted(found, total)


def _fetched(
    worker: ModelWorker,
    suite: Suite,
    common: Mapping[str, Any],
    part: tuple[str, Declared],
    entry: SuiteTask,
    hub: DataHub,
    work: Work,
) -> Any:
    """The data of one task, fetched where they are not local."""
    local = suite.local_task(part[0])
    if local is not None and local.local:
        return []
    asked = {**common, "task": part[0], "revision": entry.revision, "hub": asdict(hub)}
    return worker.ask("fetch", asked, limit="silence", work=work.silent())


def _tokens(told: Mapping[str, Any], entry: SuiteTask) -> float:
    """Tokens that the documents of a task take; 0 if no prompt was measured."""
    lengths: Sequence[int] = told.get("tokens") or []
    if not lengths:
        return 0.0
    documents = float(told["documents"])
    if entry.limit is not None:
        documents = min(documents, entry.limit if entry.limit >= 1 else documents * entry.limit)
    return documents * float(told["requests"]) * (sum(lengths) / len(lengths) + float(told["answer"]))


def _too_long(where: str, suite: Suite, told: Mapping[str, Any]) -> list[Finding]:
    """What does not fit the context."""
    if told.get("chat") == "no template":
        text = f"{suite.file}: chat_template: the tokenizer has no chat template; set off or auto, or give a template"
        return [Finding("prompts", text)]
    lengths: Sequence[int] = told.get("tokens") or []
    if not lengths or told["kind"] == "loglikelihood_rolling":  # which reads a text in windows
        return []
    room, answer, longest = int(told["room"]), int(told["answer"]), max(lengths)
    if answer >= room:
        text = (
            f"{where}: an answer may have {answer} tokens, and the context {room}, which leaves no room for a prompt; "
            f"set generation: {{max_gen_toks: …}} below {room}"
        )
        return [Finding("prompts", text)]
    cut = sum(length + answer > room for length in lengths)
    if not cut:
        return []
    beside = f" beside an answer of {answer}" if answer else ""
    text = (
        f"{where}: {cut} of {len(lengths)} prompts of a sample are longer than the context of {room} tokens{beside}, the "
        f"longest {longest}; their beginnings would be cut off; lower shots, or raise max_length if the model reads more"
    )
    return [Finding("prompts", text, fails=False)]


def memory(suite: Suite, weights: int, free: int | None, device: str) -> list[Finding]:
    """Whether the weights of a model fit where it is evaluated.

    Args:
        suite: for which it is loaded.
        weights: their bytes in the suite's dtype.
        free: bytes that may be taken there; ``None`` if that is not known.
        device: ``cpu`` or ``cuda``.
    """
    if free is None or weights <= free:
        return []
    what = "the setting model_memory, or nine tenths of what is free" if device == "cpu" else "free on the GPU"
    text = (
        f"{suite.file}: dtype: the weights take {weights / 1e9:.3g} GB in {suite.dtype}, and {free / 1e9:.3g} GB may be taken "
        f"({what}); set a smaller dtype, or evaluate on a larger machine"
    )
    return [Finding("memory", text)]


def gpu_memory(limits: Limits, work: Work = UNATTENDED) -> int | None:
    """Free bytes of the GPU with the most; ``None`` where there is none."""
    with ModelWorker("merge_assets.evaluation.rehearsal", limits) as worker:
        told = worker.ask("gpu_memory", {}, limit="silence", work=work.silent())
    return None if told is None else int(told)


def time_stated(tokens: float, parameters: int) -> str:
    """How long a CPU takes for so many tokens, and on what that rests."""
    cores = len(os.sched_getaffinity(0))
    seconds = tokens * 2 * parameters / (cores * FLOPS_PER_CORE)
    return (
        f"about {duration(seconds)} on this machine's {cores} cores: {tokens:,.0f} tokens of sampled prompts scaled to all "
        f"documents x 2 x {parameters:,} parameters, at a stated {FLOPS_PER_CORE / 1e9:.0f} GFLOP/s a core"
    )


def duration(seconds: float) -> str:
    """For people: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
