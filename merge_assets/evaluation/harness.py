"""lm-eval at work on one loaded model, one task per call, quiet, with progress: verbs of the model worker.

No other process imports this file.
Numbers are lm-eval's own. This module adds no arithmetic: it calls ``simple_evaluate`` with a model class whose
only addition is counting requests, and that generates by our settings.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import importlib.metadata
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import lm_eval.api.task
import lm_eval.evaluator
import torch

from merge_assets.errors import EvaluationError, MergeAssetsError
from merge_assets.evaluation.answers import Answers
from merge_assets.evaluation.backends import EvaluatedModel, model_of
from merge_assets.evaluation.command import allow_code, lm_eval_command
from merge_assets.evaluation.data import data_of, revisions_of, single_tasks
from merge_assets.evaluation.divergence import Divergence, diverging
from merge_assets.evaluation.draws import PYTHON_SEED
from merge_assets.evaluation.flaws import Flaws
from merge_assets.evaluation.meter import Meter
from merge_assets.evaluation.parts import chosen_of
from merge_assets.evaluation.prepared import Prepared, PreparedTasks
from merge_assets.evaluation.quiet import be_quiet
from merge_assets.evaluation.results import ResultKey, SampleCount, TaskResult, plain
from merge_assets.evaluation.rewriting import rewrite_tensors, why_not_rewritten
from merge_assets.evaluation.suite import Suite
from merge_assets.evaluation.token_counts import add_counts
from merge_assets.evaluation.values import directions_of, metrics_of
from merge_assets.evaluation.watched import WatchedLM, leave_out_failed
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
    like: str | None,
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
        like: digest of all that the checkpoint has besides weights. Where it is that of the one before, which was asked in the
            same way, the tasks stay loaded.
    """
    be_quiet()
    if code is not None:
        run_code_of(Path(model_dir), code)
    asked = [suite, suite_file, index, device, dtype, batch_size, like]
    if like is not None and code is None and desk.held.get("asked") == asked:
        desk.held["harness"].take(Path(model_dir), memory)
        return
    leave(desk)  # there is room for one
    read = Suite.model_validate({**suite, "file": Path(suite_file)})
    allow_code(read)
    desk.held["asked"] = asked
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


def scratch(desk: Desk) -> str:
    """A folder for files that are to be read here, which goes with this process, however that ends."""
    return mkdtemp(prefix="tensors-")


def why_stored(desk: Desk) -> str:
    """Why the loaded model cannot be made another one by rewriting tensors, in a few words; empty if it can."""
    return str(desk.held["harness"].why_stored())


def rewrite(desk: Desk, *, file: str | None, model_dir: str) -> None:
    """Make the loaded model another one, of which everything else is the same.

    Args:
        file: of safetensors, with the tensors that are not the same; ``None`` if there are none.
        model_dir: what the other one is called where something is said of it.
    """
    desk.held["harness"].rewrite(file, Path(model_dir))


def leave(desk: Desk) -> None:
    """Forget the loaded model; tasks stay loaded."""
    if harness := desk.held.get("harness"):
        harness.leave()


def prepare(desk: Desk, *, key: Mapping[str, Any], fetched: Sequence[Sequence[Any]]) -> bool:
    """Load a task with its data, those that were fetched, and check that it can be what the suite says; whether it stays."""
    return bool(desk.held["harness"].prepare(ResultKey.model_validate(key), fetched))


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
        self._is_rewritten = False
        self._tasks = PreparedTasks(suite, index, self._metadata())
        self._prepared: Prepared | None = None
        lm_eval.api.task.tqdm = self._meter.prompts

    def take(self, model_dir: Path, memory: int | None) -> None:
        """Go on with another checkpoint, which has the same config and tokenizer."""
        self.leave()
        self._model_dir, self._memory = model_dir, memory
        self._is_rewritten = False
        self._tasks.take(self._metadata())

    def _metadata(self) -> dict[str, str]:
        """What tasks are told of the model."""
        return {"pretrained": str(self._model_dir), "dtype": self._dtype}

    def leave(self) -> None:
        """Forget the model."""
        self._lm = self._other = None
        gc.collect()  # what watches it knows it

    def why_stored(self) -> str:
        """Why the model cannot be rewritten; empty if it can."""
        if not isinstance(self._lm, WatchedLM):
            return "no model of transformers is loaded"
        return why_not_rewritten(self._lm.model, self._model_dir, self._meter.check)

    def rewrite(self, file: str | None, model_dir: Path) -> None:
        """Make the model another one."""
        lm, self._lm = self._lm, None  # half of it rewritten it is none
        if not isinstance(lm, WatchedLM):
            raise EvaluationError("no model of transformers is loaded")
        if file is not None:
            rewrite_tensors(lm.model, Path(file))
            self._is_rewritten = True
        self._lm, self._model_dir = lm, model_dir

    def find(self, key: ResultKey) -> None:
        """See that there is a task of this name."""
        self._tasks.find(key)

    def prepare(self, key: ResultKey, fetched: Sequence[Sequence[Any]]) -> bool:
        """Load one task, unless it is; whether it stays loaded."""
        with self._failing(key):
            self._prepared = self._tasks.prepare(key, fetched)
        return self._prepared.was is not None

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
        assert self._prepared is not None and self._lm is not None
        manager, tasks = self._prepared.manager, self._prepared.tasks
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
            self._prepared.drawn.restore()
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
        command = [] if self._is_rewritten else command  # which would need a folder
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
