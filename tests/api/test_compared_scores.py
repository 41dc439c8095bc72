"""Scores of one model beside another: they are of the bytes of both."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from merge_assets import api
from merge_assets.errors import MergeAssetsError
from merge_assets.evaluation import runner
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from merge_assets.workspace.results import KnownScores
from tests.evaluation_support import HereWorker, sentence, write_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(runner, "ModelWorker", HereWorker)
    for seed, name in enumerate(("m", "other")):
        write_checkpoint(tmp_path / name, seed=seed)
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "mine.yaml").write_text("tasks: [{text: words.txt, metric: kl, to: ./other}]\n")
    (tmp_path / "suites" / "words.txt").write_text(sentence(random.Random(1), 100))
    return tmp_path


def score(root: Path) -> api.Scored:
    return api.score(api.Workspace.open(Settings(root=root, device="cpu")), ModelReference.parse("./m"), "mine")


def test_they_are_made_again_when_the_other_model_has_other_bytes(root: Path) -> None:
    first, again = score(root), score(root)
    assert again.reused and again.artifact.version == first.artifact.version
    assert set(first.artifact.manifest.fingerprints) == {"./m", "./other"}
    shutil.rmtree(root / "other")
    write_checkpoint(root / "other", seed=2)
    space = api.Workspace.open(Settings(root=root))
    model = space.names.identify(ModelReference.parse("./m"))
    shown = next(scores for _, scores in KnownScores(space).latest(model, space.suites["mine"]))
    assert shown == first.scores  # of the bytes that were compared
    changed = score(root)
    assert not changed.reused
    assert changed.scores.tasks[0].value != first.scores.tasks[0].value


def test_an_other_model_that_is_not_there_is_said(root: Path) -> None:
    shutil.rmtree(root / "other")
    with pytest.raises(MergeAssetsError, match="other"):
        score(root)
