"""What was made from versions whose bytes are wrong.

A version records what it was made from, by fingerprint, not whether those bytes were right when they were read. So everything
that was made from a damaged version is in doubt, and everything made from that.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from merge_assets.errors import StoreError
from merge_assets.store.inventory import Inventory, StoredVersion
from merge_assets.store.names import CURRENT
from merge_assets.store.needs import Name, lineage

MEASUREMENTS = ("analyses/", "importance/")
"""Lines of what layers are chosen by."""

_PLAN = "plan.json"


@dataclass(frozen=True)
class Descendant:
    """A version that was made from one whose bytes are wrong, or from another descendant. Its own may be wrong as well.

    Attributes:
        stored: the version.
        sources: what it was made from, or may have tensors of: of the damaged versions and their descendants.
    """

    stored: StoredVersion
    sources: tuple[Name, ...]


def descendants(found: Inventory, damaged: Collection[Name]) -> list[Descendant]:
    """Everything that was made from damaged versions, directly or not; each after what it was made from itself.

    A version that has tensors in common with a descendant is one, too, where these were made from what is in doubt: the store
    computes no tensor twice.

    Args:
        found: the store.
        damaged: versions whose bytes are wrong, or whose manifest cannot be read.
    """
    sources = _Search(found, damaged).sources()
    by_name = {stored.name: stored for stored in found.everything}
    return [Descendant(by_name[name], tuple(sorted(sources[name]))) for name in _in_order(sources)]


class _Search:
    def __init__(self, found: Inventory, damaged: Collection[Name]) -> None:
        self._found = found
        self._damaged = damaged
        self._versions = {stored.name: stored for stored in found.everything}
        self._children: dict[Name, set[Name]] = defaultdict(set)
        for name, above in lineage(found).items():
            for source in above:
                self._children[source.name].add(name)
        self._add_unreadable()
        self._add_leaderboards()
        self._holders: dict[str, set[Name]] = defaultdict(set)
        for stored in found.everything:
            for entry in stored.artifact.manifest.files.values():
                for piece in entry.pieces:
                    if piece.key:
                        self._holders[piece.key].add(stored.name)

    def sources(self) -> dict[Name, set[Name]]:
        """Descendants with what they were made from."""
        sources: dict[Name, set[Name]] = {}
        waiting, seen = list(self._damaged), set[tuple[Name, Name]]()
        while waiting:
            name = waiting.pop()
            for child in self._made_from(name, {*self._damaged, *sources}):
                # One that is reached once more has more tensors in doubt.
                if child != name and (name, child) not in seen:
                    seen.add((name, child))
                    sources.setdefault(child, set()).add(name)
                    waiting.append(child)
        return sources

    def _made_from(self, name: Name, doubtful: Collection[Name]) -> set[Name]:
        children = set(self._children[name])
        if name[0].startswith(MEASUREMENTS) and name in self._versions:
            children |= self._pruned_by(self._versions[name])
        if name[0].startswith("variants/") and name not in self._damaged:
            # Of a damaged version it is known by reading who has the bytes that are wrong.
            children |= self._sharing(self._versions[name], {version for _, version in doubtful})
        return children

    def _add_unreadable(self) -> None:
        """Who was made from versions whose manifests cannot be read, which the lineage leaves out."""
        for path in self._found.damaged:
            line, _, version = path.rpartition("/")
            for stored in self._found.everything if not path.endswith(f"/{CURRENT}") else ():
                if version in stored.artifact.manifest.fingerprints.values():
                    self._children[line, version].add(stored.name)

    def _add_leaderboards(self) -> None:
        """A leaderboard is made from scores; it may name the models alone."""
        scores: dict[str, set[Name]] = defaultdict(set)
        for stored in self._found.everything:
            if stored.artifact.line.startswith("scores/"):
                for fingerprint in stored.artifact.manifest.fingerprints.values():
                    scores[fingerprint].add(stored.name)
        for stored in self._found.versions.get("leaderboard", ()):
            for fingerprint in stored.artifact.manifest.fingerprints.values():
                for name in scores[fingerprint]:
                    self._children[name].add(stored.name)

    def _pruned_by(self, analysis: StoredVersion) -> set[Name]:
        """Variants whose layers an analysis of their model may have chosen; their manifests do not tell."""
        models = set(analysis.artifact.manifest.fingerprints.values())
        return {
            stored.name
            for stored in self._found.everything
            if stored.artifact.line.startswith("variants/")
            and models & set(stored.artifact.manifest.fingerprints.values())
            and ((plan := _plan_of(stored)) is None or plan.get("removed_layers"))
        }

    def _sharing(self, stored: StoredVersion, doubtful: Collection[str]) -> set[Name]:
        """Versions that have tensors of a version which were made from models in doubt, by their fingerprints."""
        plan = _plan_of(stored)
        models = [model.get("fingerprint") in doubtful for model in plan["models"]] if plan else []
        names = {tensor["name"] for tensor in plan["tensors"] if any(_read_by(tensor, models))} if plan else None
        keys = {
            piece.key
            for entry in stored.artifact.manifest.files.values()
            for piece in entry.pieces
            if piece.key and (names is None or piece.name in names)
        }
        return {name for key in keys for name in self._holders[key]}


def _plan_of(stored: StoredVersion) -> dict[str, Any] | None:
    """The plan of a variant; ``None`` if it has none that can be read."""
    try:
        plan: dict[str, Any] = json.loads(stored.artifact.read_bytes(_PLAN))
    except (StoreError, ValueError):
        return None
    return plan


def _read_by(tensor: Mapping[str, Any], models: list[bool]) -> Iterator[bool]:
    """Of each input of a tensor whether its model is one of some, those of recipes folded in and made inputs included."""
    for item in tensor["inputs"]:
        if nested := item.get("nested"):
            yield from _read_by(nested, models)
        else:
            yield models[item["model"]]


def _in_order(sources: Mapping[Name, Collection[Name]]) -> list[Name]:
    """Each after its sources. Equal bytes have equal names in all lines, so that two may seem to be made from each other."""
    done: dict[Name, None] = {}
    for start in sorted(sources):
        ways = [(start, iter(sorted(sources[start])))]
        on_the_way = {start}
        while ways:
            name, above = ways[-1]
            source = next((one for one in above if one in sources and one not in done and one not in on_the_way), None)
            if source is None:
                done.setdefault(name)
                ways.pop()
            else:
                on_the_way.add(source)
                ways.append((source, iter(sorted(sources[source]))))
    return list(done)
