"""What builds into S3 are held against: the same bytes moved by the client alone, with the same requests and as many.

Nothing is computed or hashed. The ideal copy does not even keep the bytes: ranges are downloaded and forgotten, and parts of
one buffer are sent. Through a file, as copies from bucket to bucket do by way of a machine, what comes is written to it, and
what goes is read from it.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from inspect import signature
from itertools import accumulate
from typing import Any, Protocol

from merge_assets.store.cache import TensorCache
from merge_assets.store.cutting import Stretch, plan_parts
from merge_assets.store.fetching import CHUNK
from merge_assets.store.sending import SENDERS

FETCHERS: int = signature(TensorCache).parameters["fetchers"].default


class Client(Protocol):
    """Reads ranges and sends parts."""

    def read(self, key: str, begin: int, end: int) -> bytes: ...

    def call(self, method: str, **arguments: Any) -> Mapping[str, Any]: ...


class S3fs:
    """The client of the store."""

    def __init__(self, bucket: str, options: dict[str, Any]) -> None:
        import s3fs

        self._fs, self._bucket = s3fs.S3FileSystem(**options), bucket
        self._fs.retries = 1

    def read(self, key: str, begin: int, end: int) -> bytes:
        return bytes(self._fs.cat_file(f"{self._bucket}/{key}", start=begin, end=end))

    def call(self, method: str, **arguments: Any) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._fs.call_s3(method, Bucket=self._bucket, **arguments)
        return found


class Boto3:
    """Amazon's own client."""

    def __init__(self, bucket: str, options: dict[str, Any]) -> None:
        import boto3
        from botocore.config import Config

        credentials = {"aws_access_key_id": options["key"], "aws_secret_access_key": options["secret"]}
        config = Config(max_pool_connections=FETCHERS + SENDERS)
        self._client, self._bucket = (
            boto3.client("s3", config=config, **options["client_kwargs"], **credentials),
            bucket,
        )

    def read(self, key: str, begin: int, end: int) -> bytes:
        answer = self._client.get_object(Bucket=self._bucket, Key=key, Range=f"bytes={begin}-{end - 1}")
        return bytes(answer["Body"].read())

    def call(self, method: str, **arguments: Any) -> Mapping[str, Any]:
        found: Mapping[str, Any] = getattr(self._client, method)(Bucket=self._bucket, **arguments)
        return found


_CLIENTS: dict[str, Callable[[str, dict[str, Any]], Client]] = {"s3fs": S3fs, "boto3": Boto3}


def copy(
    client: str,
    bucket: str,
    options: dict[str, Any],
    sources: list[tuple[str, int]],
    down: bool,
    up: Sequence[int],
    folder: str = "",
) -> dict[str, Any]:
    """Download objects in chunks and upload others in parts.

    Where both are done a part is sent no sooner than its share of the input has come, as in a build.

    Args:
        client: ``s3fs`` or ``boto3``.
        bucket: of all objects.
        options: of the store.
        sources: keys and sizes of what is read.
        down: whether to download.
        up: sizes of the objects to upload.
        folder: of the file through which the bytes pass, no more of them up than down; if empty, they are forgotten.
    """
    ours = _CLIENTS[client](bucket, options)
    ours.call("list_objects_v2", MaxKeys=1)
    chunks = [(key, at, min(at + CHUNK, size)) for key, size in sources for at in range(0, size, CHUNK)] if down else []
    total, wanted = sum(end - begin for _, begin, end in chunks), sum(up)
    parts = [(number, run) for number, size in enumerate(up) for run in plan_parts([Stretch(0, size)])]
    buffer = os.urandom(max((run.size for _, run in parts), default=0))
    change, come = threading.Condition(), 0
    places = dict(zip(chunks, accumulate((end - begin for _, begin, end in chunks), initial=0), strict=False))
    file = tempfile.TemporaryFile(dir=folder) if folder else None  # noqa: SIM115 - it goes with this function

    def read(chunk: tuple[str, int, int]) -> None:
        nonlocal come
        try:
            data = ours.read(*chunk)
            if file is not None:
                os.pwrite(file.fileno(), data, places[chunk])
        finally:  # also after an error, which then is raised below: nobody may wait for ever
            with change:
                come += chunk[2] - chunk[1]
                change.notify_all()

    def send(number: int, part: int, run: Stretch, due: int) -> tuple[int, int, str]:
        with change:
            change.wait_for(lambda: come >= due)
        # The store makes bytes of its own of what it reads of a file, too.
        body = (
            bytes(memoryview(buffer)[: run.size]) if file is None else os.pread(file.fileno(), run.size, due - run.size)
        )
        answer = ours.call("upload_part", Key=f"copy/{number}", UploadId=uploads[number], PartNumber=part, Body=body)
        return number, part, str(answer["ETag"])

    began, cpu = time.perf_counter(), time.process_time()
    uploads = [str(ours.call("create_multipart_upload", Key=f"copy/{number}")["UploadId"]) for number in range(len(up))]
    with ThreadPoolExecutor(FETCHERS) as fetchers, ThreadPoolExecutor(SENDERS) as senders:
        reading = [fetchers.submit(read, chunk) for chunk in chunks]
        sending, done, counted = [], 0, [0] * len(up)
        for number, run in parts:
            done, counted[number] = done + run.size, counted[number] + 1
            sending.append(senders.submit(send, number, counted[number], run, total * done // wanted))
        for future in reading:
            future.result()
        sent = [future.result() for future in sending]
    for number, upload in enumerate(uploads):
        tags = [{"PartNumber": part, "ETag": tag} for which, part, tag in sent if which == number]
        ours.call("complete_multipart_upload", Key=f"copy/{number}", UploadId=upload, MultipartUpload={"Parts": tags})
    return {"wall": time.perf_counter() - began, "cpu": time.process_time() - cpu, "bytes": total + wanted}
