"""Contract: the tokenizer that is written loads, has every token at the number of its row, and gives texts back.

Tokenizers are trained small with the tokenizers library; what is written is read back by transformers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from merge_assets import api
from merge_assets.checkpoint import open_checkpoint, read_tokenizer
from merge_assets.errors import CheckpointError, PlanError
from merge_assets.settings import Settings
from tests.hub_server import HubServer
from tests.hub_support import folder_files
from tests.merging import merge_text, plan_text
from tests.synthetic import read_tensors
from tests.vocabulary_support import (
    CORPUS,
    EMBED,
    OTHER_CORPUS,
    SENTENCES,
    UNION,
    by_token,
    document_of,
    linear,
    numbered,
    tokens_of,
    trained,
    word_document,
    word_model,
    write_model,
)

KINDS = ("bytes", "pieces", "unigram")
FAST = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}


def with_added(document: dict[str, Any], *texts: str) -> dict[str, Any]:
    """A tokenizer with more special tokens, at numbers behind all others."""
    model = document["model"]
    last = max([len(model["vocab"]) - 1, *(item["id"] for item in document["added_tokens"])])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": last + 1 + place, "content": text, **flags} for place, text in enumerate(texts)]
    return document | {"added_tokens": [*document["added_tokens"], *added]}


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models whose tokenizers were trained on other texts; each has special tokens of its own."""
    root = tmp_path_factory.mktemp(request.param)
    one = with_added(document_of(trained(request.param, CORPUS)), "<|one|>", "<|end|>")
    two = with_added(document_of(trained(request.param, OTHER_CORPUS)), "<|two|>", "<|end|>")
    a = write_model(root / "a", one, hundreds=10, settings=FAST)
    b = write_model(root / "b", two, hundreds=30, settings=FAST | {"eos_token": "<|end|>"})
    return a, b


def merged(pair: tuple[Path, Path], folder: Path, more: str = UNION) -> Path:
    return merge_text(linear(*pair, more=more), folder)


def test_every_token_has_its_number_in_transformers_too(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = merged(pair, tmp_path)
    loaded = AutoTokenizer.from_pretrained(out)
    own, other = tokens_of(pair[0]), tokens_of(pair[1])
    assert loaded.get_vocab() == tokens_of(out)
    assert tokens_of(out).keys() == own.keys() | other.keys()
    assert {text: number for text, number in tokens_of(out).items() if text in own} == own
    assert len(loaded) == read_tensors(out)[EMBED].shape[0]


def test_every_row_is_its_tokens(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = merged(pair, tmp_path)
    one, two = by_token(pair[0]), by_token(pair[1])
    for text, value in by_token(out).items():
        having = [table[text] for table in (one, two) if text in table]
        assert value == sum(having) / len(having)


def test_texts_come_back(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """All texts that both inputs give back."""
    out = merged(pair, tmp_path)
    loaded = [AutoTokenizer.from_pretrained(folder) for folder in (*pair, out)]

    def again(tokenizer: Any, text: str) -> str:
        return str(tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True))

    texts = [text for text in SENTENCES if all(again(tokenizer, text) == text for tokenizer in loaded[:2])]
    assert texts
    assert [again(loaded[2], text) for text in texts] == texts


def test_special_tokens_of_both_are_found_as_one(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = merged(pair, tmp_path)
    loaded = AutoTokenizer.from_pretrained(out)
    for text in ("<s>", "</s>", "<|one|>", "<|two|>", "<|end|>"):
        assert loaded(text).input_ids[-1] == tokens_of(out)[text]
        assert text in loaded.decode(loaded(f"the{text}the").input_ids)
        assert "<|" not in loaded.decode(loaded(f"the{text}the").input_ids, skip_special_tokens=True)


def test_words_of_the_other_model_are_shorter_in_tokens_than_before(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = merged(pair, tmp_path)
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (pair[0], out))
    text = " ".join(OTHER_CORPUS)
    assert len(after(text).input_ids) < len(before(text).input_ids)


def test_the_model_loads_and_generates(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = merged(pair, tmp_path, "tokenizer: {source: union, pad_to_multiple_of: 64}\n")
    model, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not (report["missing_keys"] or report["unexpected_keys"] or report["mismatched_keys"])
    tokenizer = AutoTokenizer.from_pretrained(out)
    prompt = tokenizer("the <|two|>", return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        assert model.generate(**prompt, max_new_tokens=2).shape[1] > prompt.input_ids.shape[1]


# -- what does not change --------------------------------------------------------------------------------------------------


def test_new_special_tokens_alone_leave_every_text_as_it_was(tmp_path: Path) -> None:
    plain = document_of(trained("bytes", CORPUS))
    a = write_model(tmp_path / "a", plain, settings=FAST)
    b = write_model(tmp_path / "b", with_added(plain, "<|im_start|>", "<|im_end|>"), hundreds=1, settings=FAST)
    out = merge_text(linear(a, b, more=UNION), tmp_path)
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (a, out))
    assert [after(text).input_ids for text in SENTENCES] == [before(text).input_ids for text in SENTENCES]
    assert after("<|im_end|>").input_ids == [len(before) + 1]


@pytest.mark.parametrize("ids", [{"<unk>": 0, "the": 1, "cat": 4}, {"<unk>": 3, "the": 1, "cat": 2}])
def test_numbers_hold_where_the_donors_have_gaps(ids: dict[str, int], tmp_path: Path) -> None:
    """Readers number added tokens by themselves unless the model knows them, too."""
    document = word_document(ids, {"<s>": 7})
    a = write_model(tmp_path / "a", document, settings=FAST)
    more = "tokenizer: {source: base, tokens: {'<|new|>': {source: {kind: zero}}}}\n"
    out = merge_text(linear(a, more=more), tmp_path)
    assert AutoTokenizer.from_pretrained(out)("the <|new|>").input_ids == [1, 8]
    assert tokens_of(out) == ids | {"<s>": 7, "<|new|>": 8}


def test_a_unigram_fills_gaps_between_its_pieces_and_new_ones(tmp_path: Path) -> None:
    document = document_of(trained("unigram", CORPUS, 60))
    count = len(document["model"]["vocab"])
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    document["added_tokens"].append({"id": count + 1, "content": "<|far|>", **flags})
    a = write_model(tmp_path / "a", document, settings=FAST)
    b = write_model(tmp_path / "b", document_of(trained("unigram", OTHER_CORPUS, 60)), hundreds=1, settings=FAST)
    out = merge_text(linear(a, b, more=UNION), tmp_path)
    loaded = AutoTokenizer.from_pretrained(out)
    assert loaded("<|far|>").input_ids == [count + 1]
    assert {text: loaded.convert_tokens_to_ids(text) for text in tokens_of(b)} == {
        text: number for text, number in tokens_of(out).items() if text in tokens_of(b)
    }


def test_files_are_the_donors_where_the_vocabulary_is(tmp_path: Path) -> None:
    document = document_of(trained("bytes", CORPUS))
    a = write_model(tmp_path / "a", document, rows=400, settings=FAST)
    b = write_model(tmp_path / "b", document, hundreds=1, rows=384, settings=FAST)
    out = merge_text(linear(a, b, more=UNION), tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (a / name).read_bytes()


def test_a_smaller_vocabulary_in_another_format_is_left_behind(tmp_path: Path) -> None:
    a = word_model(tmp_path / "a", "<unk>", "a")
    b = word_model(tmp_path / "b", "<unk>", "b")
    for name in ("tokenizer.model", "vocab.json", "merges.txt"):
        (a / name).write_text("of a")
    (a / "added_tokens.json").write_text('{"<extra>": 2}')
    (a / "special_tokens_map.json").write_text("{}")
    (a / "tokenizer_config.json").write_text('{"added_tokens_decoder": {"2": {"content": "<extra>"}}}')
    for folder in (a, b):
        (folder / "generation_config.json").write_text("{}")
    out = merge_text(linear(a, b, more="tokenizer: {tokens: {new: {source: {kind: zero}}}}\n"), tmp_path)
    assert tokens_of(out) == numbered("<unk>", "a", "<extra>", "b", "new")
    assert not any((out / name).exists() for name in ("tokenizer.model", "vocab.json", "merges.txt"))
    assert (out / "special_tokens_map.json").exists()
    assert json.loads((out / "added_tokens.json").read_text()) == {"<extra>": 2, "new": 4}
    decoder = json.loads((out / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert {number: item["content"] for number, item in decoder.items()} == {"2": "<extra>", "4": "new"}


# -- special tokens of the configs -------------------------------------------------------------------------------------------


def test_special_numbers_follow_the_tokenizer(tmp_path: Path) -> None:
    """The config is a's, the tokenizer b's; b's own config says which numbers are special there."""
    special = {"bos_token_id": 1, "eos_token_id": 2}
    a = word_model(tmp_path / "a", "<unk>", "<s>", "</s>", "a", config=special | {"pad_token_id": 3, "x_token_id": 0})
    b = word_model(tmp_path / "b", "</s>", "b", "<s>", "<unk>", config={"bos_token_id": 2, "eos_token_id": [0, 1]})
    (b / "generation_config.json").write_text('{"bos_token_id": 2, "eos_token_id": [0, 1]}')
    out = merge_text(linear(a, b, base=a, more=f"tokenizer: {{source: {b}}}\n"), tmp_path)
    config = json.loads((out / "config.json").read_text())
    # pad was a's token "a", which b lacks; x was <unk>, which is number 3 in b.
    found = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id", "x_token_id")}
    assert found == {"bos_token_id": 2, "eos_token_id": [0, 1], "pad_token_id": None, "x_token_id": 3}
    generation = json.loads((out / "generation_config.json").read_text())
    assert (generation["bos_token_id"], generation["eos_token_id"]) == (2, [0, 1])


def test_a_token_that_the_architecture_needs_must_be_there(tmp_path: Path) -> None:
    a = word_model(tmp_path / "a", "<unk>", "<image>", config={"image_token_id": 1})
    b = word_model(tmp_path / "b", "<unk>", "b")
    with pytest.raises(PlanError, match=r"needs '<image>' \(image_token_id\), which is not a token of .*b"):
        plan_text(linear(a, b, base=a, more=f"tokenizer: {{source: {b}}}\n"), tmp_path)


# -- older formats -------------------------------------------------------------------------------------------------------------


def sentencepiece_model(*pieces: str) -> bytes:
    """A SentencePiece model: field 1 of the message, each with text (1), score (2) and kind (3)."""

    def message(text: str) -> bytes:
        raw = text.encode()
        return b"\x0a" + bytes([len(raw)]) + raw + b"\x15\x00\x00\x80\xbf" + b"\x18\x01"

    listed = [message(piece) for piece in pieces]
    return b"".join(b"\x0a" + bytes([len(item)]) + item for item in listed) + b"\x12\x02\x18\x02"


def test_vocabularies_of_older_formats_are_read(tmp_path: Path) -> None:
    a = word_model(tmp_path / "a", "<unk>", "the", "cat", hundreds=1)
    others = {
        "vocab.json": b'{"cat": 0, "the": 1, "<unk>": 2}',
        "tokenizer.model": sentencepiece_model("cat", "the", "<unk>"),
        "vocab.txt": b"cat\nthe\r\n<unk>\n",
    }
    for name, content in others.items():
        b = word_model(tmp_path / name, "cat", "the", "<unk>", hundreds=2)
        (b / "tokenizer.json").unlink()
        (b / name).write_bytes(content)
        out = merge_text(linear(a, b, more=UNION), tmp_path)
        assert by_token(out) == {"<unk>": 151, "the": 151, "cat": 151}, name


def test_a_donor_without_tokenizer_json_says_how_to_make_one(tmp_path: Path) -> None:
    a = word_model(tmp_path / "a", "<unk>", "the")
    (a / "tokenizer.json").unlink()
    (a / "tokenizer.model").write_bytes(sentencepiece_model("<unk>", "the"))
    b = word_model(tmp_path / "b", "<unk>", "the", "b")
    with pytest.raises(PlanError, match=r"a has no tokenizer\.json that tokens can be added to; make one"):
        plan_text(linear(a, b, more=UNION), tmp_path)


def test_a_broken_sentencepiece_model_is_a_clear_error(tmp_path: Path) -> None:

    a = word_model(tmp_path / "a", "<unk>", "the")
    (a / "tokenizer.json").unlink()
    for content in (b"\x0a\xff\xff\xff\xff\x7f", b"\x0b", b"\x0a\x02\x0a\x05", b"\xff" * 12):
        (a / "tokenizer.model").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"tokenizer\.model: not a SentencePiece model"):
            read_tokenizer(open_checkpoint(a))


def test_tokenizers_that_split_texts_in_other_ways_are_warned_about(tmp_path: Path) -> None:
    a = write_model(tmp_path / "a", document_of(trained("bytes", CORPUS)))
    b = write_model(tmp_path / "b", document_of(trained("unigram", OTHER_CORPUS)), hundreds=1)
    warnings = plan_text(linear(a, b, more=UNION), tmp_path).warnings
    assert any("differ in model, pre_tokenizer, decoder; text is treated as the first does" in w for w in warnings)


def test_models_on_the_hub_are_planned_from_their_tokenizers_without_weights(tmp_path: Path) -> None:
    words = {"a": ("<unk>", "the", "a"), "b": ("b", "the", "<unk>")}
    (tmp_path / "recipes").mkdir()
    recipe = tmp_path / "recipes" / "both.yaml"
    recipe.write_text(linear(Path("acme/a"), Path("acme/b"), more=UNION + "chat_template: auto\n"))
    with HubServer() as server:
        for name, texts in words.items():
            server.commit(f"acme/{name}", folder_files(word_model(tmp_path / name, *texts, settings={})))
        settings = Settings(
            root=tmp_path, recipes=[recipe.parent], store=str(tmp_path / "store"), hub_endpoint=server.url
        )
        space = api.Workspace.open(settings.model_copy(update={"hub_cache": tmp_path / "hub"}))
        plan = api.plan(space, space.recipe("both"))
        assert not [*(tmp_path / "hub").rglob("*.safetensors")]
        api.merge(space, space.recipe("both"), tmp_path / "out")
    assert plan.vocabulary is not None
    assert plan.vocabulary.tokens == 4
    assert tokens_of(tmp_path / "out") == numbered("<unk>", "the", "a", "b")


# -- chat templates ------------------------------------------------------------------------------------------------------------

HELLO, OTHER = "{{ 'hello' }}", "{{ 'other' }}"


def template_of(folder: Path) -> str | None:
    found = AutoTokenizer.from_pretrained(folder).chat_template
    return None if found is None else str(found)


@pytest.fixture
def talking(tmp_path: Path) -> dict[str, Path]:
    """Models by their templates; in c and d it is a file of its own."""
    document = document_of(trained("bytes", CORPUS))
    folders = {}
    for hundreds, (name, template) in enumerate({"a": HELLO, "b": OTHER, "c": None, "d": None, "none": None}.items()):
        settings = FAST | ({"chat_template": template} if template else {})
        folders[name] = write_model(tmp_path / name, document, hundreds=hundreds, settings=settings, layers=1)
    (folders["c"] / "chat_template.jinja").write_text(OTHER)
    (folders["d"] / "chat_template.jinja").write_text(HELLO)
    return folders


@pytest.mark.parametrize(
    ("models", "expected"),
    [("ab", HELLO), ("abc", OTHER), ("adb", HELLO), ("ca", OTHER), ("da", HELLO), ("cab", OTHER), ("dbc", OTHER)],
)
def test_auto_takes_the_most_common_template(
    models: str, expected: str, talking: dict[str, Path], tmp_path: Path
) -> None:
    out = merge_text(linear(*(talking[name] for name in models), more="chat_template: auto\n"), tmp_path)
    assert template_of(out) == expected


def test_a_template_of_another_model_is_warned_about_where_its_tokens_are_missing(
    talking: dict[str, Path], tmp_path: Path
) -> None:
    template = "{{ '<|im_start|>' + messages[0]['content'] + '<|im_end|>' }}"
    for name in ("b", "c"):
        settings = FAST | {"chat_template": template}
        (talking[name] / "chat_template.jinja").unlink(missing_ok=True)
        (talking[name] / "tokenizer_config.json").write_text(json.dumps(settings))
    text = linear(*(talking[name] for name in "abc"), more="chat_template: auto\n")
    (warning,) = plan_text(text, tmp_path).warnings
    assert warning.startswith("the chat template writes <|im_start|>, <|im_end|>, which are no tokens")
    knowing = linear(*(talking[name] for name in "bc"), more="chat_template: auto\n")
    assert not plan_text(knowing, tmp_path).warnings


def test_auto_of_models_without_templates_writes_none(talking: dict[str, Path], tmp_path: Path) -> None:
    out = merge_text(linear(talking["none"], more="chat_template: auto\n"), tmp_path)
    assert template_of(out) is None


@pytest.mark.parametrize("donor", ["a", "c", "none"])
def test_a_literal_template_replaces_the_donors(donor: str, talking: dict[str, Path], tmp_path: Path) -> None:
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    out = merge_text(linear(talking[donor], more=f'chat_template: "{template}"\n'), tmp_path)
    assert template_of(out) == template


CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Go"}]
NAMED = {
    "chatml": (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>user\nGo<|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
    "llama3": (
        "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        "Yes?<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nGo<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "mistral": "<s>[INST] Hi [/INST] Yes?</s>[INST] Go [/INST]",
    "alpaca": "### Instruction:\nHi\n\n### Response:\nYes?\n\n### Instruction:\nGo\n\n### Response:\n",
    "exaone": "[|system|][|endofturn|]\n[|user|]Hi\n[|assistant|]Yes?[|endofturn|]\n[|user|]Go\n[|assistant|]",
}


@pytest.mark.parametrize("name", NAMED)
def test_named_templates(name: str, talking: dict[str, Path], tmp_path: Path) -> None:
    text = linear(talking["b"], more=f"chat_template: {name}\n")
    out = merge_text(text, tmp_path)
    loaded = AutoTokenizer.from_pretrained(out)
    assert loaded.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True) == NAMED[name]
    unknown = [
        warning for warning in plan_text(text, tmp_path).warnings if "which are no tokens of the vocabulary" in warning
    ]
    assert bool(unknown) == (name in ("chatml", "llama3", "exaone"))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("chatlm", r"unknown template 'chatlm', did you mean 'chatml'\?; known: auto, alpaca"),
        ("'{{ x'", r"line 1 of the Jinja template: .*; correct it"),
        ("'{% for x in y %}'", r"line 1 of the Jinja template: .*; correct it"),
    ],
)
def test_a_template_that_is_none_is_an_error(
    template: str, message: str, talking: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match=message):
        plan_text(linear(talking["a"], more=f"chat_template: {template}\n"), tmp_path)
