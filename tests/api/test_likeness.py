"""Whether a model that was built is the one that others published: distances against float64 formulas, files and the Hub."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from merge_assets import api
from merge_assets.cli import main
from merge_assets.errors import CheckpointError
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from tests.hub_server import HubServer
from tests.synthetic import llama_config, write_checkpoint, write_llama

CHANGED = "model.layers.1.mlp.down_proj.weight"


def compared(root: Path, a: str, b: str, *, every_byte: bool = False, hub: HubServer | None = None) -> api.Likeness:
    endpoint = hub.url if hub else None
    settings = Settings(root=root, store=str(root / "store"), hub_endpoint=endpoint, hub_cache=root / "cache")
    workspace = api.Workspace.open(settings)
    return api.likeness(workspace, ModelReference(a), ModelReference(b), every_byte=every_byte)


def change(folder: Path, **edits: torch.Tensor | None) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file) | {name: tensor for name, tensor in edits.items() if tensor is not None}
    save_file({name: tensor for name, tensor in tensors.items() if edits.get(name, 0) is not None}, file)


def test_a_copy_is_the_same_model(tmp_path: Path) -> None:
    for name in "ab":
        write_llama(tmp_path / name, 3)
    for every_byte in (False, True):
        found = compared(tmp_path, "./a", "./b", every_byte=every_byte)
        assert found.is_same and all(one.alike for one in found.tensors)
        assert len(found.tensors) == len(load_file(tmp_path / "a" / "model.safetensors"))
        assert found.sampled is not every_byte
        assert (found.config, found.tokenizer, found.shapes) == ({}, (), {})


def test_distances_are_those_of_the_formula_by_tensor_and_by_layer(tmp_path: Path) -> None:
    write_llama(tmp_path / "a", 3)
    write_llama(tmp_path / "b", 3)
    theirs = load_file(tmp_path / "b" / "model.safetensors")[CHANGED]
    ours = (
        theirs.double() * 1.5 + torch.randn(theirs.shape, generator=torch.Generator().manual_seed(1)) * 0.1
    ).bfloat16()
    change(tmp_path / "a", **{CHANGED: ours})
    found = compared(tmp_path, "./a", "./b", every_byte=True)
    (apart,) = [one for one in found.tensors if not one.alike]
    x, y = ours.double().flatten(), theirs.double().flatten()
    distance = apart.distance
    assert distance is not None and (apart.name, apart.layer, apart.dtypes) == (CHANGED, 1, ("BF16", "BF16"))
    assert distance.count == x.numel()
    assert distance.unequal == int((x != y).sum())
    assert math.isclose(distance.relative, float((x - y).norm() / y.norm()), rel_tol=1e-12)
    assert math.isclose(distance.largest, float((x - y).abs().max()))
    assert math.isclose(distance.cosine, float(x @ y / (x.norm() * y.norm())), rel_tol=1e-12)
    assert not apart.within_rounding and not found.is_same
    layers = found.layers()
    whole = torch.cat([t.double().flatten() for name, t in sorted(load_file(tmp_path / "b" / "model.safetensors").items())
                       if name.startswith("model.layers.1.")])  # fmt: skip
    assert layers.keys() == {0, 1, 2, None}
    assert math.isclose(layers[1].relative, float((x - y).norm() / whole.norm()), rel_tol=1e-12)
    assert layers[0].relative == layers[2].relative == 0


def test_rounding_to_another_dtype_is_no_other_model(tmp_path: Path) -> None:
    write_llama(tmp_path / "a", 2, dtype=torch.float32)
    write_llama(tmp_path / "b", 2, dtype=torch.bfloat16)
    found = compared(tmp_path, "./a", "./b")
    assert found.is_same
    assert any(not one.alike for one in found.tensors) and all(one.within_rounding for one in found.tensors)


def test_other_spellings_are_compared_tensor_by_tensor(tmp_path: Path) -> None:
    write_llama(tmp_path / "a", 3)
    write_llama(tmp_path / "b", 3)
    stored = load_file(tmp_path / "b" / "model.safetensors")
    nested = {f"model.language_{name}" if name.startswith("model.") else name: t for name, t in stored.items()}
    save_file(nested, tmp_path / "b" / "model.safetensors")
    found = compared(tmp_path, "./a", "./b", every_byte=True)
    assert found.is_same and [one.name for one in found.tensors] == list(
        load_file(tmp_path / "a" / "model.safetensors")
    )
    assert sum(one.count for one in found.decisions if one.what == "renamed") == len(stored) - 1  # lm_head
    change(tmp_path / "a", **{CHANGED: stored[CHANGED] * 2})
    found = compared(tmp_path, "./a", "./b", every_byte=True)
    ((name, layer, distance),) = [(one.name, one.layer, one.distance) for one in found.tensors if not one.alike]
    assert (name, layer) == (CHANGED, 1) and distance is not None and math.isclose(distance.relative, 1)
    assert not (found.only_built or found.only_reference or found.is_same)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("order", ["numbered first", "stacked first"])
def test_other_groupings_are_compared_tensor_by_tensor(order: str, turned: bool, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    at, inner = "model.layers.0.mlp.experts", 7000
    gates, ups = (torch.randn(2, inner, 16, generator=generator) for _ in range(2))
    both = torch.cat((gates, ups), dim=1)
    alone = {
        f"{at}.{n}.{leaf}.weight": part[n].clone()
        for leaf, part in (("gate_proj", gates), ("up_proj", ups))
        for n in range(2)
    }
    norm, config = {"model.norm.weight": torch.ones(16)}, llama_config(1) | {"num_experts": 2}
    kind = "qwen3_vl_moe" if turned else "qwen3_moe"
    stacks = {f"{at}.gate_up_proj": both.mT.contiguous() if turned else both}
    write_checkpoint(tmp_path / "alone", alone | norm, config | {"model_type": "qwen3_moe"})
    write_checkpoint(tmp_path / "stacked", stacks | norm, config | {"model_type": kind})
    models = ("./alone", "./stacked") if order == "numbered first" else ("./stacked", "./alone")
    for every_byte in (False, True):
        found = compared(tmp_path, *models, every_byte=every_byte)
        assert found.same_weights and all(one.alike for one in found.tensors)
        assert len(found.tensors) == (5 if order == "numbered first" else 2)
        assert sum(one.count for one in found.decisions) > 0 and found.decisions[0].what == "regrouped"
    alone[f"{at}.1.up_proj.weight"][-1, -1] += 1
    save_file(alone | norm, tmp_path / "alone" / "model.safetensors")
    (apart,) = [one for one in compared(tmp_path, *models, every_byte=True).tensors if not one.alike]
    assert (
        apart.distance is not None
        and apart.distance.unequal == 1
        and math.isclose(apart.distance.largest, 1, rel_tol=1e-6)
    )


def test_what_only_one_has_and_other_shapes(tmp_path: Path) -> None:
    write_llama(tmp_path / "a", 2, vocabulary=64)
    write_llama(tmp_path / "b", 3, vocabulary=72)
    found = compared(tmp_path, "./a", "./b")
    assert found.only_built == () and len(found.only_reference) > 0
    assert all(".layers.2." in name for name in found.only_reference)
    assert found.shapes["model.embed_tokens.weight"][0][0] == 64
    assert found.config["num_hidden_layers"] == (2, 3)
    assert not found.is_same


def test_integers_are_compared_by_their_bytes(tmp_path: Path) -> None:
    for name, number in (("a", 1), ("b", 2)):
        write_llama(tmp_path / name, 2, edit={"model.table": torch.tensor([0, number])})
    (apart,) = [one for one in compared(tmp_path, "./a", "./b").tensors if not one.alike]
    assert (apart.name, apart.distance, apart.within_rounding) == ("model.table", None, False)


def test_not_a_number_is_far_from_every_number(tmp_path: Path) -> None:
    for name in "ab":
        write_llama(tmp_path / name, 2)
    broken = load_file(tmp_path / "a" / "model.safetensors")[CHANGED]
    broken[0, 0] = math.nan
    change(tmp_path / "a", **{CHANGED: broken})
    assert not compared(tmp_path, "./a", "./b").is_same
    change(tmp_path / "b", **{CHANGED: broken})
    assert compared(tmp_path, "./a", "./b").is_same, "it is what they published"


def test_tokenizers_and_chat_templates(tmp_path: Path) -> None:
    for name, words in (("a", ["x", "y"]), ("b", ["y", "x", "z"])):
        write_llama(tmp_path / name, 2)
        vocabulary = {word: number for number, word in enumerate(words)}
        model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "x"}
        (tmp_path / name / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": []}))
        (tmp_path / name / "chat_template.jinja").write_text(name)
    assert compared(tmp_path, "./a", "./b").tokenizer == (
        "2 and 3 tokens",
        "2 numbers stand for other tokens; the first is 0: 'x' and 'y'",
        "the chat templates differ",
    )


def test_of_a_model_on_the_hub_only_samples_are_fetched(tmp_path: Path) -> None:
    wide = {"model.wide": torch.ones(1 << 19, dtype=torch.float32)}
    write_llama(tmp_path / "a", 2, edit=wide)
    files: dict[str, bytes | None] = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    with HubServer() as hub:
        hub.commit("org/model", files)
        found = compared(tmp_path, "./a", "org/model", hub=hub)
        assert found.is_same
        assert hub.sent("model.safetensors") < (1 << 21) // 2
        wide["model.wide"][7] = 0
        change(tmp_path / "a", **wide)
        assert not compared(tmp_path, "org/model", "./a", hub=hub).is_same
        wide["model.wide"][7], wide["model.wide"][100_000] = 1, 0
        change(tmp_path / "a", **wide)
        assert compared(tmp_path, "./a", "org/model", hub=hub).is_same, "between the samples"
        assert not compared(tmp_path, "./a", "org/model", every_byte=True, hub=hub).is_same


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    write_llama(tmp_path / "a", 2)
    with pytest.raises(CheckpointError, match="neither a recipe, nor a local directory"):
        compared(tmp_path, "./a", "./nowhere")


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_the_command(
    options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_llama(tmp_path / name, 2, seed=seed)
    (tmp_path / "merge-assets.toml").write_text("")
    monkeypatch.chdir(tmp_path)

    def run(a: str, b: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["merge-assets", "compare", a, b, *options])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().out

    code, same = run("./a", "./b")
    assert code == 0
    other, different = run("./a", "./c")
    assert other == 1
    if options:
        assert (json.loads(same)["same"], json.loads(different)["same"]) == (True, False)
    else:
        assert "the same model, as far as samples tell" in same
        assert "renamed" not in same
        assert "another model" in different and "Furthest apart" in different and "outside" in different
