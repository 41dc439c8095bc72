"""The gate before Dagster's web server: one ASGI application around another.

What it lets through is a list, not what it stops: reading by GET, GraphQL as JSON by POST, reports of assets as JSON by
POST, and the websocket of GraphQL's subscriptions, from pages of this server and from programs that are no browsers.
"""

from __future__ import annotations

from graphql import OperationType
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from merge_assets.pipeline.front.login import LOGIN, LOGOUT, Login
from merge_assets.pipeline.front.operations import BadQuery, operations, posted_query
from merge_assets.pipeline.front.origins import OwnNames, foreign_reader, foreign_writer

GRAPHQL = "/graphql"
HEALTH = "/healthz"
REPORTS = ("/report_asset_materialization/", "/report_asset_check/", "/report_asset_observation/")
LONGEST_BODY = 16_000_000
"""Bytes of a request; run configs and reported metadata are far smaller."""

_READ_ONLY = "this server is read-only; use the command line, or start it without --read-only and ui_read_only"
_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class _Refused(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Gate:
    """An ASGI application that lets only such requests through to ``app`` as its own pages and people's programs send.

    Args:
        app: Dagster's web server.
        names: host names of this server.
        login: asks for a token; ``None`` lets everybody in.
        read_only: refuse whatever changes something.
    """

    def __init__(self, app: ASGIApp, names: OwnNames, *, login: Login | None = None, read_only: bool = False) -> None:
        self._app = app
        self._names = names
        self._login = login
        self._read_only = read_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        answer = self._app
        try:
            self._check_names(request.headers)
            self._check_method(request)
            if request.scope["path"] == HEALTH:
                answer = PlainTextResponse("ok")
            elif self._login and request.scope["path"] in (LOGIN, LOGOUT):
                answer = await self._login.answer(request)
            elif self._login and not self._login.admits(request):
                answer = self._login.refuse(request)
            elif request.method == "POST":
                scope, receive = await self._posted(request)
            else:
                self._check_query(request)
        except _Refused as refused:
            answer = _answer(request, refused)
        await answer(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = HTTPConnection(scope)
        try:
            self._check_names(connection.headers)
            if scope["path"] != GRAPHQL:
                raise _Refused(404, "not found")
            _check_origin(foreign_writer(connection.headers))
            if self._login and not self._login.admits(connection):
                raise _Refused(401, "log in")
        except _Refused as refused:
            await receive()
            # Before it is accepted, closing a websocket is answering 403.
            await send({"type": "websocket.close", "code": 1008, "reason": refused.reason})
            return
        await self._app(scope, receive, send)

    def _check_names(self, headers: Headers) -> None:
        # Of a header sent twice, one server would read the first and another the last.
        for name in ("host", "origin", "content-type"):
            if len(headers.getlist(name)) > 1:
                raise _Refused(400, f"the header {name.title()} is there twice")
        host = headers.get("host", "")
        if host not in self._names:
            known = "add the name to the setting ui_hosts (MERGE_ASSETS_UI_HOSTS) if it is this server's"
            raise _Refused(403, f"Host {host!r} is not a name of this server; {known}")

    def _check_method(self, request: Request) -> None:
        if request.method in ("GET", "HEAD"):
            _check_origin(foreign_reader(request.headers))
        elif request.method == "POST":
            _check_origin(foreign_writer(request.headers))
        else:
            raise _Refused(405, f"{request.method} is not answered here")

    def _check_query(self, request: Request) -> None:
        if request.scope["path"] != GRAPHQL or "text/html" in request.headers.get("accept", ""):
            return  # with text/html, Dagster shows its page for queries and runs none
        for query in request.query_params.getlist("query"):
            if _judge(query) - {OperationType.QUERY}:
                raise _Refused(405, "by GET only queries are answered; send mutations by POST")

    async def _posted(self, request: Request) -> tuple[Scope, Receive]:
        """What to hand on for a POST: with the one content type that was checked, so that both servers read the same."""
        path = request.scope["path"]
        if path != GRAPHQL and not path.startswith(REPORTS):
            raise _Refused(405, "POST is answered at /graphql and at /report_asset_… only")
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise _Refused(415, "send the header `Content-Type: application/json`")
        scope = dict(request.scope)
        headers = MutableHeaders(scope=scope | {"headers": list(scope["headers"])})
        headers["content-type"] = "application/json"
        scope["headers"] = headers.raw
        if path != GRAPHQL:
            if self._read_only:
                raise _Refused(403, _READ_ONLY)
            return scope, request.receive
        body = await _body(request)
        try:
            query = posted_query(body)
        except BadQuery as error:
            raise _Refused(400, str(error)) from None
        if self._read_only and OperationType.MUTATION in _judge(query):
            raise _Refused(403, _READ_ONLY)
        return scope | {"query_string": b""}, _again(body, request.receive)


def _check_origin(foreign: str | None) -> None:
    if foreign:
        raise _Refused(
            403,
            f"this request comes from another site ({foreign}); open the UI at its own address; a proxy must pass Host on",
        )


def _judge(query: str) -> set[OperationType]:
    try:
        return operations(query)
    except BadQuery as error:
        raise _Refused(400, str(error)) from None


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for chunk in request.stream():
        parts.append(chunk)
        size += len(chunk)
        if size > LONGEST_BODY:
            raise _Refused(413, f"a request may have {LONGEST_BODY} bytes")
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """A channel that gives a body that was read already, then what comes after it."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _answer(request: Request, refused: _Refused) -> Response:
    if request.scope["path"] == GRAPHQL:  # in the shape in which the UI shows errors
        return JSONResponse({"errors": [{"message": refused.reason}]}, status_code=refused.status)
    return PlainTextResponse(refused.reason + "\n", status_code=refused.status)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(_SECURITY)
            headers.append("Content-Security-Policy", "frame-ancestors 'self'")
        await send(message)

    return sending
