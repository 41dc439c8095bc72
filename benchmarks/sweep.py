"""What twenty values of one parameter take: as points that share files, and each built by itself into an empty store.

    python -m benchmarks.sweep [--layers 22] [--points 20]

Slerp of two models of TinyLlama's shape, swept over `t` of the attention. Both ways build candidates, without the checks of a
variant, and take turns. Bytes are those that are on the disk afterwards; tensors are compared by their digests.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from benchmarks.checkpoints import write_family
from merge_assets import api
from merge_assets.api.candidates import Candidates
from merge_assets.plan import Together
from merge_assets.recipe import Recipe
from merge_assets.settings import Settings
from merge_assets.store import Artifact

RECIPE = """\
merge_method: slerp
models: [{{model: {one}}}, {{model: {two}}}]
base_model: {one}
parameters: {{t: [{{filter: self_attn, value: 0.5}}, {{value: 0.5}}]}}
sweep: {{"parameters.t[0].value": {{low: 0.05, high: 1, count: {points}}}}}
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--points", type=int, default=20)
    options = parser.parse_args()
    root = Path(".bench").resolve()
    models = write_family(root, options.layers)
    shutil.rmtree(root / "sweep", ignore_errors=True)
    (root / "sweep/recipes").mkdir(parents=True)
    text = RECIPE.format(one=models["one"], two=models["two"], points=options.points)
    (root / "sweep/recipes/attention.yaml").write_text(text)
    shared, alone = (
        api.Workspace.open(Settings(root=root / "sweep", cache_dir=root / "sweep" / name))
        for name in ("shared", "alone")
    )
    points = shared.book.sweeps["attention"]
    seconds = {"shared": 0.0, "alone": 0.0}
    disk = {"shared": 0, "alone": 0}
    kept, together = Candidates(shared), Together(shared.book.beside(points[0]))
    for number, point in enumerate(points):
        one, took = _built(kept, point, together, f"searches/sweep/{number}")
        seconds["shared"] += took
        candidates = Candidates(alone)
        other, took = _built(candidates, point, Together(), "searches/sweep/0")
        seconds["alone"] += took
        disk["alone"] += _on_disk(root / "sweep/alone/candidates")
        if _digests(one) != _digests(other):
            raise SystemExit(f"{point.name}: the tensors differ")
        shutil.rmtree(root / "sweep/alone/candidates")
    disk["shared"] = _on_disk(root / "sweep/shared/candidates")
    print(f"{len(points)} points, all tensors equal to those of the point by itself")
    print("| way | bytes on the disk | time of merging |")
    print("|---|--:|--:|")
    for name in ("alone", "shared"):
        print(
            f"| {name} | {disk[name] / 1e9:.2f} GB ({disk[name] / disk['alone']:.1%}) | "
            f"{seconds[name]:.1f} s ({seconds[name] / seconds['alone']:.1%}) |"
        )
    shutil.rmtree(root / "sweep")


def _built(candidates: Candidates, point: Recipe, together: Together, line: str) -> tuple[Artifact, float]:
    started = time.perf_counter()
    made = candidates.build(point, candidates.plan(point, together), line)
    return made, time.perf_counter() - started


def _digests(artifact: Artifact) -> dict[str, str]:
    return {
        piece.name: piece.digest for file in artifact.manifest.files.values() for piece in file.pieces if piece.name
    }


def _on_disk(folder: Path) -> int:
    found = {file.stat().st_ino: file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file()}
    return sum(found.values())


if __name__ == "__main__":
    main()
