"""The SQL texts of the Redshift connector, without a connection: what is said, not when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from isthmus.duck import identifier, literal
from isthmus.model.table import SEQ, Batch, Column, SeqRange, Table, Type
from isthmus.warehouses import sql
from isthmus.warehouses.protocol import Window
from isthmus.warehouses.types import Spelling

REDSHIFT: Mapping[Type, Spelling] = {
    Type.TEXT: Spelling("character varying(65535)"),
    # SUPER, because a text ends at 65,535 bytes here, and a SUPER at 16 MB. It does not keep the text byte for byte.
    Type.JSON: Spelling("super"),
    Type.TIMESTAMP: Spelling("timestamp with time zone"),
    Type.DOUBLE: Spelling("double precision"),
    Type.BIGINT: Spelling("bigint"),
    Type.BOOLEAN: Spelling("boolean"),
}

DIGEST = "_isthmus_digest"
"""Technical column of every table of ours that is proved: what the digest of the row, as it was sent, is more than the
digest of its plain columns. Added up with the latter, which Redshift computes anew, it gives the digest of the row."""

TEXT_LIMIT_BYTES = 65_535
JSON_LIMIT_BYTES = 16_777_216
LONG_BYTES = 500
"""A longer text goes into a digest by its MD5."""
STATEMENT_TIMEOUT_S = 3600

STAGE, NEWEST = "_isthmus_stage", "_isthmus_newest"
"""Temporary tables: the rows of a batch as they came, and of each key the newest one in the types of the target."""

SESSION = (
    # Names are exact to us as soon as they are quoted, and what we make is in lower case.
    "SET enable_case_sensitive_identifier TO true",
    "SET timezone TO 'UTC'",
    # What is no JSON must be said, not become NULL.
    "SET parse_super_null_on_error TO off",
    f"SET statement_timeout TO {STATEMENT_TIMEOUT_S * 1000}",
)
"""Said first in every session."""

RECEIPT = 'table_name, "rows", after_seq, upto_seq, loaded_at'
"""The columns `sql.receipt` wants."""


def folded(table: Table) -> Table:
    """The table as Redshift names it: in lower case, so that a person needs no quotes and no setting."""
    columns = tuple(replace(c, name=c.name.lower()) for c in table.columns)
    return Table(table.name.lower(), columns, tuple(k.lower() for k in table.key))


def kept(table: Table) -> Table:
    """The folded table with the technical column, if it can be proved: if its rows have a seq."""
    made = folded(table)
    if SEQ not in (c.name for c in made.columns):
        return made
    return replace(made, columns=(*made.columns, Column(DIGEST, Type.BIGINT)))


def create_table(table: Table, name: str) -> str:
    columns = ",\n    ".join(sql.definitions([c], REDSHIFT) for c in table.columns)
    return f"CREATE TABLE IF NOT EXISTS {name} (\n    {columns}\n)"


def columns(schema: str, table: str) -> str:
    """Asks for the names and types of a table's columns; there are none if there is no such table."""
    return (
        "SELECT column_name, data_type || CASE WHEN character_maximum_length IS NOT NULL "
        "THEN '(' || character_maximum_length::varchar || ')' ELSE '' END FROM svv_columns "
        f"WHERE table_schema = {literal(schema)} AND table_name = {literal(table)} ORDER BY ordinal_position"
    )


# Loading


def stage(table: Table, *, typed: bool) -> str:
    """Make the stage. `typed`: rows come from Parquet files; if not, as texts in statements."""
    kinds = {Type.TEXT: "VARCHAR(65535)", Type.JSON: f"VARBYTE({JSON_LIMIT_BYTES})"}
    if typed:
        # A time comes without its zone: COPY takes it into a TIMESTAMP only.
        kinds |= {Type.TIMESTAMP: "TIMESTAMP", Type.DOUBLE: "DOUBLE PRECISION", Type.BIGINT: "BIGINT"}
        kinds |= {Type.BOOLEAN: "BOOLEAN"}
    named = [f"c{n} {kinds.get(c.type, 'VARCHAR(65535)')}" for n, c in enumerate(table.columns)]
    named += [f"t{n} {kinds[Type.JSON]}" for n, c in enumerate(table.columns) if c.type is Type.JSON]
    named.append(f"d {'BOOLEAN' if typed else 'VARCHAR(5)'}")
    return f"CREATE TEMP TABLE {STAGE} ({', '.join(named)})"


def taken(table: Table, *, typed: bool, careful: bool) -> list[str]:
    """The expressions that make the columns of the target of a row `s` of the stage.

    With `careful`, what JSON_PARSE would refuse is kept as a text in the SUPER: whole, or in pieces if it is long.
    """
    return [_taken(f"s.c{n}", f"s.t{n}", c, typed=typed, careful=careful) for n, c in enumerate(table.columns)]


def _taken(value: str, text: str, column: Column, *, typed: bool, careful: bool) -> str:
    match column.type:
        case Type.JSON if careful:
            return (
                f"CASE WHEN {value} IS NULL THEN NULL WHEN can_json_parse({value}) THEN json_parse({value}) "
                f"WHEN {text} IS NOT NULL THEN json_parse({text}) ELSE from_varbyte({value}, 'utf-8')::super END"
            )
        case Type.JSON:
            return f"json_parse({value})"
        case Type.TIMESTAMP:
            return f"CAST({value} AS TIMESTAMP) AT TIME ZONE 'UTC'"
        case Type.BOOLEAN if not typed:
            return f"CASE {value} WHEN 'true' THEN true WHEN 'false' THEN false END"
        case Type.DOUBLE | Type.BIGINT if not typed:
            return f"CAST({value} AS {REDSHIFT[column.type].name})"
        case _:
            return value


def insert_staged(table: Table, target: str, *, typed: bool, careful: bool) -> str:
    """Take over all rows of the stage."""
    names = sql.names(c.name for c in table.columns)
    chosen = ", ".join(taken(table, typed=typed, careful=careful))
    return f"INSERT INTO {target} ({names}) SELECT {chosen} FROM {STAGE} AS s"


def newest(table: Table, *, typed: bool, careful: bool) -> str:
    """Make the table of the newest version of each key in the stage."""
    chosen = taken(table, typed=typed, careful=careful)
    named = [f"{value} AS {identifier(c.name)}" for value, c in zip(chosen, table.columns, strict=True)]
    places = {c.name: f"c{n}" for n, c in enumerate(table.columns)}
    keys = ", ".join(places[k] for k in table.key)
    seq = places[SEQ] if typed else f"CAST({places[SEQ]} AS BIGINT)"
    gone = "s.d" if typed else "s.d = 'true'"
    return (
        f"CREATE TEMP TABLE {NEWEST} AS SELECT {', '.join(named)}, {gone} AS _deleted FROM (SELECT *, "
        f"row_number() OVER (PARTITION BY {keys} ORDER BY {seq} DESC NULLS LAST) AS nth FROM {STAGE}) AS s "
        "WHERE s.nth = 1"
    )


def upsert(batch: Batch, table: Table, target: str) -> Iterator[str]:
    """Take over the newest versions, unless what is there is newer."""
    keys, seq = sql.same(table.key, target, NEWEST), identifier(SEQ)
    older = "" if batch.replaces is not None else f" AND ({target}.{seq} IS NULL OR {target}.{seq} <= {NEWEST}.{seq})"
    yield f"DELETE FROM {target} USING {NEWEST} WHERE {keys}{older}"
    if batch.replaces is None:
        yield f"DELETE FROM {NEWEST} USING {target} WHERE {keys}"
    names = sql.names(c.name for c in table.columns)
    yield f"INSERT INTO {target} ({names}) SELECT {names} FROM {NEWEST} WHERE _deleted IS NOT TRUE"


# Proof


def tally(table: Table, target: str, seqs: SeqRange) -> str:
    """Asks for seq, count and checksum. A row that nobody sent has no digest, so that it shows."""
    seq = identifier(SEQ)
    return (
        f"SELECT {seq}, count(*), CAST(sum(coalesce({identifier(DIGEST)}, 0) + {plain_digest(table.columns)}) "
        f"AS VARCHAR(60)) FROM {target} WHERE {sql.in_range(seqs)} GROUP BY {seq} ORDER BY {seq} NULLS FIRST"
    )


def plain_digest(columns: Sequence[Column]) -> str:
    """The digest of the columns Redshift can write out for certain; `redshift_staging.plain_digest` is its twin.

    A long text by its MD5, so that the whole does not get too long; a double to four decimals, by arithmetic alone,
    because how it is written is the warehouse's own affair. JSON is left out: it is not kept as it came.
    """
    written = [c for c in columns if c.type is not Type.JSON and c.name != DIGEST]
    parts = " || chr(31) || ".join(f"coalesce({_plain(c)}, '-')" for c in written)
    return f"strtol(substring(md5({parts}), 1, 15), 16)"


def _plain(column: Column) -> str:
    name = identifier(column.name)
    match column.type:
        case Type.TIMESTAMP:
            return f"to_char({name} AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS')"
        case Type.DOUBLE:
            rounded = f"CAST(CAST(floor({name} * 10000 + 0.5) AS BIGINT) AS VARCHAR(20))"
            return f"CASE WHEN {name} IS NULL THEN '-' WHEN abs({name}) < 1e14 THEN {rounded} ELSE 'big' END"
        case Type.BIGINT:
            return f"CAST({name} AS VARCHAR(20))"
        case Type.BOOLEAN:
            return f"CASE WHEN {name} THEN 't' WHEN NOT {name} THEN 'f' END"
        case _:
            return f"CASE WHEN octet_length({name}) > {LONG_BYTES} THEN md5({name}) ELSE '=' || {name} END"


# Reading


def relations(schema: str) -> str:
    """Asks for the tables and views of a schema that the user may see. What holds a materialized view is not one."""
    return (
        "SELECT table_name, CASE WHEN table_type LIKE '%VIEW%' THEN 'view' ELSE 'table' END FROM svv_tables "
        f"WHERE table_schema = {literal(schema)} AND table_name NOT LIKE 'mv_tbl!_!_%' ESCAPE '!'"
    )


def find(schema: str, name: str) -> tuple[str, ...]:
    """Ask for a relation as its names are really written: exactly so, or else in lower case. Those that lie in files
    outside (Spectrum) are in the second place only."""
    schemas, names = (f"IN ({literal(n)}, {literal(n.lower())})" for n in (schema, name))
    return (
        "SELECT nspname::varchar, relname::varchar FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace "
        f"WHERE nspname {schemas} AND relname {names} AND relkind IN ('r', 'v', 'm', 'p') "
        f"ORDER BY nspname = {literal(schema)} DESC, relname = {literal(name)} DESC LIMIT 1",
        f"SELECT table_schema, table_name FROM svv_tables WHERE table_schema {schemas} AND table_name {names} "
        f"ORDER BY table_schema = {literal(schema)} DESC, table_name = {literal(name)} DESC LIMIT 1",
    )


def in_order(window: Window | None) -> str:
    """`sql.in_order`, by the columns of the origin `q` and not by those of the select list."""
    if window is None:
        return ""
    columns = [window.changed_at, *([window.key] if window.key else [])]
    return f" ORDER BY {sql.names(columns, of='q')}"


def counted(origin: str, window: Window, where: str) -> str:
    """Asks for rows, first, last, checksum and now of a window."""
    moment = identifier(window.changed_at)
    parts = [f"coalesce(CAST({identifier(c)} AS VARCHAR(65535)), '')" for c in (window.changed_at, window.key) if c]
    hashed = f"strtol(substring(md5({' || chr(124) || '.join(parts)}), 1, 15), 16)"
    return (
        f"SELECT count(*), CAST(min({moment}) AS TIMESTAMP), CAST(max({moment}) AS TIMESTAMP), "
        f"CAST(coalesce(sum({hashed}), 0) AS VARCHAR(60)), sysdate FROM {origin} WHERE {where}"
    )
