"""Dagster's real web server on a small code location, to be asked bare and through the gate."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import create_server
from urllib.parse import urlencode

import dagster as dg
import uvicorn
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget
from dagster_webserver.app import create_app_from_workspace_process_context
from dagster_webserver.version import __version__
from starlette.testclient import TestClient
from starlette.types import ASGIApp

# Runs are queued and stay so, as no daemon takes them: that a run is there shows that a request was obeyed.
INSTANCE = """\
run_coordinator: {module: dagster.core.run_coordinator, class: QueuedRunCoordinator}
telemetry: {enabled: false}
nux: {enabled: false}
"""
DEFINITIONS = """\
import dagster as dg


@dg.asset
def model() -> None: ...


@dg.asset_check(asset=model)
def sound() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


defs = dg.Definitions(assets=[model], asset_checks=[sound], jobs=[dg.define_asset_job("make")])
"""
LAUNCH = """\
mutation Launch { launchRun(executionParams: {
  selector: {repositoryLocationName: "site", repositoryName: "__repository__", jobName: "make"}
  executionMetadata: {tags: [{key: "by", value: "NAME"}]}
}) { __typename ... on PythonError { message } } }
"""
MODEL = dg.AssetKey("model")
CHECK = dg.AssetCheckKey(MODEL, "sound")
REPORTS = {
    "report_asset_materialization": {},
    "report_asset_observation": {},
    "report_asset_check": {"check_name": "sound", "passed": "true"},
}


def launch(name: str) -> str:
    """A mutation that launches a run which carries ``name``."""
    return " ".join(LAUNCH.replace("NAME", name).split())


def posted(query: str) -> bytes:
    return json.dumps({"query": query}).encode()


def by_get(query: str, **more: str) -> str:
    return "/graphql?" + urlencode({"query": query, **more})


class Site:
    """The web server and what has happened to its instance."""

    def __init__(self, instance: dg.DagsterInstance, context: WorkspaceProcessContext) -> None:
        self.instance = instance
        self.context = context
        self.app: ASGIApp = create_app_from_workspace_process_context(context)

    def launch(self, name: str) -> str:
        """Launch a run as its owner does; gives its id."""
        answer = TestClient(self.app).post("/graphql", json={"query": launch(name)})
        assert answer.json()["data"]["launchRun"]["__typename"] == "LaunchRunSuccess", answer.text
        return self.instance.get_runs(limit=1)[0].run_id

    def forget(self) -> None:
        """Delete all runs and reports."""
        for run in self.instance.get_runs():
            self.instance.delete_run(run.run_id)
        self.instance.wipe_assets([MODEL])

    def launched(self) -> set[str]:
        """Who launched runs."""
        return {run.tags.get("by", "") for run in self.instance.get_runs()}

    def reported(self) -> int:
        """How many events were reported for the asset."""
        made = self.instance.fetch_materializations(MODEL, limit=1000).records
        seen = self.instance.fetch_observations(MODEL, limit=1000).records
        checks = self.instance.event_log_storage.get_asset_check_execution_history(CHECK, limit=1000)
        checked = [record for record in checks if record.status != AssetCheckExecutionRecordStatus.PLANNED]
        return len(made) + len(seen) + len(checked)


@contextmanager
def dagster_site(folder: Path) -> Iterator[Site]:
    (folder / "dagster.yaml").write_text(INSTANCE)
    (folder / "site.py").write_text(DEFINITIONS)
    target = PythonFileTarget(
        str(folder / "site.py"), attribute=None, working_directory=str(folder), location_name="site"
    )
    with (
        dg.DagsterInstance.from_config(str(folder)) as instance,
        WorkspaceProcessContext(instance, target, version=__version__) as context,
    ):
        yield Site(instance, context)


@contextmanager
def listening(app: ASGIApp) -> Iterator[int]:
    """Serve an application on loopback; gives its port."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    socket = create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    try:
        yield int(socket.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()
