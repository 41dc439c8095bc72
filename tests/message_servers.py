"""Servers on loopback that take messages and keep them: HTTP, and as much of SMTP as smtplib speaks."""

from __future__ import annotations

import email
import email.policy
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Inbox:
    """What a server got. ``answers`` are the next status codes, then 200.

    Attributes:
        got: the JSON of each request that was accepted.
        tried: how many requests there were.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}/hook"
        self.answers: list[int] = []
        self.got: list[Any] = []
        self.tried = 0


@contextmanager
def hook() -> Iterator[Inbox]:
    """A webhook."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            inbox.tried += 1
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            code = inbox.answers.pop(0) if inbox.answers else 200
            if code == 200:
                inbox.got.append(content)
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    inbox = Inbox(server.server_address[1])
    with _served(server):
        yield inbox


class Mailbox:
    """E-mails that a server took."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.mails: list[EmailMessage] = []


@contextmanager
def mail_server() -> Iterator[Mailbox]:
    """A server of e-mails that believes everything."""

    class Handler(socketserver.StreamRequestHandler):
        def say(self, line: str) -> None:
            self.wfile.write(f"{line}\r\n".encode())

        def handle(self) -> None:
            self.say("220 ready")
            while line := self.rfile.readline().decode().strip():
                word = line.split()[0].upper()
                if word == "DATA":
                    self.say("354 go on")
                    lines = []
                    while (text := self.rfile.readline()) != b".\r\n":
                        lines.append(text.removeprefix(b".") if text.startswith(b"..") else text)
                    mail = email.message_from_bytes(b"".join(lines), policy=email.policy.default)
                    box.mails.append(mail)
                    self.say("250 taken")
                elif word == "QUIT":
                    self.say("221 bye")
                    return
                else:
                    self.say("250 so be it")

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    box = Mailbox(server.server_address[1])
    with _served(server):
        yield box


@contextmanager
def _served(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
