"""Contract: every tensor with a row per token follows the vocabulary, under any method, in any tile, in recipes of recipes.

The oracle of a method is the same merge of models whose embeddings were brought to the vocabulary by hand.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from merge_assets import api
from merge_assets.checkpoint import open_checkpoint
from merge_assets.engine.execute import execute
from merge_assets.errors import EngineError, PlanError
from merge_assets.plan.describe import vocabulary_summary
from merge_assets.plan.layer_map import layer_map
from merge_assets.settings import Settings
from tests.merging import merge_text, merged_tensors, plan_text
from tests.synthetic import read_tensors
from tests.vocabulary_support import (
    COMMON,
    EMBED,
    HEAD,
    UNION,
    by_token,
    linear,
    marked,
    numbered,
    tokens_of,
    word_model,
)

# -- tensors -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [(True, True), (True, False), (False, True)])
def test_tied_embeddings(tmp_path: Path, first: bool, second: bool) -> None:
    a = word_model(tmp_path / "a", *COMMON, "a", hundreds=1, tied=first)
    b = word_model(tmp_path / "b", "b", *COMMON, hundreds=2, tied=second)
    out = merge_text(linear(a, b, more=UNION), tmp_path)
    expected = {"<unk>": 150.5, "the": 151.5, "cat": 152.5, "a": 103, "b": 200}
    assert by_token(out) == expected
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] == (first and second)
    if first and second:
        assert HEAD not in read_tensors(out)
        return
    # The tied one gives its embedding for the head, the other one its head, of negative values.
    signs = {"a": 1 if first else -1, "b": 1 if second else -1}
    head = by_token(out, HEAD)
    assert (head["a"], head["b"]) == (signs["a"] * 103, signs["b"] * 200)
    assert head["the"] == (signs["a"] * 101 + signs["b"] * 202) / 2


def test_a_head_of_another_name_takes_rows_from_a_tied_embedding(tmp_path: Path) -> None:
    """As in Whisper."""
    name = "proj_out.weight"
    a = word_model(tmp_path / "a", *COMMON, "a", hundreds=1, tied=True)
    edit, config = {name: -marked(2, 4)}, {"tie_word_embeddings": False}
    b = word_model(tmp_path / "b", "b", *COMMON, hundreds=2, tied=True, edit=edit, config=config)
    head = by_token(merge_text(linear(a, b, more=UNION), tmp_path), name)
    assert head == {"<unk>": (100 - 201) / 2, "the": (101 - 202) / 2, "cat": (102 - 203) / 2, "a": 103, "b": -200}


def test_a_bias_of_the_head_follows_the_vocabulary(tmp_path: Path) -> None:
    bias = "lm_head.bias"
    a = word_model(tmp_path / "a", *COMMON, "a", edit={bias: torch.tensor([1.0, 2, 3, 4])})
    b = word_model(tmp_path / "b", "b", *COMMON, edit={bias: torch.tensor([50.0, 10, 20, 30])})
    merged = merged_tensors(linear(a, b, more=UNION), tmp_path)
    assert merged[bias].tolist() == [5.5, 11, 16.5, 4, 50]


def test_tensors_within_layers_stay_as_they_are(tmp_path: Path) -> None:
    """Also those whose first dimension happens to be the number of tokens: there are 16, as hidden channels."""
    texts = [f"t{number}" for number in range(15)]
    a = word_model(tmp_path / "a", "<unk>", *texts)
    b = word_model(tmp_path / "b", "<unk>", *reversed(texts))
    plan = plan_text(linear(a, b, more=UNION), tmp_path)
    assert {tensor.name for tensor in plan.tensors if tensor.makes_inputs} == {EMBED, HEAD}


def test_embeddings_of_another_width_are_an_error(tmp_path: Path) -> None:
    a = word_model(tmp_path / "a", *COMMON, "a")
    wide = torch.zeros(4, 24)
    b = word_model(tmp_path / "b", "b", *COMMON, edit={EMBED: wide, HEAD: wide.clone()})
    with pytest.raises(PlanError, match=r"shapes differ for tensor model\.embed_tokens\.weight.*\[5, 16\].*\[5, 24\]"):
        plan_text(linear(a, b, more=UNION), tmp_path)


# -- any method --------------------------------------------------------------------------------------------------------------

METHODS = {
    "slerp": "merge_method: slerp\nbase_model: {a}\nmodels: [{{model: {a}}}, {{model: {b}}}]\nparameters: {{t: 0.3}}\n",
    "ties": (
        "merge_method: ties\nbase_model: {a}\nmodels: [{{model: {b}}}, {{model: {c}}}]\n"
        "parameters: {{weight: 0.6, density: 0.5}}\n"
    ),
    "dare_ties": (
        "merge_method: dare_ties\nbase_model: {a}\nmodels: [{{model: {b}}}, {{model: {c}}}]\nseed: 3\n"
        "parameters: {{weight: 0.6, density: 0.5}}\n"
    ),
    "nuslerp by rows": (
        "merge_method: nuslerp\nmodels: [{{model: {b}}}, {{model: {c}}}]\n"
        "parameters: {{weight: 0.6, nuslerp_flatten: false, nuslerp_row_wise: true}}\n"
    ),
    "model_stock": "merge_method: model_stock\nbase_model: {a}\nmodels: [{{model: {b}}}, {{model: {c}}}]\n",
    "arcee_fusion": "merge_method: arcee_fusion\nbase_model: {a}\nmodels: [{{model: {b}}}]\n",
    "passthrough": "merge_method: passthrough\nmodels: [{{model: {b}}}]\nbase_model: {a}\n",
}

TEXTS = {"a": "the cat sat on a mat", "b": "a cat sat under the table", "c": "no mat for the cat"}


def models_and_aligned_ones(root: Path, names: str, base: str | None) -> tuple[dict[str, Path], dict[str, Path]]:
    """Models of random rows, and the same ones brought to their union by hand."""
    words = {name: ["<unk>", *TEXTS[name].split()] for name in names}
    tables = {
        name: dict(
            zip(listed, torch.randn(len(listed), 16, generator=torch.Generator().manual_seed(seed)), strict=True)
        )
        for seed, (name, listed) in enumerate(words.items())
    }
    union = list(dict.fromkeys(token for listed in words.values() for token in listed))
    own, aligned = {}, {}
    for seed, (name, listed) in enumerate(words.items()):
        table = torch.stack([tables[name][token] for token in listed])
        own[name] = word_model(root / name, *listed, hundreds=seed, embedding=table)
        rows = []
        for token in union:
            having = torch.stack([table[token] for table in tables.values() if token in table])
            missing = tables[base][token] if base and token in tables[base] else having.double().mean(0).float()
            rows.append(tables[name].get(token, missing))
        aligned[name] = word_model(root / "aligned" / name, *union, hundreds=seed, embedding=torch.stack(rows))
    return own, aligned


@pytest.mark.parametrize("method", METHODS)
def test_a_merge_is_that_of_models_aligned_by_hand(method: str, tmp_path: Path) -> None:
    recipe = METHODS[method] + "dtype: float32\n"
    names = "".join(name for name in "abc" if f"{{{name}}}" in recipe)
    own, aligned = models_and_aligned_ones(tmp_path, names, "a" if "base_model" in recipe else None)
    merged = merged_tensors(recipe.format(**own) + UNION, tmp_path)
    expected = merged_tensors(recipe.format(**aligned), tmp_path)
    assert merged.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(merged[key], value), key


@pytest.mark.parametrize("tile", [1024, 1040, 4096])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_bytes_depend_on_neither_tile_nor_threads(tmp_path: Path, tile: int, threads: int) -> None:
    generator = torch.Generator().manual_seed(7)
    order = torch.randperm(400, generator=generator).tolist()
    texts = [f"t{number}" for number in range(400)]
    tables = [torch.randn(400, 16, generator=generator).bfloat16() for _ in range(2)]
    a = word_model(tmp_path / "a", *texts, embedding=tables[0], dtype=torch.bfloat16)
    b = word_model(
        tmp_path / "b", *(texts[i] for i in order), hundreds=1, embedding=tables[1][order], dtype=torch.bfloat16
    )
    merged = merged_tensors(linear(a, b, more=UNION), tmp_path, tile=tile, threads=threads)
    expected = ((tables[0].double() + tables[1].double()) / 2).float().bfloat16()
    assert torch.equal(merged[EMBED], expected)


@pytest.mark.parametrize("seed", range(5))
def test_permuting_the_numbers_of_a_model_changes_nothing_but_the_order(tmp_path: Path, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    texts = {"a": [f"t{n}" for n in range(30)], "b": [f"t{n}" for n in range(20, 60)], "c": ["t1", "t25", "t70"]}
    plain, shuffled = [], []
    for number, (name, listed) in enumerate(texts.items()):
        table = torch.randn(len(listed), 16, generator=generator)
        order = torch.randperm(len(listed), generator=generator).tolist()
        plain.append(word_model(tmp_path / name, *listed, hundreds=number, embedding=table))
        shuffled.append(
            word_model(
                tmp_path / f"{name}-shuffled", *(listed[i] for i in order), hundreds=number, embedding=table[order]
            )
        )
    outs = [merge_text(linear(*models, weights=(3, 2, 1), more=UNION), tmp_path) for models in (plain, shuffled)]
    ids = [tokens_of(out) for out in outs]
    assert ids[0].keys() == ids[1].keys()
    for name in (EMBED, HEAD):
        tables = [read_tensors(out)[name] for out in outs]
        for text, number in ids[0].items():
            assert torch.equal(tables[0][number], tables[1][ids[1][text]])


def test_layers_of_models_with_other_vocabularies_can_be_stacked(tmp_path: Path) -> None:
    """The embedding is the first slice's, the head the last slice's; tokens that their models lack come from the other."""
    a = word_model(tmp_path / "a", *COMMON, "a", hundreds=1)
    b = word_model(tmp_path / "b", "b", *COMMON, hundreds=2)
    slices = "".join(f"  - sources: [{{model: {f}, layer_range: [{n}, {n + 1}]}}]\n" for n, f in enumerate((a, b)))
    text = f"merge_method: passthrough\nslices:\n{slices}"
    out = merge_text(text + UNION, tmp_path)
    assert by_token(out) == {"<unk>": 100, "the": 101, "cat": 102, "a": 103, "b": 200}
    assert by_token(out, HEAD) == {"<unk>": -201, "the": -202, "cat": -203, "a": -103, "b": -200}


def test_other_sizes_of_the_stacks_ends_are_never_written_as_one_model(tmp_path: Path) -> None:
    """Without a setting the embedding would have a's rows and the head b's."""
    a = word_model(tmp_path / "a", *COMMON, "a")
    b = word_model(tmp_path / "b", "b", *COMMON, "b2")
    slices = "".join(f"  - sources: [{{model: {f}, layer_range: [{n}, {n + 1}]}}]\n" for n, f in enumerate((a, b)))
    with pytest.raises(PlanError, match=r"lm_head\.weight of .*b has 5 rows, of .*a, .*, 4: .*source: union"):
        plan_text(f"merge_method: passthrough\nslices:\n{slices}", tmp_path)
    with pytest.raises(PlanError, match=r"embed_tokens\.weight of .*b has 5 rows, of .*a, .*, 4: .*source: union"):
        plan_text(linear(b, base=a), tmp_path)


def workspace_of(folder: Path, **recipes: str) -> api.Workspace:
    """A project with these recipes."""
    (folder / "recipes").mkdir()
    for name, text in recipes.items():
        (folder / "recipes" / f"{name}.yaml").write_text(text)
    return api.Workspace.open(Settings(root=folder, recipes=[folder / "recipes"], store=str(folder / "store")))


def test_a_recipe_that_is_folded_in_gives_its_rows(tmp_path: Path) -> None:
    a = word_model(tmp_path / "a", *COMMON, "a", hundreds=1)
    b = word_model(tmp_path / "b", "b", *COMMON, hundreds=2)
    c = word_model(tmp_path / "c", "c", *COMMON, hundreds=4)
    space = workspace_of(
        tmp_path, inner="materialize: false\n" + linear(a, b, more=UNION), outer=linear(Path("inner"), c, more=UNION)
    )
    api.merge(space, space.recipe("outer"), tmp_path / "out")
    out = tmp_path / "out"
    assert tokens_of(out) == numbered(*COMMON, "a", "b", "c")
    the = ((101 + 202) / 2 + 402) / 2
    assert by_token(out) == {"<unk>": the - 1, "the": the, "cat": the + 1, "a": 103, "b": 200, "c": 400}


def test_an_adapter_is_applied_before_rows_are_taken(tmp_path: Path) -> None:
    """The adapter adds 1 to every element of a's embedding; b gets a's adapted row for the token that it lacks."""
    word_model(tmp_path / "a", *COMMON, "a", hundreds=1)
    word_model(tmp_path / "b", "b", *COMMON, hundreds=2)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    settings = {
        "peft_type": "LORA",
        "r": 1,
        "lora_alpha": 1,
        "target_modules": ["embed_tokens"],
        "task_type": "CAUSAL_LM",
    }
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    start = "base_model.model.model.embed_tokens.lora_embedding_"
    save_file({f"{start}A": torch.ones(1, 4), f"{start}B": torch.ones(16, 1)}, adapter / "adapter_model.safetensors")
    space = workspace_of(tmp_path, adapted=linear(Path("a+adapter"), Path("b"), more=UNION))
    api.merge(space, space.recipe("adapted"), tmp_path / "out")
    assert by_token(tmp_path / "out") == {"<unk>": 151, "the": 152, "cat": 153, "a": 104, "b": 200}
    assert by_token(tmp_path / "out", HEAD)["a"] == -103


def test_a_file_that_ends_early_is_named(tmp_path: Path) -> None:
    a = word_model(tmp_path / "a", *COMMON, "a")
    b = word_model(tmp_path / "b", "b", *COMMON, hundreds=2)
    plan = plan_text(linear(a, b, more=UNION), tmp_path)
    (tmp_path / "out").mkdir()
    with (b / "model.safetensors").open("r+b") as file:
        file.truncate(open_checkpoint(b).tensors[EMBED].begin + 100)
    with pytest.raises(EngineError, match=r"b/model\.safetensors: ends at byte \d+, \d+ bytes early"):
        execute(plan, tmp_path / "out", device="cpu")


def test_the_plan_in_words_says_what_the_vocabulary_is(tmp_path: Path) -> None:
    a, b = word_model(tmp_path / "a", *COMMON, "a"), word_model(tmp_path / "b", "b", *COMMON)
    more = "tokenizer: {source: union, pad_to_multiple_of: 8, tokens: {x: {source: {kind: zero}}}}\n"
    plan = plan_text(linear(a, b, more=more), tmp_path)
    expected = "union: 6 tokens in 8 rows; 4 of a, 1 more of b, 1 that the recipe lists"
    assert vocabulary_summary(plan) == expected
    assert layer_map(plan)[0].sources == "a + b"


def test_a_variant_with_its_own_vocabulary_can_be_built_and_merged_again(tmp_path: Path) -> None:
    """Into the store, with all checks; the second recipe is planned from the first one's plan before that is built."""
    a = word_model(tmp_path / "a", *COMMON, "a", hundreds=1)
    b = word_model(tmp_path / "b", "b", *COMMON, hundreds=2)
    c = word_model(tmp_path / "c", "c", *COMMON, hundreds=4)
    space = workspace_of(tmp_path, first=linear(a, b, more=UNION), second=linear(Path("first"), c, more=UNION))
    before = api.plan(space, space.recipe("second"))
    built = api.build(space, space.recipe("first"))
    assert {check.name: check.passed for check in built.checks} == dict.fromkeys(
        ("finite", "config_agrees", "loads_and_generates"), True
    )
    second = api.build(space, space.recipe("second"))
    assert second.plan.vocabulary == before.vocabulary
    assert second.plan.vocabulary is not None
    assert second.plan.vocabulary.parts == ((0, 5), (1, 1))
    assert tokens_of(second.artifact.directory(tmp_path / "cache")) == numbered(*COMMON, "a", "b", "c")
    assert api.build(space, space.recipe("second")).reused
    card = second.artifact.read_bytes("README.md").decode()
    assert "union: 6 tokens in 6 rows; 5 of first, 1 more of c" in card
