"""The bytes of every method and dtype, as they were when NUMERICS_VERSION was raised last: on any machine, with any number of
threads and any tile, in C and in torch.

The inputs come from a counter (Philox) and sums of its words, which are exact, so that they are the same everywhere.
``python -m tests.engine.test_golden`` writes golden.json anew; whoever changes a digest there raises NUMERICS_VERSION.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from merge_assets.engine import execute as executor
from merge_assets.engine import gpu
from merge_assets.engine.memory import Room
from merge_assets.plan import NUMERICS_VERSION
from tests.engine.test_properties import CASES
from tests.merging import merge_text
from tests.philox import words
from tests.synthetic import llama_config, read_tensors, write_checkpoint

FILE = Path(__file__).with_name("golden.json")
DTYPES = ("bfloat16", "float16", "float32", "float64")
SHAPES = {"long": (302, 871), "tall": (601, 3), "wide": (3, 1999), "flat": (1031,), "scalar": ()}
"""The first has more elements than one run of a statistic; no tile divides any."""

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def bell(model: str, tensor: str, count: int) -> np.ndarray:
    """Numbers about 0 that look normal: sums of four words of a counter, exact in float64."""
    parts = words(0, f"{model} {tensor}", 0, 4 * count).reshape(count, 4).astype(np.float64)
    return (parts.sum(axis=1) - 2.0**33) * 2.0**-32


def write_family(root: Path, dtype: str) -> dict[str, Path]:
    """A base and three models close to it, in one dtype."""
    made = {}
    for model in ("base", "a", "b", "c"):
        tensors = {}
        for name, shape in SHAPES.items():
            count = int(np.prod(shape))
            values = bell("base", name, count)
            if model != "base":
                values = values + bell(model, name, count) * 0.0625
            tensors[name] = torch.from_numpy(values.reshape(shape)).float().to(getattr(torch, dtype))
        if dtype == "float64":  # with bits that a float32 has not
            tensors = {name: tensor + torch.full_like(tensor, 2.0**-40) for name, tensor in tensors.items()}
        made[model] = write_checkpoint(root / dtype / model, tensors, llama_config(0))
    return made


@pytest.fixture(scope="module", params=DTYPES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Path]]:
    """A dtype, and models in it."""
    return request.param, write_family(tmp_path_factory.mktemp("family"), request.param)


def digest(text: str, folder: Path, **options: object) -> str:
    """Of the bytes of all tensors, by name."""
    tensors = read_tensors(merge_text(text, folder, **options))
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode() + tensors[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def in_torch(patch: pytest.MonkeyPatch, tile: int) -> None:
    """Make executions compute in torch: on the GPU if there is one, else on the CPU, as a stand-in for it."""
    room = Room(1 << 18, 0, tile)
    patch.setattr(executor, "_worker", lambda shared, _device, _room: gpu.GpuWorker(shared, DEVICE, room))


@pytest.mark.parametrize("case", CASES)
def test_the_bytes_are_those_that_were_recorded(
    case: str, family: tuple[str, dict[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype, folders = family
    text = CASES[case].recipe(folders, dtype)
    found = {
        "C, one thread": digest(text, tmp_path, threads=1),
        "C, eight threads, small tiles": digest(text, tmp_path, threads=8, tile=30_011),
    }
    for tile in (40_009, 1 << 23):
        in_torch(monkeypatch, tile)
        found[f"torch, tiles of {tile}"] = digest(text, tmp_path, threads=2)
    assert found == dict.fromkeys(found, json.loads(FILE.read_text())["digests"][case][dtype])


def test_the_digests_are_of_this_version_and_of_all_methods() -> None:
    recorded = json.loads(FILE.read_text())
    assert (recorded["numerics"], set(recorded["digests"])) == (NUMERICS_VERSION, set(CASES))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        families = {dtype: write_family(root, dtype) for dtype in DTYPES}
        digests = {
            case: {dtype: digest(CASES[case].recipe(families[dtype], dtype), root, threads=1) for dtype in DTYPES}
            for case in CASES
        }
    FILE.write_text(json.dumps({"numerics": NUMERICS_VERSION, "digests": digests}, indent=1) + "\n")


if __name__ == "__main__":
    main()
