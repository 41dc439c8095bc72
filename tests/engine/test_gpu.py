"""The torch path of the engine against the C path: the same bytes.

Without a CUDA device the torch path runs on the CPU: that checks its arithmetic, not its streams and pinned memory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from merge_assets.engine import execute as executor
from merge_assets.engine import gpu
from merge_assets.engine.masks import random_words
from merge_assets.engine.memory import Room
from merge_assets.engine.torch_sparsify import sparsify
from merge_assets.methods.formula import Bernoulli, RankedBernoulli, mask_key
from tests.engine.test_fused import TREES, checkpoints, merged
from tests.engine.test_properties import CASES
from tests.merging import merged_tensors
from tests.philox import philox
from tests.synthetic import llama_config, write_checkpoint

__all__ = ["checkpoints"]

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """bfloat16 checkpoints of which no tile divides a tensor, and in which magnitudes repeat."""
    root, made = tmp_path_factory.mktemp("family"), {}
    generator = torch.Generator().manual_seed(0)
    shapes = {"model.norm.weight": (37,), "matrix": (61, 53), "wide": (3, 1999)}
    base = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for name in ("base", "a", "b", "c"):
        moved = {
            k: v if name == "base" else v + 0.1 * torch.randn(v.shape, generator=generator) for k, v in base.items()
        }
        made[name] = write_checkpoint(
            root / name, {k: v.bfloat16() for k, v in moved.items()}, llama_config(0, vocabulary=7)
        )
    return made


def use_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every execution compute in torch, in small tiles."""
    room = Room(1 << 18, 0, 1000)
    monkeypatch.setattr(executor, "_worker", lambda shared, _device, _room: gpu.GpuWorker(shared, DEVICE, room))


def same_bytes(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_both_paths_agree(
    case: str, dtype: str, family: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = CASES[case].recipe(family, dtype)
    expected = merged_tensors(text, tmp_path)
    use_torch(monkeypatch)
    found = merged_tensors(text, tmp_path)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert same_bytes(found[name], tensor), name


@pytest.mark.parametrize("tree", TREES)
def test_both_paths_agree_on_folded_recipes(
    tree: str, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = merged(checkpoints, tmp_path / "c", TREES[tree])
    use_torch(monkeypatch)
    found = merged(checkpoints, tmp_path / "torch", TREES[tree])
    for name, tensor in expected.items():
        assert same_bytes(found[name], tensor), name


@pytest.mark.parametrize("start", [0, 1, 5, 4 * (1 << 32) + 2])
def test_random_words_are_philox(start: int) -> None:
    key = mask_key(3, "some.weight", 1)
    blocks = np.arange(start // 4, start // 4 + 7, dtype=np.uint64)
    counters = np.zeros((7, 4), dtype=np.uint32)
    counters[:, 0], counters[:, 1] = blocks & np.uint64(0xFFFFFFFF), blocks >> np.uint64(32)
    expected = philox(counters, key).ravel()[start % 4 :][:21]
    assert (random_words(key, start, 21, DEVICE).cpu().numpy() == expected).all()


@pytest.mark.parametrize("which", [Bernoulli((1, 2), 0.3), RankedBernoulli((1, 2), 0.4, 0.2)], ids=["all", "ranked"])
def test_masks_do_not_depend_on_tiles(which: Bernoulli | RankedBernoulli) -> None:
    d = torch.randn(30 * 64, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    whole = sparsify(which, d, d, 0, 64)
    parts = [sparsify(which, d[s : s + 640], d[s : s + 640], s, 64) for s in range(0, d.numel(), 640)]
    assert torch.equal(whole, torch.cat(parts))
    assert 0 < int((whole == 0).sum()) < d.numel()
