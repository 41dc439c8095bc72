"""The artifact store: lines of immutable versions, readable by a person.

Layout below the root, whatever it lies on::

    <line>/<version>/...              the files of one version
    <line>/<version>/manifest.json    written last; without it the version does not exist
    <line>/keys/<key>.json            which version was built from these inputs
    <line>/current.json               which version was committed last
    <line>/leases/<key>.json          who is making a version from these inputs, while somebody is
    <kind>/index.txt                  which version has which tensors; made again when it is lost
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from merge_assets.errors import StoreError
from merge_assets.records import Details, Input
from merge_assets.store.announced import AnnouncedVersions
from merge_assets.store.artifact import Artifact
from merge_assets.store.building import Building
from merge_assets.store.draft import BuildDraft, Draft
from merge_assets.store.format import StoreFormat
from merge_assets.store.index import find_origins
from merge_assets.store.lease import Lease, Turn, once
from merge_assets.store.manifest import Manifest, files_path, new_manifest
from merge_assets.store.names import (
    CLAIM,
    CURRENT,
    KEYS,
    LEASES,
    MANIFEST,
    check_key,
    check_line,
    check_version,
    is_version,
)
from merge_assets.store.place import Place, Watch
from merge_assets.store.place.factory import open_place
from merge_assets.store.planned import Origin
from merge_assets.store.publishing import Publishing
from merge_assets.store.renamed import RenamedVersions
from merge_assets.store.reuse import Verify, verified
from merge_assets.store.sent import PROGRESS
from merge_assets.store.transfer import run_batch, what_is_wrong
from merge_assets.store.versions import Pointer, read_manifest, read_pointer, size_problems
from merge_assets.work import UNATTENDED, Work

_T = TypeVar("_T")
_LOG = logging.getLogger(__name__)
_READERS = 8
_HASHERS = min(4, os.cpu_count() or 1)


class ArtifactStore:
    """Versions on a local folder or behind any fsspec URL.

    Args:
        root: local path, ``file://``, ``memory://``, ``s3://bucket/prefix`` or any other fsspec URL.
        options: arguments of the fsspec file system, such as credentials; a local store has none and ignores them.
        scratch: local folder in which versions of a remote store are written before their upload.

    Raises:
        StoreError: if the URL's protocol is unknown or its package is not installed.
    """

    def __init__(self, root: str, options: Mapping[str, Any] | None = None, *, scratch: Path | None = None) -> None:
        self._unchecked = open_place(str(root), options or {})
        self._scratch = scratch
        self._format = StoreFormat(self._unchecked)

    def __repr__(self) -> str:
        return f"ArtifactStore({self.url!r})"

    @property
    def url(self) -> str:
        """The root, without credentials."""
        return self._unchecked.url("")

    @property
    def place(self) -> Place:
        """The place that it lies in.

        Raises:
            StoreError: if what lies there is a store of another format, or nothing can be told of it.
        """
        return self._place

    def check(self) -> None:
        """See that what lies there can be read and written; everything else that asks the place does so first.

        Raises:
            StoreError: as :attr:`place`.
        """
        _ = self._place

    @cached_property
    def publishing(self) -> Publishing:
        """How its versions come into being and go."""
        if self._place.tree is not None:
            return RenamedVersions(self._place, self._place.tree)
        assert self._place.objects is not None
        return AnnouncedVersions(self._place, self._place.objects, self._scratch)

    @cached_property
    def _place(self) -> Place:
        self._format.check()
        return self._unchecked

    @property
    def in_bucket(self) -> bool:
        """Whether it lies where pieces are read one by one and copied by the server, as on S3."""
        return self._unchecked.parts is not None

    def get(self, line: str, version: str) -> Artifact | None:
        """A committed version, or ``None``."""
        manifest = read_manifest(self._place, check_line(line), check_version(version))
        return None if manifest is None else Artifact(line, version, manifest, self._place)

    def find(self, line: str, key: str) -> Artifact | None:
        """The version built from the inputs of this key, or ``None``.

        A version with a file missing or of another size is not found, so that it is built again.
        """
        pointer = self._pointer(f"{check_line(line)}/{KEYS}/{check_key(key)}.json")
        found = self.get(line, pointer) if pointer else None
        if found is None:
            # A builder killed between its commit and its pointer has finished the work all the same.
            found = next((one for one in reversed(self.versions(line)) if one.manifest.key == key), None)
        if found is not None and (problems := size_problems(self._place, found.manifest)):
            _LOG.warning("%s is damaged and not reused: %s", found.url, _say(problems))
            return None
        return found

    def reuse(self, line: str, key: str) -> Artifact | None:
        """Like :meth:`find`, and what is found becomes the line's current version.

        What a builder has left that was killed between the version's last byte and its own end is cleared.
        """
        found = self.find(line, key)
        if found is not None:
            self.publishing.settle(_draft_name(line, key), found.manifest)
            self._point(line, key, found.version)
        return found

    def once(
        self,
        line: str,
        key: str,
        find: Callable[[], _T | None],
        make: Callable[[Turn], _T],
        *,
        task: str,
        work: Work = UNATTENDED,
    ) -> tuple[_T, bool]:
        """Have one of all who want to make a version make it, in whatever process and on whatever machine; the others wait.

        Args:
            line: where the version will belong.
            key: digest of its inputs.
            find: looks whether it is there; asked before any waiting, and again after it.
            make: makes it, giving the :class:`Turn` to :meth:`build` or :meth:`draft`; left as by a stop, and waited for, when
                this process was paused for so long that another has taken over.
            task: what is made, as in "building variants/slerp-7b"; told to those who wait.
            work: told for whom is waited, with nothing done of nothing; asked throughout.

        Returns: what was found or made, and whether it was made here.
        """
        return once(partial(self.lease, line, key, task=task), find, make, work)

    def lease(self, line: str, key: str, *, task: str) -> Lease:
        """The right to work at one thing that is no version, called ``key``; ``task`` is what is done, for people."""
        self._format.write()
        return Lease(self._place, f"{check_line(line)}/{LEASES}/{check_key(key)}.json", task)

    def remember(self, line: str, key: str, version: str) -> None:
        """Let :meth:`find` find a committed version under one more key."""
        self._place.write({f"{line}/{KEYS}/{check_key(key)}.json": Pointer(version=check_version(version)).sealed()})

    def versions(self, line: str) -> list[Artifact]:
        """Every committed version of a line, oldest first."""
        names = [name for name in self._place.folders(check_line(line)) if is_version(name)]
        with ThreadPoolExecutor(_READERS) as pool:
            found = [one for one in pool.map(partial(self.get, line), names) if one is not None]
        return sorted(found, key=lambda artifact: (artifact.manifest.created, artifact.version))

    def lines(self, kind: str) -> list[str]:
        """Every line with a committed version under ``kind``, such as ``variants``; sorted."""
        lines = set()
        for path in self._place.holding(check_line(kind), MANIFEST):
            line, _, version = path.rpartition("/")
            if line and line not in lines and read_manifest(self._place, line, version) is not None:
                lines.add(line)
        return sorted(lines)

    def current(self, line: str) -> Artifact | None:
        """The version that was committed, or set by :meth:`set_current`, last."""
        pointer = self._pointer(f"{check_line(line)}/{CURRENT}")
        return self.get(line, pointer) if pointer else None

    def set_current(self, line: str, version: str) -> None:
        """Make a committed version the current one.

        Raises:
            StoreError: if there is no such version.
        """
        if self.get(line, version) is None:
            raise StoreError(f"{self.url}: there is no version {version} of {line}")
        self._place.write({f"{line}/{CURRENT}": Pointer(version=version).sealed()})

    @contextlib.contextmanager
    def draft(self, line: str, started: datetime | None = None, *, turn: Turn | None = None) -> Iterator[Draft]:
        """A local folder in which to write a new version; it vanishes unless committed.

        Drafts left behind by processes that died are removed first.

        Args:
            line: where it will belong.
            started: when the work began that is written down here; now if nothing was done before.
            turn: of :meth:`once`; nothing is committed when it was lost.
        """
        check_line(line)
        self._format.write()
        with self.publishing.draft() as folder:
            draft = Draft(
                line,
                folder,
                started or datetime.now(UTC),
                partial(self._commit, turn=turn, publish=partial(self.publishing.publish, folder)),
            )
            try:
                yield draft
            finally:
                draft.close()

    @contextlib.contextmanager
    def build(
        self,
        line: str,
        key: str,
        started: datetime | None = None,
        *,
        verify: bool = True,
        turn: Turn | None = None,
        work: Work = UNATTENDED,
    ) -> Iterator[BuildDraft]:
        """A version of pieces, which goes on where an earlier attempt at the same was killed or stopped.

        Args:
            line: where it will belong.
            key: digest of the inputs; equal keys mean equal files.
            started: when the work began; now if nothing was done before.
            verify: whether what is taken from other versions is hashed where it lies then.
            turn: of :meth:`once`: whatever an earlier builder has left is gone on with at once, as nobody else may work on
                it, and nothing is committed when the turn was lost.
            work: asked throughout.

        Raises:
            StoreError: if the disk is full or the store cannot be reached.
        """
        check_line(line)
        self._format.write()
        with self.publishing.kept_draft(_draft_name(line, check_key(key))) as folder:
            building, publish = self.publishing.building(folder, line, key, work, verify=verify, alone=turn is not None)
            commit = partial(self._commit, turn=turn, publish=publish)
            draft = BuildDraft(line, folder, started or datetime.now(UTC), commit, building)
            try:
                yield draft
            except BaseException as error:
                building.close()
                if not self.publishing.keeps(error):
                    building.discard()
                raise
            else:
                building.close()
            finally:
                draft.close()

    @contextlib.contextmanager
    def trial(self, line: str, *, work: Work = UNATTENDED) -> Iterator[BuildDraft]:
        """A version of pieces that is made to be looked at: on this machine, with nothing from the store, and never committed.

        Args:
            line: where it would belong.
            work: asked throughout.
        """
        check_line(line)
        with self.publishing.draft() as folder:
            draft = BuildDraft(line, folder, datetime.now(UTC), self._commit, Building(folder, None, work))
            draft.close()
            yield draft

    def origins(self, keys: Collection[str], line: str) -> dict[str, Origin]:
        """Finished pieces of these keys: those of a line's own versions first, then those of its neighbours.

        Args:
            keys: what is looked for.
            line: such as ``variants/slerp-7b``; its neighbours are the other lines of ``variants``.
        """
        if not self.publishing.reuses or not keys:
            return {}
        return find_origins(self._place, keys, line)

    def sound(self, origins: Mapping[str, Origin], verify: Verify, work: Work = UNATTENDED) -> dict[str, Origin]:
        """Those of the origins whose files have nothing wrong, as far as ``verify`` looks."""
        return verified(self._place, origins, verify, work)

    def forget_attempts(self, artifact: Artifact) -> None:
        """Remove what killed builders of a version have finished, so that the next one makes all of it."""
        self.publishing.settle(_draft_name(artifact.line, artifact.manifest.key), artifact.manifest)

    def verify(self, artifact: Artifact, *, work: Work = UNATTENDED) -> list[str]:
        """Read every byte of a version and say what is wrong with it; empty if nothing is."""
        manifest = artifact.manifest
        base = files_path(manifest)
        problems = size_problems(self._place, manifest)

        def job(name: str) -> Callable[[Watch], None]:
            def run(watch: Watch) -> None:
                with self._place.open(f"{base}/{name}") as file:
                    if problem := what_is_wrong(file, manifest.files[name], watch):
                        problems[name] = problem

            return run

        jobs = {name: job(name) for name in manifest.files if name not in problems}
        run_batch(jobs, manifest.size, workers=_HASHERS, work=work)
        ours = {PROGRESS} if manifest.build else {MANIFEST, CLAIM}
        for name in self._place.sizes(base):
            if name not in manifest.files and name not in ours and not name.startswith("attempt-"):
                problems[name] = "not in the manifest"
        return [f"{artifact.url}/{name}: {problem}" for name, problem in sorted(problems.items())]

    def _commit(
        self,
        draft: Draft,
        version: str,
        *,
        key: str,
        inputs: Sequence[Input],
        details: Details,
        digests: Mapping[str, str],
        work: Work,
        publish: Callable[..., Manifest],
        turn: Turn | None,
    ) -> Artifact:
        check_version(version)
        check_key(key)
        self._refuse_nesting(draft.line, version)
        files = draft.describe(digests, work)
        manifest = new_manifest(
            draft.line, version, key=key, files=files, inputs=inputs, details=details, started=draft.started
        )
        if turn is not None:
            turn.confirm()
        published = publish(manifest, work=work)
        self._point(draft.line, key, version)
        return Artifact(draft.line, version, published, self._place)

    def _point(self, line: str, key: str, version: str) -> None:
        pointer = Pointer(version=version).sealed()
        self._place.write({f"{line}/{KEYS}/{key}.json": pointer, f"{line}/{CURRENT}": pointer})

    def _refuse_nesting(self, line: str, version: str) -> None:
        """A folder is a line or a version: else replacing a damaged version could remove a whole line."""
        parts = line.split("/")
        for depth in range(1, len(parts)):
            if read_manifest(self._place, "/".join(parts[:depth]), parts[depth]) is not None:
                outer = "/".join(parts[: depth + 1])
                raise StoreError(f"{line}: {outer} is a version and cannot hold a line; use another name")
        inner = f"{line}/{version}"
        # Another builder may publish this very version at any moment: its manifest tells of the line, not of a line below.
        if read_manifest(self._place, line, version) is None and any(
            f"{found}/".startswith(f"{inner}/") for found in self.lines(inner)
        ):
            raise StoreError(f"{inner}: is a line and cannot be a version; use another name")

    def _pointer(self, path: str) -> str | None:
        version = read_pointer(self._place, path)
        if version is None or is_version(version):
            return version
        _LOG.warning("%s is damaged and ignored", self._place.url(path))
        return None


def _draft_name(line: str, key: str) -> str:
    return hashlib.sha256(f"{line}\n{key}".encode()).hexdigest()[:24]


def _say(problems: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {problem}" for name, problem in sorted(problems.items()))
