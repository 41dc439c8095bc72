"""Contract: recipe files are read as YAML by PyYAML's safe rules, with every hostile or ambiguous form an error.

The oracle for what a document means is ``yaml.safe_load``; the parser under test is our own walk over its events.
"""

import math
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_assets.errors import RecipeError
from merge_assets.yamlfile import MAX_BYTES, parse_documents, read_text, spell

FILE = Path("r.yaml")


def one(text: str):
    (document,) = parse_documents(text, FILE)
    return document


def refusal(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_documents(text, FILE)
    return str(caught.value)


# Text such as 1e5, which PyYAML writes without quotes, is the one intended difference; it has a test of its own.
_text = st.text(max_size=6).filter(lambda text: not re.fullmatch(r"[-+]?\d+\.?\d*[eE][-+]?\d+", text))
_scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | _text
_data = st.recursive(_scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_text, inner, max_size=4))


@settings(deadline=None)
@given(st.dictionaries(_text, _data, max_size=5), st.booleans())
def test_reads_whatever_pyyaml_writes(data, flow):
    text = yaml.safe_dump(data, default_flow_style=flow, allow_unicode=True)
    assert one(text).data == yaml.safe_load(text)


@pytest.mark.parametrize(
    "text",
    [
        "a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}",
        "a: &x {p: 1}\nb: &y {p: 2, r: 2}\nc: {<<: [*x, *y], s: 4}",
        "b: {q: 3, <<: {q: 1, z: 0}}",
        "base: &b [1, 2]\nagain: *b\n",
        "n: 010\nh: 0x1f\nu: 1_000\nbig: 1.5e+3\ninf: .inf\nneg: -.5\ny: yes\nnull_: ~\n",
        "quoted: '1'\ndouble: \"yes\"\nliteral: |\n  two\n  lines\nfolded: >\n  two\n  lines\n",
        "'<<': text",
        "? a\n: b",
    ],
)
def test_agrees_with_pyyaml(text):
    assert one(text).data == yaml.safe_load(text)


def test_numbers_with_a_bare_exponent_are_numbers():
    """YAML 1.1 reads 1e-5 as text, which nobody who writes a tolerance means."""
    assert one("tol: 1e-5\nbig: -2E3\nquoted: '1e-5'").data == {"tol": 1e-5, "big": -2000.0, "quoted": "1e-5"}


def test_dates_stay_text():
    assert one("name: 2024-01-31").data == {"name": "2024-01-31"}


def test_documents_keep_their_own_text_and_lines():
    text = "# head\na: 1\n---\n# second\nb:\n  - c: 2\n--- {d: 3}\n"
    first, second, third = parse_documents(text, FILE)
    assert (first.text, first.line) == ("# head\na: 1\n", 2)
    assert (second.text, second.line) == ("# second\nb:\n  - c: 2\n", 5)
    assert (third.text, third.line, third.data) == ("{d: 3}\n", 7, {"d": 3})
    assert second.lines[("b", 0, "c")] == 6


def test_empty_documents_are_left_out():
    assert [document.data for document in parse_documents("---\n---\na: 1\n---\n", FILE)] == [{"a": 1}]
    assert parse_documents("# only a comment\n", FILE) == []


def test_the_line_of_an_unknown_path_is_that_of_its_nearest_known_part():
    document = one("# head\na:\n  b:\n    - 1\n")
    assert document.line_of(("a", "b", 0)) == 4
    assert document.line_of(("a", "b", 7, "c")) == 3
    assert document.line_of(("x",)) == 2


def test_paths_are_spelled_as_people_write_them():
    assert spell(("slices", 0, "sources", 1, "layer_range")) == "slices[0].sources[1].layer_range"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: {c: 1, c: 2}", "r.yaml:2: b.c: the key is written twice"),
        ("a: 1\na: 2", "r.yaml:2: a: the key is written twice"),
        ("a: [1,\n", "r.yaml:2: not YAML"),
        ("a:\n\t- 1", "r.yaml:2: not YAML"),
        ("a: 'open", "not YAML"),
        ("a: *nowhere", "r.yaml:1: a: alias *nowhere has no anchor"),
        ("a: &x [*x]", "r.yaml:1: a[0]: alias *x stands inside its own anchor"),
        ("a: !!python/object/apply:os.system [id]", "r.yaml:1: a: tag"),
        ("a: !!binary aGk=", "r.yaml:1: a: tag"),
        ("a: !mine x", "r.yaml:1: a: tag !mine"),
        ("a: !!int x", "r.yaml:1: a: 'x' is not of the type int"),
        ("a: {1: b}", "r.yaml:1: a: a key must be text, not 1"),
        ("on: push", "a key must be text, not True"),
        ("[a]: b", "a key must be text, not a list"),
        ("a: {<<: 3}", "r.yaml:1: a.<<: takes a mapping"),
        ("a: b\x00c", "not YAML"),
        ("a: b\n %: c", "r.yaml:2: not YAML"),
    ],
)
def test_refuses(text, expected):
    assert expected in refusal(text)


def test_anchor_holders_may_repeat_at_the_top():
    """Published recipes write const_tag several times, each with another anchor."""
    text = "const_tag: &a 1\nconst_tag: &b 2\nx-more: &c 3\nx-more: &d 4\nuse: [*a, *b, *c, *d]"
    assert one(text).data["use"] == [1, 2, 3, 4]
    assert "written twice" in refusal("inner: {const_tag: 1, const_tag: 2}")


def bomb(levels: int, width: int) -> str:
    lines = ["l0: &l0 [x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        bomb(9, 10),
        "a: &a {b: 1}\n" + "\n".join(f"m{n}: &m{n} {{<<: *a, k: [{', '.join(['*a'] * 500)}]}}" for n in range(300)),
        "a: [" + "1," * 200_000 + "]",
        "[" * 400_000,
        "- " * 400_000,
        "{a: " * 100_000,
        "\n".join(["l0: &l0 [x]"] + [f"l{n}: &l{n} [*l{n - 1}]" for n in range(1, 400)]),
    ],
    ids=["aliases", "merged aliases", "wide", "deep flow", "deep block", "deep mappings", "deep through aliases"],
)
def test_bombs_are_refused_with_a_short_message(text):
    assert len(text) <= MAX_BYTES
    message = refusal(text)
    assert "more than" in message or "levels deep" in message
    assert len(message) < 300


def test_a_large_honest_document_is_read():
    text = "models:\n" + "".join(f"  - {{model: org/m{n}, parameters: {{weight: {n}}}}}\n" for n in range(2000))
    assert len(one(text).data["models"]) == 2000


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"a: \xff\xfe", "is not UTF-8 text (byte 3)"),
        (b"# " + b"x" * MAX_BYTES, "is larger than 1 MiB"),
        (None, "the file does not exist"),
    ],
)
def test_unreadable_files(tmp_path, raw, expected):
    file = tmp_path / "bad.yaml"
    if raw is not None:
        file.write_bytes(raw)
    with pytest.raises(RecipeError, match="bad") as caught:
        read_text(file)
    assert expected in str(caught.value)


def test_a_folder_is_not_a_recipe(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read: Is a directory"):
        read_text(tmp_path)


def test_a_byte_order_mark_is_ignored(tmp_path):
    file = tmp_path / "bom.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1")
    assert one(read_text(file)).data == {"a": 1}


def test_infinity_is_read_and_left_to_the_schema():
    assert math.isinf(one("a: .inf").data["a"]) and math.isinf(one("a: 1e999").data["a"])
