"""What a variant depends on is in its key, and what it does not depend on is not: field by field, for every record that a key
is made of.

Each table says of every field of a record on which side it is, by a change of it that counts or one that does not. A field that
no table knows fails the test: whoever adds one has to say.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from merge_assets.checkpoint import TensorHeader
from merge_assets.methods import Method
from merge_assets.methods.registry import built_in_methods
from merge_assets.pipeline.nodes import ModelNode, VariantNode
from merge_assets.pipeline.variants import variant_spec
from merge_assets.plan import inputs as plan_inputs
from merge_assets.plan.beside import CarriedFile, WrittenFile
from merge_assets.plan.decisions import TensorDecision
from merge_assets.plan.inputs import plan_key, tensor_key
from merge_assets.plan.made import LORA, MAKERS, Maker
from merge_assets.plan.model import (
    DroppedTensor,
    LayerSpan,
    OutputTensor,
    Plan,
    PlannedModel,
    PlannedVocabulary,
    Shard,
    TensorInput,
)
from merge_assets.recipe import Recipe, load_recipe
from merge_assets.recipe.schema import DESCRIPTIVE
from merge_assets.reference import ModelReference
from tests.key_support import sides

HEX = "0" * 64
OTHER = "1" * 64


# -- tensors -----------------------------------------------------------------------------------------------------------


def header(name: str = "x", dtype: str = "BF16") -> TensorHeader:
    return TensorHeader(name, dtype, (2, 3), file="model.safetensors", begin=0, end=12)


def tensor(method: str = "linear", **fields: Any) -> OutputTensor:
    inputs = tuple(
        TensorInput(number, header(), 0, {"weight": 0.5}, digest) for number, digest in enumerate((HEX, OTHER))
    )
    made = OutputTensor("x", "BF16", (2, 3), 0, 0, 12, method, {"normalize": True}, inputs, None, 0, "")
    return replace(made, **fields)


TENSOR = {
    "dtype": "F32",
    "shape": (3, 2),
    "method": "task_arithmetic",
    "parameters": {"normalize": False},
    "inputs": tensor().inputs[::-1],
    "base": 1,
    "rows": "rows of another vocabulary",
}
TENSOR_BESIDE = {"name": "y", "shard": 1, "begin": 8, "end": 20, "layer": 1, "key": "k"}
INPUT = {"header": header(dtype="F32"), "parameters": {"weight": 0.25}, "digest": "2" * 64}
INPUT_BESIDE = {"model": 7, "layer": 3, "nested": tensor()}
"""A nested expression is told by its key, which is then the digest."""
HEADER = {"dtype": "F32"}
HEADER_BESIDE = {"name": "z", "shape": (6,), "file": "other.safetensors", "begin": 8, "end": 20}
"""The digest is of the bytes, wherever they lie; the shape is that of the output."""


def test_the_sides_of_a_tensor() -> None:
    sides(OutputTensor, TENSOR, TENSOR_BESIDE)
    sides(TensorInput, INPUT, INPUT_BESIDE)
    sides(TensorHeader, HEADER, HEADER_BESIDE)


def with_input(**change: Any) -> OutputTensor:
    first, second = tensor().inputs
    return tensor(inputs=(replace(first, **change), second))


def with_header(**change: Any) -> OutputTensor:
    return with_input(header=replace(header(), **change))


CHANGED = {
    **{f"tensor {name}": tensor(**{name: value}) for name, value in TENSOR.items()},
    **{f"input {name}": with_input(**{name: value}) for name, value in INPUT.items()},
    **{f"header {name}": with_header(**{name: value}) for name, value in HEADER.items()},
}
THE_SAME = {
    **{f"tensor {name}": tensor(**{name: value}) for name, value in TENSOR_BESIDE.items()},
    **{f"input {name}": with_input(**{name: value}) for name, value in INPUT_BESIDE.items()},
    **{f"header {name}": with_header(**{name: value}) for name, value in HEADER_BESIDE.items()},
}


@pytest.mark.parametrize("what", CHANGED)
def test_what_a_tensor_depends_on_changes_its_key(what: str) -> None:
    assert tensor_key(CHANGED[what]) != tensor_key(tensor())


@pytest.mark.parametrize("what", THE_SAME)
def test_what_a_tensor_does_not_depend_on_leaves_its_key(what: str) -> None:
    assert tensor_key(THE_SAME[what]) == tensor_key(tensor())


def test_random_masks_go_by_the_name_and_the_seed() -> None:
    keys = {
        tensor_key(tensor("dare_linear", name=name, parameters={"normalize": False, "seed": seed}))
        for name in "xy"
        for seed in (1, 2)
    }
    assert len(keys) == 4


def test_the_version_of_a_method_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    sides(
        Method,
        {"name", "version"},
        # The code, which the version stands for, and what is said of it to people and plans.
        {
            *(
                "kernel",
                "summary",
                "parameters",
                "paper",
                "needs_base",
                "takes_base",
                "least",
                "most",
                "passes",
                "rows",
            ),
            *("in_torch", "random", "divides", "exact"),
        },
    )
    before = tensor_key(tensor())
    linear = built_in_methods()["linear"]
    monkeypatch.setitem(built_in_methods(), "linear", replace(linear, summary="Other words.", paper="other"))
    assert tensor_key(tensor()) == before
    monkeypatch.setitem(built_in_methods(), "linear", replace(linear, version="2"))
    assert tensor_key(tensor()) != before


def test_the_version_of_what_makes_an_input_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    sides(Maker, {"name", "version"}, {"passes"})
    before = tensor_key(tensor(LORA.name))
    monkeypatch.setitem(MAKERS, LORA.name, replace(LORA, version="2"))
    assert tensor_key(tensor(LORA.name)) != before


def test_the_numerics_version_is_part_of_every_tensors_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = tensor_key(tensor())
    monkeypatch.setattr(plan_inputs, "NUMERICS_VERSION", "another")
    assert tensor_key(tensor()) != before


# -- plans -------------------------------------------------------------------------------------------------------------

CARRIED = CarriedFile(0, "tokenizer.json", 5, HEX)
SHARD = Shard("model.safetensors", "{}", 12)
WRITTEN = WrittenFile("chat_template.jinja", "text", HEX)


def plan(**fields: Any) -> Plan:
    made = Plan(
        recipe="mix",
        method="linear",
        models=(PlannedModel("a", "/a", HEX),),
        tensors=(tensor(key=HEX),),
        shards=(SHARD,),
        config={"layers": 1},
        carried=(CARRIED,),
        donor=0,
        layers=(),
        dropped=(),
        warnings=(),
        mergekit_config="",
        removed_layers=(),
        key="",
        written=(WRITTEN,),
    )
    return replace(made, **fields)


PLAN = {
    "tensors": [(tensor(key=OTHER),), (tensor(key=HEX, name="y"),), ()],
    "shards": [(replace(SHARD, header="{ }"),), (replace(SHARD, file="other.safetensors"),), ()],
    "config": [{"layers": 2}],
    "carried": [(replace(CARRIED, digest=OTHER),), (replace(CARRIED, file="tokenizer_config.json"),), ()],
    "written": [(replace(WRITTEN, digest=OTHER),), (replace(WRITTEN, file="tokenizer.json"),), ()],
}
PLAN_BESIDE = {
    "recipe": "other name",
    "method": "said in the keys of tensors",
    "models": (PlannedModel("b", "/elsewhere", OTHER),),
    "donor": 1,
    "layers": (LayerSpan(0, 1, ()),),
    "dropped": (DroppedTensor(0, "x", "unused"),),
    "warnings": ("a warning",),
    "mergekit_config": "models: []",
    "removed_layers": ({"layer": 3},),
    "key": "k",
    "vocabulary": PlannedVocabulary("union", 0, 5, 5, ()),
    "decisions": (TensorDecision("carried", "a", 1, "x", "head"),),
    "left_files": ("training_args.bin",),
}


def test_the_sides_of_a_plan() -> None:
    sides(Plan, PLAN, PLAN_BESIDE)
    sides(Shard, {"file", "header"}, {"size"})  # a file's size follows from its header
    sides(CarriedFile, {"file", "digest"}, {"model", "size"})
    sides(WrittenFile, {"file", "digest"}, {"text"})


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in PLAN.items() for value in values])
def test_what_a_variants_files_depend_on_changes_its_key(field: str, value: object) -> None:
    assert plan_key(plan(**{field: value})) != plan_key(plan())


@pytest.mark.parametrize("field", PLAN_BESIDE)
def test_names_places_and_remarks_leave_a_variants_key(field: str) -> None:
    assert plan_key(plan(**{field: PLAN_BESIDE[field]})) == plan_key(plan())


# -- the recipe, as Dagster tells one state of it from another -----------------------------------------------------------

RECIPE = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\n"


def code(folder: Path, text: str) -> str | None:
    (folder / "mix.yaml").write_text(text)
    recipe = load_recipe(folder / "mix.yaml")
    model = ModelNode(ModelReference(recipe.name), "recipe", (recipe.name,), recipe.name, automated=False)
    return variant_spec(VariantNode(recipe, model, "", (), (), (), ())).code_version


def test_the_code_of_a_variant_is_its_recipe_and_the_code_of_its_methods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = code(tmp_path, RECIPE)
    assert code(tmp_path, f"{RECIPE}name: other\ndescription: words\ntags: {{a: b}}\ngroup: g\n") == before
    assert code(tmp_path, RECIPE.replace("1", "2")) != before
    for method in ("linear", "passthrough"):  # the second carries parts that a recipe does not name
        with monkeypatch.context() as patch:
            patch.setitem(built_in_methods(), method, replace(built_in_methods()[method], version="2"))
            assert code(tmp_path, RECIPE) != before


def test_the_sides_of_a_recipe() -> None:
    keyed = {
        *("merge_method", "base_model", "models", "slices", "modules", "depth_upscale", "prune_layers", "parameters"),
        *("dtype", "out_dtype", "tokenizer", "tokenizer_source", "chat_template", "seed", "allow_nonfinite"),
        *("missing", "average_checkpoints", "architecture"),
    }
    sides(Recipe, keyed, DESCRIPTIVE)
