"""lm-eval at work on one loaded model, one task per call, quiet, with progress: verbs of the model worker.

No other process imports this file.
Numbers are lm-eval's own. This module adds no arithmetic: it calls ``simple_evaluate`` with a model class whose
only addition is counting requests, and that generates by our settings.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lm_eval.api.task
import lm_eval.evaluator
import torch
from lm_eval.tasks import TaskManager

from merge_assets.errors import EvaluationError, MergeAssetsError, SuiteError
from merge_assets.evaluation.answers import Answers
from merge_assets.evaluation.backends import EvaluatedModel, model_of
from merge_assets.evaluation.command import allow_code, lm_eval_command
from merge_assets.evaluation.data import DataHub, Fetched, data_of, fetching, reading, revisions_of, single_tasks
from merge_assets.evaluation.divergence import Divergence, diverging
from merge_assets.evaluation.draws import PYTHON_SEED, Drawn, as_loaded, keep_made_apart, seed_all
from merge_assets.evaluation.flaws import Flaws
from merge_assets.evaluation.loading import load_task, task_manager
from merge_assets.evaluation.meter import Meter
from merge_assets.evaluation.packages import fit_packages
from merge_assets.evaluation.parts import chosen_of
from merge_assets.evaluation.preflight import unknown
from merge_assets.evaluation.quiet import be_quiet
from merge_assets.evaluation.results import ResultKey, SampleCount, TaskResult, plain
from merge_assets.evaluation.suite import Suite
from merge_assets.evaluation.task_index import ships
from merge_assets.evaluation.token_counts import add_counts
from merge_assets.evaluation.values import directions_of, metrics_of
from merge_assets.evaluation.watched import leave_out_failed
from merge_assets.extras import not_installed
from merge_assets.model_worker import Desk, reason
from merge_assets.model_worker.code import run_code_of


def begin(
    desk: Desk,
    *,
    model_dir: str,
    suite: Mapping[str, Any],
    suite_file: str,
    index: str | None,
    device: str,
    dtype: str,
    batch_size: int | str,
    code: str | None,
    memory: int | None,
) -> None:
    """Take what is to be evaluated, and on what.

    Args:
        model_dir: absolute path of the directory that is loaded.
        suite: content of the suite, as JSON.
        suite_file: where it was read.
        index: the file with the names of lm-eval's own tasks, if that is kept.
        device: "auto", "cpu", "cuda" or "cuda:1".
        dtype: dtype of the loaded weights; "auto" is the checkpoint's own.
        batch_size: sequences per forward pass, or "auto".
        code: an empty folder for the checkpoint's own code, if that may be run.
        memory: bytes that this process may take, if that is bounded.
    """
    be_quiet()
    if code is not None:
        run_code_of(Path(model_dir), code)
    read = Suite.model_validate({**suite, "file": Path(suite_file)})
    allow_code(read)
    desk.held["harness"] = Harness(
        desk,
        Path(model_dir),
        read,
        index,
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        trust=code is not None,
        memory=memory,
    )


def fetch(
    desk: Desk,
    *,
    suite: Mapping[str, Any],
    suite_file: str,
    index: str | None,
    task: str,
    revision: str | None,
    hub: Mapping[str, Any],
) -> list[Fetched]:
    """Bring the data of a task into the caches, by making the task, at a commit where the suite names one, and tell what they
    are. The one verb that is asked of a process with a network: it knows no checkpoint."""
    be_quiet()
    keep_made_apart()  # it may be drawn, and here without seeds
    DataHub(**hub).use()
    read = Suite.model_validate({**suite, "file": Path(suite_file)})
    allow_code(read)
    defaults = ships(read, task)
    if defaults not in desk.held:
        desk.held[defaults] = task_manager(read, task, index, defaults=defaults, metadata={})
    manager = desk.held[defaults]
    if task in manager.task_index:  # what there is not, tasks and packages, the worker will say
        with fetching(revision) as fetched:
            try:
                manager.load([task])
            except ImportError as error:
                if not_installed(error) is None:
                    raise
        return fetched
    return []


def prepare(desk: Desk, *, key: Mapping[str, Any], fetched: Sequence[Sequence[Any]]) -> None:
    """Load a task with its data, those that were fetched, and check that it can be what the suite says."""
    desk.held["harness"].prepare(ResultKey.model_validate(key), fetched)


def find(desk: Desk, *, keys: Sequence[Mapping[str, Any]]) -> None:
    """See that there are tasks of these names, before the first is evaluated."""
    for key in keys:
        desk.held["harness"].find(ResultKey.model_validate(key))


def load(desk: Desk, *, other: str | None, served: Mapping[str, str] | None) -> dict[str, Any]:
    """Load the model, once; on what answers depend besides the model and what is asked.

    Args:
        other: directory of the model that it is compared with, which is loaded, too.
        served: the server that is asked in its stead; see :meth:`merge_assets.evaluation.endpoint.Server.open`.
    """
    harness = desk.held["harness"]
    harness.load(served)
    harness.load_other(other)
    return dict(harness.circumstances())


def run(desk: Desk, *, key: Mapping[str, Any], answers: str | None) -> Any:
    """Evaluate the prepared task: gives ``["answers", batch, answers]`` for each batch that is asked, then
    ``["sample", task, sample]`` for each sample, and returns the result as JSON.

    Args:
        key: of the result.
        answers: file of answers of these circumstances, which are not asked for again.
    """
    return desk.held["harness"].run(ResultKey.model_validate(key), Answers(Path(answers)) if answers else None)


class Harness:
    """A checkpoint that is loaded once, on which the tasks of a suite are run. See :func:`begin`.

    All methods raise EvaluationError for what :func:`merge_assets.evaluation.runner.evaluate_suite` says.
    """

    def __init__(
        self,
        desk: Desk,
        model_dir: Path,
        suite: Suite,
        index: str | None,
        *,
        device: str,
        dtype: str,
        batch_size: int | str,
        trust: bool,
        memory: int | None,
    ) -> None:
        self._memory = memory
        self._index = index
        self._settings = suite.settings
        self._chat = False
        self._trust = trust
        self._meter = Meter(desk)
        self._desk = desk
        self._model_dir = model_dir
        self._suite = suite
        self._device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self._dtype = dtype
        self._batch_size = batch_size
        self._lm: EvaluatedModel | None = None
        self._other: tuple[str, Any] | None = None
        self._managers: dict[bool | str, TaskManager] = {}
        self._tasks: tuple[TaskManager, list[Any]] | None = None
        self._drawn: Drawn | None = None
        lm_eval.api.task.tqdm = self._meter.prompts

    def find(self, key: ResultKey) -> TaskManager:
        """What knows a task."""
        is_text = self._suite.text_of(key.task) is not None
        defaults = ships(self._suite, key.task)
        name = key.task if is_text else defaults
        if name not in self._managers:
            metadata = {"pretrained": str(self._model_dir), "dtype": self._dtype}
            self._managers[name] = task_manager(
                self._suite, key.task, self._index, defaults=defaults, metadata=metadata
            )
        manager = self._managers[name]
        if not is_text and key.task not in manager.task_index:
            raise SuiteError(unknown(self._suite, key.task, key.lm_eval, manager.task_index))
        return manager

    def prepare(self, key: ResultKey, fetched: Sequence[Sequence[Any]]) -> None:
        """Load one task."""
        keep_made_apart()
        with self._failing(key), reading(key.revision, fetched):
            self._tasks = self._load(key)

    def load(self, served: Mapping[str, str] | None) -> None:
        """Load the model, unless it is loaded."""
        if self._lm is not None:
            return
        lm = self._loaded(self._model_dir, self._trust, served)
        try:
            self._chat = lm.is_asked_in_turns(self._settings.chat_template)
        except ValueError as error:
            raise EvaluationError(f"{self._suite.file}: chat_template: {self._model_dir}: {error}") from None
        self._lm = lm

    def load_other(self, directory: str | None) -> None:
        """Load the model that the first is compared with, unless it is loaded; without one, forget the last."""
        if directory is None:
            self._other = None
        elif self._other is None or self._other[0] != directory:
            self._other = None  # there is room for one
            self._other = (directory, self._loaded(Path(directory), trust=False))

    def _loaded(self, directory: Path, trust: bool, served: Mapping[str, str] | None = None) -> EvaluatedModel:
        return model_of(
            self._settings,
            directory,
            device=self._device,
            dtype=self._dtype,
            batch_size=self._batch_size,
            trust=trust,
            served=served,
            meter=self._meter,
            call=self._desk.call,
        )

    def circumstances(self) -> dict[str, Any]:
        """On what the answers of the loaded model depend besides its bytes and what is asked."""
        assert self._lm is not None
        return self._lm.circumstances()

    def run(self, key: ResultKey, answers: Answers | None) -> Any:
        """Evaluate the task that was prepared."""
        assert self._tasks is not None and self._drawn is not None and self._lm is not None
        manager, tasks = self._tasks
        self._meter.begin(0, "requests")
        self._lm.begin(answers.read() if answers else {}, lambda *item: self._desk.give(["answers", *item]))
        if self._batch_size == "auto":
            self._lm.choose_batch_size(self._memory)
        started = time.monotonic()
        with self._failing(key):
            samples = chosen_of(key, single_tasks(tasks))
            if self._other is not None:
                ours: Any = self._lm  # of transformers: suites of other backends compare nothing
                models = Divergence(ours, self._other[1], self._meter)
                output, found = diverging(models, tasks[0], key, samples)
                return self._told(key, tasks, output, started, [], disagreements=found)
            left_out = leave_out_failed(single_tasks(tasks))
            self._drawn.restore()
            try:
                output = lm_eval.evaluator.simple_evaluate(
                    model=self._lm,
                    tasks=tasks,
                    num_fewshot=key.shots,
                    batch_size=self._batch_size,
                    device=self._device,
                    limit=key.limit if samples is None else None,
                    samples=samples,
                    gen_kwargs=self._settings.generation.given() or None,
                    apply_chat_template=self._chat,
                    fewshot_as_multiturn=self._chat and self._settings.fewshot_as_multiturn,
                    system_instruction=self._settings.system_prompt,
                    confirm_run_unsafe_code=self._settings.unsafe_code,
                    log_samples=True,
                    task_manager=manager,
                    random_seed=None,  # seeded before the task was loaded
                    numpy_random_seed=None,
                    torch_random_seed=None,
                    fewshot_random_seed=key.seed,
                )
            finally:  # also where lm-eval cannot do without a value
                for name, failed in left_out.items():
                    if failed and all(failed):
                        raise EvaluationError(
                            f"{self._where(key)}failed: the answers to all documents of {name} are not finite numbers, nor "
                            "are the model's outputs"
                        )
            if output is None:
                raise EvaluationError(f"{self._where(key)}failed: this process is not the first of its group")
            add_counts(output, single_tasks(tasks), self._lm)
            command = lm_eval_command(
                key,
                self._suite,
                device=self._device,
                batch_size=self._lm.batch_size,
                chat=self._chat,
                python_seed=PYTHON_SEED,
                model=self._lm.arguments,
                samples=samples,
            )
            return self._told(key, tasks, output, started, command)

    def _told(
        self,
        key: ResultKey,
        tasks: list[Any],
        output: Mapping[str, Any],
        started: float,
        command: list[str],
        **beside: Any,
    ) -> Any:
        """Gives the samples; the result, as JSON."""
        logged: dict[str, list[dict[str, Any]]] = dict(output["samples"])
        for task, samples in logged.items():
            for sample in samples:
                self._desk.give(["sample", task, plain(sample)])
        result = self._result(key, output, command, time.monotonic() - started)
        observed = {"data": data_of(logged), "revisions": revisions_of(tasks), "flaws": self._flaws(logged)}
        return json.loads(result.model_copy(update=observed | beside).model_dump_json())

    def _flaws(self, logged: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Flaws]:
        assert self._lm is not None
        flaws = self._lm.flaws()
        for name, samples in logged.items():
            if failed := {sample["doc_id"] for sample in samples if not sample["metrics"]}:
                flaws[name] = flaws.get(name, Flaws()).model_copy(update={"failed": len(failed)})
        return flaws

    def _where(self, key: ResultKey) -> str:
        return f"{self._suite.where(key.task)}: {key.task} on {self._model_dir} "

    @contextlib.contextmanager
    def _failing(self, key: ResultKey) -> Iterator[None]:
        """Says which task failed."""
        try:
            yield
        except MergeAssetsError as error:
            if str(self._suite.file) not in str(error):
                error.prefix(f"{self._where(key)}failed: ")
            raise
        except Exception as error:
            raise EvaluationError(f"{self._where(key)}failed: {not_installed(error) or reason(error)}") from error

    def _load(self, key: ResultKey) -> tuple[TaskManager, list[Any]]:
        """The task or group object, with its data, checked against the suite's settings."""
        where = self._suite.where(key.task)
        local = self._suite.local_task(key.task)
        if key.revision and local is not None and local.local:
            raise SuiteError(
                f"{where}.revision: the data of {key.task} are local files, which its digest covers; remove this key"
            )
        manager = self.find(key)
        seed_all(key.seed)
        loaded = load_task(manager, self._suite, key.task)
        self._drawn = Drawn.now()
        fit_packages()
        for name, task in loaded["tasks"].items():
            if key.shots and task.get_config("num_fewshot") == 0:
                raise SuiteError(f"{where}.shots: {name} is a 0-shot task; its own files fix that. Set 0")
        once = as_loaded(manager, loaded)
        if key.task in loaded["groups"]:
            return once, [loaded["groups"][key.task]]
        return once, list(loaded["tasks"].values())

    def _result(self, key: ResultKey, output: Mapping[str, Any], command: list[str], seconds: float) -> TaskResult:
        assert self._lm is not None
        circumstances = self._lm.circumstances()
        return TaskResult(
            key=key,
            metrics=metrics_of(output),
            higher_is_better=directions_of(output),
            shots={name: int(shots) for name, shots in output["n-shot"].items() if isinstance(shots, int)},
            samples={name: SampleCount(**counts) for name, counts in output["n-samples"].items()},
            task_versions={name: str(v) for name, v in output["versions"].items() if v is not None},
            seeds={"python": PYTHON_SEED, "numpy": key.seed, "torch": key.seed, "fewshot": key.seed},
            versions={**circumstances["versions"], "datasets": importlib.metadata.version("datasets")},
            device=self._device if self._settings.backend == "hf" else circumstances["device"],
            model_dtype=str(output["config"].get("model_dtype", "")).removeprefix("torch."),
            batch_size=self._lm.batch_size,
            chat=self._chat,
            command=command,
            seconds=round(seconds, 3),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
