"""Contract: with the storage of the deployment, a run of many assets is written over one connection, which may be cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy
import yaml

from tests.postgres import deployed_storage


def checked(name: str) -> dg.AssetsDefinition:
    @dg.asset(name=name, check_specs=[dg.AssetCheckSpec("fine", asset=name)])
    def made():  # type: ignore[no-untyped-def]  # which Dagster would read
        return dg.MaterializeResult(check_results=[dg.AssetCheckResult(check_name="fine", passed=True)])

    return made


ASSETS = [checked(f"a{number}") for number in range(20)]
JOB = dg.Definitions(assets=ASSETS, jobs=[dg.define_asset_job("all")]).resolve_job_def("all")


@pytest.fixture
def instance(postgres: str, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({"storage": deployed_storage(postgres)}))
    with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
        yield opened


def asked(postgres: str, statement: str) -> int:
    engine = sqlalchemy.create_engine(postgres, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        found = connection.execute(sqlalchemy.text(statement)).scalar()
    engine.dispose()
    return int(found or 0)


def test_planned_events_open_no_connection_each(instance: dg.DagsterInstance, postgres: str) -> None:
    opened = "SELECT pg_stat_clear_snapshot(); SELECT sessions FROM pg_stat_database WHERE datname = current_database()"
    instance.create_run_for_job(JOB)
    before = asked(postgres, opened)
    run = instance.create_run_for_job(JOB)
    events = instance.all_logs(run.run_id)
    assert len(events) >= 40
    # Runs are another storage's, which opens a few for each; what is not counted yet comes with the next look.
    assert asked(postgres, opened) - before < 20


def test_a_connection_that_was_cut_costs_nothing(instance: dg.DagsterInstance, postgres: str) -> None:
    assert JOB.execute_in_process(instance=instance).success
    ended = asked(
        postgres,
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    assert ended >= 1
    result = JOB.execute_in_process(instance=instance)
    assert result.success
    assert instance.get_latest_materialization_event(dg.AssetKey("a7")) is not None
    checks = instance.event_log_storage.get_latest_asset_check_execution_by_key(
        [dg.AssetCheckKey(dg.AssetKey("a7"), "fine")]
    )
    assert len(checks) == 1
