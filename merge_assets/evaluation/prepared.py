"""The tasks of a suite, loaded and kept: the next checkpoint is asked them as they were loaded.

Imported by the model worker alone.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

from merge_assets.errors import SuiteError
from merge_assets.evaluation.data import reading, single_tasks
from merge_assets.evaluation.draws import Drawn, as_loaded, keep_made_apart, seed_all
from merge_assets.evaluation.loading import load_task, task_manager
from merge_assets.evaluation.packages import fit_packages
from merge_assets.evaluation.preflight import unknown
from merge_assets.evaluation.results import ResultKey
from merge_assets.evaluation.suite import Suite
from merge_assets.evaluation.task_index import ships


@dataclass(frozen=True)
class Prepared:
    """One task or group of tasks, with its data.

    Attributes:
        manager: gives these tasks, whatever it is asked for.
        tasks: of lm-eval, or one group of them.
        drawn: how far everything was drawn when they were loaded.
        was: what each single task and its config held then; ``None`` where that does not tell: what tasks of classes of their
            own remember is not known here.
        prompts: of single tasks, by how they were asked for, and how far everything was drawn then.
    """

    manager: TaskManager
    tasks: list[Any]
    drawn: Drawn
    was: Sequence[tuple[Any, Mapping[str, Any]]] | None
    prompts: dict[tuple[int, str], tuple[list[Any], Drawn]] = field(default_factory=dict)

    @classmethod
    def now(cls, manager: TaskManager, tasks: list[Any], drawn: Drawn) -> Prepared:
        """Of tasks that were loaded just now."""
        single = single_tasks(tasks)
        known = all(type(one) is ConfigurableTask for one in single)
        held = [each for one in single for each in (one, one.config)] if known else []
        return cls(manager, tasks, drawn, [(each, dict(vars(each))) for each in held] if known else None)

    def restore(self) -> None:
        """Make the tasks what they were when they were loaded."""
        for now, before in self.was or ():
            vars(now).clear()
            vars(now).update(before)

    def keep_prompts(self) -> None:
        """Have prompts made once; what is drawn for them is then drawn as well."""
        for task in single_tasks(self.tasks) if self.was is not None else ():
            task.build_all_requests = partial(self._build, task)

    def _build(self, task: Any, **asked: Any) -> None:
        # What makes turns of texts is the tokenizer, and that is the same.
        of = {name: value for name, value in asked.items() if name not in ("chat_template", "tokenizer_name")}
        key = id(task), json.dumps(of, sort_keys=True)
        if key in self.prompts:
            requests, drawn = self.prompts[key]
            task._instances = [_unanswered(one) for one in requests]
            drawn.restore()
            return
        type(task).build_all_requests(task, **asked)
        self.prompts[key] = [_unanswered(one) for one in task.instances], Drawn.now()


def _unanswered(request: Any) -> Any:
    """A request of lm-eval as it was before it was asked."""
    return replace(request, arguments=copy.deepcopy(request.arguments), resps=[], filtered_resps={})


class PreparedTasks:
    """The tasks of a suite, each loaded when it is first asked for.

    Args:
        suite: that names them.
        index: the file with the names of lm-eval's own tasks, if that is kept.
        metadata: of the model, handed to the tasks.
    """

    def __init__(self, suite: Suite, index: str | None, metadata: Mapping[str, Any]) -> None:
        self._suite = suite
        self._index = index
        self._metadata = metadata
        self._managers: dict[bool | str, TaskManager] = {}
        self._kept: dict[tuple[object, ...], Prepared] = {}

    def take(self, metadata: Mapping[str, Any]) -> None:
        """Go on with another model, of the same tokenizer: what is loaded stays, the rest is loaded for this one."""
        self._metadata = metadata
        self._managers.clear()

    def find(self, key: ResultKey) -> None:
        """See that there is a task of this name.

        Raises:
            SuiteError: there is none.
        """
        if _asked(key) not in self._kept:
            self._manager(key)

    def _manager(self, key: ResultKey) -> TaskManager:
        """What knows a task."""
        is_text = self._suite.text_of(key.task) is not None
        defaults = ships(self._suite, key.task)
        name = key.task if is_text else defaults
        if name not in self._managers:
            self._managers[name] = task_manager(
                self._suite, key.task, self._index, defaults=defaults, metadata=self._metadata
            )
        manager = self._managers[name]
        if not is_text and key.task not in manager.task_index:
            raise SuiteError(unknown(self._suite, key.task, key.lm_eval, manager.task_index))
        return manager

    def prepare(self, key: ResultKey, fetched: Sequence[Sequence[Any]]) -> Prepared:
        """One task with its data, those that were fetched, checked against the suite's settings."""
        keep_made_apart()
        if (kept := self._kept.get(_asked(key))) is not None:
            kept.restore()
            kept.keep_prompts()
            return kept
        with reading(key.revision, fetched):
            prepared = self._load(key)
        if prepared.was is not None:
            self._kept[_asked(key)] = prepared
            prepared.keep_prompts()
        return prepared

    def _load(self, key: ResultKey) -> Prepared:
        where = self._suite.where(key.task)
        local = self._suite.local_task(key.task)
        if key.revision and local is not None and local.local:
            raise SuiteError(
                f"{where}.revision: the data of {key.task} are local files, which its digest covers; remove this key"
            )
        manager = self._manager(key)
        seed_all(key.seed)
        loaded = load_task(manager, self._suite, key.task)
        drawn = Drawn.now()
        fit_packages()
        for name, task in loaded["tasks"].items():
            if key.shots and task.get_config("num_fewshot") == 0:
                raise SuiteError(f"{where}.shots: {name} is a 0-shot task; its own files fix that. Set 0")
        tasks = [loaded["groups"][key.task]] if key.task in loaded["groups"] else list(loaded["tasks"].values())
        return Prepared.now(as_loaded(manager, loaded), tasks, drawn)


def _asked(key: ResultKey) -> tuple[object, ...]:
    """What of a key the loaded task depends on."""
    return key.task, key.task_digest, key.revision, key.seed, key.shots
