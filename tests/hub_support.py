"""A Hub on loopback with one model on it, and folders of the cache to themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from merge_assets.hub import Hub
from merge_assets.reference import ModelReference
from tests.checkpoint_support import save_llama
from tests.hub_server import HubServer

REPO = "acme/base"
REFERENCE = ModelReference(REPO)


def folder_files(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sharded Llama of 1.5 MB with a tokenizer file and a model card."""
    directory = tmp_path_factory.mktemp("model")
    save_llama(directory, layers=40, shard_size="600KB")
    (directory / "tokenizer.json").write_text('{"version": "1.0"}')
    (directory / "README.md").write_text("# A model\n")
    (directory / "training_args.bin").write_bytes(b"pickled")
    return directory


@pytest.fixture
def server(model: Path) -> Iterator[HubServer]:
    with HubServer() as server:
        server.commit(REPO, folder_files(model))
        yield server


@pytest.fixture
def hub(server: HubServer, tmp_path: Path) -> Hub:
    return Hub(server.url, cache_dir=tmp_path / "hub-cache")
