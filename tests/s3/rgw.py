"""A real S3 server on loopback: Ceph's RADOS gateway with a monitor and one object store of its own.

    with Rgw() as rgw:
        bucket = rgw.bucket("models")
        ArtifactStore(f"s3://{bucket}", rgw.options())

Needs Debian's ``radosgw ceph-mon ceph-osd ceph-common``, no root and no systemd; is up within ten seconds or so. The data
lies in a temporary folder (a sparse file of up to 24 GiB) and is gone at the end, together with the three daemons, even
when this process is killed. Tests take the fixtures ``rgw`` (one server for the session, started by whoever asks first)
and ``bucket`` (a fresh bucket's name).

By hand, until Ctrl-C: ``python -m tests.s3.rgw``
"""

from __future__ import annotations

import itertools
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests import needs

PROGRAMS = {
    "ceph-mon": "ceph-mon",
    "ceph-osd": "ceph-osd",
    "radosgw": "radosgw",
    "ceph": "ceph-common",
    "radosgw-admin": "ceph-common",
}
"""The programs and Debian's packages with them."""
REGION = "us-east-1"
_BOUND = ["setpriv", "--pdeathsig", "KILL"]
"""Before a command: the kernel kills it when the thread that started it ends, however it ends."""
PATIENCE = 120.0
"""Seconds that a daemon may take to come up; a loaded machine takes many times what an idle one takes."""

# No authentication between the daemons needs `ms mon client mode = crc`. One copy of everything, few placement groups.
# The monitor collects changes for a second before it agrees on them with itself: that would be most of the start.
# Before a bucket is made, a gateway tells all others, and waits for the killed one until its watch ends: by default 30 s.
# The tick is how often the living renew theirs.
# What is deleted is really deleted soon, for the disk's sake; by default it stays for two hours.
_CONFIG = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_port}/0]
mon initial members = a
public addr = 127.0.0.1
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
ms bind ipv6 = false
auth cluster required = none
auth service required = none
auth client required = none
auth supported = none
ms mon client mode = crc
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = bluestore
osd client watch timeout = 4
objecter tick interval = 1
osd memory target = 939524096
bluestore block create = true
bluestore block size = 25769803776
paxos propose interval = 0.02
paxos min wait = 0.01
mon data = {folder}/mon
osd data = {folder}/osd
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
crash dir = {folder}
[mon]
mon cluster log file = {folder}/cluster.log
mon data avail warn = 2
mon data avail crit = 1
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw data = {folder}/rgw
rgw gc obj min wait = 30
rgw gc processor period = 30
rgw gc processor max time = 30
"""


def missing_packages() -> list[str]:
    """Names of the Debian packages that this machine lacks."""
    return sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})


def require_packages() -> None:
    """Without them the test that asks fails where CI is set, and is skipped elsewhere."""
    needs.module("boto3")
    if missing := missing_packages():
        needs.refuse(f"no S3 server on this machine; apt-get install --no-install-recommends {' '.join(missing)}")


class Rgw:
    """The server; runs while used as a context manager.

    Args:
        folder: where the folder with its data is made; short, since the daemons' sockets lie there. Default: the
            system's folder for temporary files.

    Raises:
        RuntimeError: when a daemon does not come up, with the end of what it said. Nothing is left behind then.
    """

    key = "test-key"
    secret = "test-secret-of-the-loopback-server"

    def __init__(self, folder: Path | None = None) -> None:
        self._parent = folder
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        # The kernel ends a bound process with the thread that started it, so that is one that lives as long as this.
        self._starter = ThreadPoolExecutor(1)
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Rgw:
        self.folder = Path(tempfile.mkdtemp(prefix="merge-assets-rgw-", dir=self._parent))
        try:
            self._start_cluster()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._daemons):
            self._kill(name)
        self._starter.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start the gateway; returns when it answers."""
        self._launch("client.rgw", ["radosgw", "-n", "client.rgw"])
        self._wait("client.rgw", self._answers)

    def stop(self) -> None:
        """An outage: the gateway is killed, connections break, further ones are refused. What was stored stays."""
        self._kill("client.rgw")

    def bucket(self, name: str) -> str:
        """Create a bucket; returns its name."""
        self.client().create_bucket(Bucket=name)
        return name

    def keys(self, bucket: str) -> set[str]:
        """Names of the objects that a bucket has."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return {each["Key"] for page in pages for each in page.get("Contents", [])}

    def empty(self, bucket: str) -> None:
        """Delete what a bucket has, unfinished uploads too."""
        client = self.client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            if found := [{"Key": each["Key"]} for each in page.get("Contents", [])]:
                client.delete_objects(Bucket=bucket, Delete={"Objects": found})
        for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
            for each in page.get("Uploads", []):
                client.abort_multipart_upload(Bucket=bucket, Key=each["Key"], UploadId=each["UploadId"])

    def client(self, url: str | None = None, **config: Any) -> Any:
        """A boto3 client, of this server or of a proxy before it; ``config`` goes to botocore's ``Config``."""
        boto3, botocore = needs.module("boto3"), needs.module("botocore.config")
        return boto3.client(
            "s3",
            endpoint_url=url or self.url,
            region_name=REGION,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            config=botocore.Config(**config),
        )

    def options(self, url: str | None = None) -> dict[str, Any]:
        """Arguments of ``s3fs.S3FileSystem``, hence options of a store, for this server or for a proxy before it."""
        return {
            "key": self.key,
            "secret": self.secret,
            "client_kwargs": {"endpoint_url": url or self.url, "region_name": REGION},
        }

    def environment(self, url: str | None = None) -> dict[str, str]:
        """The usual environment variables of S3 clients, for this server or for a proxy before it."""
        return {
            "AWS_ENDPOINT_URL": url or self.url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": REGION,
        }

    def _start_cluster(self) -> None:
        for name in ("mon", "osd", "rgw"):
            (self.folder / name).mkdir()
        fsid, disk, mon_port = uuid.uuid4(), uuid.uuid4(), _free_port()
        text = _CONFIG.format(fsid=fsid, folder=self.folder, mon_port=mon_port, port=self.port)
        (self.folder / "ceph.conf").write_text(text)
        monitors = self.folder / "monmap"
        self._run("monmaptool", "--create", "--addv", "a", f"[v2:127.0.0.1:{mon_port}/0]", "--fsid", fsid, monitors)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monitors)
        self._launch("mon.a", ["ceph-mon", "-i", "a"])
        formatting = self._launch("mkfs", ["ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk, "--monmap", monitors])
        self._run("ceph", "osd", "new", disk)
        self._run("ceph", "osd", "crush", "add", "osd.0", "1.0", "host=h", "root=default")
        if formatting.wait(PATIENCE) != 0:
            raise RuntimeError(self._report("mkfs"))
        del self._daemons["mkfs"]
        self._launch("osd.0", ["ceph-osd", "-i", "0"])
        user = ["--uid=test", "--display-name=test", f"--access-key={self.key}", f"--secret-key={self.secret}"]
        self._run("radosgw-admin", "-n", "client.rgw", "user", "create", *user)

    def _launch(self, name: str, command: list[Any]) -> subprocess.Popen[bytes]:
        arguments = [*_BOUND, *map(str, command), "-f", "-c", str(self.folder / "ceph.conf")]
        with (self.folder / f"{name}.out").open("ab") as out:
            start = self._starter.submit(subprocess.Popen, arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            self._daemons[name] = start.result()
        return self._daemons[name]

    def _kill(self, name: str) -> None:
        daemon = self._daemons.pop(name)
        daemon.kill()
        daemon.wait()

    def _run(self, program: str, *arguments: object) -> None:
        """Run a command to its end; it waits for ever for a server that is not there, so that is watched here."""
        command = [*_BOUND, program, "-c", str(self.folder / "ceph.conf"), *map(str, arguments)]
        deadline = time.monotonic() + PATIENCE
        start = self._starter.submit(
            subprocess.Popen, command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        process = start.result()
        try:
            while process.poll() is None:
                for name, daemon in self._daemons.items():
                    if daemon.poll() or time.monotonic() > deadline:
                        raise RuntimeError(f"{program} waits in vain\n{self._report(name)}")
                time.sleep(0.02)
            _, said = process.communicate()
        finally:
            process.kill()
            process.wait()
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {said.strip()[-2000:]}\n{self._logs()}")

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not ready():
            if self._daemons[name].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self._report(name))
            time.sleep(0.05)

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return connection.recv(12) == b"HTTP/1.1 200"
        return False

    def _report(self, name: str) -> str:
        code = self._daemons[name].poll()
        state = f"not up after {PATIENCE:.0f} s" if code is None else f"ended with code {code}"
        return f"{name}: {state}\n{self._logs()}"

    def _logs(self) -> str:
        """The end of what the daemons said, without the thousands of lines that they add when they crash."""
        files = sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])
        said = {path.name: path.read_text(errors="replace").partition("--- begin dump of recent")[0] for path in files}
        return "\n".join(f"--- {name}\n{text[-3000:]}" for name, text in said.items() if text)


def _free_port() -> int:
    """A port nobody listens on, below those that outgoing connections get: during an outage it must stay free."""
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@pytest.fixture(scope="session")
def rgw() -> Iterator[Rgw]:
    """One server for all tests of the session."""
    require_packages()
    with Rgw() as server:
        yield server


_numbers = itertools.count(1)


@pytest.fixture
def bucket(rgw: Rgw) -> Iterator[str]:
    """Name of a new bucket; what the test puts into it is deleted after the test."""
    name = rgw.bucket(f"bucket-{next(_numbers)}")
    yield name
    rgw.empty(name)


def main() -> None:
    """Run a server until Ctrl-C."""
    if missing := missing_packages():
        raise SystemExit(f"apt-get install --no-install-recommends {' '.join(missing)}")
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts what runs in the background with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    with suppress(KeyboardInterrupt), Rgw() as server:
        print(f"url     {server.url}\nkey     {server.key}\nsecret  {server.secret}\nlogs    {server.folder}\n")
        for name, value in server.environment().items():
            print(f"export {name}={value}")
        print("\nCtrl-C stops it and removes the data.", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
