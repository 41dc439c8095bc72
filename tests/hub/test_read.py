"""A Hub model is pinned, fingerprinted and opened without its weights, and exactly as its download would be."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from merge_assets.checkpoint import digest_checkpoint, open_checkpoint
from merge_assets.errors import CheckpointError, HubError
from merge_assets.hub import Hub
from merge_assets.reference import ModelReference
from tests.checkpoint_support import LLAMA_CONFIG, tensor_file, write_files
from tests.hub_server import HubServer
from tests.hub_support import REFERENCE, REPO, folder_files, hub, model, server

__all__ = ["hub", "model", "server"]


def test_branches_tags_and_commits_name_a_commit(hub: Hub, server: HubServer) -> None:
    first = server.repositories[REPO].names["main"]
    server.tag(REPO, "v1", first)
    second = server.commit(REPO, {"README.md": b"more"})
    other = server.commit(REPO, {"config.json": b"{}"}, branch="trial")
    expected = {None: second, "main": second, "v1": first, first: first, "trial": other}
    assert {name: hub.resolve(ModelReference(REPO, name)).commit for name in expected} == expected


def test_files_have_their_sizes_and_digests(hub: Hub, model: Path) -> None:
    revision = hub.resolve(REFERENCE)
    content = folder_files(model)
    assert {name: file.size for name, file in revision.files.items()} == {n: len(c) for n, c in content.items()}
    for name, file in revision.files.items():
        if name.endswith(".safetensors"):
            assert file.sha256 == hashlib.sha256(content[name]).hexdigest()


def test_the_fingerprint_is_that_of_the_download(hub: Hub, model: Path) -> None:
    revision = hub.resolve(REFERENCE)
    fingerprint = hub.fingerprint(revision)
    assert fingerprint == digest_checkpoint(open_checkpoint(model)).fingerprint
    assert fingerprint == digest_checkpoint(open_checkpoint(hub.download(revision))).fingerprint


def test_fingerprinting_downloads_no_weights(hub: Hub, server: HubServer) -> None:
    hub.fingerprint(hub.resolve(REFERENCE))
    assert server.sent(".safetensors") == 0


def test_only_weights_config_and_tokenizer_change_the_fingerprint(hub: Hub, server: HubServer, model: Path) -> None:
    before = hub.fingerprint(hub.resolve(REFERENCE))
    server.commit(REPO, {"README.md": b"# New words", "figure.png": b"png", "training_args.bin": None})
    assert hub.fingerprint(hub.resolve(REFERENCE)) == before
    shard = sorted(model.glob("*.safetensors"))[0]
    weights = shard.read_bytes()
    seen = {before}
    for name, content in {
        "tokenizer.json": b"{}",
        "config.json": b'{"num_hidden_layers": 40}',
        shard.name: weights[:-1] + bytes([weights[-1] ^ 1]),
    }.items():
        server.commit(REPO, {name: content})
        seen.add(hub.fingerprint(hub.resolve(REFERENCE)))
    assert len(seen) == 4


def test_headers_are_read_without_the_weights(hub: Hub, server: HubServer, model: Path) -> None:
    remote, local = hub.open(REFERENCE), open_checkpoint(model)
    assert remote.tensors == local.tensors
    assert remote.config == local.config
    assert remote.files == local.files
    assert remote.stacks == local.stacks
    assert remote.location == f"hf://{hub.resolve(REFERENCE)}"
    assert 0 < server.sent(".safetensors") < 0.05 * local.nbytes


def test_a_header_longer_than_the_first_read(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    many = tensor_file({f"model.layers.{layer}.weight": ("F32", [64], 256) for layer in range(1000)})
    directory = write_files(tmp_path / "m", {"config.json": LLAMA_CONFIG, "model.safetensors": many})
    server.commit("acme/many", folder_files(directory))
    assert hub.open(ModelReference("acme/many")).tensors == open_checkpoint(directory).tensors
    header = int.from_bytes(many[:8], "little") + 8
    assert header > 32 * 1024
    assert server.sent(".safetensors") == header


def test_a_commit_is_opened_once(hub: Hub, server: HubServer) -> None:
    revision = hub.resolve(REFERENCE)
    opened = hub.open(revision)
    before = len(server.served)
    assert hub.open(revision) is opened
    assert len(server.served) == before


def test_headers_of_a_downloaded_model_need_no_network(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    revision = hub.resolve(REFERENCE)
    hub.download(revision)
    before = len(server.served)
    again = Hub(server.url, cache_dir=tmp_path / "hub-cache")
    assert again.open(revision).tensors
    assert again.fingerprint(revision)
    assert len(server.served) == before


def test_a_commit_that_is_no_checkpoint(hub: Hub, server: HubServer) -> None:
    commit = server.commit("acme/pickled", {"config.json": b"{}", "pytorch_model.bin": b"\x80"})
    revision = hub.resolve(ModelReference("acme/pickled"))
    for verb in (hub.open, hub.fingerprint, hub.download):
        with pytest.raises(CheckpointError, match=f"hf://acme/pickled@{commit}/pytorch_model.bin: pickled weights"):
            verb(revision)


def test_a_hub_without_ranges_is_not_asked_for_whole_shards(hub: Hub, server: HubServer) -> None:
    server.ignore_ranges = True
    with pytest.raises(HubError, match=r"sends model-00001.* whole instead of a range"):
        hub.open(REFERENCE)


def test_importing_the_room_does_not_import_the_client() -> None:
    code = "import sys, merge_assets.hub; print({'huggingface_hub', 'httpx2', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
