"""What mergekit 0.1.5 runs, imported: the recipes that come of it give the tensors that mergekit gives.

Configs with what it reads past, with adapters, and files of several documents, which its program ``mergekit-multi`` runs.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from string import Template

import pytest
import torch

from merge_assets import api
from merge_assets.settings import Settings
from tests import needs, peer
from tests.adapter_support import LLAMA, save_adapter, save_base
from tests.synthetic import read_tensors

pytestmark = pytest.mark.peer

TOLERANCE = 1e-5
PAIR = "models:\n  - {model: $one, parameters: {weight: 0.6}}\n  - {model: $two, parameters: {weight: 0.4}}\n"
CONFIGS = {
    "task_arithmetic of an adapter": "merge_method: task_arithmetic\nbase_model: $one\n"
    "models:\n  - {model: $one+$lora, parameters: {weight: 1.0}}\n",
    "linear of a model with an adapter": "merge_method: linear\n"
    "models:\n  - {model: $one+$lora, parameters: {weight: 0.5}}\n  - {model: $two, parameters: {weight: 0.5}}\n",
    "a parameter that the method has not": f"merge_method: linear\n{PAIR}parameters: {{normalize: true, density: 0.5}}\n",
    "a parameter that no method has": f"merge_method: linear\n{PAIR}parameters: {{foo: 0.5}}\n",
    "weights of the base": "merge_method: task_arithmetic\nbase_model: $base\nmodels:\n"
    "  - {model: $base, parameters: {weight: 0.7}}\n  - {model: $one, parameters: {weight: 0.4}}\n",
    "slerp": "merge_method: slerp\nbase_model: $one\nmodels: [{model: $one}, {model: $two}]\nparameters: {t: 0.3}\n",
}
CHAIN = (
    f"name: half\nmerge_method: linear\n{PAIR}dtype: float32\n---\n"
    "name: there\nmerge_method: slerp\nbase_model: half\nmodels: [{model: half}, {model: $base}]\nparameters: {t: 0.25}\n"
    "dtype: float32\n---\n"
    "merge_method: task_arithmetic\nbase_model: $base\nmodels: [{model: there, parameters: {weight: 0.5}}]\ndtype: float32\n"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    found = {name: str(save_base(folder / name, LLAMA, seed=seed)) for seed, name in enumerate(("base", "one", "two"))}
    lora = needs.module("peft").LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"])
    return found | {"lora": str(save_adapter(folder / "lora", folder / "one", lora))}


def imported(text: str, root: Path) -> dict[str, torch.Tensor]:
    """What a config makes that is imported into a project of its own."""
    (root / "recipes").mkdir()
    (root / "config.yml").write_text(text)
    space = api.Workspace.open(Settings(root=root, device="cpu"))
    found = api.import_recipe(space, str(root / "config.yml"), name="ours")
    assert found.refused == ()
    api.write_recipe(space, found)
    space = api.Workspace.open(Settings(root=root, device="cpu"))
    api.merge(space, space.recipe("ours"), root / "out")
    return read_tensors(root / "out")


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    far = {
        name: float((ours[name].double() - other.double()).norm() / other.double().norm().clamp(min=1e-30))
        for name, other in theirs.items()
    }
    assert {name: error for name, error in far.items() if error > TOLERANCE} == {}


@pytest.fixture(scope="module")
def mergekit(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | peer.PeerError]:
    recipes = {name: f"{Template(text).substitute(models)}dtype: float32\n" for name, text in CONFIGS.items()}
    return peer.answers(recipes, tmp_path_factory.mktemp("mergekit"))


@pytest.mark.parametrize("name", CONFIGS)
def test_an_imported_config_makes_what_mergekit_makes_of_it(
    name: str, models: dict[str, str], mergekit: dict[str, Path | peer.PeerError], tmp_path: Path
) -> None:
    theirs = mergekit[name]
    assert isinstance(theirs, Path), theirs
    assert_equal(
        imported(f"{Template(CONFIGS[name]).substitute(models)}dtype: float32\n", tmp_path), read_tensors(theirs)
    )


def test_a_file_of_three_documents_makes_what_mergekit_multi_makes_of_it(
    models: dict[str, str], tmp_path: Path
) -> None:
    venv = peer.environment()
    if venv is None:
        peer.answers({}, tmp_path)  # skips, or fails where one was promised
    assert venv is not None
    text = Template(CHAIN).substitute(models)
    (tmp_path / "chain.yml").write_text(text)
    subprocess.run(
        [
            *(venv / "bin" / "mergekit-multi", tmp_path / "chain.yml"),
            *("--intermediate-dir", tmp_path / "intermediates", "--out-path", tmp_path / "theirs"),
            "--no-copy-tokenizer",
        ],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        check=True,
        capture_output=True,
    )
    assert_equal(imported(text, tmp_path), read_tensors(tmp_path / "theirs"))
