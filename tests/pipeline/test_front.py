"""Contract of the gate before Dagster's web server: what strangers' pages send is refused, what people send works.

Every refused request is first given to the bare web server, which obeys it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from pydantic import SecretStr
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from merge_assets.pipeline.front.gate import Gate
from merge_assets.pipeline.front.login import COOKIE, SESSION_SECONDS, Login
from merge_assets.pipeline.front.operations import LONGEST_QUERY
from merge_assets.pipeline.front.origins import OwnNames
from tests.front_support import REPORTS, Site, by_get, dagster_site, launch, posted

HOME = "http://localhost:3000"
JSON = {"content-type": "application/json"}
PAGE = {"accept": "text/html,application/xhtml+xml"}
TOKEN = "correct horse battery staple"


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with dagster_site(tmp_path_factory.mktemp("site")) as site:
        yield site


def bare(site: Site) -> TestClient:
    return TestClient(site.app, base_url=HOME)


def gate(site: Site, *, bound: str = "127.0.0.1", names: tuple[str, ...] = (), **options: Any) -> TestClient:
    return TestClient(Gate(site.app, OwnNames(bound, names), **options), base_url=HOME, follow_redirects=False)


def locked(site: Site, token: str = TOKEN) -> TestClient:
    return gate(site, login=Login(SecretStr(token)))


Ask = Callable[[TestClient, str], Any]


def get(more: str = "", **headers: str) -> Ask:
    def ask(to: TestClient, name: str) -> Any:
        return to.get(by_get(more + launch(name), operationName="Launch"), headers=headers)

    return ask


def form(content_type: str | None = None) -> Ask:
    """The mutation is in the address: that is where Dagster looks for any content type but its own two."""
    headers = {} if content_type is None else {"content-type": content_type}
    return lambda to, name: to.post(by_get(launch(name)), headers=headers)


def post(content_type: str = "application/json", **headers: str) -> Ask:
    sent = {"content-type": content_type} | {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda to, name: to.post("/graphql", content=posted(launch(name)), headers=sent)


STRANGERS: dict[str, tuple[Ask, int]] = {
    "a mutation by GET": (get(), 405),
    "a mutation by GET beside a query": (get("query Look { version } "), 405),
    "a mutation by GET from another site": (get(Referer="https://evil.example/"), 405),
    "an image": (get(**{"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}), 403),
    "a form": (form("application/x-www-form-urlencoded"), 415),
    "a form with files": (form("multipart/form-data; boundary=x"), 415),
    "a form of plain text": (form("text/plain"), 415),
    "a beacon without a type": (form(), 415),
    "JSON in another spelling, with the mutation in the address": (form("Application/JSON"), 400),
    "plain text that passes for JSON": (post("text/plain; application/json"), 415),
    "JSON of another site": (post(origin="https://evil.example"), 403),
    "JSON of a page without origin": (post(origin="null"), 403),
    "JSON of another port": (post(origin="http://localhost:3001"), 403),
    "JSON of the same machine under another name": (post(origin="http://127.0.0.1:3000"), 403),
    "JSON with another site's Referer": (post(referer="https://evil.example/x"), 403),
    "JSON that the browser calls cross-site": (post(sec_fetch_site="cross-site"), 403),
    "JSON that the browser calls same-site": (post(sec_fetch_site="same-site"), 403),
    "JSON of a name that was pointed here": (post(host="evil.example:3000", origin="http://evil.example:3000"), 403),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_what_a_strangers_page_sends_launches_a_run_on_the_bare_server_and_none_behind_the_gate(
    site: Site, name: str
) -> None:
    ask, status = STRANGERS[name]

    ask(bare(site), f"bare: {name}")
    answer = ask(gate(site), f"gate: {name}")

    assert answer.status_code == status, answer.text
    assert f"bare: {name}" in site.launched()
    assert f"gate: {name}" not in site.launched()
    assert not any(header.startswith("access-control") for header in answer.headers)


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"host": "evil.example:3000"}, {}],
    ids=["of another site", "of a name that was pointed here", "of a form without a type"],
)
@pytest.mark.parametrize("path", REPORTS)
def test_reports_are_taken_from_anywhere_by_the_bare_server_and_not_by_the_gate(
    site: Site, path: str, headers: dict[str, str]
) -> None:
    address = f"/{path}/model?{urlencode(REPORTS[path])}"
    before = site.reported()
    assert bare(site).post(address, headers=headers).is_success
    assert site.reported() == before + 1

    answer = gate(site).post(address, headers=headers | (JSON if headers else {}))

    assert answer.status_code == (403 if headers else 415)
    assert site.reported() == before + 1


def test_logs_of_runs_go_to_any_page_by_the_bare_servers_websocket_and_not_by_the_gates(site: Site) -> None:
    post()(bare(site), "watched")
    run = site.instance.get_runs(limit=1)[0].run_id
    query = f'subscription {{ pipelineRunLogs(runId: "{run}") {{ ... on PipelineRunLogsSubscriptionSuccess {{ '
    query += "messages { __typename } } } }"

    def watch(client: TestClient, origin: str) -> str:
        with client.websocket_connect(
            "/graphql", ["graphql-ws"], headers={"host": "localhost:3000", "origin": origin}
        ) as socket:
            socket.send_json({"type": "start", "id": "1", "payload": {"query": query}})
            return str(socket.receive_json())

    assert "RunEnqueuedEvent" in watch(bare(site), "https://evil.example")
    assert "RunEnqueuedEvent" in watch(gate(site), HOME)
    for origin in ("https://evil.example", "http://localhost:3001", "null"):
        with pytest.raises(WebSocketDisconnect):
            watch(gate(site), origin)
    with pytest.raises(WebSocketDisconnect):
        watch(locked(site), HOME)


def test_a_mutation_by_websocket_launches_nothing(site: Site) -> None:
    headers = {"host": "localhost:3000", "origin": HOME}
    with gate(site).websocket_connect("/graphql", ["graphql-ws"], headers=headers) as socket:
        socket.send_json({"type": "start", "id": "1", "payload": {"query": launch("by websocket")}})
        assert socket.receive_json()["type"] == "error"
    assert "by websocket" not in site.launched()


PEOPLE: dict[str, Ask] = {
    "the UI's own page": post(origin=HOME, referer=f"{HOME}/jobs", sec_fetch_site="same-origin"),
    "a script": post(),
    "a script that names the encoding": post("application/json; charset=utf-8"),
    "a script that spells the type otherwise": post("Application/JSON"),
    "a tunnel with another port": post(host="127.0.0.1:8080", origin="http://127.0.0.1:8080"),
    "IPv6": post(host="[::1]:3000", origin="http://[::1]:3000"),
}


@pytest.mark.parametrize("name", PEOPLE)
def test_what_people_send_is_obeyed(site: Site, name: str) -> None:
    answer = PEOPLE[name](gate(site), name)

    assert answer.status_code == 200, answer.text
    assert name in site.launched()


@pytest.mark.parametrize("path", REPORTS)
def test_a_script_reports_assets(site: Site, path: str) -> None:
    before = site.reported()
    answer = gate(site).post(f"/{path}/model", json=REPORTS[path] | ({"passed": True} if "check" in path else {}))
    assert answer.status_code == 200, answer.text
    assert site.reported() == before + 1


@pytest.mark.parametrize("path", ["/", "/assets/model", "/server_info", "/manifest.json", "/login"])
def test_pages_files_and_links_from_elsewhere_are_answered_as_by_the_bare_server(site: Site, path: str) -> None:
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    answer = gate(site).get(path, headers=link)
    assert answer.status_code == 200
    assert len(answer.content) == len(bare(site).get(path).content)


def test_downloads_and_the_page_for_queries_are_the_bare_servers(site: Site) -> None:
    run = site.launch("kept")
    assert gate(site).get(f"/download_debug/{run}").headers["content-type"] == "application/gzip"
    manager = site.instance.compute_log_manager
    assert isinstance(manager, LocalComputeLogManager)
    log = Path(manager.get_captured_local_path([run, "compute_logs", "step"], "out"))
    log.parent.mkdir(parents=True)
    log.write_text("what the step printed\n")
    assert gate(site).get(f"/logs/{run}/compute_logs/step/out").text == log.read_text()
    assert gate(site).get("/graphql", headers=PAGE).text == bare(site).get("/graphql", headers=PAGE).text


@pytest.mark.parametrize("query", ["{ version }", "query A { version } query B { version }"])
def test_queries_by_get_are_answered(site: Site, query: str) -> None:
    address = by_get(query, operationName="A" if "A" in query else "")
    assert gate(site).get(address).json() == bare(site).get(address).json()


@pytest.mark.parametrize(
    "query",
    ["{a" * 5_000, "{ " + "a" * LONGEST_QUERY + " }", "mutation", ""],
    ids=["deep", "long", "broken", "empty"],
)
def test_a_query_that_cannot_be_judged_is_refused_with_the_reason(site: Site, query: str) -> None:
    answer = gate(site, read_only=True).post("/graphql", json={"query": query})
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["message"]


@pytest.mark.parametrize("body", [b"[]", b'[{"query": "{ version }"}]', b"{}", b"{", b'{"query": 1}', b'"x"', b"\xff"])
def test_a_body_that_is_no_single_request_is_refused_with_the_reason(site: Site, body: bytes) -> None:
    answer = gate(site).post("/graphql", content=body, headers=JSON)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["message"]


def test_a_body_without_end_is_refused(site: Site) -> None:
    answer = gate(site).post("/graphql", content=b" " * 16_000_001, headers=JSON)
    assert answer.status_code == 413


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/graphql", "/"])
def test_other_methods_and_preflights_are_refused(site: Site, method: str, path: str) -> None:
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    answer = gate(site).request(method, path, headers=headers)
    assert answer.status_code == 405
    assert not any(header.startswith("access-control") for header in answer.headers)


def test_nothing_is_posted_elsewhere(site: Site) -> None:
    assert gate(site).post("/assets", json={}).status_code == 405


@pytest.mark.parametrize("name", ["host", "origin", "content-type"])
def test_a_header_that_is_there_twice_is_refused(site: Site, name: str) -> None:
    headers = [("content-type", "application/json"), ("host", "localhost:3000"), ("origin", HOME)]
    twice = [*headers, *((key, value) for key, value in headers if key == name)]
    assert gate(site).post("/graphql", content=posted("{ version }"), headers=headers).status_code == 200
    assert gate(site).post("/graphql", content=posted("{ version }"), headers=twice).status_code == 400


# Names


@pytest.mark.parametrize(
    ("bound", "host", "is_own"),
    [
        ("127.0.0.1", "localhost:3000", True),
        ("127.0.0.1", "LOCALHOST", True),
        ("127.0.0.1", "[::1]:3000", True),
        ("127.0.0.1", "192.168.0.7:3000", False),
        ("127.0.0.1", "localhost.evil.example", False),
        ("127.0.0.1", "127.0.0.1.evil.example:3000", False),
        ("127.0.0.1", "evil.example@localhost:3000", False),
        ("127.0.0.1", "localhost:3000/evil.example", False),
        ("127.0.0.1", "merges.example.org", True),
        ("127.0.0.1", "sub.merges.example.org", False),
        ("127.0.0.1", "", False),
        ("192.168.0.7", "192.168.0.7:3000", True),
        ("192.168.0.7", "192.168.0.8:3000", False),
        ("0.0.0.0", "192.168.0.8:3000", True),
        ("::", "[2001:db8::1]:3000", True),
        ("0.0.0.0", "evil.example:3000", False),
        ("box", "box:3000", True),
    ],
)
def test_the_server_answers_to_its_own_names_only(bound: str, host: str, is_own: bool) -> None:
    assert (host in OwnNames(bound, ["Merges.example.org"])) is is_own


def test_an_unknown_name_is_told_what_to_set(site: Site) -> None:
    answer = gate(site).get("/", headers={"host": "merges.example.org"})
    assert answer.status_code == 403
    assert "merges.example.org" in answer.text and "MERGE_ASSETS_UI_HOSTS" in answer.text
    assert gate(site, names=("merges.example.org",)).get("/", headers={"host": "merges.example.org"}).status_code == 200


def test_behind_a_proxy_that_passes_the_name_on_the_page_is_the_servers_own(site: Site) -> None:
    behind = gate(site, names=("merges.example.org",))
    own = post(host="merges.example.org", origin="https://merges.example.org", sec_fetch_site="same-origin")
    assert own(behind, "behind a proxy").status_code == 200
    other = post(host="merges.example.org", origin="https://other.example.org", sec_fetch_site="same-site")
    assert other(behind, "beside it").status_code == 403
    assert site.launched() >= {"behind a proxy"} and "beside it" not in site.launched()


# Headers


@pytest.mark.parametrize("path", ["/", "/graphql?query={version}", "/assets", "/login"])
def test_every_answer_forbids_frames_and_guessing(site: Site, path: str) -> None:
    for client in (gate(site), locked(site)):
        headers = client.get(path, headers=PAGE).headers
        assert headers["x-frame-options"] == "SAMEORIGIN"
        assert "frame-ancestors" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"


# Login


def test_without_the_token_nothing_is_answered_but_the_login_page_and_whether_the_server_lives(site: Site) -> None:
    client = locked(site)
    assert client.get("/healthz").text == "ok"
    assert client.get("/server_info").status_code == 401
    assert post()(client, "nobody").status_code == 401
    assert client.post("/report_asset_materialization/model", json={}).status_code == 401
    page = client.get("/runs?q=1", headers=PAGE)
    assert page.status_code == 401 and 'type="password"' in page.text and 'value="/runs?q=1"' in page.text
    assert "dagster" not in page.text.lower()
    assert "nobody" not in site.launched()


def test_a_script_sends_the_token_as_bearer(site: Site) -> None:
    client = locked(site)
    assert post(authorization=f"Bearer {TOKEN}")(client, "somebody").status_code == 200
    assert post(authorization="Bearer wrong")(client, "nobody").status_code == 401
    assert post(authorization=f"Basic {TOKEN}")(client, "nobody").status_code == 401
    assert client.get("/server_info", headers={"authorization": "Bearer ü".encode()}).status_code == 401
    assert "somebody" in site.launched() and "nobody" not in site.launched()


def test_logging_in_gives_a_cookie_that_no_script_and_no_other_site_sees_and_logging_out_takes_it(site: Site) -> None:
    client = locked(site)
    assert "not the token" in client.post("/login", data={"token": "wrong"}).text
    assert COOKIE not in client.cookies

    answer = client.post("/login", data={"token": TOKEN, "next": "/runs?q=1"}, headers={"origin": HOME})

    assert (answer.status_code, answer.headers["location"]) == (303, "/runs?q=1")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Secure" not in cookie and TOKEN not in cookie
    assert post(origin=HOME)(client, "logged in").status_code == 200
    assert "Log out" in client.get("/login").text
    assert client.get("/logout").status_code == 200 and client.get("/server_info").status_code == 200

    assert client.post("/logout").headers["location"] == "/login"
    assert client.get("/server_info").status_code == 401


def test_another_site_can_neither_log_people_in_nor_out(site: Site) -> None:
    client = locked(site)
    for path in ("/login", "/logout"):
        answer = client.post(path, data={"token": TOKEN}, headers={"origin": "https://evil.example"})
        assert answer.status_code == 403 and "set-cookie" not in answer.headers


def test_the_cookie_is_secure_where_the_browser_speaks_tls(site: Site) -> None:
    client = gate(site, names=("merges.example.org",), login=Login(SecretStr(TOKEN)))
    headers = {"host": "merges.example.org", "origin": "https://merges.example.org"}
    assert "Secure" in client.post("/login", data={"token": TOKEN}, headers=headers).headers["set-cookie"]


@pytest.mark.parametrize("target", ["//evil.example", "/\\evil.example", "https://evil.example", "", "/a\r\nx: y"])
def test_after_the_login_nobody_is_sent_elsewhere(site: Site, target: str) -> None:
    answer = locked(site).post("/login", data={"token": TOKEN, "next": target})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


@pytest.mark.parametrize("change", ["later", "longer", "signature", "another token", "empty", "half"])
def test_a_session_that_ended_or_was_not_signed_here_is_none(
    site: Site, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = locked(site)
    client.post("/login", data={"token": TOKEN})
    ends, _, signature = client.cookies[COOKIE].partition(".")
    assert client.get("/server_info").status_code == 200
    forged = {
        "later": f"{ends}.{signature}",
        "longer": f"{int(ends) + 1}.{signature}",
        "signature": f"{ends}.{'0' * len(signature)}",
        "another token": f"{ends}.{signature}",
        "empty": "",
        "half": ends,
    }[change]
    if change == "later":
        now = time.time()
        monkeypatch.setattr("merge_assets.pipeline.front.login.time.time", lambda: now + SESSION_SECONDS + 1)
    if change == "another token":
        client = locked(site, "another token, just as long")
    client.cookies.clear()
    answer = client.get("/server_info", headers={"cookie": f"{COOKIE}={forged}"})
    assert answer.status_code == 401


def test_along_a_link_from_elsewhere_the_page_asks_for_itself_again_as_only_then_the_cookie_comes(site: Site) -> None:
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    answer = locked(site).get("/runs", headers=PAGE | link)
    assert answer.status_code == 200 and 'http-equiv="refresh"' in answer.text


# Read-only


def test_a_read_only_server_shows_everything_and_changes_nothing(site: Site) -> None:
    client = gate(site, read_only=True)
    assert client.post("/graphql", json={"query": "{ version }"}).json()["data"]["version"]
    assert client.get("/assets").status_code == 200
    before = site.reported()
    mixed = f"query Look {{ version }} {launch('read-only')}"
    for body in ({"query": launch("read-only")}, {"query": mixed, "operationName": "Launch"}):
        answer = client.post("/graphql", json=body)
        assert answer.status_code == 403 and "read-only" in answer.json()["errors"][0]["message"]
    for path in REPORTS:
        assert client.post(f"/{path}/model", json=REPORTS[path]).status_code == 403
    assert "read-only" not in site.launched() and site.reported() == before
