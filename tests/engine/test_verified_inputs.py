"""What is merged is what the plan says: every byte of an input is hashed in the sweep that reads it, and compared."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from merge_assets.checkpoint import CheckpointDigest, digest_checkpoint, open_checkpoint
from merge_assets.engine.execute import execute
from merge_assets.engine.files import InputFiles
from merge_assets.engine.witness import VerifyInputs
from merge_assets.errors import InputError
from merge_assets.filestate import FileState
from merge_assets.plan import Plan, PlanInput, build_plan
from merge_assets.recipe import load_recipe
from tests.block_digest import block_digest
from tests.execution_support import Watcher, copied, mean, run_into, scaled, slerp, write_models
from tests.synthetic import read_tensors

SIZES = {"small": 1000, "exact": 1 << 18, "large": (5 << 20) + 77}
"""Elements of float32: part of a block, one block, and one with several jobs and a block that is not full."""

TIES = "merge_method: ties\nmodels: [{{model: {}, parameters: {{weight: 1, density: 0.5}}}}]\nbase_model: {}\n"


def ties(one: Path, other: Path) -> str:
    return TIES.format(other, one)


def shared_twice(one: Path, other: Path) -> str:
    """The same tensor stands in two places of one expression."""
    models = f"[{{model: {one}}}, {{model: {other}}}, {{model: {one}}}]"
    return f"merge_method: linear\nmodels: {models}\nparameters: {{weight: 1}}\n"


Recipe = Callable[[Path, Path], str]
RECIPES: dict[str, Recipe] = {
    "linear": lambda one, other: mean([one, other]),
    "slerp": slerp,
    "ties": ties,
    "scaled": lambda one, _: scaled(one),
    "copied": lambda one, _: copied(one),
    "twice": shared_twice,
}


class Digested:
    """Two models, digested, and the plan of a recipe on them."""

    def __init__(self, root: Path, recipe: str) -> None:
        self.folders = write_models(root, "ab", SIZES)
        (root / "r.yaml").write_text(RECIPES[recipe](*self.folders))
        loaded = load_recipe(root / "r.yaml")
        self.digests: dict[str, CheckpointDigest] = {}
        inputs = []
        for reference in loaded.references():
            checkpoint = open_checkpoint(Path(reference.path))
            digest = self.digests[reference.path] = digest_checkpoint(checkpoint)
            inputs.append(PlanInput(reference, checkpoint, digest.fingerprint, digest.tensors, digest.files))
        self.plan: Plan = build_plan(loaded, inputs)

    @property
    def states(self) -> dict[str, FileState]:
        return {str(Path(f, name)): state for f, d in self.digests.items() for name, state in d.states.items()}


def spoil(file: Path, offset: int) -> None:
    """Flip a bit; size and time of modification stay as they were."""
    before = file.stat()
    with file.open("r+b") as opened:
        opened.seek(offset)
        byte = opened.read(1)[0]
        opened.seek(offset)
        opened.write(bytes([byte ^ 1]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("recipe", RECIPES)
def test_untouched_inputs_are_merged_and_the_digest_of_what_was_written_is_told(recipe: str, tmp_path: Path) -> None:
    landing = Watcher()
    run_into(Digested(tmp_path, recipe).plan, tmp_path, landing)
    written = {name: block_digest(t.numpy().tobytes()) for name, t in read_tensors(tmp_path / "out").items()}
    assert landing.digests == written


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_bit_that_flipped_after_the_digest_is_noticed(recipe: str, name: str, tmp_path: Path) -> None:
    digested = Digested(tmp_path, recipe)
    item = next(t for t in digested.plan.tensors if t.name == name).inputs[0]
    file = Path(digested.plan.models[item.model].location, item.header.file)
    spoil(file, item.header.end - 3)
    landing = Watcher()
    with pytest.raises(InputError, match=rf"{file}: tensor '{name}' is not what it was when it was digested"):
        run_into(digested.plan, tmp_path, landing)
    assert name not in landing.digests


@pytest.mark.parametrize("recipe", RECIPES)
def test_without_a_look_the_bit_is_merged(recipe: str, tmp_path: Path) -> None:
    """What the other tests compare with: the flipped bit changes the output."""
    digested = Digested(tmp_path, recipe)
    run_into(digested.plan, tmp_path, before := Watcher())
    item = next(t for t in digested.plan.tensors if t.name == "large").inputs[0]
    spoil(Path(digested.plan.models[item.model].location, item.header.file), item.header.begin + 3)
    (tmp_path / "again").mkdir()
    run_into(digested.plan, tmp_path / "again", after := Watcher(), verify="off")
    assert {n for n in SIZES if before.digests[n] != after.digests[n]} == {"large"}


class Changing(InputFiles):
    """A file that is changed when a sweep of a tensor is over, and restored after the next; its time of modification stays."""

    def __init__(self, file: Path, begin: int, end: int) -> None:
        super().__init__()
        self._file, self._begin, self._end = file, begin, end
        self.flips = 0

    def read_into(self, path: str, buffer: memoryview, offset: int) -> None:
        super().read_into(path, buffer, offset)
        if path == str(self._file) and offset + len(buffer) == self._end:
            spoil(self._file, self._begin)
            self.flips += 1


@pytest.mark.parametrize("verify", ["full", "stat"])
@pytest.mark.parametrize("recipe", ["slerp", "ties"])
def test_a_change_between_two_sweeps_that_is_undone_is_noticed(
    recipe: str, verify: VerifyInputs, tmp_path: Path
) -> None:
    digested = Digested(tmp_path, recipe)
    item = next(t for t in digested.plan.tensors if t.name == "large").inputs[0]
    file = Path(digested.plan.models[item.model].location, item.header.file)
    inputs = Changing(file, item.header.begin, item.header.end)
    inputs._digested = digested.states
    original = file.read_bytes()
    with pytest.raises(InputError, match=rf"{file}: changed while it was read"):
        run_into(digested.plan, tmp_path, Watcher(), inputs=inputs, memory=10_000_000, verify=verify)
    assert inputs.flips >= 2
    if inputs.flips % 2 == 0:
        assert file.read_bytes() == original, "nothing can be seen of it afterwards"


def test_a_file_in_the_state_of_its_digest_is_trusted_where_that_is_asked_for(tmp_path: Path) -> None:
    """``stat`` believes the state: a wrong digest is not noticed; without the state, or in another, it is."""
    digested = Digested(tmp_path, "linear")
    wrong = [
        replace(t, inputs=tuple(replace(i, digest=block_digest(b"others")) for i in t.inputs))
        for t in digested.plan.tensors
    ]
    plan = replace(digested.plan, tensors=tuple(wrong))
    run_into(plan, tmp_path, Watcher(), inputs=InputFiles(digested.states), verify="stat")
    for number, states in enumerate(({}, {path: replace(s, changed=1) for path, s in digested.states.items()})):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(InputError, match="is not what it was when it was digested"):
            run_into(plan, folder, Watcher(), inputs=InputFiles(states), verify="stat")


def test_one_more_name_of_a_file_is_no_change(tmp_path: Path) -> None:
    """Versions of the store share files, and a link may come while one is read."""
    digested = Digested(tmp_path, "slerp")

    class Linking(InputFiles):
        def read_into(self, path: str, buffer: memoryview, offset: int) -> None:
            super().read_into(path, buffer, offset)
            if not Path(f"{path}.other").exists():
                os.link(path, f"{path}.other")

    run_into(digested.plan, tmp_path, Watcher(), inputs=Linking(), memory=10_000_000)
    assert len(list(tmp_path.rglob("*.other"))) == 2


def test_threads_and_tiles_do_not_matter(tmp_path: Path) -> None:
    """Blocks are put together whatever way the tensor is cut."""
    digested = Digested(tmp_path, "linear")
    found = []
    for number, (threads, tile) in enumerate([(1, 1 << 18), (4, 3000), (8, 1 << 20)]):
        folder = tmp_path / str(number)
        (folder / "out").mkdir(parents=True)
        execute(digested.plan, folder / "out", device="cpu", threads=threads, tile=tile)
        found.append(read_tensors(folder / "out"))
    for name in SIZES:
        assert all(torch.equal(found[0][name], other[name]) for other in found[1:])
