"""Who needs a version: what stands above all wishes about what a store keeps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from merge_assets.store.inventory import Inventory, StoredVersion
from merge_assets.store.manifest import files_path

Name = tuple[str, str]
"""Line and version."""


_VARIANTS = "variants/"


@dataclass(frozen=True)
class Retention:
    """What recipes say of the versions of their variants.

    Attributes:
        lines: those of which they say something.
        kept: why a version stays by it.
        goes: why a version does not. Such a one is needed neither for being current nor for having been measured: scores stay
            when the bytes that they are of have gone.
    """

    lines: frozenset[str] = frozenset()
    kept: Mapping[Name, str] = field(default_factory=dict)
    goes: Mapping[Name, str] = field(default_factory=dict)


NOTHING_SAID = Retention()


def lineage(inventory: Inventory) -> dict[Name, list[StoredVersion]]:
    """Which versions of the store each version was made from.

    An input is recorded by a name and the fingerprint of its content. A name may be that of a recipe, of a repository or
    any title; where no line of that name has the version, every line that has it counts.
    """
    having: dict[str, list[StoredVersion]] = defaultdict(list)
    for stored in inventory.everything:
        having[stored.artifact.version].append(stored)
    found = {}
    for stored in inventory.everything:
        sources: dict[Name, StoredVersion] = {}
        for title, fingerprint in stored.artifact.manifest.fingerprints.items():
            path = title.partition("+")[0].partition("@")[0]
            able = [one for one in having.get(fingerprint, ()) if one is not stored]
            meant = [one for one in able if one.artifact.line in (f"variants/{path}", f"checkpoints/{path}")]
            sources |= {one.name: one for one in meant or able}
        found[stored.name] = list(sources.values())
    return found


def needed(inventory: Inventory, pinned: Mapping[Name, str], spent: Collection[Name] = ()) -> dict[Name, list[str]]:
    """Versions that are needed, with everyone who needs them: the lines' current ones, all that these were made from,
    what recipes pin, and what running builds read or copy from.

    Args:
        inventory: the store.
        pinned: versions that are needed besides, and why.
        spent: versions that only other variants need.
    """
    reasons: dict[Name, list[str]] = defaultdict(list)
    sources = lineage(inventory)
    reached = [stored for stored in inventory.current.values() if stored.name not in spent]
    for stored in reached:
        reasons[stored.name].append("current")
    seen = {stored.name for stored in reached}
    while reached:
        user = reached.pop()
        for source in sources[user.name]:
            if source.name in spent and not user.artifact.line.startswith(_VARIANTS):
                continue
            reasons[source.name].append(f"{user.artifact.line} was made from it")
            if source.name not in seen:
                seen.add(source.name)
                reached.append(source)
    for name, why in pinned.items():
        reasons[name].append(why)
    for name, uses in in_use(inventory).items():
        reasons[name] += uses
    return {name: list(dict.fromkeys(why)) for name, why in reasons.items()}


def in_use(inventory: Inventory) -> dict[Name, list[str]]:
    """What running builds may read or copy from."""
    reasons: dict[Name, list[str]] = defaultdict(list)
    for build in inventory.unfinished:
        if not build.alive or not build.line:
            continue
        for stored in inventory.everything:
            if stored.artifact.line == build.line:
                reasons[stored.name].append("its line is being built")
            elif build.sources is None or _holds(stored, build.sources):
                reasons[stored.name].append(f"{build.line} is being built from it")
    return reasons


def copied_from(inventory: Inventory, stored: StoredVersion) -> bool:
    """Whether a running build copies from a version, or may."""
    return any(
        build.alive and (build.sources is None or _holds(stored, build.sources)) for build in inventory.unfinished
    )


def _holds(stored: StoredVersion, paths: Collection[str]) -> bool:
    folder = f"{files_path(stored.artifact.manifest)}/"
    return any(path.startswith(folder) for path in paths)
