"""The process of the proxy: passes HTTP/1.1 on to one server, counts bytes, injects faults.

A thread for each connection, since the sockets' calls let other threads run, and a process apart from the tests, so that
it does not share an interpreter with what they measure. It is steered by lines of JSON on its standard input and ends with
it; see :mod:`tests.s3.proxy`.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from tests.s3.faults import Fault, Faults, Filter, Rule

_PIECE = 1 << 18
_ERRORS = {
    "error500": (500, "InternalError", "We encountered an internal error. Please try again."),
    "error503": (503, "ServiceUnavailable", "Service is unable to handle the request."),
    "slowdown": (503, "SlowDown", "Please reduce your request rate."),
}


@dataclass
class Request:
    """One request; ``received`` and ``sent`` are bytes of bodies from and to the client, as they were on the wire."""

    method: str
    path: str
    query: str
    range: str | None
    status: int = 0
    received: int = 0
    sent: int = 0
    fault: str | None = None


class Head:
    """The first line and the headers of a message; ``raw`` are its bytes, passed on unchanged."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        first, *lines = raw.decode("latin-1").split("\r\n")
        self.first = first.split(" ", 2)
        pairs = (line.partition(":") for line in lines if line)
        self.fields = {name.strip().lower(): value.strip() for name, _, value in pairs}
        self.chunked = self.fields.get("transfer-encoding", "").lower() == "chunked"
        length = self.fields.get("content-length")
        self.length = int(length) if length is not None and not self.chunked else None
        self.closes = self.fields.get("connection", "").lower() == "close"

    @property
    def status(self) -> int:
        return int(self.first[1])


class Broken(Exception):
    """The connection to the client is over."""


class Stream:
    """A socket with what was read from it too early."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection
        self._early = b""
        self._buffer = memoryview(bytearray(_PIECE))

    def head(self) -> Head | None:
        """The next message's head; None if the other side ended the connection before it."""
        while (end := self._early.find(b"\r\n\r\n")) < 0:
            more = self.socket.recv(65536)
            if not more:
                return None
            self._early += more
        raw, self._early = self._early[: end + 4], self._early[end + 4 :]
        return Head(raw)

    def body(self, head: Head, *, until_end: bool) -> Iterator[tuple[memoryview, int]]:
        """The body in pieces that are valid until the next one.

        With each the bytes of content from its start to the end of the body or chunk: 0 for what only frames chunks.
        """
        if head.chunked:
            while True:
                line = self._line()
                yield memoryview(line), 0
                size = int(line.split(b";")[0], 16)
                if size == 0:
                    break
                yield from self._content(size)
                yield memoryview(self._line()), 0
            while line != b"\r\n":
                line = self._line()
                yield memoryview(line), 0
        elif head.length is not None:
            yield from self._content(head.length)
        elif until_end:
            while more := self._early or self.socket.recv(_PIECE):
                self._early = b""
                yield memoryview(more), len(more)

    def _content(self, size: int) -> Iterator[tuple[memoryview, int]]:
        while size:
            if self._early:
                piece, self._early = memoryview(self._early[:size]), self._early[size:]
            else:
                piece = self._buffer[: self.socket.recv_into(self._buffer[:size])]
                if not piece:
                    raise EOFError
            yield piece, size
            size -= len(piece)

    def _line(self) -> bytes:
        while (end := self._early.find(b"\r\n")) < 0:
            more = self.socket.recv(65536)
            if not more:
                raise EOFError
            self._early += more
        line, self._early = self._early[: end + 2], self._early[end + 2 :]
        return line


class Connection:
    """One client's connection and, while it lasts, one to the server."""

    def __init__(self, client: socket.socket, proxy: Proxy) -> None:
        self._client = Stream(client)
        self._server: Stream | None = None
        self._proxy = proxy
        self._over = False
        """No further request: the last one's body was not read, or an answer says so."""

    def serve(self) -> None:
        """Pass on requests until either side ends."""
        with suppress(OSError, EOFError, Broken):
            while head := self._client.head():
                self._pass(head)
                if head.closes or self._over:
                    break
        self._hang_up()
        self._client.socket.close()

    def _pass(self, head: Head) -> None:
        url = urlsplit(head.first[1])
        request = Request(head.first[0], unquote(url.path), url.query, head.fields.get("range"))
        self._proxy.requests.append(request)
        uploads = head.chunked or bool(head.length)
        delay, fault = self._proxy.faults.draw(request.method, request.path, request.query, uploads=uploads)
        if delay:
            self._inject(request, delay)
            time.sleep(delay.rule.milliseconds / 1000)
        kind = fault.kind if fault else None
        if fault and kind in _ERRORS:
            self._inject(request, fault)
            self._refuse(head, request, fault)
        elif fault and kind == "reset_before":
            self._inject(request, fault)
            self._reset(request)
        else:
            during_upload = kind == "flip_upload" or (kind == "reset_body" and uploads)
            refused = self._upload(head, request, fault if during_upload else None)
            if refused and during_upload and fault:
                self._proxy.faults.missed(fault)
            self._answer(head, request, None if during_upload else fault, refused)

    def _upload(self, head: Head, request: Request, fault: Fault | None) -> Head | None:
        """Send the request on; returns the answer's head if there is one before the body was sent, else None."""
        server = self._connect(request)
        server.socket.sendall(head.raw)
        if head.fields.get("expect", "").lower() == "100-continue":
            said = server.head()
            if said is None:
                self._reset(request)
            if said.status != 100:
                self._over = True
                return said
            self._client.socket.sendall(said.raw)
        before = -1 if fault is None else None
        for piece, extent in self._client.body(head, until_end=False):
            request.received += len(piece)
            if fault and extent:
                before, piece, cut = self._break(request, fault, piece, extent, before)
                if cut:
                    server.socket.sendall(piece)
                    self._reset(request)
            try:
                server.socket.sendall(piece)
            except OSError:
                self._over = True  # the server has enough; it may have said why
                break
        return None

    def _answer(self, head: Head, request: Request, fault: Fault | None, said: Head | None) -> None:
        """Pass the server's answer on to the client."""
        server = self._server
        assert server is not None
        while said is None or said.status // 100 == 1:
            said = server.head()
            if said is None:
                self._reset(request)
        empty = request.method == "HEAD" or said.status in (204, 304)
        body = iter(()) if empty else server.body(said, until_end=True)
        if fault and fault.kind == "reset_after":
            for _ in body:
                pass
            self._inject(request, fault)
            self._reset(request)
        if fault and fault.kind == "flip" and said.status // 100 != 2:
            self._proxy.faults.missed(fault)
            fault = None
        request.status = said.status
        self._client.socket.sendall(said.raw)
        before: int | None = None
        for piece, extent in body:
            cut = False
            if fault and extent:
                before, piece, cut = self._break(request, fault, piece, extent, before)
            self._send(request, piece)
            if cut and fault and fault.kind == "reset_body":
                self._reset(request)
            if cut:
                raise Broken
        if fault and before is None:
            self._proxy.faults.missed(fault)
        if said.closes or not (empty or said.chunked or said.length is not None):
            self._over = True

    def _break(
        self, request: Request, fault: Fault, piece: memoryview, extent: int, before: int | None
    ) -> tuple[int, memoryview, bool]:
        """Break one piece of content.

        Args:
            extent: bytes from the piece's start to the end of the body, or of its first chunk.
            before: bytes that are still to pass unbroken, negative after the fault; None before the first piece.

        Returns:
            ``before`` for the next piece, what is to be sent instead, and whether the connection ends after it.
        """
        if before is None:
            before = int(fault.place * extent)
        if not 0 <= before < len(piece):
            return max(before - len(piece), -1) if before >= 0 else -1, piece, False
        self._inject(request, fault)
        if fault.kind in ("flip", "flip_upload"):
            changed = bytearray(piece)
            changed[before] ^= 1 << fault.bit
            return -1, memoryview(changed), False
        return -1, piece[:before], True

    def _refuse(self, head: Head, request: Request, fault: Fault) -> None:
        status, code, message = _ERRORS[fault.kind]
        # Who waits for "100 Continue" has not sent the body and will not; the connection ends there.
        waits = "expect" in head.fields
        if not waits:
            for piece, _ in self._client.body(head, until_end=False):
                request.received += len(piece)
        body = b"" if request.method == "HEAD" else _error(code, message)
        lines = [f"HTTP/1.1 {status} {code}", "Content-Type: application/xml", f"Content-Length: {len(body)}"]
        lines += ["Connection: close"] if waits else []
        request.status = status
        self._client.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self._send(request, memoryview(body))
        self._over = waits

    def _connect(self, request: Request) -> Stream:
        """The connection to the server, a new one if there is none or the server ended it."""
        if self._server is not None:
            try:
                self._server.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
                self._hang_up()
            except BlockingIOError:
                pass  # open, and silent as it should be
            except OSError:
                self._hang_up()
        if self._server is None:
            try:
                self._server = Stream(socket.create_connection(self._proxy.upstream))
            except OSError:
                self._reset(request)
        assert self._server is not None
        return self._server

    def _send(self, request: Request, piece: memoryview) -> None:
        """To the client; counted first, so that whoever has got it finds it counted."""
        request.sent += len(piece)
        try:
            while piece:
                piece = piece[self._client.socket.send(piece) :]
        except OSError:
            request.sent -= len(piece)
            raise

    def _reset(self, request: Request) -> NoReturn:
        """Reset the client's connection once it has got what was sent to it, and end the one to the server."""
        self._hang_up()
        deadline = time.monotonic() + 2
        while (waiting := _unsent(self._client.socket)) and time.monotonic() < deadline:
            time.sleep(0.0005)
        request.sent -= waiting
        self._client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._client.socket.close()
        raise Broken

    def _hang_up(self) -> None:
        if self._server is not None:
            self._server.socket.close()
            self._server = None

    def _inject(self, request: Request, fault: Fault) -> None:
        request.fault = fault.kind if request.fault is None else f"{request.fault}+{fault.kind}"
        self._proxy.faults.happened(fault)


class Proxy:
    """Listens, and does what the lines on the standard input say."""

    def __init__(self, upstream: str) -> None:
        url = urlsplit(upstream)
        assert url.hostname
        self.upstream = (url.hostname, url.port or 80)
        self.requests: list[Request] = []
        self.faults = Faults()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def listen(self) -> None:
        while True:
            client, _ = self._listener.accept()
            threading.Thread(target=Connection(client, self).serve, daemon=True).start()

    def obey(self, do: str, **arguments: Any) -> Any:
        """Carry out one command; see the methods of ``FaultProxy``."""
        if do == "requests":
            return [asdict(request) for request in self.requests]
        if do == "injected":
            return self.faults.injected()
        if do == "reset":
            self.requests = []
            self.faults.forget()
        elif do == "clear":
            self.faults.clear()
        elif do == "inject":
            self.faults.add(Rule(where=Filter(**arguments.pop("where")), **arguments))
        return None


def _unsent(connection: socket.socket) -> int:
    """Bytes that the other side's system has not acknowledged."""
    return int(struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0])


def _error(code: str, message: str) -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'.encode()
    )


def main(upstream: str) -> None:
    """Print the URL, then answer each command line with one line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of Ctrl-C its parent knows
    proxy = Proxy(upstream)
    threading.Thread(target=proxy.listen, daemon=True).start()
    print(json.dumps(proxy.url), flush=True)
    for line in sys.stdin:
        print(json.dumps(proxy.obey(**json.loads(line))), flush=True)
    os._exit(0)  # whatever is under way: nobody is there any more


if __name__ == "__main__":
    main(sys.argv[1])
