"""Versions that appear by one small PUT of their manifest, on a place to which files are sent.

Layout of a version: its files lie beside ``manifest.json``. Only the builder whose ``claim.json`` was
created first writes there; every other builder of the version (a racing one, or the successor of one that
died) writes to a subfolder ``attempt-<random>`` that its manifest names. So no builder ever overwrites a
byte that another builder's manifest vouches for, and whichever manifest is in force is true. Where nobody can be the
first to create a file, nobody owns a version's plain folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from merge_assets.errors import StoreError
from merge_assets.store.building import Building
from merge_assets.store.drafts import Drafts, keep_when_stopped
from merge_assets.store.manifest import Manifest, files_path
from merge_assets.store.names import CLAIM, MANIFEST, is_version
from merge_assets.store.place import Objects, Parts, Place, Watch
from merge_assets.store.place.place import written_over
from merge_assets.store.place.workbench import Workbench
from merge_assets.store.publishing import Publishing
from merge_assets.store.sending import SentBuilding
from merge_assets.store.sent import OwnBuild, Sent
from merge_assets.store.transfer import run_batch
from merge_assets.store.versions import is_current, read_complete, read_manifest, size_problems
from merge_assets.work import Work

_LOG = logging.getLogger(__name__)
_WORKERS = 4


class AnnouncedVersions(Publishing):
    """Drafts lie on the local disk and are sent; where the place puts files together, builds are sent as they grow.

    Args:
        place: where the versions lie.
        objects: the same.
        scratch: local folder for drafts; default a folder of this user in the temporary directory.
    """

    def __init__(self, place: Place, objects: Objects, scratch: Path | None) -> None:
        self._place = place
        self._objects = objects
        self.reuses = place.parts is not None
        default = Path(tempfile.gettempdir(), f"merge-assets-{os.getuid()}")
        self._drafts = Drafts(Workbench(scratch or default, private=scratch is None))

    def draft(self) -> AbstractContextManager[Path]:
        return self._drafts.new()

    def kept_draft(self, name: str) -> AbstractContextManager[Path]:
        return self._drafts.kept(self._draft_name(name), self.keeps)

    def keeps(self, error: BaseException) -> bool:
        """A place that cannot be reached will be, some day."""
        return isinstance(error, StoreError) or keep_when_stopped(error)

    def settle(self, name: str, manifest: Manifest) -> None:
        with self._drafts.left(self._draft_name(name)) as folder:
            if folder is not None and self._place.parts is not None:
                self._settle_build(self._place.parts, folder, manifest)

    def building(
        self, folder: Path, line: str, key: str, work: Work, *, verify: bool, alone: bool
    ) -> tuple[Building, Callable[..., Manifest]]:
        if self._place.parts is None:
            return Building(folder, None, work), partial(self.publish, folder)
        ours = OwnBuild(folder)
        sent = Sent.find(self._place, self._place.parts, line, key, ours.read(), alone=alone)
        ours.write(sent.build)
        building = SentBuilding(folder, self._place, self._place.parts, sent, work)
        return building, partial(self._publish_sent, building)

    def publish(self, folder: Path, manifest: Manifest, *, work: Work) -> Manifest:
        present = read_complete(self._place, manifest.line, manifest.version)
        if present is not None:
            return present
        if not self._claim(f"{manifest.line}/{manifest.version}"):
            manifest = manifest.model_copy(update={"folder": f"attempt-{secrets.token_hex(4)}"})
        self._send(folder, manifest, tuple(manifest.files), work)
        return self._announce(manifest)

    def withdraw(self, manifest: Manifest) -> str | None:
        present = read_manifest(self._place, manifest.line, manifest.version)
        if is_current(self._place, manifest) or present != manifest:
            return None
        self._place.remove([f"{manifest.line}/{manifest.version}/{MANIFEST}"])
        return files_path(manifest)

    def restore(self, manifest: Manifest, folder: str) -> None:
        with contextlib.suppress(FileExistsError):
            self._objects.create(f"{manifest.line}/{manifest.version}/{MANIFEST}", manifest.encode())

    def erase(self, manifest: Manifest, folder: str) -> None:
        if manifest.build:
            self._place.remove([entry.path for entry in self._place.listed(folder)])
            return
        # Of the version's folder only what was its own: it may be that it is made again at this moment.
        self._place.remove([f"{folder}/{name}" for name in manifest.files])
        if read_manifest(self._place, manifest.line, manifest.version) is None:
            self._place.remove([f"{manifest.line}/{manifest.version}/{CLAIM}"])

    def _draft_name(self, name: str) -> str:
        """Stores share a scratch folder."""
        return f"{hashlib.sha256(self._place.url('').encode()).hexdigest()[:8]}{name}"

    def _settle_build(self, parts: Parts, folder: Path, manifest: Manifest) -> None:
        build = OwnBuild(folder).read()
        if build is None:
            return
        sent = Sent(self._place, parts, manifest.line, build, manifest.key)
        try:
            versions = [name for name in self._place.folders(manifest.line) if is_version(name)]
            manifests = [read_manifest(self._place, manifest.line, name) for name in versions]
            if build in {one.build for one in manifests if one is not None}:
                sent.forget()
            else:
                sent.discard()
        except StoreError as error:
            _LOG.warning("%s stays until `merge-assets store gc`: %s", self._place.url(sent.folder), error)

    def _publish_sent(self, building: SentBuilding, manifest: Manifest, *, work: Work) -> Manifest:
        """Send the files beside those of pieces, or have them copied, then let the version exist, unless another builder was
        first."""
        sent = building.sent
        ours = manifest.model_copy(update={"build": sent.build})
        beside = [name for name in manifest.files if name not in building.files]
        copied = self._copied(building, ours)
        self._send(building.folder, ours, [name for name in beside if name not in copied], work)
        building.tally.copied += sum(manifest.files[name].size for name in copied)
        building.tally.sent += sum(manifest.files[name].size for name in beside if name not in copied)
        if sent.resumed:
            sent.remove_all_but(manifest.files)
        in_force = self._announce(ours)
        if in_force.build == sent.build:
            sent.forget()
        else:
            sent.discard()
        return in_force

    def _copied(self, building: SentBuilding, manifest: Manifest) -> set[str]:
        """The files beside those of pieces that the place has copied; the first that it refuses is the last that is asked for.

        Raises:
            InputError: one has changed since it was digested.
        """
        parts, done = self._place.parts, set[str]()
        assert parts is not None
        for name, (source, tag) in building.beside.items():
            try:
                parts.copy(source, f"{files_path(manifest)}/{name}", tag)
            except StoreError as error:
                _LOG.info("%s; it is sent", error)
                return done
            if parts.tag(source) != tag:  # not every server looks at a tag when it copies
                raise written_over(self._place.url(source), source)
            done.add(name)
        return done

    def _announce(self, manifest: Manifest) -> Manifest:
        """Make a version whose files are there exist, unless another builder has; returns the manifest in force."""
        path = f"{manifest.line}/{manifest.version}/{MANIFEST}"
        try:
            self._objects.create(path, manifest.encode())
        except FileExistsError:
            present = read_complete(self._place, manifest.line, manifest.version)
            if present is None:
                self._place.write({path: manifest.encode()})
            elif present != manifest:
                if files_path(present) != files_path(manifest):  # two builders may have gone on with one build
                    self._discard(manifest)
                return present
        return manifest

    def _send(self, folder: Path, manifest: Manifest, names: Sequence[str], work: Work) -> None:
        """Send files of a draft, then look whether all files of the manifest are there.

        Raises:
            StoreError: if one is missing or has another size.
        """
        base = files_path(manifest)

        def job(name: str) -> Callable[[Watch], None]:
            return lambda watch: self._objects.send(folder / name, f"{base}/{name}", watch)

        jobs = {name: job(name) for name in names}
        total = sum(manifest.files[name].size for name in names)
        run_batch(jobs, total, workers=_WORKERS, work=work)
        problems = size_problems(self._place, manifest)
        if problems:
            name, problem = next(iter(problems.items()))
            url = f"{self._place.url(base)}/{name}"
            raise StoreError(f"{url}: arrived wrong ({problem}); nothing was published, try again")

    def _claim(self, base: str) -> bool:
        """Become the builder that owns the version's plain folder; at most one ever does."""
        if not self._objects.exclusive:
            return False
        token = secrets.token_hex(8).encode()
        try:
            self._objects.create(f"{base}/{CLAIM}", b'{"builder": "' + token + b'"}\n')
        except FileExistsError:
            # A PUT that was retried after its answer got lost finds its own claim.
            return token in (self._place.read(f"{base}/{CLAIM}") or b"")
        return True

    def _discard(self, manifest: Manifest) -> None:
        """Remove files that no manifest names; a failure leaves litter, nothing worse."""
        base = files_path(manifest)
        for name in manifest.files:
            with contextlib.suppress(StoreError):
                self._place.remove([f"{base}/{name}"])
