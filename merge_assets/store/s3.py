"""The store on S3: ranges of objects read and written, copied by the server, and uploads in parts.

All goes through s3fs, whose credentials, endpoint and settings are used as they are.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from merge_assets.errors import StoreError
from merge_assets.progress import ShouldStop
from merge_assets.store.building import Building
from merge_assets.store.manifest import Manifest
from merge_assets.store.names import is_version
from merge_assets.store.remote import RemoteBackend

_LOG = logging.getLogger(__name__)
LARGEST_COPY = 5 << 30
"""Bytes that S3 copies in one request at most."""

_READ_AHEAD = 4 << 20


@dataclass(frozen=True)
class Upload:
    """An upload in parts that was neither completed nor aborted."""

    path: str
    id: str
    begun: datetime


class S3Backend(RemoteBackend):
    """Versions in a bucket."""

    reuses = True

    def __init__(self, root: str, options: Mapping[str, Any], scratch: Path | None) -> None:
        super().__init__(root, options, scratch)
        self._fs.retries = 1  # of s3fs; botocore and this class try again, which is enough

    def building(
        self,
        folder: Path,
        line: str,
        key: str,
        should_stop: ShouldStop | None,
    ) -> tuple[Building, Callable[..., Manifest]]:
        from merge_assets.store.s3_building import S3Building
        from merge_assets.store.s3_progress import Progress

        ours = _OwnBuild(folder)
        progress = Progress.find(self, line, key, ours.read())
        ours.write(progress.build)
        building = S3Building(folder, self, progress, should_stop)
        return building, building.publish

    def settle_build(self, folder: Path, manifest: Manifest) -> None:
        from merge_assets.store.s3_progress import Progress

        build = _OwnBuild(folder).read()
        if build is None:
            return
        progress = Progress(self, manifest.line, build, manifest.key)
        try:
            versions = [name for name in self.folders(manifest.line) if is_version(name)]
            if build in {one.build for name in versions if (one := self.manifest(manifest.line, name))}:
                progress.forget()
            else:
                progress.discard()
        except StoreError as error:
            _LOG.warning("%s stays until `merge-assets store gc`: %s", self.url(progress.folder), error)

    def read(self, path: str) -> bytes | None:
        try:
            # One request at a time: for several, s3fs first asks its cache of listings whether the file is there.
            return cast(bytes, self._call("read", path, lambda: self._fs.cat_file(self._at(path), max_concurrency=1)))
        except FileNotFoundError:
            return None

    def open(self, path: str) -> BinaryIO:
        size = self.size(path)
        if size is None:
            raise StoreError(f"{self.url(path)}: is missing")
        return cast(BinaryIO, io.BufferedReader(_Ranges(self, path, size), _READ_AHEAD))

    def read_range(self, path: str, begin: int, end: int) -> bytes:
        """Bytes ``begin`` to ``end`` of a file.

        Raises:
            StoreError: if the file is missing or ends before, or the store cannot be reached.
        """

        def get() -> bytes:
            data = cast(bytes, self._fs.cat_file(self._at(path), start=begin, end=end))
            if len(data) != end - begin:
                raise OSError(f"{len(data)} bytes came instead of {end - begin}")
            return data

        return self._must(path, "read", get) if end > begin else b""

    def create(self, path: str, data: bytes) -> None:
        """Write a small file that must not exist; FileExistsError if it does."""
        bucket, key = self._split(path)

        def put() -> None:
            try:
                self._fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
            except OSError as error:  # s3fs has no error of its own for this answer
                if _code(error) in ("PreconditionFailed", "412"):
                    raise FileExistsError(path) from None
                raise

        self._must(path, "written", put)

    def copy(self, source: str, target: str) -> None:
        """Copy a file of at most :data:`LARGEST_COPY` bytes; the bytes do not come by here."""
        try:
            self._s3("copied", target, "copy_object", CopySource=self._source(source))
        except FileNotFoundError:
            raise self._vanished(source) from None

    def start(self, path: str) -> str:
        """Begin an upload in parts; returns its id."""
        return str(self._s3("written", path, "create_multipart_upload")["UploadId"])

    def put_part(self, path: str, upload: str, number: int, data: bytes) -> str:
        """Send one part; returns the server's tag of it.

        The server compares the bytes with the digest in the request's signature or, over https, with their checksum.
        """
        answer = self._s3("written", path, "upload_part", UploadId=upload, PartNumber=number, Body=data)
        return str(answer["ETag"]).strip('"')

    def copy_part(self, path: str, upload: str, number: int, source: str, begin: int, end: int) -> str:
        """Make bytes of a file one part; they do not come by here. Returns the server's tag of the part."""
        try:
            answer = self._s3(
                "copied",
                path,
                "upload_part_copy",
                UploadId=upload,
                PartNumber=number,
                CopySource=self._source(source),
                CopySourceRange=f"bytes={begin}-{end - 1}",
            )
        except FileNotFoundError:
            raise self._vanished(source) from None
        return str(answer["CopyPartResult"]["ETag"]).strip('"')

    def parts(self, path: str, upload: str) -> dict[int, tuple[str, int]] | None:
        """Parts that an upload has: number -> (tag, bytes); ``None`` if there is no such upload."""
        found: dict[int, tuple[str, int]] = {}
        marker = 0
        try:
            while True:
                page = self._s3("listed", path, "list_parts", UploadId=upload, PartNumberMarker=marker)
                for part in page.get("Parts", ()):
                    found[int(part["PartNumber"])] = (str(part["ETag"]).strip('"'), int(part["Size"]))
                if not page.get("IsTruncated"):
                    return found
                marker = int(page["NextPartNumberMarker"])
        except FileNotFoundError:
            return None

    def assemble(self, path: str, upload: str, tags: Sequence[str]) -> None:
        """Turn parts 1 to n, by their tags, into the file.

        Raises:
            FileNotFoundError: if there is no such upload, which is also so once it was completed.
        """
        parts = [{"PartNumber": number, "ETag": f'"{tag}"'} for number, tag in enumerate(tags, 1)]
        self._s3("written", path, "complete_multipart_upload", UploadId=upload, MultipartUpload={"Parts": parts})

    def abort(self, path: str, upload: str) -> None:
        """Remove an upload and its parts; nothing happens if it is gone."""
        try:
            self._s3("removed", path, "abort_multipart_upload", UploadId=upload)
        except FileNotFoundError:
            return

    def uploads(self, path: str) -> list[Upload]:
        """Uploads below ``path`` that were neither completed nor aborted."""
        bucket, prefix = self._split(path)
        within = f"{prefix}/" if prefix else ""
        root = self._split("")[1]
        start = len(root) + 1 if root else 0
        found: list[Upload] = []
        marker: dict[str, str] = {}
        while True:
            ask = partial(self._fs.call_s3, "list_multipart_uploads", Bucket=bucket, Prefix=within, **marker)
            page = self._call("listed", path, ask)
            for one in page.get("Uploads", ()):
                found.append(Upload(str(one["Key"])[start:], str(one["UploadId"]), one["Initiated"]))
            if not page.get("IsTruncated"):
                return found
            marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def now(self) -> datetime:
        """The server's clock, up to a second ahead."""
        bucket, _, prefix = self._at("").partition("/")
        ask = partial(self._fs.call_s3, "list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
        try:
            answer = self._call("listed", "", ask)
        except FileNotFoundError:
            raise StoreError(
                f"{self.url('')}: there is no bucket {bucket!r}; create it, or correct the store"
            ) from None
        # The header leaves out fractions, which the times of files have: nothing may come from the future.
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]) + timedelta(seconds=1)

    def size(self, path: str) -> int | None:
        """Bytes of a file, ``None`` if there is none."""
        try:
            return int(self._s3("read", path, "head_object")["ContentLength"])
        except FileNotFoundError:
            return None

    def _vanished(self, source: str) -> StoreError:
        return StoreError(f"{self.url(source)}: was removed while it was copied; build again")

    def _source(self, path: str) -> dict[str, str]:
        bucket, key = self._split(path)
        return {"Bucket": bucket, "Key": key}

    def _split(self, path: str) -> tuple[str, str]:
        bucket, _, key = self._at(path).partition("/")
        return bucket, key

    def _s3(self, done: str, path: str, method: str, **arguments: Any) -> Mapping[str, Any]:
        bucket, key = self._split(path)

        def ask() -> Mapping[str, Any]:
            return cast(Mapping[str, Any], self._fs.call_s3(method, Bucket=bucket, Key=key, **arguments))

        return self._call(done, path, ask)


class _OwnBuild:
    """The name of the build in the bucket that a draft's builders work on, kept beside the draft's content."""

    def __init__(self, folder: Path) -> None:
        self._path = folder.with_name("build")

    def read(self) -> str | None:
        return self._path.read_text() if self._path.exists() else None

    def write(self, build: str) -> None:
        """All of it or nothing: with half a name, what is in the bucket would be found again by nobody."""
        temporary = self._path.with_name("build.new")
        temporary.write_text(build)
        temporary.replace(self._path)


class _Ranges(io.RawIOBase):
    """A file read by ranges, each of which is asked for again if it does not come."""

    def __init__(self, backend: S3Backend, path: str, size: int) -> None:
        self._backend, self._path, self._size, self._at = backend, path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._backend.read_range(self._path, self._at, min(self._at + len(buffer), self._size))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _code(error: BaseException | None) -> str:
    """S3's name for what went wrong, from the answer that an error was made of."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__ or error.__context__
    return ""
