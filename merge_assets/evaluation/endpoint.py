"""A server that speaks the OpenAI protocol, as an evaluation asks it: the one place that knows its address and its key.

The model worker, which reads the checkpoint's tokenizer, has neither a network nor the key. It says what is to be asked, and
this process sends that to one address.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from merge_assets.errors import EvaluationError, printable
from merge_assets.evaluation.endpoint_process import StartedServer
from merge_assets.evaluation.suite import Suite
from merge_assets.model_worker import Limits
from merge_assets.shown import HIDDEN
from merge_assets.work import Work

_POLL_SECONDS = 0.1
_CONNECT_SECONDS = 10
_ATTEMPTS = 5
_BUSY = 429
_KEY_REFUSED = (401, 403)
_HERE = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Endpoint:
    """Where a server is, or how one is started; see the settings of these names.

    Attributes:
        url: base URL of a server that is running, as ``http://127.0.0.1:8000/v1``.
        model: the name that it serves the model under; ``{name}`` in it is the name of the model here.
        key: that it asks for.
        serve: command that starts one on a checkpoint, with ``{model}``, its folder, and ``{port}``.
    """

    url: str | None = None
    model: str | None = None
    key: str | None = field(default=None, repr=False)
    serve: str | None = None


class Server:
    """A server for one evaluation; started when it is first needed, if it has to be.

    Args:
        endpoint: where, or how.
        suite: for which.
        model_dir: folder of the checkpoint.
        name: of the model here.
        limits: how long it may take to start, and to answer.
    """

    def __init__(self, endpoint: Endpoint, suite: Suite, model_dir: Path, name: str, limits: Limits) -> None:
        self._endpoint = endpoint
        self._suite = suite
        self._model_dir = model_dir
        self._name = name
        self._limits = limits
        self._started: StartedServer | None = None
        self._opened: dict[str, str] | None = None
        self._client: Any = None
        self._url = (endpoint.url or "").rstrip("/")
        self.may_pass = False
        """Whether what went wrong last may go well another time."""

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            self._client.close()
        if self._started is not None:
            self._started.end()

    def open(self, work: Work) -> dict[str, str]:
        """See that the server is there and serves the model: ``url`` of its completions, the ``model`` that is asked for, and
        what is ``told`` of it in records.

        Raises:
            EvaluationError: it does not.
        """
        if self._opened is None:
            if self._endpoint.serve is not None and self._started is None:
                try:
                    self._started = StartedServer(self._endpoint.serve, self._model_dir)
                except EvaluationError as error:
                    raise EvaluationError(f"{self._suite.file}: backend: {error}") from None
                self._url = self._started.url
            elif not self._url:
                raise EvaluationError(
                    f"{self._suite.file}: backend: endpoint needs a server; set endpoint to the base URL of one, as "
                    "http://127.0.0.1:8000/v1, or endpoint_serve to a command that starts one, in merge-assets.toml or as "
                    "MERGE_ASSETS_ENDPOINT or MERGE_ASSETS_ENDPOINT_SERVE"
                )
            self._client = self._connected()
            served = self._served(work)
            model = self._chosen(served)
            told = (
                f"{self._endpoint.serve}, started on these bytes"
                if self._started
                else f"{model} at {self._url}, whose bytes were not verified"
            )
            self._opened = {"url": f"{self._url}/completions", "model": model, "told": printable(told)}
        return self._opened

    def reply(self, payload: Mapping[str, Any], work: Work) -> dict[str, Any]:
        """The server's ``answer`` to one request for completions, or an ``error`` in one line."""
        self.may_pass = False
        try:
            return {"answer": self._retried(partial(self._asked, "POST", "/completions", payload, work), work)}
        except EvaluationError as error:
            self.may_pass = error.may_pass
            return {"error": str(error)}

    def _served(self, work: Work) -> list[str]:
        """The models that it serves; a server that was started is waited for."""
        ask = partial(self._asked, "GET", "/models", None, work)
        if self._started is None:
            content = self._retried(ask, work)
        else:
            until = time.monotonic() + self._limits.load
            while True:
                try:
                    content = ask()
                    break
                except EvaluationError as error:
                    if not error.may_pass:
                        raise
                    if time.monotonic() > until:
                        raise self._error(
                            f"does not answer after {self._limits.load:g} s (the setting load_seconds): {error}"
                        ) from None
                self._wait(work, 0.5)
        try:
            return [str(one["id"]) for one in content["data"]]
        except (TypeError, KeyError):
            raise self._error(
                "does not say what it serves (/models); give the base URL of a server of that protocol"
            ) from None

    def _chosen(self, served: list[str]) -> str:
        if self._endpoint.model is None and self._started is not None and len(served) == 1:
            return served[0]
        wanted = (self._endpoint.model or "{name}").replace("{name}", self._name)
        if wanted not in served:
            raise self._error(
                f"serves {', '.join(served[:20]) or 'nothing'}, not {wanted!r}; set endpoint_model to the name of the model "
                "there, in which {name} is its name here"
            )
        return wanted

    def _connected(self) -> Any:
        import httpx2

        key = self._endpoint.key
        return httpx2.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(self._limits.silence, connect=_CONNECT_SECONDS),
            follow_redirects=False,  # the key is for one address
            trust_env=urlsplit(self._url).hostname not in _HERE,
        )

    def _retried(self, ask: Callable[[], Any], work: Work) -> Any:
        """What is answered, after trouble that may pass also at a later try."""
        retrying = Retrying(
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_exponential(multiplier=0.25, max=8),
            retry=retry_if_exception(lambda error: isinstance(error, EvaluationError) and error.may_pass),
            sleep=lambda seconds: self._wait(work, seconds),
            reraise=True,
        )
        return retrying(ask)

    def _asked(self, method: str, path: str, payload: Mapping[str, Any] | None, work: Work) -> Any:
        """The answer to one request, as JSON.

        Raises:
            EvaluationError: there is none; it may pass where the server is busy, broken or gone.
        """
        if self._started is not None and (ended := self._started.ended()) is not None:
            raise self._error(f"(the setting endpoint_serve) {ended}")
        import httpx2

        try:
            answer = self._beside(lambda: self._client.request(method, f"{self._url}{path}", json=payload), work)
        except httpx2.TransportError as error:
            what = f"{type(error).__name__}: {error}".rstrip(": ")
            raise self._error(f"does not answer ({what}); is the server running there?", may_pass=True) from None
        if answer.is_success:
            with contextlib.suppress(ValueError):
                return answer.json()
            raise self._error(
                "answers with what is no JSON; give the base URL of a server, as http://127.0.0.1:8000/v1"
            )
        said = " ".join(answer.text.split())[:300]
        status = f"{path} answers {answer.status_code}" + (f": {said}" if said else "")
        if answer.status_code in _KEY_REFUSED:
            raise self._error(f"{status}; set endpoint_key (MERGE_ASSETS_ENDPOINT_KEY) to a key that it takes")
        if answer.status_code == _BUSY or answer.status_code >= 500:
            raise self._error(status, may_pass=True)
        if answer.status_code == 404:
            raise self._error(f"{status}; endpoint is the base URL, as http://127.0.0.1:8000/v1")
        raise self._error(f"{status}; where a prompt is too long for it, set max_length to the server's context")

    def _beside(self, do: Callable[[], Any], work: Work) -> Any:
        """What is returned by a call that waits, while others are asked whether to go on."""
        box: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                box.put((do(), None))
            except Exception as error:
                box.put((None, error))

        threading.Thread(target=run, daemon=True).start()
        while True:
            with contextlib.suppress(queue.Empty):
                answer, error = box.get(timeout=_POLL_SECONDS)
                if error is not None:
                    raise error
                return answer
            work.check(f"waiting for {self._url}")
            if self._started is not None and (ended := self._started.ended()) is not None:
                raise self._error(f"(the setting endpoint_serve) {ended}")

    def _wait(self, work: Work, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            work.check(f"waiting for {self._url}")
            time.sleep(min(left, _POLL_SECONDS))

    def _error(self, what: str, *, may_pass: bool = False) -> EvaluationError:
        key = self._endpoint.key
        text = f"{self._suite.file}: backend: endpoint {self._url} {what}"
        error = EvaluationError(text.replace(key, HIDDEN) if key else text)
        error.may_pass = may_pass
        return error
