"""A version that is put together by the place while its pieces are computed.

Pieces are computed into sparse local files. A part whose bytes are all there is sent, and its place in the local file is
given back to the disk. Parts that the place has in other versions are copied by it. What was sent is written down in
``progress.json`` below the line's ``builds``, where the next attempt finds it, on this machine or on another.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from merge_assets.digests import digest_of
from merge_assets.errors import DamageError, Stopped, StoreError
from merge_assets.filestate import not_as_digested
from merge_assets.store.building import Building, create
from merge_assets.store.cutting import Stretch, plan_parts
from merge_assets.store.fetching import fetch_range, fetch_unknown
from merge_assets.store.manifest import FileEntry
from merge_assets.store.place import Parts, Place
from merge_assets.store.place.place import OUTSIDE, written_over
from merge_assets.store.planned import Origin, PlannedFile, is_whole
from merge_assets.store.sent import Sent, SentFile
from merge_assets.work import Work

SENDERS = 4
"""Requests at once."""

_READY = 128 << 20
"""Bytes that may wait to be sent; then the engine waits."""

_PUNCH_HOLE = 0x02 | 0x01
_fallocate = getattr(ctypes.CDLL(None), "fallocate", None)  # Linux
if _fallocate is not None:
    _fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class SentBuilding(Building):
    """See the module's docstring.

    Args:
        folder: holds the sparse files; the journal lies beside it.
        place: where to.
        parts: the same.
        sent: what the earlier attempts have sent, or a fresh one.
        work: asked throughout.

    Attributes:
        sent: as given.
    """

    durable = False

    def __init__(self, folder: Path, place: Place, parts: Parts, sent: Sent, work: Work) -> None:
        super().__init__(folder, None, work)
        self.sent = sent
        self._place = place
        self._parts = parts
        self._pool = ThreadPoolExecutor(SENDERS, "send")
        self._futures: list[Future[None]] = []
        self._failure: BaseException | None = None
        self._local: frozenset[str] = frozenset()
        self._change = threading.Condition()
        self._ready = 0
        self._waiting: dict[tuple[str, int], set[str]] = {}
        self._touches: dict[str, list[tuple[str, int]]] = {}

    def add(self, files: Sequence[PlannedFile], origins: Mapping[str, Origin]) -> None:
        self._note(files, origins)
        self._local = self.resumed
        if not self.sent.files:  # what is begun from now on is found by the next attempt, on any machine
            self.sent.save()
        for file in files:
            self._begin(file)
        sent = {
            piece.name for file in files for piece in file.pieces
        } & self.finished - self._origins.keys() - self._local
        self.resumed |= sent
        self.tally.resumed += sum(self._places[name][1].size for name in sent)
        self.sent.save()
        for file in files:
            self._set_out(file)

    def landed(self, name: str, flaws: int, digest: str | None = None) -> None:
        super().landed(name, flaws, digest)
        self.sent.pieces[name] = self._digests[name]
        if flaws:
            self.sent.flaws[name] = flaws
        self._arrive(name)
        with self._change:
            while self._ready > _READY and self._failure is None:
                self._change.wait(0.1)
                self._check()
        self._check()

    def entries(self) -> dict[str, FileEntry]:
        """Wait until all is sent, and make the files appear in the build's folder."""
        at = 0
        while at < len(self._futures):  # a task may start others
            self._check()
            with contextlib.suppress(TimeoutError):
                self._futures[at].exception(timeout=0.1)
                at += 1
        self._check()
        # Not every server looks at a tag when it copies.
        for path, tag in {origin.path: origin.tag for origin in self._origins.values() if origin.tag}.items():
            if self._parts.tag(path) != tag:
                self.discard()  # nobody may go on with what was copied
                raise written_over(self._place.url(path), path)
        for file in self.files.values():
            self._complete(file)
        return super().entries()

    def close(self) -> None:
        """Let the requests end and write down what was sent."""
        self._failure = self._failure or Stopped("the build was stopped")
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.sent.close()

    def discard(self) -> None:
        with contextlib.suppress(StoreError):  # it stays until `store gc`
            self.sent.discard()

    # -- setting out -------------------------------------------------------------------------------------------------

    def _begin(self, file: PlannedFile) -> None:
        """Decide which parts a file has, or take over those of an earlier attempt."""
        path = f"{self.sent.folder}/{file.name}"
        create(self.folder / file.name, file, reserve=False)
        earlier = self.sent.files.get(file.name)
        if earlier is not None and not earlier.take_over(self._parts, path, file.size, self._sources()):
            earlier = None
        if earlier is None:
            head = digest_of(file.head)
            whole = is_whole(file, self._origins, head)
            parts = [] if whole is not None and file.size <= self._parts.largest_copy else plan_parts(self._runs(file))
            upload = self._parts.begin(path) if parts else ""
            earlier = self.sent.files[file.name] = SentFile(upload, parts, whole if not parts else None)
        for piece in file.pieces:
            if piece.name in self._origins:
                self._take([piece])
                self.tally.by_server += 1
            elif piece.name in self.sent.pieces and earlier.has(piece.begin, piece.end):
                self._digests[piece.name] = self.sent.pieces[piece.name]
                if piece.name in self.sent.flaws:
                    self.flaws[piece.name] = self.sent.flaws[piece.name]

    def _tag_of(self, source: str) -> str | None:
        """What a file outside the store has to be called while it is copied; those of the store are looked at at the end."""
        if not source.startswith(OUTSIDE):
            return None
        return next((origin.tag for origin in self._origins.values() if origin.path == source), None)

    def _sources(self) -> set[str]:
        return {origin.path for origin in self._origins.values()}

    def _runs(self, file: PlannedFile) -> list[Stretch]:
        runs = [Stretch(0, len(file.head))]
        for piece in file.pieces:
            origin = self._origins.get(piece.name)
            if origin is None:
                runs.append(Stretch(piece.begin, piece.end))
            else:
                runs.append(Stretch(piece.begin, piece.end, origin.path, origin.piece.begin))
        return runs

    def _set_out(self, file: PlannedFile) -> None:
        """Start everything that waits for nothing, and note what the other parts wait for."""
        state = self.sent.files[file.name]
        if state.whole is not None:
            self._submit(self._copy_whole, file, state.whole)
            return
        wanted: dict[str, list[tuple[int, int]]] = {}
        for number, part in enumerate(state.parts):
            if state.tags[number] is not None:
                continue
            if part.source is not None:
                self._submit(self._copy_part, file, number)
                continue
            needs = self._waiting[file.name, number] = {"head of the part"}
            for piece in file.pieces:
                begin, end = max(piece.begin, part.begin), min(piece.end, part.end)
                if begin >= end or piece.name in self._local:
                    continue
                needs.add(piece.name)
                self._touches.setdefault(piece.name, []).append((file.name, number))
                if piece.name in self._origins:
                    wanted.setdefault(piece.name, []).append((begin, end))
        for name, ranges in wanted.items():
            self._submit(self._fetch, file, name, ranges)
        for number in range(len(state.parts)):
            self._ready_without(file.name, number, "head of the part")

    # -- parts -------------------------------------------------------------------------------------------------------

    def _arrive(self, name: str) -> None:
        for file, number in self._touches.get(name, ()):
            self._ready_without(file, number, name)

    def _ready_without(self, file: str, number: int, need: str) -> None:
        """Send a part once it waits for nothing more."""
        with self._change:
            needs = self._waiting.get((file, number))
            if needs is None:
                return
            needs.discard(need)
            if needs:
                return
            del self._waiting[file, number]
            self._ready += self.sent.files[file].parts[number].size
        self._submit(self._send, file, number)

    def _send(self, name: str, number: int) -> None:
        state = self.sent.files[name]
        part, path = state.parts[number], self.folder / name
        descriptor = os.open(path, os.O_RDWR)
        try:
            data = os.pread(descriptor, part.size, part.begin)
            state.tags[number] = self._parts.put_part(f"{self.sent.folder}/{name}", state.upload, number + 1, data)
            if _fallocate is not None:  # the head stays, so that the file can be opened
                begin = max(part.begin, len(self.files[name].head))
                _fallocate(descriptor, _PUNCH_HOLE, begin, max(part.end - begin, 1))
        finally:
            os.close(descriptor)
        with self._change:
            self._ready -= part.size
            self.tally.sent += part.size
            self._change.notify_all()
        self.sent.touch()

    def _copy_part(self, file: PlannedFile, number: int) -> None:
        state = self.sent.files[file.name]
        part = state.parts[number]
        assert part.source is not None
        path, end = f"{self.sent.folder}/{file.name}", part.offset + part.size
        tag = self._tag_of(part.source)
        state.tags[number] = self._parts.copy_part(path, state.upload, number + 1, part.source, part.offset, end, tag)
        with self._change:
            self.tally.copied += part.size
        self.sent.touch()

    def _copy_whole(self, file: PlannedFile, source: str) -> None:
        path = f"{self.sent.folder}/{file.name}"
        if self._parts.size(path) != file.size:
            self._parts.copy(source, path, self._tag_of(source))
        with self._change:
            self.tally.copied += file.size

    def _fetch(self, file: PlannedFile, name: str, ranges: list[tuple[int, int]]) -> None:
        """Bring bytes that fill up parts which are sent."""
        origin, piece = self._origins[name], self._places[name][1]
        shift = origin.piece.begin - piece.begin
        if sum(end - begin for begin, end in ranges) == piece.size:
            begin, end = origin.piece.begin, origin.piece.end
            try:
                data = fetch_range(self._place, origin.path, begin, end, origin.piece.digest)
            except DamageError:
                if not origin.path.startswith(OUTSIDE):
                    raise
                raise not_as_digested(f"{self._place.url(origin.path)}: tensor {origin.piece.name!r}") from None
            self._fill(file, piece.begin, data)
        else:  # no digest tells of a fraction of a piece
            for begin, end in ranges:
                self._fill(file, begin, fetch_unknown(self._place, origin.path, begin + shift, end + shift))
        self._arrive(name)

    def _fill(self, file: PlannedFile, begin: int, data: bytes) -> None:
        descriptor = os.open(self.folder / file.name, os.O_RDWR)
        try:
            os.pwrite(descriptor, data, begin)
        finally:
            os.close(descriptor)
        with self._change:
            self.tally.fetched += len(data)

    def _complete(self, file: PlannedFile) -> None:
        state, path = self.sent.files[file.name], f"{self.sent.folder}/{file.name}"
        if state.parts and not state.complete:
            with contextlib.suppress(FileNotFoundError):  # the answer to an earlier request was lost
                self._assemble(path, state)
            state.complete = True
        if (size := self._parts.size(path)) != file.size:
            raise StoreError(f"{self._place.url(path)}: has {size} bytes instead of {file.size}; build again")
        self._tags[file.name] = self._parts.tag(path)

    def _assemble(self, path: str, state: SentFile) -> None:
        tags = [tag for tag in state.tags if tag is not None]
        try:
            self._parts.assemble(path, state.upload, tags)
        except StoreError:  # a tag was garbled on its way here
            there = self._parts.arrived(path, state.upload) or {}
            self._parts.assemble(
                path, state.upload, [there[n + 1][0] for n in range(len(state.parts)) if n + 1 in there]
            )

    # -- threads -----------------------------------------------------------------------------------------------------

    def _submit(self, task: Callable[..., None], *arguments: object) -> None:
        def run() -> None:
            if self._failure is not None:
                return
            try:
                task(*arguments)
            except BaseException as error:
                with self._change:
                    self._failure = self._failure or error
                    self._change.notify_all()

        with contextlib.suppress(RuntimeError):  # the pool is closed, because something failed
            self._futures.append(self._pool.submit(run))

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._work.check("sending what is built")
