"""Who may use the UI: whoever knows the token, by a session cookie in a browser and as a bearer token elsewhere."""

from __future__ import annotations

import hashlib
import hmac
import time
from urllib.parse import parse_qs

from pydantic import SecretStr
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from merge_assets.markup import render

LOGIN = "/login"
LOGOUT = "/logout"
COOKIE = "merge_assets_session"
SESSION_SECONDS = 30 * 24 * 3600
LONGEST_FORM = 10_000

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"


class Login:
    """The token, and the sessions made with it.

    A session is the time at which it ends, signed with the token: it needs no memory, outlives a restart, and ends for all
    when the token changes.
    """

    def __init__(self, token: SecretStr) -> None:
        self._token = token.get_secret_value().encode()

    def admits(self, connection: HTTPConnection) -> bool:
        """Whether a request carries the token or a session that has not ended."""
        scheme, _, given = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._is_token(given.strip().encode("latin-1"))
        ends, _, signature = connection.cookies.get(COOKIE, "").partition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(ends).encode()):
            return False
        return int(ends) > time.time()

    def refuse(self, request: Request) -> Response:
        """What somebody without a session gets: a page to log in where a page was asked for."""
        if request.method != "GET" or "text/html" not in request.headers.get("accept", ""):
            text = "log in, or send the header `Authorization: Bearer TOKEN`"
            headers = {"WWW-Authenticate": "Bearer"}
            return JSONResponse({"errors": [{"message": text}]}, status_code=401, headers=headers)
        if request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            # The cookie is not sent along a link from another site; it is with the page's own request for itself.
            return _page("again.html.j2", 200)
        query = f"?{request.url.query}" if request.url.query else ""
        return _page("login.html.j2", 401, next=request.url.path + query, is_in=False, is_wrong=False)

    async def answer(self, request: Request) -> Response:
        """The login page and what its buttons send; requests of other origins do not come here."""
        if request.method != "POST":
            return _page("login.html.j2", 200, next="/", is_in=self.admits(request), is_wrong=False)
        if request.scope["path"] == LOGOUT:
            response: Response = RedirectResponse(LOGIN, status_code=303)
            response.delete_cookie(COOKIE, httponly=True, samesite="strict")
            return response
        form = parse_qs((await _read(request)).decode("utf-8", "replace"))
        target = _local(form.get("next", ["/"])[0])
        if not self._is_token(form.get("token", [""])[0].strip().encode()):
            return _page("login.html.j2", 401, next=target, is_in=False, is_wrong=True)
        response = RedirectResponse(target, status_code=303)
        ends = str(int(time.time()) + SESSION_SECONDS)
        response.set_cookie(
            COOKIE,
            f"{ends}.{self._sign(ends)}",
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="strict",
            # Behind a proxy only the browser knows that it speaks TLS.
            secure=request.headers.get("origin", "").startswith("https:"),
        )
        return response

    def _is_token(self, given: bytes) -> bool:
        return hmac.compare_digest(given, self._token)

    def _sign(self, ends: str) -> str:
        return hmac.new(self._token, f"merge_assets session until {ends}".encode(), hashlib.sha256).hexdigest()


def _page(name: str, status: int, **values: object) -> HTMLResponse:
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"}
    return HTMLResponse(render("merge_assets.pipeline.front", name, **values), status_code=status, headers=headers)


def _local(target: str) -> str:
    """``target`` if it is a path of this server: browsers read `//` and `/\\` as the start of another host."""
    is_path = target.startswith("/") and target[1:2] not in ("/", "\\") and target.isprintable()
    return target if is_path else "/"


async def _read(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_FORM:
            return b""
    return body
