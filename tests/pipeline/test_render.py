"""Contract of metadata: tables and pictures that Dagster shows, within the size that an event may have."""

from __future__ import annotations

import math

import dagster as dg

from merge_assets.pipeline.render import (
    MAX_PICTURE_BYTES,
    MAX_ROWS,
    check_metadata,
    code,
    one_sentence,
    picture,
    table,
)


def test_a_table_keeps_types_and_shows_what_json_cannot_hold() -> None:
    made = table([{"layer": 0, "snr": math.inf, "ok": True}, {"layer": 1, "snr": 2.5, "ok": False}])
    assert isinstance(made, dg.TableMetadataValue)
    assert [column.type for column in made.schema.columns] == ["int", "string", "bool"]
    assert [record.data["snr"] for record in made.records] == ["∞", 2.5]


def test_a_long_table_is_cut_and_an_empty_one_is_none() -> None:
    made = table([{"n": n} for n in range(MAX_ROWS + 5)])
    assert isinstance(made, dg.TableMetadataValue)
    assert len(made.records) == MAX_ROWS
    assert table([]).value == "none"


def test_a_picture_is_embedded_unless_it_is_too_large() -> None:
    assert picture("x", b"png").md_str == "![x](data:image/png;base64,cG5n)"
    assert "data:" not in (picture("x", b"0" * (MAX_PICTURE_BYTES + 1)).md_str or "")


def test_code_is_fenced() -> None:
    assert code("a: 1\n", "yaml").md_str == "```yaml\na: 1\n```"


def test_one_sentence() -> None:
    assert one_sentence("Two\nlines") == "Two lines."
    assert one_sentence("Ends!") == "Ends!"
    assert one_sentence("") == ""


def test_figures_of_a_check_are_plain() -> None:
    assert check_metadata({"n": 1, "names": ["a"]}) == {"n": 1, "names": "['a']"}
