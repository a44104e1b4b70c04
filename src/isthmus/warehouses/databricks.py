"""Databricks with Unity Catalog as a warehouse to read from, through its own driver: rows come as Arrow."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from isthmus.model.checks import Check
from isthmus.model.errors import InvalidInput, Missing, Unreachable, WarehouseError
from isthmus.model.table import Batch, Receipt, SeqRange, Table, Tally
from isthmus.secrets import Secret
from isthmus.warehouses import databricks_checks, databricks_sql, sql
from isthmus.warehouses.databricks_errors import translated
from isthmus.warehouses.databricks_sql import identifier
from isthmus.warehouses.protocol import Count, Direction, Relation, Traits, Window, setting

TIMEOUT_S = 60
"""How long one answer is waited for. A long query is asked about again and again, and is as long as it is."""
ROWS = 65_536
BYTES = 32_000_000
"""What is asked for at a time. With what is fetched ahead and unpacked, some seven times as much is in memory."""
DOWNLOADS = 4

_TRAITS = Traits("Databricks (Unity Catalog)", loads=False, reads=True)


@dataclass(frozen=True)
class DatabricksConfig:
    """A connection to one catalog of Unity Catalog, by way of a SQL warehouse, to import from."""

    kind: ClassVar[str] = "databricks"
    traits: ClassVar[Traits] = _TRAITS

    hostname: str = setting(
        "Server hostname",
        help="From the warehouse's page, Connection details",
        example="dbc-a1b2c3d4-e5f6.cloud.databricks.com",
    )
    http_path: str = setting(
        "HTTP path",
        help="From the same page",
        example="/sql/1.0/warehouses/abcdef0123456789",
        incidental=True,
    )
    catalog: str = setting("Catalog", help="The catalog of Unity Catalog to read from", example="main")
    access_token: Secret = setting("Access token", help="A personal access token of the service principal", secret=True)
    principal: str = setting(
        "Principal",
        help="To whom the set-up script gives rights: a group that the service principal is in, or its application id",
        default="isthmus",
        advanced=True,
        incidental=True,
    )
    import_schema: str = setting(
        "Import schema",
        help="The schema whose tables and views may be imported",
        default=_TRAITS.default_import_schema,
        advanced=True,
        incidental=True,
    )
    temp_schema: str = setting(
        "Temporary schema",
        help="A schema kept for us; we make nothing in it",
        default=_TRAITS.default_temp_schema,
        advanced=True,
        incidental=True,
    )
    port: int = setting("Port", help="The port of the host", default=443, advanced=True, incidental=True)
    ca_file: str = setting(
        "CA file",
        help="A file of certificates to trust, where a proxy of your own stands between; empty: the usual ones",
        default="",
        advanced=True,
        incidental=True,
    )

    def setup_script(
        self, tables: Sequence[Table], *, direction: Direction = Direction.BOTH, egress: Sequence[str] = ()
    ) -> str:
        """To be run by the owner of the catalog. It gives rights to read and no others, whatever the direction."""
        if direction is Direction.EXPORT:
            raise InvalidInput("Databricks is read only here", hint="ask for the script to import")
        return databricks_sql.setup_script(
            catalog=self.catalog,
            import_schema=self.import_schema,
            temp_schema=self.temp_schema,
            principal=self.principal,
            http_path=self.http_path,
            egress=egress,
        )

    def check(self) -> Iterator[Check]:
        """Eight questions, which change nothing. A stopped warehouse is started by them."""
        try:
            self._require_unity_catalog()
        except Missing as e:
            yield Check("Is it a catalog of Unity Catalog?", False, detail=e.summary, hint=e.hint)
            return
        reached = Check("Can the host be reached?", True, detail=f"{self._host}:{self.port}")
        try:
            warehouse = self._sign_in()
            me = warehouse.user()
        except Unreachable as e:
            yield Check(reached.question, False, detail=f"{reached.detail}: {e.vendor or e.summary}", hint=e.hint)
            return
        except WarehouseError as e:
            yield reached
            yield Check("Can we sign in?", False, detail=e.vendor or e.summary, hint=e.hint)
            return
        try:
            yield reached
            yield Check("Can we sign in?", True, detail=me)
            yield from databricks_checks.questions(self, warehouse, me)
        finally:
            warehouse.close()

    def open(self) -> DatabricksWarehouse:
        """Sign in. Raises Unreachable, Busy (a warehouse that starts), Denied or Missing (warehouse or catalog)."""
        self._require_unity_catalog()
        return self._sign_in(self.catalog)

    def _sign_in(self, catalog: str | None = None) -> DatabricksWarehouse:
        try:
            from databricks import sql as driver
        except ImportError as e:
            hint = "install the extra that brings it: pip install 'isthmus[databricks]'"
            raise Missing("the Databricks driver is not installed", hint=hint) from e
        # It logs as errors what it raises as well.
        logging.getLogger("databricks.sql").setLevel(logging.CRITICAL)
        with translated(self.access_token, self.principal):
            con = driver.connect(
                self._host,
                self.http_path,
                self.access_token.reveal(),
                catalog=catalog,
                user_agent_entry="Isthmus",
                max_download_threads=DOWNLOADS,
                enable_telemetry=False,
                _port=self.port,
                _tls_trusted_ca_file=self.ca_file or None,
                _socket_timeout=TIMEOUT_S,
                # Waiting is the caller's: only a cut connection is made anew, once and at once.
                _retry_stop_after_attempts_count=1,
                _retry_stop_after_attempts_duration=1,
                _retry_delay_min=0.1,
                _retry_delay_max=5,
            )
        warehouse = DatabricksWarehouse(self, con)
        try:
            warehouse.ask(databricks_sql.SESSION)
        except WarehouseError:
            warehouse.close()
            raise
        return warehouse

    @property
    def _host(self) -> str:
        """The host alone: people copy the address of their browser."""
        return self.hostname.strip().removeprefix("https://").split("/")[0]

    def _require_unity_catalog(self) -> None:
        if self.catalog.lower() in databricks_sql.HIVE:
            raise Missing(
                f"{self.catalog} is a Hive metastore, not a catalog of Unity Catalog",
                hint="upgrade its tables to Unity Catalog, or make a foreign catalog of it (Hive metastore federation)",
            )


class DatabricksWarehouse:
    """A signed-in session. Several results may be read at a time."""

    def __init__(self, config: DatabricksConfig, con: Any) -> None:
        self._config = config
        self._con: Any = con

    # Writing is not offered

    def create(self, table: Table) -> None:
        raise databricks_sql.read_only()

    def load(self, batch: Batch) -> Receipt:
        raise databricks_sql.read_only()

    def receipt(self, batch_id: str) -> Receipt | None:
        raise databricks_sql.read_only()

    def reached(self, table: Table) -> int | None:
        raise databricks_sql.read_only()

    def tally(self, table: Table, seqs: SeqRange) -> Iterator[Tally]:
        raise databricks_sql.read_only()

    # Reading

    def relations(self) -> Iterator[Relation]:
        catalog, schema = self._config.catalog, self._config.import_schema
        found = [Relation(*row) for row in self.ask(databricks_sql.relations(catalog, schema))]
        if not found:  # nothing is there, or nothing of it may be seen: the next question says which
            self.require(schema)
        yield from found

    def schema(self, relation: Relation) -> pa.Schema:
        """Arrays, maps, structs and variants are JSON text; intervals, and what Arrow has no word for, are text."""
        return databricks_sql.arrow_schema(self._columns(self._from(relation)))

    def read(
        self, relation: Relation, *, window: Window | None = None, limit: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """See the protocol, and `schema` for the types."""
        origin = self._from(relation)
        theirs = self._columns(origin)
        statement = f"SELECT {databricks_sql.chosen(theirs)} FROM {origin} WHERE {_where(relation, window, theirs)}"
        statement += databricks_sql.in_order(window) + ("" if limit is None else f" LIMIT {int(limit)}")
        schema, cursor = databricks_sql.arrow_schema(theirs), self._cursor()
        try:
            with self._translated():
                cursor.execute(statement)
            while True:
                with self._translated():
                    rows = cursor.fetchmany_arrow(ROWS)
                    if not rows.num_rows:
                        return
                    batches = rows.cast(schema).to_batches()
                yield from (batch for batch in batches if batch.num_rows)
        finally:
            with suppress(Exception):  # who gives up does not mind
                cursor.close()

    def count(self, relation: Relation, *, window: Window | None = None) -> Count:
        origin = self._from(relation)
        if window is None:
            return Count(int(self.ask(f"SELECT count(*) AS n FROM {origin}")[0][0]))
        where = _where(relation, window, self._columns(origin))
        ((rows, first, last, checksum, now),) = self.ask(
            f"SELECT {databricks_sql.counted(window)} FROM {origin} WHERE {where}"
        )
        return Count(int(rows), sql.instant(first), sql.instant(last), int(checksum), sql.instant(now))

    def _from(self, relation: Relation) -> str:
        return databricks_sql.origin(self._config.catalog, relation)

    def _columns(self, origin: str) -> dict[str, str]:
        """Names and types of the columns. Raises Missing if there is no such relation."""
        return {name: kind for name, kind, *_ in self.ask(databricks_sql.describe(origin))}

    # Set-up

    def user(self) -> str:
        return str(self.ask("SELECT current_user() AS me")[0][0])

    def require(self, schema: str) -> None:
        """Raise Missing or Denied unless a schema is there and may be used."""
        self.ask(f"USE SCHEMA {identifier(self._config.catalog, schema)}")

    # Inside

    def close(self) -> None:
        if self._con is not None:
            con, self._con = self._con, None
            with suppress(Exception):  # a session that broke cannot say goodbye
                con.close()

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        """Every statement but a streamed read goes through here."""
        cursor = self._cursor()
        try:
            with self._translated():
                cursor.execute(statement)
                table = cursor.fetchall_arrow()
        finally:
            with suppress(Exception):
                cursor.close()
        return [tuple(row.values()) for row in table.to_pylist()]

    def _cursor(self) -> Any:
        if self._con is None:
            raise Unreachable("the connection is closed", hint="open it again")
        with self._translated():
            return self._con.cursor(arraysize=ROWS, buffer_size_bytes=BYTES)

    def _translated(self) -> Any:
        return translated(self._config.access_token, self._config.principal)


def _where(relation: Relation, window: Window | None, theirs: dict[str, str]) -> str:
    if window is None:
        return "true"
    return databricks_sql.in_window(window, sql.window_type(window, theirs, relation))
