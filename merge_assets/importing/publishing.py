"""What the tables of a card publish, with the recipe that is imported from it: scores as `published`, layers as notices."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from merge_assets.importing.edits import Edits
from merge_assets.importing.layer_facts import layer_facts
from merge_assets.importing.mending import Imported, sound_recipes
from merge_assets.importing.model_index import model_index
from merge_assets.importing.score_tables import V1, ScoreTable, score_tables
from merge_assets.yamlfile import parse_documents

_MOST = 50
_MOST_COMPARED = 200
_ROUNDING = 0.0051
"""Of one value that is written twice, with two decimals and with more."""


def with_published(
    imported: Imported, text: str, origin: str, names: Collection[str], suites: Collection[str], file: Path
) -> Imported:
    """The same with what tables and front matter of a card publish of its model and of those beside it.

    A recipe that has `published` keeps it.

    Args:
        imported: the recipes; the last one is the card's model.
        text: of the card.
        origin: the source of the values, in words.
        names: what the card's model is called.
        suites: suites that are here; benchmarks of another one are free names.
        file: named in errors.
    """
    name = imported.recipes[-1].name
    document = parse_documents(imported.text, file)[-1]
    tables = _once([*model_index(text, {name, *names}, file), *score_tables(text, {name, *names})])
    if not tables or "published" in document.data:
        return imported
    lines = [_line(table, origin, suites) for table in tables[:_MOST]]
    written = _written(imported.text, document.index, lines)
    values = sum(len(table.values) for table in tables[:_MOST])
    at = ", ".join(str(line) for line in dict.fromkeys(table.line for table in tables))
    told = f"published: {values} values of {len({table.model for table in tables})} models, from tables at line {at}"
    return replace(
        imported, text=written, recipes=sound_recipes(written, file, name), notices=(*imported.notices, told)
    )


def with_layers_told(imported: Imported, text: str, names: Collection[str]) -> Imported:
    """The same with a notice of what each table of a card says of layers by number, for whoever compares it with the plan.

    Args:
        imported: the recipes; the last one is the card's model.
        text: of the card.
        names: what the card's model is called.
    """
    facts = layer_facts(text, {imported.recipes[-1].name, *names})
    told = tuple(dict.fromkeys(map(str, facts)))[:_MOST]
    return replace(imported, notices=(*imported.notices, *told))


def _once(tables: Sequence[ScoreTable]) -> list[ScoreTable]:
    """The tables without those whose every value another one of the same model has; of equal ones the first stays."""
    kept: list[ScoreTable] = []
    for number, table in enumerate(tables[:_MOST_COMPARED]):
        larger = (one for one in tables[number + 1 : _MOST_COMPARED] if len(one.values) > len(table.values))
        if not any(_holds(other, table) for other in (*kept, *larger)):
            kept.append(table)
    return kept


def _holds(one: ScoreTable, other: ScoreTable) -> bool:
    same = (abs(one.values.get(name, math.inf) - value) <= _ROUNDING for name, value in other.values.items())
    return one.model == other.model and all(same)


def _written(text: str, index: int, lines: list[dict[str, Any]]) -> str:
    """The text with one more key in its last document, behind the others where that is no mapping in braces."""
    edits = Edits(text)
    if edits.in_braces(index):
        edits.add((index, ()), "published", lines)
        return edits.done()
    return f"{text.rstrip()}\n{yaml.safe_dump({'published': lines}, sort_keys=False, allow_unicode=True, width=120)}"


def _line(table: ScoreTable, origin: str, suites: Collection[str]) -> dict[str, Any]:
    entry: dict[str, Any] = {"source": f"{origin}, line {table.line}"[:500], "values": dict(table.values)}
    if table.is_first_leaderboard and V1 in suites:
        entry["suite"] = V1
    if table.model:
        entry["model"] = table.model
    return entry
