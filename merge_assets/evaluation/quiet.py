"""lm-eval and what it uses, without their words and what only costs time. Imported by the model worker alone."""

from __future__ import annotations

import logging
from functools import lru_cache

import datasets
import lm_eval.evaluator
import lm_eval.utils
import transformers

_TEMPLATES = 4096
"""That are kept; a task has a few, and one of which the text hangs on the document must not fill the memory."""


def be_quiet() -> None:
    """Silences lm-eval, datasets and transformers below errors, and replaces what only costs time.

    * ``add_env_info`` runs pip and nvidia-smi (2 s per call); what matters of it is recorded in the result.
    * A task's templates are compiled once, not for every document and each example in front of it: a prompt of MMLU with five
      examples took 14 ms, and takes 0.3 ms.
    """
    for name in ("lm_eval", "datasets", "transformers", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    lm_eval.evaluator.add_env_info = lambda storage: None
    lm_eval.evaluator.get_git_commit_hash = lambda: None
    environment = lm_eval.utils.env
    if not hasattr(environment.from_string, "cache_info"):
        environment.from_string = lru_cache(_TEMPLATES)(environment.from_string)
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
