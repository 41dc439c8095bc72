"""Contract: a variant has every file that the donor's classes need, and the terms on which it may be passed on."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from merge_assets.checkpoint import carried_files, fingerprint_files, open_checkpoint, read_tokenizer
from merge_assets.errors import CheckpointError
from merge_assets.plan.describe import left_files
from tests.checkpoint_support import sharded, write_files
from tests.merging import merge_text, plan_text
from tests.vocabulary_support import word_model

AUTO = {"auto_map": {"AutoTokenizer": [None, "own.Own"]}}


@pytest.mark.parametrize("name", ["tokenizer_config.json", "processor_config.json", "preprocessor_config.json"])
def test_code_that_a_file_beside_the_config_names_is_carried(name: str, tmp_path: Path) -> None:
    folder = write_files(sharded(tmp_path), {name: AUTO, "own.py": b"x = 1\n"})
    assert "own.py" in carried_files(open_checkpoint(folder))
    (folder / name).write_text("{}")
    assert "own.py" not in carried_files(open_checkpoint(folder)), "nothing names it"


@pytest.mark.parametrize(
    "name", ["spm.spm", "bpe.codes", "vocab.bpe", "normalizer.json", "tekken.json", "LICENSE", "LICENSE.txt", "NOTICE"]
)
def test_vocabularies_of_all_kinds_and_terms_are_carried(name: str, tmp_path: Path) -> None:
    folder = write_files(sharded(tmp_path), {name: b"content"})
    assert name in carried_files(open_checkpoint(folder))
    covered = fingerprint_files([name], [])
    assert (name in covered) is not name.startswith(("LICENSE", "NOTICE")), "terms are no part of what a model computes"


@pytest.mark.slow
def test_a_tokenizer_of_its_own_code_loads_from_the_variant(tmp_path: Path) -> None:
    folder = word_model(tmp_path / "a", "<unk>", "the", "cat")
    code = "from transformers import PreTrainedTokenizerFast\nclass Own(PreTrainedTokenizerFast):\n    own = True\n"
    write_files(folder, {"tokenizer_config.json": {"tokenizer_class": "Own", **AUTO}, "own.py": code.encode()})
    out = merge_text(f"merge_method: passthrough\nmodels: [{{model: {folder}}}]\n", tmp_path)
    assert (out / "own.py").read_text() == code
    assert AutoTokenizer.from_pretrained(out, trust_remote_code=True).own


@pytest.mark.parametrize(
    ("name", "kind"), [("tekken.json", "tekken"), ("qwen.tiktoken", "tiktoken"), ("a.spm", "sentencepiece")]
)
def test_a_tokenizer_that_is_not_read_is_called_so(name: str, kind: str, tmp_path: Path) -> None:
    folder = write_files(sharded(tmp_path), {name: b"{}"})
    with pytest.raises(CheckpointError, match=rf"has its tokenizer in {name} \({kind}.*not read.*tokenizer\.json"):
        read_tokenizer(open_checkpoint(folder))


def test_files_that_are_not_carried_are_in_the_plan(tmp_path: Path) -> None:
    folder = word_model(tmp_path / "a", "<unk>", "the", "cat")
    left = ("model.onnx", "pytorch_model.bin", "training_args.bin")
    write_files(folder, dict.fromkeys(left, b"x") | {"LICENSE": b"x", "README.md": b"x", ".gitattributes": b"x"})
    recipe = f"merge_method: passthrough\nmodels: [{{model: {folder}}}]\n"
    plan = plan_text(recipe, tmp_path)
    assert plan.left_files == left
    assert left_files(plan) == f"model.onnx, pytorch_model.bin, training_args.bin of {folder}"
    for name in left:
        (folder / name).unlink()
    without = plan_text(recipe, tmp_path)
    assert without.left_files == () and "left_files" not in without.to_json() and without.key == plan.key
