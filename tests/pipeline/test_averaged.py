"""Contract of averaged checkpoints under automation: one that training has written makes a new version, without anybody's help.

The real search for changes, sensors and steps, tick by tick; only the work inside the steps is fake (see pipeline_support).
"""

from __future__ import annotations

import json
import struct

import pytest

from merge_assets.pipeline.keys import variant_key
from merge_assets.pipeline.reloading import Changes
from merge_assets.settings import Settings
from tests.pipeline_support import Daemon, FakeApi, Project, fake, project

__all__ = ["fake", "project"]  # fixtures

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

AVERAGE = "merge_method: linear\naverage_checkpoints: {folder: checkpoints, last: 2}\n"


class Training:
    """A training run that saves checkpoints, and a daemon whose code server looks for changes."""

    def __init__(self, project: Project) -> None:
        self.project = project
        for step in (900, 1000):
            self.begin(step)
            self.finish(step)
        project.recipe("average", AVERAGE)
        self.changes = Changes(Settings(root=project.root, recipes=[project.root / "recipes"], suites=[]))

    def begin(self, step: int) -> None:
        """The first file of a checkpoint."""
        self.project.checkpoint(f"checkpoint-{step}", f"weights of {step}")
        (self.project.root / "checkpoints" / f"checkpoint-{step}" / "config.json").write_text("{}")

    def finish(self, step: int) -> None:
        """Its weights: one tensor of zeros."""
        header = json.dumps({"norm.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
        file = self.project.root / "checkpoints" / f"checkpoint-{step}" / "model.safetensors"
        file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))

    def watched(self, daemon: Daemon) -> bool:
        """One look for changes, which are read if there are any; whether there were."""
        found = self.changes.look()
        if not self.changes.changed(found):
            return False
        self.changes.has_read(found)
        daemon.reload()
        return True


@pytest.fixture
def training(project: Project, fake: FakeApi) -> Training:
    made = Training(project)
    made.changes.look()
    return made


def test_a_checkpoint_that_training_finishes_makes_a_new_version_of_the_same_variant(
    training: Training, project: Project, fake: FakeApi
) -> None:
    daemon = Daemon.begun(project)
    fake.calls.clear()
    first = fake.results["average"]
    assert not training.watched(daemon)

    training.begin(1100)
    assert not training.watched(daemon), "half a checkpoint is none"
    assert daemon.observe() == [] and daemon.settle() == []

    training.finish(1100)
    assert training.watched(daemon)
    assert daemon.tick() == ["leaderboard"], "whose list of models is another"
    fake.calls.clear()
    assert daemon.tick() == []
    assert "variants/average waits: base/checkpoints/checkpoint-1100 was never observed" in daemon.said
    assert daemon.observe() == ["base/checkpoints/checkpoint-1100"]
    new = "scores/quick/checkpoints/checkpoint-1100"
    assert daemon.settle() == ["variants/average", "scores/quick/average", new, "leaderboard"]
    assert sorted(fake.calls) == ["average", "quick ./checkpoints/checkpoint-1100", "quick average", "rank"]
    assert fake.results["average"] != first
    assert not training.watched(daemon) and daemon.settle() == []
    spec = next(s for s in daemon.definitions.resolve_all_asset_specs() if s.key == variant_key("average"))
    assert sorted(dep.asset_key.path[-1] for dep in spec.deps) == ["checkpoint-1000", "checkpoint-1100"]


def test_one_that_is_too_old_to_count_changes_nothing(training: Training, project: Project, fake: FakeApi) -> None:
    daemon = Daemon.begun(project)
    training.begin(100)
    training.finish(100)
    assert not training.watched(daemon)
    daemon.reload()
    assert daemon.observe() == [] and daemon.settle() == []
