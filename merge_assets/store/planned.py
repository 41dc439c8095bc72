"""What a version is going to hold, and which of it exists already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from merge_assets.records import Geometry
from merge_assets.store.manifest import Piece


@dataclass(frozen=True)
class PlannedPiece:
    """A piece that will be written.

    Attributes:
        name: unique in the version, not empty.
        begin: first byte in its file.
        end: one past the last byte.
        key: digest of what it is made from; equal keys mean equal bytes.
    """

    name: str
    begin: int
    end: int
    key: str

    @property
    def size(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True)
class PlannedFile:
    """A file of pieces that will be written.

    Attributes:
        name: relative to the version's folder.
        head: what stands before the first piece.
        pieces: one after the other, to the end of the file.
        sha256: of the whole file, if it is known.
    """

    name: str
    head: bytes
    pieces: tuple[PlannedPiece, ...]
    sha256: str | None = None

    @property
    def size(self) -> int:
        return self.pieces[-1].end if self.pieces else len(self.head)


@dataclass(frozen=True)
class Origin:
    """Where the bytes of a planned piece lie already.

    Attributes:
        path: of the file in the store, or outside of it.
        piece: the piece of that file.
        pieces: all pieces of that file.
        tag: what the place called the file's content when it was written, if it has such names.
        nonfinite: NaN and infinite elements of the piece, as they were counted when it was written.
        geometry: how the inputs lay to each other that it was made from, if that was found.
    """

    path: str
    piece: Piece
    pieces: tuple[Piece, ...]
    tag: str | None = None
    nonfinite: int = 0
    geometry: Geometry | None = None


@dataclass
class Tally:
    """What a build took from elsewhere, in bytes.

    Attributes:
        reused: taken from finished bytes of the store, or of models that its server reaches.
        linked: of these, by one more name of a file that is there.
        copied: of these, copied by the object store or the file system, without coming by here.
        resumed: finished by an earlier attempt of the same build.
        fetched: read from the object store.
        sent: written to the object store.
        by_server: pieces, not bytes, that the object store copied, but for what filled up parts.
    """

    reused: int = 0
    linked: int = 0
    copied: int = 0
    resumed: int = 0
    fetched: int = 0
    sent: int = 0
    by_server: int = 0


def is_whole(file: PlannedFile, origins: Mapping[str, Origin], head: str) -> str | None:
    """The path of a file of the store that is, byte for byte, what is planned; ``None`` if there is none.

    Args:
        file: what is planned.
        origins: by the name of the planned piece.
        head: digest of the planned file's head.
    """
    first = origins.get(file.pieces[0].name) if file.pieces else None
    if first is None or len(first.pieces) != len(file.pieces) + 1:
        return None
    front, *rest = first.pieces
    if (front.name, front.end, front.digest) != ("", len(file.head), head):
        return None
    for planned, there in zip(file.pieces, rest, strict=True):
        origin = origins.get(planned.name)
        if origin is None or (planned.begin, planned.end, origin.piece.digest) != (
            there.begin,
            there.end,
            there.digest,
        ):
            return None
    return first.path
