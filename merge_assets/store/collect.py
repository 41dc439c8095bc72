"""Removing versions that nobody needs, and what builders have left behind.

Nothing is removed that a reader may take for there: a version stops existing first, then its files go. Whoever is killed
in between leaves files of no version, which the next one removes. What was decided on one look at the store is looked at
again before the files go, so that a build which has taken up a version in the meantime keeps it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from merge_assets.errors import StoreError
from merge_assets.store.drafts import Drafts
from merge_assets.store.inventory import Inventory, StoredVersion, Unfinished, survey, version_of_key
from merge_assets.store.manifest import files_path
from merge_assets.store.names import CURRENT, KEYS
from merge_assets.store.needs import NOTHING_SAID, Name, Retention, copied_from, in_use, needed
from merge_assets.store.place import Listed, Place, Upload
from merge_assets.store.place.workbench import TRASH
from merge_assets.store.sent import PROGRESS
from merge_assets.store.store import ArtifactStore
from merge_assets.store.versions import Pointer, read_manifest, read_pointer
from merge_assets.work import UNATTENDED, Work

GRACE = timedelta(hours=1)
"""What is younger is left alone: a build may have found it a moment ago."""

UNFINISHED = timedelta(days=7)
"""How long the work of a dead builder waits for one that goes on with it."""


_QUIET = timedelta(days=1)
"""A draft that nobody can go on with is dead when unlocked and untouched for this long: some network file systems keep
locks to one machine."""


@dataclass(frozen=True)
class Litter:
    """Something that is of no version.

    Attributes:
        what: for people.
        files: of it, in the order in which they go.
        uploads: of it.
        build: what was left unfinished, if it is that.
        pointer: line of the pointer, if it is one that names a version which is not there.
    """

    what: str
    files: tuple[Listed, ...] = ()
    uploads: tuple[Upload, ...] = ()
    build: Unfinished | None = None
    pointer: str = ""


@dataclass(frozen=True)
class RemovalPlan:
    """What is to be removed, and why the rest is not.

    Attributes:
        inventory: what it was decided on.
        kept: why each version stays.
        doomed: versions to remove.
        litter: the rest to remove.
        currents: lines whose current version is removed -> the one that takes its place, ``None`` if none does.
        force: whether versions that running builds copy from are removed.
        goes: why versions go of which that is known.
    """

    inventory: Inventory
    kept: Mapping[Name, Sequence[str]]
    doomed: Sequence[StoredVersion]
    litter: Sequence[Litter] = ()
    currents: Mapping[str, str | None] | None = None
    force: bool = False
    goes: Mapping[Name, str] = field(default_factory=dict)

    def of(self, lines: Collection[str]) -> RemovalPlan:
        """What of it is of some lines: their versions, and nothing that builders have left."""
        return replace(
            self,
            kept={name: why for name, why in self.kept.items() if name[0] in lines},
            doomed=[stored for stored in self.doomed if stored.artifact.line in lines],
            litter=(),
            currents={line: after for line, after in (self.currents or {}).items() if line in lines},
        )

    @property
    def files(self) -> list[Listed]:
        """Everything that goes."""
        own = [entry for stored in self.doomed for entry in stored.files]
        return own + [entry for one in self.litter for entry in one.files]


@dataclass(frozen=True)
class Done:
    """What was removed.

    Attributes:
        removed: versions.
        spared: versions that were to be removed but were taken up in the meantime, or are gone already.
        litter: what else was removed.
        freed: bytes.
    """

    removed: Sequence[StoredVersion]
    spared: Sequence[StoredVersion]
    litter: Sequence[Litter]
    freed: int


def plan_collection(
    inventory: Inventory,
    *,
    keep: int,
    older_than: timedelta | None,
    pinned: Mapping[Name, str],
    retention: Retention = NOTHING_SAID,
) -> RemovalPlan:
    """Decide what nobody needs.

    Args:
        inventory: the store.
        keep: how many of the newest versions of each line stay whatever they are, where no recipe says which do.
        older_than: what is younger stays; default :data:`GRACE` for versions and :data:`UNFINISHED` for what was left
            unfinished.
        pinned: versions that recipes name, and why they stay.
        retention: what recipes say of their own versions.

    Raises:
        StoreError: if something cannot be read that may tell of needs.
    """
    if inventory.damaged:
        path = inventory.damaged[0]
        more = f" and {len(inventory.damaged) - 1} more" if len(inventory.damaged) > 1 else ""
        way = (
            "build it again, or set it aside"
            if path.endswith(f"/{CURRENT}")
            else f"remove that version with `merge-assets store rm {'@'.join(path.rsplit('/', 1))} --yes`"
        )
        raise StoreError(
            f"{inventory.place.url(path)}{more}: is damaged, so it is unknown what is needed and nothing is removed; {way}"
        )
    grace = GRACE if older_than is None else older_than
    limit = UNFINISHED if older_than is None else older_than
    young = {one.name for one in inventory.everything if inventory.now - one.changed < grace}
    spent = retention.goes.keys() - young - in_use(inventory).keys()
    kept = needed(inventory, pinned, spent)
    began = min((build.begun for build in inventory.unfinished if build.alive), default=inventory.now)
    since = min(inventory.now - grace, began)
    for versions in inventory.versions.values():
        for place, stored in enumerate(reversed(versions)):
            why = kept.setdefault(stored.name, [])
            if stored.artifact.line in retention.lines:
                why += [retention.kept[stored.name]] if stored.name in retention.kept else []
            elif place < keep:
                why.append(f"one of the newest {keep}" if keep > 1 else "the newest")
            if stored.name in young:
                why.append("young")
            elif place and versions[-place].changed > since:
                why.append("replaced a moment ago" if since == inventory.now - grace else "in use when a build began")
    doomed = [stored for stored in inventory.everything if not kept[stored.name]]
    alive = {stored.name for stored in inventory.everything if kept[stored.name]}
    return RemovalPlan(
        inventory,
        {name: why for name, why in kept.items() if why},
        doomed,
        _litter(inventory, alive, limit),
        # An older version that stays is not what the recipe makes now.
        currents={one.artifact.line: None for one in doomed if inventory.is_current(one)},
        goes=retention.goes,
    )


def plan_removal(
    inventory: Inventory, targets: Sequence[StoredVersion], *, pinned: Mapping[Name, str], force: bool
) -> tuple[RemovalPlan, dict[Name, list[str]]]:
    """Decide what has to happen for some versions to go.

    Returns:
        The plan, and who needs what is to go. To be current alone is no need.
    """
    going = {stored.name for stored in targets}
    rest = replace(
        inventory,
        pointers={line: version for line, version in inventory.pointers.items() if (line, version) not in going},
    )
    needs = {name: why for name, why in needed(rest, pinned).items() if name in going}
    currents: dict[str, str | None] = {}
    for line, version in inventory.pointers.items():
        if (line, version) in going:
            left = [stored.artifact.version for stored in inventory.versions[line] if stored.name not in going]
            currents[line] = left[-1] if left else None
    return RemovalPlan(inventory, {}, targets, currents=currents, force=force), needs


def carry_out(store: ArtifactStore, plan: RemovalPlan, *, work: Work = UNATTENDED) -> Done:
    """Remove what a plan says, but for what was taken up since.

    Args:
        store: the one that the plan is of.
        plan: what to remove.
        work: told things removed, things in all, and what is next; not asked.

    Raises:
        StoreError: if the store cannot be reached or written.
    """
    place, publishing = plan.inventory.place, store.publishing
    for line, version in (plan.currents or {}).items():
        if version is None:
            place.remove([f"{line}/{CURRENT}"])
        else:
            place.write({f"{line}/{CURRENT}": Pointer(version=version).sealed()})
    withdrawn: list[tuple[StoredVersion, str]] = []
    spared: list[StoredVersion] = []
    for stored in plan.doomed:
        folder = publishing.withdraw(stored.artifact.manifest)
        if folder is None:
            spared.append(stored)
        else:
            withdrawn.append((stored, folder))
    again = survey(store)
    removed: list[StoredVersion] = []
    freed = 0
    total = len(withdrawn) + len(plan.litter)
    for stored, folder in withdrawn:
        if again.pointers.get(stored.artifact.line) == stored.artifact.version or (
            not plan.force and copied_from(again, stored)
        ):
            publishing.restore(stored.artifact.manifest, folder)
            if plan.inventory.is_current(stored) and stored.artifact.line not in again.pointers:
                place.write({f"{stored.artifact.line}/{CURRENT}": Pointer(version=stored.artifact.version).sealed()})
            spared.append(stored)
            continue
        work.report(len(removed), total, stored.artifact.line)
        freed += again.occupied(_moved(entry, stored, folder) for entry in stored.files)
        publishing.erase(stored.artifact.manifest, folder)
        _drop_pointer(place, stored.artifact.line, f"{stored.artifact.line}/{KEYS}/{stored.artifact.manifest.key}.json")
        removed.append(stored)
    litter = [one for one in plan.litter if _still(again, one)]
    for number, one in enumerate(litter):
        work.report(len(removed) + number, total, one.what)
        freed += again.occupied(one.files)
        remove_litter(place, one)
    work.report(total, total, "done")
    return Done(removed, spared, litter, freed)


def lifecycle_rule(store: ArtifactStore, endpoint: str | None = None) -> tuple[dict[str, Any], str] | None:
    """A rule by which the place itself removes uploads that were left unfinished, and the command that sets it.

    ``None`` for a place that has no such rules.

    Args:
        store: the store.
        endpoint: URL of the server for the command, where its own settings do not say.
    """
    parts = store.place.parts
    return None if parts is None else parts.expiry(UNFINISHED.days, endpoint)


def _litter(inventory: Inventory, alive: Collection[Name], limit: timedelta) -> list[Litter]:
    found = []
    for build in inventory.unfinished:
        if build.alive or (inventory.now - build.changed < _waits(build, limit)):
            continue
        found.append(litter_of(build))
    for upload in inventory.uploads:
        if inventory.now - upload.begun >= limit:
            found.append(Litter(f"upload of {upload.path}", uploads=(upload,)))
    for entry in inventory.leftovers:
        if inventory.now - entry.changed >= min(limit, GRACE):
            found.append(Litter(f"{entry.path}, which a build left", (entry,)))
    for (line, _), entry in inventory.keys.items():
        version = version_of_key(inventory, entry)
        if version is None or (line, version) not in alive:
            found.append(Litter(f"{entry.path}, which names no version", (entry,), pointer=line))
    there = {stored.name for stored in inventory.everything}
    for line, version in inventory.pointers.items():
        if (line, version) not in there and f"{line}/{version}" not in inventory.damaged:
            path = f"{line}/{CURRENT}"
            found.append(Litter(f"{path}, which names no version", (Listed(path, 0, inventory.now),), pointer=line))
    return found


def litter_of(build: Unfinished) -> Litter:
    """What was left unfinished, in the order in which it goes."""
    first = [entry for entry in build.files if entry.path.endswith(f"/{PROGRESS}")]
    files = (*first, *(entry for entry in build.files if entry not in first))
    return Litter(describe(build), files, build.uploads, build)


def _waits(build: Unfinished, limit: timedelta) -> timedelta:
    if not build.line and build.name.startswith(TRASH):
        return timedelta(0)
    return limit if build.line or build.resumable else min(limit, _QUIET)


def describe(build: Unfinished) -> str:
    """What was left unfinished, for people."""
    if build.line:
        return f"unfinished {build.line}/{build.name}".rstrip("/")
    return f"draft {build.name}" if not build.name.startswith(TRASH) else "a version removed earlier"


def _still(again: Inventory, one: Litter) -> bool:
    """Whether what was left behind is as it was: nobody has taken it up."""
    if one.build is None:
        return True
    return any(
        (build.line, build.name, build.changed) == (one.build.line, one.build.name, one.build.changed)
        and not build.alive
        for build in again.unfinished
    )


def remove_litter(place: Place, one: Litter) -> None:
    """Remove something that is of no version."""
    if one.pointer:
        for entry in one.files:
            _drop_pointer(place, one.pointer, entry.path)
    elif one.build is not None and place.tree is not None:
        Drafts(place.tree.workbench).remove(one.build.name)
    else:
        # What would let another builder go on with it goes first.
        place.remove([entry.path for entry in one.files if entry.path.endswith(f"/{PROGRESS}")])
        if place.parts is not None:
            for upload in one.uploads:
                place.parts.abort(upload.path, upload.id)
        place.remove([entry.path for entry in one.files])


def _drop_pointer(place: Place, line: str, path: str) -> None:
    """Remove a pointer if the version that it names is not there."""
    version = read_pointer(place, path)
    if version is None or read_manifest(place, line, version) is None:
        place.remove([path])


def _moved(entry: Listed, stored: StoredVersion, folder: str) -> Listed:
    """A file of a version that was withdrawn, where it lies now."""
    own = files_path(stored.artifact.manifest)
    return replace(entry, path=folder + entry.path.removeprefix(own)) if entry.path.startswith(own) else entry
