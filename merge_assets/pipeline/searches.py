"""Searches: one asset per recipe with ``search``.

Trials are neither partitions nor runs: a thousand of them would fill the UI with lines of which few say anything, and trials
are not of one run, but shared by all processes that search. One step tries them, shows the best and how they came about, and is
stopped and started again as every step is: what was tried lies in the storage of trials. Another run, or `merge-assets search`,
may join it at any time.
"""

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from merge_assets.errors import printable
from merge_assets.pipeline import gpu
from merge_assets.pipeline.inputs import InputVersions
from merge_assets.pipeline.keys import group_name
from merge_assets.pipeline.lateness import freshness_policy
from merge_assets.pipeline.nodes import SearchNode
from merge_assets.pipeline.outcome import BUILT, REUSED
from merge_assets.pipeline.pictures import improvements_picture
from merge_assets.pipeline.progress import TRIALS
from merge_assets.pipeline.render import Metadata, code_references, fenced, one_sentence, table
from merge_assets.pipeline.results import artifact_metadata
from merge_assets.pipeline.steps import single_asset
from merge_assets.pipeline.work import run_work
from merge_assets.records import SearchDetails
from merge_assets.workspace import Workspace

if TYPE_CHECKING:
    from merge_assets.api import Concluded, OpenSearch
    from merge_assets.search.trials import Trial

WORKERS = "workers"
"""In the configuration of a run: how many candidates its step tries at once."""

MOST_SHOWN = 20
"""Trials in the table of an asset's page; `merge-assets search NAME show` lists all."""


def search_spec(node: SearchNode) -> dg.AssetSpec:
    """A search as Dagster shows it."""
    recipe = node.recipe
    return dg.AssetSpec(
        node.key,
        deps=[model.key for model in node.models],
        code_version=node.code[:32],
        group_name=group_name("searches", node.group),
        kinds={"optuna"},
        tags={**recipe.tags, "automation": "on" if node.automated else "off"},
        owners=list(recipe.owners) or None,
        freshness_policy=freshness_policy(recipe),
        description=_description(node),
        metadata={
            "recipe_file": recipe.source.file.name,
            "dagster/code_references": code_references(recipe.source.file, recipe.source.line),
        },
    )


def build_search(workspace: Workspace, node: SearchNode, op_name: str) -> dg.AssetsDefinition:
    """The asset that searches."""
    device = workspace.settings.device
    config = {WORKERS: dg.Field(int, default_value=1, description="Candidates that are tried at the same time.")}

    @single_asset(search_spec(node), op_name, pool=gpu.pool(device), op_tags=gpu.op_tags(device), config=config)
    def search(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        from merge_assets import api

        workers = context.op_execution_context.op_config[WORKERS]
        if workers < 1:
            raise dg.Failure(
                f"{WORKERS}: {workers} candidates at a time try none; write 1 or more", allow_retries=False
            )
        inputs = InputVersions(context.instance, node.models)
        lines: deque[str] = deque()
        made = run_work(
            context,
            node.key,
            lambda work: api.conclude(
                workspace,
                node.recipe.name,
                workers=workers,
                report=lambda trial: lines.append(_line(trial)),
                work=work,
            ),
            unit=TRIALS,
            lines=lines,
        )
        # With an adapter, a name and a fingerprint are those of the model, then those of the adapter.
        used = {name.partition("+")[0]: digest.partition("+")[0] for name, digest in made.opened.models.items()}
        inputs.report_moved(context, used)
        return dg.MaterializeResult(
            asset_key=node.key,
            data_version=dg.DataVersion(made.artifact.version),
            metadata=search_metadata(made),
        )

    return search


def search_metadata(made: "Concluded") -> Metadata:
    """What a search found: the best trials beside what they are made of, and how scores rose over trials."""
    details = made.artifact.manifest.described(SearchDetails)
    trials = made.opened.trials.all()
    failed = [one for one in trials if one.state == "failed"]
    metadata: Metadata = {
        "outcome": REUSED if made.reused else BUILT,
        "found": table(
            [
                {"variant": one.name, "trial": one.number, **_row(made.opened, one.values, one.objectives)}
                for one in details.found
            ]
        ),
        "beside": table(
            [
                {
                    "variant": one.name,
                    "than": row.model,
                    "by": row.objective,
                    "verdict": row.verdict,
                    "on the documents searched": f"{row.searched:+.4g}",
                    "on documents not seen": "none kept" if row.confirmed is None else f"{row.confirmed:+.4g}",
                }
                for one in details.found
                for row in one.beside
            ]
        ),
    }
    improved = _improved(made.opened, trials)
    if (drawn := improvements_picture(made.opened.labels[0], improved, len(trials))) is not None:
        metadata["best_so_far"] = dg.MetadataValue.md(drawn)
    metadata |= {
        "trials": details.trials,
        "failed_trials": details.failed,
        "best_trials": table(
            [
                {"trial": one.number, **_row(made.opened, one.values, one.told["objectives"])}
                for one in _best(made.opened, trials)
            ]
        ),
    }
    if failed:
        metadata["failures"] = table([{"trial": one.number, "reason": one.reason} for one in failed[:MOST_SHOWN]])
    for label, value in details.found[0].objectives.items() if len(details.found) == 1 else ():
        metadata[printable(f"best {label}")] = round(value, 6)
    metadata["study"] = details.study
    return metadata | artifact_metadata(made.artifact)


def _description(node: SearchNode) -> str:
    recipe, search = node.recipe, node.recipe.search
    assert search is not None
    by = ", ".join(one.label for one in search.objective)
    told = f"Looks for the best values of {', '.join(search.space)} by {by}, in {search.trials} trials."
    sentences = [one_sentence(recipe.description), one_sentence(told)]
    return "\n\n".join([*filter(None, sentences), fenced(recipe.source.text.strip(), "yaml")])


def _line(trial: "Trial") -> str:
    values = ", ".join(f"{path} {value}" for path, value in _cells(trial.values).items())
    came = ", ".join(f"{label} {value}" for label, value in _cells(trial.told.get("objectives", {})).items())
    return printable(f"trial {trial.number} {trial.state}: {values}: {came or trial.reason}")


def _best(opened: "OpenSearch", trials: "list[Trial]") -> "list[Trial]":
    """The best trials, those than which none is better in everything first."""
    front = {one.number for one in opened.trials.best()}
    sign = -1 if _higher(opened) else 1
    done = [one for one in trials if one.state == "done"]
    return sorted(done, key=lambda one: (one.number not in front, sign * one.objectives[0], one.number))[:MOST_SHOWN]


def _row(opened: "OpenSearch", values: Mapping[str, Any], objectives: Mapping[str, float]) -> Metadata:
    """A value for every place, empty for one that is not filled, and what it came to."""
    return _cells({path: values.get(path, "") for path in opened.search.space} | dict(objectives))


def _improved(opened: "OpenSearch", trials: "list[Trial]") -> list[tuple[int, float]]:
    """Number and first value of every trial that was better by it than all before."""
    sign, found = -1 if _higher(opened) else 1, list[tuple[int, float]]()
    for one in trials:
        if one.state == "done" and (not found or sign * one.objectives[0] < sign * found[-1][1]):
            found.append((one.number, one.objectives[0]))
    return found


def _higher(opened: "OpenSearch") -> bool:
    """Whether more of the first value that a trial is told is better: a sum, of which more is, or the first objective."""
    return opened.search.objective[0].weight is not None or opened.higher[0]


def _cells(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: f"{value:.5g}" if isinstance(value, float) else value for name, value in values.items()}
