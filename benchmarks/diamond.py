"""How long a diamond of recipes takes that were never built: to plan it, and to load its definitions.

    python -m benchmarks.diamond [LEVELS]

Each level is made of both recipes of the level below, so that as many ways lead to the bottom as 2 to the number of levels. The
models have the headers of a TinyLlama and no weights. The target is 2 s for a plan of 12 levels and for the definitions.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.checkpoints import LAYERS, config, shapes

TARGET_SECONDS = 2.0
ROUNDS = 3
RECIPE = """\
merge_method: slerp
base_model: {one}
models: [{{model: {one}}}, {{model: {two}}}]
parameters: {{t: {t}}}
dtype: bfloat16
evaluate: []
"""
DEFINITIONS = "import definitions; definitions.defs.resolve_all_asset_specs()"


def write_project(root: Path, levels: int, layers: int = LAYERS) -> None:
    """A diamond of ``levels`` levels with one recipe on its top."""
    (root / "recipes").mkdir(parents=True)
    (root / "merge-assets.toml").write_text("")
    below = ("one", "two")
    for model in below:
        _write_headers(root / model, layers)
    for level in range(levels):
        pair = (f"left-{level:02}", f"right-{level:02}")
        for name, t in zip(pair, (0.25, 0.75), strict=True):
            _write_recipe(root, name, below, t)
        below = pair
    _write_recipe(root, "top", below, 0.5)


def _write_recipe(root: Path, name: str, models: Sequence[str], t: float) -> None:
    text = RECIPE.format(one=models[0], two=models[1], t=t)
    (root / "recipes" / f"{name}.yaml").write_text(text)


def _write_headers(folder: Path, layers: int) -> None:
    folder.mkdir()
    header, end = {}, 0
    for name, shape in shapes(layers):
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    weights = folder / "model.safetensors"
    weights.write_bytes(len(raw).to_bytes(8, "little") + raw)
    os.truncate(weights, 8 + len(raw) + end)
    (folder / "config.json").write_text(json.dumps(config(layers)))


def _seconds(root: Path, *arguments: str) -> float:
    """The median of some runs of Python, each in a process of its own."""
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=root, capture_output=True, check=True)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def main() -> int:
    """Write the project, time both, and compare them with the target."""
    levels = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_project(root, levels)
        plan = _seconds(root, "-m", "merge_assets", "plan", "top")
        definitions = _seconds(root, "-c", DEFINITIONS)
    print(
        f"{2 * levels + 1} recipes in {levels} levels, {2**levels:,} ways from top to bottom, median of {ROUNDS} processes"
    )
    print(f"plan {plan:.2f} s, definitions {definitions:.2f} s, target {TARGET_SECONDS:.0f} s")
    return int(max(plan, definitions) > TARGET_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
