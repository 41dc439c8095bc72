"""Contract of the gate in a real browser: a page of another origin obtains nothing, and people work as before.

The page tries whatever a page can send. Against the bare web server it does launch runs, report assets and read logs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from merge_assets.pipeline.front.gate import Gate
from merge_assets.pipeline.front.login import Login
from merge_assets.pipeline.front.origins import OwnNames
from tests.front_support import LAUNCH, Site, dagster_site, launch, listening, posted

CHROMIUM = Path("/usr/bin/chromium")
PAGE = Path(__file__).with_name("front_attack.html")
TOKEN = "correct horse battery staple"
PATIENCE = 120_000  # milliseconds, on a busy machine
LAUNCHES = {"image", "fetch by GET", "form", "form of plain text", "form with files", "fetch of plain text", "beacon"}
LAUNCHES |= {"fetch of text that passes for JSON"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="needs /usr/bin/chromium (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with dagster_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    # A stranger's name that leads to this machine, as after DNS rebinding.
    arguments = ["--no-sandbox", "--host-resolver-rules=MAP evil.example 127.0.0.1"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


def attacker(target: str, run: str) -> Starlette:
    filled = PAGE.read_text().replace("TARGET", target).replace("RUN", run).replace("LAUNCH", LAUNCH)

    async def attack(request: Request) -> HTMLResponse:
        return HTMLResponse(filled)

    return Starlette(routes=[Route("/", attack)])


def shoot(page: Any, name: str) -> None:
    """Keep what the browser shows, where a person asked for it."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"], ids=["another site", "another port"])
def test_a_page_of_another_origin_launches_reports_and_reads_on_the_bare_server_and_nothing_behind_the_gate(
    site: Site, page: Any, host: str
) -> None:
    """``localhost`` is another site than the server's ``127.0.0.1``; another port is the same site, with its cookies."""
    seen: dict[str, tuple[set[str], int, str]] = {}
    for name, app in {"bare": site.app, "gate": Gate(site.app, OwnNames("127.0.0.1"))}.items():
        with ExitStack() as stack:
            site.forget()
            run = site.launch("victim")
            port = stack.enter_context(listening(app))
            elsewhere = stack.enter_context(listening(attacker(f"http://127.0.0.1:{port}", run)))
            page.goto(f"http://{host}:{elsewhere}/")
            page.wait_for_function("document.title == 'done'")
            shoot(page, f"attack-{host}-{name}")
            said = page.locator("tr", has_text="websocket").inner_text()
            page.goto("about:blank")
        seen[name] = (site.launched() - {"victim"}, site.reported(), said)

    launched, reported, said = seen["bare"]
    assert launched == LAUNCHES
    assert reported == 3
    assert "RunEnqueuedEvent" in said
    launched, reported, said = seen["gate"]
    assert launched == set()
    assert reported == 0
    assert "no connection" in said


def test_a_name_that_was_pointed_here_is_the_bare_servers_own_and_not_the_gates(site: Site, page: Any) -> None:
    ask = "body => fetch('/graphql', {method: 'POST', headers: {'Content-Type': 'application/json'}, body})"
    ask += ".then(answer => answer.status)"
    for name, app, status in (("bare", site.app, 200), ("gate", Gate(site.app, OwnNames("127.0.0.1")), 403)):
        site.forget()
        with listening(app) as port:
            page.goto(f"http://evil.example:{port}/server_info")
            shoot(page, f"rebound-{name}")
            assert page.evaluate(ask, posted(launch("rebound")).decode()) == status
            page.goto("about:blank")
        assert site.launched() == ({"rebound"} if name == "bare" else set())


def test_people_log_in_and_work_with_the_ui_through_the_gate(site: Site, page: Any) -> None:
    site.forget()
    problems: list[str] = []
    page.on("response", lambda answer: answer.status >= 400 and problems.append(f"{answer.status} {answer.url}"))
    frames: list[str | bytes] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: frames.append(frame)))
    with listening(Gate(site.app, OwnNames("127.0.0.1"), login=Login(SecretStr(TOKEN)))) as port:
        home = f"http://127.0.0.1:{port}"
        page.goto(f"{home}/jobs")
        shoot(page, "login")
        page.get_by_label("Token").fill("something else")
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("alert").wait_for()
        page.get_by_label("Token").fill(TOKEN)
        problems.clear()
        page.get_by_role("button", name="Log in").click()
        page.get_by_text("make", exact=True).first.wait_for()
        assert page.url == f"{home}/jobs"
        shoot(page, "jobs")

        page.goto(f"{home}/locations/site/jobs/make/playground")
        with page.expect_response(lambda answer: "mutation Launch" in (answer.request.post_data or "")) as launched:
            page.get_by_role("button", name="Launch Run").click()
        assert launched.value.status == 200
        (run,) = site.instance.get_runs()
        page.goto(f"{home}/runs/{run.run_id}")
        page.get_by_text("Run queued").wait_for()
        shoot(page, "run")
        deadline = time.monotonic() + PATIENCE / 1000
        while not any("RunEnqueuedEvent" in str(frame) for frame in frames):  # the log comes by the websocket
            assert time.monotonic() < deadline, frames
            page.wait_for_timeout(100)

        # A link on another site's page leads to the UI, though the cookie does not come along.
        page.goto("about:blank")
        page.set_content(f"<a href='{home}/assets'>there</a>")
        page.get_by_text("there").click()
        page.get_by_text("model").first.wait_for()
        shoot(page, "assets")
        page.goto(f"{home}/login")
        page.get_by_role("button", name="Log out").click()
        page.get_by_label("Token").wait_for()
        page.goto("about:blank")
    assert [problem for problem in problems if "manifest.json" not in problem] == []
