"""Setting a store right: what is damaged goes, with all that was made from it, and is made again in the order of lineage.

What was made from damaged bytes cannot be told from what was made before they were damaged. So it is made again, too, and
comes out as it was, or right.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from merge_assets.api.analyse import analyse
from merge_assets.api.audit import Auditor, is_audited
from merge_assets.api.build import build, key_now
from merge_assets.api.conclude import conclude
from merge_assets.api.descent import MEASUREMENTS, Descendant, descendants
from merge_assets.api.housekeeping import Problem, unreadable, verify, verify_relatives
from merge_assets.api.importance import measure_importance
from merge_assets.api.lines import choose
from merge_assets.api.rank import LINE as LEADERBOARD
from merge_assets.api.rank import rank
from merge_assets.api.score import score
from merge_assets.errors import MergeAssetsError, StoreError
from merge_assets.recipe import Recipe, TextSample
from merge_assets.recipe.load import read_recipes
from merge_assets.records import AnalysisDetails, ImportanceDetails, MirrorDetails, ScoresDetails
from merge_assets.reference import ModelReference
from merge_assets.store.collect import Done, Litter, RemovalPlan, carry_out, describe, plan_removal
from merge_assets.store.inventory import Inventory, StoredVersion, survey
from merge_assets.store.names import CURRENT, short_names
from merge_assets.store.needs import Name
from merge_assets.work import UNATTENDED, Work
from merge_assets.workspace import Models, Workspace


@dataclass(frozen=True)
class Step:
    """What happens to a version.

    Attributes:
        name: line and version.
        stored: the version; ``None`` if its manifest cannot be read.
        why: it goes.
        sources: of it, those that go as well.
        lost: why it cannot be made again as it was; empty if it can.
        is_made: whether its line gets a version again: it was the current one.
    """

    name: Name
    stored: StoredVersion | None
    why: str
    sources: tuple[Name, ...]
    lost: str
    is_made: bool


@dataclass(frozen=True)
class RepairPlan:
    """What a repair does.

    Attributes:
        steps: versions that go, each after those that it was made from.
        problems: what is wrong, also files that are of no version, which stay.
        removal: the removal of all of them, with what unfinished builds have left.
        verified: how many versions were looked at.
    """

    steps: Sequence[Step]
    problems: Sequence[Problem]
    removal: RemovalPlan
    verified: int

    @property
    def lost(self) -> list[Step]:
        """Versions that cannot be made again as they were."""
        return [step for step in self.steps if step.lost]


@dataclass(frozen=True)
class MadeAgain:
    """What became of a line whose current version was removed.

    Attributes:
        line: the line.
        before: the version that was removed.
        now: the version that was made.
        error: why none was made; empty if one was.
    """

    line: str
    before: str
    now: str | None
    error: str = ""


def plan_repair(
    workspace: Workspace, names: Sequence[str] = (), *, sampled: bool = False, work: Work = UNATTENDED
) -> RepairPlan:
    """Find what is damaged and what was made from it, and tell what can be made again.

    Args:
        workspace: whose store it is.
        names: versions or lines to look at; everything if there are none. What was made from them is found in the whole store.
        sampled: whether to read about a thousandth instead of every byte.
        work: told bytes done, bytes in all, and a line; asked throughout.

    Raises:
        StoreError: if a name names nothing, or the store cannot be reached.
    """
    found = survey(workspace.store)
    broken = [path for path in found.damaged if not path.endswith(f"/{CURRENT}")]
    if names:
        broken = [path for path in broken if _named(path) in names]
        targets = {
            one.name: one for name in names if name not in map(_named, broken) for one in choose(workspace, found, name)
        }
    else:
        targets = {one.name: one for one in found.everything}
    problems = verify(workspace, list(targets.values()), sampled=sampled, work=work)
    problems += verify_relatives(workspace, found, problems, () if sampled else targets, work=work)
    wrong: dict[Name, str] = {}
    for path in broken:
        line, _, version = path.rpartition("/")
        wrong[line, version] = "its manifest cannot be read"
    for problem in problems:
        if problem.is_damage:
            wrong.setdefault(problem.stored.name, f"{problem.file}: {problem.what}")
    steps = _Judge(workspace, found, wrong, work).steps(descendants(found, wrong))
    doomed = [step.stored for step in steps if step.stored is not None]
    removal, _ = plan_removal(found, doomed, pinned={}, force=True)
    litter = [one for path in broken for one in unreadable(found, path)]
    if steps:  # nobody knows from which bytes they were made
        left = [one for one in found.unfinished if not one.alive]
        litter += [Litter(describe(one), one.files, one.uploads, one) for one in left]
    return RepairPlan(steps, problems, replace(removal, litter=litter), len(targets))


def repair(workspace: Workspace, plan: RepairPlan, *, work: Work = UNATTENDED) -> tuple[Done, list[MadeAgain]]:
    """Carry out a plan: remove, forget what was kept beside the store, and make again.

    Args:
        workspace: whose store it is.
        plan: what to do.
        work: told how far each step is; asked throughout. Whoever is stopped goes on by building what is missing.

    Raises:
        StoreError: if builds are running, or the store cannot be reached or written; nothing was removed then.
    """
    if running := [describe(one) for one in survey(workspace.store).unfinished if one.alive]:
        raise StoreError(f"{', '.join(running)}: is being built, perhaps from wrong bytes; wait for it, or stop it")
    done = carry_out(workspace.store, plan.removal, work=work.silent())
    for stored in done.removed:
        workspace.store.forget_attempts(stored.artifact)
        stored.artifact.forget_copies(workspace.cache / "artifacts")
    _forget_results({step.name[1] for step in plan.steps}, workspace)
    made: list[MadeAgain] = []
    failed: set[str] = set()
    for step in plan.steps:
        line, version = step.name
        if not step.is_made:
            continue
        above = sorted({line for line, _ in step.sources} & failed)
        try:
            if above:
                raise StoreError(f"{above[0]}, which it is made from, could not be made")
            made.append(MadeAgain(line, version, _make(workspace, step, work)))
        except MergeAssetsError as error:
            failed.add(line)
            made.append(MadeAgain(line, version, None, str(error)))
    return done, made


class _Judge:
    """Tells of versions whether they can be made again as they were."""

    def __init__(self, workspace: Workspace, found: Inventory, wrong: Mapping[Name, str], work: Work) -> None:
        self._workspace = workspace
        self._found = found
        self._wrong = wrong
        self._work = work.silent()
        self._auditor = Auditor(workspace, found, read_versions=False, work=self._work)
        self._lost: dict[Name, str] = {}

    def steps(self, below: Sequence[Descendant]) -> list[Step]:
        """All versions that go, in order."""
        versions = {stored.name: stored for stored in self._found.everything}
        sources = {one.stored.name: one.sources for one in below}
        steps = []
        for name in (*sorted(self._wrong.keys() - sources.keys()), *sources):
            stored, above = versions.get(name), sources.get(name, ())
            why = self._wrong.get(name) or f"made from {short_names(above)}, perhaps when the bytes were wrong already"
            self._lost[name] = self._why_lost(stored, above)
            current = self._found.pointers.get(name[0]) == name[1]
            steps.append(Step(name, stored, why, above, self._lost[name], current and self._has_maker(name, stored)))
        return steps

    def _has_maker(self, name: Name, stored: StoredVersion | None) -> bool:
        kind, _, path = name[0].partition("/")
        if kind == "variants":
            return self._recipe(path) is not None
        return stored is not None or name[0] == LEADERBOARD

    def _why_lost(self, stored: StoredVersion | None, above: Collection[Name]) -> str:
        if stored is None:  # of what nobody can read, nothing is lost
            return ""
        line = stored.artifact.line
        if line == LEADERBOARD:  # the table of the scores that there are
            return ""
        if not self._found.is_current(stored):
            return "it is an older version of its line"
        if lost := [name for name in above if self._lost.get(name) and name[0] != line]:
            return f"{short_names(lost)}, which it was made from, cannot be made again"
        if line.startswith("variants/") and (reason := self._why_not_built(stored)):
            return reason
        for item in stored.artifact.manifest.inputs if is_audited(stored) else ():
            if (held := self._auditor.held(item)) is not None:
                if item.kind == "recipe" and not self._found.is_current(held):
                    return f"{short_names([held.name])}, which it was made from, is not current any more"
                continue
            if (f"variants/{item.name}", item.fingerprint) in self._wrong:  # its manifest cannot be read
                continue
            state, what = self._auditor.look(item)
            if state in ("changed", "gone"):
                return f"its input {item.name} is {state}: {what}"
        measured = any(line.startswith(MEASUREMENTS) for line, _ in above)  # by what may be wrong
        return self._why_other_key(stored) if line.startswith("variants/") and not measured else ""

    def _why_not_built(self, stored: StoredVersion) -> str:
        name = stored.artifact.line.partition("/")[2]
        recipe = self._recipe(name)
        if recipe is None:
            broken = next((one for one in self._workspace.book.broken if one.name == name), None)
            return f"its recipe is broken: {broken.error}" if broken else f"there is no stored recipe {name} any more"
        try:
            text = stored.artifact.read_bytes("recipe.yaml").decode()
        except (StoreError, ValueError):  # its key tells as well
            return ""
        was = [one for one in read_recipes(text, recipe.source.file, name) if isinstance(one, Recipe)]
        if len(was) == 1 and self._workspace.listed(was[0]).digest != recipe.digest:
            return f"its recipe has changed since ({recipe.source.file.name}), and makes another version now"
        return ""

    def _why_other_key(self, stored: StoredVersion) -> str:
        """Settings, recipes that are folded in, methods or this package may make another version, too."""
        recipe = self._recipe(stored.artifact.line.partition("/")[2])
        assert recipe is not None
        if any(self._workspace.names.uses_hub(reference) for reference in self._workspace.book.inputs(recipe)):
            return ""  # the Hub is asked when it is built
        try:
            key = key_now(self._workspace, recipe, work=self._work)
        except MergeAssetsError:  # it cannot be told before what it is made from is right
            return ""
        return "" if key == stored.artifact.manifest.key else "today's recipes and settings make another version"

    def _recipe(self, name: str) -> Recipe | None:
        recipe = self._workspace.book.recipes.get(name)
        return recipe if recipe is not None and recipe.materialize else None


def _make(workspace: Workspace, step: Step, work: Work) -> str:
    """Make a line's current version again; returns it."""
    line, _ = step.name
    kind, _, path = line.partition("/")
    makers: dict[str, Callable[[StoredVersion], str]] = {
        "analyses": lambda stored: _analysed(workspace, stored, work),
        "importance": lambda stored: _measured(workspace, stored, work),
        "searches": lambda stored: conclude(workspace, path, work=work).artifact.version,
        "scores": lambda stored: _scored(workspace, stored, work),
        "checkpoints": lambda stored: _mirrored(workspace, stored, work),
    }
    if kind == "variants":
        return build(workspace, workspace.recipe(path), work=work).artifact.version
    if kind == LEADERBOARD:
        return rank(workspace).artifact.version
    assert step.stored is not None
    return makers[kind](step.stored)


def _analysed(workspace: Workspace, stored: StoredVersion, work: Work) -> str:
    modules = stored.artifact.manifest.described(AnalysisDetails).modules
    return analyse(workspace, _model(stored), modules=modules, work=work).artifact.version


def _measured(workspace: Workspace, stored: StoredVersion, work: Work) -> str:
    details = stored.artifact.manifest.described(ImportanceDetails)
    sample = TextSample(**details.text)
    return measure_importance(workspace, _model(stored), details.kind, sample, work=work).artifact.version


def _scored(workspace: Workspace, stored: StoredVersion, work: Work) -> str:
    suite = stored.artifact.manifest.described(ScoresDetails).suite
    return score(workspace, _model(stored), suite, work=work).artifact.version


def _mirrored(workspace: Workspace, stored: StoredVersion, work: Work) -> str:
    details = stored.artifact.manifest.described(MirrorDetails)
    reference = ModelReference(details.repository, details.commit)
    return Models(workspace).fetch(reference, local=False, work=work).fingerprint or ""


def _model(stored: StoredVersion) -> ModelReference:
    return ModelReference.parse(stored.artifact.manifest.inputs[0].name)


def _forget_results(fingerprints: Collection[str], workspace: Workspace) -> None:
    """Finished evaluation tasks of models whose bytes are in doubt."""
    from merge_assets.evaluation.results import TaskResults

    TaskResults(workspace.cache / "evaluations").forget(fingerprints)


def _named(folder: str) -> str:
    return "@".join(folder.rsplit("/", 1))
