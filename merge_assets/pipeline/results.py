"""Results as metadata that a person reads on an asset's page: what became of it first, figures of this run, then the rest.

Dagster plots every plain number over time. So a number is there only if it is of this run, in a unit that its name has, and
work that was spared counts as nothing; everything else is text or a table.
"""

import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from merge_assets import markup
from merge_assets.errors import printable
from merge_assets.pipeline.outcome import BUILT, CONFIRMED, MEASURED, RESUMED, REUSED
from merge_assets.pipeline.pictures import bar, layer_picture, snr_picture
from merge_assets.pipeline.render import Metadata, code, picture, table
from merge_assets.pipeline.versions import FAILED, MAY_PASS
from merge_assets.plan.code import code_summary
from merge_assets.plan.describe import folded_recipes, human_bytes, left_files
from merge_assets.plan.layer_map import layer_map
from merge_assets.plan.model import Plan
from merge_assets.plan.parameter_table import parameter_table
from merge_assets.recipe import Recipe
from merge_assets.records import (
    NOTHING_CHANGED,
    AnalysisDetails,
    ImportanceDetails,
    StoredBuildReport,
)

if TYPE_CHECKING:
    from merge_assets.api import Analysed, Built, Measured, Observation, Scored
    from merge_assets.evaluation.leaderboard import Parent, Row
    from merge_assets.evaluation.scores import Scores
    from merge_assets.store import Artifact
    from merge_assets.workspace.samples import StoredSamples

SIZE = "dagster/size_bytes"
"""A number that Dagster shows as a size, at the top of an asset's page."""


def observation_metadata(observation: "Observation") -> Metadata:
    """A base checkpoint as it was seen."""
    metadata: Metadata = {
        "fingerprint": observation.fingerprint,
        SIZE: observation.bytes,
        "size": human_bytes(observation.bytes),
        "tensors": observation.tensors,
        "layers": observation.layers,
        "architecture": observation.architecture,
    }
    if observation.revision is not None:
        metadata["revision"] = observation.revision
    return metadata


def variant_metadata(recipe: Recipe, built: "Built", trusted: Collection[str] = ()) -> Metadata:
    """A merged variant: what making it took now, and what it is made of."""
    report = built.report
    if built.confirmed:
        outcome = CONFIRMED
    elif report is None:
        outcome = REUSED
    else:
        outcome = RESUMED if report.tensors_resumed else BUILT
    metadata: Metadata = {"outcome": outcome, "work": _since(built.artifact) if report is None else _work(report)}
    metadata |= plan_metadata(built.plan)
    if code_said := code_summary(built.plan, trusted):
        metadata["trust_remote_code"] = code_said
    if report is None:
        metadata |= {"tensors_computed": 0, "read_mib": 0.0, "written_mib": 0.0, "merge_seconds": 0.0}
    else:
        metadata |= _build_figures(report)
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
    metadata |= artifact_metadata(built.artifact)
    return metadata | {
        "recipe": code(recipe.source.text, "yaml"),
        "mergekit_config": code(built.plan.mergekit_config, "yaml"),
    }


def plan_metadata(plan: Plan) -> Metadata:
    """Layer map, parameters and what of the inputs is not used."""
    metadata: Metadata = {}
    if plan.warnings:
        metadata["warnings"] = dg.MetadataValue.md(
            "\n".join(f"- {markup.escape_markdown(warning)}" for warning in plan.warnings)
        )
    metadata |= {"method": plan.method, "layers": plan.layer_count, "parameters": f"{plan.parameter_count:,}"}
    if (drawn := layer_picture(plan)) is not None:
        metadata["layer_picture"] = dg.MetadataValue.md(drawn)
    metadata["layer_map"] = table(
        [{"part": row.part, "layers": row.output, "from": row.sources} for row in layer_map(plan)]
    )
    if parameters := parameter_table(plan):
        metadata["parameter_table"] = table(
            [{"for": row.model, "parameter": row.parameter, "in": row.of, "value": row.value} for row in parameters]
        )
    if folded := folded_recipes(plan):
        metadata["folds_in"] = ", ".join(folded)
    if plan.removed_layers:
        metadata["removed_layers"] = table(
            [{**row, "value": "∞" if row.get("infinite") else row.get("value")} for row in plan.removed_layers]
        )
    if plan.decisions:
        metadata["decisions"] = table([asdict(one) for one in plan.decisions])
    if plan.left_files:
        metadata["left_files"] = left_files(plan)
    if plan.dropped:
        metadata["dropped_tensors"] = table(_dropped(plan))
    return metadata


def analysis_metadata(analysed: "Analysed", directory: Path) -> Metadata:
    """An SNR analysis: pictures, and one row per weight.

    Args:
        analysed: what is in the store.
        directory: a local folder with its files.
    """
    from merge_assets.analysis.layers import read_rows

    details, now = analysed.artifact.manifest.described(AnalysisDetails), analysed.details
    metadata = _measured(analysed.artifact, analysed.reused, analysed.changes)
    if now is not None:
        kept = f", {now.spectra_reused} taken from the analysis before" if now.spectra_reused else ""
        computed = now.weights - now.spectra_reused
        metadata["work"] = (
            f"{computed} spectra computed{kept}; {human_bytes(now.bytes_read)} read, in {now.seconds:.1f} s"
        )
    rows = sorted(read_rows(directory), key=_place)
    if (drawn := snr_picture(rows)) is not None:
        metadata["snr_picture"] = dg.MetadataValue.md(drawn)
    heat_map = directory / "plots" / "heatmap.png"
    if heat_map.is_file():
        metadata["heat_map"] = picture(f"SNR of {details.model}", heat_map.read_bytes())
    infinite = f", of {details.infinite} the SNR is infinite" if details.infinite else ""
    metadata |= {
        "weights": f"{details.weights}{infinite}",
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
                for row in rows
            ]
        ),
        "read_mib": 0.0 if now is None else _mib(now.bytes_read),
        "analysis_seconds": 0.0 if now is None else round(now.seconds, 3),
    }
    return metadata | artifact_metadata(analysed.artifact)


def importance_metadata(measured: "Measured", directory: Path) -> Metadata:
    """What layers are worth on a text: pictures, and one row per layer.

    Args:
        measured: what is in the store.
        directory: a local folder with its files.
    """
    from merge_assets.analysis.importance import layer_table, read_importance

    details = measured.artifact.manifest.described(ImportanceDetails)
    metadata = _measured(measured.artifact, measured.reused, measured.changes)
    for plot in sorted((directory / "plots").glob("*.png")):
        metadata[plot.stem.replace("-", "_")] = picture(f"{plot.stem} of {details.model}", plot.read_bytes())
    metadata |= {
        "text": f"{details.text['file']}: {details.tokens} tokens in {details.pieces} pieces, {details.text['dtype']}",
        "layers": table(layer_table(read_importance(directory))),
        "analysis_seconds": 0.0 if measured.reused else round(details.seconds, 3),
    }
    return metadata | artifact_metadata(measured.artifact)


def scores_metadata(
    scored: "Scored", parents: "Sequence[Parent]", stale: str | None, samples: "StoredSamples | None" = None
) -> Metadata:
    """Scores of one model: a table with the differences to its parents, and one number per task to plot.

    Args:
        scored: what is in the store.
        parents: what the version was made from.
        stale: why this version is out of date.
        samples: what its documents and those of its parents say; without them, nothing can be told of a difference.
    """
    from merge_assets.evaluation.leaderboard import beside_parents

    scores = scored.scores
    if samples is not None:
        samples.add(scores, scored.artifact)
    metadata = _measured(scored.artifact, scored.reused, scored.changes)
    spent = math.fsum(row.seconds for row in scores.tasks if not scored.reused and row.task in scored.evaluated)
    if not scored.reused:
        lacking = {failure.task for failure in scores.failures}
        tasks, failed = len({row.task for row in scores.tasks} | lacking), len(lacking)
        known = "" if len(scored.evaluated) + failed == tasks else "; of the others there were results of these bytes"
        known += f"; {failed} failed" if failed else ""
        metadata["work"] = f"{len(scored.evaluated)} of {tasks} tasks evaluated, in {spent:.0f} s{known}"
    if stale is not None:
        metadata["out_of_date"] = stale
    if scores.failures:
        metadata[FAILED] = scores.failed
        if any(failure.may_pass for failure in scores.failures):
            metadata[MAY_PASS] = "the tasks that failed may have a value the next time"
    if scores.notes:
        metadata["notes"] = dg.MetadataValue.md("\n".join(f"- {markup.escape_markdown(one)}" for one in scores.notes))
    metadata["scores"] = table(_score_rows(scores, beside_parents([scores], parents, samples)))
    if unknown := [parent.unknown for parent in parents if not parent.scores]:
        metadata["no_difference"] = "; ".join(unknown)
    if scores.headline is not None and not scores.part:  # that of a part is another number
        metadata["headline"] = round(scores.headline, 4)
    for row in scores.tasks:
        metadata[printable(f"{row.task} {row.metric}")] = round(row.value, 4)
    metadata["evaluation_seconds"] = round(spent, 1)
    metadata["version"] = scores.fingerprint
    metadata["versions"] = table([{"package": name, "version": version} for name, version in scores.versions.items()])
    if scores.trust_remote_code:
        metadata["trust_remote_code"] = "code that comes with the checkpoint may have been run, without a network"
    return metadata | artifact_metadata(scored.artifact)


def artifact_metadata(artifact: "Artifact") -> Metadata:
    """What every stored result says about its artifact."""
    local = artifact.path
    return {
        "artifact": dg.MetadataValue.path(str(local)) if local is not None else dg.MetadataValue.url(artifact.url),
        "size": human_bytes(artifact.manifest.size),
        "fingerprint": artifact.version,
        "inputs": table(
            [{"input": name, "fingerprint": value[:16]} for name, value in artifact.manifest.fingerprints.items()]
        ),
        SIZE: artifact.manifest.size,
    }


def _since(artifact: "Artifact") -> str:
    """That nothing had to be done."""
    return f"none: the store has had it since {artifact.manifest.created:%Y-%m-%d %H:%M} UTC"


def _work(report: StoredBuildReport) -> str:
    """What a build did, in one sentence."""
    tensors = {
        "computed": report.tensors_computed,
        "copied": report.tensors_copied,
        "taken over": report.tensors_reused,
        "left by an earlier attempt": report.tensors_resumed,
    }
    made = ", ".join(f"{count} {how}" for how, count in tensors.items() if count) or "none"
    pace = (report.bytes_read + report.bytes_written) / report.seconds if report.seconds > 0 else 0.0
    return (
        f"{report.seconds:.1f} s on {report.device}; tensors: {made}; {human_bytes(report.bytes_read)} read, "
        f"{human_bytes(report.bytes_written)} written ({human_bytes(pace)}/s)"
    )


def _build_figures(report: StoredBuildReport) -> Metadata:
    """Numbers of a build to plot, and where its bytes came from, without what was nothing."""
    figures: Metadata = {
        "tensors_computed": report.tensors_computed,
        "read_mib": _mib(report.bytes_read),
        "written_mib": _mib(report.bytes_written),
        "merge_seconds": round(report.seconds, 3),
        "peak_memory_mib": _mib(report.peak_memory),
    }
    if report.seconds > 0:
        figures["mib_per_s"] = _mib((report.bytes_read + report.bytes_written) / report.seconds)
    moved = {
        "taken over from the store, or from models that its server reaches": (
            report.tensors_reused,
            report.bytes_reused,
        ),
        "of these, copied by the object store": (report.tensors_by_server, 0),
        "of these, one more name of a file": (0, report.bytes_linked),
        "of these, copied without coming by here": (0, report.bytes_moved),
        "left by an earlier attempt": (report.tensors_resumed, report.bytes_resumed),
        "read from the object store": (0, report.bytes_fetched),
        "written to the object store": (0, report.bytes_sent),
    }
    rows = [
        {"bytes": what, "tensors": tensors or "", "size": human_bytes(size) if size else ""}
        for what, (tensors, size) in moved.items()
        if tensors or size
    ]
    return figures | ({"where_bytes_are_from": table(rows)} if rows else {})


def _mib(count: float) -> float:
    return round(count / 2**20, 3)


def _measured(artifact: "Artifact", reused: bool, changes: Sequence[str] | None) -> Metadata:
    """What became of something that may have been measured again, with what that changed."""
    if changes is not None:
        return {"outcome": MEASURED, "changes": "; ".join(changes) or NOTHING_CHANGED}
    return {"outcome": REUSED, "work": _since(artifact)} if reused else {"outcome": BUILT}


def _score_rows(scores: "Scores", beside: "Row") -> list[Metadata]:
    """One row a task and one for the average, with bars for what is a share; what is wanted most comes first."""
    from merge_assets.evaluation.scores import format_delta

    shown = scores.shown()
    heads = list(dict.fromkeys(f"Δ {delta.parent}" for cell in beside.cells.values() for delta in cell.deltas))
    deltas: dict[tuple[str | None, str | None], dict[str, str]] = {}
    for column, cell in beside.cells.items():
        told = deltas.setdefault((column.task, column.metric), dict.fromkeys(heads, ""))
        for delta in cell.deltas:
            difference = format_delta(delta.difference, column.is_fraction, cell.value)
            told[f"Δ {delta.parent}"] = f"{difference} {delta.verdict.word}"
    rows = [
        _score_row(
            dict(zip(shown.heads, cells, strict=True))
            | (dict.fromkeys(heads, "") if row is None else deltas[row.task, row.metric]),
            row.value if row is not None and row.is_fraction else None,
        )
        for row, cells in itertools.zip_longest(scores.tasks, shown.rows)
    ]
    if scores.headline is not None:
        cells = ["average", "", "", "", *shown.average]
        rows.append(_score_row(dict(zip(shown.heads, cells, strict=True)) | deltas[None, None], scores.headline))
    return rows


def _score_row(cells: dict[str, str], share: float | None) -> Metadata:
    drawn = {"0 to 100 %": "" if share is None else bar(share)}
    return {"task": cells.pop("task"), "value": cells.pop("value")} | drawn | cells


def _dropped(plan: Plan) -> list[Metadata]:
    """One row per model and reason; the plan beside the variant names every tensor."""
    groups: dict[tuple[str, str], list[str]] = {}
    for tensor in plan.dropped:
        groups.setdefault((plan.models[tensor.model].reference, tensor.reason), []).append(tensor.tensor)
    return [
        {"model": model, "tensors": len(names), "first": names[0], "reason": reason}
        for (model, reason), names in groups.items()
    ]


def _place(row: Any) -> tuple[str, int, str]:
    """Sort key of an analysed weight: its module, then its layer by number."""
    return row["module"], -1 if row["layer"] is None else int(row["layer"]), row["tensor"]
