"""lm-eval at work on one loaded model: one task per call, stoppable, quiet, with progress.

Numbers are lm-eval's own. This module adds no arithmetic: it calls ``simple_evaluate`` with a model class whose
only additions are counting requests and asking whether to stop.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import importlib.metadata
import logging
import math
import shlex
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import datasets
import huggingface_hub
import lm_eval.api.metrics
import lm_eval.api.task
import lm_eval.evaluator
import lm_eval.models.huggingface
import torch
import transformers
from lm_eval.tasks import TaskManager

from merge_assets.errors import EvaluationError, MergeAssetsError, Stopped
from merge_assets.evaluation.data import data_of, pinned, revisions_of
from merge_assets.evaluation.results import ResultKey, SampleCount, TaskResult
from merge_assets.evaluation.suite import Suite
from merge_assets.work import Work

"""Called with requests done, requests in total, and what they are."""

_PYTHON_SEED = 0
"""lm-eval's default seed of Python's random, which few-shot sampling does not use."""

_POLL_SECONDS = 0.1

# lm-eval seeds the process-wide generators and is patched below while it runs.
_ONE_AT_A_TIME = threading.Lock()


class _Meter:
    """Counts requests and asks whether to stop, both at most ten times a second."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._next_poll = self._next_report = 0.0
        self.begin(0, "loading data")

    def begin(self, total: int, what: str) -> None:
        self.done, self.total, self.what = 0, total, what
        self.check()

    def check(self) -> None:
        now = time.monotonic()
        if now >= self._next_poll:
            self._next_poll = now + _POLL_SECONDS
            self._work.check(f"evaluating ({self.what})")

    def advance(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now >= self._next_report or self.done >= self.total:
            self._next_report = now + _POLL_SECONDS
            self._work.report(self.done, max(self.total, self.done), self.what)

    def add_partial(self, kind: str, request: object, answer: object) -> None:
        """lm-eval's cache hook: called once per answered request."""
        if kind != "loglikelihood_rolling":
            self.advance(1)

    def prompts(self, items: Iterable[Any], **_: object) -> Iterator[Any]:
        """Stands in for tqdm around the building of prompts, which may take minutes."""
        for item in items:
            self.check()
            yield item


class _StoppableLM(lm_eval.models.huggingface.HFLM):  # type: ignore[misc]  # lm-eval ships no types
    """lm-eval's model with a :class:`_Meter`."""

    meter: _Meter | None = None
    _windows: int | None = None

    def attach(self, meter: _Meter) -> None:
        self.meter = meter
        self.set_cache_hook(meter)

    def watch_layers(self) -> None:
        """Polls before every call of the model and of each of its layers, generation steps included."""

        def poll(*_: object) -> None:
            if self.meter is not None:
                self.meter.check()

        self.model.register_forward_pre_hook(poll)
        for module in self.model.modules():
            if isinstance(module, torch.nn.ModuleList):
                for layer in module:
                    layer.register_forward_pre_hook(poll)

    def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> list[int]:
        if self.meter is not None:
            self.meter.check()
        tokens: list[int] = super().tok_encode(string, *args, **kwargs)
        if self._windows is not None and self.meter is not None:
            self._windows += math.ceil(len(tokens) / self.max_length)
            self.meter.total = self._windows
        return tokens

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        if self.meter is not None:
            self.meter.begin(len(requests), "likelihoods")
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        if self.meter is not None:
            self.meter.begin(0, "windows")
        self._windows = 0
        try:
            answers: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=True)
        finally:
            self._windows = None
        return answers

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        if self.meter is not None:
            self.meter.begin(len(requests), "generations")
        answers: list[str] = super().generate_until(requests, disable_tqdm=True)
        return answers

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        answers: list[tuple[float, bool]] = super()._loglikelihood_tokens(
            requests, disable_tqdm=True, override_bs=override_bs
        )
        if self._windows is not None and self.meter is not None:
            self.meter.advance(len(requests))
        return answers


class Harness:
    """A checkpoint loaded once, on which the tasks of a suite are run. A context manager; leaving frees the model.

    Args:
        model_dir: directory that ``from_pretrained`` opens.
        suite: the suite whose tasks are run.
        device: "auto", "cpu", "cuda" or "cuda:1".
        dtype: dtype of the loaded weights; "auto" is the checkpoint's own.
        batch_size: sequences per forward pass, or "auto".
    """

    def __init__(self, model_dir: Path, suite: Suite, *, device: str, dtype: str, batch_size: int | str) -> None:
        self._model_dir = model_dir.resolve()
        self._suite = suite
        self._device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self._dtype = dtype
        self._batch_size = batch_size
        self._lm: _StoppableLM | None = None
        self._managers: dict[bool, TaskManager] = {}

    def __enter__(self) -> Harness:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lm = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def run(self, key: ResultKey, work: Work) -> tuple[TaskResult, dict[str, list[dict[str, Any]]]]:
        """Evaluates one task.

        Args:
            key: the task, and how it is run.
            work: told requests done, those of this kind in all, and their kind; asked throughout.

        Returns:
            The result, and per task name the logged samples.

        Raises:
            EvaluationError: see :func:`merge_assets.evaluation.runner.evaluate_suite`.
            Stopped: on request.
        """
        meter = _Meter(work)
        try:
            with _ONE_AT_A_TIME, _quiet(meter), _offline(self._suite.is_local), pinned(key.revision):
                return self._run(key, meter)
        except (Stopped, MergeAssetsError):
            raise
        except Exception as error:
            message = " ".join(str(error).split()) or type(error).__name__
            raise EvaluationError(f"{self._where(key)}: {key.task} on {self._model_dir} failed: {message}") from error

    def _run(self, key: ResultKey, meter: _Meter) -> tuple[TaskResult, dict[str, list[dict[str, Any]]]]:
        manager, tasks = self._load(key)
        lm = self._model()
        lm.attach(meter)
        started = time.monotonic()
        output = lm_eval.evaluator.simple_evaluate(
            model=lm,
            tasks=tasks,
            num_fewshot=key.shots,
            batch_size=self._batch_size,
            device=self._device,
            limit=key.limit,
            log_samples=True,
            task_manager=manager,
            random_seed=_PYTHON_SEED,
            numpy_random_seed=key.seed,
            torch_random_seed=key.seed,
            fewshot_random_seed=key.seed,
        )
        if output is None:
            raise EvaluationError(f"{self._where(key)}: {key.task}: this process is not the first of its group")
        samples: dict[str, list[dict[str, Any]]] = dict(output["samples"])
        result = self._result(key, output, time.monotonic() - started)
        return result.model_copy(update={"data": data_of(samples), "revisions": revisions_of(tasks)}), samples

    def _load(self, key: ResultKey) -> tuple[TaskManager, list[Any]]:
        """The task or group object, with its data, checked against the suite's settings."""
        local = self._suite.local_task(key.task)
        if key.revision and local and local.local:
            raise EvaluationError(
                f"{self._where(key)}.revision: the data of {key.task} are local files, which its digest covers; remove this key"
            )
        manager = self._manager(defaults=not (local and local.local))
        if key.task not in manager.task_index:
            broken = "".join(
                f"; {path} is not readable: {why}" for path, why in self._suite.broken_task_files().items()
            )
            folder = f" and not in {self._suite.tasks_dir}" if self._suite.tasks_dir else ""
            raise EvaluationError(
                f"{self._where(key)}.task: no task {key.task!r} in lm-eval {key.lm_eval}{folder}{broken}"
            )
        loaded = manager.load([key.task])
        for name, task in loaded["tasks"].items():
            if key.shots and task.get_config("num_fewshot") == 0:
                raise EvaluationError(
                    f"{self._where(key)}.shots: {name} is a 0-shot task; its own files fix that. Set 0"
                )
        if key.task in loaded["groups"]:
            return manager, [loaded["groups"][key.task]]
        return manager, list(loaded["tasks"].values())

    def _manager(self, *, defaults: bool) -> TaskManager:
        # Indexing lm-eval's own 15,000 task files takes tens of seconds; local suites do without.
        if defaults not in self._managers:
            folder = self._suite.tasks_dir
            self._managers[defaults] = TaskManager(
                include_path=str(folder) if folder else None,
                include_defaults=defaults,
                metadata={"pretrained": str(self._model_dir), "dtype": self._dtype},
            )
        return self._managers[defaults]

    def _model(self) -> _StoppableLM:
        if self._lm is None:
            try:
                lm = _StoppableLM(
                    pretrained=str(self._model_dir),
                    device=self._device,
                    dtype=self._dtype,
                    batch_size=self._batch_size,
                )
            except Exception as error:
                message = " ".join(str(error).split()) or type(error).__name__
                raise EvaluationError(f"{self._model_dir}: the checkpoint does not load: {message}") from error
            lm.watch_layers()
            self._lm = lm
        return self._lm

    def _result(self, key: ResultKey, output: Mapping[str, Any], seconds: float) -> TaskResult:
        metrics = {
            name: {metric: _number(value) for metric, value in values.items() if "," in metric}
            for name, values in output["results"].items()
        }
        directions = {
            name: {metric: better for metric, better in values.items() if isinstance(better, bool)}
            for name, values in output["higher_is_better"].items()
        }
        packages = ("lm_eval", "transformers", "torch", "datasets")
        return TaskResult(
            key=key,
            metrics=metrics,
            higher_is_better=directions,
            shots={name: int(shots) for name, shots in output["n-shot"].items() if isinstance(shots, int)},
            samples={name: SampleCount(**counts) for name, counts in output["n-samples"].items()},
            task_versions={name: str(v) for name, v in output["versions"].items() if v is not None},
            seeds={"python": _PYTHON_SEED, "numpy": key.seed, "torch": key.seed, "fewshot": key.seed},
            versions={package: importlib.metadata.version(package) for package in packages},
            device=str(self._device),
            model_dtype=str(output["config"].get("model_dtype", "")).removeprefix("torch."),
            command=self._command(key),
            seconds=round(seconds, 3),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )

    def _command(self, key: ResultKey) -> list[str]:
        command = ["lm_eval", "--model", "hf", "--model_args", f"pretrained={self._model_dir},dtype={self._dtype}"]
        if self._suite.tasks_dir:
            command += ["--include_path", str(self._suite.tasks_dir)]
        command += ["--tasks", key.task, "--device", str(self._device), "--batch_size", str(key.batch_size)]
        command += ["--num_fewshot", str(key.shots)] if key.shots is not None else []
        command += ["--limit", str(key.limit)] if key.limit is not None else []
        return [*command, "--seed", f"{_PYTHON_SEED},{key.seed},{key.seed},{key.seed}"]

    def _where(self, key: ResultKey) -> str:
        index = next(i for i, entry in enumerate(self._suite.tasks) if entry.task == key.task)
        return f"{self._suite.file}: tasks[{index}]"


def command_line(result: TaskResult) -> str:
    """The lm-eval command that gives the same numbers, quoted for a shell."""
    return shlex.join(result.command)


def _number(value: object) -> float | None:
    if isinstance(value, str) or value is None:
        return None
    number = float(value)  # type: ignore[arg-type]
    return number if math.isfinite(number) else None


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    missing = object()
    before = vars(owner).get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


@contextlib.contextmanager
def _quiet(meter: _Meter) -> Iterator[None]:
    """Silences lm-eval, datasets and transformers below errors, and replaces what only costs time.

    ``add_env_info`` runs pip and nvidia-smi (2 s per call); what matters of it is recorded in the result.
    """
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "transformers", "accelerate")]
    levels = [logger.level for logger in loggers]
    bars = datasets.are_progress_bars_disabled(), transformers.utils.logging.is_progress_bar_enabled()

    def silent_print(*_: object, **__: object) -> None:
        pass

    with contextlib.ExitStack() as stack:
        stack.enter_context(_replaced(lm_eval.api.task, "tqdm", meter.prompts))
        stack.enter_context(_replaced(lm_eval.api.metrics, "print", silent_print))
        stack.enter_context(_replaced(lm_eval.models.huggingface, "print", silent_print))
        stack.enter_context(_replaced(lm_eval.evaluator, "add_env_info", lambda storage: None))
        stack.enter_context(_replaced(lm_eval.evaluator, "get_git_commit_hash", lambda: None))
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            datasets.disable_progress_bars()
            transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            if not bars[0]:
                datasets.enable_progress_bars()
            if bars[1]:
                transformers.utils.logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _offline(local: bool) -> Iterator[None]:
    """Keeps local suites off the network; other suites see the process's own settings."""
    if not local:
        yield
        return
    with (
        _replaced(huggingface_hub.constants, "HF_HUB_OFFLINE", True),
        _replaced(datasets.config, "HF_HUB_OFFLINE", True),
    ):
        yield
