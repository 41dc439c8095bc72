"""Contract: matrices that one model has together and another apart are merged as the donor has them.

Numbers are held against the formula, computed here; which matrices belong together, also against what transformers makes of a
numbered model when it loads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, DbrxConfig, FalconConfig, MixtralConfig, Qwen2MoeConfig
from transformers.models.bloom.modeling_bloom import BloomAttention
from transformers.models.dbrx.modeling_dbrx import DbrxExpertGLU
from transformers.models.falcon.modeling_falcon import FalconAttention

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


# -- projections by head or group --------------------------------------------------------------------------------------------

GROUPED = {
    "num_attention_heads": HEADS,
    "num_key_value_heads": GROUPS,
    "num_kv_heads": GROUPS,
    "new_decoder_architecture": True,
}
PER_HEAD = {**GROUPED, "num_key_value_heads": HEADS}


def falcon(rows: torch.Tensor) -> list[torch.Tensor]:
    """Query, key and value as Falcon's class cuts them, each group's key and value once."""
    config = FalconConfig(
        hidden_size=HIDDEN, num_attention_heads=HEADS, num_kv_heads=GROUPS, new_decoder_architecture=True
    )
    query, key, value = FalconAttention(config, layer_idx=0)._split_heads(rows[None, None])
    once = [part[0, 0, :: HEADS // GROUPS].flatten() for part in (key, value)]
    return [query[0, 0].flatten(), *once]


def bloom(rows: torch.Tensor) -> list[torch.Tensor]:
    module = BloomAttention(BloomConfig(hidden_size=HIDDEN, n_head=HEADS), layer_idx=0)
    return [part.permute(0, 2, 1, 3).flatten() for part in module._reshape(rows[None, None])]


def gpt_neox(rows: torch.Tensor) -> list[torch.Tensor]:
    """As the forward pass has it."""
    return [part.flatten() for part in rows.view(HEADS, 3 * HEAD).chunk(3, dim=-1)]


def internlm(rows: torch.Tensor) -> list[torch.Tensor]:
    """As its authors convert it for Llama's class: a group's queries, its key, its value."""
    found = rows.view(GROUPS, HEADS // GROUPS + 2, HEAD)
    return [part.flatten() for part in (found[:, :-2], found[:, -2], found[:, -1])]


BY_HEAD: dict[str, tuple[Callable[[torch.Tensor], list[torch.Tensor]], str, dict[str, int | bool]]] = {
    "falcon": (falcon, "self_attn.query_key_value", GROUPED),
    "bloom": (bloom, "self_attn.query_key_value", PER_HEAD),
    "gpt_neox": (gpt_neox, "self_attn.query_key_value", PER_HEAD),
    "internlm2": (internlm, "attention.wqkv", GROUPED),
}
OF_INTERNLM = {
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
    "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attention_norm",
    "model.embed_tokens": "model.tok_embeddings",
    "lm_head": "output",
}


def by_head(found: Tensors, family: str) -> Tensors:
    """The same tensors with query, key and value in one, as the family has them; those of InternLM2 under its names."""
    cut, fused_name, _ = BY_HEAD[family]
    made: Tensors = {}
    for name, tensor in found.items():
        if ".q_proj." in name:
            parts = [found[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            whole = torch.empty(sum(len(part) for part in parts), *tensor.shape[1:])
            for rows, part in zip(cut(torch.arange(len(whole))), parts, strict=True):
                whole[rows] = part
            made[name.replace("self_attn.q_proj", fused_name)] = whole
        elif not any(f".{letter}_proj." in name for letter in "kv"):
            words = OF_INTERNLM if family == "internlm2" else {}
            new = next((name.replace(old, new) for old, new in words.items() if old in name), name)
            made[new] = tensor
    return made


def apart(seed: int, family: str) -> Tensors:
    """As Llama has them, with as many key heads as the family's config says."""
    generator, found = torch.Generator().manual_seed(100 + seed), dense(seed)
    for name in list(found):
        if BY_HEAD[family][2] is PER_HEAD and (".k_proj." in name or ".v_proj." in name):
            found[name] = torch.randn(HEADS * HEAD, *found[name].shape[1:], generator=generator)
        if family == "internlm2" and name.endswith("q_proj.weight"):
            for leaf in ("self_attn.o_proj", "input_layernorm", "post_attention_layernorm"):
                found[name.replace("self_attn.q_proj", leaf)] = torch.randn(HIDDEN, generator=generator)
    return found


@pytest.mark.parametrize("family", BY_HEAD)
def test_projections_by_head_or_group_are_cut_as_the_class_cuts_them(family: str, tmp_path: Path) -> None:
    a, b = apart(0, family), apart(1, family)
    config = BY_HEAD[family][2]
    alone, together = (
        write(tmp_path / "a", a, "llama", **config),
        write(tmp_path / "b", by_head(b, family), family, **config),
    )
    check(a, b, (alone, together), tmp_path)
    check(by_head(b, family), by_head(a, family), (together, alone), tmp_path, threads=1, tile=1031)


def test_an_order_that_the_config_does_not_tell_is_not_guessed(tmp_path: Path) -> None:
    """A tower of Kimi's has pairs of rows in another order than InternLM2's groups."""
    a, b = apart(0, "falcon"), apart(1, "falcon")
    alone = write(tmp_path / "a", a, "llama")
    for kind, leaf in (("a-new-family", "query_key_value"), ("kimi_k25", "wqkv")):
        whole = {name.replace("query_key_value", leaf): tensor for name, tensor in by_head(b, "falcon").items()}
        together = write(tmp_path / kind, whole, kind)
        with pytest.raises(
            PlanError, match=rf"{leaf}.weight, and its config does not tell in which order; merge models of"
        ):
            plan_text(LINEAR.format(a=alone, b=together), tmp_path)


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
            kind = "bias" if name.endswith("_bias") else "weight"
            made.update({f"{stem}.{expert}.{part}.{kind}": rows.clone() for part, rows in parts.items()})
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


DBRX = {"model_type": "dbrx", "ffn_config": {"moe_num_experts": EXPERTS, "ffn_hidden_size": INNER}, "d_model": HIDDEN}


@pytest.mark.parametrize("place", ["mlp", "mlp_experts"])
def test_experts_that_lie_row_below_row(place: str, tmp_path: Path) -> None:
    """DBRX: what its class computes with the stack is what linear layers compute with the numbered matrices."""
    models: list[Tensors] = []
    settings = {**DBRX, "n_layers": 1, "n_heads": HEADS}
    for seed in range(2):
        torch.manual_seed(seed)
        experts = DbrxExpertGLU(DbrxConfig(d_model=HIDDEN, ffn_config=DBRX["ffn_config"]).ffn_config)
        stem = "transformer.blocks.0.ffn.experts."
        parts = {leaf: torch.randn(EXPERTS, INNER, HIDDEN) for leaf in ("w1", "v1", "w2")}
        x = torch.randn(5, HIDDEN)
        ours = [torch.nn.functional.silu(x @ parts["w1"][0].T) * (x @ parts["v1"][0].T) @ parts["w2"][0]]
        torch.testing.assert_close(experts(x, *(parts[leaf][0] for leaf in ("w1", "v1", "w2"))), *ours)
        models.append({f"{stem}mlp.{leaf}": part.reshape(-1, HIDDEN) for leaf, part in parts.items()})
        models.append({
            f"{stem}{place}.{n}.{leaf}.weight": part[n].T.contiguous() if leaf == "w2" else part[n].clone()
            for n in range(EXPERTS) for leaf, part in parts.items()
        })  # fmt: skip
    stacked, alone, other_stacked, other_alone = models
    folders = [write_checkpoint(tmp_path / str(n), found, settings) for n, found in enumerate(models)]
    check(stacked, other_stacked, (folders[0], folders[3]), tmp_path)
    check(alone, other_alone, (folders[1], folders[2]), tmp_path, threads=1, tile=1031)


def test_gate_and_up_by_turns(tmp_path: Path) -> None:
    """gpt-oss; stacks of its published sizes have more rows than are listed, which is said."""
    a, b = (found | {f"{name}_bias": tensor[..., 0].clone() for name, tensor in found.items() if "experts" in name}
            for found in (stacks(0), stacks(1)))  # fmt: skip

    def by_turns(found: Tensors) -> Tensors:
        return turned({
            name: torch.stack(tensor.chunk(2, dim=1), 2).flatten(1, 2) if "gate_up" in name else tensor
            for name, tensor in found.items()
        })  # fmt: skip

    folders = write(tmp_path / "a", by_turns(a), "gpt_oss"), write(tmp_path / "b", numbered(b), "qwen3_moe")
    memory = by_turns(a)["model.layers.0.mlp.experts.gate_up_proj"]  # as the forward pass takes them apart
    assert torch.equal(memory[..., ::2].mT, a["model.layers.0.mlp.experts.gate_up_proj"][:, :INNER])
    check(by_turns(a), by_turns(b), folders, tmp_path)
    check(numbered(b), numbered(a), (folders[1], folders[0]), tmp_path, threads=1, tile=1031)
    many = {name: torch.zeros(4, 1, 2 * 17_000) for name in a if name.endswith("gate_up_proj")}
    few = {name: tensor for name, tensor in by_turns(a).items() if "experts" not in name}
    large = write(tmp_path / "large", few | many, "gpt_oss", hidden_size=1, num_experts=4)
    numbers = {name.replace("gate_up_proj", f"{n}.{part}.weight"): torch.zeros(17_000, 1)
               for name in many for n in range(4) for part in ("gate_proj", "up_proj")}  # fmt: skip
    other = write(tmp_path / "numbers", few | numbers, "qwen3_moe", hidden_size=1, num_experts=4)
    with pytest.raises(
        PlanError, match=r"gate and up in one tensor, model.*gate_up_proj, by turns, in more rows than are"
    ):
        plan_text(LINEAR.format(a=other, b=large), tmp_path)


def test_a_stack_is_never_taken_in_part(tmp_path: Path) -> None:
    few = {name: tensor for name, tensor in numbered(stacks(0)).items() if ".experts.2." not in name}
    a, b = write(tmp_path / "a", few, "qwen3_moe", num_experts=2), write(tmp_path / "b", stacks(1), "qwen3_moe")
    with pytest.raises(PlanError, match=r"has no tensor .*experts"):
        plan_text(LINEAR.format(a=a, b=b), tmp_path)
