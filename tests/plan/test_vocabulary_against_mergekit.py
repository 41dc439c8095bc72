"""Vocabularies through mergekit 0.1.5 and through this engine: the same tokens, and the same row for every token.

The numbers of the tokens differ: mergekit adds to the tokenizer of a model picked at random. What else differs is at the end.
"""

from __future__ import annotations

import json
from pathlib import Path
from string import Template

import pytest
import torch
from transformers import AutoTokenizer

from tests import peer
from tests.merging import merge_text
from tests.plan.test_vocabulary_files import FAST, with_added
from tests.synthetic import read_tensors
from tests.vocabulary_support import (
    CORPUS,
    EMBED,
    HEAD,
    OTHER_CORPUS,
    by_token,
    document_of,
    tokens_of,
    trained,
    word_model,
    write_model,
)

pytestmark = pytest.mark.peer

WORDS = {"a": "<unk> all one cat sat", "b": "<unk> both all two mat", "c": "both all <unk> mat", "new": "all <unk> zig"}
LINEAR = (
    "merge_method: linear\nmodels:\n  - {model: $a, parameters: {weight: 0.5}}\n"
    "  - {model: $b, parameters: {weight: 0.25}}\n  - {model: $c, parameters: {weight: 0.25}}\n"
)
BASED = LINEAR + "base_model: $b\n"
SLERP = "merge_method: slerp\nbase_model: $a\nmodels: [{model: $a}, {model: $b}]\nparameters: {t: 0.3}\n"
TIES = (
    "merge_method: ties\nbase_model: $b\nmodels: [{model: $a}, {model: $c}]\n"
    "parameters: {weight: 0.6, density: 1, normalize: false}\n"
)
ARITHMETIC = TIES.replace("ties", "task_arithmetic").replace("density: 1, ", "")
STOCK = "merge_method: model_stock\nbase_model: $a\nmodels: [{model: $b}, {model: $c}]\n"


def tokens(*settings: str, source: str = "union") -> str:
    return f"tokenizer:\n  source: {source}\n  tokens:\n" + "".join(f"    {setting}\n" for setting in settings)


UNION = "tokenizer_source: union\n"
EQUAL = {
    "union": LINEAR + UNION,
    "union with a base": BASED + UNION,
    "union: slerp": SLERP + UNION,
    "union: ties": TIES + UNION,
    "union: task_arithmetic": ARITHMETIC + UNION,
    "union: model_stock": STOCK + UNION,
    "base": BASED + "tokenizer_source: base\n",
    "a model": BASED + "tokenizer_source: $c\n",
    "a token from a model": LINEAR + tokens("both: {source: $c}"),
    "a token forced": LINEAR + tokens("all: {source: $c, force: true}"),
    "zeros where it is missing": LINEAR + tokens("one: {source: {kind: zero}}"),
    "zeros forced": LINEAR + tokens("one: {source: {kind: zero}, force: true}"),
    "another token by number": LINEAR + tokens("one: {source: {kind: model_token, model: $b, token_id: 2}}"),
    "another token forced": LINEAR + tokens("one: {source: {kind: model_token, model: $b, token: two}, force: true}"),
    "new tokens": LINEAR
    + tokens("x: {source: {kind: model_token, model: $a, token: one}}", "y: {source: {kind: zero}}"),
    "byte-level": "merge_method: linear\nmodels: [{model: $p}, {model: $q}]\nparameters: {weight: 1}\n" + UNION,
}
DIFFERENT = {
    "padding": "merge_method: linear\nmodels: [{model: $padded}, {model: $a}]\nbase_model: $padded\n"
    "parameters: {weight: 1}\n" + UNION,
    "padded to a multiple": LINEAR + "tokenizer: {source: union, pad_to_multiple_of: 16}\n",
    "a token of a model that is not merged": "merge_method: linear\nmodels: [{model: $a}]\nparameters: {weight: 1}\n"
    + tokens("zig: {source: $new}"),
    "new tokens on a base": BASED + tokens("cat: {source: $a}", source="base"),
    "numbers beyond the rows": "merge_method: linear\nmodels: [{model: $short}, {model: $a}]\nbase_model: $a\n"
    "parameters: {weight: 1}\ntokenizer_source: base\n",
    "force alone": LINEAR + tokens("both: {force: true}"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    found = {}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
    for hundreds, (name, text) in enumerate(WORDS.items(), 1):
        generator = torch.Generator().manual_seed(hundreds)
        table = torch.randn(len(text.split()), 16, generator=generator)
        made = word_model(root / name, *text.split(), hundreds=hundreds, embedding=table, settings=settings)
        found[name] = str(made)
    padded = word_model(root / "padded", *WORDS["a"].split(), hundreds=5, rows=8, settings=settings)
    found["padded"] = str(padded)
    short = word_model(root / "short", *WORDS["a"].split(), hundreds=6, rows=4, settings=settings)
    found["short"] = str(short)
    for hundreds, (name, corpus) in enumerate({"p": CORPUS, "q": OTHER_CORPUS}.items(), 10):
        document = with_added(document_of(trained("bytes", corpus)), f"<|{name}|>")
        found[name] = str(write_model(root / name, document, hundreds=hundreds, settings=FAST))
    return found


@pytest.fixture(scope="module")
def mergekit(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | peer.PeerError]:
    """What mergekit makes of every recipe."""
    recipes = {name: recipe_of(recipe, models) for name, recipe in (EQUAL | DIFFERENT).items()}
    return peer.answers(recipes, tmp_path_factory.mktemp("mergekit"))


def recipe_of(text: str, models: dict[str, str]) -> str:
    return Template(text).substitute(models) + "dtype: float32\n"


def theirs(mergekit: dict[str, Path | peer.PeerError], name: str) -> Path:
    found = mergekit[name]
    if isinstance(found, peer.PeerError):
        raise found
    return found


def rows(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """The row of every token."""
    table = read_tensors(folder)[name]
    return {text: table[number] for text, number in AutoTokenizer.from_pretrained(folder).get_vocab().items()}


@pytest.mark.parametrize("name", EQUAL)
def test_every_token_has_the_row_that_mergekit_gives_it(name, models, mergekit, tmp_path):
    out = merge_text(recipe_of(EQUAL[name], models), tmp_path)
    for tensor in (EMBED, HEAD):
        mine, other = rows(out, tensor), rows(theirs(mergekit, name), tensor)
        assert mine.keys() == other.keys()
        far = {
            text: float((row - other[text]).norm() / other[text].norm().clamp(min=1e-6)) for text, row in mine.items()
        }
        assert {text: distance for text, distance in far.items() if distance > 1e-5} == {}
    sizes = [json.loads((folder / "config.json").read_text())["vocab_size"] for folder in (out, theirs(mergekit, name))]
    assert sizes[0] == sizes[1] == len(tokens_of(out))


# -- differences, as docs/mergekit.md lists them -----------------------------------------------------------------------


def test_padding_is_kept_where_the_vocabulary_is(models, mergekit, tmp_path):
    out = merge_text(recipe_of(DIFFERENT["padding"], models), tmp_path)
    assert read_tensors(out)[EMBED].shape[0] == 8
    assert read_tensors(theirs(mergekit, "padding"))[EMBED].shape[0] == 5


def test_rows_that_pad_to_a_multiple_are_zeros(models, mergekit, tmp_path):
    """mergekit fills them with a mean."""
    out = merge_text(recipe_of(DIFFERENT["padded to a multiple"], models), tmp_path)
    tables = [read_tensors(folder)[EMBED] for folder in (out, theirs(mergekit, "padded to a multiple"))]
    assert tables[0].shape == tables[1].shape
    count = len(tokens_of(out))
    assert not tables[0][count:].any()
    assert tables[1][count:].any()


def test_a_token_can_come_from_a_model_that_is_not_merged(models, mergekit, tmp_path):
    name = "a token of a model that is not merged"
    assert "that weight is missing" in str(mergekit[name])
    out = merge_text(recipe_of(DIFFERENT[name], models), tmp_path)
    assert by_token(out)["zig"] == by_token(Path(models["new"]))["zig"]


def test_a_token_of_another_model_can_join_a_vocabulary(models, mergekit, tmp_path):
    assert "KeyError" in str(mergekit["new tokens on a base"])
    out = merge_text(recipe_of(DIFFERENT["new tokens on a base"], models), tmp_path)
    assert tokens_of(out).keys() == {*WORDS["b"].split(), "cat"}
    assert by_token(out)["cat"] == by_token(Path(models["a"]))["cat"]


def test_numbers_beyond_the_rows_count_as_missing(models, mergekit, tmp_path):
    assert "KeyError" in str(mergekit["numbers beyond the rows"])
    out = merge_text(recipe_of(DIFFERENT["numbers beyond the rows"], models), tmp_path)
    assert by_token(out)["sat"] == by_token(Path(models["a"]))["sat"]


def test_force_without_a_source_takes_the_default_row(models, mergekit, tmp_path):
    assert isinstance(mergekit["force alone"], peer.PeerError)
    out = merge_text(recipe_of(DIFFERENT["force alone"], models), tmp_path)
    expected = (by_token(Path(models["b"]))["both"] + by_token(Path(models["c"]))["both"]) / 2
    assert by_token(out)["both"] == pytest.approx(expected, rel=1e-6)


def test_tokens_made_by_merging_stay_so(models, mergekit, tmp_path):
    """mergekit makes the other model's tokens added ones, which are cut out of the middle of words."""
    out = merge_text(recipe_of(EQUAL["byte-level"], models), tmp_path)
    mine, other = (
        json.loads((folder / "tokenizer.json").read_text()) for folder in (out, theirs(mergekit, "byte-level"))
    )
    assert {item["content"] for item in mine["added_tokens"]} == {"<s>", "</s>", "<|p|>", "<|q|>"}
    assert len(other["added_tokens"]) > 30
