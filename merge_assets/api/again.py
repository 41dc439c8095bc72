"""A stored variant compared with the same computed again: equal byte for byte, or an error that says why it may not be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from merge_assets.checkpoint import fingerprint_files
from merge_assets.errors import DamageError, NotReproducedError
from merge_assets.records import VariantDetails
from merge_assets.store import Artifact, ArtifactStore, FileEntry
from merge_assets.store.names import short_name
from merge_assets.work import Work

_SHOWN = 5


def require_equal(
    store: ArtifactStore, stored: Artifact, computed: Mapping[str, FileEntry], shards: Sequence[str], work: Work
) -> None:
    """See that a version is what was computed now from the same inputs, and that its bytes are those that were written.

    Args:
        store: where the version is.
        stored: the version.
        computed: every file as it was written now.
        shards: names of the files of weights.
        work: told bytes; asked throughout.

    Raises:
        NotReproducedError: if other bytes were computed.
        DamageError: if the same bytes were computed, and those in the store are others by now.
    """
    differences = _differences(stored.manifest.files, computed, shards)
    damage = store.verify(stored, work=work)
    name = short_name((stored.line, stored.version))
    if not differences and not damage:
        return
    removal = f"`merge-assets store rm '{name}' --force --yes` and build again to have what is computed now"
    if not differences:
        raise DamageError(
            f"{name}: computing it again gives the bytes that were written, but the stored ones are others by now: "
            f"{_listed(damage)}; {removal}"
        )
    text = f"{name}: computing it again gives other bytes: {_listed(differences)}. "
    if damage:
        text += f"The stored version is damaged: {_listed(damage)}. "
    else:
        made = stored.manifest.provenance
        methods = stored.manifest.described(VariantDetails).methods
        using = ", ".join(f"{method} ({version})" for method, version in methods.items())
        text += (
            f"The stored version is as it was written, on {made.ended:%Y-%m-%d} by merge_assets {made.merge_assets}, so "
            f"what computes it differs from that day or from run to run: one of the methods {using}, code whose version "
            "was not raised when it changed, or the device. A method may draw by chance only from the recipe's seed, and "
            "whoever changes a kernel raises its version. "
        )
    raise NotReproducedError(f"{text}Nothing was published and the stored version stays; {removal}")


def _differences(
    stored: Mapping[str, FileEntry], computed: Mapping[str, FileEntry], shards: Sequence[str]
) -> list[str]:
    """Tensors, and files beside them, that are not the same."""
    names = fingerprint_files({**stored, **computed}, shards)
    found: list[str] = []
    for name in names:
        one, other = stored.get(name), computed.get(name)
        if one is None or other is None:
            found.append(f"{name} is {'not stored' if one is None else 'not made now'}")
        elif one.pieces and other.pieces:
            before = {piece.name: (piece.size, piece.digest) for piece in one.pieces}
            after = {piece.name: (piece.size, piece.digest) for piece in other.pieces}
            changed = [piece for piece in {**before, **after} if before.get(piece) != after.get(piece)]
            found += [piece or f"the header of {name}" for piece in changed]
        elif one.digest != other.digest:
            found.append(name)
    return found


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{', '.join(items[:_SHOWN])}{more}"
