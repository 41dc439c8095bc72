"""Dagster's storage in Postgres, for runs of hundreds of assets: events are written over a kept connection, plans in batches.

Dagster opens a connection for every statement outside its webserver, looks for every planned check whether there is a table
for it, and writes each planned event with three statements. Of a run of 300 variants, each with three checks, 1200 events are
written before it is queued.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from dagster import DagsterEventType, EventLogEntry
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
from dagster._serdes import ConfigurableClassData, serialize_value
from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage
from dagster_postgres.utils import create_pg_engine, get_token_provider_from_config, pg_url_from_config

_RECYCLED_SECONDS = 3600
_BATCH = 1000
"""Events of one statement."""


class HeldEventLogStorage(PostgresEventLogStorage):
    """Holds one connection, which is tried before it is used: the server may have been started anew."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._there: set[str] = set()
        self._engine = create_pg_engine(
            self.postgres_url,
            self._token_provider,
            isolation_level="AUTOCOMMIT",
            pool_size=1,
            max_overflow=-1,
            pool_pre_ping=True,
            pool_recycle=_RECYCLED_SECONDS,
        )
        # Dagster gives batches to a storage only where this says so.
        os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", str(_BATCH))

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Planned events are written together, or none of them: Dagster writes one by one what could not be.

        Each has the rows that Dagster writes for it one by one.
        """
        if not all(map(_is_plan, events)):
            super().store_event_batch(events)
            return
        with self._engine.execution_options(isolation_level="READ COMMITTED").begin() as connection:
            insert = self.prepare_insert_event_batch(events).returning(SqlEventLogStorageTable.c.id)
            numbered = list(zip(events, connection.scalars(insert), strict=True))
            for event, number in numbered:
                self._store_asset_event(connection, event, number)  # does nothing for a check
            if rows := [self._check_row(event, number) for event, number in numbered if _is_check(event)]:
                connection.execute(AssetCheckExecutionsTable.insert().values(rows))

    def _check_row(self, event: EventLogEntry, number: int) -> dict[str, Any]:
        planned = event.get_dagster_event().asset_check_planned_data
        return {
            "asset_key": planned.asset_key.to_string(),
            "check_name": planned.check_name,
            "run_id": event.run_id,
            "execution_status": AssetCheckExecutionRecordStatus.PLANNED.value,
            "evaluation_event": serialize_value(event),
            "evaluation_event_timestamp": self._event_insert_timestamp(event),  # type: ignore[no-untyped-call]
            "evaluation_event_storage_id": number,
        }

    def has_table(self, table_name: str) -> bool:
        if table_name not in self._there and super().has_table(table_name):
            self._there.add(table_name)
        return table_name in self._there

    def dispose(self) -> None:
        self._engine.dispose()
        super().dispose()


class HeldPostgresStorage(DagsterPostgresStorage):
    """What ``dagster.yaml`` names as ``storage: {custom: …}``; it takes what ``storage: {postgres: …}`` takes."""

    def __init__(self, postgres_url: str, *arguments: Any, **named: Any) -> None:
        super().__init__(postgres_url, *arguments, **named)
        # What the first one looked for is there now.
        self._event_log_storage = HeldEventLogStorage(
            postgres_url, should_autocreate_tables=False, token_provider=named.get("token_provider")
        )

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "HeldPostgresStorage":
        return cls(
            pg_url_from_config(config_value),
            config_value.get("should_autocreate_tables", True),
            inst_data=inst_data,
            token_provider=get_token_provider_from_config(config_value),
        )


def _is_check(event: EventLogEntry) -> bool:
    return event.dagster_event_type == DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED


def _is_plan(event: EventLogEntry) -> bool:
    """Whether it says that something is planned, and not for partitions, which have a row each."""
    data = event.get_dagster_event().event_specific_data
    planned = event.dagster_event_type == DagsterEventType.ASSET_MATERIALIZATION_PLANNED or _is_check(event)
    return planned and getattr(data, "partitions_subset", None) is None
