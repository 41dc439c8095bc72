"""Contract: ranks, differences to each parent and every export agree, cell by cell, with tables worked out by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from merge_assets.errors import EvaluationError
from merge_assets.evaluation.charts import pareto_charts
from merge_assets.evaluation.leaderboard import (
    Cell,
    Column,
    Delta,
    Leaderboard,
    LeaderboardEntry,
    Parent,
    Row,
    arrow,
    format_count,
)
from merge_assets.evaluation.leaderboard_files import leaderboard_markdown, write_leaderboard
from merge_assets.evaluation.leaderboard_tables import deltas_table, models_table
from merge_assets.evaluation.leaderboard_texts import value_text
from merge_assets.evaluation.page import FilesBeside, leaderboard_page
from merge_assets.evaluation.scores import Scores
from merge_assets.evaluation.verdicts import Verdict, Word
from tests.leaderboard_support import ENTRIES, demo, row, scores

MOTHER = [scores("m", row("arc", "acc", 0.625, 0.0), suite="facts")]
FATHER = [
    scores("f", row("arc", "acc", 0.5, 0.03), suite="facts", stderr=0.02),
    scores(
        "f",
        row("arc", "acc", 0.25, 0.04, headline=False),
        row("text", "byte_perplexity", 8.0, higher=False, headline=False),
        suite="prose",
    ),
]
CHILD = [
    scores(
        "c",
        row("arc", "acc", 0.125, 0.03, headline=False),
        row("text", "byte_perplexity", 6.0, 0.5, higher=False, headline=False),
        suite="prose",
    ),
    scores("c", row("arc", "acc", 0.75, 0.04), suite="facts", stderr=0.01),
]
FAMILY = [
    LeaderboardEntry(model="guest", kind="base"),
    LeaderboardEntry(
        model="grandchild",
        kind="variant",
        method="stack",
        fingerprint="g1",
        parents=[Parent("father", "f0", FATHER), Parent("child", "c1", CHILD), Parent("stranger", "s5")],
        scores=[
            scores("g", row("text", "byte_perplexity", 9.0, n=20, higher=False, headline=False), suite="prose"),
        ],
        stale="child has other bytes",
    ),
    LeaderboardEntry(model="mother", kind="base", scores=MOTHER),
    LeaderboardEntry(
        model="father",
        kind="base",
        parameters=7_240_000_000,
        layers=32,
        fingerprint="f0",
        url="https://example.org/father",
        scores=FATHER,
    ),
    LeaderboardEntry(
        model="child",
        kind="variant",
        method="slerp",
        parameters=1_290_000,
        layers=14,
        fingerprint="c1",
        parents=[Parent("father", "f0", FATHER), Parent("mother", "m9", MOTHER)],
        description="Both halves",
        scores=CHILD,
    ),
]

Columns = dict[str, tuple[str, list[object]]]
"""By name: the type, and the cells."""

CANNOT = "cannot tell"
MODELS: Columns = {
    "rank": ("Int64", [1, 2, 3, None, None]),
    "rank low": ("Int64", [1, 1, 1, None, None]),
    "rank high": ("Int64", [3, 3, 3, None, None]),
    "model": ("string", ["child", "mother", "father", "grandchild", "guest"]),
    "kind": ("string", ["variant", "base", "base", "variant", "base"]),
    "method": ("string", ["slerp", None, None, "stack", None]),
    "parameters": ("Int64", [1_290_000, None, 7_240_000_000, None, None]),
    "layers": ("Int64", [14, None, 32, None, None]),
    "parents": (
        "object",
        [["father", "mother"], [], [], ["father", "child", "stranger"], []],
    ),
    "parent versions": ("object", [["f0", "m9"], [], [], ["f0", "c1", "s5"], []]),
}
SCORES: Columns = {
    "facts": ("Float64", [0.75, 0.625, 0.5, None, None]),
    "facts stderr": ("Float64", [0.01, None, 0.02, None, None]),
    "facts n": ("Int64", [None, None, None, None, None]),
    "facts delta": ("Float64", [0.125, None, None, None, None]),
    "facts best parent": ("string", ["mother", None, None, None, None]),
    "facts verdict": ("string", [CANNOT, None, None, None, None]),
    "facts/arc:acc": ("Float64", [0.75, 0.625, 0.5, None, None]),
    "facts/arc:acc stderr": ("Float64", [0.04, 0.0, 0.03, None, None]),
    "facts/arc:acc n": ("Int64", [50, 50, 50, None, None]),
    "facts/arc:acc delta": ("Float64", [0.125, None, None, None, None]),
    "facts/arc:acc best parent": ("string", ["mother", None, None, None, None]),
    "facts/arc:acc verdict": ("string", [CANNOT, None, None, None, None]),
    "prose/text:byte_perplexity": ("Float64", [6.0, None, 8.0, 9.0, None]),
    "prose/text:byte_perplexity stderr": ("Float64", [0.5, None, None, None, None]),
    "prose/text:byte_perplexity n": ("Int64", [50, None, 50, 20, None]),
    "prose/text:byte_perplexity delta": ("Float64", [-2.0, None, None, 3.0, None]),
    "prose/text:byte_perplexity best parent": ("string", ["father", None, None, "child", None]),
    "prose/text:byte_perplexity verdict": ("string", [CANNOT, None, None, CANNOT, None]),
    "prose/arc:acc": ("Float64", [0.125, None, 0.25, None, None]),
    "prose/arc:acc stderr": ("Float64", [0.03, None, 0.04, None, None]),
    "prose/arc:acc n": ("Int64", [50, None, 50, None, None]),
    "prose/arc:acc delta": ("Float64", [-0.125, None, None, None, None]),
    "prose/arc:acc best parent": ("string", ["father", None, None, None, None]),
    "prose/arc:acc verdict": ("string", [CANNOT, None, None, None, None]),
}
FACTS: Columns = {
    "description": ("string", ["Both halves", "", "", "", ""]),
    "url": ("string", [None, None, "https://example.org/father", None, None]),
    "fingerprint": ("string", ["c1", "", "f0", "g1", ""]),
    "stale": ("string", [None, None, None, "child has other bytes", None]),
    "asked otherwise": ("string", [None] * 5),
    "failed": ("string", [None] * 5),
}
TABLE = MODELS | SCORES | FACTS

DELTA_TYPES = {
    **dict.fromkeys(("model", "parent", "parent_version", "suite", "task", "metric"), "string"),
    **dict.fromkeys(("value", "parent_value", "delta", "gain"), "Float64"),
    "verdict": "string",
    **dict.fromkeys(("delta_stderr", "delta_low", "delta_high", "p", "p_holm", "detectable"), "Float64"),
    "note": "string",
}
NO_SAMPLES = "c: no samples are kept"
NO_PROSE = "not compared with mother: no scores of the version it was made from, m9"
FEWER = "documents of text 20 and 50"
STRANGER = "not compared with stranger: no scores of the version it was made from, s5"
PERPLEXITY = ("prose", "text", "byte_perplexity")
TOLD = (CANNOT, *[None] * 6)
UNTOLD = (None,) * 7
DELTAS = [
    ("child", "father", "f0", "facts", None, None, 0.75, 0.5, 0.25, 0.25, *TOLD, NO_SAMPLES),
    ("child", "mother", "m9", "facts", None, None, 0.75, 0.625, 0.125, 0.125, *TOLD, NO_SAMPLES),
    ("child", "father", "f0", "facts", "arc", "acc", 0.75, 0.5, 0.25, 0.25, *TOLD, NO_SAMPLES),
    ("child", "mother", "m9", "facts", "arc", "acc", 0.75, 0.625, 0.125, 0.125, *TOLD, NO_SAMPLES),
    ("child", "father", "f0", *PERPLEXITY, 6.0, 8.0, -2.0, 2.0, *TOLD, NO_SAMPLES),
    ("child", "mother", "m9", *PERPLEXITY, 6.0, None, None, None, *UNTOLD, NO_PROSE),
    ("child", "father", "f0", "prose", "arc", "acc", 0.125, 0.25, -0.125, -0.125, *TOLD, NO_SAMPLES),
    ("child", "mother", "m9", "prose", "arc", "acc", 0.125, None, None, None, *UNTOLD, NO_PROSE),
    ("grandchild", "father", "f0", *PERPLEXITY, 9.0, 8.0, 1.0, -1.0, *TOLD, f"g: no samples are kept; {FEWER}"),
    ("grandchild", "child", "c1", *PERPLEXITY, 9.0, 6.0, 3.0, -3.0, *TOLD, f"g: no samples are kept; {FEWER}"),
    ("grandchild", "stranger", "s5", *PERPLEXITY, 9.0, None, None, None, *UNTOLD, STRANGER),
]

MARKDOWN = """\
**facts**

| # | model | method | size | layers | average | arc |
| ---: | --- | --- | ---: | ---: | ---: | ---: |
| 1 (1–3) | **child** | slerp | 1.29M | 14 | 75.0 ±1.0 ≈+12.5 cannot tell | 75.0 ±4.0 ≈+12.5 cannot tell |
| 2 (1–3) | **mother** | base |  |  | 62.5 | 62.5 |
| 3 (1–3) | **father** | base | 7.24B | 32 | 50.0 ±2.0 | 50.0 ±3.0 |

**prose**

| # | model | method | size | layers | text ↓ | arc |
| ---: | --- | --- | ---: | ---: | ---: | ---: |
| 1 (1–3) | **child** | slerp | 1.29M | 14 | 6.000 ±0.5000 ≈−2.000 cannot tell | 12.5 ±3.0 ≈−12.5 cannot tell |
| 3 (1–3) | **father** | base | 7.24B | 32 | 8.000 | 25.0 ±4.0 |
|  | **grandchild** ⚠ | stack |  |  | 9.000 ≈+3.000 cannot tell |  |

▲ better and ▼ worse than the best parent on the same documents, at the 5 % level over all differences shown; \
≈ the documents cannot tell; after a rank its 95 % interval; ± standard error of a score; ↓ lower is better. \
Fractions in percent.

⚠ out of date:

- **grandchild**: child has other bytes

Notes:

- **child**: father: cannot tell: c: no samples are kept
- **child**: mother: cannot tell: c: no samples are kept
- **child**: not compared with mother: no scores of the version it was made from, m9
- **grandchild**: father: documents of text 20 and 50
- **grandchild**: father: cannot tell: g: no samples are kept
- **grandchild**: child: documents of text 20 and 50
- **grandchild**: child: cannot tell: g: no samples are kept
- **grandchild**: not compared with stranger: no scores of the version it was made from, s5
"""


@pytest.fixture
def board() -> Leaderboard:
    return Leaderboard(FAMILY)


def frame(columns: Columns) -> pd.DataFrame:
    cells = pd.DataFrame({name: values for name, (_, values) in columns.items()}, dtype=object)
    return cells.astype({name: kind for name, (kind, _) in columns.items()})


def delta_frame() -> pd.DataFrame:
    return pd.DataFrame(DELTAS, columns=list(DELTA_TYPES), dtype=object).astype(DELTA_TYPES)


def types(table: pd.DataFrame) -> dict[str, str]:
    return {str(name): str(kind) for name, kind in table.dtypes.items()}


def test_a_column_is_a_headline_or_a_metric_of_a_task(board: Leaderboard) -> None:
    assert board.columns == [
        Column("facts", None, None, "average", higher_is_better=True, is_fraction=True),
        Column("facts", "arc", "acc", "arc", higher_is_better=True, is_fraction=True),
        Column("prose", "text", "byte_perplexity", "text", higher_is_better=False, is_fraction=False),
        Column("prose", "arc", "acc", "arc", higher_is_better=True, is_fraction=True),
    ]


def test_the_table_holds_every_score_and_its_difference_to_the_best_parent(board: Leaderboard) -> None:
    pd.testing.assert_frame_equal(models_table(board), frame(TABLE))


def test_there_is_one_difference_per_score_and_parent_or_the_reason_why_there_is_none(board: Leaderboard) -> None:
    pd.testing.assert_frame_equal(deltas_table(board), delta_frame())


def test_columns_keep_their_types_where_nothing_is_known() -> None:
    empty = Leaderboard([])
    assert types(models_table(empty)) == {name: kind for name, (kind, _) in (MODELS | FACTS).items()}
    assert types(deltas_table(empty)) == DELTA_TYPES


def test_markdown_is_one_table_per_suite_with_arrows_for_better_and_worse(board: Leaderboard) -> None:
    assert leaderboard_markdown(board) == MARKDOWN


def test_a_value_alone_has_neither_its_error_nor_a_difference(board: Leaderboard) -> None:
    rows = {row.entry.model: [value_text(row, column) for column in board.columns] for row in board.rows}
    assert rows["child"] == ["75.0", "75.0", "6.000", "12.5"]
    assert rows["grandchild"] == ["", "", "9.000", ""]


def test_names_cannot_break_a_markdown_table() -> None:
    name = "a|b\\c\nd"
    entry = LeaderboardEntry(model=name, kind="base", scores=[scores("m", row(name, "acc", 0.5), suite=name)])
    assert leaderboard_markdown(Leaderboard([entry])).splitlines()[:5] == [
        r"**a\|b\\c d**",
        "",
        r"| # | model | method | size | layers | average | a\|b\\c d |",
        "| ---: | --- | --- | ---: | ---: | ---: | ---: |",
        r"| 1 | **a\|b\\c d** | base |  |  | 50.0 | 50.0 |",
    ]


def test_the_files_hold_the_tables_and_the_pages(board: Leaderboard, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "board"
    names = (
        *("leaderboard.parquet", "deltas.parquet", "published.parquet", "leaderboard.md", "leaderboard.html"),
        *("leaderboard.csv", "leaderboard.tex", "pareto-parameters.svg"),
    )
    assert write_leaderboard(board, folder, "Family") == [folder / name for name in names]
    assert {path.name for path in folder.iterdir()} == set(names)
    table = pd.read_parquet(folder / "leaderboard.parquet")
    lists = {name: table[name].map(list) for name in ("parents", "parent versions")}
    pd.testing.assert_frame_equal(table.assign(**lists), frame(TABLE))
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "deltas.parquet"), delta_frame())
    assert (folder / "leaderboard.md").read_bytes().decode() == MARKDOWN
    assert (folder / "leaderboard.html").read_bytes().decode() == leaderboard_page(
        board, "Family", FilesBeside(pareto_charts(board), names[-3:])
    )


def test_the_files_hold_columns_alone_and_no_index(board: Leaderboard, tmp_path: Path) -> None:
    write_leaderboard(board, tmp_path)
    for name, columns in (("leaderboard", list(TABLE)), ("deltas", list(DELTA_TYPES))):
        schema = pq.read_schema(tmp_path / f"{name}.parquet")
        assert schema.names == columns
        assert schema.pandas_metadata["index_columns"] == []


def test_the_page_has_a_title_of_its_own_unless_it_is_given_one(board: Leaderboard, tmp_path: Path) -> None:
    write_leaderboard(board, tmp_path)
    assert "<title>Leaderboard</title>" in leaderboard_page(board)
    assert "<title>Leaderboard</title>" in (tmp_path / "leaderboard.html").read_text()


def test_a_leaderboard_is_written_over_an_older_one(board: Leaderboard, tmp_path: Path) -> None:
    write_leaderboard(Leaderboard([]), tmp_path)
    assert len(pd.read_parquet(tmp_path / "leaderboard.parquet")) == 0
    assert (tmp_path / "leaderboard.md").read_text() == "No scores yet.\n"
    assert "No scores yet" in (tmp_path / "leaderboard.html").read_text()
    write_leaderboard(board, tmp_path)
    assert len(pd.read_parquet(tmp_path / "leaderboard.parquet")) == len(FAMILY)


def test_missing_scores_are_null_in_every_export_and_never_nan(tmp_path: Path) -> None:
    board = Leaderboard(ENTRIES)
    write_leaderboard(board, tmp_path)
    records = json.loads(models_table(board).to_json(orient="records"), parse_constant=pytest.fail)
    assert records[1]["extra"] is None
    for name in ("leaderboard.md", "leaderboard.html"):
        text = (tmp_path / name).read_text().split("<body>")[-1].split("<script>")[0]
        assert not re.search(r"\b(nan|na|null)\b", text, re.IGNORECASE)


def ranks(entries: Sequence[LeaderboardEntry], rank_by: str | None = None) -> list[tuple[int | None, str]]:
    return [(line.rank, line.entry.model) for line in Leaderboard(entries, rank_by=rank_by).rows]


def base(model: str, *suites: Scores) -> LeaderboardEntry:
    return LeaderboardEntry(model=model, kind="base", scores=list(suites))


def test_equal_but_for_the_last_digits_is_a_tie() -> None:
    first, second = (0.1 + 0.2) + 0.3, 0.1 + (0.2 + 0.3)
    assert first != second
    entries = [base(name, scores(name, row("t", "acc", value))) for name, value in (("a", second), ("b", first))]
    assert ranks(entries) == [(1, "a"), (1, "b")]
    assert ranks(entries[::-1]) == [(1, "a"), (1, "b")]


def test_ranks_follow_the_headline_and_ties_share_one() -> None:
    assert ranks(ENTRIES) == [(1, "mix"), (2, "org/b"), (3, "a"), (3, "deep"), (None, "alone")]


def test_a_rank_counts_all_that_are_better() -> None:
    values = {"c": 0.5, "best": 0.7, "b": 0.5, "last": 0.1, "a": 0.5}
    entries = [base(name, scores(name, row("t", "acc", value))) for name, value in values.items()]
    assert ranks(entries) == [(1, "best"), (2, "a"), (2, "b"), (2, "c"), (5, "last")]


def test_a_score_of_zero_has_a_rank_and_a_missing_one_has_none() -> None:
    assert ranks([base("a"), base("zero", scores("zero", row("t", "acc", 0.0)))]) == [(1, "zero"), (None, "a")]


def test_a_model_without_the_headline_of_a_suite_that_has_one_is_not_ranked() -> None:
    entries = [
        base("a", scores("a", row("t", "acc", 0.9, headline=False))),
        base("b", scores("b", row("t", "acc", 0.1))),
    ]
    assert ranks(entries) == [(1, "b"), (None, "a")]


def test_the_suite_with_most_models_ranks_then_the_first_by_name() -> None:
    def suite(name: str) -> Scores:
        return scores("m", row("t", "acc", 0.5), suite=name)

    entries = [base("a", suite("zero"), suite("many")), base("b", suite("many"), suite("few"))]
    assert Leaderboard(entries).suites == ["many", "few", "zero"]


def test_another_suite_ranks_where_it_is_named() -> None:
    assert Leaderboard(ENTRIES, rank_by="extra").suites == ["extra", "demo"]
    assert ranks(ENTRIES, "extra") == [(1, "mix"), (None, "a"), (None, "alone"), (None, "deep"), (None, "org/b")]
    with pytest.raises(EvaluationError, match=r"^leaderboard: no model has .* 'absent'; known: demo, extra$"):
        Leaderboard(ENTRIES, rank_by="absent")


def test_a_suite_without_headline_ranks_by_its_first_task() -> None:
    entries = [
        base(name, scores(name, row("p", "byte_perplexity", value, higher=False, headline=False)))
        for name, value in (("a", 9.0), ("b", 7.0))
    ]
    assert ranks(entries) == [(1, "b"), (2, "a")]


@pytest.mark.parametrize(
    ("tasks", "titles"),
    [
        (["demo_word", "demo_cloze"], ["word", "cloze"]),
        (["a_b_c_d", "a_b_x_d"], ["c_d", "x_d"]),
        (["a_b", "a_b_c"], ["b", "b_c"]),
        (["a", "a_b"], ["a", "a_b"]),
        (["en_x_a", "fr_x_b"], ["en_x_a", "fr_x_b"]),
        (["alpha", "alpine"], ["alpha", "alpine"]),
        (["demo_word"], ["demo_word"]),
        (["demo_word", "demo_word"], ["demo_word", "demo_word"]),
    ],
)
def test_words_that_all_tasks_of_a_suite_begin_with_are_left_out(tasks: list[str], titles: list[str]) -> None:
    rows = [row(task, f"metric{number}", 0.5) for number, task in enumerate(tasks)]
    _, *columns = Leaderboard([base("m", scores("m", *rows))]).columns
    assert [column.title for column in columns] == titles


def test_one_title_for_two_models_is_refused() -> None:
    with pytest.raises(EvaluationError, match=r"^leaderboard: model 'a' appears 2 times$"):
        Leaderboard([ENTRIES[0], ENTRIES[0]])


def test_two_scores_of_one_suite_are_refused() -> None:
    with pytest.raises(EvaluationError, match=r"^leaderboard: m: suite 'demo' appears 2 times$"):
        Leaderboard([base("m", *[demo("m", 8.0, 0.5, 0.3)] * 2)])


@pytest.mark.parametrize(("word", "text"), [("better", "▲"), ("worse", "▼"), ("cannot tell", "≈")])
def test_arrows_tell_better_from_worse(word: Word, text: str) -> None:
    assert arrow(Delta("a", "f0", 8.0, -0.5, 0.5, Verdict(word))) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, ""),
        (0, "0"),
        (999, "999"),
        (1000, "1k"),
        (999_499, "999k"),
        (999_500, "1M"),
        (1_287_456, "1.29M"),
        (999_499_999, "999M"),
        (999_500_000, "1B"),
        (7_241_732_096, "7.24B"),
        (999_500_000_000, "1T"),
        (10**13, "10T"),
    ],
)
def test_parameter_counts_for_people(count: int | None, text: str) -> None:
    assert format_count(count) == text


def test_a_value_is_compared_with_the_bytes_that_were_merged_not_with_what_the_parent_is_now() -> None:
    then, now = [scores("a", row("arc", "acc", 0.5))], [scores("a", row("arc", "acc", 0.9))]
    child = LeaderboardEntry(
        model="child",
        kind="variant",
        parents=[Parent("a", "a1", then)],
        scores=[scores("child", row("arc", "acc", 0.75))],
    )
    board = Leaderboard([LeaderboardEntry(model="a", kind="base", fingerprint="a2", scores=now), child])
    cells = next(row.cells for row in board.rows if row.entry is child)
    unknown = Verdict("cannot tell", why="child: no samples are kept")
    assert {cell.deltas for cell in cells.values()} == {(Delta("a", "a1", 0.5, 0.25, 0.25, unknown),)}
    assert "≈ +25.0 vs a of version a1 (50.0): cannot tell" in leaderboard_page(board)


def test_what_to_mind_of_a_difference_is_said_in_every_export() -> None:
    delta = Delta("a", "a1", 0.5, 0.25, 0.25, Verdict("better"), caveats=("torch 2.1 and 2.2",))
    entry = LeaderboardEntry(model="child", kind="variant", scores=[scores("child", row("arc", "acc", 0.75))])
    board = Leaderboard([entry])
    assert board.rows[0].notes == []
    board.rows[0] = Row(1, entry, dict.fromkeys(board.columns, Cell(0.75, None, 0, 50, (delta,), (), delta)))
    assert board.rows[0].notes == ["a: torch 2.1 and 2.2"]
    assert deltas_table(board)["note"].tolist() == ["torch 2.1 and 2.2"] * 2
    assert "- **child**: a: torch 2.1 and 2.2\n" in leaderboard_markdown(board)
    assert "mind: torch 2.1 and 2.2" in leaderboard_page(board)
