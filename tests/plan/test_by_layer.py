"""Contract: what a model holds for each of its layers outside of them goes with the layers, by what transformers gives each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from merge_assets.errors import PlanError
from tests.architectures import FAMILIES
from tests.family import Family
from tests.merging import merge_text, plan_text
from tests.synthetic import read_tensors

NAMES = ("Gemma3n (text)", "Gemma4 (text)")
TOKENS, PROJECTION = "model.embed_tokens_per_layer.weight", "model.per_layer_model_projection.weight"
KINDS = ["sliding_attention", "full_attention"] * 3
SIX: Mapping[str, Mapping[str, Any]] = {
    "Gemma3n (text)": {"activation_sparsity_pattern": [0.0, 0.0, 0.5, 0.0, 0.0, 0.0], "num_kv_shared_layers": 2},
    "Gemma4 (text)": {"num_kv_shared_layers": 2},
}
"""What six layers have, the last two of which take keys and values of earlier ones."""

Ranges = Sequence[tuple[int, int]]
CUTS: Mapping[str, Ranges] = {
    "prune": [(0, 2), (4, 6)],
    "stack": [(0, 4), (2, 6)],
    "exchange": [(2, 4), (0, 2), (4, 6)],
}


def family(name: str) -> Family:
    known = FAMILIES[name]
    settings = {**known.settings, **SIX[name], "num_hidden_layers": 6, "layer_types": KINDS}
    return Family(known.name, known.model, known.config, settings, dtype=torch.float32)


def slices(*models: Path, ranges: Ranges) -> str:
    sources = [", ".join(f"{{model: {model}, layer_range: [{a}, {b}]}}" for model in models) for a, b in ranges]
    return "slices:\n" + "".join(f"- sources: [{each}]\n" for each in sources)


def given(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What each layer is given of tokens, (tokens, layers, width), and of states."""
    body = model.model
    states = torch.linspace(-1, 1, 32 * ids.numel()).reshape(1, -1, 32)
    arguments = (ids,) if "3n" in type(model).__name__ else (ids, None)
    with torch.inference_mode():
        return body.get_per_layer_inputs(*arguments)[0], body.project_per_layer_inputs(states)[0]


@pytest.mark.parametrize("tile", [{}, {"threads": 1, "tile": 37}], ids=["whole", "tiles"])
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", NAMES)
def test_every_layer_is_given_what_it_was_given(name: str, cut: str, tile: dict[str, int], tmp_path: Path) -> None:
    made, order = family(name), [layer for a, b in CUTS[cut] for layer in range(a, b)]
    folder = made.save(tmp_path / "a", 1)
    out = merge_text(f"merge_method: passthrough\n{slices(folder, ranges=CUTS[cut])}", tmp_path, **tile)
    ids = torch.arange(3, 9)[None]
    before, _ = made.load(folder)
    after, report = made.load(out)
    assert {kind: names for kind, names in report.items() if names} == {}
    for ours, theirs in zip(given(after, ids), given(before, ids), strict=True):
        torch.testing.assert_close(ours, theirs[:, order], rtol=1e-6, atol=1e-6)
    assert torch.isfinite(made.run(after)).all()
    config = json.loads((out / "config.json").read_text())
    assert config["num_hidden_layers"] == len(config["layer_types"]) == len(order)


def test_a_merge_of_layers_that_are_left_out_in_all_models(tmp_path: Path) -> None:
    made = family(NAMES[0])
    a, b = (made.save(tmp_path / str(seed), seed) for seed in (1, 2))
    text = f"merge_method: linear\nparameters: {{weight: 1}}\n{slices(a, b, ranges=CUTS['prune'])}"
    found, one, other = (read_tensors(folder) for folder in (merge_text(text, tmp_path), a, b))
    for name, axis in ((TOKENS, 1), (PROJECTION, 0)):
        mean = ((one[name].double() + other[name].double()) / 2).chunk(6, axis)
        torch.testing.assert_close(
            found[name].double(), torch.cat([mean[n] for n in (0, 1, 4, 5)], axis), rtol=1e-7, atol=0
        )


def test_layers_of_several_models_one_above_the_other_are_refused(tmp_path: Path) -> None:
    made = family(NAMES[1])
    a, b = (made.save(tmp_path / str(seed), seed) for seed in (1, 2))
    text = f"merge_method: passthrough\n{slices(a, ranges=[(0, 4)])}{slices(b, ranges=[(4, 6)]).partition(chr(10))[2]}"
    with pytest.raises(PlanError, match=r"slices.0.*per_layer.* blocks of several models are not put together"):
        plan_text(text, tmp_path)


def test_a_size_that_the_config_does_not_say_is_refused(tmp_path: Path) -> None:
    folder = family(NAMES[0]).save(tmp_path / "a", 1)
    config = json.loads((folder / "config.json").read_text()) | {"hidden_size_per_layer_input": 4}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(PlanError, match=r"says 6 layers with hidden_size_per_layer_input 4; mend its config"):
        plan_text(f"merge_method: passthrough\n{slices(folder, ranges=CUTS['prune'])}", tmp_path)


def test_whole_models_are_merged_as_they_are(tmp_path: Path) -> None:
    folder = family(NAMES[0]).save(tmp_path / "a", 1)
    plan = plan_text(f"merge_method: passthrough\n{slices(folder, ranges=[(0, 3), (3, 6)])}", tmp_path)
    assert all(tensor.is_copy for tensor in plan.tensors)
