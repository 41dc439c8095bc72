"""Download the files of a commit into the Hub cache, stoppable and with progress."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from merge_assets.errors import Stopped
from merge_assets.hub.client import HubClient, SilentBar
from merge_assets.hub.revision import HubRevision
from merge_assets.work import Work

WORKERS = 4
"""Files downloaded at once."""

_POLL = 0.2  # seconds between two questions whether to stop
_GRACE = 1.0  # seconds that running transfers get to notice that they should stop


def download_files(client: HubClient, revision: HubRevision, names: Sequence[str], work: Work) -> list[Path]:
    """Fetch files that the cache does not have; returns their paths in order of ``names``.

    Files that are complete stay in the cache whatever happens to the others, so a second call continues with
    the files that are missing. ``work`` is told bytes, and asked, from the calling thread.

    Raises:
        HubError: the first failure of any file.
        Stopped: on request; transfers end at their next block.
    """
    meter = _Meter(sum(revision.files[name].size for name in names), str(revision))
    missing = [name for name in names if client.cached(revision, name) is None]
    meter.add(meter.total - sum(revision.files[name].size for name in missing))
    pool = ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="hub-download")
    pending: set[Future[Path]] = {pool.submit(client.fetch, revision, name, meter.bar()) for name in missing}
    try:
        while pending:
            work.check(f"downloading {revision}")
            done, pending = wait(pending, timeout=_POLL)
            for future in done:
                future.result()
            meter.tell(work)
    except BaseException:
        _abandon(meter, pool, pending)
        raise
    pool.shutdown()
    meter.tell(work)
    return [client.fetch(revision, name) for name in names]


def _abandon(meter: _Meter, pool: ThreadPoolExecutor, pending: set[Future[Path]]) -> None:
    meter.stopped.set()
    pool.shutdown(wait=False, cancel_futures=True)
    wait(pending, timeout=_GRACE)
    # Xet transfers run in native threads that do not see what a progress bar raises.
    xet = sys.modules.get("huggingface_hub.utils._xet")
    if xet is not None and any(future.running() for future in pending):
        xet.abort_xet_session()


class _Meter:
    """Bytes received by all transfers, and the flag that ends them."""

    def __init__(self, total: int, label: str) -> None:
        self.total = total
        self.stopped = threading.Event()
        self._label = label
        self._done = 0
        self._told = -1
        self._lock = threading.Lock()

    def add(self, received: int) -> None:
        with self._lock:
            self._done += received

    def tell(self, work: Work) -> None:
        """Report if anything was received since the last report."""
        if self._done != self._told:
            self._told = self._done
            work.report(min(self._told, self.total), self.total, self._label)

    def bar(self) -> type[SilentBar]:
        """A progress bar class that counts here; the client makes an instance per file."""
        meter = self

        class Bar(SilentBar):
            def update(self, received: int) -> None:
                meter.add(received)
                if meter.stopped.is_set():
                    raise Stopped("stopped while downloading")

        return Bar
