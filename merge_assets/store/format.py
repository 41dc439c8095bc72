"""Which format a store is of: ``store.json`` at its root, written before anything else.

A store of another format is neither read nor written. Stores of format 1 have no such file; one that was lost is told from
those by the manifests, and written again.
"""

from __future__ import annotations

from typing import Any

import merge_assets
from merge_assets.errors import StoreError
from merge_assets.records import FORMAT, RecordFile
from merge_assets.sealed import seal
from merge_assets.store.names import MANIFEST, STORE
from merge_assets.store.place import Place
from merge_assets.store.versions import read_sealed


class StoreRecord(RecordFile):
    """What ``store.json`` says.

    Attributes:
        merge_assets: version of this package that made the store.
    """

    merge_assets: str


class StoreFormat:
    """The format of what lies in a place."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._written: bool | None = None

    def check(self) -> None:
        """See that whatever is there is of the format of today.

        Raises:
            StoreError: if it is not, or the place cannot be reached.
        """
        fields = read_sealed(self._place, STORE)
        found = self._of_manifests() if fields is None else fields.get("format")
        if found not in (None, FORMAT):
            raise StoreError(
                f"{self._place.url('')}: is a store of format {found}, and merge_assets {merge_assets.__version__} reads and "
                f"writes format {FORMAT}; nothing in it was changed: name another place in the setting `store`, where "
                "everything is made again, or use the version of merge_assets that made this one"
            )
        self._written = fields is not None

    def write(self) -> None:
        """Write the format down, unless that was done. Called before anything is put there."""
        if self._written is None:
            self.check()
        if not self._written:
            self._place.write({STORE: seal(StoreRecord(merge_assets=merge_assets.__version__).model_dump())})
            self._written = True

    def _of_manifests(self) -> Any:
        """The format of the first version that is found; ``None`` if there is none."""
        for kind in self._place.folders(""):
            for folder in self._place.holding(kind, MANIFEST):
                if (fields := read_sealed(self._place, f"{folder}/{MANIFEST}")) is not None:
                    return fields.get("format", 1)
        return None
