"""``python -m merge_assets.model_worker FD``: the nursery, which imports torch and transformers once and forks model workers.

It has one thread, reads no checkpoint, and ends when the last who could ask it has ended.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys

from merge_assets.errors import in_one_line
from merge_assets.model_worker.frames import send
from merge_assets.model_worker.guard import keep
from merge_assets.model_worker.nursery import LARGEST_REQUEST


def main() -> None:
    """Fork a guard, and by it a worker, for every request."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # guards need not be waited for
    while True:
        data, descriptors, _, _ = socket.recv_fds(requests, LARGEST_REQUEST, 2)
        if not data:
            return
        ends = [socket.socket(fileno=one) for one in descriptors]
        request = json.loads(data)
        try:
            for module in request["modules"]:
                importlib.import_module(module)
        except Exception as error:
            for lease in ends[1:]:
                send(lease, {"import": in_one_line(error)})
        else:
            if ends:
                _fork(requests, ends[0], ends[1], request)
        for end in ends:
            end.close()


def _fork(requests: socket.socket, channel: socket.socket, lease: socket.socket, request: dict[str, object]) -> None:
    nursery = os.getpid()
    gc.disable()
    gc.freeze()  # what is not looked at is not copied
    if os.fork() == 0:
        requests.close()
        keep(channel, lease, request, nursery)
    gc.enable()


if __name__ == "__main__":
    main()
