"""Commands that work on folders: merge, snr, importance, evaluate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

from pydantic import ValidationError
from rich.markup import escape

from merge_assets import api
from merge_assets.analysis.importance import TABLE, layer_table, read_importance
from merge_assets.cli.console import console, err, parse_size, print_json, print_table, progress_bar, table
from merge_assets.cli.opened import opened
from merge_assets.cli.selection import model_meant, models_meant
from merge_assets.errors import AnalysisError, EvaluationError, MergeAssetsError, printable
from merge_assets.extras import require
from merge_assets.plan.describe import human_bytes
from merge_assets.recipe import ImportanceKind, TextSample
from merge_assets.records import NOTHING_CHANGED, AnalysisDetails
from merge_assets.reference import ModelReference
from merge_assets.workspace import Models, Workspace

if TYPE_CHECKING:
    from merge_assets.evaluation.scores import Scores
    from merge_assets.evaluation.suite_task import Documents


def run_merge(
    name: str,
    out: Path,
    device: str | None,
    threads: int | None,
    shard_size: str | None,
    tile: int | None,
    overwrite: bool,
    *,
    as_json: bool,
) -> None:
    """Merge into a folder with a progress bar."""
    workspace = opened()
    recipe = workspace.recipe(name)
    with progress_bar("merging") as work:
        done = api.merge(
            workspace,
            recipe,
            out,
            device=device,
            threads=threads,
            shard_size=parse_size(shard_size),
            tile=tile,
            overwrite=overwrite,
            work=work,
        )
    warnings = json.loads((out / "plan.json").read_text(encoding="utf-8"))["warnings"]
    if as_json:
        print_json({**done.model_dump(mode="json"), "warnings": warnings}, indent=None)
        return
    for warning in warnings:
        console().print(f"[yellow]warning[/] {escape(warning)}")
    if done.nonfinite:
        listing = ", ".join(f"{name} ({count})" for name, count in sorted(done.nonfinite.items())[:5])
        console().print(
            f"[yellow]warning[/] {len(done.nonfinite)} tensors hold NaN or infinite elements, which the recipe allows: "
            f"{escape(listing)}"
        )
    rate = done.bytes_read / max(done.seconds, 1e-9)
    console().print(
        f"{escape(str(out))}: {done.tensors_computed} tensors computed, {done.tensors_copied} copied, "
        f"{human_bytes(done.bytes_written)} written in {done.seconds:.1f} s "
        f"({human_bytes(rate)}/s read, peak memory {human_bytes(done.peak_memory)}, {done.device})"
    )


def run_snr(
    model: str,
    out: Path | None,
    modules: Sequence[str] | None,
    top_percent: float,
    spectrum_compat: bool,
    refresh: bool,
) -> None:
    """Analyse into a folder, or into the store."""
    workspace = opened() if out is None else Workspace.open()
    reference = model_meant(workspace, model)
    with progress_bar("analysing") as work:
        if out is not None:
            analysis = api.snr(
                workspace,
                reference,
                out,
                modules=modules,
                top_percent=top_percent,
                spectrum_compat=spectrum_compat,
                refresh=refresh,
                work=work,
            )
            infinite = sum(bool(row["infinite"]) for row in analysis.rows)
            text = (
                f"{out}: {len(analysis.rows)} weights, {infinite} with infinite SNR, {analysis.reused} spectra reused"
            )
        else:
            made = api.analyse(workspace, reference, modules=modules, refresh=refresh, work=work)
            details = made.artifact.manifest.described(AnalysisDetails)
            state = "already in the store" if made.reused else "computed"
            if made.changes is not None:
                state = f"computed again: {'; '.join(made.changes) or NOTHING_CHANGED}"
            text = f"{made.artifact.url}: {details.weights} weights, {details.infinite} with infinite SNR ({state})"
    console().print(escape(text))


def run_importance(model: str, kind: str, settings: Mapping[str, object], out: Path | None, refresh: bool) -> None:
    """Measure the importance of layers into a folder, or into the store."""
    if kind not in get_args(ImportanceKind):
        raise AnalysisError(f"--kind {kind} is not one of {', '.join(get_args(ImportanceKind))}")
    try:
        sample = TextSample.model_validate(settings)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise AnalysisError(f"--{first['loc'][0]} {first['input']}: {first['msg']}") from None
    kind = cast(ImportanceKind, kind)
    workspace = opened() if out is None else Workspace.open()
    reference = model_meant(workspace, model)
    console().print(
        escape(str(api.importance_cost(workspace, reference, kind, sample))), soft_wrap=True, highlight=False
    )
    with progress_bar("measuring", is_bytes=False) as work:
        if out is not None:
            record, where = api.importance(workspace, reference, out, kind, sample, work=work).record, str(out)
        else:
            made = api.measure_importance(workspace, reference, kind, sample, refresh=refresh, work=work)
            record = read_importance(made.artifact.directory(workspace.cache / "artifacts", checked=[TABLE]))
            state = "already in the store" if made.reused else "computed"
            if made.changes is not None:
                state = f"computed again: {'; '.join(made.changes) or NOTHING_CHANGED}"
            where = f"{made.artifact.url} ({state})"
    rows = layer_table(record)
    shown = table(*rows[0], title=escape(record.model), numbers=tuple(rows[0]))
    for row in rows:
        shown.add_row(*row.values())
    print_table(shown)
    console().print(escape(where))


def run_evaluate(
    models: Sequence[str],
    suite: str | None,
    out: Path | None,
    limit: int | None,
    batch_size: int | None,
    device: str | None,
    refresh: bool,
    documents: Documents,
) -> None:
    """Evaluate on one suite, or on every default suite; a model that fails does not keep the others from being tried.

    Raises:
        MergeAssetsError: why the last of those that failed did; of the others it is printed.
    """
    workspace = opened() if out is None else Workspace.open()
    if not models:
        raise EvaluationError("name a model, or recipes with --select; `merge-assets evaluate --help` says how")
    references = models_meant(workspace, models)
    if out is None and (limit or batch_size or device or documents != "all"):
        raise EvaluationError(
            "--limit, --batch-size, --device and --documents are for scores that the store does not keep; give --out DIR "
            "with them"
        )
    require("lm_eval")
    options = _Asked(suite, limit, batch_size, device, refresh, documents)
    last: MergeAssetsError | None = None
    for reference in references:
        try:
            several = out is not None and len(references) > 1
            inner = workspace.names.identify(reference).parts if several else ()
            _evaluate(workspace, reference, None if out is None else out.joinpath(*inner), options)
        except MergeAssetsError as error:
            if last is not None:
                err().print(f"[bold red]error:[/] {escape(str(last))}", soft_wrap=True, highlight=False)
            last = error
    if last is not None:
        raise last


@dataclass(frozen=True)
class _Asked:
    """The options of the command."""

    suite: str | None
    limit: int | None
    batch_size: int | None
    device: str | None
    refresh: bool
    documents: Documents


def _evaluate(workspace: Workspace, reference: ModelReference, out: Path | None, asked: _Asked) -> None:
    """Evaluate one model."""
    from merge_assets.evaluation.circumstances import changes

    suite, refresh = asked.suite, asked.refresh
    for name in [suite] if suite else workspace.settings.default_suites:
        with progress_bar(name, is_bytes=False) as work:
            if out is None:
                done = api.score(workspace, reference, name, refresh=refresh, work=work)
                scores, changed = done.scores, done.changes
                where = f"{done.artifact.url}{' (already in the store)' if done.reused else ''}"
            else:
                folder = Path(Models(workspace).fetch(reference).checkpoint.location)
                target = out if suite else out / name
                evaluation = api.evaluate(
                    workspace,
                    folder,
                    name,
                    out=target,
                    limit=asked.limit,
                    batch_size=asked.batch_size,
                    device=asked.device,
                    refresh=refresh,
                    documents=asked.documents,
                    model=reference,
                    work=work,
                )
                scores, where = evaluation.scores, str(target)
                changed = None if evaluation.before is None else changes(evaluation.before, scores)
        _print_scores(scores)
        console().print(escape(where))
        if changed is not None:
            said = "; ".join(changed) or NOTHING_CHANGED
            console().print(escape(f"measured again: {said}"), soft_wrap=True, highlight=False)


def _print_scores(scores: Scores) -> None:
    heads, rows, average = scores.shown()
    shown = table(*heads, title=escape(scores.suite), numbers=("shots", "n", "value", "± stderr"))
    for row in rows:
        shown.add_row(*(escape(printable(cell)) for cell in row))
    if average:
        shown.add_section()
        shown.add_row("average", "", "", "", *average, style="bold")
    print_table(shown)
    for note in scores.notes:
        console().print(f"[bold yellow]mind[/] {escape(printable(note))}", soft_wrap=True, highlight=False)
