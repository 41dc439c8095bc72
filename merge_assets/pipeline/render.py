"""Results as metadata that a person reads on an asset's page.

Numbers that mean something over time are plain numbers, so that Dagster plots them; sizes come a second time as text.
Tables are small: metadata is stored with every event.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from merge_assets import markup
from merge_assets.errors import printable
from merge_assets.pipeline.outcome import BUILT, CONFIRMED, MEASURED, REUSED
from merge_assets.plan.describe import folded_recipes, human_bytes, layer_map, parameter_table
from merge_assets.plan.model import Plan
from merge_assets.recipe import Recipe
from merge_assets.records import NOTHING_CHANGED, AnalysisDetails, LeaderboardDetails

if TYPE_CHECKING:
    from pandas import DataFrame

    from merge_assets.api import Analysed, Built, Observation, Ranked, Scored
    from merge_assets.evaluation.leaderboard import Parent
    from merge_assets.store import Artifact

MAX_ROWS = 400
MAX_PICTURE_BYTES = 100_000
MAX_TEXT = 60_000
MAX_FOLDED = 20

Metadata = dict[str, Any]


def table(rows: Sequence[Mapping[str, object]]) -> dg.TableMetadataValue | dg.TextMetadataValue:
    """Rows of equal keys as an inline grid, cut to :data:`MAX_ROWS`; ``none`` for no rows."""
    if not rows:
        return dg.MetadataValue.text("none")
    records = [dg.TableRecord({key: _cell(value) for key, value in row.items()}) for row in rows[:MAX_ROWS]]
    columns = [dg.TableColumn(key, _column_type([row[key] for row in rows])) for key in rows[0]]
    return dg.MetadataValue.table(records=records, schema=dg.TableSchema(columns=columns))


def picture(title: str, png: bytes) -> dg.MarkdownMetadataValue:
    """A PNG inside Markdown; one that is too large for the event log is left out with a note."""
    if len(png) > MAX_PICTURE_BYTES:
        return dg.MetadataValue.md(f"The picture has {human_bytes(len(png))}; open it in the artifact's folder.")
    return dg.MetadataValue.md(
        f"![{markup.escape_markdown(title)}](data:image/png;base64,{base64.b64encode(png).decode()})"
    )


def code(text: str, language: str) -> dg.MarkdownMetadataValue:
    """Text as a fenced block."""
    return dg.MetadataValue.md(fenced(text, language))


def fenced(text: str, language: str = "") -> str:
    """Text as a fenced block of Markdown, cut to :data:`MAX_TEXT`."""
    shown = text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}\n…"
    return markup.fenced(shown, language)


def code_references(file: Path, line: int) -> dg.CodeReferencesMetadataValue:
    """Where a definition stands, as the link "Open in editor"."""
    return dg.CodeReferencesMetadataValue(
        code_references=[dg.LocalFileCodeReference(file_path=str(file), line_number=line, label=file.name)]
    )


def one_sentence(text: str) -> str:
    """``text`` as one line that ends like a sentence; the catalogue shows the first characters of a description."""
    line = printable(" ".join(text.split()))
    return line if not line or line.endswith((".", "!", "?")) else f"{line}."


def recipe_description(recipe: Recipe, folded: Sequence[Recipe] = ()) -> str:
    """Description of a variant: one sentence, then the recipe's own text and that of the recipes folded into it."""
    models = ", ".join(str(reference) for reference in recipe.references())
    sentence = one_sentence(recipe.description) or one_sentence(f"Merge of {models} by {recipe.merge_method}.")
    parts = [sentence, fenced(recipe.source.text.strip(), "yaml")]
    if folded:
        parts.append(f"Folds in: {', '.join(inner.name for inner in folded)}.")
    for inner in folded[:MAX_FOLDED]:
        parts.append(f"`{inner.name}`, not stored:\n\n{fenced(inner.source.text.strip(), 'yaml')}")
    return "\n\n".join(parts)


def artifact_metadata(artifact: "Artifact", outcome: str) -> Metadata:
    """What every stored result says about its artifact."""
    local = artifact.path
    return {
        "outcome": outcome,
        "artifact": dg.MetadataValue.path(str(local)) if local is not None else dg.MetadataValue.url(artifact.url),
        "fingerprint": artifact.version,
        "artifact_bytes": artifact.manifest.size,
        "artifact_size": human_bytes(artifact.manifest.size),
        "inputs": table(
            [{"input": name, "fingerprint": value[:16]} for name, value in artifact.manifest.fingerprints.items()]
        ),
    }


def observation_metadata(observation: "Observation") -> Metadata:
    """A base checkpoint as it was seen."""
    metadata: Metadata = {
        "fingerprint": observation.fingerprint,
        "bytes": observation.bytes,
        "size": human_bytes(observation.bytes),
        "tensors": observation.tensors,
        "layers": observation.layers,
        "architecture": observation.architecture,
    }
    if observation.revision is not None:
        metadata["revision"] = observation.revision
    return metadata


_MOVED = ("reused", "linked", "moved", "fetched", "sent")
"""What the store says of bytes that were not computed; see :class:`merge_assets.store.planned.Tally`."""


def variant_metadata(recipe: Recipe, built: "Built") -> Metadata:
    """A merged variant: what it is made of, what making it took."""
    report = built.report
    moved = {key: getattr(report, f"bytes_{key}") for key in _MOVED}
    metadata = plan_metadata(built.plan)
    metadata |= {
        "recipe": code(recipe.source.text, "yaml"),
        "mergekit_config": code(built.plan.mergekit_config, "yaml"),
        "tensors_computed": report.tensors_computed,
        "tensors_copied": report.tensors_copied,
        "tensors_reused": report.tensors_reused,
        "tensors_copied_by_server": report.tensors_by_server,
        "tensors_resumed": report.tensors_resumed,
        "bytes_read": report.bytes_read,
        "bytes_written": report.bytes_written,
        "read": human_bytes(report.bytes_read),
        "written": human_bytes(report.bytes_written),
        **{f"bytes_{key}": count for key, count in moved.items()},
        **{key: human_bytes(count) for key, count in moved.items()},
        "peak_memory_bytes": report.peak_memory,
        "peak_memory": human_bytes(report.peak_memory),
        "device": report.device,
        "merge_seconds": round(report.seconds, 3),
    }
    if report.seconds > 0:
        metadata["gib_per_s"] = round((report.bytes_read + report.bytes_written) / report.seconds / 2**30, 3)
    if geometry := built.artifact.manifest.common.geometry:
        metadata["inputs_geometry"] = table(
            [
                {
                    "tensor": name,
                    "of": one.of,
                    "norms": ", ".join(f"{norm:.4g}" for norm in one.norms),
                    "cosines": ", ".join(f"{cosine:.4f}" for cosine in one.cosines),
                }
                for name, one in geometry.items()
            ]
        )
        cosines = [cosine for one in geometry.values() for cosine in one.cosines]
        if cosines:
            metadata["mean_cosine"] = round(math.fsum(cosines) / len(cosines), 6)
    return metadata | artifact_metadata(built.artifact, CONFIRMED if built.confirmed else _outcome(built.reused))


def plan_metadata(plan: Plan) -> Metadata:
    """Layer map, parameters and sizes of a plan."""
    metadata: Metadata = {
        "method": plan.method,
        "layers": plan.layer_count,
        "parameters": plan.parameter_count,
        "layer_map": table(
            [{"layers": row.output, "from": row.sources, "values": row.values} for row in layer_map(plan)]
        ),
        "parameter_table": table(parameter_table(plan)),
    }
    if folded := folded_recipes(plan):
        metadata["folds_in"] = ", ".join(folded)
    if plan.removed_layers:
        metadata["removed_layers"] = table(
            [{**row, "value": "∞" if row.get("infinite") else row.get("value")} for row in plan.removed_layers]
        )
    if plan.dropped:
        metadata["dropped_tensors"] = table(_dropped(plan))
    if plan.warnings:
        metadata["warnings"] = dg.MetadataValue.md(
            "\n".join(f"- {markup.escape_markdown(warning)}" for warning in plan.warnings)
        )
    return metadata


def analysis_metadata(analysed: "Analysed", directory: Path) -> Metadata:
    """An SNR analysis: heat map, and one row per weight.

    Args:
        analysed: what is in the store.
        directory: a local folder with its files.
    """
    from merge_assets.analysis.layers import read_rows

    details = analysed.artifact.manifest.described(AnalysisDetails)
    metadata: Metadata = {}
    heat_map = directory / "plots" / "heatmap.png"
    if heat_map.is_file():
        metadata["heat_map"] = picture(f"SNR of {details.model}", heat_map.read_bytes())
    metadata |= {
        "weights": details.weights,
        "infinite_snr": details.infinite,
        "snr": table(
            [
                {
                    "layer": "" if row["layer"] is None else row["layer"],
                    "module": row["module"],
                    "snr": "∞" if row["infinite"] else f"{row['snr']:.4g}",
                    "margin": f"{row['margin']:.4g}",
                    "stable_rank": f"{row['stable_rank']:.4g}",
                    "effective_rank": f"{row['effective_rank']:.4g}",
                    "outliers": row["outliers"],
                }
                for row in sorted(read_rows(directory), key=_place)
            ]
        ),
        "analysis_seconds": round(details.seconds, 3),
        "read": human_bytes(details.bytes_read),
    }
    return metadata | _measured(analysed.artifact, analysed.reused, analysed.changes)


def scores_metadata(scored: "Scored", parents: "Sequence[Parent]", stale: str | None) -> Metadata:
    """Scores of one model: a table with the differences to its parents, and one number per task to plot.

    Args:
        scored: what is in the store.
        parents: what the version was made from.
        stale: why this version is out of date.
    """
    scores = scored.scores
    shown = scores.to_markdown([theirs for parent in parents for theirs in parent.scores])
    metadata: Metadata = {"scores": dg.MetadataValue.md(shown), "version": scores.fingerprint}
    if unknown := [parent.unknown for parent in parents if not parent.scores]:
        metadata["no_difference"] = "; ".join(unknown)
    if stale is not None:
        metadata["out_of_date"] = stale
    if scores.headline is not None:
        metadata["headline"] = scores.headline
    for row in scores.tasks:
        metadata[printable(f"{row.task} {row.metric}")] = row.value
    metadata["evaluation_seconds"] = round(math.fsum(row.seconds for row in scores.tasks), 1)
    metadata["evaluated_now"] = ", ".join(scored.evaluated) or "none"
    metadata["versions"] = dict(scores.versions)
    return metadata | _measured(scored.artifact, scored.reused, scored.changes)


def leaderboard_metadata(ranked: "Ranked", markdown: str) -> Metadata:
    """The leaderboard as a table, and what of it is out of date."""
    stale = [{"model": row.entry.model, "why": row.entry.stale} for row in ranked.leaderboard.rows if row.entry.stale]
    metadata: Metadata = {
        "ranking": table(_ranking(ranked.leaderboard.table())),
        "leaderboard": dg.MetadataValue.md(markdown),
        "models": ranked.artifact.manifest.described(LeaderboardDetails).models,
        "out_of_date": table(stale),
    }
    local = ranked.artifact.path
    if local is not None and (local / "leaderboard.html").is_file():
        metadata["page"] = dg.MetadataValue.path(str(local / "leaderboard.html"))
    return metadata | artifact_metadata(ranked.artifact, _outcome(ranked.reused))


def check_metadata(metadata: Mapping[str, object]) -> Metadata:
    """Figures of a check; whatever is not a plain value as text."""
    plain = (int, float, bool)
    return {
        printable(key): value if isinstance(value, plain) else printable(str(value)) for key, value in metadata.items()
    }


def _outcome(reused: bool) -> str:
    return REUSED if reused else BUILT


def _measured(artifact: "Artifact", reused: bool, changes: Sequence[str] | None) -> Metadata:
    """The same of what may have been measured again, with what that changed."""
    if changes is None:
        return artifact_metadata(artifact, _outcome(reused))
    return {"changes": "; ".join(changes) or NOTHING_CHANGED} | artifact_metadata(artifact, MEASURED)


def _dropped(plan: Plan) -> list[Metadata]:
    """One row per model and reason; the plan beside the variant names every tensor."""
    groups: dict[tuple[str, str], list[str]] = {}
    for tensor in plan.dropped:
        groups.setdefault((plan.models[tensor.model].reference, tensor.reason), []).append(tensor.tensor)
    return [
        {"model": model, "tensors": len(names), "first": names[0], "reason": reason}
        for (model, reason), names in groups.items()
    ]


def _place(row: Mapping[str, Any]) -> tuple[str, int, str]:
    """Sort key of an analysed weight: its module, then its layer by number."""
    return row["module"], -1 if row["layer"] is None else int(row["layer"]), row["tensor"]


def _ranking(frame: "DataFrame") -> list[Metadata]:
    """The leaderboard's averages, one row per model: percent with the difference to the best parent."""
    suites = [name for name in frame.columns if "/" not in name and f"{name} delta" in frame.columns]
    rows = []
    for record in frame.astype(object).where(frame.notna(), None).to_dict("records"):
        row: Metadata = {
            "rank": record["rank"] if record["rank"] is not None else "",
            "model": record["model"],
            "method": record["method"] or record["kind"],
            "layers": record["layers"] if record["layers"] is not None else "",
        }
        for suite in suites:
            row[suite] = _percent(record[suite])
            row[f"{suite} Δ"] = _percent(record[f"{suite} delta"], sign="+")
        row["out of date"] = record["stale"] or ""
        rows.append(row)
    return rows


def _percent(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{100 * value:{sign}.1f}"


def _cell(value: object) -> str | int | float | bool:
    if isinstance(value, float) and not math.isfinite(value):
        return "∞" if value > 0 else str(value)
    return value if isinstance(value, (int, float, bool)) else printable(str(value))


def _column_type(values: Sequence[object]) -> str:
    cells = [_cell(value) for value in values]
    if all(isinstance(cell, bool) for cell in cells):
        return "bool"
    if all(isinstance(cell, int) for cell in cells):
        return "int"
    return "float" if all(isinstance(cell, (int, float)) for cell in cells) else "string"
