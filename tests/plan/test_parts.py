"""Recipes that treat the parts of a checkpoint one by one, under ``modules:`` or where ``slices`` cut one of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from merge_assets.errors import PlanError
from merge_assets.plan.describe import dropped_tensors
from tests.merging import merge_text, merged_tensors, plan_text
from tests.synthetic import read_tensors, write_checkpoint

VISION_LANGUAGE = {"text_config": {"num_hidden_layers": 3}, "vision_config": {"num_hidden_layers": 2}}
TEXT, TOWER, JOINT = "language_model.layers.{}.w", "vision_tower.layers.{}.w", "multi_modal_projector.w"
CONFIG = {"architectures": ["M"], "model_type": "mine", **VISION_LANGUAGE}


def layers(prefix: str, count: int, *suffixes: str) -> list[str]:
    return [f"{prefix}{layer}.{suffix}" for layer in range(count) for suffix in suffixes or ("w",)]


def write_vlm(folder: Path, start: float, tower: int = 2) -> Path:
    """A language model of 3 layers with a vision tower; layer n holds ``start + n``."""
    value = float(start)
    tensors = {TEXT.format(n): torch.full((4,), value + n) for n in range(3)}
    tensors |= {TOWER.format(n): torch.full((3,), value + n) for n in range(tower)}
    tensors |= {JOINT: torch.full((2,), value), "language_model.embed_tokens.weight": torch.full((2,), value)}
    config = CONFIG | {"vision_config": {"num_hidden_layers": tower}}
    return write_checkpoint(folder, tensors, config)


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("vlm")
    models = {"a": write_vlm(root / "a", 10), "b": write_vlm(root / "b", 20), "other": write_vlm(root / "other", 1, 1)}
    text = {TEXT.format(n).removeprefix("language_model."): torch.ones(4) for n in range(3)}
    coder = {f"{side}.block.{n}.w": torch.ones(4) for side in ("encoder", "decoder") for n in range(3)}
    config = {"num_layers": 3, "num_decoder_layers": 3}
    models["coder"] = write_checkpoint(root / "coder", coder, config)
    return models | {"text": write_checkpoint(root / "text", text, {"num_hidden_layers": 3})}


def firsts(tensors: dict[str, torch.Tensor], pattern: str) -> list[float]:
    found: list[float] = []
    while (name := pattern.format(len(found))) in tensors:
        found.append(round(float(tensors[name][0]), 4))
    return found


def test_models_are_merged_in_every_part_with_gradients_along_its_own_layers(
    vlm: dict[str, Path], tmp_path: Path
) -> None:
    text = f"merge_method: slerp\nbase_model: {vlm['a']}\nmodels: [{{model: {vlm['b']}}}]\nparameters: {{t: [0, 1]}}\n"
    plan = plan_text(text, tmp_path)
    t = {tensor.name: tensor.parameters["t"] for tensor in plan.tensors}
    assert [t[TEXT.format(n)] for n in range(3)] == [0, 0.5, 1]
    assert [t[TOWER.format(n)] for n in range(2)] == [0, 1]
    assert t[JOINT] == 0


def test_slices_cut_the_language_model_and_take_the_rest_from_the_first_slice(
    vlm: dict[str, Path], tmp_path: Path
) -> None:
    text = f"""
merge_method: passthrough
slices:
  - sources: [{{model: {vlm["b"]}, layer_range: [0, 2]}}]
  - sources: [{{model: {vlm["a"]}, layer_range: [0, 3]}}]
"""
    result, plan = merged_tensors(text, tmp_path), plan_text(text, tmp_path)
    assert firsts(result, TEXT) == [20, 21, 10, 11, 12]
    assert firsts(result, TOWER) == [20, 21]
    assert float(result[JOINT][0]) == 20
    assert plan.config["text_config"]["num_hidden_layers"] == 5
    assert plan.config["vision_config"]["num_hidden_layers"] == 2
    used = {(i.model, i.header.name) for tensor in plan.tensors for i in tensor.inputs}
    dropped = {(d.model, d.tensor) for d in plan.dropped}
    everything = {(n, name) for n, m in enumerate(plan.models) for name in read_tensors(Path(m.location))}
    assert used | dropped == everything
    assert f"2 tensors of {vlm['a']}: the vision_tower is taken from another model" in dropped_tensors(plan)


def test_a_text_model_may_give_layers_to_the_language_model(vlm: dict[str, Path], tmp_path: Path) -> None:
    text = f"""
merge_method: passthrough
slices:
  - sources: [{{model: {vlm["a"]}, layer_range: [0, 1]}}]
  - sources: [{{model: {vlm["text"]}, layer_range: [1, 2]}}]
  - sources: [{{model: {vlm["a"]}, layer_range: [2, 3]}}]
"""
    assert firsts(merged_tensors(text, tmp_path), TEXT) == [10, 1, 12]


MODULES = """
merge_method: linear
modules:
  text_decoder:
    slices:
      - sources:
          - {{model: {a}, layer_range: [0, 2], parameters: {{weight: 1}}}}
          - {{model: {b}, layer_range: [1, 3], parameters: {{weight: 3}}}}
    parameters: {{normalize: true}}
  vision_tower:
    models: [{{model: {a}}}, {{model: {b}}}]
    parameters: {{weight: 0.5}}
"""


def test_modules_are_merged_each_on_its_own_and_others_are_the_donors(vlm: dict[str, Path], tmp_path: Path) -> None:
    text = MODULES.format(**vlm)
    plan, out = plan_text(text, tmp_path), merge_text(text, tmp_path)
    result = read_tensors(out)
    assert firsts(result, TEXT) == [(10 + 3 * 21) / 4, (11 + 3 * 22) / 4]
    assert firsts(result, TOWER) == [15, 16]
    assert float(result["language_model.embed_tokens.weight"][0]) == (10 + 3 * 20) / 4
    assert float(result[JOINT][0]) == 10
    assert plan.warnings == (f"module multi_modal_projector is not named, so it is that of {vlm['a']}, unchanged",)
    assert plan.config["text_config"]["num_hidden_layers"] == 2
    assert set(yaml.safe_load(plan.mergekit_config)["modules"]) == {"text_decoder", "vision_tower"}


def test_layer_ranges_left_out_are_written_for_mergekit(vlm: dict[str, Path], tmp_path: Path) -> None:
    slices = f"[{{sources: [{{model: {vlm['a']}}}]}}]"
    plan = plan_text(f"merge_method: passthrough\nmodules: {{vision_tower: {{slices: {slices}}}}}\n", tmp_path)
    (source,) = yaml.safe_load(plan.mergekit_config)["modules"]["vision_tower"]["slices"][0]["sources"]
    assert source["layer_range"] == [0, 2]


def test_the_module_default_is_the_whole_model(vlm: dict[str, Path], tmp_path: Path) -> None:
    body = f"models: [{{model: {vlm['a']}}}, {{model: {vlm['b']}}}]"
    one = merged_tensors(f"merge_method: linear\nparameters: {{weight: 1}}\n{body}\n", tmp_path)
    other = merged_tensors(
        f"merge_method: linear\nmodules: {{default: {{{body}, parameters: {{weight: 1}}}}}}\n", tmp_path
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


WRONG = {
    "a module that is misspelt": (
        "merge_method: passthrough\nmodules: {{vision_towr: {{models: [{{model: {a}}}]}}}}",
        r"modules\.vision_towr: .* has the parts text_decoder, vision_tower, multi_modal_projector; there is no "
        r"vision_towr, did you mean 'vision_tower'\?",
    ),
    "a model without that module": (
        "merge_method: linear\nparameters: {{weight: 1}}\n"
        "modules: {{vision_tower: {{models: [{{model: {a}}}, {{model: {text}}}]}}}}",
        r"modules\.vision_tower\.models: .*text has the parts default; there is no vision_tower",
    ),
    "layers of a module out of bounds": (
        "merge_method: passthrough\n"
        "modules: {{vision_tower: {{slices: [{{sources: [{{model: {a}, layer_range: [1, 3]}}]}}]}}}}",
        r"modules\.vision_tower\.slices\[0\]\.sources\[0\]\.layer_range: \[1, 3\] is out of bounds: .* has 2 layers",
    ),
    "models of other parts": (
        "merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: {text}}}, {{model: {a}}}]",
        r"models: .*text has no tensor language_model\.embed_tokens\.weight",
    ),
    "neither encoder nor decoder": (
        "merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: {coder}}}, {{model: {text}}}]",
        r"models: .*text has the parts default; there is no decoder, which another source has",
    ),
    "towers of other depth": (
        "merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: {a}}}, {{model: {other}}}]",
        r"models: sources differ in their number of layers: .*a \[0, 2\] has 2; /\S*other \[0, 1\] has 1",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_the_parts_is_a_plan_error(case: str, vlm: dict[str, Path], tmp_path: Path) -> None:
    text, message = WRONG[case]
    with pytest.raises(PlanError, match=message):
        plan_text(text.format(**vlm) + "\n", tmp_path)


def test_parts_that_share_a_layer_count_are_cut_alike_or_not_at_all(tmp_path: Path) -> None:
    """An older T5 config has one count for both."""
    tensors = {name: torch.ones(2) for name in [*layers("encoder.block.", 3), *layers("decoder.block.", 3, "a", "b")]}
    model = write_checkpoint(tmp_path / "m", tensors, {"num_layers": 3, "model_type": "mine"})
    body = f"{{slices: [{{sources: [{{model: {model}, layer_range: [0, 2]}}]}}]}}"
    both = f"merge_method: passthrough\nmodules: {{encoder: {body}, decoder: {body}}}\n"
    assert plan_text(both, tmp_path).config["num_layers"] == 2
    with pytest.raises(
        PlanError, match=r"num_layers is the layer count of decoder\.block\.\* and of encoder\.block\.\*"
    ):
        plan_text(f"merge_method: passthrough\nmodules: {{decoder: {body}}}\n", tmp_path)


def test_sources_with_other_stacks_are_an_error(tmp_path: Path) -> None:
    config = {"n_layers": 3, "model_type": "mine"}
    one = {name: torch.ones(2) for name in layers("attentions.", 3)}
    both = one | {name: torch.ones(2) for name in layers("ffns.", 3)}
    wide, narrow = write_checkpoint(tmp_path / "wide", both, config), write_checkpoint(tmp_path / "narrow", one, config)
    slices = "\n".join(f"  - sources: [{{model: {model}, layer_range: [0, 2]}}]" for model in (wide, narrow))
    message = r"slices\[1\]: .*narrow has attentions\.\*, .*wide has attentions\.\*, ffns\.\*; merge models of one"
    with pytest.raises(PlanError, match=message):
        plan_text(f"merge_method: passthrough\nslices:\n{slices}\n", tmp_path)


def test_a_donor_of_the_config_without_such_layers_is_an_error(vlm: dict[str, Path], tmp_path: Path) -> None:
    donor = write_checkpoint(tmp_path / "d", {"x": torch.ones(2)}, {"model_type": "mine"})
    text = f"merge_method: passthrough\nbase_model: {donor}\nmodels: [{{model: {vlm['text']}}}]\n"
    with pytest.raises(PlanError, match=r"models: .*d, which gives the config, has no default layers"):
        plan_text(text, tmp_path)


def test_the_first_module_listed_gives_the_donor(vlm: dict[str, Path], tmp_path: Path) -> None:
    tower, text = (f"{{models: [{{model: {vlm[name]}}}]}}" for name in "ba")
    plan = plan_text(f"merge_method: passthrough\nmodules: {{vision_tower: {tower}, text_decoder: {text}}}\n", tmp_path)
    assert plan.models[plan.donor].reference == str(vlm["b"])


def test_parameters_of_a_module_go_before_the_recipes(vlm: dict[str, Path], tmp_path: Path) -> None:
    models = f"models: [{{model: {vlm['a']}}}, {{model: {vlm['b']}}}]"
    result = merged_tensors(
        "merge_method: linear\nparameters: {weight: 1, normalize: true}\nmodules:\n"
        f"  text_decoder: {{{models}, parameters: {{normalize: false}}}}\n  vision_tower: {{{models}}}\n",
        tmp_path,
    )
    assert firsts(result, TEXT) == [30, 32, 34]
    assert firsts(result, TOWER) == [15, 16]


def test_other_parts_take_base_and_parameters_of_the_first_slice(vlm: dict[str, Path], tmp_path: Path) -> None:
    text = f"""
merge_method: task_arithmetic
slices:
  - base_model: {vlm["b"]}
    parameters: {{lambda: 0.5}}
    sources:
      - {{model: {vlm["a"]}, layer_range: [0, 2], parameters: {{weight: 3}}}}
      - {{model: {vlm["b"]}, layer_range: [0, 2]}}
  - base_model: {vlm["a"]}
    sources:
      - {{model: {vlm["a"]}, layer_range: [0, 1]}}
      - {{model: {vlm["b"]}, layer_range: [0, 1], parameters: {{weight: 1}}}}
"""
    result = merged_tensors(text, tmp_path)
    assert firsts(result, TEXT) == [5, 6, 20]
    assert firsts(result, TOWER) == [5, 6]


def test_gradients_of_slices_stand_at_their_start_in_other_parts(vlm: dict[str, Path], tmp_path: Path) -> None:
    sources = f"[{{model: {vlm['a']}}}, {{model: {vlm['b']}}}]"
    text = (
        f"merge_method: slerp\nbase_model: {vlm['a']}\nslices: [{{sources: {sources}}}]\nparameters: {{t: [0.2, 1]}}\n"
    )
    t = {tensor.name: tensor.parameters["t"] for tensor in plan_text(text, tmp_path).tensors}
    assert [t[TOWER.format(n)] for n in range(2)] == [0.2, 0.2]
    assert t[TEXT.format(2)] == 1
