"""Whatever a recipe, a header, an index, a config, a tokenizer or an adapter holds: a result or one clear error.

Never another exception, a hang, memory beyond the bound, or a path outside the project; see :mod:`tests.fuzz.guard`. The same
targets run under atheris for as long as one likes: ``make fuzz TIME=3600``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merge_assets.checkpoint import open_checkpoint
from merge_assets.errors import CheckpointError
from tests.fuzz.guard import FuzzFailure, guarded
from tests.fuzz.inputs import RECIPES, pickled_files, quantised_files, write_folder
from tests.fuzz.mutations import damaged, damaged_bytes, damaged_json
from tests.fuzz.run import TARGETS as NAMES
from tests.fuzz.targets import TARGETS, Project, seeds

pytestmark = pytest.mark.slow

SHARD = "model-00001-of-00002.safetensors"
SOUND = Project.sound()
QUANTISED, PICKLED = quantised_files(), pickled_files()
SOUND_RECIPES = [(text.encode(), json.dumps(yaml.safe_load(text)).encode()) for text in RECIPES.values()]
"""As YAML, and as JSON, which is YAML too."""


def header_of(file: bytes) -> bytes:
    return file[8 : 8 + int.from_bytes(file[:8], "little")]


def examples(count: int) -> settings:
    """Of a property; ``make fuzz`` tries others for as long as it is told."""
    unimportant = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=count, suppress_health_check=unimportant)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project(tmp_path_factory.mktemp("fuzz"))
    made.warm_up()
    return made


@pytest.mark.parametrize("target", TARGETS)
def test_sound_inputs_pass(project: Project, target: str) -> None:
    assert tuple(TARGETS) == NAMES
    for seed in seeds(project, target):
        TARGETS[target](project, seed)


@examples(120)
@given(st.sampled_from(SOUND_RECIPES).flatmap(lambda sound: damaged_bytes(sound[0]) | damaged_json(sound[1])))
def test_recipes(project: Project, data: bytes) -> None:
    project.recipe(data)


@examples(100)
@given(damaged_json(header_of(SOUND[SHARD])))
def test_headers(project: Project, data: bytes) -> None:
    project.header(data)


@examples(80)
@given(damaged_bytes(SOUND[SHARD]))
def test_shards(project: Project, data: bytes) -> None:
    project.model({SHARD: data}, "linear")


@examples(80)
@given(damaged(SOUND["model.safetensors.index.json"]))
def test_indexes(project: Project, data: bytes) -> None:
    project.model({"model.safetensors.index.json": data}, "passthrough")


@examples(40)
@given(damaged(SOUND["config.json"]), st.sampled_from(["stack", "dus", "union", "ties"]))
def test_configs(project: Project, data: bytes, recipe: str) -> None:
    project.model({"config.json": data}, recipe)


@examples(25)
@given(damaged(SOUND["generation_config.json"]))
def test_generation_configs(project: Project, data: bytes) -> None:
    project.model({"generation_config.json": data}, "union")


@examples(40)
@given(damaged(SOUND["tokenizer.json"]), st.sampled_from(["union", "tokenizer"]))
def test_tokenizers(project: Project, data: bytes, recipe: str) -> None:
    project.model({"tokenizer.json": data}, recipe)


@examples(25)
@given(
    damaged(SOUND["tokenizer_config.json"]),
    damaged(SOUND["special_tokens_map.json"]),
    st.sampled_from(["union", "tokenizer"]),
)
def test_tokenizer_configs(project: Project, config: bytes, special: bytes, recipe: str) -> None:
    project.model({"tokenizer_config.json": config, "special_tokens_map.json": special}, recipe)


@examples(80)
@given(damaged(SOUND["adapter_config.json"]))
def test_adapter_configs(project: Project, data: bytes) -> None:
    project.adapter({"adapter_config.json": data})


@examples(80)
@given(damaged_json(header_of(SOUND["adapter_model.safetensors"])))
def test_adapter_headers(project: Project, data: bytes) -> None:
    sound = SOUND["adapter_model.safetensors"]
    rest = sound[8 + int.from_bytes(sound[:8], "little") :]
    project.adapter({"adapter_model.safetensors": len(data).to_bytes(8, "little") + data + rest})


@examples(60)
@given(damaged_json(header_of(QUANTISED["model.safetensors"])))
def test_headers_of_quantised_models(project: Project, data: bytes) -> None:
    sound = QUANTISED["model.safetensors"]
    rest = sound[8 + int.from_bytes(sound[:8], "little") :]
    project.model_of({**QUANTISED, "model.safetensors": len(data).to_bytes(8, "little") + data + rest})


@examples(30)
@given(damaged(QUANTISED["config.json"]))
def test_quantisation_configs(project: Project, data: bytes) -> None:
    project.model_of({**QUANTISED, "config.json": data})


@examples(80)
@given(damaged_bytes(PICKLED["pytorch_model.bin"]))
def test_pickled_models(project: Project, data: bytes) -> None:
    project.model_of({**PICKLED, "pytorch_model.bin": data})


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (lambda folder: Path("/etc/hostname").read_text(), "outside the folder"),
        (lambda folder: (folder / ".." / "other").write_text(""), "outside the folder"),
        (lambda folder: bytearray(2 << 30), "took more than"),
    ],
)
def test_the_guard_hears_what_it_is_for(tmp_path: Path, what: object, says: str) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(FuzzFailure, match=says), guarded(tmp_path / "in"):
        what(tmp_path / "in")  # type: ignore[operator]


@pytest.mark.parametrize("size", [99_000_000, 100_000_001, 2**40])
def test_a_header_that_claims_much(tmp_path: Path, size: int) -> None:
    """A sparse file: its header is as long as the limit allows, or longer, and holds nothing."""
    write_folder(tmp_path / "m", {"config.json": SOUND["config.json"]})
    file = tmp_path / "m" / "model.safetensors"
    file.write_bytes((size - 8).to_bytes(8, "little"))
    os.truncate(file, size)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: .*header"):
        open_checkpoint(tmp_path / "m")
    with guarded(tmp_path):
        open_checkpoint(tmp_path / "m")
