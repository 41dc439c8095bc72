"""The leaderboard as metadata."""

from typing import TYPE_CHECKING

import dagster as dg

from merge_assets.pipeline.outcome import BUILT, REUSED
from merge_assets.pipeline.render import Metadata, table
from merge_assets.pipeline.results import artifact_metadata
from merge_assets.records import LeaderboardDetails

if TYPE_CHECKING:
    from pandas import DataFrame

    from merge_assets.api import Ranked


def leaderboard_metadata(ranked: "Ranked", markdown: str) -> Metadata:
    """The leaderboard as a table, and what of it is out of date."""
    from merge_assets.evaluation.leaderboard_tables import models_table

    stale = [{"model": row.entry.model, "why": row.entry.stale} for row in ranked.leaderboard.rows if row.entry.stale]
    metadata: Metadata = {
        "outcome": REUSED if ranked.reused else BUILT,
        "models": ranked.artifact.manifest.described(LeaderboardDetails).models,
        "ranking": table(ranking_rows(models_table(ranked.leaderboard))),
    }
    if stale:
        metadata["out_of_date"] = table(stale)
    metadata["leaderboard"] = dg.MetadataValue.md(markdown)
    local = ranked.artifact.path
    if local is not None and (local / "leaderboard.html").is_file():
        metadata["page"] = dg.MetadataValue.path(str(local / "leaderboard.html"))
    return metadata | artifact_metadata(ranked.artifact)


def ranking_rows(frame: "DataFrame") -> list[Metadata]:
    """The leaderboard's averages, one row per model: percent with the difference to the best parent, and what is told of it."""
    suites = [name for name in frame.columns if "/" not in name and f"{name} delta" in frame.columns]
    rows = []
    for record in frame.astype(object).where(frame.notna(), None).to_dict("records"):
        row: Metadata = {
            "rank": record["rank"] if record["rank"] is not None else "",
            "95 % ranks": "" if record["rank low"] is None else f"{record['rank low']}–{record['rank high']}",
            "model": record["model"],
            "method": record["method"] or record["kind"],
            "layers": record["layers"] if record["layers"] is not None else "",
        }
        for suite in suites:
            row[suite] = _percent(record[suite])
            row[f"{suite} Δ"] = _percent(record[f"{suite} delta"], sign="+")
            row[f"{suite} verdict"] = record[f"{suite} verdict"] or ""
        row["failed"] = record["failed"] or ""
        row["out of date"] = record["stale"] or ""
        rows.append(row)
    return rows


def _percent(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{100 * value:{sign}.1f}"
