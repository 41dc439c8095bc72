"""Contract of the pool's limit on Postgres: it is that of the settings also after these have changed, and no run fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
import yaml

from merge_assets.pipeline.gpu import POOL
from merge_assets.pipeline.home import open_instance
from merge_assets.settings import Settings
from tests.pipeline_support import MEAN, FakeApi, Project, fake, project

__all__ = ["fake", "project"]  # fixtures

Home = Callable[[int | None], Settings]
"""Gives the Dagster home this default limit."""


@pytest.fixture
def home(tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch) -> Home:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    monkeypatch.setenv("DAGSTER_DISABLE_TELEMETRY", "yes")

    def write(limit: int | None) -> Settings:
        pools = {"granularity": "op"} | ({} if limit is None else {"default_limit": limit})
        config = {"storage": {"postgres": {"postgres_url": postgres}}, "concurrency": {"pools": pools}}
        (folder / "dagster.yaml").write_text(yaml.safe_dump(config))
        return Settings(root=tmp_path)

    return write


def run(project: Project, instance: dg.DagsterInstance) -> bool:
    """Merge, on a device that may be a GPU."""
    job = project.definitions().resolve_job_def("build")
    made = job.execute_in_process(
        instance=instance, asset_selection=[dg.AssetKey(["variants", "mean"])], raise_on_error=False
    )
    return made.success


def limit(instance: dg.DagsterInstance) -> int | None:
    return next((pool.limit for pool in instance.event_log_storage.get_pool_limits() if pool.name == POOL), None)


@pytest.mark.filterwarnings("ignore")
def test_runs_go_on_when_the_default_limit_changes_and_a_limit_that_a_person_set_stays(
    project: Project, fake: FakeApi, home: Home
) -> None:
    project.recipe("mean", f"device: cuda\n{MEAN}")
    for wanted in (1, 2, 1, None, 3):
        with open_instance(home(wanted)) as instance:
            assert limit(instance) == wanted
            assert run(project, instance), f"with a limit of {wanted}"
    assert fake.calls == ["mean"] * 5

    # The pool as Dagster makes it of the default, by a daemon that never saw this package.
    with dg.DagsterInstance.from_config(str(Path(home(1).root / "home"))) as instance:
        instance.event_log_storage.delete_concurrency_limit(POOL)
        assert run(project, instance)
        (made,) = instance.event_log_storage.get_pool_limits()
        assert (made.limit, made.from_default) == (1, True)
    with open_instance(home(4)) as instance:
        assert limit(instance) == 4 and run(project, instance)
        instance.event_log_storage.set_concurrency_slots(POOL, 7)
    for wanted in (5, None):
        with open_instance(home(wanted)) as instance:
            assert limit(instance) == 7 and run(project, instance)
