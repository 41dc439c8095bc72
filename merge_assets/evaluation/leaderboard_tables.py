"""A leaderboard as data frames. pandas is imported only where one is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from merge_assets.evaluation.otherwise import set_otherwise
from merge_assets.evaluation.tables import frame
from merge_assets.evaluation.varied import place_key, varied_places

if TYPE_CHECKING:
    import pandas

    from merge_assets.evaluation.leaderboard import Delta, Leaderboard
    from merge_assets.evaluation.statistics import PairedDifference


def models_table(board: Leaderboard) -> pandas.DataFrame:
    """One row per model; missing values are null (``<NA>``), never NaN.

    Columns: rank, its 95 % interval (rank low, rank high), model, kind, method, parameters, layers, parents and their versions;
    for each place of a sweep or a search ``place PATH``, a number or text; for each score column ``name`` (in lm-eval's unit),
    ``name stderr``, ``name n``, ``name delta`` (to the best parent, value minus parent's value), ``name best parent`` and
    ``name verdict`` (better, worse or cannot tell); then description, url, fingerprint, stale: why a row is out of date, asked
    otherwise: what its recipe set otherwise than a suite says, and failed: which tasks have no value, and why.
    """
    rows, entries = board.rows, [row.entry for row in board.rows]
    columns: dict[str, tuple[str, list[Any]]] = {
        "rank": ("Int64", [row.rank for row in rows]),
        "rank low": ("Int64", [row.ranks[0] if row.ranks else None for row in rows]),
        "rank high": ("Int64", [row.ranks[1] if row.ranks else None for row in rows]),
        "model": ("string", [entry.model for entry in entries]),
        "kind": ("string", [entry.kind for entry in entries]),
        "method": ("string", [entry.method for entry in entries]),
        "parameters": ("Int64", [entry.parameters for entry in entries]),
        "layers": ("Int64", [entry.layers for entry in entries]),
        "parents": ("object", [[parent.model for parent in entry.parents] for entry in entries]),
        "parent versions": ("object", [[parent.fingerprint for parent in entry.parents] for entry in entries]),
    }
    for place in varied_places(board.entries):
        found = [entry.places.get(place.path) for entry in entries]
        if all(one is None or (isinstance(one, int | float) and not isinstance(one, bool)) for one in found):
            columns[f"place {place.path}"] = ("Float64", found)
        else:
            columns[f"place {place.path}"] = ("string", [None if one is None else place_key(one) for one in found])
    for column in board.columns:
        cells = [row.cells.get(column) for row in rows]
        best = [cell.best_parent if cell else None for cell in cells]
        name = column.name
        columns[name] = ("Float64", [cell.value if cell else None for cell in cells])
        columns[f"{name} stderr"] = ("Float64", [cell.stderr if cell else None for cell in cells])
        columns[f"{name} n"] = ("Int64", [cell.n if cell else None for cell in cells])
        columns[f"{name} delta"] = ("Float64", [delta.difference if delta else None for delta in best])
        columns[f"{name} best parent"] = ("string", [delta.parent if delta else None for delta in best])
        columns[f"{name} verdict"] = ("string", [delta.verdict.word if delta else None for delta in best])
    columns["description"] = ("string", [entry.description for entry in entries])
    columns["url"] = ("string", [entry.url for entry in entries])
    columns["fingerprint"] = ("string", [entry.fingerprint for entry in entries])
    columns["stale"] = ("string", [entry.stale for entry in entries])
    told = ["; ".join(f"{s.suite}: {set_otherwise(s.otherwise)}" for s in one.scores if s.otherwise) for one in entries]
    columns["asked otherwise"] = ("string", [text or None for text in told])
    columns["failed"] = ("string", ["; ".join(s.failed for s in one.scores if s.failures) or None for one in entries])
    return frame(columns)


def deltas_table(board: Leaderboard) -> pandas.DataFrame:
    """One row per model, score column and parent.

    Columns: model, parent, parent_version, suite, task and metric (null for the headline), value, parent_value, delta
    (value minus parent_value), gain (its sign turned so that positive is better); verdict: better, worse or cannot tell, null
    without a difference; delta_stderr, paired by document; delta_low and delta_high, a 95 % interval of the difference; p;
    p_holm, adjusted for all rows; detectable: the smallest difference that the documents could have told, with a chance of 80 %
    at the 5 % level; note: why there is no difference or nothing can be told of it, or what to mind.
    """
    cells = [(row.entry.model, column, cell) for row in board.rows for column, cell in row.cells.items()]
    compared = [(*at, delta, delta.parent, delta.version, _note(delta)) for at in cells for delta in at[2].deltas]
    missing = [(*at, None, to.model, to.fingerprint, to.unknown) for at in cells for to in at[2].unknown]
    place = {(model, column): number for number, (model, column, _) in enumerate(cells)}
    found = sorted([*compared, *missing], key=lambda each: place[each[0], each[1]])
    deltas = [delta for _, _, _, delta, *_ in found]
    told = [delta.verdict.found if delta else None for delta in deltas]
    return frame(
        {
            "model": ("string", [model for model, *_ in found]),
            "parent": ("string", [parent for *_, parent, _, _ in found]),
            "parent_version": ("string", [version for *_, version, _ in found]),
            "suite": ("string", [column.suite for _, column, *_ in found]),
            "task": ("string", [column.task for _, column, *_ in found]),
            "metric": ("string", [column.metric for _, column, *_ in found]),
            "value": ("Float64", [cell.value for _, _, cell, *_ in found]),
            "parent_value": ("Float64", [delta.parent_value if delta else None for delta in deltas]),
            "delta": ("Float64", [delta.difference if delta else None for delta in deltas]),
            "gain": ("Float64", [delta.gain if delta else None for delta in deltas]),
            "verdict": ("string", [delta.verdict.word if delta else None for delta in deltas]),
            "delta_stderr": ("Float64", [_of(one, "stderr") for one in told]),
            "delta_low": ("Float64", [_of(one, "low") for one in told]),
            "delta_high": ("Float64", [_of(one, "high") for one in told]),
            "p": ("Float64", [_of(one, "p") for one in told]),
            "p_holm": ("Float64", [delta.verdict.adjusted if delta else None for delta in deltas]),
            "detectable": ("Float64", [_of(one, "detectable") for one in told]),
            "note": ("string", [note for *_, note in found]),
        }
    )


def _of(found: PairedDifference | None, name: str) -> float | None:
    return None if found is None else getattr(found, name)


def _note(delta: Delta) -> str | None:
    return "; ".join([*([delta.verdict.why] if delta.verdict.why else []), *delta.caveats]) or None
