"""Contract of `merge-assets build --dry-run` and `--json`: what would be made and why, and nothing is written but digests.

The real command on a real project; each call is a process that imports Dagster, so that there are few.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import torch

from tests.commands import run_command
from tests.synthetic import write_checkpoint

pytestmark = pytest.mark.slow

# No library knows it, so that no step tries to load what it merged.
CONFIG = {"architectures": ["X"], "model_type": "unheard-of", "num_hidden_layers": 1, "vocab_size": 8}
MEAN = "merge_method: linear\nmodels: [{model: ./a}]\nparameters: {weight: 1}\n"
OTHER = "merge_method: linear\nmodels: [{model: mean}]\nparameters: {weight: 1}\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "merge-assets.toml").write_text("default_suites = []\nexecutor = 'in_process'\n")
    write_checkpoint(tmp_path / "a", {"model.layers.0.up_proj.weight": torch.ones(4, 4)}, CONFIG)
    (tmp_path / "recipes" / "mean.yaml").write_text(MEAN)
    (tmp_path / "recipes" / "other.yaml").write_text(OTHER)
    return tmp_path


def document(root: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    """The one document on standard output of a build."""
    done = run_command("build", "--json", *arguments, root=root)
    assert done.code == code, done
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def told(made: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {each["key"]: (each["state"], each["message"]) for each in made["outcomes"]}


def written(root: Path) -> set[str]:
    """Files below the project's ``var`` but for digests."""
    found = (file.relative_to(root / "var").as_posix() for file in (root / "var").rglob("*") if file.is_file())
    return {file for file in found if not file.startswith("cache/")}


def test_a_dry_run_says_what_a_build_would_make_and_writes_nothing(root: Path) -> None:
    dry = document(root, "--dry-run")
    assert told(dry) == {
        "base/a": ("observed", "first seen"),
        "variants/mean": ("would be made", "never built"),
        "variants/other": ("would be made", "never built"),
    }
    assert (dry["failed"], dry["dry_run"], dry["run_id"]) == (False, True, None)
    assert written(root) == set()

    built = document(root)
    assert told(built) == {
        "base/a": ("observed", "first seen"),
        "variants/mean": ("built", "never built"),
        "variants/other": ("built", "never built"),
    }
    with dg.DagsterInstance.from_config(str(root / "var" / "dagster")) as instance:
        (run,) = instance.get_runs()
    assert run.run_id == built["run_id"]
    assert run.tags["trigger"] == "merge-assets build" and run.tags["user"]
    assert run.tags["why"] == "variants/mean: never built (and 1 more)"
    # People look at all tags that do not begin so.
    shown = {key for key in run.tags if not key.startswith((".dagster/", "dagster/"))}
    assert shown == {"trigger", "user", "why"}

    write_checkpoint_again(root)
    before = {file: (root / "var" / file).read_bytes() for file in written(root)}
    again = told(document(root, "--dry-run", "mean"))
    assert again["base/a"] == ("observed", "changed")
    state, why = again["variants/mean"]
    assert state == "would be made" and why.startswith("base/a has other bytes: ")
    assert again.keys() == {"base/a", "variants/mean"}
    after = {file: (root / "var" / file).read_bytes() for file in written(root)}
    assert {file for file in before | after if before.get(file) != after.get(file)} <= sqlite_of(before)


def test_what_could_not_be_made_is_a_failure_of_a_dry_run_too(root: Path) -> None:
    (root / "a" / "model.safetensors").write_bytes(b"nonsense")
    made = document(root, "--dry-run", code=1)
    assert made["failed"]
    assert {key: state for key, (state, _) in told(made).items()} == {
        "base/a": "failed",
        "variants/mean": "skipped",
        "variants/other": "skipped",
    }


def write_checkpoint_again(root: Path) -> None:
    for file in (root / "a").iterdir():
        file.unlink()
    (root / "a").rmdir()
    write_checkpoint(root / "a", {"model.layers.0.up_proj.weight": torch.zeros(4, 4)}, CONFIG)


def sqlite_of(files: dict[str, bytes]) -> set[str]:
    """What a database writes beside itself when it is read."""
    return {f"{file}{end}" for file in files if file.endswith(".db") for end in ("-shm", "-wal")}
