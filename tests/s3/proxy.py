"""A proxy before an S3 server that counts bytes and injects faults.

    with FaultProxy(rgw.url) as proxy:
        store = ArtifactStore("s3://models", rgw.options(proxy.url))
        proxy.inject("reset_body", 0.05, method="PUT", query="partNumber")
        ...
        assert proxy.injected()["reset_body"] > 0
        assert proxy.counts(method="GET").sent < 1000

It runs in a process of its own and moves several hundred MB/s. Requests are passed on byte for byte, the Host header too, so
that signatures stay valid.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.s3.faults import KINDS, Filter
from tests.s3.relay import Request


@dataclass(frozen=True)
class Counts:
    """Totals: requests, bytes of bodies from the client, bytes of bodies to the client."""

    requests: int
    received: int
    sent: int


class FaultProxy:
    """The proxy; runs while used as a context manager.

    What crossed the wire between client and proxy is counted: bodies only, chunk framing included, and what there was of
    bodies that were cut. ``status`` is what the client was told, 0 where it was told nothing.

    Args:
        upstream: URL of the server.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._lock = threading.Lock()

    def __enter__(self) -> FaultProxy:
        command = [sys.executable, "-m", "tests.s3.relay", self._upstream]
        self._process = subprocess.Popen(
            command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout
        self.url: str = json.loads(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def inject(
        self,
        kind: str,
        rate: float = 1.0,
        *,
        seed: int = 0,
        times: int | None = None,
        milliseconds: float = 100,
        method: str | None = None,
        path: str | None = None,
        query: str | None = None,
    ) -> None:
        """From now on inject faults; rules add up, but a request meets one of them only, and latency besides.

        Args:
            kind: one of ``KINDS`` in :mod:`tests.s3.faults`, which says what each does.
            rate: the share of requests that it hits, of those that match and that it could hit.
            seed: the same requests in the same order meet the same faults.
            times: how many at most.
            milliseconds: how long ``latency`` lasts.
            method: only requests with it.
            path: regular expression; only requests where it is found in ``/bucket/key``.
            query: the same for the query string: ``^$`` is plain objects, ``partNumber`` parts of uploads.
        """
        if kind not in KINDS:
            raise ValueError(f"{kind}: no kind of fault; there are {', '.join(KINDS)}")
        where = asdict(Filter(method, path, query))
        self._ask("inject", kind=kind, rate=rate, seed=seed, left=times, milliseconds=milliseconds, where=where)

    def clear(self) -> None:
        """From now on inject nothing."""
        self._ask("clear")

    def injected(self) -> dict[str, int]:
        """How many faults of each kind were really injected since the last reset."""
        found: dict[str, int] = self._ask("injected")
        return dict.fromkeys(KINDS, 0) | found

    def requests(
        self, *, method: str | None = None, path: str | None = None, query: str | None = None
    ) -> list[Request]:
        """The requests since the last reset in the order of their arrival, those under way too; filters as of inject."""
        where = Filter(method, path, query)
        found = (Request(**each) for each in self._ask("requests"))
        return [each for each in found if where.matches(each.method, each.path, each.query)]

    def counts(self, *, method: str | None = None, path: str | None = None, query: str | None = None) -> Counts:
        """Totals of :meth:`requests`."""
        found = self.requests(method=method, path=path, query=query)
        return Counts(len(found), sum(each.received for each in found), sum(each.sent for each in found))

    def reset(self) -> None:
        """Forget the requests and the injected faults so far; the rules stay."""
        self._ask("reset")

    def _ask(self, do: str, **arguments: Any) -> Any:
        with self._lock:
            assert self._process.stdin
            assert self._process.stdout
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())
