"""Models that differ in a few places of their recipes have columns for these on the leaderboard, and others have none."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

from merge_assets.evaluation.exports import leaderboard_csv
from merge_assets.evaluation.leaderboard import Leaderboard, LeaderboardEntry
from merge_assets.evaluation.leaderboard_tables import models_table
from merge_assets.evaluation.page import leaderboard_page
from merge_assets.evaluation.varied import MOST, VariedPlace, place_text, varied_places
from tests.evaluation.test_page import HOSTILE, Page
from tests.leaderboard_support import ENTRIES, row, scores

T, U, MODEL = "parameters.t[0].value", "parameters.t[1].value", "models[0].model"


def entry(name: str, score: float, **places: Any) -> LeaderboardEntry:
    made = scores(name, row("t", "acc", score))
    return LeaderboardEntry(model=name, kind="variant", method="slerp", scores=[made], places=places)


def board() -> Leaderboard:
    return Leaderboard(
        [
            entry("grid-t0.3", 0.5, **{T: 0.3, U: 1, MODEL: "org/first"}),
            entry("grid-t0.7", 0.6, **{T: 0.7, U: [0, 0.5], MODEL: "org/second"}),
            entry("alone", 0.4),
        ]
    )


def cells(text: str) -> list[list[str]]:
    return [
        re.findall(r'<td class="varied" data-v="([^"]*)">', each) for each in text.split("<tr")[1:] if "varied" in each
    ][1:]


def test_a_column_for_each_place_sorts_by_its_values_and_is_found_by_the_filter() -> None:
    text = leaderboard_page(board())
    page = Page(text)
    heads = [attrs["aria-label"] for tag, attrs in page.tags if tag == "button" and attrs.get("data-key") == "varied"]
    assert heads == [T, U, MODEL]
    assert cells(text) == [["0.7", "[0, 0.5]", "org/second"], ["0.3", "1", "org/first"], ["", "", ""]]
    texts = [attrs["data-text"] or "" for tag, attrs in page.tags if tag == "tr" and "data-text" in attrs]
    assert "t_0=0.7 t_1=[0, 0.5] model=second" in texts[0]
    body = text[text.index("<tbody>") : text.index("</tbody>")]
    heads_of_columns = text[: text.index("</thead>")].rpartition("<tr>")[2].count("<th ")
    assert [len(re.findall("<t[hd] ", each)) for each in body.split("<tr ")[1:]] == [heads_of_columns] * 3


def test_a_board_without_such_models_has_no_such_columns() -> None:
    assert "varied" not in leaderboard_page(Leaderboard(ENTRIES)).partition("</style>")[2]
    assert not [name for name in models_table(Leaderboard(ENTRIES)).columns if name.startswith("place ")]


def test_the_tables_have_all_places_by_their_key_paths() -> None:
    table = models_table(board())
    assert table[f"place {T}"].tolist()[:2] == [0.7, 0.3] and table[f"place {T}"].isna().tolist() == [
        False,
        False,
        True,
    ]
    assert table[f"place {U}"].tolist()[:2] == ["[0, 0.5]", "1"]
    first = next(csv.DictReader(io.StringIO(leaderboard_csv(board()))))
    assert first[f"place {T}"] == "0.7" and first[f"place {MODEL}"] == "org/second"


def test_places_of_most_models_come_first_and_labels_are_told_apart() -> None:
    several = [entry(str(n), 0.1, **{T: n, "merge_method": "ties"} if n else {T: n, MODEL: "m"}) for n in range(3)]
    assert varied_places(several)[:2] == [VariedPlace(T, "t"), VariedPlace("merge_method", "merge_method")]
    twins = [entry("a", 0.1, **{"models[0].parameters.weight": 1, "slices[0].parameters.weight": 2})]
    labels = [one.label for one in varied_places(twins)]
    assert len(set(labels)) == 2
    many = Leaderboard([entry("a", 0.1, **{f"parameters.p{n}": n for n in range(MOST + 3)})])
    assert leaderboard_page(many).count('<th scope="col" class="varied"') == MOST


def test_values_are_short_and_no_markup() -> None:
    assert [place_text(one) for one in (0.123456, True, "org/name", "x" * 30, [0, 1])] == [
        *("0.12346", "true", "name", "…" + "x" * 23, "[0, 1]")
    ]

    def tags(text: str) -> list[str]:
        return [tag for tag, _ in Page(leaderboard_page(Leaderboard([entry("a", 0.1, **{text: text})]))).tags]

    assert tags(HOSTILE) == tags("harmless")
