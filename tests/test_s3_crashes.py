"""Contract of builds that are killed or race: each goes on where it was, and nobody ever sees half a version.

Processes are really killed, at random moments of builds into a local store and into a bucket, while a reader polls.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from merge_assets import api
from merge_assets.store import ArtifactStore
from tests.s3.builds import MEAN, build, project, workspace
from tests.s3.rgw import Rgw

MOST = 6
"""Kills of one build before it may finish."""

KILLS = int(os.environ.get("MERGE_ASSETS_KILLS", "15"))
"""Kills for each kind of store; 50 are run by hand before a release."""

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["merge_assets.api", "tests.s3.builds", "s3fs"])


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
        self.polls = 0

    def run(self) -> None:
        while not self._done.wait(0.02):
            self.poll()

    def poll(self) -> None:
        self.polls += 1
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
@pytest.mark.parametrize("where", ["local", "bucket"])
def test_killed_builds_go_on_and_give_the_bytes_of_one_that_was_not(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = project(tmp_path / "p", mean=MEAN)
    store, options = str(tmp_path / "store"), {}
    if where == "bucket":
        server: Rgw = request.getfixturevalue("rgw")
        store, options = f"s3://{request.getfixturevalue('bucket')}", server.options()
    dice = random.Random(7)
    reader = Reader(ArtifactStore(store, options, scratch=tmp_path / "reader"))
    kills, number, longest = 0, 0, 0.0
    with reader.polling():
        while kills < KILLS:
            name = edition(root, number)
            number += 1
            for attempt in range(MOST + 1):
                answers = CONTEXT.Queue()
                process = CONTEXT.Process(target=run, args=(root, store, options, name, None, answers))
                began = time.monotonic()
                process.start()
                process.join(dice.uniform(0.1, longest) if attempt < MOST and number > 2 else None)
                if process.is_alive():
                    process.kill()
                    process.join()
                    kills += 1
                    continue
                assert process.exitcode == 0
                if number == 2:  # the first one waits for the modules to be loaded
                    longest = time.monotonic() - began
                version = answers.get()[0]
                break
            clean = CONTEXT.Queue()
            process = CONTEXT.Process(target=run, args=(root, str(tmp_path / "clean"), {}, name, None, clean))
            process.start()
            assert clean.get()[0] == version
    reader.poll()
    assert reader.problems == []
    assert len(reader.seen) == number
    assert reader.polls > kills


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
    objects = [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]]
    assert {key.split("/")[3] for key in objects if "/builds/" in key} == {current.manifest.build}


def test_a_build_without_its_machine_is_gone_on_with_elsewhere(
    tmp_path: Path, rgw: Rgw, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the bucket is left of the first one: as after an eviction to a machine with an empty disk."""
    from datetime import timedelta

    from merge_assets.errors import Stopped
    from merge_assets.store import s3_progress

    root = project(tmp_path / "p", mean=MEAN)
    first = workspace(root, f"s3://{bucket}", rgw.options(), cache_dir=tmp_path / "one")
    landed: list[int] = []

    def stop_late(done: int, total: int, label: str) -> None:
        landed.append(done)

    with pytest.raises(Stopped):
        api.build(first, first.recipe("mean"), progress=stop_late, should_stop=lambda: len(landed) > 150)
    second = workspace(root, f"s3://{bucket}", rgw.options(), cache_dir=tmp_path / "two")
    monkeypatch.setattr(s3_progress, "DEAD", timedelta(seconds=-1))
    built = build(second, "mean")
    assert built.report["tensors_resumed"] > 0
    assert built.artifact.version == build(workspace(root), "mean").artifact.version
    assert second.store.verify(built.artifact) == []
