"""Plans over vectors, and what sees what their execution asks for and tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from merge_assets.engine.execute import BuildReport, execute
from merge_assets.engine.files import InputFiles, OutputFile
from merge_assets.plan import OutputTensor, Plan
from tests.synthetic import write_checkpoint

CONFIG = {"architectures": ["X"], "model_type": "llama", "num_hidden_layers": 0, "vocab_size": 4}


def write_model(folder: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    return write_checkpoint(folder, tensors, CONFIG)


def write_models(root: Path, names: str, sizes: Mapping[str, int], dtype: torch.dtype = torch.float32) -> list[Path]:
    """Models that have vectors of these sizes."""
    generator = torch.Generator().manual_seed(0)
    return [
        write_model(root / name, {n: torch.randn(s, generator=generator).to(dtype) for n, s in sizes.items()})
        for name in names
    ]


def mean(folders: Sequence[Path]) -> str:
    models = ", ".join(f"{{model: {folder}}}" for folder in folders)
    return f"merge_method: linear\nmodels: [{models}]\nparameters: {{weight: 1}}\n"


def slerp(one: Path, other: Path) -> str:
    return f"merge_method: slerp\nmodels: [{{model: {other}}}]\nbase_model: {one}\nparameters: {{t: 0.5}}\n"


def scaled(folder: Path, scale: float = 2) -> str:
    return f"merge_method: passthrough\nmodels: [{{model: {folder}, parameters: {{scale: {scale}}}}}]\n"


def copied(folder: Path) -> str:
    return f"merge_method: passthrough\nmodels: [{{model: {folder}}}]\n"


def run(plan: Plan, tmp_path: Path, **options: Any) -> BuildReport:
    (tmp_path / "out").mkdir()
    settings: dict[str, Any] = {"device": "cpu", "threads": 1} | options
    return execute(plan, tmp_path / "out", **settings)


class Watched(InputFiles):
    """Input files that remember what was asked of them.

    Attributes:
        reads: bytes of every read.
        expected: names of the tensors that were announced, in order.
        released: names of the tensors whose inputs were said to be needed no longer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[int] = []
        self.expected: list[str] = []
        self.released: list[str] = []

    def read_into(self, path: str, buffer: memoryview, offset: int) -> None:
        self.reads.append(len(buffer))
        super().read_into(path, buffer, offset)

    def expect(self, plan: Plan, tensors: Sequence[OutputTensor]) -> None:
        self.expected += [tensor.name for tensor in tensors]

    def release(self, tensor: OutputTensor) -> None:
        self.released.append(tensor.name)


class Watcher:
    """A landing that remembers what it was told.

    Attributes:
        tensors: names and flaws, in order.
        digests: of what was written, by name.
    """

    def __init__(self, *, durable: bool = False, finished: Sequence[str] = (), flaws: Mapping[str, int] = {}) -> None:
        self.durable = durable
        self.finished = frozenset(finished)
        self.flaws = flaws
        self.tensors: list[tuple[str, int]] = []
        self.digests: dict[str, str | None] = {}

    def landed(self, name: str, flaws: int, digest: str | None = None) -> None:
        self.tensors.append((name, flaws))
        self.digests[name] = digest


def run_into(plan: Plan, tmp_path: Path, landing: Watcher, **options: Any) -> BuildReport:
    """Into shards that are there already."""
    (tmp_path / "out").mkdir()
    for shard in plan.shards:
        OutputFile(tmp_path / "out" / shard.file, shard).finish()
    return execute(plan, tmp_path / "out", device="cpu", threads=1, landing=landing, **options)
