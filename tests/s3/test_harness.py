"""The S3 server and the proxy that other tests stand on do what those tests take for granted.

The server: ranges, multipart uploads that can be listed, copied into and aborted, conditional puts, survival of an outage.
The proxy: changes nothing of its own, counts the bytes of bodies exactly, and breaks what it is told to, repeatably.
"""

from __future__ import annotations

import hashlib
import http.client
import http.server
import io
import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests import needs
from tests.s3 import rgw as rgw_module
from tests.s3.faults import KINDS
from tests.s3.proxy import Counts, FaultProxy
from tests.s3.rgw import Rgw

s3fs = needs.module("s3fs")
exceptions = needs.module("botocore.exceptions")

MIB = 1 << 20
DATA = random.Random(1).randbytes(5 * MIB)
SMALL = DATA[:100_000]


@pytest.fixture(scope="module")
def standing(rgw: Rgw) -> Iterator[FaultProxy]:
    with FaultProxy(rgw.url) as proxy:
        yield proxy


@pytest.fixture
def proxy(standing: FaultProxy) -> FaultProxy:
    standing.clear()
    standing.reset()
    return standing


def once(client: Any) -> Callable[..., Any]:
    """Calls of a client that does not try again, with the error's code or name instead of an exception."""

    def call(name: str, **arguments: Any) -> Any:
        try:
            return getattr(client, name)(**arguments)
        except exceptions.ClientError as error:
            return error.response["Error"]["Code"]
        except exceptions.BotoCoreError as error:
            return type(error).__name__

    return call


def impatient(rgw: Rgw, url: str | None = None) -> Callable[..., Any]:
    return once(rgw.client(url, retries={"max_attempts": 0}))


def get(url: str) -> tuple[int, bytes, str | None]:
    """A GET by hand: status, the body as far as it came, and what ended it if not its end."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    connection.request("GET", f"{parts.path}?{parts.query}")
    answer = connection.getresponse()
    body = b""
    try:
        while more := answer.read1(1 << 16):
            body += more
        expected = int(answer.headers["Content-Length"])
        return answer.status, body, None if len(body) == expected else "end"
    except http.client.IncompleteRead:
        return answer.status, body, "end"
    except ConnectionResetError:
        return answer.status, body, "reset"
    finally:
        connection.close()


def signed(rgw: Rgw, proxy: FaultProxy, bucket: str, name: str) -> str:
    """A URL that anybody may GET, through the proxy."""
    return rgw.client(proxy.url).generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": name})


# The server


def test_a_range_of_an_object_can_be_read(rgw: Rgw, bucket: str) -> None:
    client = rgw.client()
    client.put_object(Bucket=bucket, Key="a b/ü", Body=SMALL)
    answer = client.get_object(Bucket=bucket, Key="a b/ü", Range="bytes=10-19")
    assert (answer["ContentRange"], answer["Body"].read()) == ("bytes 10-19/100000", SMALL[10:20])
    assert [each["Key"] for each in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["a b/ü"]


def test_an_upload_of_parts_sent_and_copied_can_be_listed_and_completed(rgw: Rgw, bucket: str) -> None:
    client = rgw.client()
    client.put_object(Bucket=bucket, Key="source", Body=DATA + SMALL)
    upload = client.create_multipart_upload(Bucket=bucket, Key="made")["UploadId"]
    at = {"Bucket": bucket, "Key": "made", "UploadId": upload}
    tags = [
        client.upload_part(**at, PartNumber=1, Body=DATA)["ETag"].strip('"'),
        client.upload_part_copy(
            **at,
            PartNumber=2,
            CopySource={"Bucket": bucket, "Key": "source"},
            CopySourceRange=f"bytes={len(SMALL)}-{len(SMALL) + len(DATA) - 1}",
        )["CopyPartResult"]["ETag"].strip('"'),  # Ceph 16 gives it without quotes, S3 with
    ]
    assert [each["UploadId"] for each in client.list_multipart_uploads(Bucket=bucket)["Uploads"]] == [upload]
    listed = client.list_parts(**at)["Parts"]
    assert [(each["ETag"].strip('"'), each["Size"]) for each in listed] == [(tag, len(DATA)) for tag in tags]
    assert tags[0] == hashlib.md5(DATA).hexdigest()
    assert [each["Key"] for each in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["source"]

    parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
    client.complete_multipart_upload(**at, MultipartUpload={"Parts": parts})
    assert client.get_object(Bucket=bucket, Key="made")["Body"].read() == DATA + (DATA + SMALL)[len(SMALL) :]


def test_an_aborted_upload_is_gone(rgw: Rgw, bucket: str) -> None:
    client = rgw.client()
    upload = client.create_multipart_upload(Bucket=bucket, Key="made")["UploadId"]
    client.upload_part(Bucket=bucket, Key="made", UploadId=upload, PartNumber=1, Body=DATA)
    client.abort_multipart_upload(Bucket=bucket, Key="made", UploadId=upload)
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)
    # S3 says NoSuchUpload, Ceph 16 NoSuchKey.
    assert impatient(rgw)("list_parts", Bucket=bucket, Key="made", UploadId=upload) in ("NoSuchUpload", "NoSuchKey")


def test_of_eight_who_put_if_absent_one_wins(rgw: Rgw, bucket: str) -> None:
    call = impatient(rgw)

    def put(number: int) -> Any:
        return call("put_object", Bucket=bucket, Key="m.json", Body=b"%d" % number, IfNoneMatch="*")

    with ThreadPoolExecutor(8) as racers:
        answers = list(racers.map(put, range(8)))
    winners = [number for number, answer in enumerate(answers) if isinstance(answer, dict)]
    assert len(winners) == 1
    assert answers.count("PreconditionFailed") == 7
    assert rgw.client().get_object(Bucket=bucket, Key="m.json")["Body"].read() == b"%d" % winners[0]


def test_what_was_stored_survives_an_outage(rgw: Rgw, bucket: str) -> None:
    client, call = rgw.client(), impatient(rgw)
    client.put_object(Bucket=bucket, Key="kept", Body=SMALL)
    upload = client.create_multipart_upload(Bucket=bucket, Key="half")["UploadId"]
    at = {"Bucket": bucket, "Key": "half", "UploadId": upload}
    tag = client.upload_part(**at, PartNumber=1, Body=DATA)["ETag"]
    rgw.stop()
    try:
        assert call("get_object", Bucket=bucket, Key="kept") == "EndpointConnectionError"
    finally:
        rgw.start()
    assert client.get_object(Bucket=bucket, Key="kept")["Body"].read() == SMALL
    client.complete_multipart_upload(**at, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": tag}]})
    assert client.head_object(Bucket=bucket, Key="half")["ContentLength"] == len(DATA)


def test_a_server_that_does_not_come_up_is_explained_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgw_module.require_packages()
    too_small = rgw_module._CONFIG.replace("bluestore block size = 25769803776", "bluestore block size = 4096")
    monkeypatch.setattr(rgw_module, "_CONFIG", too_small)
    server = Rgw(tmp_path)
    with (
        pytest.raises(RuntimeError, match=r"mkfs: ended with code -?\d+\n(.*\n)*--- mkfs.out\n(.*\n)*.*BlueStore"),
        server,
    ):
        pass
    assert list(tmp_path.iterdir()) == []
    assert not [each for each in Path("/proc").glob("[0-9]*/cmdline") if _mentions(each, str(tmp_path))]


def _mentions(path: Path, text: str) -> bool:
    try:
        return text in path.read_text(errors="replace")
    except OSError:
        return False  # the process has ended


# What the proxy counts


def test_the_proxy_counts_the_bytes_of_bodies(rgw: Rgw, proxy: FaultProxy, bucket: str) -> None:
    client = rgw.client(proxy.url)
    client.put_object(Bucket=bucket, Key="a b/ü", Body=DATA)
    assert client.get_object(Bucket=bucket, Key="a b/ü", Range="bytes=7-1006")["Body"].read() == DATA[7:1007]
    client.head_object(Bucket=bucket, Key="a b/ü")
    impatient(rgw, proxy.url)("get_object", Bucket=bucket, Key="none")
    path = f"/{bucket}/a b/ü"
    seen = [(each.method, each.path, each.range, each.status, each.received) for each in proxy.requests()]
    assert seen == [
        ("PUT", path, None, 200, len(DATA)),
        ("GET", path, "bytes=7-1006", 206, 0),
        ("HEAD", path, None, 200, 0),
        ("GET", f"/{bucket}/none", None, 404, 0),
    ]
    assert proxy.counts(path="ü$") == Counts(requests=3, received=len(DATA), sent=1000)
    assert proxy.counts(method="GET", path="none").sent > 0  # the error's text
    proxy.reset()
    assert proxy.counts() == Counts(0, 0, 0)


def test_copies_on_the_server_move_no_weights_through_the_proxy(rgw: Rgw, proxy: FaultProxy, bucket: str) -> None:
    rgw.client().put_object(Bucket=bucket, Key="source", Body=DATA)
    rgw.client(proxy.url).copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "source"})
    counts = proxy.counts()
    assert counts.received == 0
    assert 0 < counts.sent < 1000
    assert rgw.client().head_object(Bucket=bucket, Key="copy")["ContentLength"] == len(DATA)


def test_s3fs_works_through_the_proxy_with_many_connections(rgw: Rgw, proxy: FaultProxy, bucket: str) -> None:
    system = s3fs.S3FileSystem(**rgw.options(proxy.url), skip_instance_cache=True)
    with system.open(f"{bucket}/big", "wb", block_size=5 * MIB) as file:
        file.write(DATA * 3)
    begins = range(0, 3 * len(DATA), MIB)
    pieces = system.cat_ranges([f"{bucket}/big"] * len(begins), list(begins), [begin + MIB for begin in begins])
    assert b"".join(pieces) == DATA * 3
    assert proxy.counts(method="PUT", query="partNumber").received == 3 * len(DATA)
    assert proxy.counts(method="GET", query="^$").sent == 3 * len(DATA)


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers a body that came in chunks with the same body in one chunk."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))


@pytest.fixture
def echo() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_bodies_in_chunks_pass_and_their_framing_counts(echo: str) -> None:
    with FaultProxy(echo) as proxy:
        connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=30)
        for _ in range(2):
            connection.request("POST", "/", body=iter([SMALL[:1000], SMALL[1000:]]), encode_chunked=True)
            assert connection.getresponse().read() == SMALL
        connection.close()
        framing = [len("3e8\r\n\r\n") + len("182b8\r\n\r\n") + len("0\r\n\r\n"), len("186a0\r\n\r\n0\r\n\r\n")]
        counted = [(each.received - len(SMALL), each.sent - len(SMALL)) for each in proxy.requests()]
        assert counted == [tuple(framing)] * 2


def test_a_client_that_waits_for_leave_to_send_its_body_gets_it(rgw: Rgw, proxy: FaultProxy, bucket: str) -> None:
    """botocore sends ``Expect: 100-continue`` with what it reads from a file."""
    rgw.client(proxy.url).put_object(Bucket=bucket, Key="x", Body=io.BytesIO(DATA))
    assert proxy.counts() == Counts(1, len(DATA), 0)
    proxy.inject("slowdown", times=1)
    call = impatient(rgw, proxy.url)
    assert call("put_object", Bucket=bucket, Key="x", Body=io.BytesIO(DATA)) == "SlowDown"
    assert proxy.requests()[1].received == 0
    assert isinstance(call("put_object", Bucket=bucket, Key="x", Body=io.BytesIO(DATA)), dict)


# What the proxy breaks


@pytest.mark.parametrize(
    ("kind", "code", "status"),
    [("error500", "InternalError", 500), ("error503", "ServiceUnavailable", 503), ("slowdown", "SlowDown", 503)],
)
def test_an_error_is_answered_and_nothing_done(
    rgw: Rgw, proxy: FaultProxy, bucket: str, kind: str, code: str, status: int
) -> None:
    proxy.inject(kind, times=1)
    call = impatient(rgw, proxy.url)
    assert call("put_object", Bucket=bucket, Key="x", Body=SMALL) == code
    assert "Contents" not in call("list_objects_v2", Bucket=bucket)
    assert [(each.status, each.fault) for each in proxy.requests()] == [(status, kind), (200, None)]


def test_a_reset_before_leaves_nothing_done(rgw: Rgw, proxy: FaultProxy, bucket: str) -> None:
    proxy.inject("reset_before", times=1)
    call = impatient(rgw, proxy.url)
    assert call("put_object", Bucket=bucket, Key="x", Body=SMALL) == "ConnectionClosedError"
    assert "Contents" not in call("list_objects_v2", Bucket=bucket)


def test_a_reset_after_leaves_it_done(rgw: Rgw, proxy: FaultProxy, bucket: str) -> None:
    proxy.inject("reset_after", times=1)
    call = impatient(rgw, proxy.url)
    assert call("put_object", Bucket=bucket, Key="x", Body=SMALL) == "ConnectionClosedError"
    assert call("get_object", Bucket=bucket, Key="x")["Body"].read() == SMALL
    assert proxy.requests()[0].status == 0


def test_a_reset_inside_an_upload_stores_nothing(rgw: Rgw, proxy: FaultProxy, bucket: str) -> None:
    proxy.inject("reset_body", times=1)
    call = impatient(rgw, proxy.url)
    assert call("put_object", Bucket=bucket, Key="x", Body=DATA) == "ConnectionClosedError"
    assert "Contents" not in call("list_objects_v2", Bucket=bucket)
    assert 0 < proxy.requests()[0].received < len(DATA)


@pytest.mark.parametrize(("kind", "ended"), [("reset_body", "reset"), ("truncate", "end")])
def test_an_answer_is_cut_and_what_came_is_counted(
    rgw: Rgw, proxy: FaultProxy, bucket: str, kind: str, ended: str
) -> None:
    rgw.client().put_object(Bucket=bucket, Key="x", Body=DATA)
    url = signed(rgw, proxy, bucket, "x")
    proxy.inject(kind)
    for _ in range(5):
        status, body, end = get(url)
        assert (status, end) == (200, ended)
        assert DATA.startswith(body)
        assert len(body) == proxy.requests()[-1].sent < len(DATA)
    assert len({each.sent for each in proxy.requests()}) == 5
    assert proxy.injected()[kind] == 5


def test_one_bit_of_an_answer_is_flipped(rgw: Rgw, proxy: FaultProxy, bucket: str) -> None:
    rgw.client().put_object(Bucket=bucket, Key="x", Body=DATA)
    proxy.inject("flip", times=1)
    answer = rgw.client(proxy.url, response_checksum_validation="when_required").get_object(Bucket=bucket, Key="x")
    assert answer["ETag"].strip('"') == hashlib.md5(DATA).hexdigest()
    assert _bits_apart(answer["Body"].read(), DATA) == 1
    assert impatient(rgw, proxy.url)("get_object", Bucket=bucket, Key="x")["Body"].read() == DATA


def test_one_bit_of_an_upload_is_flipped_and_the_server_notices(rgw: Rgw, proxy: FaultProxy, bucket: str) -> None:
    proxy.inject("flip_upload", times=1)
    call = impatient(rgw, proxy.url)
    assert call("put_object", Bucket=bucket, Key="x", Body=DATA) == "XAmzContentSHA256Mismatch"
    assert "Contents" not in call("list_objects_v2", Bucket=bucket)


def test_without_a_signature_of_the_content_a_flipped_upload_is_stored(
    rgw: Rgw, proxy: FaultProxy, bucket: str
) -> None:
    url = urlsplit(rgw.client(proxy.url).generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "x"}))
    proxy.inject("flip_upload", times=1)
    connection = http.client.HTTPConnection(url.netloc, timeout=30)
    connection.request("PUT", f"{url.path}?{url.query}", body=SMALL)
    assert connection.getresponse().status == 200
    stored = rgw.client().get_object(Bucket=bucket, Key="x")["Body"].read()
    assert _bits_apart(stored, SMALL) == 1


def _bits_apart(a: bytes, b: bytes) -> int:
    assert len(a) == len(b)
    return (int.from_bytes(a) ^ int.from_bytes(b)).bit_count()


def test_latency_comes_on_top_of_another_fault(rgw: Rgw, proxy: FaultProxy, bucket: str) -> None:
    proxy.inject("latency", milliseconds=1)
    proxy.inject("error500", times=1)
    call = impatient(rgw, proxy.url)
    assert call("list_objects_v2", Bucket=bucket) == "InternalError"
    assert isinstance(call("list_objects_v2", Bucket=bucket), dict)
    assert [each.fault for each in proxy.requests()] == ["latency+error500", "latency"]


def test_faults_hit_what_they_are_told_to(rgw: Rgw, proxy: FaultProxy, bucket: str) -> None:
    proxy.inject("error500", method="PUT", path=r"\.json$")
    call = impatient(rgw, proxy.url)
    assert isinstance(call("put_object", Bucket=bucket, Key="a.bin", Body=b"1"), dict)
    assert call("put_object", Bucket=bucket, Key="a.json", Body=b"1") == "InternalError"
    assert call("get_object", Bucket=bucket, Key="a.json") == "NoSuchKey"
    proxy.clear()
    assert isinstance(call("put_object", Bucket=bucket, Key="a.json", Body=b"1"), dict)
    assert proxy.injected() == dict.fromkeys(KINDS, 0) | {"error500": 1}


def test_the_same_requests_meet_the_same_faults(rgw: Rgw, bucket: str) -> None:
    rgw.client().put_object(Bucket=bucket, Key="x", Body=SMALL)

    def faults(seed: int) -> list[tuple[str | None, int]]:
        with FaultProxy(rgw.url) as proxy:
            url = signed(rgw, proxy, bucket, "x")
            for kind in ("error500", "truncate", "flip"):
                proxy.inject(kind, 0.2, seed=seed)
            for _ in range(40):
                get(url)
            assert sum(proxy.injected().values()) == sum(each.fault is not None for each in proxy.requests())
            return [(each.fault, each.sent) for each in proxy.requests()]

    first = faults(1)
    assert {kind for kind, _ in first} == {None, "error500", "truncate", "flip"}
    assert faults(1) == first
    assert faults(2) != first


def test_during_an_outage_the_proxy_resets(rgw: Rgw, proxy: FaultProxy, bucket: str) -> None:
    call = impatient(rgw, proxy.url)
    assert isinstance(call("list_objects_v2", Bucket=bucket), dict)
    rgw.stop()
    try:
        assert call("list_objects_v2", Bucket=bucket) == "ConnectionClosedError"
    finally:
        with ThreadPoolExecutor(1) as thread:  # whose end is not the server's
            thread.submit(rgw.start).result()
    assert isinstance(call("list_objects_v2", Bucket=bucket), dict)


def test_the_proxy_ends_with_the_process_that_started_it() -> None:
    proxy = FaultProxy("http://127.0.0.1:1")
    with proxy:
        identity = proxy._process.pid
        os.kill(identity, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(identity, 0)
