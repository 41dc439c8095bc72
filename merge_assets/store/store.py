"""The artifact store: lines of immutable versions, readable by a person.

Layout below the root, whatever it lies on::

    <line>/<version>/...              the files of one version
    <line>/<version>/manifest.json    written last; without it the version does not exist
    <line>/keys/<key>.json            which version was built from these inputs
    <line>/current.json               which version was committed last
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from merge_assets.errors import StoreError
from merge_assets.progress import Progress, ShouldStop
from merge_assets.store.artifact import Artifact
from merge_assets.store.backend import Backend, files_path, size_problems
from merge_assets.store.local import LocalBackend, local_sizes
from merge_assets.store.manifest import FileEntry, new_manifest
from merge_assets.store.names import (
    CLAIM,
    CURRENT,
    KEYS,
    MANIFEST,
    check_file,
    check_key,
    check_line,
    check_version,
    is_version,
)
from merge_assets.store.remote import RemoteBackend
from merge_assets.store.transfer import Watch, hash_file, hash_stream, run_batch

_LOG = logging.getLogger(__name__)
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
        self._backend = _backend(str(root), options or {}, scratch)

    def __repr__(self) -> str:
        return f"ArtifactStore({self.url!r})"

    @property
    def url(self) -> str:
        """The root, without credentials."""
        return self._backend.url("")

    def get(self, line: str, version: str) -> Artifact | None:
        """A committed version, or ``None``."""
        manifest = self._backend.manifest(check_line(line), check_version(version))
        return None if manifest is None else Artifact(line, version, manifest, self._backend)

    def find(self, line: str, key: str) -> Artifact | None:
        """The version built from the inputs of this key, or ``None``.

        A version with a file missing or of another size is not found, so that it is built again.
        """
        pointer = self._pointer(f"{check_line(line)}/{KEYS}/{check_key(key)}.json")
        found = self.get(line, pointer) if pointer else None
        if found is None:
            # A builder killed between its commit and its pointer has finished the work all the same.
            found = next((one for one in reversed(self.versions(line)) if one.manifest.key == key), None)
        if found is not None and (problems := size_problems(self._backend, found.manifest)):
            _LOG.warning("%s is damaged and not reused: %s", found.url, _say(problems))
            return None
        return found

    def versions(self, line: str) -> list[Artifact]:
        """Every committed version of a line, oldest first."""
        found = []
        for name in self._backend.folders(check_line(line)):
            if is_version(name) and (manifest := self._backend.manifest(line, name)) is not None:
                found.append(Artifact(line, name, manifest, self._backend))
        return sorted(found, key=lambda artifact: (artifact.manifest.created, artifact.version))

    def lines(self, kind: str) -> list[str]:
        """Every line with a committed version under ``kind``, such as ``variants``; sorted."""
        lines = set()
        for path in self._backend.manifests(check_line(kind)):
            line, _, version = path.rpartition("/")
            if line and line not in lines and self._backend.manifest(line, version) is not None:
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
        self._backend.write_pointers({f"{line}/{CURRENT}": _pointer_to(version)})

    @contextlib.contextmanager
    def draft(self, line: str) -> Iterator[Draft]:
        """A local folder in which to write a new version; it vanishes unless committed.

        Drafts left behind by processes that died are removed first.
        """
        check_line(line)
        with self._backend.draft() as folder:
            draft = Draft(line, folder, self._commit)
            try:
                yield draft
            finally:
                draft._commit = None

    def verify(
        self, artifact: Artifact, *, progress: Progress | None = None, should_stop: ShouldStop | None = None
    ) -> list[str]:
        """Read every byte of a version and say what is wrong with it; empty if nothing is."""
        manifest = artifact.manifest
        base = files_path(manifest)
        problems = size_problems(self._backend, manifest)

        def job(name: str) -> Callable[[Watch], None]:
            def run(watch: Watch) -> None:
                with self._backend.open(f"{base}/{name}") as file:
                    if hash_stream(file, watch) != manifest.files[name].sha256:
                        problems[name] = "its sha256 is not that of the manifest"

            return run

        jobs = {name: job(name) for name in manifest.files if name not in problems}
        run_batch(jobs, manifest.size, workers=_HASHERS, progress=progress, should_stop=should_stop)
        ours = {MANIFEST, CLAIM}
        for name in self._backend.sizes(base):
            if name not in manifest.files and name not in ours and not name.startswith("attempt-"):
                problems[name] = "not in the manifest"
        return [f"{artifact.url}/{name}: {problem}" for name, problem in sorted(problems.items())]

    def _commit(
        self,
        draft: Draft,
        version: str,
        *,
        key: str,
        inputs: Mapping[str, str],
        details: Mapping[str, Any],
        digests: Mapping[str, str],
        progress: Progress | None,
        should_stop: ShouldStop | None,
    ) -> Artifact:
        check_version(version)
        check_key(key)
        self._refuse_nesting(draft.line, version)
        files = _describe(draft.directory, digests, progress, should_stop)
        manifest = new_manifest(draft.line, version, key=key, files=files, inputs=inputs, details=details)
        published = self._backend.publish(draft.directory, manifest, progress=progress, should_stop=should_stop)
        pointer = _pointer_to(version)
        self._backend.write_pointers({f"{draft.line}/{KEYS}/{key}.json": pointer, f"{draft.line}/{CURRENT}": pointer})
        return Artifact(draft.line, version, published, self._backend)

    def _refuse_nesting(self, line: str, version: str) -> None:
        """A folder is a line or a version: else replacing a damaged version could remove a whole line."""
        parts = line.split("/")
        for depth in range(1, len(parts)):
            if self._backend.manifest("/".join(parts[:depth]), parts[depth]) is not None:
                outer = "/".join(parts[: depth + 1])
                raise StoreError(f"{line}: {outer} is a version and cannot hold a line; use another name")
        inner = f"{line}/{version}"
        if self._backend.manifest(line, version) is None and self.lines(inner):
            raise StoreError(f"{inner}: is a line and cannot be a version; use another name")

    def _pointer(self, path: str) -> str | None:
        raw = self._backend.read(path)
        try:
            return check_version(json.loads(raw)["version"]) if raw is not None else None
        except (ValueError, TypeError, KeyError, StoreError):
            _LOG.warning("%s is damaged and ignored", self._backend.url(path))
            return None


class Draft:
    """A version being written.

    Attributes:
        line: where it will belong.
        directory: local folder to write into; gone after :meth:`commit`.
    """

    def __init__(self, line: str, directory: Path, commit: Callable[..., Artifact] | None) -> None:
        self.line = line
        self.directory = directory
        self._commit = commit

    def commit(
        self,
        version: str,
        *,
        key: str,
        inputs: Mapping[str, str],
        details: Mapping[str, Any],
        digests: Mapping[str, str] | None = None,
        progress: Progress | None = None,
        should_stop: ShouldStop | None = None,
    ) -> Artifact:
        """Publish everything in :attr:`directory` as one version, or use the one that another builder published.

        Args:
            version: fingerprint of the content.
            key: digest of the inputs, by which :meth:`ArtifactStore.find` finds the version.
            inputs: what was read -> its fingerprint.
            details: kept in the manifest; plain JSON.
            digests: sha256 of files that the caller knows already, by relative name; the others are read.
            progress: called with bytes done, bytes in all, and a file name; once through for the digests and,
                for a remote store, once more for the upload.

        Returns:
            The committed version. Its manifest is another builder's if that one came first.

        Raises:
            StoreError: for a bad name, a link in the draft, a second commit, or a store that cannot be written.
            Stopped: when ``should_stop`` says so; nothing is published.
        """
        if self._commit is None:
            raise StoreError(f"{self.line}: this draft is committed or closed; open another one")
        artifact = self._commit(
            self,
            version,
            key=key,
            inputs=inputs,
            details=details,
            digests=digests or {},
            progress=progress,
            should_stop=should_stop,
        )
        self._commit = None
        return artifact


def _backend(root: str, options: Mapping[str, Any], scratch: Path | None) -> Backend:
    scheme, separator, rest = root.partition("://")
    if not separator:
        return LocalBackend(Path(root).expanduser().absolute())
    if scheme in ("file", "local"):
        return LocalBackend(Path("/", rest.removeprefix("localhost/")))
    return RemoteBackend(root, options, scratch)


def _describe(
    folder: Path, digests: Mapping[str, str], progress: Progress | None, should_stop: ShouldStop | None
) -> dict[str, FileEntry]:
    """Size and digest of every file of a draft."""
    sizes = {check_file(name): size for name, size in local_sizes(folder).items()}
    for name, digest in digests.items():
        if name not in sizes:
            raise StoreError(f"{folder / name}: a digest was given for a file that was not written")
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise StoreError(f"{folder / name}: {digest!r} is not a sha256 in lower-case hex")
    found = dict(digests)

    def job(name: str) -> Callable[[Watch], None]:
        def run(watch: Watch) -> None:
            found[name] = hash_file(folder / name, watch)

        return run

    unknown = {name: job(name) for name in sizes if name not in digests}
    total = sum(sizes[name] for name in unknown)
    run_batch(unknown, total, workers=_HASHERS, progress=progress, should_stop=should_stop)
    return {name: FileEntry(size=size, sha256=found[name]) for name, size in sizes.items()}


def _pointer_to(version: str) -> bytes:
    return (json.dumps({"version": version}) + "\n").encode()


def _say(problems: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {problem}" for name, problem in sorted(problems.items()))
