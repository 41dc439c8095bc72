"""Bytes of models outside the store that its server copies as it copies the store's own: they never come by here."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from merge_assets.store.names import BUILDS
from merge_assets.store.place import Place
from merge_assets.store.planned import Origin
from merge_assets.work import Work

_LOG = logging.getLogger(__name__)
_WORKERS = 4


def in_reach(place: Place, line: str, origins: Mapping[str, tuple[Place, Origin]], work: Work) -> dict[str, Origin]:
    """Those origins of other places whose files the server of the store copies, as it calls them.

    It is asked for one byte of each file, so that what it refuses is known before anything is planned on it: that is said
    once, and read instead.

    Args:
        place: where the store lies.
        line: for which they are copied.
        origins: by any name, each with the place that its file lies in.
        work: asked before each file.

    Raises:
        InputError: a file is not what it was when it was digested.
        StoreError: the store cannot be written.
        Stopped: on request.
    """
    parts = place.parts
    if parts is None:
        return {}
    named = {
        name: replace(origin, path=path)
        for name, (other, origin) in origins.items()
        if origin.tag and (path := parts.reached(other, origin.path)) is not None
    }
    tags = {origin.path: origin.tag or "" for origin in named.values()}
    scratch = f"{line}/{BUILDS}/reach-{secrets.token_hex(4)}"

    def asked(path: str) -> str:
        work.check("asking whether the server copies")
        return parts.refusal(path, tags[path], f"{scratch}/{secrets.token_hex(4)}")

    with ThreadPoolExecutor(_WORKERS, "reach") as pool:
        refused = {path: why for path, why in zip(tags, pool.map(asked, tags), strict=True) if why}
    for folder, why in {path.rpartition("/")[0]: why for path, why in refused.items()}.items():
        _LOG.warning(
            "%s: the server of the store copies nothing from there (%s); what it would have copied is read",
            place.url(folder),
            why,
        )
    return {name: origin for name, origin in named.items() if origin.path not in refused}
