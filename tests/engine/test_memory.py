"""The engine keeps to its bound: what a merge takes above the idle process does not exceed `memory`, whatever the model.

The merges run in a process that has merged something small before, so that code and libraries are there; before each, the
kernel's mark of the largest resident size is set back. Nothing depends on time or on what else the machine does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.method_support import Case
from tests.synthetic import llama_config, write_checkpoint

MEMORY = 16_000_000
"""Bound of the buffers, bytes."""

SLACK = 8_000_000
"""What is no buffer: threads, Python's own objects, a chunk of a copy; bytes."""

ELEMENTS = (4096, 3072)
"""Of the large tensor: 25 MB in bfloat16, so that two inputs are three times the bound."""

RESETTABLE = Path("/proc/self/clear_refs")

pytestmark = pytest.mark.skipif(not RESETTABLE.exists(), reason="the peak is read from Linux's /proc")

CHILD = """
import json, sys
from pathlib import Path
from merge_assets.checkpoint import open_checkpoint
from merge_assets.engine.execute import execute
from merge_assets.plan import PlanInput, build_plan
from merge_assets.recipe import load_recipe

def plan(file):
    recipe = load_recipe(file)
    return build_plan(recipe, [PlanInput(r, open_checkpoint(Path(r.path))) for r in recipe.references()])

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024

out, memory, *recipes = sys.argv[1:]
found = {}
for number, recipe in enumerate(recipes):
    made = plan(recipe)
    folder = Path(out, str(number))
    folder.mkdir()
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    execute(made, folder, device="cpu", threads=2, memory=int(memory), tile=1 << 24)  # tiles as large as the bound lets them
    found[Path(recipe).stem] = {"taken": peak() - before, "inputs": sum(i.header.nbytes for i in made.tensors[0].inputs)}
print(json.dumps(found))
"""

CASES = {
    "linear": Case("linear", "abc", per_model={"weight": [1, 2, 3]}),  # tiles alone
    "slerp": Case("slerp", "ab", base="a", whole={"t": 0.5}),  # one statistic: inputs are kept where they fit
    "ties": Case("ties", "abc", base="a", per_model={"weight": [1, 1], "density": [0.5, 0.5]}),  # three statistics
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    """By merge: bytes above the idle process, and bytes of the inputs."""
    root = tmp_path_factory.mktemp("memory")
    files: dict[str, list[str]] = {}
    for size, shape in (("small", (64, 64)), ("large", ELEMENTS)):
        folders = {}
        for seed, name in enumerate("abc"):
            weights = torch.empty(shape, dtype=torch.bfloat16).normal_(generator=torch.Generator().manual_seed(seed))
            folders[name] = write_checkpoint(root / size / name, {"model.w.weight": weights}, llama_config(0))
        for name, case in CASES.items():
            file = root / size / f"{name}.yaml"
            file.write_text(case.recipe(folders, "bfloat16"))
            files.setdefault(size, []).append(str(file))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(root), str(MEMORY), *files["small"], *files["large"]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, int]] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_merge_takes_no_more_than_the_bound(case: str, measured: dict[str, dict[str, int]]) -> None:
    assert measured[case]["inputs"] > 3 * MEMORY
    assert measured[case]["taken"] <= MEMORY + SLACK
