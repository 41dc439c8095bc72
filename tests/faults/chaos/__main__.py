"""Operate a project for a while as a team would, with bad luck, then look whether all is as it should be.

    python -m tests.faults.chaos --minutes 60 --seed 1
    python -m tests.faults.chaos --minutes 5 --recipes 10 --quiet 10 --apart

Postgres, an S3 server, the UI with its daemon and code server are real; the models are tiny. Everything that happens is drawn
from the seed (what it happens to depends on the machine, too) and written down with its time in ``transcript.txt`` of the
folder, which is kept. Prints a table; ends with 1 if something is not as it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from tests.faults.chaos import audit
from tests.faults.chaos.actions import Chaos
from tests.faults.chaos.causes import failures
from tests.faults.chaos.processes import MARK, Census, Process, Services
from tests.faults.chaos.project import REPOSITORY, Project
from tests.postgres import deployed_storage, postgres_server
from tests.s3.rgw import Rgw

WITNESS = Path(__file__).with_name("witness")
STOP_SECONDS = 120.0
"""How long the services may take to end, and what they leave after them."""
SETTLED_SECONDS = 60.0
"""How long nothing is behind or runs before it counts as settled."""
STANDING = {"ui", "daemon", "code server", "code", "tracker"}
"""Roles of the processes that are there when nothing runs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="of chaos")
    parser.add_argument("--quiet", type=float, default=10, help="minutes after them, at most")
    parser.add_argument("--recipes", type=int, default=40)
    parser.add_argument("--every", type=float, default=12, help="seconds from one action to the next, on average")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--apart", action="store_true", help="code server, webserver and daemon as deploy/ has them")
    parser.add_argument(
        "--folder", type=Path, help="where the folder is made; default: the system's for temporary files"
    )
    options = parser.parse_args()
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.simplefilter("ignore")  # of parts of Dagster that are in beta
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir=options.folder))
    with Run(folder, options) as run:
        run.prepare()
        run.disturb()
        settled = run.wait()
        rows = run.examine(settled)
    report(folder, rows, run)
    sys.exit(any(row.faults for row in rows))


class Run:
    """One hour, with everything that it needs.

    Args:
        folder: an empty one; has the project, the home, the control build and what was written down.
        options: of the command line.
    """

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        self.root, self.witness = folder / "project", folder / "witness.jsonl"
        self.rng = random.Random(options.seed)
        self.census = Census(folder.name)
        self.stack = ExitStack()
        self.began = time.time()
        self.transcript = (folder / "transcript.txt").open("a")
        self.failures: list[Any] = []
        self.figures: dict[str, Any] = {}

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.census.look():
            if process.pid != os.getpid():
                os.kill(process.pid, 9)
        self.stack.close()

    def tell(self, what: str, text: str) -> None:
        """A line of the transcript, with the time and the second since the beginning."""
        line = f"{time.strftime('%H:%M:%S')} {time.time() - self.began:7.1f}  {what:<18} {text}"
        print(line, flush=True)
        print(line, file=self.transcript, flush=True)

    def prepare(self) -> None:
        """Servers, the project, and its services."""
        url = self.stack.enter_context(postgres_server())
        self.rgw = self.stack.enter_context(Rgw())
        self.bucket = self.rgw.bucket("chaos")
        self.settings = {
            "store": f"s3://{self.bucket}/store",
            "store_options": json.dumps(self.rgw.options()),
            "default_suites": ["tiny"],
            "device": "cpu",
            "cache_dir": "cache",
        }
        self.root.mkdir()
        self.project = Project(self.root, self.options.recipes, self.settings, self.rng)
        home = self.folder / "home"
        home.mkdir()
        source = REPOSITORY / ("deploy" if self.options.apart else ".") / "dagster.yaml"
        config = yaml.safe_load(source.read_text())
        config["storage"] = deployed_storage(url)
        config.pop("compute_logs", None)
        (home / "dagster.yaml").write_text(yaml.safe_dump(config))
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("MERGE_ASSETS_", "DAGSTER_"))}
        self.environment: Mapping[str, str] = {
            **kept,
            MARK: self.folder.name,
            "CHAOS_WITNESS": str(self.witness),
            "DAGSTER_HOME": str(home),
            "DAGSTER_DISABLE_TELEMETRY": "yes",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": f"{WITNESS}:{REPOSITORY}",
            "PYTHONWARNINGS": "ignore",
        }
        self.instance = self.stack.enter_context(dg.DagsterInstance.from_config(str(home)))
        self.services = Services(self.root, self.environment, self.options.apart, self.tell)
        self.chaos = Chaos(self.project, self.services, self.census, self.rgw, self.instance, self.rng, self.tell)

    def disturb(self) -> None:
        """The minutes of chaos. They begin when the first run has."""
        self.services.supervise()
        deadline = time.monotonic() + 900
        while not self.instance.get_runs(limit=1) and time.monotonic() < deadline:
            self._pass()
        self.tell("begins", f"seed {self.options.seed}, {self.options.minutes:g} minutes")
        end = time.monotonic() + 60 * self.options.minutes
        due = time.monotonic()
        while time.monotonic() < end:
            if time.monotonic() >= due:
                due = time.monotonic() + self.rng.expovariate(1 / self.options.every)
                self.chaos.act()
            self._pass()
        self.chaos.settle()

    def wait(self) -> float | None:
        """The quiet, until all is made and nothing runs; seconds until then, ``None`` if that did not come."""
        began, since, said = time.monotonic(), None, ""
        while time.monotonic() - began < 60 * self.options.quiet:
            for _ in range(10):
                self._pass()
            late = self._late()
            if (text := f"{len(late)} behind or running: {', '.join(late[:6])}") != said:
                said = text
                self.tell("quiet", text)
            since = None if late else since or time.monotonic()
            if since is not None and time.monotonic() - since >= SETTLED_SECONDS:
                return since - began
        return None

    def _late(self) -> list[str]:
        unfinished = [run for run in self.instance.get_runs() if not run.is_finished]
        return [f"run {run.run_id[:8]} {run.status.value}" for run in unfinished] + audit.behind(
            self.instance, self.root
        )

    def _pass(self) -> None:
        """Half a second, in which services are looked after."""
        self.services.supervise()
        self.chaos.go_on()
        self.census.look()
        time.sleep(0.5)

    def examine(self, settled: float | None) -> list[audit.Row]:
        """The answers."""
        quiet = audit.Row(f"all is made within {self.options.quiet:g} minutes of quiet")
        quiet.found = f"after {settled:.0f} s" if settled is not None else ""
        quiet.faults = [] if settled is not None else self._late()
        rows = [quiet, self._idle_processes()]
        rows.append(audit.in_status(self.root, self.environment))
        self.failures = failures(self.instance, self.chaos.kills, self.chaos.outages)
        failed = audit.Row("every failed run is explained by what was done to it", found=f"{len(self.failures)} failed")
        failed.faults = [f"{one.run_id}: {'; '.join(one.words)}" for one in self.failures if not one.is_explained]
        rows.append(failed)
        stuck = self.services.stop(STOP_SECONDS)
        ended = audit.Row(
            "the services end when asked to, and leave no process", [f"{name} had to be killed" for name in stuck]
        )
        ended.faults += [self._shown(process) for process in self._after(STOP_SECONDS if not stuck else 10.0)]
        rows.append(ended)
        self.tell("audit", "computing everything again")
        fresh = audit.computed_again(self.root, self.settings, self.environment)
        rows += audit.right_bytes(self.root, fresh, self.instance)
        rows.append(audit.verified(self.root, self.environment))
        rows += audit.once(self.witness, self.census.last_seen, self.began)
        workspace, _ = audit.opened(self.root)
        rows.append(audit.taken_up(workspace.store))
        uploads = self.rgw.client().list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])
        rows += audit.left_behind(self.root, self.environment, len(uploads))
        self._count()
        return rows

    def _idle_processes(self) -> audit.Row:
        row = audit.Row("without a run, no process is there but the services'")
        found = [process for process in self.census.look() if process.pid != os.getpid()]
        row.faults = [self._shown(process) for process in found if process.role not in STANDING]
        roles = Counter(process.role for process in found)
        row.faults += [f"{roles['daemon']} daemons"] if roles["daemon"] > 1 else []
        row.found = ", ".join(f"{count} {role}" for role, count in sorted(roles.items()))
        return row

    def _after(self, seconds: float) -> list[Process]:
        deadline = time.monotonic() + seconds
        while (found := self.census.look()) and time.monotonic() < deadline:
            time.sleep(1)
        return found

    def _shown(self, process: Process) -> str:
        return f"{process.role} {process.pid}, child of {process.parent}: {process.command[-100:]}"

    def _count(self) -> None:
        runs, idle, outcomes = audit.reused_runs(self.instance)
        causes = Counter(cause for one in self.failures for cause in one.causes)
        self.figures = {
            "actions": self.chaos.counts,
            "starts of services": {service.name: service.starts for service in self.services.services},
            "runs": runs,
            "runs that made nothing new": idle,
            "outcomes of assets": outcomes,
            "failed runs": len(self.failures),
            "causes": dict(causes),
        }


def report(folder: Path, rows: list[audit.Row], run: Run) -> None:
    """The table and the figures, on the screen and beside the transcript."""
    lines = ["| what has to be | is | |", "|---|---|---|"]
    lines += [f"| {row.question} | {row.answer} | {row.found or len(row.faults)} |" for row in rows]
    for row in rows:
        lines += (
            ["", f"{row.question}: no, {len(row.faults)}:", *(f"  {fault}" for fault in row.faults[:40])]
            if row.faults
            else []
        )
    lines += ["", *(f"{name}: {value}" for name, value in run.figures.items())]
    lines += ["", "failed runs:", *(f"  {one.run_id[:8]} {'; '.join(one.words)}" for one in run.failures)]
    text = "\n".join(lines)
    print(f"\n{text}\n\n{folder}", flush=True)
    (folder / "report.txt").write_text(text)
    (folder / "report.json").write_text(json.dumps({"rows": [asdict(row) for row in rows], **run.figures}, indent=1))
    shutil.rmtree(folder / "fresh" / "store", ignore_errors=True)


if __name__ == "__main__":
    main()
