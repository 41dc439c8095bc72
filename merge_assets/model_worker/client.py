"""A model worker, as those see it who ask it."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Literal

from merge_assets.errors import ModelMemoryError, ModelWorkerError, Stopped, printable
from merge_assets.model_worker.desk import READY
from merge_assets.model_worker.frames import Frames, send
from merge_assets.model_worker.limits import Limits
from merge_assets.model_worker.nursery import hire
from merge_assets.work import UNATTENDED, Work

Limit = Literal["load", "answer", "silence"]
"""The limits of time, as :class:`Limits` names them."""

_POLL_SECONDS = 0.1
_LONGEST_STEP = 1.0
"""What one look may count for: a machine that slept, or a process that was paused, has not used up the time."""

_PIECE = 1 << 20


class ModelWorker:
    """One process that loads strangers' models, from its first request to the end of the ``with`` block.

    Args:
        module: in which the verbs are.
        limits: what it may take.
        offline: whether it is kept off the network. Only what loads no checkpoint may say no.
        loopback: whether its own processes may talk to each other over TCP.
    """

    def __init__(self, module: str, limits: Limits, *, offline: bool = True, loopback: bool = False) -> None:
        self._module = module
        self._limits = limits
        self._offline, self._loopback = offline, loopback
        self._ends: tuple[socket.socket, socket.socket] | None = None
        self._frames = Frames()

    def __enter__(self) -> ModelWorker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def ask(
        self,
        verb: str,
        arguments: Mapping[str, Any],
        *,
        limit: Limit | None,
        work: Work = UNATTENDED,
        doing: str = "",
        each: Callable[[Any], None] | None = None,
        reply: Callable[[Any], Any] | None = None,
    ) -> Any:
        """What a verb returns. A worker that was ended is replaced by a new one, which holds nothing yet.

        Args:
            verb: name of a function in the worker's module.
            arguments: for it; as JSON.
            limit: which one says how long it may take from one sign of life to the next; ``None`` is for ever.
            work: told what the verb tells; asked several times a second, and after all that the verb tells.
            doing: to follow the word "while" if it is stopped.
            each: gets the items that the verb gives before it returns.
            reply: does what the verb calls for; what it takes is not the worker's time.

        Raises:
            ModelMemoryError: the worker was ended because it took too much memory.
            ModelWorkerError: the verb raised something, or the worker was ended: by another limit, a signal, or itself.
            Stopped: on request; the worker is gone then.
        """
        try:
            channel = self._started(work)
            with contextlib.suppress(OSError):  # what ended it is on the lease
                send(channel, {"verb": f"{self._module}:{verb}", "arguments": dict(arguments)})
            return self._answer(limit, work, doing, each, reply)
        except (ModelWorkerError, Stopped) as error:
            if not (isinstance(error, ModelWorkerError) and error.answered):
                self._close()
            raise

    def _started(self, work: Work) -> socket.socket:
        """The channel of a worker that is ready."""
        if self._ends is None:
            self._ends = hire([self._module], self._limits, offline=self._offline, loopback=self._loopback)
            self._frames = Frames()
            # Nothing of a stranger's has been loaded yet: what takes time is importing.
            message = self._next(None, work, "starting the process that loads models")
            if message != READY:
                raise ModelWorkerError(f"cannot be loaded here: {message.get('error') if message else message}")
        return self._ends[0]

    def _answer(
        self,
        limit: Limit | None,
        work: Work,
        doing: str,
        each: Callable[[Any], None] | None,
        reply: Callable[[Any], Any] | None,
    ) -> Any:
        while True:
            match self._next(limit, work, doing):
                case {"report": [int(done), int(total), str(label)]}:
                    work.report(done, total, printable(label))
                    work.check(doing)
                case {"item": item} if each is not None:
                    each(item)
                case {"call": call} if reply is not None and self._ends is not None:
                    answer = reply(call)
                    with contextlib.suppress(OSError):  # what ended it is on the lease
                        send(self._ends[0], {"reply": answer})
                case {"answer": answer}:
                    return answer
                case {"error": str(text), "raised": str(raised)}:
                    raise ModelWorkerError(text, answered=True, raised=raised)
                case _:
                    raise ModelWorkerError("answers with what is no answer")

    def _next(self, limit: Limit | None, work: Work, doing: str) -> Any:
        """The next message."""
        assert self._ends is not None
        seconds = None if limit is None else float(getattr(self._limits, limit))
        channel = self._ends[0]
        spent, last = 0.0, time.monotonic()
        while True:
            try:
                if (message := self._frames.take()) is not None:
                    return message
            except ValueError as error:
                raise ModelWorkerError(f"answers with what cannot be read: {error}") from None
            work.check(doing)
            if select.select([channel], [], [], _POLL_SECONDS)[0]:
                data = channel.recv(_PIECE)
                if not data:
                    raise self._ended()
                self._frames.feed(data)
            now = time.monotonic()
            spent, last = spent + min(now - last, _LONGEST_STEP), now
            if seconds is not None and spent > seconds:
                raise ModelWorkerError(f"gave no answer for {seconds:g} s (the setting {limit}_seconds), and was ended")

    def _ended(self) -> ModelWorkerError:
        """Why nothing comes any more, as the guard says it."""
        assert self._ends is not None
        frames = Frames()
        with contextlib.suppress(OSError, ValueError):
            while data := self._ends[1].recv(_PIECE):
                frames.feed(data)
            match frames.take():
                case {"memory": int(most)}:
                    return ModelMemoryError(
                        f"took more than {most / 1e9:.3g} GB of memory (the setting model_memory), and was ended"
                    )
                case {"signal": int(number)}:
                    name = signal.Signals(number).name
                    return ModelWorkerError(f"was ended by {name}: it is damaged, or made to end who reads it")
                case {"import": str(text)}:
                    return ModelWorkerError(f"cannot be loaded here: {text}")
        return ModelWorkerError("ended without an answer")

    def _close(self) -> None:
        """End the worker, and wait until it has ended."""
        if self._ends is None:
            return
        channel, lease = self._ends
        self._ends = None
        channel.close()
        with contextlib.suppress(OSError):
            lease.shutdown(socket.SHUT_WR)
            while lease.recv(_PIECE):
                pass
        lease.close()


def ask(module: str, verb: str, arguments: Mapping[str, Any], limits: Limits, *, limit: Limit, work: Work) -> Any:
    """What one verb returns, in a worker for it alone; see :meth:`ModelWorker.ask`."""
    with ModelWorker(module, limits) as worker:
        return worker.ask(verb, arguments, limit=limit, work=work.silent())
