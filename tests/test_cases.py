"""Cases that people met, rebuilt small: one test for each, by its number, with further instances of its kind.

What is right was said for each case before the program could do it; numbers are held against the formula, computed here. The
kinds are tested in the rooms that they concern; ``pytest -k case_04`` runs one case.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from tests.architectures import FAMILIES
from tests.checkpoint_support import write_files
from tests.commands import run_command
from tests.family import SMALL, TEXT, Family
from tests.hub_server import HubServer
from tests.merging import merge_text, merged_tensors, plan_text
from tests.synthetic import llama_config, read_tensors, write_checkpoint, write_llama
from tests.vocabulary_support import word_model

Tensors = Mapping[str, torch.Tensor]

PASS = "merge_method: passthrough\n"
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def passed(folder: Path, more: str = "") -> str:
    return f"{PASS}models: [{{model: {folder}}}]\n{more}"


def cut(folder: Path, *ranges: tuple[int, int]) -> str:
    sources = "".join(f"- sources: [{{model: {folder}, layer_range: {list(span)}}}]\n" for span in ranges)
    return f"{PASS}slices:\n{sources}"


def linear(a: Path, b: Path) -> str:
    models = f"[{{model: {a}, parameters: {{weight: 0.25}}}}, {{model: {b}, parameters: {{weight: 0.5}}}}]"
    return f"merge_method: linear\nmodels: {models}\n"


def check_mean(found: Tensors, a: Tensors, b: Tensors) -> None:
    """0.25a + 0.5b over 0.75, up to one rounding."""
    for name, tensor in found.items():
        exact = (0.25 * a[name].double() + 0.5 * b[name].double()) / 0.75
        half = torch.finfo(tensor.dtype).eps / 2
        torch.testing.assert_close(tensor.double(), exact, rtol=1.001 * half, atol=1e-12)


def check_same(found: Tensors, wanted: Tensors) -> None:
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def loads(family: Family, folder: Path) -> None:
    """Transformers has every tensor of the files, and the files every tensor of the model."""
    _, report = family.load(folder)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]


# -- 01 to 05 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["offline", "404", "403", "429"])
def test_case_01_a_model_of_the_hub_that_cannot_be_read_is_one_line(answer: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "merge_method: linear\n"
        "models: [{model: org/base-7b, parameters: {weight: 1}}, {model: org/tower-7b, parameters: {weight: 1}}]\n"
    )
    with HubServer() as server:
        server.refuse["*"] = (int(answer) if answer != "offline" else 500, {})
        url = {} if answer == "offline" else {"MERGE_ASSETS_HUB_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0"}
        done = run_command("plan", "recipe.yaml", root=tmp_path, environment=url)
    assert done.code == 2 and "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: recipe.yaml: org/base-7b: ")


UNLIMITED = {
    "mamba2": {"time_step_limit": [0.0, math.inf]},
    "a recent transformers": {"time_step_limit": [0.0, {"__float__": "Infinity"}]},
    "another key": {"rope_parameters": {"limit": -math.inf}, "logits": math.inf},
}


@pytest.mark.parametrize("kind", UNLIMITED)
def test_case_02_a_config_may_hold_infinity(kind: str, tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "a", 2)
    (folder / "config.json").write_text(json.dumps(llama_config(2) | UNLIMITED[kind]))
    out = merge_text(passed(folder), tmp_path)
    check_same(read_tensors(out), read_tensors(folder))
    assert UNLIMITED[kind].items() <= json.loads((out / "config.json").read_text()).items()


PREDICTIONS = {
    "mtp beside the layers": ("mtp.layers.0.mlp.up_proj.weight", {}),
    "beyond the last layer": ("model.layers.4.eh_proj.weight", {"num_nextn_predict_layers": 1}),
    "nextn": ("model.nextn.0.proj.weight", {"mtp_num_hidden_layers": 1}),
}


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_case_03_what_predicts_further_tokens_is_the_bases(kind: str, tmp_path: Path) -> None:
    name, settings = PREDICTIONS[kind]
    extra = torch.randn(8, 4, generator=torch.Generator().manual_seed(7)).bfloat16()
    base, tuned = write_llama(tmp_path / "a", edit={name: extra}), write_llama(tmp_path / "b", seed=1)
    (base / "config.json").write_text(json.dumps(llama_config(4) | settings))
    recipe = f"merge_method: task_arithmetic\nbase_model: {base}\n"
    recipe += f"models: [{{model: {tuned}, parameters: {{weight: 1}}}}]\n"
    out, a, b = merge_text(recipe, tmp_path), read_tensors(base), read_tensors(tuned)
    found = read_tensors(out)
    assert found.keys() == a.keys() and torch.equal(found[name], extra)
    for each in found.keys() & b.keys():
        change = b[each].float() - a[each].float()
        assert torch.equal(found[each], (a[each].double() + change.double()).bfloat16())
    assert any(name in warning and "carried" in warning for warning in plan_text(recipe, tmp_path).warnings)


@pytest.mark.parametrize("method", ["dare_ties", "della", "dare_linear"])
def test_case_04_tied_tensors_stored_twice_stay_one(method: str, tmp_path: Path) -> None:
    folders = []
    for seed, name in enumerate("abc"):
        shared = torch.randn(32, 16, generator=torch.Generator().manual_seed(seed)).bfloat16()
        folder = write_llama(tmp_path / name, seed=seed, edit={EMBED: shared, HEAD: shared.clone()})
        (folder / "config.json").write_text(json.dumps(llama_config(4, tied=True)))
        folders.append(folder)
    base, *others = folders
    models = "".join(f"- {{model: {folder}, parameters: {{weight: 0.5, density: 0.5}}}}\n" for folder in others)
    out = merge_text(f"merge_method: {method}\nbase_model: {base}\nmodels:\n{models}", tmp_path)
    found = read_tensors(out)
    assert torch.equal(found[EMBED], found[HEAD]) and not torch.equal(found[EMBED], read_tensors(base)[EMBED])
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is True


@pytest.mark.slow
@pytest.mark.parametrize("place", ["tokenization_x", "tokenizer"])
def test_case_05_code_of_a_tokenizer_is_carried(place: str, tmp_path: Path) -> None:
    folder = word_model(tmp_path / "a", "<unk>", "the", "cat")
    code = "from transformers import PreTrainedTokenizerFast\nclass XTokenizer(PreTrainedTokenizerFast):\n    pass\n"
    auto = {"tokenizer_class": "XTokenizer", "auto_map": {"AutoTokenizer": [None, f"{place}.XTokenizer"]}}
    write_files(folder, {"tokenizer_config.json": auto, f"{place}.py": code.encode()})
    out = merge_text(passed(folder), tmp_path)
    shutil.rmtree(folder)
    assert type(AutoTokenizer.from_pretrained(out, trust_remote_code=True)).__name__ == "XTokenizer"


# -- 06 to 10 -------------------------------------------------------------------------------------------------------------

NESTED = {
    "Gemma3 (vision)": {"language_model.model.": "model.language_model.", "vision_tower.": "model.vision_tower.",
                        "multi_modal_projector.": "model.multi_modal_projector."},
    "LLaVA": {"language_model.model.": "model.language_model.", "language_model.lm_head.": "lm_head.",
              "vision_tower.": "model.vision_tower.", "multi_modal_projector.": "model.multi_modal_projector."},
    "Qwen2.5-VL": {"visual.": "model.visual.", "model.": "model.language_model."},
}  # fmt: skip
"""What names begin with in files of the Hub, and in those that transformers 5 writes."""


@pytest.mark.parametrize("name", NESTED)
@pytest.mark.parametrize("older_first", [True, False])
def test_case_06_two_spellings_of_one_class(name: str, older_first: bool, tmp_path: Path) -> None:
    family, stems = FAMILIES[name], NESTED[name]
    folders = [family.save(tmp_path / seed, int(seed)) for seed in "12"]
    tensors = [dict(read_tensors(folder)) for folder in folders]
    for place, spelled in enumerate((0, 1) if older_first else (1, 0)):
        other = {value: key for key, value in stems.items()} if spelled == 0 else stems
        tensors[place] = {_spelled(key, other): tensor for key, tensor in tensors[place].items()}
        config = json.loads((folders[place] / "config.json").read_text())
        shutil.rmtree(folders[place])
        write_checkpoint(folders[place], tensors[place], config)
    assert tensors[0].keys() != tensors[1].keys()
    out = merge_text(linear(*folders), tmp_path)
    found = read_tensors(out)
    assert found.keys() == tensors[0].keys()
    to = stems if older_first else {value: key for key, value in stems.items()}
    check_mean(found, tensors[0], {key: tensors[1][_spelled(key, to)] for key in found})
    loads(family, out)


def _spelled(name: str, stems: Mapping[str, str]) -> str:
    """The name with what it begins with exchanged; as it is if it begins with what is wanted."""
    if any(name.startswith(new) and len(new) > len(old) for old, new in stems.items() if new):
        return name
    return next((new + name.removeprefix(old) for old, new in stems.items() if name.startswith(old)), name)


POSITIONS = {
    "bert": ("BertModel", "BertConfig", "embeddings.position_ids"),
    "roberta": ("RobertaModel", "RobertaConfig", "embeddings.token_type_ids"),
    "clip": ("CLIPTextModel", "CLIPTextConfig", "text_model.embeddings.position_ids"),
}


@pytest.mark.parametrize("kind", POSITIONS)
def test_case_08_a_table_that_one_model_lacks(kind: str, tmp_path: Path) -> None:
    model, config, table = POSITIONS[kind]
    family = Family(kind, model, config, {**SMALL, "num_hidden_layers": 2}, dtype=torch.float32)
    a, b = (family.save(tmp_path / str(seed), seed) for seed in (1, 2))
    names = read_tensors(a)
    ids = torch.arange(64).reshape(1, 64)
    settings = json.loads((a / "config.json").read_text())
    shutil.rmtree(a)
    write_checkpoint(a, {**names, table: ids}, settings)
    found = merged_tensors(linear(a, b), tmp_path)
    assert torch.equal(found.pop(table), ids)
    check_mean(found, names, read_tensors(b))
    assert any(table in warning for warning in plan_text(linear(a, b), tmp_path).warnings)
    assert merged_tensors(linear(b, a), tmp_path).keys() == names.keys(), "the donor's class makes it"


WHOLE = {
    "model.layers.0.ffn.gate.tid2eid": torch.arange(64).reshape(32, 2),
    "model.mask": torch.tensor([True, False, True]),
    "model.layers.1.table": torch.arange(-3, 3, dtype=torch.int8),
}


@pytest.mark.parametrize("name", WHOLE)
def test_case_09_whole_numbers_that_all_agree_on_are_carried(name: str, tmp_path: Path) -> None:
    for seed, model in enumerate("ab"):
        write_llama(tmp_path / model, seed=seed, edit={name: WHOLE[name]})
    (tmp_path / "r.yaml").write_text(linear(Path("./a"), Path("./b")))
    done = run_command("merge", "r.yaml", "out", root=tmp_path)
    assert done.code == 0, done.stderr
    found = read_tensors(tmp_path / "out")
    assert torch.equal(found.pop(name), WHOLE[name])
    check_mean(found, read_tensors(tmp_path / "a"), read_tensors(tmp_path / "b"))


@pytest.mark.parametrize("kept", [(0, 4), (2, 8), (3, 4)])
def test_case_10_settings_of_single_layers_are_renumbered(kept: tuple[int, int], tmp_path: Path) -> None:
    kinds = ["sliding_attention"] * 3 + ["full_attention"]
    special = {"full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25}}
    settings = {
        **TEXT,
        "num_hidden_layers": 8,
        "head_dim": 8,
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 64,
        "layer_types": kinds * 2,
        "per_layer_config": {3: {"head_dim": 16}, 7: {"head_dim": 16}},
        "rope_parameters": special | {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}},
        "sliding_window": 8,
    }
    family = Family("Gemma4", "Gemma4ForCausalLM", "Gemma4TextConfig", settings)
    out = merge_text(cut(family.save(tmp_path / "a", 1), kept), tmp_path)
    config = json.loads((out / "config.json").read_text())
    assert config["per_layer_config"] == {str(n - kept[0]): {"head_dim": 16} for n in (3, 7) if kept[0] <= n < kept[1]}
    loads(family, out)


# -- 11 to 18 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module.", "module._orig_mod."])
def test_case_11_wrappers_of_training_go(wrapper: str, tmp_path: Path) -> None:
    plain = read_tensors(write_llama(tmp_path / "plain"))
    names = {f"{wrapper}{name}": tensor for name, tensor in plain.items()}
    found = merged_tensors(passed(write_checkpoint(tmp_path / "a", names, llama_config(4))), tmp_path)
    check_same(found, plain)


@pytest.mark.slow
def test_case_13_a_number_that_follows_from_the_place_of_a_layer_is_said(tmp_path: Path) -> None:
    """Of other kinds in ``tests/variant/test_depth.py``."""
    family = Family("DiffLlama", "DiffLlamaForCausalLM", "DiffLlamaConfig", {**TEXT, "num_hidden_layers": 8})
    (tmp_path / "r.yaml").write_text(cut(family.save(tmp_path / "a", 1), (0, 3), (4, 8)))
    done = run_command("plan", "r.yaml", root=tmp_path)
    assert done.code == 0
    place, home = (0.8 - 0.6 * math.exp(-0.3 * layer) for layer in (3, 4))
    said = " ".join(f"{done.stdout} {done.stderr}".split())
    assert f"layer 3 computes with self_attn.lambda_init {place:.4g}, and with {home:.4g} as layer 4" in said


MXFP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def test_case_15_four_bits_times_powers_of_two_are_numbers(tmp_path: Path) -> None:
    """Other packed releases in ``tests/checkpoint/test_packed.py``."""
    name, generator = "model.layers.0.mlp.experts.down_proj", torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (2, 64, 1, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(100, 140, (2, 64, 1), dtype=torch.uint8, generator=generator)
    config = llama_config(1) | {"quantization_config": {"quant_method": "mxfp4"}}
    tensors = {f"{name}_blocks": codes, f"{name}_scales": scales, "model.norm.weight": torch.ones(64).bfloat16()}
    out = merge_text(passed(write_checkpoint(tmp_path / "a", tensors, config)), tmp_path)
    raw = codes.numpy()
    values = MXFP4[np.stack((raw & 15, raw >> 4), axis=-1)].reshape(2, 64, 1, 32)
    exact = (values * 2.0 ** (scales.numpy().astype(float) - 127)[..., None]).reshape(2, 64, 32).swapaxes(1, 2)
    found = read_tensors(out)[name]
    assert found.dtype == torch.bfloat16 and np.array_equal(found.double().numpy(), exact)
    assert "quantization_config" not in json.loads((out / "config.json").read_text())


def test_case_17_what_is_computed_in_float32_stays_so(tmp_path: Path) -> None:
    """By what transformers makes of other families in ``tests/plan/test_precision.py``."""
    names = ("model.layers.0.mixer.A_log", "model.layers.0.mlp.gate.e_score_correction_bias")
    exact = {name: torch.linspace(0, 1, 7) for name in names}
    folder = write_llama(tmp_path / "a", dtype=torch.float32, edit=exact)
    found, before = merged_tensors(passed(folder, "dtype: bfloat16\n"), tmp_path), read_tensors(folder)
    check_same(found, {name: tensor if name in exact else tensor.bfloat16() for name, tensor in before.items()})
    assert {name for name, tensor in found.items() if tensor.dtype == torch.float32} == exact.keys()


@pytest.mark.parametrize("name", ["plus+code", "at@home", "a+b@c"])
def test_case_18_a_folder_that_exists_is_a_folder(name: str, tmp_path: Path) -> None:
    folder = write_llama(tmp_path / name, 1)
    (tmp_path / "r.yaml").write_text(f"{PASS}models:\n- model: {{model: {{path: './{name}'}}}}\n")
    done = run_command("merge", "r.yaml", "out", root=tmp_path)
    assert done.code == 0, done.stderr
    check_same(read_tensors(tmp_path / "out"), read_tensors(folder))
