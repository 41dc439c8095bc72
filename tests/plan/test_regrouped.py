"""Contract: matrices that one model has together and another apart are merged as the donor has them.

Numbers are held against the formula, computed here; which matrices belong together, also against what transformers makes of a
numbered model when it loads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig, Qwen2MoeConfig

from merge_assets.errors import PlanError
from tests.merging import merge_text, merged_tensors, plan_text, read_tensors
from tests.synthetic import write_checkpoint

HIDDEN, INNER, HEADS, GROUPS, HEAD, EXPERTS = 16, 12, 4, 2, 4, 3
SIZES: dict[str, Any] = {
    "num_hidden_layers": 2,
    "vocab_size": 8,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "num_key_value_heads": GROUPS,
    "num_experts": EXPERTS,
}
AROUND = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
LINEAR = """\
merge_method: linear
models:
- {{model: {a}, parameters: {{weight: 0.25}}}}
- {{model: {b}, parameters: {{weight: 0.5}}}}
"""
Tensors = dict[str, torch.Tensor]


def mean(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return ((0.25 * one.double() + 0.5 * other.double()) / 0.75).float()


def write(folder: Path, found: Mapping[str, torch.Tensor], kind: str, **config: Any) -> Path:
    return write_checkpoint(folder, dict(found), {**SIZES, "model_type": kind, **config})


def check(a: Tensors, b: Tensors, folders: tuple[Path, Path], tmp_path: Path, **options: Any) -> None:
    """A merge of two folders is the mean of two models that have the same tensors as the first."""
    found = merged_tensors(LINEAR.format(a=folders[0], b=folders[1]), tmp_path, **options)
    assert found.keys() == a.keys() == b.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, mean(a[name], b[name]), rtol=0, atol=1e-6)


# -- projections ----------------------------------------------------------------------------------------------------------


def dense(seed: int) -> Tensors:
    """Projections apart, as Llama and Mistral have them."""
    generator = torch.Generator().manual_seed(seed)
    heights = {"q_proj": HEADS * HEAD, "k_proj": GROUPS * HEAD, "v_proj": GROUPS * HEAD}
    found = {name: torch.randn(8, HIDDEN, generator=generator) for name in AROUND}
    for layer in range(2):
        at = f"model.layers.{layer}"
        for name, rows in heights.items():
            found[f"{at}.self_attn.{name}.weight"] = torch.randn(rows, HIDDEN, generator=generator)
            found[f"{at}.self_attn.{name}.bias"] = torch.randn(rows, generator=generator)
        for name in ("gate_proj", "up_proj"):
            found[f"{at}.mlp.{name}.weight"] = torch.randn(INNER, HIDDEN, generator=generator)
        found[f"{at}.mlp.down_proj.weight"] = torch.randn(HIDDEN, INNER, generator=generator)
    return found


def fused(found: Tensors) -> Tensors:
    """The same tensors as Phi-3 has them."""
    made: Tensors = {}
    for name, tensor in found.items():
        for parts, whole in ((("q_proj", "k_proj", "v_proj"), "qkv_proj"), (("gate_proj", "up_proj"), "gate_up_proj")):
            if f".{parts[0]}." in name:
                made[name.replace(parts[0], whole)] = torch.cat([found[name.replace(parts[0], part)] for part in parts])
            if any(f".{part}." in name for part in parts):
                break
        else:
            made[name] = tensor
    return made


def test_fused_and_split_projections_are_one_role(tmp_path: Path) -> None:
    a, b = dense(0), dense(1)
    together, apart = write(tmp_path / "phi", fused(a), "phi3"), write(tmp_path / "mistral", b, "mistral")
    check(fused(a), fused(b), (together, apart), tmp_path)
    apart_first = LINEAR.format(a=apart, b=together)
    check(b, a, (apart, together), tmp_path)
    told = {(one.what, one.count, one.why) for one in plan_text(apart_first, tmp_path).decisions}
    assert told == {
        ("regrouped", 2, "read self_attn.qkv_proj as self_attn.q_proj, self_attn.k_proj, self_attn.v_proj"),
        (
            "regrouped",
            2,
            "read self_attn.qkv_proj.bias as self_attn.q_proj.bias, self_attn.k_proj.bias, self_attn.v_proj.bias",
        ),
        ("regrouped", 2, "read mlp.gate_up_proj as mlp.gate_proj, mlp.up_proj"),
    }


def test_each_input_has_the_layout_of_its_own_config(tmp_path: Path) -> None:
    """Three models; statistics of whole tensors, small tiles."""
    a, b, c = dense(0), dense(1), dense(2)
    names = {"phi3": fused(a), "mistral": b, "llama": c}
    one, two, three = (write(tmp_path / kind, found, kind) for kind, found in names.items())
    again = [write(tmp_path / f"{kind}-2", fused(found), "phi3") for kind, found in (("b", b), ("c", c))]
    recipe = "merge_method: ties\nbase_model: {}\nmodels: [{{model: {}}}, {{model: {}}}]\n"
    recipe += "parameters: {{density: 0.5, weight: 1}}\n"
    plain = merge_text(recipe.format(one, *again), tmp_path) / "model.safetensors"
    mixed = merge_text(recipe.format(one, two, three), tmp_path, threads=1, tile=1031) / "model.safetensors"
    assert plain.read_bytes() == mixed.read_bytes()


def test_what_the_tables_of_transformers_fuse_is_one_role(tmp_path: Path) -> None:
    """``nomic_bert``: ``attn.Wqkv`` in the files of the Hub, three projections in what transformers writes."""
    generator = torch.Generator().manual_seed(0)
    old = [
        {f"encoder.layers.{n}.attn.Wqkv.weight": torch.randn(48, 16, generator=generator) for n in range(2)}
        for _ in "ab"
    ]
    new = [
        {
            name.replace("attn.Wqkv", f"self_attn.{part}_proj"): rows
            for name, tensor in found.items()
            for part, rows in zip("qkv", tensor.chunk(3), strict=True)
        }
        for found in old
    ]
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    a, b = write(tmp_path / "a", new[0], "nomic_bert", **heads), write(tmp_path / "b", old[1], "nomic_bert", **heads)
    check(new[0], new[1], (a, b), tmp_path)
    check(old[1], old[0], (b, a), tmp_path)


def test_where_the_layout_differs_by_more_than_places_nothing_is_guessed(tmp_path: Path) -> None:
    """Falcon and GPT-NeoX have a group of query heads, then its key and value."""
    a, b = dense(0), fused(dense(1))
    grouped = {name.replace("qkv_proj", "query_key_value"): tensor for name, tensor in b.items()}
    folders = write(tmp_path / "a", a, "llama"), write(tmp_path / "b", grouped, "falcon")
    with pytest.raises(PlanError, match="has no tensor"):
        plan_text(LINEAR.format(a=folders[0], b=folders[1]), tmp_path)


# -- experts --------------------------------------------------------------------------------------------------------------

COMMON = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "torch_dtype": "float32",
}
MIXTURES = {
    "w1, w2, w3": MixtralConfig(**COMMON, num_local_experts=3),
    "gate, up, down": Qwen2MoeConfig(
        **COMMON, num_experts=3, moe_intermediate_size=12, shared_expert_intermediate_size=20, num_experts_per_tok=2
    ),
}


def numbered_and_stacked(config: Any, folder: Path, seed: int) -> tuple[Path, Path]:
    """The files of a model as transformers writes them, and its parameters as it has them in memory."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder / "numbered")
    memory = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return folder / "numbered", write_checkpoint(folder / "stacked", memory, config.to_dict())


@pytest.mark.parametrize("name", MIXTURES)
def test_numbered_and_stacked_experts_are_one_role(name: str, tmp_path: Path) -> None:
    a, b = (numbered_and_stacked(MIXTURES[name], tmp_path / str(seed), seed) for seed in range(2))
    tensors = [[read_tensors(folder) for folder in pair] for pair in (a, b)]
    assert tensors[0][0].keys() != tensors[0][1].keys()
    check(tensors[0][0], tensors[1][0], (a[0], b[1]), tmp_path)
    check(tensors[0][1], tensors[1][1], (a[1], b[0]), tmp_path)
    check(tensors[0][1], tensors[1][1], (a[1], b[0]), tmp_path, threads=1, tile=1031)
    plan = plan_text(LINEAR.format(a=a[1], b=b[0]), tmp_path)
    assert {one.count for one in plan.decisions if one.what == "regrouped"} == {6}, "two layers of three experts"
    assert not plan.dropped and not [line for line in plan.warnings if "expert" in line]


def stacks(seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    found = {name: torch.randn(8, HIDDEN, generator=generator) for name in AROUND}
    for layer in range(2):
        at = f"model.layers.{layer}.mlp.experts"
        found[f"{at}.gate_up_proj"] = torch.randn(EXPERTS, 2 * INNER, HIDDEN, generator=generator)
        found[f"{at}.down_proj"] = torch.randn(EXPERTS, HIDDEN, INNER, generator=generator)
    return found


def numbered(found: Tensors) -> Tensors:
    made: Tensors = {}
    for name, tensor in found.items():
        stem = name.rpartition(".")[0]
        for expert in range(EXPERTS if "experts" in name else 0):
            parts = dict(zip(("gate_proj", "up_proj"), tensor[expert].chunk(2), strict=True))
            parts = parts if "gate_up" in name else {"down_proj": tensor[expert]}
            made.update({f"{stem}.{expert}.{part}.weight": rows.clone() for part, rows in parts.items()})
        if "experts" not in name:
            made[name] = tensor
    return made


def turned(found: Tensors) -> Tensors:
    """Stacks as Qwen3-VL-MoE and Llama 4 are published: a column for every output."""
    return {name: tensor.mT.contiguous() if tensor.ndim == 3 else tensor for name, tensor in found.items()}


def test_stacks_that_are_transposed_are_turned(tmp_path: Path) -> None:
    a, b = stacks(0), stacks(1)
    columns = [write(tmp_path / f"columns-{n}", turned(found), "qwen3_vl_moe") for n, found in enumerate((a, b))]
    alone = [write(tmp_path / f"alone-{n}", numbered(found), "qwen3_moe") for n, found in enumerate((a, b))]
    check(numbered(a), numbered(b), (alone[0], columns[1]), tmp_path)
    check(turned(a), turned(b), (columns[0], alone[1]), tmp_path)
    small = {"threads": 1, "tile": 1031}
    check(turned(a), turned(b), (columns[0], alone[1]), tmp_path, **small)
    check(numbered(a), numbered(b), (alone[0], columns[1]), tmp_path, **small)


def test_a_stack_is_never_taken_in_part(tmp_path: Path) -> None:
    few = {name: tensor for name, tensor in numbered(stacks(0)).items() if ".experts.2." not in name}
    a, b = write(tmp_path / "a", few, "qwen3_moe", num_experts=2), write(tmp_path / "b", stacks(1), "qwen3_moe")
    with pytest.raises(PlanError, match=r"has no tensor .*experts"):
        plan_text(LINEAR.format(a=a, b=b), tmp_path)
