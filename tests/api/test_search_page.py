"""The page of a search in a project: written once, or now and then while the search goes on, and whole whenever it is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from merge_assets import api
from merge_assets.search.trials import Trial
from merge_assets.settings import Settings
from tests.commands import run_command
from tests.search_project import PLACE, RECIPE
from tests.synthetic import write_llama

OF_SIZE = RECIPE.replace("{suite: tiny}", "{size: parameters}").replace("trials: 4", "trials: 6")
REFRESH = '<meta http-equiv="refresh"'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "recipes").mkdir(parents=True)
    for seed, name in enumerate("ab"):
        write_llama(root / name, 2, seed=seed)
    (root / "recipes/best.yaml").write_text(OF_SIZE)
    (root / "merge-assets.toml").write_text("default_suites = []\ndevice = 'cpu'\n")
    return root


def opened(root: Path) -> api.Workspace:
    return api.Workspace.open(Settings(root=root, device="cpu", default_suites=[]))


def test_the_page_is_kept_while_the_search_goes_on_and_ends_with_it(project: Path) -> None:
    space, file = opened(project), project / "live.html"
    seen: list[str] = []
    with api.live_page(api.open_search(space, "best"), file, trials=3) as page:
        seen.append(file.read_text())

        def report(trial: Trial) -> None:
            assert page.refresh() == ""
            seen.append(file.read_text())

        api.search(space, "best", trials=3, report=report)
    done = file.read_text()
    assert all(REFRESH in one and one.endswith("</html>\n") for one in seen) and len(seen) == 4
    assert "0 of 3</b>" in seen[0]
    assert REFRESH not in done and "3 of 3</b>" in done and 'id="trials-0"' in done
    assert [one.name for one in project.glob(".*.tmp")] == []


def test_a_search_that_ends_with_an_error_reloads_its_page_no_more(project: Path) -> None:
    file = project / "live.html"
    with pytest.raises(RuntimeError), api.live_page(api.open_search(opened(project), "best"), file):
        raise RuntimeError
    assert REFRESH not in file.read_text()


def test_a_page_that_cannot_be_written_is_an_error_before_anything_is_tried(project: Path) -> None:
    done = run_command("search", "best", "--page", "nowhere/live.html", root=project)
    assert done.code == 2 and "the page nowhere/live.html cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    listed = json.loads(run_command("search", "best", "show", "--json", root=project).stdout)
    assert listed["trials"] == []


def test_the_commands_write_pages(project: Path) -> None:
    space = opened(project)
    api.search(space, "best")
    done = run_command("search", "best", "page", root=project)
    assert done.code == 0, done.stderr
    text = (project / "best.html").read_text()
    assert "slerp of a, b" in text and "parameters ↓" in text and PLACE in text and REFRESH not in text
    wrong = run_command("search", "best", "show", "--page", "x.html", root=project)
    assert wrong.code == 2 and "`merge-assets search best page x.html` writes the page once" in wrong.stderr


def test_the_pictures_of_a_search_are_those_of_its_page(project: Path) -> None:
    space = opened(project)
    found = api.search(space, "best")
    api.write_search_page(found, project / "best.html")
    pictures = api.search_pictures(found)
    text = (project / "best.html").read_text()
    assert pictures and all(one.svg in text and one.title in text for one in pictures)
