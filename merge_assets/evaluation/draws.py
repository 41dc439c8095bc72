"""What tasks draw at random, drawn as the lm-eval command draws it: seeds first, then data, then the evaluation.

The library ``datasets`` keeps what a task makes of its data, drawn or not, beside the data, and takes it from there the next
time. Here it is kept for one task in one process, so that nothing depends on who evaluated what before.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import datasets
import numpy as np
import torch
from lm_eval.tasks import TaskManager

PYTHON_SEED = 0
"""lm-eval's default seed of Python's random, which few-shot sampling does not use."""


def seed_all(seed: int) -> None:
    """Seed what the command seeds before it loads a task: Python's random, numpy and torch, on all devices."""
    random.seed(PYTHON_SEED)
    np.random.seed(seed)
    torch.manual_seed(seed)


_KIND: Any = datasets.Dataset
_USUAL_PATH = _KIND._get_cache_file_path


@dataclass(frozen=True)
class Drawn:
    """How far everything is drawn. Loading a model draws nothing, so the command is there when it begins to evaluate."""

    python: Any
    numpy: Any
    torch: torch.Tensor

    @classmethod
    def now(cls) -> Drawn:
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state())

    def restore(self) -> None:
        """Draw on from here. Other devices than the CPU are as they were seeded: no task draws on them when it loads."""
        torch.manual_seed(torch.initial_seed())
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)


def keep_made_apart() -> None:
    """From now on, what is made of data is kept in a new folder, and taken from nowhere else. It goes with the model worker."""
    folder = Path(mkdtemp(prefix="made-"))

    def path(made_of: datasets.Dataset, fingerprint: str) -> str:
        return str(folder / Path(_USUAL_PATH(made_of, fingerprint)).name)

    _KIND._get_cache_file_path = path


def as_loaded(manager: TaskManager, loaded: Any) -> TaskManager:
    """A manager that gives these tasks, whatever it is asked for. lm-eval has tasks that are loaded pass through one again,
    where it would draw more: ``task_name`` draws, each time that it is read.
    """
    once = copy.copy(manager)
    once.load = lambda asked: loaded
    return once
