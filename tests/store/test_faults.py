"""A remote store whose file system fails: errors that pass are outlived, wrong bytes never published or read.

The file system is in memory and made here; the faults are drawn from a seeded generator.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pydantic import SecretStr

from merge_assets.errors import StoreError
from merge_assets.store import ArtifactStore
from tests.store_support import FILES, LINE, commit

SECRET = "wJalrXUtnFEMI-K7MDENG"


class Faulty(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A memory file system with a plan of faults: ``(operation, path) -> exception, "cut", "flip" or None``."""

    protocol = "memory"
    cachable = False
    plan: ClassVar[Callable[[str, str], object]]
    calls: ClassVar[list[tuple[str, str]]] = []

    def _fault(self, operation: str, path: str) -> object:
        self.calls.append((operation, path))
        fault = type(self).plan(operation, path)
        if isinstance(fault, Exception):
            raise fault
        return fault

    def put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        fault = self._fault("put", rpath)
        super().put_file(lpath, rpath, **kwargs)
        if fault == "cut":
            super().pipe_file(rpath, self.cat_file(rpath)[:-1])
        if fault == "lost answer":
            raise ConnectionResetError("the answer got lost")

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        fault = self._fault("pipe", path)
        super().pipe_file(path, value, mode=mode)
        if fault == "lost answer":
            raise ConnectionResetError("the answer got lost")

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> bytes:
        self._fault("cat", path)
        return bytes(super().cat_file(path, *args, **kwargs))

    def get_file(self, rpath: str, lpath: str, **kwargs: Any) -> None:
        fault = self._fault("get", rpath)
        data = super().cat_file(rpath)
        if fault == "cut":
            data = data[:-1]
        elif fault == "flip":
            data = bytes([data[0] ^ 1]) + data[1:]
        Path(lpath).write_bytes(data)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        self._fault("ls", path)
        return super().ls(path, detail=detail, **kwargs)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., ArtifactStore]]:
    """Make a store on the faulty file system with a plan of faults; retries do not wait."""
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    fsspec.register_implementation("memory", Faulty, clobber=True)
    root = f"memory://{uuid.uuid4().hex}"

    def make(plan: Callable[[str, str], object], **options: Any) -> ArtifactStore:
        monkeypatch.setattr(Faulty, "plan", staticmethod(plan), raising=False)
        monkeypatch.setattr(Faulty, "calls", [])
        return ArtifactStore(root, options, scratch=tmp_path / "scratch")

    yield make
    fsspec.register_implementation("memory", MemoryFileSystem, clobber=True)


def no_fault(operation: str, path: str) -> object:
    return None


@pytest.mark.parametrize("seed", range(12))
def test_errors_that_pass_are_outlived(faulty: Callable[..., ArtifactStore], tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)

    def plan(operation: str, path: str) -> object:
        fault = chance.choice([OSError("503 SlowDown"), TimeoutError(), ConnectionResetError(), "lost answer"])
        return fault if chance.random() < 0.2 else None

    store = faulty(plan)
    artifact = commit(store)
    folder = artifact.directory(tmp_path / "cache")

    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    assert store.find(LINE, "k1") == store.current(LINE) == artifact
    assert len(store.versions(LINE)) == 1 and store.lines("variants") == [LINE]


@pytest.mark.parametrize("target", ["claim.json", "manifest.json", "current.json", "model.safetensors"])
def test_a_lost_answer_to_a_write_does_not_matter(faulty: Callable[..., ArtifactStore], target: str) -> None:
    left = ["lost answer"]
    store = faulty(lambda operation, path: left.pop() if path.endswith(target) and left else None)

    artifact = commit(store)

    assert left == []
    assert artifact.manifest.folder == "", "a builder knows its own claim again"
    assert store.verify(artifact) == [] and store.current(LINE) == artifact


@pytest.mark.parametrize("target", ["claim.json", "manifest.json", "model.safetensors"])
@pytest.mark.parametrize("error", [OSError("500 InternalError"), PermissionError("403 Forbidden")])
def test_errors_that_stay_are_reported_and_publish_nothing(
    faulty: Callable[..., ArtifactStore], target: str, error: OSError
) -> None:
    store = faulty(lambda operation, path: error if operation in ("put", "pipe") and path.endswith(target) else None)

    with pytest.raises(StoreError, match=f"(?s){target}.*{error}") as caught:
        commit(store)
    assert caught.value.kind == ("store" if isinstance(error, PermissionError) else "store.unreachable")
    tries = [path for operation, path in Faulty.calls if operation in ("put", "pipe") and path.endswith(target)]
    assert len(tries) == (1 if isinstance(error, PermissionError) else 8)
    store = faulty(no_fault)
    assert store.versions(LINE) == []

    artifact = commit(store)
    assert store.verify(artifact) == []


def test_a_listing_that_fails_is_an_error_and_not_an_empty_store(faulty: Callable[..., ArtifactStore]) -> None:
    commit(faulty(no_fault))
    store = faulty(lambda operation, path: OSError("500") if operation in ("ls", "cat") else None)

    for call in (store.versions, store.current, lambda line: store.get(line, "f1"), lambda line: store.find(line, "k")):
        with pytest.raises(StoreError, match="500"):
            call(LINE)


def test_an_upload_that_arrives_short_is_not_published(faulty: Callable[..., ArtifactStore]) -> None:
    store = faulty(lambda operation, path: "cut" if operation == "put" and path.endswith(".safetensors") else None)

    with pytest.raises(StoreError, match=r"model\.safetensors: arrived wrong"):
        commit(store)
    assert store.versions(LINE) == []


@pytest.mark.parametrize("fault", ["cut", "flip"])
def test_a_download_that_arrives_wrong_is_fetched_again(
    faulty: Callable[..., ArtifactStore], tmp_path: Path, fault: str
) -> None:
    artifact = commit(faulty(no_fault))
    left = [fault]
    store = faulty(lambda operation, path: left.pop() if operation == "get" and "model" in path and left else None)
    artifact = store.versions(LINE)[0]

    folder = artifact.directory(tmp_path / "once")
    assert left == [] and (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]

    faulty(lambda operation, path: fault if operation == "get" and "model" in path else None)
    with pytest.raises(StoreError, match=r"model\.safetensors.*not those"):
        store.versions(LINE)[0].directory(tmp_path / "always")
    assert not list((tmp_path / "always").rglob("model*"))


def test_the_successor_of_a_dead_builder_does_not_touch_its_files(faulty: Callable[..., ArtifactStore]) -> None:
    """A late write of the dead builder must not change what the successor has published."""
    store = faulty(lambda operation, path: OSError("gone") if (operation, path[-9:]) == ("pipe", "fest.json") else None)
    with pytest.raises(StoreError):
        commit(store, files={"config.json": b"dead"})
    store = faulty(no_fault)
    artifact = commit(store, files={"config.json": b"alive"})

    MemoryFileSystem().pipe_file(f"{store.url}/{LINE}/f1/config.json", b"late")

    assert store.verify(artifact) == []
    assert artifact.read_bytes("config.json") == b"alive"
    assert artifact.url == f"{store.url}/{LINE}/f1/{artifact.manifest.folder}"


def test_secrets_never_show(faulty: Callable[..., ArtifactStore]) -> None:
    options = {"key": "AKIAIOSFODNN7", "secret": SecretStr(SECRET), "client_kwargs": {"token": SECRET[::-1]}}
    leak = f"denied for AKIAIOSFODNN7 with {SECRET} and {SECRET[::-1]}"
    store = faulty(lambda operation, path: PermissionError(leak) if operation == "put" else None, **options)

    with pytest.raises(StoreError, match="denied for") as caught:
        commit(store)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    artifact = commit(faulty(no_fault, **options))
    shown = [str(caught.value), repr(store), str(store), repr(artifact), store.url, artifact.url]
    for text in (*shown, artifact.manifest.encode().decode()):
        assert not any(secret in text for secret in ("AKIA", SECRET, SECRET[::-1]))


def test_credentials_in_the_url_never_show() -> None:
    store = ArtifactStore("memory://someone:hunter22@bucket/prefix")

    assert store.url == "memory://******@bucket/prefix"
    assert "hunter22" not in repr(store)


@pytest.mark.parametrize("root", ["nonsense://bucket", "s4://x/y"])
def test_an_unknown_protocol_is_a_clear_error(root: str) -> None:
    with pytest.raises(StoreError, match=root.split("://")[0]):
        ArtifactStore(root)
