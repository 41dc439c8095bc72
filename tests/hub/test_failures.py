"""Whatever the Hub does, every verb that asks it ends with one line, exit code 2 and the kind: no traceback."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from merge_assets.cli import main
from merge_assets.evaluation.suite import load_suites
from tests.commands import Done, command_environment, run_command
from tests.hub_server import HubServer
from tests.synthetic import write_llama

BASE, TOWER = "org/base-7b", "org/tower-7b"
RECIPE = f"""\
merge_method: linear
models:
  - {{model: {BASE}, parameters: {{weight: 1}}}}
  - {{model: {TOWER}, parameters: {{weight: 1}}}}
"""

Break = Callable[[HubServer, pytest.MonkeyPatch], None]


def _refused(status: int, **headers: str) -> Break:
    def make(server: HubServer, _: pytest.MonkeyPatch) -> None:
        server.refuse["*"] = (status, {name.replace("_", "-"): value for name, value in headers.items()})

    return make


def _offline(_: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def _dead(_: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MERGE_ASSETS_HUB_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")


def _silent(server: HubServer, _: pytest.MonkeyPatch) -> None:
    server.down = True


def _empty(server: HubServer, _: pytest.MonkeyPatch) -> None:
    server.repositories.clear()


def _gated(server: HubServer, _: pytest.MonkeyPatch) -> None:
    server.gate(BASE, "hf_secret")


def _truncated(server: HubServer, _: pytest.MonkeyPatch) -> None:
    server.says[BASE] = b'{"id": "org/base-7b", "sha": "0123456789abcdef0123456789ab'


def _cut(server: HubServer, _: pytest.MonkeyPatch) -> None:
    server.cut[""] = 20


FAILURES: dict[str, tuple[Break, str, str]] = {
    "offline": (_offline, "hub.offline", "offline mode is on; unset HF_HUB_OFFLINE"),
    "a dead endpoint": (_dead, "hub.unreachable", "cannot be reached"),
    "a server that hangs up": (_silent, "hub.unreachable", "cannot be reached"),
    "an answer that breaks off": (_cut, "hub.unreachable", "cannot be reached"),
    "404": (_empty, "hub.missing", "has no such model, or it is private"),
    "401": (_refused(401), "hub.refused", "answers 401"),
    "403": (_refused(403), "hub.refused", "answers 403"),
    "gated": (_gated, "hub.gated", "accept the terms at"),
    "429": (_refused(429, Retry_After="77"), "hub.limited", "too many requests"),
    "500": (_refused(500), "hub.failing", "answers 500"),
    "truncated JSON": (_truncated, "hub.failing", "an answer that is not a Hub's"),
}

VERBS: dict[str, tuple[tuple[str, ...], str]] = {
    "plan": (("plan", "recipe.yaml"), f"recipe.yaml: {BASE}"),
    "plan of a name": (("plan", "stored"), f"recipes/stored.yaml: {BASE}"),
    "plan of what is made of another": (("plan", "child"), f"recipes/stored.yaml: {BASE}"),
    "plan with an adapter": (("plan", "adapted"), f"recipes/adapted.yaml: {BASE}"),
    "merge": (("merge", "recipe.yaml", "out"), f"recipe.yaml: {BASE}"),
    "merge with what is folded in": (("merge", "parent", "out"), f"recipes/folded.yaml: {BASE}"),
    "snr": (("snr", BASE), BASE),
    "snr --out": (("snr", BASE, "--out", "out"), BASE),
    "evaluate": (("evaluate", BASE, "--suite", "demo"), BASE),
    "evaluate --out": (("evaluate", BASE, "--suite", "demo", "--out", "out"), BASE),
    "import": (("import", BASE), BASE),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = write_llama(tmp_path_factory.mktemp("model") / "base", 2)
    read = {path.name: path.read_bytes() for path in folder.iterdir()}
    return read | {"mergekit_config.yml": b"merge_method: passthrough\nmodels: [{model: ./local}]\n"}


@pytest.fixture
def server(files: dict[str, bytes]) -> Iterator[HubServer]:
    with HubServer() as server:
        for name in (BASE, TOWER):
            server.commit(name, files)
        yield server


@pytest.fixture
def project(tmp_path: Path, server: HubServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with recipes on models of the Hub, which is the working directory."""
    for name in ("recipes", "suites"):
        (tmp_path / name).mkdir()
    (tmp_path / "merge-assets.toml").write_text("")
    write_llama(tmp_path / "local", 2)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    single = "merge_method: passthrough\nmodels: [{{model: {}}}]\n"
    recipes = {
        "stored": RECIPE,
        "child": single.format("stored"),
        "folded": f"materialize: false\n{RECIPE}",
        "parent": single.format("folded"),
        "adapted": single.format(f"./local+{BASE}"),
    }
    for name, text in recipes.items():
        (tmp_path / "recipes" / f"{name}.yaml").write_text(text)
    (tmp_path / "suites" / "demo.yaml").write_text(
        "description: one task\ntasks:\n  - {task: arc_easy, metric: acc, shots: 0}\n"
    )
    assert load_suites([tmp_path / "suites"]).broken == []
    for name in command_environment(tmp_path).keys() - {"HF_HUB_OFFLINE"}:
        monkeypatch.setenv(name, command_environment(tmp_path)[name])
    monkeypatch.setenv("MERGE_ASSETS_HUB_ENDPOINT", server.url)
    monkeypatch.setenv("MERGE_ASSETS_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """The command line, in this process."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["merge-assets", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Done(int(ended.value.code or 0), said.out, said.err)

    yield run
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_says_in_one_line_what_the_hub_did(
    verb: str, failure: str, project: Path, server: HubServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (arguments, place), (make, _, words) = VERBS[verb], FAILURES[failure]
    make(server, monkeypatch)
    before = sorted(project.rglob("*"))
    done = run(*arguments)
    (line,) = done.stderr.replace(f"{project}/", "").splitlines()
    assert done.code == 2
    assert line.startswith(f"error: {place}") and words in line
    assert done.stdout == ""
    names = project / "var" / "cache" / "evaluations" / "names"  # of tasks, whatever became of the models
    kept = {names, *names.parents, *names.rglob("*")}
    left = set(project.rglob("*")) - set(before) - kept
    assert not [path for path in left if not path.is_relative_to(project / "hub")], "nothing is left behind"


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("verb", ["plan", "merge"])
def test_programs_get_an_object_with_the_kind(
    verb: str, failure: str, project: Path, server: HubServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (arguments, place), (make, kind, words) = VERBS[verb], FAILURES[failure]
    make(server, monkeypatch)
    done = run(*arguments, "--json")
    (error,) = json.loads(done.stdout).values()
    assert done.code == 2
    assert done.stderr.splitlines() == [f"error: {error['message']}"]
    assert error["message"].startswith(place) and words in error["message"]
    assert (error["kind"], error["file"]) == (kind, "recipe.yaml")
    assert error["may_pass"] == (kind in ("hub.limited", "hub.failing", "hub.unreachable"))
    assert error.get("retry_after") == (77 if kind == "hub.limited" else None)


def test_the_offline_switch_of_the_environment(project: Path, server: HubServer) -> None:
    done = run_command("plan", "recipe.yaml", root=project, environment={"MERGE_ASSETS_HUB_ENDPOINT": server.url})
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: recipe.yaml: {BASE}: not in the cache, and offline mode is on; unset HF_HUB_OFFLINE, "
        "or name a local path\n"
    )
    assert server.asked() == 0


WRONG: dict[str, tuple[str, str]] = {
    "method": (RECIPE.replace("linear", "slurp"), "merge_method: unknown method 'slurp', did you mean 'slerp'?"),
    "name of a parameter": (
        RECIPE + "parameters: {wieght: 1}\n",
        "parameters.wieght: unknown parameter, did you mean 'weight'?",
    ),
    "value of a parameter": (
        RECIPE.replace("weight: 1", "weight: paper"),
        "models[0].parameters.weight: 'paper' is not a number",
    ),
    "range of a parameter": (
        RECIPE.replace("linear", "ties").replace("weight: 1", "weight: 1, density: [1, 1.5]") + f"base_model: {BASE}\n",
        "models[1].parameters.density: 1.5 must be between 0 and 1",
    ),
    "missing parameter": (RECIPE.replace("weight: 1", ""), "parameters.weight: missing; method linear needs it"),
    "missing base": (RECIPE.replace("linear", "ties"), "base_model: missing; method ties needs a base model"),
    "number of models": (RECIPE.replace("linear", "passthrough"), "models: method passthrough takes 1 model, found 2"),
    "base outside of a slice": (
        f"merge_method: ties\nbase_model: {BASE}\nparameters: {{weight: 1}}\n"
        f"slices: [{{sources: [{{model: {TOWER}, layer_range: [0, 2]}}]}}]\n",
        f"slices[0].sources: the base model {BASE} is not among the sources",
    ),
    "local model": (RECIPE.replace(TOWER, "./nowhere"), "./nowhere: neither a recipe, nor a local directory"),
    "key": (RECIPE + "evaluat: [demo]\n", "evaluat: unknown key, did you mean 'evaluate'?"),
}


@pytest.mark.parametrize("verb", ["plan", "merge"])
@pytest.mark.parametrize("case", WRONG)
def test_what_the_recipe_alone_says_is_said_without_asking_the_hub(
    case: str, verb: str, project: Path, server: HubServer, run: Run
) -> None:
    text, words = WRONG[case]
    (project / "recipe.yaml").write_text(text)
    done = run(*VERBS[verb][0])
    (line,) = done.stderr.splitlines()
    assert done.code == 2
    assert line.startswith("error: recipe.yaml") and words in line
    assert server.asked() == 0


def test_a_recipe_that_is_wrong_alone_is_listed_as_broken(project: Path, server: HubServer, run: Run) -> None:
    (project / "recipes" / "wrong.yaml").write_text(WRONG["method"][0])
    done = run("recipes", "--json")
    listed = json.loads(done.stdout)
    assert done.code == 1
    assert [(one["name"], one["kind"]) for one in listed["broken"]] == [("wrong", "plan")]
    assert "wrong" not in [row["name"] for row in listed["recipes"]]
    assert "stored" in [row["name"] for row in listed["recipes"]]
    assert server.asked() == 0


@pytest.mark.slow
def test_a_wrong_recipe_of_a_name_is_not_built_and_the_hub_is_not_asked(project: Path, server: HubServer) -> None:
    (project / "recipes" / "wrong.yaml").write_text(WRONG["method"][0])
    environment = {"MERGE_ASSETS_HUB_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0"}
    done = run_command("build", "wrong", root=project, environment=environment)
    assert done.code == 2
    assert "unknown method 'slurp'" in done.stderr and "Traceback" not in done.stderr
    assert server.asked() == 0


@pytest.mark.slow
def test_a_build_says_which_base_the_hub_refuses(project: Path, server: HubServer) -> None:
    server.refuse["*"] = (503, {})
    environment = {"MERGE_ASSETS_HUB_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0"}
    done = run_command("build", "stored", "--only-variants", root=project, environment=environment)
    assert done.code == 1
    assert re.search(rf"failed +base/{BASE} ", done.stdout) and "answers 503" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
