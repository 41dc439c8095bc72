"""A server of a checkpoint that is started for one evaluation, and ends with it."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from merge_assets.errors import EvaluationError, printable
from merge_assets.model_worker.nursery import without_secrets

_SECONDS_TO_END = 15
_LAST = 2000
"""Bytes of what a server said last that are looked at."""


class StartedServer:
    """A command at work.

    Args:
        template: the command, with ``{model}`` and ``{port}``.
        model_dir: what is served.

    Raises:
        EvaluationError: there is no such program.

    Attributes:
        url: below which it answers, once it does.
    """

    def __init__(self, template: str, model_dir: Path) -> None:
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}/v1"
        words = [word.replace("{model}", str(model_dir)).replace("{port}", str(port)) for word in shlex.split(template)]
        if shutil.which(words[0]) is None:
            raise EvaluationError(
                f"the setting endpoint_serve: there is no program {words[0]!r}; install it, or give its path"
            )
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by end()
        self._keeper = subprocess.Popen(
            [sys.executable, "-P", "-m", "merge_assets.evaluation.keeper", *words],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=without_secrets(os.environ),
        )

    def ended(self) -> str | None:
        """How it ended, if it has, with what it said last."""
        code = self._keeper.poll()
        if code is None:
            return None
        size = self._log.seek(0, 2)
        self._log.seek(max(size - _LAST, 0))
        lines = self._log.read().decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()][-3:]
        return printable(f"ended with exit code {code}" + (f": {' | '.join(said)}" if said else " and said nothing"))

    def end(self) -> None:
        """End it, and wait until it has ended."""
        assert self._keeper.stdin is not None
        with contextlib.suppress(OSError):
            self._keeper.stdin.close()
        try:
            self._keeper.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()
        self._log.close()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
