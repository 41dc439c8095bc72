"""What evaluations would fail of, before anything is merged for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from merge_assets.errors import MergeAssetsError, ModelWorkerError
from merge_assets.model_worker import Limits
from merge_assets.plan import Plan
from merge_assets.recipe import Recipe
from merge_assets.work import UNATTENDED, Work
from merge_assets.workspace import Models, Workspace

if TYPE_CHECKING:
    from merge_assets.evaluation.data import DataHub
    from merge_assets.evaluation.endpoint import Endpoint
    from merge_assets.evaluation.preflight import Finding
    from merge_assets.evaluation.suite import Suite
    from merge_assets.evaluation.task_index import Names


def suites_of(workspace: Workspace, recipe: Recipe) -> tuple[str, ...]:
    """The suites that a recipe's variant is evaluated on."""
    if not recipe.materialize:
        return ()
    if recipe.evaluate is None:
        return tuple(workspace.settings.default_suites)
    return tuple(dict.fromkeys(entry.suite for entry in recipe.evaluate))


def look_over(workspace: Workspace, suites: Iterable[str], recipe: Recipe | None = None) -> dict[str, list[Finding]]:
    """What files alone tell of suites: names of tasks and metrics, packages, programs that models write.

    Tasks of lm-eval itself are looked at where their names are kept for the version that is installed; :func:`index_of` keeps
    them. Suites that are not there, or broken, have their error as a finding.

    Args:
        workspace: where suites are found.
        suites: their names.
        recipe: which asks its variant; ``None`` takes the suites as they are.
    """
    from merge_assets.evaluation.otherwise import set_otherwise
    from merge_assets.evaluation.preflight import Finding, look_over
    from merge_assets.evaluation.task_index import known_names

    shipped = known_names(_folder(workspace))
    found: dict[str, list[Finding]] = {}
    for name in dict.fromkeys(suites):
        try:
            suite = workspace.suite_of(name, recipe)
            found[name] = look_over(suite, shipped)
            if recipe is not None and suite.otherwise:
                text = f"{recipe.source.at('evaluate')}: {set_otherwise(suite.otherwise)}"
                found[name].append(Finding("settings", text, fails=False))
        except MergeAssetsError as error:
            found[name] = [Finding("suite", str(error))]
    return found


def refused(
    workspace: Workspace, suites: Iterable[str], *, of_suite: bool = False, work: Work = UNATTENDED
) -> dict[str, MergeAssetsError]:
    """The suites of which an evaluation would fail, with all reasons.

    The names of lm-eval's own tasks are read first, where a suite has such tasks and they are not kept yet.

    Args:
        workspace: where suites are found.
        suites: their names.
        of_suite: count only what is wrong with the suite itself, not tasks of it that fail here while others may not.
        work: asked throughout.
    """
    from merge_assets.evaluation.preflight import failing

    names = list(dict.fromkeys(suites))
    for name in names:
        if name in workspace.suites:
            index_of(workspace, workspace.suites[name], work)
    found = look_over(workspace, names)
    if not of_suite:
        _reach(workspace, found, work)
    return failing(found, of_suite=of_suite)


def _reach(workspace: Workspace, found: Mapping[str, list[Finding]], work: Work) -> None:
    """Add which data sets of the Hub cannot be had."""
    from merge_assets.evaluation.check import hub_data, reach

    for name, listed in found.items():
        if name in workspace.suites:
            suite = workspace.suites[name]
            data = hub_data(suite, _declared(workspace, suite))
            listed += reach(data, data_hub(workspace), Limits.of(workspace.settings), work)


def _declared(workspace: Workspace, suite: Suite) -> Names:
    """What a suite's own files declare, over what is kept of lm-eval's."""
    from merge_assets.evaluation.task_index import known_names

    return {**(known_names(_folder(workspace)) or {}), **suite.declared()}


def check(
    workspace: Workspace, recipe: Recipe, plan: Plan, suites: Iterable[str], work: Work = UNATTENDED
) -> dict[str, list[Finding]]:
    """All that can be known of a recipe's evaluations without its model: what :func:`look_over` says, whether data sets can be
    had, how long prompts are, whether the weights fit, and how long it will take.

    Args:
        workspace: where suites are found.
        recipe: of which the variant is to be evaluated.
        plan: of the recipe.
        suites: names of suites.
        work: asked throughout.
    """
    from merge_assets.evaluation import check as checks
    from merge_assets.evaluation.preflight import Finding

    wanted = list(dict.fromkeys(suites))
    for name in wanted:
        if name in workspace.suites:
            index_of(workspace, workspace.suites[name], work)
    found = look_over(workspace, wanted, recipe)
    limits, hub = Limits.of(workspace.settings), data_hub(workspace)
    is_gpu = workspace.settings.device != "cpu" and (free := checks.gpu_memory(limits, work)) is not None
    for name in wanted:
        if any(one.fails and one.kind in ("suite", "task", "package", "code") for one in found[name]):
            continue  # there is nothing to ask for
        suite = workspace.suite_of(name, recipe)
        names = _declared(workspace, suite)
        unreached = checks.reach(checks.hub_data(suite, names), hub, limits, work)
        found[name] += unreached
        itemsize = _BYTES.get(suite.dtype)
        weights = plan.bytes_to_write if itemsize is None else plan.parameter_count * itemsize
        room = free if is_gpu else limits.bytes_of_memory()
        if suite.backend != "endpoint":  # whose memory is the server's
            found[name] += checks.memory(suite, weights, room, "cuda" if is_gpu else "cpu")
        if unreached:
            continue
        prompted = checks.prompts(
            suite,
            names,
            _tokenizer(workspace, recipe),
            hub=hub,
            limits=limits,
            index=index_of(workspace, suite, work),
            work=work,
        )
        found[name] += prompted.findings
        if prompted.tokens and not is_gpu and suite.backend == "hf":
            text = f"{suite.file}: {checks.time_stated(prompted.tokens, plan.parameter_count)}"
            found[name].append(Finding("time", text, fails=False))
    return found


_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def data_hub(workspace: Workspace) -> DataHub:
    """The Hub that data sets are fetched from, by the settings."""
    from merge_assets.evaluation.data import DataHub

    token = workspace.settings.hub_token
    return DataHub(workspace.settings.hub_endpoint, token.get_secret_value() if token else None)


def endpoint_of(workspace: Workspace) -> Endpoint:
    """The server that suites of that backend ask, by the settings."""
    from merge_assets.evaluation.endpoint import Endpoint

    settings = workspace.settings
    key = settings.endpoint_key
    return Endpoint(
        settings.endpoint, settings.endpoint_model, key.get_secret_value() if key else None, settings.endpoint_serve
    )


def _tokenizer(workspace: Workspace, recipe: Recipe) -> Path | None:
    """A folder of one of the recipe's models with a tokenizer and a config, for what its own will be like."""
    models = Models(workspace)
    for reference in recipe.references():
        with suppress(MergeAssetsError):
            folder = Path(models.headers(reference).checkpoint.location)
            if (folder / "config.json").is_file() and any((folder / name).is_file() for name in _TOKENIZERS):
                return folder
    return None


_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


def index_of(workspace: Workspace, suite: Suite, work: Work = UNATTENDED) -> Path | None:
    """The file with the names of lm-eval's own tasks, made if it is not there; ``None`` if the suite needs none, or it cannot
    be made, so that who loads tasks has to read them itself."""
    from merge_assets.evaluation.task_index import index_file, names_made, ships

    if not any(ships(suite, entry.task) for entry in suite.tasks):
        return None
    try:
        names_made(_folder(workspace), Limits.of(workspace.settings), work.silent())
    except (ModelWorkerError, OSError):
        return None
    return index_file(_folder(workspace))


def _folder(workspace: Workspace) -> Path:
    return workspace.cache / "evaluations" / "names"
