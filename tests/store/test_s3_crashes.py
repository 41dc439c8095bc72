"""Contract of builds that are killed or race: each goes on where it was, and nobody ever sees half a version.

Processes are really killed, at steps of builds into a local store and into a bucket, while a reader polls.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import wait
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from merge_assets import api
from merge_assets.errors import Stopped
from merge_assets.store import ArtifactStore, sent
from merge_assets.store.names import STORE
from merge_assets.store.sending import SentBuilding
from merge_assets.work import Work
from tests.faults.build_steps import CONTEXT, Scenario, write_project
from tests.faults.build_steps import run as run_steps
from tests.s3.builds import MEAN, build, project, workspace
from tests.s3.rgw import Rgw
from tests.store import test_building as pieces

MOST = 6
"""Kills of one build before it may finish."""


def run(root: Path, store: str, options: Mapping[str, Any], name: str, cache: Path | None, answers: Any = None) -> None:
    """The body of a process that builds."""
    # Loading transformers would take nearly all of the time.
    sys.modules["merge_assets.api.build"].check_variant = lambda *_, **__: []  # type: ignore[attr-defined]
    more = {"cache_dir": cache} if cache else {}
    built = build(workspace(root, store, options, **more), name)
    if answers is not None:
        answers.put((built.artifact.version, built.reused))


def edition(root: Path, number: int) -> str:
    """A recipe that no one has built."""
    name = f"edition-{number}"
    (root / "recipes" / f"{name}.yaml").write_text(
        "merge_method: ties\nbase_model: a\nmodels: [{model: b}, {model: a}, {model: b}]\n"
        f"parameters: {{density: 0.5, weight: {number + 1}}}\n"
    )
    return name


class Reader(threading.Thread):
    """Polls a store; every version that it sees has to be complete, byte for byte."""

    def __init__(self, store: ArtifactStore) -> None:
        super().__init__(daemon=True)
        self._store = store
        self._done = threading.Event()
        self.seen: dict[str, str] = {}
        self.problems: list[str] = []
        self._lock = threading.Lock()

    def run(self) -> None:
        while not self._done.wait(0.02):
            self.poll()

    def poll(self) -> None:
        with self._lock:
            for line in self._store.lines("variants"):
                for artifact in self._store.versions(line):
                    if artifact.url not in self.seen:
                        self.seen[artifact.url] = artifact.version
                        self.problems += self._store.verify(artifact)

    @contextmanager
    def polling(self) -> Iterator[None]:
        self.start()
        try:
            yield
        finally:
            self._done.set()
            self.join()


@pytest.mark.slow
@pytest.mark.parametrize("most", [6, pytest.param(50, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("where", ["local", pytest.param("bucket", marks=pytest.mark.server)])
def test_builds_killed_over_and_over_go_on_and_give_the_bytes_of_one_that_was_not(
    where: str, most: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Killed at steps drawn by lot, several times before they may finish, while a reader verifies every version."""
    root, log = write_project(tmp_path / "p"), tmp_path / "log"
    place, clean = Scenario(root), Scenario(root, number=1)
    if where == "bucket":
        server: Rgw = request.getfixturevalue("rgw")
        place = Scenario(root, request.getfixturevalue("bucket"), server.options())
    steps = len(run_steps(place, edition(root, 0), log).steps)
    dice = random.Random(7)
    reader = Reader(ArtifactStore(place.store, place.options, scratch=tmp_path / "reader"))
    kills = number = 0
    with reader.polling():
        while kills < most:
            number += 1
            name = edition(root, number)
            for _ in range(MOST):
                life = run_steps(place, name, log, dice.randint(1, steps))
                kills += life.killed
                reader.poll()
                if not life.killed:
                    break
            version = life.version or run_steps(place, name, log).version
            assert run_steps(clean, name, log).version == version
    reader.poll()
    assert reader.problems == []
    assert len(reader.seen) == number + 1
    assert [path.name for path in place.drafts.iterdir()] == [".lock"]


def test_eight_builders_of_one_variant_all_succeed(tmp_path: Path, rgw: Rgw, bucket: str) -> None:
    root = project(tmp_path / "p", mean=MEAN)
    store, options, answers = f"s3://{bucket}", rgw.options(), CONTEXT.Queue()
    processes = [
        CONTEXT.Process(target=run, args=(root, store, options, "mean", tmp_path / f"cache{n % 4}", answers))
        for n in range(8)
    ]
    for process in processes:
        process.start()
    versions = {answers.get(timeout=120)[0] for _ in processes}
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    assert versions == {build(workspace(root), "mean").artifact.version}
    space = workspace(root, store, options)
    assert [artifact.version for artifact in space.store.versions("variants/mean")] == list(versions)
    current = space.store.current("variants/mean")
    assert current is not None and space.store.verify(current) == []
    client = rgw.client()
    assert client.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
    objects = rgw.keys(bucket)
    assert {key.split("/")[3] for key in objects if "/builds/" in key} == {current.manifest.build}


def test_a_build_without_its_machine_is_gone_on_with_elsewhere(
    tmp_path: Path, rgw: Rgw, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the bucket is left of the first one: as after an eviction to a machine with an empty disk."""
    root = project(tmp_path / "p", mean=MEAN)
    first = workspace(root, f"s3://{bucket}", rgw.options(), cache_dir=tmp_path / "one")
    landed: list[int] = []

    def count(done: int, total: int, label: str) -> None:
        landed.append(done)

    with pytest.raises(Stopped):
        api.build(first, first.recipe("mean"), work=Work(count, lambda: len(landed) > 150))
    second = workspace(root, f"s3://{bucket}", rgw.options(), cache_dir=tmp_path / "two")
    monkeypatch.setattr(sent, "DEAD", timedelta(seconds=-1))
    built = build(second, "mean")
    assert built.report.tensors_resumed > 0
    assert built.artifact.version == build(workspace(root), "mean").artifact.version
    assert second.store.verify(built.artifact) == []


def test_two_builders_that_go_on_with_one_build_leave_one_whole_version(
    tmp_path: Path, rgw: Rgw, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each took the first builder for dead; both send the same parts into the same folder."""
    one, two = (ArtifactStore(f"s3://{bucket}", rgw.options(), scratch=tmp_path / name) for name in ("one", "two"))
    pieces.interrupt(one, pieces.FILE, "one")
    monkeypatch.setattr(sent, "DEAD", timedelta(seconds=-1))
    with one.build(pieces.LINE, pieces.KEY) as first, two.build(pieces.LINE, pieces.KEY) as second:
        for draft in (first, second):
            draft.building.add([pieces.FILE], {})
            pieces.fill(draft, pieces.FILE, *({"one", "two", "three"} - draft.building.finished))
            assert isinstance(draft.building, SentBuilding)
            wait(draft.building._futures)
        assert first.building.sent.build == second.building.sent.build  # type: ignore[attr-defined]
        assert pieces.commit(first).manifest == pieces.commit(second).manifest
    (artifact,) = two.versions(pieces.LINE)
    assert two.verify(artifact) == []


def test_what_an_earlier_attempt_sent_and_this_one_has_not_is_removed(tmp_path: Path, rgw: Rgw, bucket: str) -> None:
    store = ArtifactStore(f"s3://{bucket}", rgw.options(), scratch=tmp_path)
    pieces.interrupt(store, pieces.FILE, "one")
    client = rgw.client()
    (progress,) = rgw.keys(bucket) - {STORE}
    client.put_object(Bucket=bucket, Key=progress.replace("progress.json", "vocab.txt"), Body=b"old")
    with store.build(pieces.LINE, pieces.KEY) as draft:
        draft.building.add([pieces.FILE], {})
        pieces.fill(draft, pieces.FILE, *({"one", "two", "three"} - draft.building.finished))
        artifact = pieces.commit(draft)
    assert store.verify(artifact) == []
    assert {key for key in store.place.sizes(pieces.LINE) if "/" in key and "builds" in key} == {
        f"builds/{artifact.manifest.build}/{name}" for name in artifact.manifest.files
    }
