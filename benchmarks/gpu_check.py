"""Ten minutes on a machine with a GPU: does the engine give the CPU's bytes there, keep its bounds, and how fast is it?

    python -m benchmarks.gpu_check              # writes what it found into docs/gpu.md; ends with 1 if a check failed
    python -m benchmarks.gpu_check --dry-run    # small, with torch on the CPU in place of the GPU; writes nothing

Everything is made in a temporary folder: put TMPDIR on a fast disk or in memory (20 GB), so that no slow disk is measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from merge_assets.checkpoint import open_checkpoint
from merge_assets.engine import execute as executor
from merge_assets.engine import gpu
from merge_assets.engine.files import InputFiles
from merge_assets.engine.memory import GPU_TILE, TILE, Room
from merge_assets.errors import EngineError
from merge_assets.methods.registry import built_in_methods
from merge_assets.plan import Plan, PlanInput, build_plan
from merge_assets.recipe import load_recipe

PAGE = Path("docs/gpu.md")
_BLOCK = re.compile(r"(<!-- generated: gpu -->\n).*?(<!-- end of generated -->)", re.DOTALL)

DTYPES = ("bfloat16", "float16", "float32")
WEIGHT, THIN = {"weight": 0.5}, {"weight": 0.5, "density": 0.4}


@dataclass(frozen=True)
class Merge:
    """A merge of a base and models called a, b and c.

    Attributes:
        models: names.
        base: whether there is a base.
        parameters: for all models alike.
    """

    models: str = "ab"
    base: bool = True
    parameters: Mapping[str, float | bool] = field(default_factory=dict)

    def plan(self, method: str, root: Path, dtype: str) -> Plan:
        recipe: dict[str, Any] = {"merge_method": method, "dtype": dtype, "parameters": dict(self.parameters)}
        recipe["models"] = [{"model": str(root / name)} for name in self.models]
        if self.base:
            recipe["base_model"] = str(root / "base")
        file = root / f"{method}-{time.monotonic_ns()}.yaml"
        file.write_text(yaml.safe_dump(recipe))
        loaded = load_recipe(file)
        inputs = [PlanInput(reference, open_checkpoint(Path(reference.path))) for reference in loaded.references()]
        return build_plan(loaded, inputs)


MERGES: dict[str, Merge] = {
    "passthrough": Merge("a", False, {"scale": 0.5}),
    "linear": Merge("abc", False, WEIGHT),
    "slerp": Merge("a", True, {"t": 0.3}),
    "nuslerp": Merge("ab", True, WEIGHT | {"nuslerp_flatten": False}),
    "multislerp": Merge("abc", True, WEIGHT),
    "karcher": Merge("abc", False),
    "model_stock": Merge("abc", True, {"filter_wise": True}),
    "nearswap": Merge("a", True, {"t": 0.001}),
    "arcee_fusion": Merge("a"),
    "task_arithmetic": Merge("ab", True, WEIGHT | {"normalize": True}),
    **{
        name: Merge("abc", True, THIN)
        for name in ("ties", "breadcrumbs", "breadcrumbs_ties", "dare_linear", "dare_ties")
    },
    **{name: Merge("abc", True, THIN) for name in ("della", "della_linear")},
    "sce": Merge("abc", True, {"select_topk": 0.3}),
    "ram": Merge("abc"),
    "ramplus_tl": Merge("abc"),
}


class Late(InputFiles):
    """Reads that take different times, so that staging memory that is filled too early shows as other bytes."""

    def read_into(self, path: str, buffer: memoryview, offset: int) -> None:
        time.sleep(random.random() * 0.002)
        super().read_into(path, buffer, offset)


class Check:
    """What is found, and how much of it is wrong."""

    def __init__(self, root: Path, *, dry: bool) -> None:
        self.root = root
        self.dry = dry
        self.failed = 0
        self.lines: list[str] = []
        self.devices = ["cpu"] if dry else [f"cuda:{number}" for number in range(torch.cuda.device_count())]

    def say(self, text: str) -> None:
        print(text, flush=True)
        self.lines.append(text)

    def expect(self, good: bool, text: str) -> None:
        self.failed += not good
        self.say(f"- {'right' if good else '**WRONG**'}: {text}")

    def run(
        self, plan: Plan, where: str, threads: int, *, tile: int | None = None, late: bool = False
    ) -> tuple[float, str]:
        """Seconds, and the digest of the variant's weights; ``where`` is ``C`` or ``gpu``."""
        usual = executor._worker
        if self.dry and where == "gpu":
            room = Room(TILE, 0, tile or GPU_TILE)
            executor._worker = lambda shared, _device, _room: gpu.GpuWorker(shared, torch.device("cpu"), room)
        device = "cpu" if self.dry or where == "C" else "cuda"
        try:
            with tempfile.TemporaryDirectory(dir=self.root) as out:
                began = time.perf_counter()
                executor.execute(
                    plan, Path(out), device=device, threads=threads, tile=tile, inputs=Late() if late else None
                )
                seconds = time.perf_counter() - began
                found = hashlib.sha256()
                for shard in plan.shards:
                    with Path(out, shard.file).open("rb") as file:
                        found.update(hashlib.file_digest(file, "sha256").digest())
                return seconds, found.hexdigest()
        finally:
            executor._worker = usual


def write_models(root: Path, dtype: str, shapes: Mapping[str, Sequence[int]]) -> Path:
    """A base and three models near it."""
    folder = root / f"{dtype}-{len(shapes)}-{next(iter(shapes.values()))[0]}"
    for place, name in enumerate(("base", "a", "b", "c")):
        tensors = {}
        for number, (tensor, shape) in enumerate(shapes.items()):
            same = torch.randn(*shape, generator=torch.Generator().manual_seed(number)) * 0.02
            own = torch.randn(*shape, generator=torch.Generator().manual_seed(1000 * place + number + 1)) * 0.002
            tensors[tensor] = (same + own * (place > 0)).to(getattr(torch, dtype))
        (folder / name).mkdir(parents=True)
        save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})
        config = {"architectures": ["X"], "model_type": "llama", "num_hidden_layers": 0, "vocab_size": 7}
        (folder / name / "config.json").write_text(json.dumps(config))
    return folder


def equality(check: Check) -> None:
    """All methods against C, in three dtypes; then reads that come late, again and again."""
    check.say("\n## The bytes of the CPU\n")
    shapes = {"matrix": (97, 1024), "flat": (1031,)} if check.dry else {"matrix": (1499, 1024), "flat": (1031,)}
    for dtype in DTYPES:
        models = write_models(check.root, dtype, shapes)
        differ = []
        for method, merge in MERGES.items():
            plan = merge.plan(method, models, dtype)
            _, expected = check.run(plan, "C", 2)
            runs = [(1, None), (8, 100_003)]
            if any(check.run(plan, "gpu", threads, tile=tile)[1] != expected for threads, tile in runs):
                differ.append(method)
        check.expect(
            not differ, f"{len(MERGES)} methods in {dtype}, one and eight workers: {', '.join(differ) or 'equal'}"
        )
    plan = MERGES["ties"].plan("ties", models, "float32")
    expected = check.run(plan, "C", 2)[1]
    rounds = 2 if check.dry else 20
    late = sum(check.run(plan, "gpu", 16, tile=20_011, late=True)[1] != expected for _ in range(rounds))
    check.expect(not late, f"ties in float32, {rounds} times with reads that are late at random: {late} differ")


def link(check: Check) -> None:
    """How fast bytes come to each GPU and back."""
    check.say("\n## The link\n")
    if check.dry:
        check.say("- not measured: there is no GPU")
        return
    for device in check.devices:
        here = torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True)
        there = here.to(device)
        for way, to, source in (("to", there, here), ("from", here, there)):
            to.copy_(source, non_blocking=True)
            torch.cuda.synchronize(device)
            began = time.perf_counter()
            for _ in range(5):
                to.copy_(source, non_blocking=True)
            torch.cuda.synchronize(device)
            check.say(f"- {way} {device}: {5 * 1.0737 / (time.perf_counter() - began):.1f} GB/s, pinned")


def large_shapes(*, dry: bool) -> dict[str, tuple[int, int]]:
    """Tensors of a model of 2.9 GB in bfloat16."""
    rows, width, layers = (256, 256, 1) if dry else (32768, 4096, 6)
    found = {"embed": (rows, width)}
    for layer in range(layers):
        found |= {f"{layer}.{name}": (width, width) for name in "qkvo"}
        found |= {
            f"{layer}.up": (3 * width, width),
            f"{layer}.gate": (3 * width, width),
            f"{layer}.down": (width, 3 * width),
        }
    return found


def speed(check: Check) -> Path:
    """C beside one, four and all workers on GPUs; the models that were merged."""
    check.say("\n## Speed\n\nBytes read and written over the time of the engine, bfloat16, no start-up.\n")
    models = write_models(check.root, "bfloat16", large_shapes(dry=check.dry))
    cores = len(os.sched_getaffinity(0))
    columns = [("C", cores), ("gpu", 1), ("gpu", 4), ("gpu", cores)]
    check.say(
        "| method | " + " | ".join(f"{where}, {workers} workers" for where, workers in columns) + " | GPU memory |"
    )
    check.say("|---|" + "--:|" * (len(columns) + 1))
    for method in ("linear", "slerp", "ties", "della", "arcee_fusion"):
        plan = MERGES[method].plan(method, models, "bfloat16")
        moved = (plan.bytes_to_read + plan.bytes_to_write) / 1e9
        cells, digests, peak = [], set(), 0
        for where, workers in columns:
            for device in () if check.dry else check.devices:
                torch.cuda.reset_peak_memory_stats(device)
            seconds, digest = check.run(plan, where, workers)
            digests.add(digest)
            cells.append(f"{seconds:.2f} s, {moved / seconds:.2f} GB/s")
            if not check.dry and where == "gpu":
                peak = max(peak, *(torch.cuda.max_memory_allocated(device) for device in check.devices))
        check.say(f"| {method} | " + " | ".join(cells) + f" | {f'{peak / 1e9:.2f} GB' if peak else '–'} |")
        check.failed += len(digests) != 1
        if len(digests) != 1:
            check.say(f"| **WRONG**: {method} differs |")
    return models


def small_card(check: Check, models: Path) -> None:
    """The same bytes where torch is given less and less of the GPU, down to nothing."""
    check.say("\n## A small card\n")
    plan = MERGES["della"].plan("della", models, "bfloat16")
    expected = check.run(plan, "C", 2)[1]
    if check.dry:
        check.say("- not tried: there is no GPU")
        return
    for share in (0.02, 0.005, 0.0005):
        torch.cuda.empty_cache()
        for device in check.devices:
            torch.cuda.set_per_process_memory_fraction(share, device)
        try:
            seconds, digest = check.run(plan, "gpu", 16)
            check.expect(digest == expected, f"della, 16 workers, {share:.2%} of the memory: {seconds:.2f} s")
        except EngineError as error:
            check.expect(False, f"della, 16 workers, {share:.2%} of the memory: {error}")
    for device in check.devices:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def machine(check: Check) -> Iterator[str]:
    """What it is measured on."""
    yield f"torch {torch.__version__}, {len(os.sched_getaffinity(0))} CPU cores"
    for device in () if check.dry else check.devices:
        yield f"{device}: {torch.cuda.get_device_name(device)}, {torch.cuda.mem_get_info(device)[1] / 1e9:.0f} GB"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 if a check failed, 2 if there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dry-run", action="store_true", help="small, torch on the CPU in place of a GPU; writes nothing"
    )
    chosen = parser.parse_args(arguments)
    if not chosen.dry_run and not torch.cuda.is_available():
        print("torch sees no GPU here; --dry-run tries the script without one", file=sys.stderr)
        return 2
    assert MERGES.keys() == built_in_methods().keys(), "a method is missing in MERGES"
    with tempfile.TemporaryDirectory() as folder:
        check = Check(Path(folder), dry=chosen.dry_run)
        check.say(f"{time.strftime('%Y-%m-%d')}: {'; '.join(machine(check))}")
        steps: list[Callable[[Check], object]] = [equality, link]
        for step in steps:
            step(check)
        small_card(check, speed(check))
    check.say(f"\n{check.failed} checks failed.")
    if not check.dry:
        found = "\n".join(check.lines) + "\n"
        PAGE.write_text(_BLOCK.sub(lambda match: match[1] + found + match[2], PAGE.read_text()))
    return int(check.failed > 0)


if __name__ == "__main__":
    sys.exit(main())
