"""The store behind an fsspec URL: versions appear by one small PUT of their manifest.

Layout of a version: its files lie beside ``manifest.json``. Only the builder whose ``claim.json`` was
created first writes there; every other builder of the version (a racing one, or the successor of one that
died) writes to a subfolder ``attempt-<random>`` that its manifest names. So no builder ever overwrites a
byte that another builder's manifest vouches for, and whichever manifest is in force is true.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import urlsplit

import fsspec
from pydantic import SecretStr
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from merge_assets.errors import Stopped, StoreError, StoreUnreachableError
from merge_assets.extras import not_installed
from merge_assets.progress import Progress, ShouldStop
from merge_assets.store.backend import Backend, Listed, files_path, size_problems
from merge_assets.store.drafts import Drafts
from merge_assets.store.manifest import Manifest
from merge_assets.store.names import CLAIM, MANIFEST
from merge_assets.store.sealed import unseal
from merge_assets.store.transfer import Watch, run_batch

_T = TypeVar("_T")
_LOG = logging.getLogger(__name__)
_WORKERS = 4
_ATTEMPTS = 8
_LOOKS = 4
_FINAL = (FileNotFoundError, FileExistsError, PermissionError, ValueError, TypeError, KeyError, NotImplementedError)
_EXCLUSIVE = frozenset({"memory", "s3", "s3a"})
"""Protocols on which creating a file fails when it exists. On any other nobody owns a version's plain folder."""
_OPEN = frozenset({"endpoint_url", "region_name"})
"""Options that messages may show: without them a wrong address cannot be found."""
_CREATE = threading.Lock()
"""The memory file system looks and writes in two steps; threads of one process take turns."""


class RemoteBackend(Backend):
    """Versions in an object store.

    Args:
        root: fsspec URL.
        options: arguments of the file system, credentials among them; shown nowhere.
        scratch: local folder for drafts; default a folder of this user in the temporary directory.
    """

    local = False
    looks = 3

    def __init__(self, root: str, options: Mapping[str, Any], scratch: Path | None) -> None:
        options = {str(name): _plain(value) for name, value in options.items()}
        self._secrets = sorted(set(_texts(options)) | set(_credentials(root)), key=len, reverse=True)
        self._shown = _without_credentials(root).rstrip("/")
        try:
            self._fs, path = fsspec.core.url_to_fs(root, **options)
        except ImportError as error:
            raise not_installed(error) or self._error("", "opened", error) from None
        except (ValueError, TypeError, OSError) as error:
            raise self._error("", "opened", error) from None
        self._root = str(path).rstrip("/")
        protocol = self._fs.protocol if isinstance(self._fs.protocol, str) else self._fs.protocol[0]
        self._claimable = protocol in _EXCLUSIVE
        default = Path(tempfile.gettempdir(), f"merge-assets-{os.getuid()}")
        self._drafts = Drafts(scratch or default, private=scratch is None)

    def url(self, path: str) -> str:
        return f"{self._shown}/{path}".rstrip("/")

    def read(self, path: str) -> bytes | None:
        try:
            return cast(bytes, self._call("read", path, lambda: self._fs.cat_file(self._at(path))))
        except FileNotFoundError:
            return None

    def open(self, path: str) -> BinaryIO:
        return cast(BinaryIO, self._must(path, "opened", lambda: self._fs.open(self._at(path), "rb")))

    def folders(self, path: str) -> list[str]:
        entries = self._listing(path, lambda at: self._fs.ls(at, detail=True))
        names = (str(entry["name"]).rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == "directory")
        return sorted(set(names))

    def sizes(self, path: str) -> dict[str, int]:
        start = len(self._at(path)) + 1
        entries = self._listing(path, lambda at: list(self._fs.find(at, detail=True).values()))
        return {str(entry["name"])[start:]: int(entry["size"]) for entry in entries}

    def listed(self, path: str) -> list[Listed]:
        start = len(self._root) + 1
        entries = self._listing(path, lambda at: list(self._fs.find(at, detail=True).values()))
        return [Listed(str(e["name"])[start:], int(e["size"]), _changed(e)) for e in entries]

    def manifests(self, path: str) -> Iterator[str]:
        for name in self.sizes(path):
            folder, _, file = name.rpartition("/")
            if file == MANIFEST and folder:
                yield f"{path}/{folder}" if path else folder

    def draft(self) -> AbstractContextManager[Path]:
        return self._drafts.new()

    def keeps(self, error: BaseException) -> bool:
        """An object store that cannot be reached will be, some day."""
        return isinstance(error, StoreError) or super().keeps(error)

    def kept_draft(self, name: str) -> AbstractContextManager[Path]:
        return self._drafts.kept(self._draft_name(name), self.keeps)

    def settle(self, name: str, manifest: Manifest) -> None:
        with self._drafts.left(self._draft_name(name)) as folder:
            if folder is not None:
                self.settle_build(folder, manifest)

    def settle_build(self, folder: Path, manifest: Manifest) -> None:
        """Clear what the builder of a draft has left in the store when the version was there."""

    def _draft_name(self, name: str) -> str:
        """Stores share a scratch folder."""
        return f"{hashlib.sha256(self._shown.encode()).hexdigest()[:8]}{name}"

    def publish(
        self, folder: Path, manifest: Manifest, *, progress: Progress | None, should_stop: ShouldStop | None
    ) -> Manifest:
        base = f"{manifest.line}/{manifest.version}"
        present = self.complete(manifest.line, manifest.version)
        if present is not None:
            return present
        if not self._claim(base):
            manifest = manifest.model_copy(update={"folder": f"attempt-{secrets.token_hex(4)}"})
        self.upload(folder, manifest, tuple(manifest.files), progress, should_stop)
        return self.announce(manifest)

    def announce(self, manifest: Manifest) -> Manifest:
        """Make a version whose files are there exist, unless another builder has; returns the manifest in force."""
        base = f"{manifest.line}/{manifest.version}"
        try:
            self.create(f"{base}/{MANIFEST}", manifest.encode())
        except FileExistsError:
            present = self.complete(manifest.line, manifest.version)
            if present is None:
                self.write_pointers({f"{base}/{MANIFEST}": manifest.encode()})
            elif present != manifest:
                if files_path(present) != files_path(manifest):  # two builders may have gone on with one build
                    self._discard(manifest)
                return present
        return manifest

    def read_sealed(self, path: str) -> dict[str, Any] | None:
        for _ in range(_LOOKS):  # one that was damaged on its way here comes right the next time
            raw = self.read(path)
            found = unseal(raw)
            if raw is None or found is not None:
                return found
        return None

    def remove_files(self, paths: Iterable[str]) -> None:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                self._call("removed", path, partial(self._fs.rm_file, self._at(path)))

    def withdraw(self, manifest: Manifest) -> str | None:
        if self.is_current(manifest) or self.manifest(manifest.line, manifest.version) != manifest:
            return None
        self.remove_files([f"{manifest.line}/{manifest.version}/{MANIFEST}"])
        return files_path(manifest)

    def restore(self, manifest: Manifest, folder: str) -> None:
        with contextlib.suppress(FileExistsError):
            self.create(f"{manifest.line}/{manifest.version}/{MANIFEST}", manifest.encode())

    def erase(self, manifest: Manifest, folder: str) -> None:
        if manifest.build:
            self.remove_files([entry.path for entry in self.listed(folder)])
            return
        # Of the version's folder only what was its own: it may be that it is made again at this moment.
        self.remove_files([f"{folder}/{name}" for name in manifest.files])
        if self.manifest(manifest.line, manifest.version) is None:
            self.remove_files([f"{manifest.line}/{manifest.version}/{CLAIM}"])

    def write_pointers(self, files: Mapping[str, bytes]) -> None:
        for path, data in files.items():
            self._write(path, data)

    def download(self, path: str, target: Path, watch: Watch) -> None:
        """Copy one file here.

        Raises:
            StoreError: if it is missing or the store cannot be reached.
        """

        def get() -> None:
            watch.value = 0
            self._fs.get_file(self._at(path), str(target), callback=watch)

        self._must(path, "downloaded", get)

    def upload(
        self,
        folder: Path,
        manifest: Manifest,
        names: Sequence[str],
        progress: Progress | None,
        should_stop: ShouldStop | None,
    ) -> None:
        """Send files of a draft, then look whether all files of the manifest are there.

        Raises:
            StoreError: if one is missing or has another size.
        """
        base = files_path(manifest)

        def job(name: str) -> Callable[[Watch], None]:
            return lambda watch: self._put(folder / name, f"{base}/{name}", watch)

        jobs = {name: job(name) for name in names}
        total = sum(manifest.files[name].size for name in names)
        run_batch(jobs, total, workers=_WORKERS, progress=progress, should_stop=should_stop)
        problems = size_problems(self, manifest)
        if problems:
            name, problem = next(iter(problems.items()))
            raise StoreError(f"{self.url(base)}/{name}: arrived wrong ({problem}); nothing was published, try again")

    def _put(self, source: Path, path: str, watch: Watch) -> None:
        def put() -> None:
            watch.value = 0
            self._fs.put_file(str(source), self._at(path), callback=watch)

        try:
            self._call("written", path, put)
        except FileNotFoundError as error:
            raise self._error(path, "written", error) from None

    def _claim(self, base: str) -> bool:
        """Become the builder that owns the version's plain folder; at most one ever does."""
        if not self._claimable:
            return False
        token = secrets.token_hex(8).encode()
        try:
            self.create(f"{base}/{CLAIM}", b'{"builder": "' + token + b'"}\n')
        except FileExistsError:
            # A PUT that was retried after its answer got lost finds its own claim.
            return token in (self.read(f"{base}/{CLAIM}") or b"")
        return True

    def create(self, path: str, data: bytes) -> None:
        """Write a small file that must not exist; FileExistsError if it does."""

        def create() -> None:
            with _CREATE:
                self._fs.pipe_file(self._at(path), data, mode="create")

        def check_and_write() -> None:
            if self._fs.exists(self._at(path)):
                raise FileExistsError(path)
            self._fs.pipe_file(self._at(path), data)

        try:
            self._call("written", path, create if self._claimable else check_and_write)
        except FileNotFoundError as error:
            raise self._error(path, "written", error) from None

    def _write(self, path: str, data: bytes) -> None:
        try:
            self._call("written", path, lambda: self._fs.pipe_file(self._at(path), data))
        except FileNotFoundError as error:
            raise self._error(path, "written", error) from None

    def _discard(self, manifest: Manifest) -> None:
        """Remove files that no manifest names; a failure leaves litter, nothing worse."""
        base = files_path(manifest)
        for name in manifest.files:
            with contextlib.suppress(Exception):
                self._fs.rm_file(self._at(f"{base}/{name}"))

    def _listing(self, path: str, ask: Callable[[str], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        def fresh() -> list[dict[str, Any]]:
            # A cached listing would hide what other processes have published, from reading as well.
            self._fs.invalidate_cache()
            try:
                return ask(self._at(path))
            finally:
                self._fs.invalidate_cache()

        try:
            return self._call("listed", path, fresh)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}".rstrip("/")

    def _call(self, done: str, path: str, function: Callable[[], _T]) -> _T:
        """Call the file system, again after errors that may pass; missing and existing files are answers."""
        retrying = Retrying(
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.2, max=5.0),
            retry=retry_if_exception(_may_pass),
            reraise=True,
        )
        try:
            return retrying(function)
        except (FileNotFoundError, FileExistsError, NotADirectoryError, Stopped):
            raise
        except Exception as error:
            raise self._error(path, done, error) from None

    def _must(self, path: str, done: str, function: Callable[[], _T]) -> _T:
        """Like :meth:`_call`, for what has to be there."""
        try:
            return self._call(done, path, function)
        except FileNotFoundError:
            raise StoreError(f"{self.url(path)}: is missing") from None

    def _error(self, path: str, done: str, error: Exception) -> StoreError:
        """The message for a failure below us, without any value of the options; never chained, for the same reason."""
        text = f"{type(error).__name__}: {error}"
        for secret in self._secrets:
            text = text.replace(secret, "******")
        _LOG.debug("%s: cannot be %s: %s", self.url(path), done, text)
        kind = StoreUnreachableError if _may_pass(error) else StoreError
        return kind(f"{self.url(path)}: cannot be {done}: {text}; check the store's URL, options and network")


def _changed(entry: Mapping[str, Any]) -> datetime:
    """When a file was changed last; every file system calls that something else. Now, where it does not say."""
    names = ("LastModified", "last_modified", "updated", "mtime", "created")
    value = next((entry[name] for name in names if entry.get(name) is not None), None)
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    elif isinstance(value, (int, float)):
        value = datetime.fromtimestamp(value, UTC)
    if not isinstance(value, datetime):
        return datetime.now(UTC)
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, Exception) and not isinstance(error, (*_FINAL, Stopped, StoreError, ImportError))


def _plain(value: object) -> object:
    """Options as file systems take them: pydantic secrets become strings, at any depth."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _texts(value: object) -> Iterator[str]:
    """Every string inside nested options that may be a secret: long enough, and not an address or a region."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in _OPEN or "@" in str(item):
                yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str) and len(value) >= 4:
        yield value


def _credentials(root: str) -> list[str]:
    user, at, _ = urlsplit(root).netloc.rpartition("@")
    return [part for part in (user, *user.split(":")) if at and len(part) >= 4]


def _without_credentials(root: str) -> str:
    parts = urlsplit(root)
    _, at, host = parts.netloc.rpartition("@")
    return root.replace(parts.netloc, f"******@{host}", 1) if at else root
