"""Contract of hot reload: every change of what there is to build is read once it is written out, half a file is waited for.

Real files; the waiting times are shortened. That a server takes it is tested in `test_front_serve.py` and `test_daemon.py`.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from merge_assets.pipeline import reloading
from merge_assets.pipeline.reloading import Changes, keep_up
from merge_assets.settings import load_settings
from tests.synthetic import write_llama

AVERAGE = "merge_method: linear\naverage_checkpoints: {folder: run, last: 2}\n"
RECIPE = "merge_method: linear\nmodels: [{model: checkpoints/one, parameters: {weight: 1}}]\n"
PATIENCE = 120.0  # seconds after which something hangs


class Watched:
    """A project whose changes are looked for, and how often they were read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.reloads = 0
        self.failing = 0
        self.over = threading.Event()
        self.looked = threading.Semaphore(0)
        self.changes = Changes(load_settings())
        self.thread = threading.Thread(target=keep_up, args=(self.changes, self.reload, self.stop))
        self.thread.start()

    def stop(self, seconds: float) -> bool:
        self.looked.release()
        return self.over.wait(seconds)

    def reload(self) -> None:
        if self.failing:
            self.failing -= 1
            raise ConnectionError("no server")
        self.reloads += 1

    def await_looks(self, count: int) -> None:
        """Wait until so many looks have begun and ended."""
        while self.looked.acquire(blocking=False):
            pass
        for _ in range(count + 1):
            assert self.looked.acquire(timeout=PATIENCE)

    def await_reloads(self, count: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.reloads < count:
            assert time.monotonic() < deadline and self.thread.is_alive()
            time.sleep(0.01)
        self.await_looks(5)
        assert self.reloads == count, "once for a change"


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    for name, seconds in (("LOOK", 0.02), ("UNREADABLE", 600.0), ("LONGEST", 600.0), ("AGAIN", 0.05)):
        monkeypatch.setattr(reloading, f"{name}_SECONDS", seconds)
    monkeypatch.chdir(tmp_path)
    for folder in ("recipes", "suites", "tasks"):
        (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / "merge-assets.toml").write_text("")
    (tmp_path / "recipes" / "first.yaml").write_text(RECIPE)
    (tmp_path / "suites" / "own.yaml").write_text("include_path: ../tasks\ntasks: [{task: own, metric: acc}]\n")
    (tmp_path / "tasks" / "own.yaml").write_text("task: own\n")
    made = Watched(tmp_path)
    try:
        made.await_looks(2)
        yield made
    finally:
        made.over.set()
        made.thread.join()


def saved(root: Path, step: int) -> Path:
    """A checkpoint of the training run that a recipe averages."""
    return write_llama(root / "run" / f"checkpoint-{step}", 1)


def removed(root: Path) -> None:
    (root / "recipes" / "first.yaml").unlink()


CHANGES: dict[str, Callable[[Path], object]] = {
    "a recipe appears": lambda root: (root / "recipes" / "second.yaml").write_text(RECIPE),
    "a recipe is edited": lambda root: (root / "recipes" / "first.yaml").write_text(RECIPE + "dtype: float32\n"),
    "a recipe goes": removed,
    "a recipe moves": lambda root: (root / "recipes" / "first.yaml").rename(root / "recipes" / "other.yaml"),
    "a suite is edited": lambda root: (root / "suites" / "own.yaml").write_text(
        "include_path: ../tasks\ntasks: [{task: own, metric: f1}]\n"
    ),
    "a file of a task is edited": lambda root: (root / "tasks" / "own.yaml").write_text("task: own\noutput_type: x\n"),
    "a model that a recipe names appears": lambda root: (root / "checkpoints" / "one").mkdir(parents=True),
    "settings change": lambda root: (root / "merge-assets.toml").write_text("default_suites = []\n"),
    "settings name another folder": lambda root: (root / "merge-assets.toml").write_text('recipes = ["others"]\n'),
}


@pytest.fixture
def averaged(tmp_path: Path, request: pytest.FixtureRequest) -> Watched:
    """A project that is watched, with a recipe that averages two of three checkpoints."""
    for step in (100, 900, 1000):
        saved(tmp_path, step)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "average.yaml").write_text(AVERAGE)
    watched: Watched = request.getfixturevalue("watched")
    assert watched.reloads == 0
    return watched


def test_a_checkpoint_of_training_is_read_once_it_is_complete(averaged: Watched) -> None:
    saving = averaged.root / "run" / "checkpoint-1100"
    weights = write_llama(averaged.root / "elsewhere", 1) / "model.safetensors"
    saving.mkdir()
    (saving / "config.json").write_bytes((weights.parent / "config.json").read_bytes())
    averaged.await_looks(6)
    assert averaged.reloads == 0
    (saving / "model.safetensors").write_bytes(weights.read_bytes()[:-100])
    averaged.await_looks(6)
    assert averaged.reloads == 0
    weights.rename(saving / "model.safetensors")
    averaged.await_reloads(1)


def test_a_checkpoint_of_training_that_goes_is_noticed(averaged: Watched) -> None:
    shutil.rmtree(averaged.root / "run" / "checkpoint-900")
    averaged.await_reloads(1)


def test_a_checkpoint_before_those_that_are_averaged_changes_nothing(averaged: Watched) -> None:
    shutil.rmtree(averaged.root / "run" / "checkpoint-100")
    saved(averaged.root, 200)
    averaged.await_looks(6)
    assert averaged.reloads == 0


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_every_change_is_read_once(watched: Watched, change: Callable[[Path], object]) -> None:
    assert watched.reloads == 0
    change(watched.root)
    watched.await_reloads(1)


def test_what_changed_before_the_first_look_is_read(tmp_path: Path, watched: Watched) -> None:
    changes = Changes(load_settings())
    (tmp_path / "recipes" / "first.yaml").unlink()
    assert changes.changed(changes.look()) == [tmp_path / "recipes" / "first.yaml"]


def test_files_that_are_no_recipes_change_nothing(watched: Watched) -> None:
    (watched.root / "recipes" / "notes.md").write_text("no recipe")
    (watched.root / "recipes" / ".first.yaml.swp").write_text("an editor's")
    (watched.root / "recipes" / "_draft.yaml").write_text(RECIPE)
    watched.await_looks(6)
    assert watched.reloads == 0


def test_a_file_that_is_half_written_is_waited_for(watched: Watched) -> None:
    file = watched.root / "recipes" / "second.yaml"
    for length in (0, 20, len(RECIPE) - 4):
        file.write_text(RECIPE[:length])
        watched.await_looks(4)
        assert watched.reloads == 0
    file.write_text(RECIPE)
    watched.await_reloads(1)


def test_a_file_that_stays_wrong_is_shown_as_broken(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading, "UNREADABLE_SECONDS", 0.1)
    (watched.root / "recipes" / "second.yaml").write_text("merge_method: lin")
    watched.await_reloads(1)


def test_changes_that_do_not_end_are_read_all_the_same(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(reloading, "LONGEST_SECONDS", 1.0)
    deadline, number = time.monotonic() + PATIENCE, 0
    while not watched.reloads:
        assert time.monotonic() < deadline
        number += 1
        (watched.root / "recipes" / "second.yaml").write_text(f"{RECIPE}description: edit {number}\n")
        time.sleep(0.01)


def test_wrong_settings_leave_what_was_read_until_they_are_right(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloading, "UNREADABLE_SECONDS", 0.1)
    (watched.root / "merge-assets.toml").write_text("default_suites = [")
    watched.await_looks(12)
    assert watched.reloads == 0
    (watched.root / "merge-assets.toml").write_text("default_suites = []\n")
    watched.await_reloads(1)


def test_a_server_that_does_not_answer_is_told_again(watched: Watched) -> None:
    watched.failing = 3
    (watched.root / "recipes" / "second.yaml").write_text(RECIPE)
    watched.await_reloads(1)
    assert watched.failing == 0
