"""A bucket on S3: ranges of objects are read and copied by the server, objects put together of parts.

All goes through s3fs, whose credentials, endpoint and settings are used as they are.
"""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, BinaryIO, cast

from merge_assets.errors import StoreError
from merge_assets.store.place.fsspec import FsspecPlace
from merge_assets.store.place.place import OUTSIDE, Parts, Place, Upload, written_over

_READ_AHEAD = 4 << 20
_CHANGED = ("PreconditionFailed", "412")
_REFUSED = frozenset(
    {
        *("AccessDenied", "AllAccessDisabled", "403", "MethodNotAllowed", "405", "NotImplemented", "501"),
        *("InvalidArgument", "InvalidRequest", "400", "NoSuchBucket", "NoSuchKey", "NoSuchUpload", "404"),
        *("PermanentRedirect", "301", "AuthorizationHeaderMalformed", "CrossLocationLoggingProhibited"),
    }
)
"""Answers to a request for a copy that say that this server does not make it, whoever asks how often."""


class S3Place(FsspecPlace, Parts):
    """Objects of a bucket, below a prefix."""

    largest_copy = 5 << 30

    def __init__(self, root: str, options: Mapping[str, Any]) -> None:
        super().__init__(root, options)
        self._fs.retries = 1  # of s3fs; botocore and this class try again, which is enough
        self.parts = self

    def read(self, path: str) -> bytes | None:
        try:
            # One request at a time: for several, s3fs first asks its cache of listings whether the file is there.
            return self._attempts.call("read", path, lambda: self._cat(path, max_concurrency=1))
        except FileNotFoundError:
            return None

    def open(self, path: str) -> BinaryIO:
        size = self.size(path)
        if size is None:
            raise StoreError(f"{self.url(path)}: is missing")
        return cast(BinaryIO, io.BufferedReader(_Ranges(self, path, size), _READ_AHEAD))

    def create(self, path: str, data: bytes) -> None:
        bucket, key = self._split(path)

        def put() -> None:
            try:
                self._fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
            except OSError as error:  # s3fs has no error of its own for this answer
                if _code(error) in _CHANGED:
                    raise FileExistsError(path) from None
                raise

        self._attempts.must("written", path, put)

    def _write_over(self, path: str, before: bytes, after: bytes) -> bool:
        bucket, key = self._split(path)
        tag = self.tag(path)
        if tag is None or self.read(path) != before:
            return False

        def put() -> bool:
            try:
                # Some servers know a tag only without its quotes.
                self._fs.call_s3("put_object", Bucket=bucket, Key=key, Body=after, IfMatch=tag)
            except OSError as error:
                if isinstance(error, FileNotFoundError) or _code(error) in _CHANGED:
                    return False
                raise
            return True

        return self._attempts.call("written", path, put) or self.read(path) == after

    def reached(self, other: Place, path: str) -> str | None:
        """Of another bucket, or another folder of this one, that is opened in exactly the same way."""
        if not isinstance(other, S3Place) or other._fs.storage_options != self._fs.storage_options:
            return None
        return f"{OUTSIDE}{other._at(path)}"

    def refusal(self, source: str, tag: str, scratch: str) -> str:
        upload = self.begin(scratch)
        try:
            part = {"UploadId": upload, "PartNumber": 1, "CopySourceRange": "bytes=0-0"}
            answer = self._copied("upload_part_copy", source, scratch, tag, **part)
        finally:
            self.abort(scratch, upload)
        if isinstance(answer, str):
            return answer
        if self.tag(source) != tag:  # not every server looks at a tag when it copies
            raise written_over(self.url(source), source)
        return ""

    def copy(self, source: str, target: str, tag: str | None = None) -> None:
        self._must_copy("copy_object", source, target, tag)

    def begin(self, path: str) -> str:
        return str(self._s3("written", path, "create_multipart_upload")["UploadId"])

    def put_part(self, path: str, upload: str, number: int, data: bytes) -> str:
        # The server compares the bytes with the digest in the request's signature or, over https, with their checksum.
        answer = self._s3("written", path, "upload_part", UploadId=upload, PartNumber=number, Body=data)
        return str(answer["ETag"]).strip('"')

    def copy_part(
        self, path: str, upload: str, number: int, source: str, begin: int, end: int, tag: str | None = None
    ) -> str:
        part = {"UploadId": upload, "PartNumber": number, "CopySourceRange": f"bytes={begin}-{end - 1}"}
        answer = self._must_copy("upload_part_copy", source, path, tag, **part)
        return str(answer["CopyPartResult"]["ETag"]).strip('"')

    def arrived(self, path: str, upload: str) -> dict[int, tuple[str, int]] | None:
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
        parts = [{"PartNumber": number, "ETag": f'"{tag}"'} for number, tag in enumerate(tags, 1)]
        self._s3("written", path, "complete_multipart_upload", UploadId=upload, MultipartUpload={"Parts": parts})

    def abort(self, path: str, upload: str) -> None:
        try:
            self._s3("removed", path, "abort_multipart_upload", UploadId=upload)
        except FileNotFoundError:
            return

    def uploads(self, path: str) -> list[Upload]:
        bucket, prefix = self._split(path)
        within = f"{prefix}/" if prefix else ""
        root = self._split("")[1]
        start = len(root) + 1 if root else 0
        found: list[Upload] = []
        marker: dict[str, str] = {}
        while True:
            ask = partial(self._fs.call_s3, "list_multipart_uploads", Bucket=bucket, Prefix=within, **marker)
            page = self._attempts.call("listed", path, ask)
            for one in page.get("Uploads", ()):
                found.append(Upload(str(one["Key"])[start:], str(one["UploadId"]), one["Initiated"]))
            if not page.get("IsTruncated"):
                return found
            marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def expiry(self, days: int, endpoint: str | None) -> tuple[dict[str, Any], str]:
        bucket, prefix = self._split("")
        rule = {
            "Rules": [
                {
                    "ID": "merge-assets-unfinished-uploads",
                    "Status": "Enabled",
                    "Filter": {"Prefix": f"{prefix}/" if prefix else ""},
                    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": days},
                }
            ]
        }
        command = (
            f"aws s3api put-bucket-lifecycle-configuration --bucket {shlex.quote(bucket)} "
            f"--lifecycle-configuration {shlex.quote(json.dumps(rule))}"
        )
        if endpoint:
            command += f" --endpoint-url {shlex.quote(endpoint)}"
        return rule, command

    def now(self) -> datetime:
        """The server's clock, up to a second ahead."""
        bucket, _, prefix = self._at("").partition("/")
        ask = partial(self._fs.call_s3, "list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
        try:
            answer = self._attempts.call("listed", "", ask)
        except FileNotFoundError:
            raise StoreError(
                f"{self.url('')}: there is no bucket {bucket!r}; create it, or correct the store"
            ) from None
        # The header leaves out fractions, which the times of files have: nothing may come from the future.
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]) + timedelta(seconds=1)

    def size(self, path: str) -> int | None:
        try:
            return int(self._s3("read", path, "head_object")["ContentLength"])
        except FileNotFoundError:
            return None

    def tag(self, path: str) -> str | None:
        try:
            return str(self._s3("read", path, "head_object")["ETag"]).strip('"')
        except FileNotFoundError:
            return None

    def _must_copy(self, method: str, source: str, target: str, tag: str | None, **arguments: Any) -> Mapping[str, Any]:
        answer = self._copied(method, source, target, tag, **arguments)
        if isinstance(answer, str):
            raise StoreError(f"{self.url(target)}: cannot be copied from {self.url(source)} by the server: {answer}")
        return answer

    def _copied(
        self, method: str, source: str, target: str, tag: str | None, **arguments: Any
    ) -> Mapping[str, Any] | str:
        """The answer to a request for a copy; what the server said where it refuses.

        Raises:
            StoreError: the source is gone, or is called otherwise than by the tag; InputError if it lies outside the store.
        """
        (bucket, key), (from_bucket, from_key) = self._split(target), self._split(source)
        condition = {"CopySourceIfMatch": tag} if tag else {}

        def ask() -> Mapping[str, Any] | OSError:
            try:
                answer = self._fs.call_s3(
                    method,
                    Bucket=bucket,
                    Key=key,
                    CopySource={"Bucket": from_bucket, "Key": from_key},
                    **condition,
                    **arguments,
                )
            except OSError as error:
                if _code(error) in (*_CHANGED, *_REFUSED):
                    return error
                raise
            return cast(Mapping[str, Any], answer)

        answer = self._attempts.call("copied", target, ask)
        if not isinstance(answer, OSError):
            return answer
        if _code(answer) in _CHANGED:
            raise written_over(self.url(source), source)
        if isinstance(answer, FileNotFoundError) and not source.startswith(OUTSIDE):
            raise StoreError(f"{self.url(source)}: was removed while it was copied; build again")
        return f"{_code(answer)}: {self._attempts.said(answer)}"

    def _at(self, path: str) -> str:
        return path.removeprefix(OUTSIDE) if path.startswith(OUTSIDE) else super()._at(path)

    def _split(self, path: str) -> tuple[str, str]:
        bucket, _, key = self._at(path).partition("/")
        return bucket, key

    def _s3(self, done: str, path: str, method: str, **arguments: Any) -> Mapping[str, Any]:
        bucket, key = self._split(path)

        def ask() -> Mapping[str, Any]:
            return cast(Mapping[str, Any], self._fs.call_s3(method, Bucket=bucket, Key=key, **arguments))

        return self._attempts.call(done, path, ask)


class _Ranges(io.RawIOBase):
    """A file read by ranges, each of which is asked for again if it does not come."""

    def __init__(self, place: S3Place, path: str, size: int) -> None:
        self._place, self._path, self._size, self._at = place, path, size, 0

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
        data = self._place.read_range(self._path, self._at, min(self._at + len(buffer), self._size))
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
