"""What it costs to hash what is read: the same merges with `verify_inputs` full, stat and off, taking turns.

    python -m benchmarks.verification [--rounds 5] [--layers 22]
    python -m benchmarks.verification --bucket      # whole builds of the linear merge into the S3 gateway of the tests

Inputs are digested before, and warm. Printed is the fastest of the rounds of each, and its ratio to `off`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path

from benchmarks.checkpoints import write_family
from benchmarks.measure import warm
from benchmarks.works import WORKS, recipe_text
from merge_assets import api
from merge_assets.checkpoint import CheckpointDigest, digest_checkpoint, open_checkpoint
from merge_assets.engine.execute import execute
from merge_assets.engine.files import InputFiles
from merge_assets.engine.witness import VerifyInputs
from merge_assets.filestate import FileState
from merge_assets.plan import Plan, PlanInput, build_plan
from merge_assets.recipe import load_recipe
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from tests.s3.rgw import Rgw

WANTED = ("linear", "ties", "stack")
MODES: tuple[VerifyInputs, ...] = ("off", "stat", "full")


def main() -> None:
    """Time all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--bucket", action="store_true", help="whole builds of the linear merge, into a bucket")
    options = parser.parse_args()
    folder = Path(".bench").resolve()
    models = write_family(folder, options.layers)
    if options.bucket:
        _into_a_bucket(folder, models, options.layers, options.rounds)
        return
    known: dict[str, CheckpointDigest] = {}
    for work in WORKS:
        if work.name not in WANTED:
            continue
        recipe = folder / "recipes" / f"verification-{work.name}.yaml"
        recipe.parent.mkdir(exist_ok=True)
        recipe.write_text(recipe_text(work.body, models, options.layers))
        plan, states = _planned(recipe, known)
        best: dict[str, float] = {}
        for _ in range(options.rounds):
            for mode in MODES:
                warm(work.inputs(models))
                out = folder / "out"
                shutil.rmtree(out, ignore_errors=True)
                os.sync()
                out.mkdir()
                began = time.perf_counter()
                execute(plan, out, device="cpu", inputs=InputFiles(states), verify=mode)
                best[mode] = min(best.get(mode, 1e9), time.perf_counter() - began)
        figures = ", ".join(f"{mode} {best[mode]:.2f} s ({best[mode] / best['off']:.2f}x)" for mode in MODES)
        print(f"{work.name}: {figures}", flush=True)


def _into_a_bucket(folder: Path, models: dict[str, Path], layers: int, rounds: int) -> None:
    """Time whole builds, with the checks of the variant; the inputs are digested before."""
    (work,) = (one for one in WORKS if one.name == "linear")
    recipes = folder / "bucket-recipes"
    recipes.mkdir(exist_ok=True)
    (recipes / "linear.yaml").write_text(recipe_text(work.body, models, layers))
    best: dict[str, float] = {}
    with Rgw() as gateway:
        bucket = gateway.bucket("verification")
        for number in range(rounds):
            for mode in MODES:
                settings = Settings(
                    root=folder,
                    recipes=[Path("bucket-recipes")],
                    store=f"s3://{bucket}/{number}-{mode}",
                    store_options=gateway.options(),
                    cache_dir=folder / "bucket-cache",
                    verify_inputs=mode,
                )
                space = api.Workspace.open(settings)
                for path in models.values():
                    api.observe(space, ModelReference(str(path)))
                warm(work.inputs(models))
                os.sync()
                began = time.perf_counter()
                api.build(space, space.recipe("linear"))
                best[mode] = min(best.get(mode, 1e9), time.perf_counter() - began)
    figures = ", ".join(f"{mode} {best[mode]:.2f} s ({best[mode] / best['off']:.2f}x)" for mode in MODES)
    print(f"linear into a bucket: {figures}", flush=True)


def _planned(recipe: Path, known: dict[str, CheckpointDigest]) -> tuple[Plan, dict[str, FileState]]:
    loaded = load_recipe(recipe)
    inputs: list[PlanInput] = []
    states: dict[str, FileState] = {}
    for reference in loaded.references():
        checkpoint = open_checkpoint(Path(reference.path))
        if reference.path not in known:
            known[reference.path] = digest_checkpoint(checkpoint)
        digest = known[reference.path]
        inputs.append(PlanInput(reference, checkpoint, digest.fingerprint, digest.tensors, digest.files))
        states |= {str(Path(reference.path, name)): state for name, state in digest.states.items()}
    return build_plan(loaded, inputs), states


if __name__ == "__main__":
    main()
