"""Looks at models at URLs from a sensor, whose tick Dagster ends after a minute.

A server that does not answer is asked again for longer than that. So each look has a thread of its own, and one that outlasts
its tick counts in a later one: it holds up neither the tick nor what is known of other models.
"""

import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from typing import TYPE_CHECKING

import dagster as dg

from merge_assets.errors import Stopped, StoreUnreachableError
from merge_assets.pipeline.nodes import ModelNode
from merge_assets.work import Work
from merge_assets.workspace import Workspace

if TYPE_CHECKING:
    from merge_assets.api.observe import Observation

_AT_ONCE = 4
_GRACE = 5.0
"""Seconds that a look which was told to stop takes to do so."""


class Looks:
    """Looks under way.

    Args:
        workspace: says how URLs are opened.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._free = threading.Semaphore(_AT_ONCE)
        self._under_way: dict[dg.AssetKey, Future[Observation]] = {}

    def start(self, nodes: Iterable[ModelNode], deadline: float) -> None:
        """Look at models, unless an earlier look goes on.

        Args:
            nodes: the models.
            deadline: when digesting ends, by the clock of :func:`time.monotonic`.
        """
        for node in nodes:
            if node.key not in self._under_way:
                future: Future[Observation] = Future()
                self._under_way[node.key] = future
                # Not a pool: a process does not end before the threads of a pool do.
                threading.Thread(target=self._look, args=(node, future, deadline), name="look", daemon=True).start()

    def result(self, node: ModelNode, deadline: float) -> "Observation":
        """What a look gave that was started.

        Raises:
            MergeAssetsError: the model cannot be read, or there is no answer yet.
            Stopped: it is there, and could not be digested by the deadline.
        """
        future = self._under_way[node.key]
        try:
            found = future.result(max(deadline + _GRACE - time.monotonic(), 0.0))
        except NotYet:
            if not future.done():
                raise StoreUnreachableError(
                    f"{node.reference}: there is no answer yet; check its URL, options and network"
                ) from None
            raise
        finally:
            if future.done():
                self._under_way.pop(node.key, None)
        return found

    def _look(self, node: ModelNode, future: "Future[Observation]", deadline: float) -> None:
        from merge_assets import api

        try:
            if not self._free.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
                raise Stopped("others are looked at first")
            try:
                work = Work(should_stop=lambda: time.monotonic() > deadline)
                future.set_result(api.observe(self._workspace, node.reference, work=work))
            finally:
                self._free.release()
        except BaseException as error:
            future.set_exception(error)
