"""Messages between the model worker and who asked for it: JSON behind its length, so that nothing is executed to read one."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("!I")
LARGEST = 256 << 20
"""Bytes of one message."""


def send(channel: socket.socket, message: Any) -> None:
    """Send one message.

    Raises:
        OSError: if nobody reads it, or it is too large.
    """
    body = json.dumps(message).encode()
    if len(body) > LARGEST:
        raise OSError(f"a message of {len(body)} bytes; {LARGEST} are allowed")
    channel.sendall(_LENGTH.pack(len(body)) + body)


class Frames:
    """Messages as they arrive, in pieces of any size."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> None:
        self._bytes += data

    def take(self) -> Any:
        """The next message; ``None`` if it has not arrived as a whole.

        Raises:
            ValueError: it is too large, or no JSON that can be read.
        """
        if len(self._bytes) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._bytes)
        if length > LARGEST:
            raise ValueError(f"a message of {length} bytes")
        end = _LENGTH.size + length
        if len(self._bytes) < end:
            return None
        body = bytes(self._bytes[_LENGTH.size : end])
        del self._bytes[:end]
        try:
            return json.loads(body)
        except RecursionError:
            raise ValueError("a message that is nested too deeply") from None
