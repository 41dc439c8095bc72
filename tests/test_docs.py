"""The commands, recipes and programs that README and docs show are run here as they stand, page by page, each page in order.

Every command is either run or listed with the reason why it is not; a reason that no command needs any more is an error.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from merge_assets import api
from merge_assets.cli.app import app
from merge_assets.recipe import load_recipes
from merge_assets.settings import Settings, load_settings
from tests.commands import command_environment

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / folder / "README.md" for folder in ("deploy", "examples")),
]
PROGRAMS = frozenset(
    "apt-get aws cp curl dagster docker export git lm_eval make merge-assets mkdir pbpaste pip python".split()  # noqa: SIM905
)

NOT_RUN = {
    r"make ": "installs, or runs for minutes; CI runs `make test`, which is this",
    r"docker ": "needs Docker; tests/test_deploy.py looks at the files and runs the services without it",
    r"export ": "sets what only its reader has",
    r"apt-get ": "needs root and Debian",
    r"aws ": "needs an account; tests/cli/test_store.py reads the rule",
    r"curl ": "asks a UI that runs; tests/pipeline/test_front_serve.py asks likewise",
    r"lm_eval ": "evaluates for minutes; tests/evaluation/test_runner.py runs what a result records",
    r"merge-assets search best": "tries candidates for minutes; tests/api/test_search.py searches",
    r"merge-assets (plan|build) '?attention": "is of models that nobody has; tests/api/test_sweep.py builds such a sweep",
    r"merge-assets build best": "searches for minutes; tests/pipeline/test_searches.py builds so",
    r"merge-assets (recipes tag|status --sel|leaderboard gr|evaluate att|store ls 'a)": "is of recipes that nobody has;"
    " tests/cli/test_selections.py chooses likewise",
    r"merge-assets build mine": "evaluates for minutes; tests/pipeline/test_run.py builds through Dagster",
    r"merge-assets import Gille/": "needs the Hub; tests/importing/test_sources.py imports from a local one",
    r"merge-assets compare my-merge org/": "needs the Hub; tests/api/test_likeness.py compares with a local one",
    r"python -m benchmarks\.": "measures for minutes, in a clone",
    r"python -m tests\.s3\.daemon": "is a benchmark against a real S3 server",
    r"python examples/(prepare_texts|train)\.py": "trains for half an hour",
}

NO_RECIPE = {  # blocks of YAML by page and first line
    (
        "docs/suites.md",
        "# tasks/poems_perplexity.yaml",
    ): "lm-eval's own format; suites/tasks has seven such files in use",
    ("deploy/README.md", "dagster-user-deployments:"): "values of Dagster's Helm chart",
}

CARD = "# A merge\n\n```yaml\nmerge_method: passthrough\nmodels:\n  - model: examples/checkpoints/base\n```\n"
PAGE = "<html><pre><code>merge_method: passthrough\nmodels:\n  - model: examples/checkpoints/base\n</code></pre></html>"


@dataclass(frozen=True)
class Block:
    """A fenced or indented block of a page.

    Attributes:
        page: relative to the project.
        line: of its first line.
        kind: the word after the fence; empty for plain and indented ones.
        text: without the indentation.
    """

    page: str
    line: int
    kind: str
    text: str

    def commands(self) -> list[str]:
        """Its commands, continued lines joined and comments taken off; none if it shows something else."""
        joined = self.text.replace("\\\n", " ")
        commands = [" ".join(re.sub(r"\s#\s.*", "", line).split()) for line in joined.splitlines() if line.strip()]
        return commands if not self.kind and all(program(command) in PROGRAMS for command in commands) else []


def program(command: str) -> str:
    """What a command runs, without the folder of the environment."""
    words = [word for word in command.split() if not re.match(r"[A-Z_]+=", word)]
    return words[0].removeprefix(".venv/bin/") if words else ""


def blocks(file: Path) -> Iterator[Block]:
    page = str(file.relative_to(ROOT))
    kind: str | None = None
    held: list[tuple[int, str]] = []

    def taken(kind: str) -> Iterator[Block]:
        lines = [line for _, line in held]
        while lines and not lines[-1].strip():
            lines.pop()
        if lines:
            indent = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
            yield Block(page, held[0][0], kind, "\n".join(line[indent:] for line in lines))
        held.clear()

    for number, line in enumerate([*file.read_text("utf-8").splitlines(), "."], 1):
        fence = re.match(r"\s*```(\w*)", line)
        if fence:
            yield from taken(kind or "")
            kind = fence[1] if kind is None else None
        elif kind is not None or line.startswith("    ") or (held and not line.strip()):
            held.append((number, line))
        else:
            yield from taken("")


BLOCKS = [block for page in PAGES for block in blocks(page)]


def why_not_run(command: str) -> list[str]:
    words = [word for word in command.split() if not re.match(r"[A-Z_]+=", word)]
    return [reason for reason in NOT_RUN if re.match(reason, " ".join(words).removeprefix(".venv/bin/") + " ")]


def of_page(page: str) -> list[str]:
    return [c for block in BLOCKS if block.page == page for c in block.commands() if not why_not_run(c)]


RUN = sorted({block.page for block in BLOCKS if of_page(block.page) or block.kind == "python"} - {"docs/methods.md"})
"""docs/methods.md has a package instead, which tests/methods/test_plugin.py installs and uses."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what a clone has, with the environment of this test as its own, and what the pages take for granted."""
    for folder in ("recipes/demo", "suites", "deploy", "examples/checkpoints", "examples/searches"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for file in ("definitions.py", "workspace.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "var" / "dagster").mkdir(parents=True)  # "after the first build"
    (tmp_path / "card.md").write_text(CARD)
    (tmp_path / "page.html").write_text(PAGE)
    copied = tmp_path / "bin" / "pbpaste"
    copied.parent.mkdir()
    copied.write_text(f"#!/bin/sh\ncat <<'END'\n{CARD}END\n")
    copied.chmod(0o755)
    return tmp_path


def run(command: str, project: Path) -> None:
    path = os.pathsep.join([str(project / ".venv/bin"), str(project / "bin"), os.environ["PATH"]])
    environment = command_environment(project) | {"PATH": path}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr


def a_version_in_the_store(project: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The line that docs/store.md takes as its example, in a project's store; its version."""
    text = (project / "recipes/demo/slerp-gradient.yaml").read_text()
    (project / "recipes" / "slerp-7b.yaml").write_text(text.replace("name: slerp-gradient", "name: slerp-7b"))
    monkeypatch.chdir(project)
    workspace = api.Workspace.open(Settings(root=project, device="cpu"))
    return api.build(workspace, workspace.recipe("slerp-7b")).artifact.version


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_what_a_page_shows_can_be_done_in_its_order(page: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = a_version_in_the_store(project, monkeypatch) if page == "docs/store.md" else ""
    for block in BLOCKS:
        if block.page != page:
            continue
        if block.kind == "yaml" and page == "README.md":
            (project / "recipes" / "mine.yaml").write_text(block.text)
        if place := re.match(r"# (recipes/\S+\.yaml)\n", block.text):
            (project / place[1]).write_text(block.text)
        for command in block.commands():
            if not why_not_run(command):
                run(command.replace("@3cc2", f"@{version[:6]}"), project)
        if block.kind == "python":
            run(f"python -c {shlex.quote(block.text)}", project)


def test_every_reason_for_not_running_a_command_is_needed() -> None:
    everything = {command for block in BLOCKS for command in block.commands()}
    assert {reason for command in everything for reason in why_not_run(command)} == NOT_RUN.keys()
    assert any("merge-assets plan" in command for command in everything)  # commands are found at all


def test_blocks_of_commands_hold_nothing_else() -> None:
    """A line that begins with a program stands in a block of which all lines do; else it would be passed over."""
    mixed = [
        f"{block.page}:{block.line}"
        for block in BLOCKS
        if not block.kind and not block.commands() and program(block.text.splitlines()[0]) in PROGRAMS
    ]
    assert mixed == []


def verbs() -> dict[str, set[str]]:
    """Every verb, ``store ls`` and the like included, with its options."""
    found: dict[str, set[str]] = {}

    def visit(command: object, name: str) -> None:
        for verb, inner in getattr(command, "commands", {}).items():
            visit(inner, f"{name} {verb}".strip())
        found[name] = {o for parameter in command.params for o in (*parameter.opts, *parameter.secondary_opts)} | {
            "--help"
        }  # type: ignore[attr-defined]

    visit(typer.main.get_command(app), "")
    return found


MENTIONS = [
    (str(page.relative_to(ROOT)), text)
    for page in PAGES
    for text in re.findall(r"`merge-assets ([^`]+)`", page.read_text("utf-8").replace("\n", " "))
]


@pytest.mark.parametrize(("page", "text"), MENTIONS)
def test_a_command_that_a_sentence_mentions_exists_with_its_options(page: str, text: str) -> None:
    known = verbs()
    words = text.split()
    verb = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
    assert verb in known, f"{page}: {text}"
    assert set(re.findall(r"--[a-z-]+", text)) <= known[verb], f"{page}: {text}"


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.kind == "yaml"], ids=lambda b: f"{b.page}:{b.line}")
def test_recipes_suites_and_settings_that_are_shown_are_read(block: Block, tmp_path: Path) -> None:
    if (block.page, block.text.splitlines()[0]) in NO_RECIPE:
        return
    file = tmp_path / "shown.yaml"
    file.write_text(block.text)
    if "merge_method:" in block.text:
        assert load_recipes(file)
    elif block.page == "docs/suites.md":
        from merge_assets.evaluation.suite import load_suite

        (tmp_path / "tasks").mkdir()
        (tmp_path / "texts").mkdir()
        (tmp_path / "texts/poems.txt").write_text("A line.\n")
        assert load_suite(file).tasks
    else:
        pytest.fail("neither a recipe nor a suite; if that is right, say so in NO_RECIPE")


def test_settings_and_rules_that_are_shown_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MERGE_ASSETS_")]:
        monkeypatch.delenv(name)
    shown = {(block.page, block.kind): block.text for block in BLOCKS}
    (tmp_path / "merge-assets.toml").write_text(shown["docs/operation.md", "toml"])
    assert load_settings(tmp_path / "merge-assets.toml").store == "s3://my-bucket/merges"
    assert json.loads(shown["docs/store.md", "json"])["Rules"]
