"""Contract: `merge-assets evaluate` takes several models, and one that fails leaves the others alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import run_command
from tests.evaluation_support import ONE_TASK, write_checkpoint, write_suite

pytestmark = pytest.mark.slow


def test_several_models_are_evaluated_in_one_call_as_each_is_in_its_own(tmp_path: Path) -> None:
    write_suite(tmp_path / "suites", documents=2)
    (tmp_path / "suites" / "tiny.yaml").write_text(ONE_TASK)
    for seed, name in enumerate("ab"):
        write_checkpoint(tmp_path / name, seed=seed)
    several = run_command("evaluate", "./a", "./none", "./b", "--suite", "tiny", "--out", "out", root=tmp_path)
    assert several.code == 2
    assert "none" in several.stderr
    alone = run_command("evaluate", "./b", "--suite", "tiny", "--out", "alone", "--refresh", root=tmp_path)
    assert alone.code == 0, alone.stderr
    together, apart = (json.loads((tmp_path / folder / "scores.json").read_text()) for folder in ("out/b", "alone"))
    for scores in (together, apart):
        for row in scores["tasks"]:
            del row["seconds"]
    assert together == apart
    assert (tmp_path / "out" / "a" / "scores.json").is_file()
