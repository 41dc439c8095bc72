"""How long a run of many assets takes from the request to its first step, on Postgres: ``python -m benchmarks.run_start``.

The UI with its daemon and code server is asked over GraphQL, as the button in the browser does it, once they have nothing to
do: after they were started, Dagster's daemon writes the freshness of every asset once. Prints what it waits for.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from tests.checkpoint_support import save_llama
from tests.postgres import deployed_storage, free_port, postgres_server

REPOSITORY = Path(__file__).parents[1]
PATIENCE = 900.0
RECIPE = """\
merge_method: linear
models:
  - {{model: one, parameters: {{weight: 1}}}}
  - {{model: two, parameters: {{weight: {weight}}}}}
dtype: float32
"""
REPOSITORIES = "{repositoriesOrError {... on RepositoryConnection {nodes {name location {name} jobs {name}}}}}"
LAUNCH = """\
mutation($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename ... on LaunchRunSuccess {run {runId}} ... on PythonError {message}
  }
}
"""
STOP = "mutation($id: String!) {terminateRun(runId: $id) {__typename}}"
EVENTS = {
    dg.DagsterEventType.PIPELINE_ENQUEUED: "it is in the queue",
    dg.DagsterEventType.PIPELINE_DEQUEUED: "the daemon takes it out",
    dg.DagsterEventType.PIPELINE_STARTING: "its process is started",
    dg.DagsterEventType.PIPELINE_START: "its process has loaded the definitions and begins",
    dg.DagsterEventType.STEP_WORKER_STARTING: "the first process of a step is started",
    dg.DagsterEventType.STEP_WORKER_STARTED: "it has loaded the definitions",
    dg.DagsterEventType.STEP_START: "the first step begins",
}


def ask(port: int, query: str, **variables: Any) -> Mapping[str, Any]:
    """An answer of the UI's GraphQL."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/graphql", body, {"Content-Type": "application/json"})
    answer = json.load(urllib.request.urlopen(request, timeout=PATIENCE))
    if "errors" in answer:
        raise RuntimeError(str(answer["errors"])[:2000])
    data: Mapping[str, Any] = answer["data"]
    return data


def project(root: Path, recipes: int) -> None:
    """Recipes that nothing builds by itself."""
    (root / "recipes").mkdir(parents=True)
    (root / "suites").mkdir()
    (root / "definitions.py").write_text((REPOSITORY / "definitions.py").read_text())
    (root / "merge-assets.toml").write_text('default_suites = []\ndevice = "cpu"\nautomate = []\n')
    for name in ("one", "two"):
        save_llama(root / name, layers=2)
    for number in range(recipes):
        (root / "recipes" / f"r{number:04}.yaml").write_text(RECIPE.format(weight=2 + number / 8))


def repository(port: int) -> Mapping[str, Any]:
    """The code location, once it is loaded."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(OSError):
            if nodes := ask(port, REPOSITORIES)["repositoriesOrError"].get("nodes"):
                found: Mapping[str, Any] = nodes[0]
                return found
        time.sleep(0.5)
    raise RuntimeError("the code location was not loaded")


def cpu_seconds(session: int) -> float:
    """What all processes of a session have used so far, with those of their children that have ended."""
    ticks = 0
    for path in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if int(path.name) and os.getsid(int(path.name)) == session:
                ticks += sum(map(int, (path / "stat").read_text().rpartition(")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def wait_until_idle(session: int) -> None:
    """Until all processes of a session together have used less than a tenth of a core for five seconds."""
    deadline = time.monotonic() + PATIENCE
    used = cpu_seconds(session)
    while time.monotonic() < deadline:
        time.sleep(5)
        before, used = used, cpu_seconds(session)
        if used - before < 0.5:
            return
    raise RuntimeError("the services did not come to rest")


def launch(port: int, instance: dg.DagsterInstance, recipes: int, session: int) -> list[tuple[float, str]]:
    """Seconds since the request, and what had happened by then; the last are CPU seconds."""
    found = repository(port)
    selector = {
        "repositoryName": found["name"],
        "repositoryLocationName": found["location"]["name"],
        "pipelineName": "build",
        "assetSelection": [{"path": ["variants", f"r{number:04}"]} for number in range(recipes)],
    }
    wait_until_idle(session)
    used, began = cpu_seconds(session), time.time()
    answer = ask(port, LAUNCH, params={"selector": selector, "mode": "default", "executionMetadata": {}})
    answered = time.time()
    run_id = answer["launchPipelineExecution"]["run"]["runId"]
    deadline = time.monotonic() + PATIENCE
    while not instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_START):
        if time.monotonic() > deadline or instance.get_run_by_id(run_id).is_finished:  # type: ignore[union-attr]
            raise RuntimeError("no step began")
        time.sleep(0.5)
    used = cpu_seconds(session) - used
    first: dict[dg.DagsterEventType, float] = {}
    for entry in instance.all_logs(run_id, of_type=set(EVENTS)):
        first.setdefault(entry.get_dagster_event().event_type, entry.timestamp)
    ask(port, STOP, id=run_id)
    times = [(first[event] - began, text) for event, text in EVENTS.items() if event in first]
    answer_came = (answered - began, "the request is answered: the run and its planned events are written")
    return [
        *sorted([*times, answer_came]),
        (used, "of CPU until then, of UI, daemon, code server and run, without Postgres"),
    ]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=int, default=300)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(postgres_server())
        root, home, port = folder / "project", folder / "home", free_port()
        project(root, options.assets)
        home.mkdir()
        config = yaml.safe_load((REPOSITORY / "dagster.yaml").read_text())
        (home / "dagster.yaml").write_text(yaml.safe_dump(config | {"storage": deployed_storage(url)}))
        environment = {
            **os.environ,
            "DAGSTER_HOME": str(home),
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONWARNINGS": "ignore",
        }
        with (folder / "ui.log").open("wb") as log:
            ui = subprocess.Popen(
                [sys.executable, "-m", "merge_assets", "ui", "--port", str(port)],
                cwd=root,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        stack.callback(ui.wait)
        stack.callback(os.killpg, ui.pid, signal.SIGTERM)
        instance = stack.enter_context(dg.DagsterInstance.from_config(str(home)))
        times = launch(port, instance, options.assets, ui.pid)
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}\na run of {options.assets} assets, on Postgres:")
    print("\n".join(f"{seconds:7.1f} s  {text}" for seconds, text in times))


if __name__ == "__main__":
    main()
