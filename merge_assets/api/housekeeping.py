"""Housekeeping of the store: who uses a version, whether its bytes are right, and what can go."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from merge_assets.api.keeping import retention
from merge_assets.api.lines import choose, lines_below
from merge_assets.errors import DamageError
from merge_assets.identity import checkpoint_line
from merge_assets.regular import read_regular
from merge_assets.store import FileEntry, Piece
from merge_assets.store.collect import (
    Done,
    Litter,
    RemovalPlan,
    carry_out,
    plan_collection,
    plan_removal,
)
from merge_assets.store.inventory import Inventory, StoredVersion, survey
from merge_assets.store.manifest import files_path
from merge_assets.store.names import CURRENT, MANIFEST
from merge_assets.store.needs import Name, lineage
from merge_assets.store.place import Listed, Watch
from merge_assets.store.reuse import sample
from merge_assets.store.sent import PROGRESS
from merge_assets.store.transfer import run_batch, what_is_wrong
from merge_assets.store.versions import wrong_sizes
from merge_assets.work import UNATTENDED, Work
from merge_assets.workspace import Workspace
from merge_assets.yamlfile import MAX_BYTES

_READERS = 4
_SMALL = 1 << 20
"""Bytes of a file without pieces that a sample reads."""

_SHORTEST_COMMIT = 7


@dataclass(frozen=True)
class Uses:
    """Who uses a version.

    Attributes:
        current: current versions that were made from it.
        others: further versions that were.
        recipes: names of recipes that refer to its line.
        pinned: why it is pinned, empty if it is not.
    """

    current: tuple[StoredVersion, ...]
    others: tuple[StoredVersion, ...]
    recipes: tuple[str, ...]
    pinned: str


@dataclass(frozen=True)
class Problem:
    """Something wrong with a version.

    Attributes:
        stored: the version.
        file: the name of the file within it.
        what: is wrong.
    """

    stored: StoredVersion
    file: str
    what: str

    @property
    def where(self) -> str:
        """The file, with its whole path."""
        return f"{self.stored.artifact.url}/{self.file}"

    @property
    def is_damage(self) -> bool:
        """Whether the version's own bytes are wrong: a file that is not of it does no harm."""
        return self.file in self.stored.artifact.manifest.files


def inventory(workspace: Workspace) -> Inventory:
    """Everything in the store.

    Raises:
        StoreError: if it cannot be reached.
    """
    return survey(workspace.store)


def pins(workspace: Workspace, found: Inventory) -> dict[Name, str]:
    """Mirrored checkpoints that recipes name by a revision, and which recipe does.

    Where it cannot be told which version a revision is, every version of the repository counts.
    """
    pinned: dict[Name, str] = {}
    for recipe in workspace.book.recipes.values():
        for reference in recipe.references():
            for part in (reference.model, reference.lora):
                versions = found.versions.get(checkpoint_line(part), ()) if part and part.revision else ()
                if part is None or not versions:
                    continue
                meant = _of_revision(found, versions, str(part), part.revision or "")
                why = "pinned by" if meant else "perhaps pinned by"
                for stored in meant or versions:
                    pinned.setdefault(stored.name, f"{why} recipe {recipe.name} ({part})")
    for broken in workspace.book.broken:
        text = _text_of(broken.file)
        for line, versions in found.versions.items():
            kind, _, path = line.partition("/")
            if kind == "checkpoints" and (text is None or f"{path}@" in text):
                for stored in versions:
                    pinned.setdefault(stored.name, f"perhaps pinned by {broken.file.name}, which is broken")
    return pinned


def _text_of(file: Path) -> str | None:
    """The text of a broken recipe; ``None`` if it has one that cannot be read, so that it may name anything."""
    try:
        return read_regular(file, MAX_BYTES).decode("utf-8", "replace")
    except PermissionError:
        return None
    except OSError:  # no file
        return ""


def uses(workspace: Workspace, found: Inventory, stored: StoredVersion) -> Uses:
    """Who uses a version."""
    kind, _, path = stored.artifact.line.partition("/")
    sources = lineage(found)
    users = [one for one in found.everything if stored.name in {source.name for source in sources[one.name]}]
    recipes = [
        recipe.name
        for recipe in workspace.book.recipes.values()
        if kind in ("variants", "checkpoints")
        and any(part and part.path == path for one in recipe.references() for part in (one.model, one.lora))
    ]
    return Uses(
        current=tuple(one for one in users if found.is_current(one)),
        others=tuple(one for one in users if not found.is_current(one)),
        recipes=tuple(recipes),
        pinned=pins(workspace, found).get(stored.name, ""),
    )


def verify(
    workspace: Workspace, targets: Sequence[StoredVersion], *, sampled: bool = False, work: Work = UNATTENDED
) -> list[Problem]:
    """Compare versions with the digests in their manifests.

    Args:
        workspace: whose store it is.
        targets: what to look at.
        sampled: whether to read about a thousandth instead of every byte.
        work: told bytes done, bytes in all, and a line; asked throughout.

    Returns:
        What is wrong.

    Raises:
        StoreError: if the store cannot be reached.
    """
    problems = []
    chosen = [_sample(stored) if sampled else {} for stored in targets]
    sizes = [
        sum(piece.size for some in pieces.values() for piece in some) if sampled else stored.size
        for stored, pieces in zip(targets, chosen, strict=True)
    ]
    total, done = sum(sizes), 0
    for stored, pieces, size in zip(targets, chosen, sizes, strict=True):

        def report(moved: int, _: int, what: str, done: int = done, stored: StoredVersion = stored) -> None:
            work.report(done + moved, total, stored.artifact.line)

        part = work.reporting(report)
        if sampled:
            wrong = _verify_sample(stored, pieces, size, part)
        else:
            wrong = _verify(workspace, stored, part)
        done += size
        for name, what in sorted(wrong.items()):
            problems.append(Problem(stored, name, what))
    return problems


def verify_relatives(
    workspace: Workspace,
    found: Inventory,
    problems: Sequence[Problem],
    verified: Collection[Name],
    *,
    work: Work = UNATTENDED,
) -> list[Problem]:
    """Read every byte of the versions that have tensors in common with damaged ones: they may share the damage.

    Args:
        workspace: whose store it is.
        found: the store.
        problems: what is known to be wrong.
        verified: versions of which every byte was read.
        work: as for :func:`verify`.
    """
    known = {problem.stored.name for problem in problems if problem.is_damage}
    keys = {key for problem in problems if problem.is_damage for key in _tensor_keys(problem.stored)}
    relatives = [
        one
        for one in found.everything
        if one.name not in known and one.name not in verified and not keys.isdisjoint(_tensor_keys(one))
    ]
    return verify(workspace, relatives, work=work)


def _tensor_keys(stored: StoredVersion) -> set[str]:
    entries = stored.artifact.manifest.files.values()
    return {piece.key for entry in entries for piece in entry.pieces if piece.key}


def collect(
    workspace: Workspace, names: Sequence[str] = (), *, keep: int, older_than: timedelta | None = None
) -> RemovalPlan:
    """Decide what nobody needs; see :func:`plan_collection`. With names, what is of their lines alone goes."""
    found = survey(workspace.store)
    kept, telling = retention(workspace, found)
    pinned = {**telling, **pins(workspace, found)}
    plan = plan_collection(found, keep=keep, older_than=older_than, pinned=pinned, retention=kept)
    return plan.of(lines_below(workspace, found, names)) if names else plan


def remove(
    workspace: Workspace, names: Sequence[str], *, force: bool = False
) -> tuple[RemovalPlan, dict[Name, list[str]]]:
    """Decide what has to happen for versions to go; see :func:`plan_removal`.

    Raises:
        StoreError: if a name names nothing.
    """
    found = survey(workspace.store)
    damaged = [name.replace("@", "/", 1) if name.count("@") == 1 else "/".join(name.rsplit("@", 1)) for name in names]
    broken = [path for path in damaged if path in found.damaged and not path.endswith(f"/{CURRENT}")]
    targets = {
        stored.name: stored
        for name, path in zip(names, damaged, strict=True)
        if path not in broken
        for stored in choose(workspace, found, name)
    }
    plan, needs = plan_removal(found, list(targets.values()), pinned=pins(workspace, found), force=force)
    litter = [litter for path in broken for litter in unreadable(found, path)]
    return RemovalPlan(found, {}, plan.doomed, litter, plan.currents, force), needs


def carry_out_plan(workspace: Workspace, plan: RemovalPlan, *, work: Work = UNATTENDED) -> Done:
    """Remove what a plan says; see :func:`carry_out`."""
    return carry_out(workspace.store, plan, work=work)


def _of_revision(found: Inventory, versions: Sequence[StoredVersion], name: str, revision: str) -> list[StoredVersion]:
    """The versions that a revision is: by the commit that was mirrored, else as builds have recorded it."""
    if len(revision) >= _SHORTEST_COMMIT:
        commits = {one.name: str(one.artifact.manifest.details.get("commit", "")) for one in versions}
        if by_commit := [one for one in versions if commits[one.name].startswith(revision)]:
            return by_commit
    fingerprints = {
        fingerprint
        for user in found.everything
        for title, fingerprint in user.artifact.manifest.fingerprints.items()
        if title.partition("+")[0] == name
    }
    return [one for one in versions if one.artifact.version in fingerprints]


def unreadable(found: Inventory, folder: str) -> list[Litter]:
    """What goes with a version whose manifest cannot be read."""
    line, _, version = folder.rpartition("/")
    files = sorted(found.place.listed(folder), key=lambda entry: entry.path != f"{folder}/{MANIFEST}")
    gone = [Litter(f"{folder}, which is damaged", tuple(files))]
    if found.pointers.get(line) == version:
        path = f"{line}/{CURRENT}"
        gone.append(Litter(f"{path}, which names it", (Listed(path, 0, found.now),), pointer=line))
    return gone


def _verify(workspace: Workspace, stored: StoredVersion, work: Work) -> dict[str, str]:
    """What is wrong with a version's files, by name. What is wrong is read twice: an error on the way is no damage."""
    artifact = stored.artifact
    wrong = {}
    for text in workspace.store.verify(artifact, work=work):
        rest = text.removeprefix(f"{artifact.url}/")
        name = max((name for name in artifact.manifest.files if rest.startswith(f"{name}: ")), key=len, default="")
        if not name:
            name, _, what = rest.rpartition(": ")
            if artifact.manifest.build and name == PROGRESS:  # its builder was killed after its last step
                continue
            wrong[name] = what
            continue
        entry = artifact.manifest.files[name]
        sizes = {one.path: one.size for one in stored.files}
        wrong[name] = rest.removeprefix(f"{name}: ")
        if sizes.get(f"{files_path(artifact.manifest)}/{name}") == entry.size:
            again = _look(stored, name, entry.model_copy(update={"sha256": None}) if entry.pieces else entry)
            if again is None:
                del wrong[name]
            else:
                wrong[name] = again
    return wrong


def _look(stored: StoredVersion, name: str, entry: FileEntry) -> str | None:
    with stored.artifact.open(name) as file:
        return what_is_wrong(file, entry, Watch(UNATTENDED))


def _sample(stored: StoredVersion) -> dict[str, list[Piece]]:
    """Pieces to read, by file; a small file without pieces counts as one."""
    chosen: dict[str, list[Piece]] = {}
    for name, entry in stored.artifact.manifest.files.items():
        if not entry.pieces:
            small = entry.sha256 is not None and entry.size <= _SMALL
            chosen[name] = [Piece("", 0, entry.size, "")] if small else []
            continue
        head, *rest = entry.pieces
        chosen[name] = [head, *(sample(rest) if rest else ())]
    return chosen


def _verify_sample(
    stored: StoredVersion, chosen: Mapping[str, Sequence[Piece]], total: int, work: Work
) -> dict[str, str]:
    artifact = stored.artifact
    start = len(files_path(artifact.manifest)) + 1
    wrong = wrong_sizes({entry.path[start:]: entry.size for entry in stored.files}, artifact.manifest)

    def job(name: str) -> Callable[[Watch], None]:
        def run(watch: Watch) -> None:
            for piece in chosen[name]:
                try:
                    if artifact.manifest.files[name].pieces:
                        artifact.read_piece(name, piece)
                    else:
                        artifact.read_bytes(name)
                except DamageError:
                    what = piece.name or "the header" if artifact.manifest.files[name].pieces else "its content"
                    wrong[name] = f"{what} (bytes {piece.begin} to {piece.end}) is not what the manifest records"
                watch.relative_update(piece.size)

        return run

    jobs = {name: job(name) for name in chosen if name not in wrong}
    run_batch(jobs, total, workers=_READERS, work=work)
    return wrong
