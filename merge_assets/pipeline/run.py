"""Bringing assets up to date in one Dagster run: what `merge-assets build` does.

Base checkpoints are observed first, because a variant built from an unobserved one would count as stale as soon as it
is observed. What is up to date is left alone.
"""

import getpass
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import dagster as dg

from merge_assets.errors import MergeAssetsError
from merge_assets.pipeline import location
from merge_assets.pipeline.executor import require_launcher
from merge_assets.pipeline.home import open_instance, open_to_read
from merge_assets.pipeline.keys import LEADERBOARD, op_names
from merge_assets.pipeline.nodes import ModelNode
from merge_assets.pipeline.outcome import (
    FAILED,
    OBSERVED,
    RUNNING,
    SKIPPED,
    UP_TO_DATE,
    WAITING,
    WOULD,
    Ending,
    Outcome,
)
from merge_assets.pipeline.preflight import stopped
from merge_assets.pipeline.process import PROCESS_TAG, this_process
from merge_assets.pipeline.reasons import AGAIN_TAG, EVERYTHING, MEASUREMENTS, REASON_TAG, reason_of_run
from merge_assets.pipeline.results import observation_metadata
from merge_assets.pipeline.selection import AssetsToBuild, reasons_to_build, searches_of, select
from merge_assets.pipeline.versions import Recorded, recorded, report_observation, topological
from merge_assets.pipeline.watcher import RUN_TAG, Watcher
from merge_assets.recipe.choosing import choose
from merge_assets.workspace import Workspace

_MEASURED = ("snr", "importance", "scores")
"""First parts of the keys of what is measured, not built."""


@dataclass(frozen=True)
class Materialised:
    """What one call of :func:`materialise` did.

    Attributes:
        run_id: of the Dagster run; ``None`` if everything was up to date.
        outcomes: base checkpoints first, then assets in the order in which they ended.
        ending: what ended the run before its end, if the outcomes do not say it.
    """

    run_id: str | None
    outcomes: tuple[Outcome, ...]
    ending: Ending | None = None

    @property
    def failed(self) -> bool:
        return self.ending is not None or any(outcome.state in (FAILED, SKIPPED) for outcome in self.outcomes)

    def count(self, state: str) -> int:
        return sum(outcome.state == state for outcome in self.outcomes)


Report = Callable[[Outcome, int, int], None]
"""Called with an outcome, how many are known and how many there will be; also with ``RUNNING`` and ``WAITING`` ones."""


def materialise(
    names: list[str],
    *,
    instance: dg.DagsterInstance | None = None,
    with_scores: bool = True,
    force: bool = False,
    refresh: bool = False,
    dry_run: bool = False,
    report: Report | None = None,
) -> Materialised:
    """Bring recipes of the project around the working directory up to date, with all that they need.

    Searches, and what they need, come first, in a run of their own: what they find is what there is to build then.

    Args:
        names: recipes and searches; none means those that automation may build.
        instance: where runs and versions are recorded; default: the configured instance.
        with_scores: also evaluate and rank.
        force: make every selected asset again: variants are computed and compared with what is stored, analyses and scores
            measured again.
        refresh: measure the selected analyses and scores again, and look whether what is made of them is still the same.
        dry_run: only say what would be made; nothing is recorded. Digests that are taken for it are kept.
        report: see :data:`Report`.

    Raises:
        RecipeError: for a name that is no usable recipe.
        SettingsError: if the Dagster home or the executor cannot be used.
    """

    def brought(selection: AssetsToBuild, before: tuple[Outcome, ...] = ()) -> Materialised:
        return _brought(
            selection, before, instance=instance, force=force, refresh=refresh, dry_run=dry_run, report=report
        )

    def selected() -> AssetsToBuild:
        return select(location.graph(), choose(location.workspace().book, names), with_scores=with_scores)

    first = searches_of(location.graph(), selected())
    if dry_run or not first.keys:
        return brought(selected())
    made = brought(first)
    if made.ending is not None:
        return made
    if made.run_id is not None:
        location.forget()
    rest = brought(selected(), made.outcomes)
    return Materialised(rest.run_id or made.run_id, (*made.outcomes, *rest.outcomes), rest.ending)


def _brought(
    selection: AssetsToBuild,
    before: tuple[Outcome, ...],
    *,
    instance: dg.DagsterInstance | None,
    force: bool,
    refresh: bool,
    dry_run: bool,
    report: Report | None,
) -> Materialised:
    """Bring a selection up to date, as :func:`materialise`; ``before`` is what became of a part of it a moment ago."""
    workspace, graph = location.workspace(), location.graph()
    definitions = location.definitions()
    if instance is None:
        instance = open_to_read(workspace.settings) if dry_run else open_instance(workspace.settings)
    require_launcher(workspace.settings, instance)
    outcomes: list[Outcome] = []
    known_before = {outcome.key for outcome in before}
    total = len({key.to_user_string() for key in (*selection.keys, *(b.key for b in selection.bases))} | known_before)

    def tell(outcome: Outcome) -> None:
        if outcome.key in known_before:
            return
        if outcome.state not in (RUNNING, WAITING):
            outcomes.append(outcome)
        if report is not None:
            report(outcome, len(known_before) + len(outcomes), total)

    unreadable = set()
    seen: dict[dg.AssetKey, Recorded] = {}
    for base in selection.bases:
        outcome, now = _observe(workspace, instance, base, dry_run=dry_run)
        tell(outcome)
        if now is not None:
            seen[base.key] = now
        if outcome.state == FAILED:
            unreadable.add(base.key)
    specs = topological(spec for spec in definitions.resolve_all_asset_specs() if spec.key in selection.keys)
    inputs = {dep.asset_key for spec in specs for dep in spec.deps}
    known = {key: seen.get(key) or recorded(instance, key) for key in selection.keys | inputs}
    measured = {spec.key for spec in specs if refresh and spec.key.path[0] in _MEASURED}
    reasons = reasons_to_build(workspace, graph, specs, known, measured)
    tags: dict[str, str] = {}
    if force or refresh:
        reasons = _again(specs, reasons, everything=force)
        tags = {AGAIN_TAG: EVERYTHING if force else MEASUREMENTS}
    lost = {dg.AssetKey.from_user_string(one.key) for one in before if one.state in (FAILED, SKIPPED)}
    hopeless = dict.fromkeys(_downstream(specs, lost), "the search that says what it is failed")
    hopeless |= dict.fromkeys(_downstream(specs, unreadable), "a base checkpoint cannot be read")
    wanted: list[dg.AssetSpec] = []
    for spec in specs:
        if spec.key.to_user_string() in known_before:
            continue
        if spec.key in hopeless:
            tell(Outcome(spec.key.to_user_string(), SKIPPED, message=hopeless[spec.key]))
        elif spec.key in reasons:
            wanted.append(spec)
        else:
            tell(Outcome(spec.key.to_user_string(), UP_TO_DATE))
    hindered = stopped(workspace, graph, wanted)
    for key in hindered:
        tell(hindered[key])
    wanted = [spec for spec in wanted if spec.key not in hindered]
    if dry_run:
        for spec in wanted:
            tell(Outcome(spec.key.to_user_string(), WOULD, message=reasons[spec.key]))
    if dry_run or not wanted:
        return Materialised(None, tuple(outcomes))
    board = [spec for spec in wanted if spec.key == LEADERBOARD]
    held_back = []

    def tell_but_for_the_board(outcome: Outcome) -> None:
        if board and (outcome.key, outcome.state) == (LEADERBOARD.to_user_string(), SKIPPED):
            held_back.append(outcome)
        else:
            tell(outcome)

    run_id, ending = _execute(instance, wanted, reasons, tags, tell_but_for_the_board)
    if held_back and ending is None:
        # It ranks the scores that are there, and says which failed: it does not need them all, as Dagster's steps do.
        _, ending = _execute(instance, board, reasons, tags, tell)
    else:
        for outcome in held_back:
            tell(outcome)
    return Materialised(run_id, tuple(outcomes), ending)


def _again(
    specs: Iterable[dg.AssetSpec], reasons: Mapping[dg.AssetKey, str], *, everything: bool
) -> dict[dg.AssetKey, str]:
    """What is made although it is up to date: everything, or what is measured and what follows from that."""
    found = dict(reasons)
    for spec in specs:
        above = next((dep.asset_key for dep in spec.deps if dep.asset_key in found), None)
        if everything or spec.key.path[0] in _MEASURED:
            found.setdefault(spec.key, "asked for")
        elif above is not None:
            found.setdefault(spec.key, f"{above.to_user_string()} is measured again")
    return found


def _observe(
    workspace: Workspace, instance: dg.DagsterInstance, base: ModelNode, *, dry_run: bool
) -> tuple[Outcome, Recorded | None]:
    """What became of a base checkpoint, and what is recorded of it, or would be."""
    from merge_assets import api

    name = base.key.to_user_string()
    started = time.monotonic()
    try:
        observation = api.observe(workspace, base.reference)
    except MergeAssetsError as error:
        return Outcome(name, FAILED, time.monotonic() - started, str(error)), None
    known = recorded(instance, base.key)
    changed = known is None or known.data_version != observation.fingerprint
    if not dry_run and (changed or known is None or known.revision != observation.revision):
        report_observation(instance, base.key, observation.fingerprint, observation_metadata(observation))
    message = "first seen" if known is None else "changed" if changed else ""
    state = OBSERVED if changed else UP_TO_DATE
    now = Recorded(observation.fingerprint, None, {}, observation.revision)
    return Outcome(name, state, time.monotonic() - started, message), now


def _execute(
    instance: dg.DagsterInstance,
    specs: list[dg.AssetSpec],
    reasons: Mapping[dg.AssetKey, str],
    tags: Mapping[str, str],
    tell: Callable[[Outcome], None],
) -> tuple[str, Ending | None]:
    """Run the assets; tells every outcome, in the order in which steps end."""
    tag = uuid.uuid4().hex
    watcher = Watcher(
        instance,
        tag,
        _step_keys([spec.key for spec in specs]),
        {spec.key.to_user_string(): [dep.asset_key.to_user_string() for dep in spec.deps] for spec in specs},
        {key.to_user_string(): reason for key, reason in reasons.items()},
        tell,
    )
    watcher.start()
    try:
        result = dg.execute_job(
            dg.reconstructable(location.build_job),
            instance=instance,
            asset_selection=[spec.key for spec in specs],
            tags={
                RUN_TAG: tag,
                PROCESS_TAG: this_process(),
                "trigger": "merge-assets build",
                "user": _user(),
                REASON_TAG: reason_of_run({spec.key.to_user_string(): reasons[spec.key] for spec in specs}),
                **tags,
            },
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )
    finally:
        ending = watcher.finish()
    with result:
        return result.run_id, ending


def _user() -> str:
    """Who builds; the UI shows the tag ``user`` as who has launched a run."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # of a user id without a name
        return str(os.getuid())


def _step_keys(keys: list[dg.AssetKey]) -> dict[str, str]:
    names = op_names(location.graph().built_keys())
    return {key.to_user_string(): names.get(key, "__".join(key.path)) for key in keys}


def _downstream(specs: list[dg.AssetSpec], roots: set[dg.AssetKey]) -> set[dg.AssetKey]:
    """Everything made, directly or not, of ``roots``, save what only collects; ``specs`` in topological order."""
    reached = set(roots)
    for spec in specs:
        if spec.key.path[0] != "leaderboard" and any(dep.asset_key in reached for dep in spec.deps):
            reached.add(spec.key)
    return reached - roots
