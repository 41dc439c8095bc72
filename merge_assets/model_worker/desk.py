"""Where verbs are served: in the model worker, one request after another."""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from merge_assets.errors import MergeAssetsError, in_one_line, printable
from merge_assets.model_worker.frames import Frames, send

READY = {"ready": True}
"""What is said before the first answer: the time that importing takes is nobody's fault."""

FOREIGN = (
    "it needs code that comes with the checkpoint, which is not executed unless trust_remote_code, of the recipe or the suite, "
    "names the model"
)

_PIECE = 1 << 16


@dataclass
class Desk:
    """What a verb has besides its arguments.

    Attributes:
        channel: to who asked.
        held: what verbs keep for the next request: a model that was loaded.
        frames: what has arrived on the channel.
    """

    channel: socket.socket
    held: dict[Any, Any] = field(default_factory=dict)
    frames: Frames = field(default_factory=Frames)

    def report(self, done: int, total: int, label: str) -> None:
        """Tell how far it is; also a sign of life."""
        send(self.channel, {"report": [done, total, label]})

    def give(self, item: Any) -> None:
        """Hand over a part of the answer before the answer."""
        send(self.channel, {"item": item})

    def call(self, request: Any) -> Any:
        """Have who asked do something that a model worker may not, and wait for what comes of it."""
        send(self.channel, {"call": request})
        while (message := self.frames.take()) is None:
            if not (data := self.channel.recv(_PIECE)):
                raise BrokenPipeError  # nobody is there any more
            self.frames.feed(data)
        return message["reply"]


def serve(channel: socket.socket) -> None:
    """Answer requests until there are no more, or nobody reads the answers."""
    desk = Desk(channel)
    send(channel, READY)
    while data := channel.recv(_PIECE):
        desk.frames.feed(data)
        while (request := desk.frames.take()) is not None:
            send(channel, _answer(desk, request))


def refuse(channel: socket.socket, error: Exception) -> None:
    """Say why no request is answered."""
    send(channel, _error(error))


def reason(error: BaseException) -> str:
    """Why a library gave up, in one line."""
    text = in_one_line(error) if isinstance(error, Exception) else printable(f"{type(error).__name__}: {error}"[:300])
    # Libraries advise to run the code, and name a key of their own for it.
    return FOREIGN if "trust_remote_code" in str(error) else text


def _answer(desk: Desk, request: dict[str, Any]) -> dict[str, Any]:
    module, _, name = str(request["verb"]).partition(":")
    verb: Callable[..., Any] = getattr(importlib.import_module(module), name)
    try:
        return {"answer": verb(desk, **request["arguments"])}
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)
    except BaseException as error:  # panics of Rust are no Exceptions, and SystemExit is no way to leave
        return _error(error)


def _error(error: BaseException) -> dict[str, Any]:
    if isinstance(error, MergeAssetsError):
        return {"error": str(error), "raised": type(error).__name__}
    return {"error": reason(error), "raised": ""}
