"""Contract of automation with Dagster's own processes: it notices, builds what depends on it, and outlives a SIGKILL.

A code server, the daemon and a Hub on loopback; the checkpoints and the merges are real, only tiny. The intervals of the
sensors are shortened by the project's ``definitions.py``.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._grpc.client import DagsterGrpcClient

from merge_assets.pipeline.access import CHECKS
from merge_assets.pipeline.versions import recorded
from tests.checkpoint_support import save_llama
from tests.hub_server import HubServer
from tests.hub_support import folder_files

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 560.0  # seconds after which something hangs; on a busy machine, processes take long to start

DEFINITIONS = """\
from merge_assets.pipeline import automation, hub_polling

automation.INTERVAL_SECONDS = hub_polling.INTERVAL_SECONDS = 1

from merge_assets.pipeline.location import definitions

defs = definitions()
"""
MEAN = """\
merge_method: linear
models:
  - {model: acme/one, parameters: {weight: 1}}
  - {model: acme/two, parameters: {weight: 1}}
dtype: float32
"""
OTHER = """\
merge_method: linear
models: [{model: acme/two, parameters: {weight: 2}}]
parameters: {normalize: false}
dtype: float32
"""


class Site:
    """A project with its processes, and what a person sees of it."""

    def __init__(self, root: Path, server: HubServer) -> None:
        self.root = root
        self.server = server
        self.home = root / "home"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        (root / "recipes").mkdir()
        self.home.mkdir()
        (root / "merge-assets.toml").write_text('default_suites = []\nenabled = ["*"]\n')
        (root / "definitions.py").write_text(DEFINITIONS)
        address = f"{{host: 127.0.0.1, port: {self.port}, location_name: merge_assets}}"
        (root / "workspace.yaml").write_text(f"load_from: [grpc_server: {address}]\n")
        shutil.copyfile(REPOSITORY / "dagster.yaml", self.home / "dagster.yaml")
        self.instance = dg.DagsterInstance.from_config(str(self.home))

    def start(self, name: str) -> None:
        programs = Path(sys.executable).parent
        where = ["--host", "127.0.0.1", "--port", str(self.port)]
        command = {
            "code": [sys.executable, "-m", "merge_assets", "code-server", *where],
            "daemon": [programs / "dagster-daemon", "run", "-w", self.root / "workspace.yaml"],
        }[name]
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("MERGE_ASSETS_", "DAGSTER_"))}
        environment = {
            **kept,
            "DAGSTER_HOME": str(self.home),
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONWARNINGS": "ignore",
            "MERGE_ASSETS_HUB_ENDPOINT": self.server.url,
            "MERGE_ASSETS_HUB_CACHE": str(self.root / "hub"),
        }
        with (self.root / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, cwd=self.root, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)

    def wait(self, what: str, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not done():
            for name, process in self.processes.items():
                assert process.poll() is None, self.log(name)
            assert time.monotonic() < deadline, f"{what}\n{self.log('daemon')}\n{self.log('code')}"
            time.sleep(0.2)

    def log(self, name: str) -> str:
        return (self.root / f"{name}.log").read_text()[-4000:]

    def is_serving(self) -> bool:
        try:
            return bool(DagsterGrpcClient(port=self.port, host="127.0.0.1").ping("up"))
        except Exception:
            return False

    def push(self, repo: str, value: float) -> str:
        """A revision whose last weight is another one."""
        repository = self.server.repositories[repo]
        files = repository.commits[repository.names["main"]]
        name = max(name for name in files if name.endswith(".safetensors"))
        return self.server.commit(repo, {name: files[name][:-4] + struct.pack("<f", value)})

    def revision(self, *key: str) -> str | None:
        known = recorded(self.instance, dg.AssetKey(["base", *key]))
        return known.revision if known else None

    def version(self, name: str) -> str | None:
        known = recorded(self.instance, dg.AssetKey(["variants", name]))
        return known.data_version if known else None

    def is_fresh(self, name: str, *bases: str) -> bool:
        """Whether a variant was made of the bytes that are recorded for its inputs, and nothing is running."""
        known = recorded(self.instance, dg.AssetKey(["variants", name]))
        if known is None or any(not run.is_finished for run in self.instance.get_runs()):
            return False
        now = {f"base/{base}": recorded(self.instance, dg.AssetKey(["base", *base.split("/")])) for base in bases}
        return all(seen is not None and known.inputs[key] == seen.data_version for key, seen in now.items())

    def built(self) -> list[str]:
        """Variants that were built, one entry per run, newest last; no run may have failed."""
        runs = self.instance.get_runs()[::-1]
        assert {run.status for run in runs} <= {dg.DagsterRunStatus.SUCCESS}, self.log("code")
        return sorted(key.path[-1] for run in runs for key in run.asset_selection or ())

    def ticks(self, sensor: str) -> int:
        states = self.instance.all_instigator_state()
        (state,) = [state for state in states if state.name == sensor]
        return len(self.instance.get_ticks(state.instigator_origin_id, state.selector_id))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with HubServer() as server:
        server.commit("acme/one", folder_files(save_llama(tmp_path / "one", layers=2)))
        server.commit("acme/two", folder_files(save_llama(tmp_path / "two", layers=2)))
        root = tmp_path / "project"
        root.mkdir()
        made = Site(root, server)
        try:
            yield made
        finally:
            for name in list(made.processes):
                made.kill(name)
            made.instance.dispose()


@pytest.mark.slow
def test_revisions_are_noticed_and_built_before_and_after_the_daemon_is_killed(site: Site) -> None:
    site.push("acme/two", 0.5)
    (site.root / "recipes" / "mean.yaml").write_text(MEAN)
    site.start("code")
    site.wait("the code server answers", site.is_serving)
    site.start("daemon")
    site.wait("the first is built", lambda: site.is_fresh("mean", "acme/one", "acme/two"))
    (site.root / "recipes" / "other.yaml").write_text(OTHER)
    site.wait("a recipe that comes is built without a hand", lambda: site.is_fresh("other", "acme/two"))
    assert site.built() == ["mean", "other"]

    before = site.version("mean")
    commit = site.push("acme/one", 0.25)
    site.wait("the revision is observed", lambda: site.revision("acme", "one") == commit)
    site.wait("its variant is rebuilt", lambda: site.is_fresh("mean", "acme/one", "acme/two"))
    assert site.version("mean") != before
    assert site.built() == ["mean", "mean", "other"]

    commit = site.server.commit("acme/two", {"README.md": b"# News"})
    site.wait("the commit is recorded", lambda: site.revision("acme", "two") == commit)
    seen = site.ticks("automation")
    site.wait("automation looks three times", lambda: site.ticks("automation") >= seen + 3)
    assert site.built() == ["mean", "mean", "other"]

    site.kill("daemon")
    before = site.version("mean")
    commit = site.push("acme/one", 0.75)
    (site.root / "recipes" / "other.yaml").unlink()
    site.wait("that it went is read", lambda: site.log("code").count("other.yaml changed; read again") == 2)
    site.start("daemon")
    site.wait("what was pushed meanwhile is observed", lambda: site.revision("acme", "one") == commit)
    site.wait("and built", lambda: site.is_fresh("mean", "acme/one", "acme/two"))
    assert site.version("mean") != before
    assert site.built() == ["mean", "mean", "mean", "other"]

    site.server.rename("acme/one", "acme/better")
    key = dg.AssetCheckKey(dg.AssetKey(["base", "acme", "one"]), CHECKS["hub"])

    def is_told() -> bool:
        record = site.instance.get_latest_asset_check_evaluation_record(key)
        found = record.event.asset_check_evaluation if record and record.event else None
        return found is not None and not found.passed and "write acme/better" in (found.description or "")

    site.wait("the asset says that its model was renamed", is_told)
    assert site.built() == ["mean", "mean", "mean", "other"]
