"""How long importing `definitions` takes with 1000 generated recipes, and whether it stays free of heavy packages.

    python benchmarks/definitions_load.py [RECIPES]

The target is 3 s, neither torch nor transformers imported.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

TARGET_SECONDS = 3.0
PROGRAM = """
import sys, time
started = time.perf_counter()
import definitions
loaded = time.perf_counter() - started
specs = definitions.defs.resolve_all_asset_specs()
resolved = time.perf_counter() - started
heavy = [name for name in ("torch", "transformers") if name in sys.modules]
print(f"{loaded:.2f} {resolved:.2f} {len(specs)} {','.join(heavy) or 'none'}")
"""
RECIPE = """\
merge_method: slerp
base_model: checkpoints/base-{first}
models: [{{model: checkpoints/base-{first}}}, {{model: {second}}}]
parameters:
  t: [{{filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}}, {{filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}}, {{value: 0.5}}]
dtype: bfloat16
"""
SUITE = "tasks: [{task: arc_easy, metric: acc}]\n"


def write_project(root: Path, recipes: int) -> None:
    """A project of ``recipes`` recipes; every tenth is made of its predecessor's variant."""
    for folder in ("recipes", "suites"):
        (root / folder).mkdir(parents=True)
    (root / "merge-assets.toml").write_text("")
    (root / "suites" / "demo.yaml").write_text(SUITE)
    for number in range(20):
        (root / "checkpoints" / f"base-{number}").mkdir(parents=True)
    for number in range(recipes):
        second = f"recipe-{number - 1:05}" if number % 10 == 9 else f"checkpoints/base-{(number + 7) % 20}"
        (root / "recipes" / f"recipe-{number:05}.yaml").write_text(RECIPE.format(first=number % 20, second=second))


def main() -> int:
    """Write a project, import its definitions three times, and compare the best time with the target."""
    recipes = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        began = time.perf_counter()
        write_project(root, recipes)
        print(f"{recipes} recipes written in {time.perf_counter() - began:.1f} s")
        best = TARGET_SECONDS * 1000
        for attempt in range(3):
            done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=root, capture_output=True, text=True, check=True)
            loaded, resolved, assets, heavy = done.stdout.split()
            print(
                f"run {attempt + 1}: import {loaded} s, resolved {resolved} s, {assets} assets, heavy imports: {heavy}"
            )
            best = min(best, float(loaded))
            if heavy != "none":
                return 1
    print(f"best {best:.2f} s, target {TARGET_SECONDS:.0f} s")
    return int(best > TARGET_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
