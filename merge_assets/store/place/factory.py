"""Which place a store's URL means: the one list of concrete places."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from merge_assets.store.place.fsspec import FsspecPlace
from merge_assets.store.place.local import LocalPlace
from merge_assets.store.place.place import Place
from merge_assets.store.place.s3 import S3Place


def _local(root: str, options: Mapping[str, Any]) -> Place:
    """A local folder has no options and ignores them."""
    _, separator, rest = root.partition("://")
    if separator:
        return LocalPlace(Path("/", rest.removeprefix("localhost/")))
    return LocalPlace(Path(root).expanduser().absolute())


PLACES: dict[str, Callable[[str, Mapping[str, Any]], Place]] = {
    "": _local,
    "file": _local,
    "local": _local,
    "s3": S3Place,
    "s3a": S3Place,
}
"""What opens the URLs of a scheme, with the options of the place; no scheme is a path. All others are left to fsspec."""


def open_place(root: str, options: Mapping[str, Any]) -> Place:
    """The place of a URL.

    Raises:
        StoreError: if the URL's scheme is unknown or its package is not installed.
    """
    scheme = root.partition("://")[0] if "://" in root else ""
    return PLACES.get(scheme, FsspecPlace)(root, options)
