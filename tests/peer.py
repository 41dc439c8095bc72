"""mergekit 0.1.5 as a black box: one process of its own environment runs many recipes.

Only what its README shows is called (`MergeConfiguration`, `MergeOptions`, `run_merge`); its source is not read.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

VERSION = "0.1.5"
VARIABLE = "MERGEKIT_VENV"
"""Environment variable with the folder of a virtual environment that has mergekit; default is ``.peer``."""

_ROOT = Path(__file__).parents[1]
_PROGRAM = """
import json, logging, sys, traceback, warnings
import yaml
warnings.filterwarnings("ignore")
from mergekit.config import MergeConfiguration
from mergekit.merge import MergeOptions, run_merge
logging.disable(logging.WARNING)
jobs, answers = json.load(open(sys.argv[1])), {}
for name, job in jobs.items():
    try:
        cache = job["out"] + "-adapters"
        options = MergeOptions(copy_tokenizer=False, quiet=True, random_seed=0, lora_merge_cache=cache)
        run_merge(MergeConfiguration.model_validate(yaml.safe_load(job["recipe"])), job["out"], options)
        answers[name] = ""
    except Exception as error:
        answers[name] = f"{type(error).__name__}: {error}"
json.dump(answers, open(sys.argv[2], "w"))
"""


class PeerError(Exception):
    """mergekit did not run a recipe; the text is its own."""


def environment() -> Path | None:
    """The virtual environment of mergekit, or None if there is none."""
    folder = Path(os.environ.get(VARIABLE) or _ROOT / ".peer")
    return folder if (folder / "bin" / "mergekit-yaml").exists() else None


def answers(recipes: Mapping[str, str], folder: Path) -> dict[str, Path | PeerError]:
    """What :func:`run` gives; a test that asks is skipped where there is no mergekit, and fails where one was promised."""
    venv = environment()
    if venv is not None:
        return run(venv, recipes, folder)
    if VARIABLE in os.environ:
        pytest.fail(f"{VARIABLE} names {os.environ[VARIABLE]}, which has no mergekit; see `make test`")
    pytest.skip(f"no mergekit: `make test` installs {VERSION} into .peer, or name one with {VARIABLE}")


def run(venv: Path, recipes: Mapping[str, str], folder: Path) -> dict[str, Path | PeerError]:
    """Merge every recipe in one process of mergekit; the output folder by name, or the error that it ended in.

    Args:
        venv: of mergekit.
        recipes: recipe texts by name.
        folder: empty folder for the outputs.
    """
    jobs = {name: {"recipe": text, "out": str(folder / name)} for name, text in recipes.items()}
    asked, answered = folder / "jobs.json", folder / "answers.json"
    asked.write_text(json.dumps(jobs))
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(
        [venv / "bin" / "python", "-c", _PROGRAM, asked, answered],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if not answered.exists():
        raise PeerError(f"mergekit in {venv} ended with code {done.returncode}: {done.stderr[-2000:]}")
    answers = json.loads(answered.read_text())
    return {name: PeerError(answers[name]) if answers[name] else folder / name for name in recipes}
