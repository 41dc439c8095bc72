"""Contract: a tree of merges computed in one pass gives what merging stage by stage gives, with nothing rounded between.

The oracle is the staged merge whose stages are folders in float32: an expression inside another one is handed on in
float32, so the results agree bit for bit, whatever both methods are.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from merge_assets import api
from merge_assets.errors import EngineError
from merge_assets.settings import Settings
from merge_assets.work import Work
from tests.synthetic import llama_config, read_tensors, write_checkpoint

SHAPES = {"mlp.up_proj.weight": (130, 70), "self_attn.q_proj.weight": (3, 1100), "input_layernorm.weight": (70,)}
LAYERS = 3


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four siblings of one base, in bfloat16; the largest tensor has several tiles of the smallest size."""
    root = tmp_path_factory.mktemp("fused")
    generator = torch.Generator().manual_seed(3)
    shapes = {"model.embed_tokens.weight": (40, 70), "model.norm.weight": (70,)}
    shapes |= {f"model.layers.{layer}.{name}": shape for layer in range(LAYERS) for name, shape in SHAPES.items()}
    base = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for model in ("base", "b", "c", "d"):
        noise = {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}
        tensors = {name: (x if model == "base" else x + noise[name]).bfloat16() for name, x in base.items()}
        write_checkpoint(root / model, tensors, llama_config(LAYERS))
    (root / "recipes").mkdir()
    return root


class Seen:
    """Where the progress of a merge ended."""

    most = 0
    end: tuple[int, int] | None = None

    def __call__(self, done: int, total: int, _: str) -> None:
        if done >= self.most:
            self.most, self.end = done, (done, total)


def merged(
    root: Path, out: Path, stages: dict[str, str], *, stored: bool = False, tile: int | None = None, threads: int = 2
) -> dict[str, torch.Tensor]:
    """Tensors of the last recipe of ``stages``, made in one pass, or with every stage before it stored in float32."""
    for file in (root / "recipes").iterdir():
        file.unlink()
    *inner, last = stages
    for name, text in stages.items():
        for other in inner if stored else ():
            text = text.replace(f"model: {other}", f"model: {out / other}")
        dtype = "dtype: float32\n" if stored or name == last else ""
        (root / "recipes" / f"{name}.yaml").write_text(f"{text}{dtype}{'' if name == last else 'materialize: false'}\n")
    for name in stages if stored else [last]:
        space = api.Workspace.open(Settings(root=root))
        seen = Seen()
        recipe = space.recipe(name)
        report = api.merge(space, recipe, out / name, device="cpu", tile=tile, threads=threads, work=Work(seen))
        assert seen.end == (api.plan(space, recipe).bytes_to_read,) * 2
        assert report.bytes_read <= seen.most
    return read_tensors(out / last)


def of(method: str, models: str, settings: str = "weight: 1", base: str | None = "base") -> str:
    entries = ", ".join(f"{{model: {model}}}" for model in models.split())
    head = f"base_model: {base}\n" if base else ""
    return f"merge_method: {method}\n{head}models: [{entries}]\nparameters: {{{settings}}}\n"


LINEAR = of("linear", "b c", base=None)
SLERP = of("slerp", "b", "t: [0.2, 0.7]")
TREES = {
    "linear of slerp": {"inner": SLERP, "outer": of("linear", "inner c", base=None)},
    "slerp of linear": {"inner": LINEAR, "outer": of("slerp", "inner", "t: 0.4")},
    "slerp of slerp": {"inner": SLERP, "outer": of("slerp", "inner", "t: 0.4", base="c")},
    "ties of slerp": {"inner": SLERP, "outer": of("ties", "inner c", "weight: 1, density: 0.3")},
    "slerp of ties": {
        "inner": of("ties", "b c", "weight: 1, density: 0.3"),
        "outer": of("slerp", "inner", "t: 0.6", base="d"),
    },
    "the base is made": {"inner": LINEAR, "outer": of("task_arithmetic", "c d", "weight: 0.5", base="inner")},
    "random in random": {
        "inner": of("dare_linear", "b c", "weight: 1, density: 0.5") + "seed: 5\n",
        "outer": of("dare_ties", "inner d", "weight: 1, density: 0.5") + "seed: 6\n",
    },
    "rows inside": {
        "inner": of("della", "b c", "weight: 1, density: 0.5, epsilon: 0.2"),
        "outer": of("linear", "inner d", base=None),
    },
    "rows outside": {"inner": SLERP, "outer": of("model_stock", "inner c d", "filter_wise: true")},
    "torch inside": {
        "inner": of("nearswap", "b", "t: 0.01"),
        "outer": of("ties", "inner c", "weight: 1, density: 0.5"),
    },
    "torch outside": {"inner": SLERP, "outer": of("nearswap", "inner", "t: 0.01")},
    "scaled": {
        "inner": "merge_method: passthrough\nmodels: [{model: b, parameters: {scale: 0.3}}]\n",
        "outer": of("linear", "inner c", base=None),
    },
    "three deep": {
        "low": of("ties", "b c", "weight: 1, density: 0.4"),
        "middle": of("slerp", "low", "t: 0.3", base="d"),
        "outer": of("linear", "middle low b", base=None),
    },
}


@pytest.mark.parametrize("tree", TREES)
def test_one_pass_gives_what_float32_stages_give(tree: str, checkpoints: Path, tmp_path: Path) -> None:
    once = merged(checkpoints, tmp_path / "once", TREES[tree])
    staged = merged(checkpoints, tmp_path / "staged", TREES[tree], stored=True)
    assert once.keys() == staged.keys()
    for name, tensor in staged.items():
        assert torch.equal(once[name], tensor), name


@pytest.mark.parametrize("tree", TREES)
def test_tiles_and_threads_change_no_bit(tree: str, checkpoints: Path, tmp_path: Path) -> None:
    usual = merged(checkpoints, tmp_path / "usual", TREES[tree])
    other = merged(checkpoints, tmp_path / "other", TREES[tree], tile=1031, threads=3)
    assert all(torch.equal(usual[name], tensor) for name, tensor in other.items())


def test_a_stack_of_merges_is_each_merge(checkpoints: Path, tmp_path: Path) -> None:
    """A stack adds no rounding of its own: in bfloat16, its layers are those of the merge in bfloat16."""
    stack = "merge_method: passthrough\nslices:\n" + "".join(
        f"  - sources: [{{model: {model}, layer_range: [{start}, {end}]}}]\n"
        for model, start, end in (("inner", 0, 2), ("c", 1, 3), ("inner", 1, 3))
    )
    (tmp_path / "recipes").mkdir()
    inner = of("slerp", str(checkpoints / "b"), "t: [0.2, 0.7]", base=str(checkpoints / "base"))
    (tmp_path / "recipes" / "inner.yaml").write_text(f"{inner}materialize: false\n")
    (tmp_path / "recipes" / "outer.yaml").write_text(stack.replace("model: c", f"model: {checkpoints / 'c'}"))
    space = api.Workspace.open(Settings(root=tmp_path))
    for name in ("inner", "outer"):
        api.merge(space, space.recipe(name), tmp_path / name, device="cpu")
    alone, stacked, c = (read_tensors(folder) for folder in (tmp_path / "inner", tmp_path / "outer", checkpoints / "c"))
    for layer, (source, number) in enumerate([(alone, 0), (alone, 1), (c, 1), (c, 2), (alone, 1), (alone, 2)]):
        for suffix in SHAPES:
            expected = source[f"model.layers.{number}.{suffix}"]
            assert torch.equal(stacked[f"model.layers.{layer}.{suffix}"], expected)


def test_one_pass_is_nearer_to_the_truth_than_stages_in_bfloat16(checkpoints: Path, tmp_path: Path) -> None:
    """Against float64; two roundings to bfloat16 cost about as much again as one."""
    tree = {"inner": LINEAR, "outer": of("linear", "inner d", base=None)}
    once = merged(checkpoints, tmp_path / "once", tree)
    b, c, d = (read_tensors(checkpoints / name) for name in "bcd")
    for name, tensor in once.items():
        half = (b[name].double() + c[name].double()) / 2
        truth = (half + d[name].double()) / 2
        rounded = (half.bfloat16().double() + d[name].double()) / 2
        assert (tensor.double() - truth).abs().max() <= (rounded - truth).abs().max() * 1e-3


def test_nan_inside_reaches_the_report(checkpoints: Path, tmp_path: Path) -> None:
    bad = {name: tensor.clone() for name, tensor in read_tensors(checkpoints / "b").items()}
    bad["model.layers.1.mlp.up_proj.weight"][2, 3] = float("inf")
    write_checkpoint(tmp_path / "bad", bad, llama_config(LAYERS))
    tree = {"inner": of("linear", f"{tmp_path / 'bad'} c", base=None), "outer": of("linear", "inner d", base=None)}
    with pytest.raises(EngineError, match=r"model\.layers\.1\.mlp\.up_proj\.weight \(1\)"):
        merged(checkpoints, tmp_path / "out", tree)
