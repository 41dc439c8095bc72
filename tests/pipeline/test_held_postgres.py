"""Contract: with the storage of the deployment, a run of many assets is written over one connection, which may be cut.

What it writes is what Dagster's own storage writes.
"""

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


PLANS = {
    "event_logs": "dagster_event_type, step_key, asset_key, partition",
    "asset_keys": "asset_key, last_run_id, last_materialization, wipe_timestamp",
    "asset_check_executions": "asset_key, check_name, partition, execution_status, materialization_event_storage_id",
}


def rows_of(postgres: str, run_id: str) -> dict[str, list[str]]:
    """What is written of a run but numbers and times; each check beside the event that it names."""
    engine = sqlalchemy.create_engine(postgres)
    found = {}
    with engine.connect() as connection:
        for table, columns in PLANS.items():
            which = "last_run_id" if table == "asset_keys" else "run_id"
            rows = connection.execute(
                sqlalchemy.text(f"SELECT {columns} FROM {table} WHERE {which} = :run"), {"run": run_id}
            )
            found[table] = sorted(str(row).replace(run_id, "RUN") for row in rows)
        named = connection.execute(
            sqlalchemy.text(
                "SELECT c.asset_key, c.check_name, e.event = c.evaluation_event, e.step_key FROM asset_check_executions c "
                "JOIN event_logs e ON e.id = c.evaluation_event_storage_id WHERE c.run_id = :run"
            ),
            {"run": run_id},
        )
        found["named"] = sorted(map(str, named))
    engine.dispose()
    return found


def test_plans_written_at_once_are_those_that_dagster_writes(instance: dg.DagsterInstance, postgres: str) -> None:
    statements: list[str] = []
    engine = instance.event_log_storage._engine  # type: ignore[attr-defined]
    sqlalchemy.event.listen(engine, "before_cursor_execute", lambda *told: statements.append(told[2]))
    ours = rows_of(postgres, instance.create_run_for_job(JOB).run_id)
    assert len([one for one in statements if "INTO event_logs" in one]) == 1
    assert len([one for one in statements if "INTO asset_check_executions" in one]) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_EVENT_BATCH_SIZE", "0")
        dagsters = rows_of(postgres, instance.create_run_for_job(JOB).run_id)
    assert ours == dagsters
    assert len(ours["event_logs"]) == 40
    assert len(ours["named"]) == len(ours["asset_check_executions"]) == len(ours["asset_keys"]) == 20


def test_a_batch_that_cannot_be_written_is_written_one_by_one_and_once(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr("merge_assets.pipeline.postgres.HeldEventLogStorage._check_row", fail)
    events = instance.all_logs(instance.create_run_for_job(JOB).run_id)
    assert len(events) == 40


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
