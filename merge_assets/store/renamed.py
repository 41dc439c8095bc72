"""Versions that appear by one rename, on a place whose files are files of this machine."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from merge_assets.store.building import Building
from merge_assets.store.drafts import Drafts, keep_when_stopped
from merge_assets.store.manifest import Manifest
from merge_assets.store.names import MANIFEST
from merge_assets.store.place import Place, Tree
from merge_assets.store.place.disk import sync, sync_tree, writing
from merge_assets.store.place.workbench import DRAFTS
from merge_assets.store.publishing import Publishing
from merge_assets.store.versions import is_current, read_complete, read_manifest
from merge_assets.work import Work

_READ_ONLY = 0o444
"""A file may be that of other versions, too."""


class RenamedVersions(Publishing):
    """Drafts lie beside the versions, on the same file system.

    Args:
        place: where the versions lie.
        tree: the same.
    """

    reuses = True

    def __init__(self, place: Place, tree: Tree) -> None:
        self._place = place
        self._tree = tree
        self._workbench = tree.workbench
        self._drafts = Drafts(tree.workbench)

    def draft(self) -> AbstractContextManager[Path]:
        return self._drafts.new()

    def kept_draft(self, name: str) -> AbstractContextManager[Path]:
        return self._drafts.kept(name, self.keeps)

    def keeps(self, error: BaseException) -> bool:
        return keep_when_stopped(error)

    def settle(self, name: str, manifest: Manifest) -> None:
        with self._drafts.left(name):
            pass

    def building(
        self, folder: Path, line: str, key: str, work: Work, *, verify: bool, alone: bool
    ) -> tuple[Building, Callable[..., Manifest]]:
        return Building(folder, self._tree.locate, work, verify=verify), partial(self.publish, folder)

    def publish(self, folder: Path, manifest: Manifest, *, work: Work) -> Manifest:
        root, target = self._tree.locate(""), self._tree.locate(f"{manifest.line}/{manifest.version}")
        with writing(target):
            (folder / MANIFEST).write_bytes(manifest.encode())
            sync_tree(folder)
            for name in (*manifest.files, MANIFEST):
                (folder / name).chmod(_READ_ONLY)
            target.parent.mkdir(parents=True, exist_ok=True)
        with writing(target), self._workbench.lock():
            try:
                folder.rename(target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                present = read_complete(self._place, manifest.line, manifest.version)
                if present is not None:
                    return present
                self._workbench.trash(target)
                folder.rename(target)
            directory = target.parent
            while directory != root.parent:
                sync(directory)
                directory = directory.parent
        return manifest

    def withdraw(self, manifest: Manifest) -> str | None:
        grave = self._workbench.grave()
        with writing(self._tree.locate("")), self._workbench.lock():
            present = read_manifest(self._place, manifest.line, manifest.version)
            if is_current(self._place, manifest) or present != manifest:
                return None
            self._tree.locate(f"{manifest.line}/{manifest.version}").rename(grave)
        return f"{DRAFTS}/{grave.name}"

    def restore(self, manifest: Manifest, folder: str) -> None:
        with self._workbench.lock(), contextlib.suppress(OSError):  # it was made again, or swept by a builder
            self._tree.locate(folder).rename(self._tree.locate(f"{manifest.line}/{manifest.version}"))

    def erase(self, manifest: Manifest, folder: str) -> None:
        shutil.rmtree(self._tree.locate(folder), ignore_errors=True)
