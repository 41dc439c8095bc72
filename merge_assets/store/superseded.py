"""What dead builders were sending that nobody wants any more: a bucket keeps it, at a price, until it is aborted."""

from __future__ import annotations

from collections.abc import Callable, Collection

from merge_assets.store.collect import litter_of, remove_litter
from merge_assets.store.inventory import BUILD_PATH, survey
from merge_assets.store.store import ArtifactStore


def clear_superseded(store: ArtifactStore, settled: Callable[[], Collection[str]]) -> list[str]:
    """Abort uploads in parts of builders that are dead, with what they have sent, of lines that are settled.

    Where a version is still to be made, the next builder goes on with them; `store gc` removes these after a week. Nothing is
    listed but the uploads unless there are some of such lines.

    Args:
        store: in a bucket; elsewhere there are no uploads.
        settled: lines on which nothing is to be built; asked only if there are uploads.

    Returns:
        What was removed, for people.

    Raises:
        StoreError: if the store cannot be reached, or its uploads may not be listed.
    """
    parts = store.place.parts
    uploads = parts.uploads("") if parts is not None else []
    lines = {match[1] for upload in uploads if (match := BUILD_PATH.fullmatch(upload.path))}
    done = lines & set(settled()) if lines else set()
    if not done:
        return []
    dead = [build for build in survey(store).unfinished if build.line in done and build.uploads and not build.alive]
    litter = [litter_of(build) for build in dead]
    for one in litter:
        remove_litter(store.place, one)
    return [one.what for one in litter]
