"""Contract: every token of the output's vocabulary has the row that the recipe and mergekit's documented rules say.

Embeddings are marked: row r of model m holds 100·m + r, so an expectation is a number that can be read.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from merge_assets.errors import MergeAssetsError, PlanError
from tests.merging import merge_text, plan_text
from tests.synthetic import read_tensors
from tests.vocabulary_support import (
    COMMON,
    EMBED,
    HEAD,
    UNION,
    by_token,
    linear,
    numbered,
    tokens_of,
    word_document,
    word_model,
    write_model,
)

# -- the vocabulary ------------------------------------------------------------------------------------------------------


def test_a_union_has_the_donors_tokens_first_then_the_others_in_their_order(tmp_path: Path) -> None:
    a = word_model(tmp_path / "a", *COMMON, "a2", "a1")
    b = word_model(tmp_path / "b", "b2", *COMMON, "b1", "a1")
    c = word_model(tmp_path / "c", "c1", "b1", *COMMON)
    out = merge_text(linear(a, b, c, more=UNION), tmp_path)
    assert tokens_of(out) == numbered(*COMMON, "a2", "a1", "b2", "b1", "c1")
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 8


def test_the_base_model_is_the_donor_of_a_union(tmp_path: Path) -> None:
    a, b = word_model(tmp_path / "a", *COMMON, "a"), word_model(tmp_path / "b", "b", *COMMON)
    out = merge_text(linear(a, base=b, more=UNION), tmp_path)
    assert tokens_of(out) == numbered("b", *COMMON, "a")


def test_two_plans_of_a_union_are_the_same(tmp_path: Path) -> None:
    a, b = word_model(tmp_path / "a", *COMMON, "a"), word_model(tmp_path / "b", "b", *COMMON)
    texts = [plan_text(linear(a, b, more=UNION) + "name: x\n", tmp_path).to_json() for _ in range(2)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("source", ["base", "b"])
def test_the_vocabulary_of_one_model(tmp_path: Path, source: str) -> None:
    a = word_model(tmp_path / "a", *COMMON, "a1", "a2", hundreds=1)
    b = word_model(tmp_path / "b", "b1", *COMMON, hundreds=2)
    chosen = "base" if source == "base" else str(b)
    out = merge_text(linear(a, b, more=f"tokenizer: {{source: {chosen}}}\n"), tmp_path)
    if source == "base":  # tokens that b lacks have a's row in both
        assert by_token(out) == {"<unk>": 150.5, "the": 151.5, "cat": 152.5, "a1": 103, "a2": 104}
    else:
        assert by_token(out) == {"b1": 200, "<unk>": 150.5, "the": 151.5, "cat": 152.5}
    assert json.loads((out / "config.json").read_text())["vocab_size"] == len(tokens_of(out))


def test_the_plan_says_how_many_tokens_come_from_where(tmp_path: Path) -> None:
    a, b = word_model(tmp_path / "a", *COMMON, "a"), word_model(tmp_path / "b", "b", *COMMON, "b2")
    plan = plan_text(linear(a, b, more="tokenizer: {source: union, pad_to_multiple_of: 8}\n"), tmp_path)
    assert plan.vocabulary is not None
    assert (plan.vocabulary.tokens, plan.vocabulary.rows, plan.vocabulary.parts) == (6, 8, ((0, 4), (1, 2)))


# -- rows of single tokens -------------------------------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path: Path) -> tuple[Path, Path, Path]:
    """``one`` and ``two`` are in the models called so, ``both`` in b and c, ``all`` in all."""
    a = word_model(tmp_path / "a", "<unk>", "all", "one", hundreds=1)
    b = word_model(tmp_path / "b", "<unk>", "both", "all", "two", hundreds=2)
    c = word_model(tmp_path / "c", "both", "all", "<unk>", hundreds=4)
    return a, b, c


def test_a_token_that_all_models_have_is_merged_by_the_method(three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    out = merge_text(linear(*three, weights=(0.5, 0.25, 0.25), more=UNION), tmp_path)
    assert by_token(out)["all"] == 0.5 * 101 + 0.25 * 202 + 0.25 * 401
    assert by_token(out, HEAD)["all"] == -by_token(out)["all"]


def test_a_token_that_one_model_has_keeps_its_row(three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    out = merge_text(linear(*three, weights=(0.5, 0.25, 0.25), more=UNION), tmp_path)
    assert by_token(out)["one"] == 102
    assert by_token(out)["two"] == 203


def test_a_model_without_a_token_gets_the_mean_of_those_that_have_it(
    three: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    out = merge_text(linear(*three, weights=(0.5, 0.25, 0.25), more=UNION), tmp_path)
    assert by_token(out)["both"] == 0.5 * (201 + 400) / 2 + 0.25 * 201 + 0.25 * 400


def test_a_model_without_a_token_gets_the_base_models_row(three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    a, b, c = three
    out = merge_text(linear(a, c, weights=(0.5, 0.5), base=b, more=UNION), tmp_path)
    assert by_token(out)["both"] == 0.5 * 201 + 0.5 * 400
    assert by_token(out)["two"] == 203


TOKENS = {
    "from a model": ("both: {source: C}", "both", 0.5 * 400 + 0.25 * 201 + 0.25 * 400),
    "forced": ("all: {source: C, force: true}", "all", 401),
    "not forced": ("all: {source: C}", "all", 0.5 * 101 + 0.25 * 202 + 0.25 * 401),
    "zero where it is missing": ("one: {source: {kind: zero}}", "one", 0.5 * 102),
    "zero everywhere": ("one: {source: {kind: zero}, force: true}", "one", 0),
    "another token": ("one: {source: {kind: model_token, model: B, token: two}}", "one", 0.5 * 102 + 0.5 * 203),
    "a number": ("one: {source: {kind: model_token, model: B, token_id: 2}}", "one", 0.5 * 102 + 0.5 * 202),
    "another token, forced": (
        "one: {source: {kind: model_token, model: B, token: two}, force: true}",
        "one",
        203,
    ),
    "a new token": ("new: {source: {kind: model_token, model: A, token: one}}", "new", 102),
    "a new token of zeros": ("new: {source: {kind: zero}}", "new", 0),
    "force without a source takes the default": ("both: {force: true}", "both", (201 + 400) / 2),
}


@pytest.mark.parametrize("case", TOKENS)
def test_a_token_whose_row_the_recipe_chooses(case: str, three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    setting, token, expected = TOKENS[case]
    for name, folder in zip("ABC", three, strict=True):
        setting = setting.replace(f": {name}", f": {folder}")
    more = f"tokenizer:\n  source: union\n  tokens:\n    {setting}\n"
    out = merge_text(linear(*three, weights=(0.5, 0.25, 0.25), more=more), tmp_path)
    assert by_token(out)[token] == expected
    assert by_token(out, HEAD)[token] == -expected


def test_a_new_token_follows_the_others_and_is_special(three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    a, *_ = three
    more = "tokenizer: {source: base, tokens: {'<|new|>': {source: {kind: zero}}}}\n"
    out = merge_text(linear(a, more=more), tmp_path)
    assert tokens_of(out) == numbered("<unk>", "all", "one", "<|new|>")
    (added,) = json.loads((out / "tokenizer.json").read_text())["added_tokens"]
    assert (added["content"], added["id"], added["special"]) == ("<|new|>", 3, True)


def test_a_token_that_a_model_makes_by_merging_is_found_but_not_special(
    three: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    a, b, _ = three
    out = merge_text(linear(a, b, more="tokenizer: {source: base, tokens: {both: {}}}\n"), tmp_path)
    (added,) = json.loads((out / "tokenizer.json").read_text())["added_tokens"]
    assert (added["content"], added["id"], added["special"]) == ("both", 3, False)
    assert by_token(out)["both"] == 201


def test_a_model_that_only_gives_a_token_adds_no_others(three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    a, b, _ = three
    out = merge_text(linear(a, more=f"tokenizer: {{source: union, tokens: {{two: {{source: {b}}}}}}}\n"), tmp_path)
    assert by_token(out) == {"<unk>": 100, "all": 101, "one": 102, "two": 203}


# -- rows and their number -------------------------------------------------------------------------------------------------


def test_rows_are_padded_to_a_multiple_with_zeros(three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    more = "tokenizer: {source: union, pad_to_multiple_of: 8}\n"
    out = merge_text(linear(*three, more=more), tmp_path)
    for table in (read_tensors(out)[EMBED], read_tensors(out)[HEAD]):
        assert table.shape[0] == 8
        assert not table[5:].any()
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 8


def test_the_original_padding_is_kept_where_the_vocabulary_is(tmp_path: Path) -> None:
    """Both have three tokens; the base has five rows, the other four."""
    a = word_model(tmp_path / "a", *COMMON, hundreds=1, rows=5)
    b = word_model(tmp_path / "b", *COMMON, hundreds=2, rows=4)
    out = merge_text(linear(a, b, base=a, more=UNION), tmp_path)
    assert read_tensors(out)[EMBED][:, 0].tolist() == [150, 151, 152, 153, 104]
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 5


def test_equal_vocabularies_with_equal_padding_are_merged_row_by_row(tmp_path: Path) -> None:
    a = word_model(tmp_path / "a", *COMMON, hundreds=1, rows=8)
    b = word_model(tmp_path / "b", *COMMON, hundreds=2, rows=8)
    plan = plan_text(linear(a, b, more=UNION), tmp_path)
    assert not any(tensor.makes_inputs for tensor in plan.tensors)
    assert plan.written == ()


def test_new_tokens_take_the_numbers_of_the_padding(tmp_path: Path) -> None:
    a = word_model(tmp_path / "a", *COMMON, hundreds=1, rows=8)
    b = word_model(tmp_path / "b", *COMMON, "b", hundreds=2)
    out = merge_text(linear(a, b, more=UNION), tmp_path)
    assert tokens_of(out) == numbered(*COMMON, "b")
    assert read_tensors(out)[EMBED][:, 0].tolist() == [150, 151, 152, 203]


def test_a_token_beyond_the_embeddings_rows_counts_as_missing(tmp_path: Path) -> None:
    a = word_model(tmp_path / "a", *COMMON, "new", hundreds=1, rows=3)
    b = word_model(tmp_path / "b", *COMMON, "new", hundreds=2)
    for donor in (a, b):
        out = merge_text(linear(a, b, base=donor, more=UNION), tmp_path)
        assert by_token(out) == {"<unk>": 150, "the": 151, "cat": 152, "new": 203}


def test_a_token_beyond_all_rows_gets_zeros_and_a_warning(tmp_path: Path) -> None:
    a = word_model(tmp_path / "a", *COMMON, "new", hundreds=1, rows=3)
    b = word_model(tmp_path / "b", *COMMON, hundreds=2)
    text = linear(a, b, more=UNION)
    assert "tokens without an embedding in any model get zeros: new" in plan_text(text, tmp_path).warnings
    assert by_token(merge_text(text, tmp_path))["new"] == 0


def test_numbers_that_name_no_token_keep_the_donors_rows(tmp_path: Path) -> None:
    gap = word_document({"<unk>": 0, "the": 1, "cat": 4})
    a = write_model(tmp_path / "a", gap, hundreds=1)
    b = word_model(tmp_path / "b", *COMMON, "b", hundreds=2)
    out = merge_text(linear(a, b, more=UNION), tmp_path)
    assert read_tensors(out)[EMBED][:, 0].tolist() == [150, 151, 102, 103, 153, 203]


# -- errors --------------------------------------------------------------------------------------------------------------------


def test_vocabularies_that_differ_without_a_setting_are_an_error_with_both_sizes(tmp_path: Path) -> None:
    a, b = word_model(tmp_path / "a", *COMMON, "a"), word_model(tmp_path / "b", *COMMON, "b", "b2")
    with pytest.raises(PlanError, match=r"\[4, 16\].*\[5, 16\].*tokenizer: \{source: union\}"):
        plan_text(linear(a, b), tmp_path)


def test_an_explicit_option_crops(tmp_path: Path) -> None:
    """``source: base`` leaves out the tokens that the base lacks."""
    a = word_model(tmp_path / "a", *COMMON, hundreds=1)
    b = word_model(tmp_path / "b", *COMMON, "b", "b2", hundreds=2)
    out = merge_text(linear(a, b, more="tokenizer: {source: base}\n"), tmp_path)
    assert by_token(out) == {"<unk>": 150, "the": 151, "cat": 152}


ERRORS = {
    "a token that the model lacks": (
        "tokens: {cat: {source: B, force: true}, one: {source: B}}",
        r"tokenizer\.tokens\.one\.source: 'one' is not a token of .*b; name one that it has",
    ),
    "a number beyond the rows": (
        "tokens: {one: {source: {kind: model_token, model: B, token_id: 4}}}",
        r"token 4 of .*b has no embedding, there are 4",
    ),
    "a new token without a source": ("tokens: {new: {}}", r"tokens\.new: no model has an embedding .*kind: zero"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_token_that_cannot_be_had_is_a_plan_error(case: str, three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    setting, message = ERRORS[case]
    a, b, _ = three
    word_model(tmp_path / "cat", "cat")
    text = linear(a, b, more=f"tokenizer:\n  source: union\n  {setting.replace(': B', f': {b}')}\n")
    if "cat:" in setting:
        text = text.replace("cat: ", "all: ")
    with pytest.raises(PlanError, match=message):
        plan_text(text, tmp_path)


def test_a_model_without_a_tokenizer_takes_the_donors_if_it_has_as_many_rows(tmp_path: Path) -> None:
    a = word_model(tmp_path / "a", *COMMON, hundreds=1)
    b = word_model(tmp_path / "b", *COMMON, hundreds=2)
    (b / "tokenizer.json").unlink()
    text = linear(a, b, more=UNION)
    assert any(
        "has no tokenizer; its tokens are taken to be" in warning for warning in plan_text(text, tmp_path).warnings
    )
    assert by_token(merge_text(text, tmp_path)) == {"<unk>": 150, "the": 151, "cat": 152}
    c = word_model(tmp_path / "c", *COMMON, "c", hundreds=2)
    (c / "tokenizer.json").unlink()
    with pytest.raises(PlanError, match=r"c has no tokenizer, and 4 rows, .*a has 3; put its tokenizer\.json"):
        plan_text(linear(a, c, more=UNION), tmp_path)


BROKEN = {
    "not JSON": ("{", "not JSON"),
    "a list": ("[]", "holds list, not an object"),
    "no vocabulary": ('{"model": {"type": "BPE"}}', r"model\.vocab is missing"),
    "a huge number": ('{"model": {"type": "BPE", "vocab": {"a": 99999999999}}}', "has the number 99999999999"),
    "a negative number": ('{"model": {"type": "BPE", "vocab": {"a": -1}}}', "has the number -1"),
    "merges that are a number": ('{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": 3}}', "not a pair"),
    "a score in words": ('{"model": {"type": "Unigram", "vocab": [["a", "b"]]}}', "not a list of pieces"),
    "half a merge": ('{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a"]}}', "not a pair"),
    "added tokens without a number": (
        '{"model": {"type": "BPE", "vocab": {"a": 0}}, "added_tokens": [{"content": "x"}]}',
        "without content and id",
    ),
    "pieces without scores": ('{"model": {"type": "Unigram", "vocab": ["a"]}}', "not a list of pieces"),
    "half a character": ('{"model": {"type": "WordLevel", "vocab": {"\\ud800": 0}}}', "only half of a character"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_tokenizer_is_a_clear_error(case: str, tmp_path: Path) -> None:
    content, message = BROKEN[case]
    a = word_model(tmp_path / "a", *COMMON)
    b = word_model(tmp_path / "b", *COMMON, "b")
    (b / "tokenizer.json").write_text(content)
    with pytest.raises(MergeAssetsError, match=message):
        plan_text(linear(a, b, more=UNION), tmp_path)


# -- the plan ------------------------------------------------------------------------------------------------------------------


def test_row_maps_are_part_of_the_keys_and_compact(tmp_path: Path) -> None:
    texts = [f"t{number}" for number in range(20_000)]
    a = word_model(tmp_path / "a", *texts, layers=1)
    b = word_model(tmp_path / "b", "b", *texts, layers=1)
    c = word_model(tmp_path / "c", *texts, "b", layers=1)
    plans = [plan_text(linear(a, other, more=UNION), tmp_path) for other in (b, c)]
    embeddings = [next(tensor for tensor in plan.tensors if tensor.name == EMBED) for plan in plans]
    assert embeddings[0].inputs[1].nested is not None
    assert embeddings[0].inputs[1].nested.rows == "20000:0@1 1:0@0"
    assert embeddings[0].key != embeddings[1].key
    assert len(plans[0].to_json()) < 40_000
    assert "t19999" not in plans[0].to_json()


def test_of_one_model_without_tokenizer_settings_no_tokenizer_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from merge_assets.checkpoint import Checkpoint

    def unread(self: Checkpoint, name: str) -> bytes:
        raise AssertionError(name)

    a = word_model(tmp_path / "a", *COMMON)
    monkeypatch.setattr(Checkpoint, "read", unread)
    assert plan_text(f"merge_method: passthrough\nmodels: [{{model: {a}}}]\n", tmp_path).vocabulary is None
