"""Each kind of place that a store can lie in, as a fixture: what holds of a store holds on all of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pytest

from merge_assets.store import ArtifactStore
from merge_assets.store.names import STORE
from tests import needs
from tests.shelf import BOARDS


@dataclass
class Lot:
    """Where a store lies, with access to its bytes that does not go through the store."""

    root: str
    options: dict[str, Any]
    scratch: Path

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.root, self.options, scratch=self.scratch)

    def _at(self, path: str) -> tuple[Any, str]:
        fs, root = fsspec.core.url_to_fs(self.root, skip_instance_cache=True, **self.options)
        return fs, f"{root}/{path}"

    def read(self, path: str) -> bytes:
        fs, at = self._at(path)
        return bytes(fs.cat_file(at))

    def write(self, path: str, data: bytes) -> None:
        fs, at = self._at(path)
        fs.makedirs(at.rpartition("/")[0], exist_ok=True)
        fs.pipe_file(at, data)

    def remove(self, path: str) -> None:
        fs, at = self._at(path)
        fs.rm_file(at)

    def files(self) -> set[str]:
        """All files but what says the store's format."""
        return {name for name in self._files() if "/.drafts/" not in f"/{name}"} - {STORE}

    def _files(self) -> set[str]:
        fs, at = self._at("")
        top = at.rstrip("/")
        return {name[len(top) + 1 :] for name in fs.find(top)}


class ShelfLot(Lot):
    """The place that only tests have."""

    def read(self, path: str) -> bytes:
        return BOARDS[self.root].files[path][0]

    def write(self, path: str, data: bytes) -> None:
        BOARDS[self.root].put(path, data)

    def remove(self, path: str) -> None:
        del BOARDS[self.root].files[path]

    def _files(self) -> set[str]:
        return set(BOARDS[self.root].files)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    server = needs.module("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["local", "memory", "shelf", pytest.param("s3", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Lot:
    unique = uuid.uuid4().hex
    scratch = tmp_path / "scratch"
    match request.param:
        case "local":
            return Lot(str(tmp_path / "store"), {}, scratch)
        case "memory":
            return Lot(f"memory://{unique}/store", {}, scratch)
        case "shelf":
            return ShelfLot(f"shelf://{unique}", {}, scratch)
    boto3 = needs.module("boto3")
    endpoint = request.getfixturevalue("s3_endpoint")
    options = {
        "key": "an-access-key",
        "secret": "a-secret-key",
        "client_kwargs": {"endpoint_url": endpoint, "region_name": "us-east-1"},
    }
    boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
    ).create_bucket(Bucket=unique)
    return Lot(f"s3://{unique}/some/prefix", options, scratch)
