"""Dagster's storage in Postgres, for runs of hundreds of assets: the storage of events keeps its connection.

Dagster opens a connection for every statement outside its webserver, and looks for every planned check whether there is a table
for it. Of a run of 300 variants, each with three checks, 1200 events are written before it is queued; opening connections took
half of that time.
"""

from collections.abc import Mapping
from typing import Any

from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage
from dagster_postgres.utils import create_pg_engine, get_token_provider_from_config, pg_url_from_config

_RECYCLED_SECONDS = 3600


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
