"""A search of forty trials while its process, its database and its object storage are killed, beside one that is left alone.

    python -m tests.faults.search_outages [--trials 40] [--seed 1]

Postgres, the S3 server and the processes are real, the models tiny. Both searches have one worker. Prints what was killed how
often and how the tables compare; ends with 1 if a trial is lost, counted twice, or another one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.api.test_search import write_project
from tests.commands import command_environment
from tests.postgres import Postgres
from tests.s3.rgw import Rgw
from tests.search_project import RECIPE


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Postgres() as database, Rgw() as storage:
        project = write_project(Path(folder))
        sampler = RECIPE.replace("sampler: random", "sampler: tpe").replace("trials: 4", f"trials: {options.trials}")
        (project / "recipes/best.yaml").write_text(sampler)
        disturbed = storage.environment() | {
            "MERGE_ASSETS_SEARCHES": database.url,
            "MERGE_ASSETS_STORE": f"s3://{storage.bucket('search')}",
            "MERGE_ASSETS_CACHE_DIR": str(project / "other"),
        }
        killed = _disturbed(project, disturbed, database, storage, options.trials, random.Random(options.seed))
        alone = _search(project, {})
        if alone.wait() != 0:
            raise SystemExit("the search that was left alone failed")
        one, other = _table(project, disturbed), _table(project, {})
    print(f"killed: {', '.join(f'{what} {times} times' for what, times in sorted(killed.items()))}")
    print(f"trials: {len(one)} and {len(other)}; states {dict(Counter(row['state'] for row in one))}")
    same = one == other
    print("the tables are the same" if same else f"they differ:\n{one}\n{other}")
    sys.exit(0 if same and len(one) == options.trials else 1)


def _disturbed(
    project: Path, environment: Mapping[str, str], database: Postgres, storage: Rgw, trials: int, draws: random.Random
) -> Counter[str]:
    """Run the search until it is finished, whatever is killed; what was."""
    killed: Counter[str] = Counter()
    process = _search(project, environment)
    while True:
        try:
            code: int | None = process.wait(timeout=draws.uniform(2, 10))
        except subprocess.TimeoutExpired:
            code = None
        if code == 0 and sum(row["state"] != "running" for row in _table(project, environment)) == trials:
            return killed
        if code is not None:  # it was told that something is away
            process = _search(project, environment)
            continue
        what = draws.choice(["search", "database", "storage"])
        killed[what] += 1
        if what == "search":
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process = _search(project, environment)
        elif what == "database":
            database.kill()
            time.sleep(draws.uniform(0.5, 6))
            database.start()
        else:
            storage.stop()
            time.sleep(draws.uniform(0.5, 6))
            storage.start()


def _search(project: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "merge_assets", "search", "best"],
        cwd=project,
        env=command_environment(project) | dict(environment),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def _table(project: Path, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "merge_assets", "search", "best", "show", "--json"],
        cwd=project,
        env=command_environment(project) | dict(environment),
        capture_output=True,
        check=True,
    )
    kept = ("number", "state", "values", "objectives")
    return [{key: row[key] for key in kept} for row in json.loads(done.stdout)["trials"]]


if __name__ == "__main__":
    main()
