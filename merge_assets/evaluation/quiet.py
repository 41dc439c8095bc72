"""lm-eval and what it uses, without their words and what only costs time. Imported by the model worker alone."""

from __future__ import annotations

import logging

import datasets
import lm_eval.evaluator
import transformers


def be_quiet() -> None:
    """Silences lm-eval, datasets and transformers below errors, and replaces what only costs time.

    ``add_env_info`` runs pip and nvidia-smi (2 s per call); what matters of it is recorded in the result.
    """
    for name in ("lm_eval", "datasets", "transformers", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    lm_eval.evaluator.add_env_info = lambda storage: None
    lm_eval.evaluator.get_git_commit_hash = lambda: None
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
