"""A version that is built piece by piece, and goes on where an earlier attempt was killed.

What is finished is written down in a journal beside the files. A piece that the journal names is hashed before it counts,
so that what a power cut took from the disk is made again. Of an earlier attempt nothing else is used: what it wrote beside
its files of pieces is removed, a manifest that was not published included.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from merge_assets.digests import Hasher, digest_of, second_half
from merge_assets.errors import StoreError
from merge_assets.store.manifest import FileEntry, Piece
from merge_assets.store.place.disk import writing
from merge_assets.store.planned import Origin, PlannedFile, PlannedPiece, Tally, is_whole
from merge_assets.work import Work

_BLOCK = 1 << 20
_HASHERS = 2
_LINKED = ".linked"
_LOG = logging.getLogger(__name__)


class Building:
    """The files of pieces of one version, being written into a local folder.

    Args:
        folder: holds the files; the journal lies beside it.
        locate: local path of a file of the store.
        work: asked throughout.
        verify: whether what is taken from other versions is hashed as it lies here.

    Attributes:
        folder: as given.
        files: what was added, by name; each has its full size and its head from then on.
        tally: what was taken from elsewhere.
        reused: names of the pieces that were taken from other versions.
        resumed: names of the pieces that an earlier attempt finished.
        flaws: what was said to be wrong with these, where anything was: a count by name.
        durable: whether the files are to stay where they are.
        beside: of the files that hold no pieces those that the place can copy, by name: where from, and the tag of the content.
    """

    durable = True

    def __init__(self, folder: Path, locate: Callable[[str], Path] | None, work: Work, *, verify: bool = True) -> None:
        self.folder = folder
        self.files: dict[str, PlannedFile] = {}
        self.tally = Tally()
        self.reused: frozenset[str] = frozenset()
        self.resumed: frozenset[str] = frozenset()
        self.flaws: dict[str, int] = {}
        self.beside: Mapping[str, tuple[str, str]] = {}
        self._work = work
        self._verify = verify
        self._places: dict[str, tuple[PlannedFile, PlannedPiece]] = {}
        self._digests: dict[str, str] = {}
        self._tags: dict[str, str | None] = {}
        self._origins: dict[str, Origin] = {}
        self._locate = locate
        self._lock = threading.Lock()
        self._journal = Journal(folder.with_name("journal"))
        _keep_only(folder, self._journal.files())

    @property
    def finished(self) -> frozenset[str]:
        """Names of the pieces that need no more work."""
        return frozenset(self._digests)

    def add(self, files: Sequence[PlannedFile], origins: Mapping[str, Origin]) -> None:
        """Add files, and take over what exists: what an earlier attempt finished, and what other versions hold.

        Args:
            files: what to write.
            origins: where pieces lie already, by name.

        Raises:
            StoreError: if the disk is full or a file cannot be written.
            Stopped: on request.
        """
        self._note(files, origins)
        for file in files:
            self._prepare(file)

    def _note(self, files: Sequence[PlannedFile], origins: Mapping[str, Origin]) -> None:
        self.files |= {file.name: file for file in files}
        added = {piece.name: (file, piece) for file in files for piece in file.pieces}
        self._places |= added
        self._origins |= {name: origin for name, origin in origins.items() if name in added}
        self._journal.add_files(file.name for file in files)
        for file in files:
            path = self.folder / file.name
            if path.is_file() and path.stat().st_nlink > 1:  # a file of another version, too
                path.unlink()
            elif path.is_file():
                path.chmod(0o644)  # its builder was killed while it published
        self._resume(added.keys())

    def landed(self, name: str, flaws: int, digest: str | None = None) -> None:
        """All bytes of a piece are in its file; called once for each, from any thread.

        Args:
            name: of the piece.
            flaws: a count that is kept for the case that the rest is left to another attempt.
            digest: of the bytes, if it is known.
        """
        file, piece = self._places[name]
        digest = digest or hash_range(self.folder / file.name, piece.begin, piece.end)
        with self._lock:
            self._digests[name] = digest
        self._journal.add(name, digest, flaws)

    def entries(self) -> dict[str, FileEntry]:
        """The files for the manifest; every piece has to be there."""
        return {name: self._entry(file) for name, file in self.files.items()}

    def close(self) -> None:
        """No more pieces come."""

    def discard(self) -> None:
        """Nobody will go on with this."""

    def _entry(self, file: PlannedFile) -> FileEntry:
        front = Piece("", 0, len(file.head), digest_of(file.head))
        pieces = [Piece(p.name, p.begin, p.end, self._digests[p.name], p.key) for p in file.pieces]
        return FileEntry(size=file.size, sha256=file.sha256, tag=self._tags.get(file.name), pieces=(front, *pieces))

    def _resume(self, added: Collection[str]) -> None:
        journal = {name: entry for name, entry in self._journal.read().items() if name in added}
        known = {name: digest for name, (digest, _) in journal.items()}

        def is_there(name: str) -> bool:
            self._work.check("looking at what an earlier attempt finished")
            file, piece = self._places[name]
            path = self.folder / file.name
            return path.is_file() and hash_range(path, piece.begin, piece.end) == known[name]

        with ThreadPoolExecutor(_HASHERS) as pool:
            there = [name for name, found in zip(known, pool.map(is_there, known), strict=True) if found]
        self._digests |= {name: known[name] for name in there}
        self.resumed |= frozenset(there)
        self.flaws |= {name: journal[name][1] for name in there if journal[name][1]}
        self.tally.resumed += sum(self._places[name][1].size for name in there)

    def _prepare(self, file: PlannedFile) -> None:
        path = self.folder / file.name
        wanted = [piece for piece in file.pieces if piece.name in self._origins and piece.name not in self._digests]
        if self._link(path, file):
            self.tally.linked += file.size
            self._take(wanted)
            return
        create(path, file, reserve=True)
        wanted = [piece for piece in wanted if self._copy(path, piece)]
        self._take([piece for piece, right in zip(wanted, self._right(path, wanted), strict=True) if right])

    def _link(self, path: Path, file: PlannedFile) -> bool:
        """Give a file of another version that is what is planned one more name, unless it is damaged."""
        whole = is_whole(file, self._origins, digest_of(file.head))
        if whole is None or self._locate is None:
            return False
        linked = path.with_name(f"{path.name}{_LINKED}")
        linked.unlink(missing_ok=True)
        if not _linked(self._locate(whole), linked):
            return False
        with linked.open("rb") as opened:
            same_head = not self._verify or opened.read(len(file.head)) == file.head
        if same_head and all(self._right(linked, file.pieces)):
            linked.replace(path)
            return True
        linked.unlink()
        return False

    def _right(self, path: Path, pieces: Sequence[PlannedPiece]) -> list[bool]:
        """Whether the bytes that were taken over are, where they lie now, what the version says that they come from. They are
        read for it, and compared by the second half of the digest, as inputs are; the first is that of the version."""

        def is_right(piece: PlannedPiece) -> bool:
            self._work.check("looking at what is reused")
            origin = self._origins[piece.name]
            if not self._verify or hash_quickly(path, piece.begin, piece.end) == second_half(origin.piece.digest):
                return True
            _LOG.warning("%s: %s is damaged and not reused; run `merge-assets store verify`", origin.path, piece.name)
            return False

        with ThreadPoolExecutor(_HASHERS) as pool:
            return list(pool.map(is_right, pieces))

    def _take(self, pieces: Sequence[PlannedPiece]) -> None:
        """Pieces were taken over from other versions."""
        for piece in pieces:
            self._digests[piece.name] = self._origins[piece.name].piece.digest
            self.tally.reused += piece.size
        self.reused |= {piece.name for piece in pieces}

    def _copy(self, path: Path, piece: PlannedPiece) -> bool:
        """Copy a piece inside the kernel; False where its version has been removed since it was found, so that it is made."""
        assert self._locate is not None
        self._work.check("copying what is finished")
        origin = self._origins[piece.name]
        source = self._locate(origin.path)
        try:
            with source.open("rb") as reader, path.open("r+b") as writer:
                copy_range(reader.fileno(), writer.fileno(), origin.piece.begin, piece.begin, piece.size)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreError(f"{path}: copying from {source}: {error.strerror or error}") from error
        self.tally.copied += piece.size
        return True


class Journal:
    """Names of files of pieces, and names, digests and flaws of the finished pieces, one line each.

    A line that was cut short is not read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def add_files(self, names: Iterable[str]) -> None:
        """Write down files before there are any pieces in them."""
        self._write("".join(json.dumps([name]) + "\n" for name in names))

    def add(self, name: str, digest: str, flaws: int) -> None:
        """Write down a finished piece."""
        self._write(json.dumps([name, digest, flaws]) + "\n")

    def files(self) -> set[str]:
        return {str(entry[0]) for entry in self._entries() if len(entry) == 1}

    def read(self) -> dict[str, tuple[str, int]]:
        """Digest and flaws of finished pieces, by name."""
        return {str(entry[0]): (str(entry[1]), int(entry[2])) for entry in self._entries() if len(entry) == 3}

    def _write(self, lines: str) -> None:
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write("\n" + lines)  # the line before it may have been cut short

    def _entries(self) -> Iterator[list[Any]]:
        if not self._path.exists():
            return
        for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                yield json.loads(line)


def _keep_only(folder: Path, names: Collection[str]) -> None:
    """Remove whatever else is in a folder."""
    with writing(folder):
        for directory, folders, files in os.walk(folder, topdown=False):
            for path in (Path(directory, name) for name in files):
                if path.relative_to(folder).as_posix() not in names:
                    path.unlink()
            for path in (Path(directory, name) for name in folders):
                with contextlib.suppress(OSError):  # it has something in it
                    path.unlink() if path.is_symlink() else path.rmdir()


def create(path: Path, file: PlannedFile, *, reserve: bool) -> None:
    """Make a file with its full size and its head; what it holds already stays.

    Args:
        path: where.
        file: what it will hold.
        reserve: whether to take the space from the disk at once.

    Raises:
        StoreError: if the disk is full or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if reserve and file.size:
                os.posix_fallocate(held, 0, file.size)
            os.ftruncate(held, file.size)
            os.pwrite(held, file.head, 0)
        finally:
            os.close(held)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot reserve {file.size} bytes: {error.strerror}; make room there, or move the store or cache"
        ) from error


def copy_range(source: int, target: int, begin: int, place: int, size: int) -> None:
    """Copy bytes between two descriptors, inside the kernel where the file systems can."""
    done, in_kernel = 0, True
    while done < size:
        count = 0
        if in_kernel:
            try:
                count = os.copy_file_range(source, target, min(_BLOCK, size - done), begin + done, place + done)
            except OSError:
                count = 0
            in_kernel = count > 0
        if not in_kernel:
            block = os.pread(source, min(_BLOCK, size - done), begin + done)
            if not block:
                raise OSError(0, "the file ends too early")
            count = os.pwrite(target, block, place + done)
        done += count


def hash_range(path: Path, begin: int, end: int) -> str:
    """Digest of bytes of a local file.

    Raises:
        StoreError: if it cannot be read or ends before.
    """
    hasher = Hasher()
    _read_into(hasher, path, begin, end)
    return hasher.hexdigest()


def hash_quickly(path: Path, begin: int, end: int) -> str:
    """The second half of that digest, in a seventh of the time."""
    hasher = Hasher(quick=True)
    _read_into(hasher, path, begin, end)
    return hasher.quick_hexdigest()


def _read_into(hasher: Hasher, path: Path, begin: int, end: int) -> None:
    buffer = memoryview(bytearray(min(_BLOCK, max(end - begin, 1))))
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(begin)
            left = end - begin
            while left:
                count = file.readinto(buffer[: min(left, len(buffer))])
                if not count:
                    raise StoreError(f"{path}: ends {left} bytes early")
                hasher.update(buffer[:count])
                left -= count
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error


def _linked(source: Path, target: Path) -> bool:
    """Give a file one more name; False where the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        return False
    return True
