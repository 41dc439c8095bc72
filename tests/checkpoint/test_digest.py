"""Digests are those of the bytes, the fingerprint follows weights, config and tokenizer only, and unchanged files
are not read again."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from safetensors import safe_open

from merge_assets.checkpoint import digest, digest_checkpoint, fingerprint_of, open_checkpoint
from merge_assets.errors import CheckpointError, Stopped
from merge_assets.work import Work
from tests.block_digest import block_digest
from tests.checkpoint_support import save_llama, sharded, tensor_file, write_files


def fingerprint(directory: Path) -> str:
    return digest_checkpoint(open_checkpoint(directory)).fingerprint


def test_digests_of_a_real_checkpoint(tmp_path: Path) -> None:
    save_llama(tmp_path)
    found = digest_checkpoint(open_checkpoint(tmp_path))
    for path in tmp_path.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                assert found.tensors[name] == block_digest(file.get_tensor(name).tobytes())
    expected = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()}
    assert found.files == expected
    canonical = json.dumps(expected, sort_keys=True, separators=(",", ":"))
    assert found.fingerprint == fingerprint_of(expected) == hashlib.sha256(canonical.encode()).hexdigest()


@pytest.mark.parametrize("block", [1, 7, 64, 10_000])
def test_tensors_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Tensors that begin and end anywhere in a block, empty ones included."""
    entries = {"a": ("U8", [5], 5), "none": ("F32", [0], 0), "b": ("F16", [40], 80), "c": ("U8", [], 1)}
    write_files(tmp_path, {"config.json": {}, "model.safetensors": tensor_file(entries)})
    checkpoint = open_checkpoint(tmp_path)
    raw = (tmp_path / "model.safetensors").read_bytes()
    monkeypatch.setattr(digest, "BLOCK", block)
    assert digest_checkpoint(checkpoint).tensors == {
        name: block_digest(raw[tensor.begin : tensor.end]) for name, tensor in checkpoint.tensors.items()
    }


def test_the_fingerprint_follows_what_the_model_computes_with(tmp_path: Path) -> None:
    before = fingerprint(sharded(tmp_path))
    for name in ("README.md", ".gitattributes", "other.txt", "trainer_state.json"):
        write_files(tmp_path, {name: b"words"})
        assert fingerprint(tmp_path) == before, name
    seen = {before}
    for name in ("tokenizer.json", "generation_config.json", "chat_template.jinja", "config.json"):
        write_files(tmp_path, {name: {"num_hidden_layers": 2, "own": name}})
        seen.add(fingerprint(tmp_path))
    weights = bytearray((tmp_path / "b.safetensors").read_bytes())
    weights[-1] ^= 1
    write_files(tmp_path, {"b.safetensors": bytes(weights)})
    seen.add(fingerprint(tmp_path))
    assert len(seen) == 6, "every change gives another fingerprint"


def test_the_place_and_the_time_of_a_checkpoint_do_not_matter(tmp_path: Path) -> None:
    sharded(tmp_path / "a")
    sharded(tmp_path / "b")
    os.utime(tmp_path / "b" / "config.json", (1, 1))
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")


def test_unchanged_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, cache = sharded(tmp_path / "m"), tmp_path / "cache"
    first = digest_checkpoint(open_checkpoint(directory), cache)
    weights = bytearray((directory / "a.safetensors").read_bytes())
    weights[-1] ^= 1
    write_files(directory, {"a.safetensors": bytes(weights)})
    os.utime(directory / "a.safetensors", ns=(0, 0))
    checkpoint = open_checkpoint(directory)
    read: list[str] = []
    hash_file = digest._hash_file

    def counted(path: Path, *rest: object) -> list[str]:
        read.append(path.name)
        return hash_file(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(digest, "_hash_file", counted)
    second = digest_checkpoint(checkpoint, cache)
    assert read == ["a.safetensors"]
    assert second == digest_checkpoint(checkpoint)
    assert second.tensors["x"] != first.tensors["x"]
    assert second.tensors["y"] == first.tensors["y"]


@pytest.mark.parametrize("damage", [b"", b"[1", b'["a"]', b"{}", b"\xff"])
def test_a_damaged_cache_entry_is_replaced(tmp_path: Path, damage: bytes) -> None:
    checkpoint, cache = open_checkpoint(sharded(tmp_path / "m")), tmp_path / "cache"
    expected = digest_checkpoint(checkpoint, cache)
    entries = list((cache / "digests").iterdir())
    assert len(entries) == 4
    for entry in entries:
        entry.write_bytes(damage)
    assert digest_checkpoint(checkpoint, cache) == expected
    assert all(entry.read_bytes() != damage for entry in entries)


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(sharded(tmp_path / "m"))
    (tmp_path / "cache").write_bytes(b"a file, not a folder")
    assert digest_checkpoint(checkpoint, tmp_path / "cache") == digest_checkpoint(checkpoint)


def test_stopping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work ends at the first block for which it is to stop, and keeps nothing of that file."""
    checkpoint, cache = open_checkpoint(sharded(tmp_path / "m")), tmp_path / "cache"
    monkeypatch.setattr(digest, "BLOCK", 10)
    answers = iter([False] * 3 + [True])
    with pytest.raises(Stopped):
        digest_checkpoint(checkpoint, cache, Work(should_stop=lambda: next(answers)))
    assert next(answers, None) is None, "asked once after every block and no more"
    assert not cache.exists()


def test_a_file_that_changed_since_opening_is_an_error(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(sharded(tmp_path))
    write_files(tmp_path, {"a.safetensors": b"shorter"})
    with pytest.raises(CheckpointError, match=r"a.safetensors: changed since the checkpoint was opened"):
        digest_checkpoint(checkpoint)


def test_a_file_that_vanished_is_an_error(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(sharded(tmp_path))
    (tmp_path / "a.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"a.safetensors: cannot be read"):
        digest_checkpoint(checkpoint)


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(sharded(tmp_path / "m"))
    shard = tmp_path / "m" / "a.safetensors"

    def written_meanwhile() -> bool:
        os.utime(shard, ns=(0, shard.stat().st_mtime_ns + 1))
        return False

    with pytest.raises(CheckpointError, match=r"a.safetensors: changed since the checkpoint was opened"):
        digest_checkpoint(checkpoint, tmp_path / "cache", Work(should_stop=written_meanwhile))
    assert not (tmp_path / "cache").exists()
