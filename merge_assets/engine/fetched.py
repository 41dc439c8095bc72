"""Inputs that lie in an object store: fetched ahead of their use, checked, and read from local files like any other.

A thread walks through the outputs in the order in which they are computed and has their inputs fetched, a bounded number
of bytes ahead, so that fetching and arithmetic overlap.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from merge_assets.engine.files import InputFiles
from merge_assets.errors import Stopped
from merge_assets.filestate import FileState
from merge_assets.plan import OutputTensor, Plan, TensorInput

AHEAD = 512 << 20
"""Bytes of inputs that are fetched before they are asked for."""

_AHEAD_FILES = 128
_WALKERS = 4

Fetch = Callable[[str, TensorInput], int]
"""(location of the model, input) -> a descriptor of a local file that holds the input and nothing else."""

Free = Callable[[int], None]
"""What is told of a descriptor that is no longer needed."""

_Key = tuple[int, str, int]


class FetchedFiles(InputFiles):
    """Inputs of which some lie in an object store: those of models whose location is a URL."""

    def __init__(self, fetch: Fetch, free: Free, digested: Mapping[str, FileState] | None = None) -> None:
        super().__init__(digested)
        self._fetch = fetch
        self._free = free
        self._change = threading.Condition()
        self._uses: Counter[_Key] = Counter()
        self._open: dict[_Key, int] = {}
        self._asked: set[_Key] = set()
        self._begun: set[_Key] = set()
        self._bytes = 0
        self._failure: BaseException | None = None
        self._closed = False
        self._pool = ThreadPoolExecutor(_WALKERS, "ahead")
        self._walk: threading.Thread | None = None
        self._plan: Plan | None = None

    def expect(self, plan: Plan, tensors: Sequence[OutputTensor]) -> None:
        self._plan = plan
        order: dict[_Key, TensorInput] = {}
        for tensor in {tensor.name: tensor for tensor in tensors}.values():
            for key, item in self._inputs(tensor).items():
                self._uses[key] += 1
                order.setdefault(key, item)
        self._walk = threading.Thread(target=self._go_ahead, args=(order,), name="ahead", daemon=True)
        self._walk.start()

    def place(self, location: str, item: TensorInput) -> tuple[str, int]:
        if "://" not in location:
            return super().place(location, item)
        key = _key(item)
        path = f"{location}/{item.header.file}#{item.header.name}"
        if path in self._descriptors:
            return path, 0
        with self._change:
            self._asked.add(key)
            self._change.notify_all()
            while key not in self._open:
                if self._failure is not None:
                    raise self._failure
                if self._closed:
                    raise Stopped("the inputs are closed")
                self._change.wait(0.5)
            with self._lock:
                self._descriptors[path] = self._open[key]
        return path, 0

    def is_vouched(self, path: str) -> bool:
        """What was fetched was compared with its digest, and lies in a file that nobody else has."""
        return "://" in path or super().is_vouched(path)

    def release(self, tensor: OutputTensor) -> None:
        for key, item in self._inputs(tensor).items():
            with self._change:
                self._uses[key] -= 1
                if self._uses[key]:
                    continue
                descriptor = self._open.pop(key, None)
                self._bytes -= item.header.nbytes if descriptor is not None else 0
                self._change.notify_all()
            assert self._plan is not None
            location = self._plan.models[item.model].location
            with self._lock:
                self._descriptors.pop(f"{location}/{item.header.file}#{item.header.name}", None)
            if descriptor is not None:
                self._free(descriptor)

    def __exit__(self, *_: object) -> None:
        with self._change:
            self._closed = True
            self._change.notify_all()
        if self._walk is not None:
            self._walk.join()
        self._pool.shutdown(wait=True, cancel_futures=True)
        ours = set(self._open.values())
        with self._lock:
            self._descriptors = {path: held for path, held in self._descriptors.items() if held not in ours}
        for descriptor in ours:
            self._free(descriptor)
        super().__exit__()

    def _inputs(self, tensor: OutputTensor) -> dict[_Key, TensorInput]:
        assert self._plan is not None
        models = self._plan.models
        return {_key(item): item for item in tensor.files() if "://" in models[item.model].location}

    def _go_ahead(self, order: dict[_Key, TensorInput]) -> None:
        for key, item in order.items():
            with self._change:
                while not (self._closed or self._may_go(item.header.nbytes)):
                    self._change.wait(0.5)
                if self._closed:
                    return
                self._begun.add(key)
                self._bytes += item.header.nbytes
            self._pool.submit(self._bring, key, item)

    def _may_go(self, size: int) -> bool:
        """Enough is open, unless a worker waits for what comes later."""
        if self._asked - self._begun:
            return True
        return self._bytes == 0 or (self._bytes + size <= AHEAD and len(self._open) < _AHEAD_FILES)

    def _bring(self, key: _Key, item: TensorInput) -> None:
        assert self._plan is not None
        with self._change:
            if self._closed or self._failure is not None:
                return
        try:
            descriptor = self._fetch(self._plan.models[item.model].location, item)
        except BaseException as error:
            with self._change:
                self._failure = self._failure or error
                self._change.notify_all()
            return
        with self._change:
            self._open[key] = descriptor
            self._change.notify_all()


def _key(item: TensorInput) -> _Key:
    return item.model, item.header.file, item.header.begin
