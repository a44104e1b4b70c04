"""The SQL texts of the Databricks connector, without a connection: names, types, windows, rights, the set-up script."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa

from isthmus.model.errors import WarehouseError
from isthmus.warehouses.protocol import Relation, Window

HIVE = frozenset({"hive_metastore", "spark_catalog"})
"""The catalogs from before Unity Catalog."""

SESSION = "SET TIME ZONE 'UTC'"
"""Said first in every session: a time without a zone is UTC, as everywhere with us."""

_PLAIN: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "tinyint": pa.int8(),
    "smallint": pa.int16(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "varchar": pa.string(),
    "char": pa.string(),
    "binary": pa.binary(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "timestamp_ntz": pa.timestamp("us"),
}

_NESTED = ("array", "map", "struct", "variant", "object")

# Without these patterns times inside would be cut to milliseconds. For a variant the options mean nothing.
_JSON_OPTIONS = (
    "map('timestampFormat', 'yyyy-MM-dd\\'T\\'HH:mm:ss.SSSSSSXXX', "
    "'timestampNTZFormat', 'yyyy-MM-dd\\'T\\'HH:mm:ss.SSSSSS', 'ignoreNullFields', 'false')"
)

_YEAR_1 = datetime(1, 1, 1, tzinfo=UTC)


def identifier(*parts: str) -> str:
    """A name, or names with dots between, quoted."""
    return ".".join("`" + part.replace("`", "``") + "`" for part in parts)


def literal(text: str) -> str:
    """A text quoted as an SQL string. A doubled quote would end it: two strings side by side are one to Databricks."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def read_only() -> WarehouseError:
    return WarehouseError(
        "Databricks is read only here",
        hint="export to S3 and read the files there (external location, read_files), or export to another kind",
    )


# Reading


def origin(catalog: str, relation: Relation) -> str:
    """The FROM of a relation, aliased `q`."""
    if relation.kind == "query":
        # On lines of its own: the query may end with a comment.
        return f"(\n{relation.name.rstrip().rstrip(';')}\n) AS q"
    return f"{identifier(catalog, relation.schema, relation.name)} AS q"


def describe(source: str) -> str:
    """Asks for names and types of the columns without running anything."""
    return f"DESCRIBE QUERY SELECT * FROM {source}"


def arrow_schema(theirs: dict[str, str]) -> pa.Schema:
    """How columns of these types come to us: what Arrow has no plain word for is text."""
    return pa.schema([pa.field(name, _arrow(kind)) for name, kind in theirs.items()])


def _arrow(kind: str) -> pa.DataType:
    if found := re.fullmatch(r"decimal\((\d+),\s*(\d+)\)", kind):
        return pa.decimal128(int(found[1]), int(found[2]))
    return _PLAIN.get(_bare(kind), pa.string())


def _bare(kind: str) -> str:
    """A type without its size, its parts or its collation: `string collate UTF8_LCASE` is a string."""
    return re.split(r"[(<\s]", kind.strip().lower(), maxsplit=1)[0]


def chosen(theirs: dict[str, str]) -> str:
    """The select list over the alias `q` after which every column is a plain Arrow type."""
    return ", ".join(_chosen(name, kind) for name, kind in theirs.items())


def _chosen(name: str, kind: str) -> str:
    column = f"q.{identifier(name)}"
    bare = _bare(kind)
    if bare in _PLAIN or bare == "decimal":
        return column
    if bare in _NESTED:
        return f"to_json({column}, {_JSON_OPTIONS}) AS {identifier(name)}"
    return f"CAST({column} AS STRING) AS {identifier(name)}"


def in_window(window: Window | None, kind: str) -> str:
    """The condition of a window over a changed-at column of that type, of the alias `q`.

    The literal has the column's own type, so that Databricks skips files by it.
    """
    if window is None:
        return "true"
    name, bare = f"q.{identifier(window.changed_at)}", _bare(kind)
    if window.nulls:
        return f"({name} IS NULL OR {name} < {_literal(_YEAR_1, bare)})"
    bounds = []
    for operator, moment in ((">=", window.start), ("<=", window.end)):
        if moment is None:
            continue
        moment = moment.astimezone(UTC)
        if bare == "date":
            day = _day(moment, first=operator == ">=")
            bounds.append("false" if day is None else f"{name} {operator} DATE'{day.isoformat()}'")
        else:
            bounds.append(f"{name} {operator} {_literal(moment, bare)}")
    return " AND ".join(bounds) or "true"


def _day(moment: datetime, *, first: bool) -> date | None:
    """The first day that begins at a moment or after it, or the last one at it or before. None: there is none."""
    day = moment.date()
    if not first or moment.time() == datetime.min.time():
        return day
    return None if day == date.max else day + timedelta(days=1)


def _literal(moment: datetime, bare: str) -> str:
    if bare == "date":
        return f"DATE'{moment.date().isoformat()}'"
    text = moment.replace(tzinfo=None).isoformat(sep=" ")
    return f"TIMESTAMP_NTZ'{text}'" if bare == "timestamp_ntz" else f"TIMESTAMP'{text}+00:00'"


def in_order(window: Window | None) -> str:
    """The ORDER BY of a window, by the columns as they are and not by the text they are selected as."""
    if window is None:
        return ""
    columns = [window.changed_at, *([window.key] if window.key else [])]
    return " ORDER BY " + ", ".join(f"q.{identifier(column)}" for column in columns)


def counted(window: Window) -> str:
    """The select list of a count: rows, first, last, checksum, now; times in microseconds, the sum as text.

    The sum of 64-bit hashes is taken in decimals, where it cannot overflow.
    """
    columns = [window.changed_at, *([window.key] if window.key else [])]
    moment, hashed = f"q.{identifier(columns[0])}", ", ".join(f"q.{identifier(column)}" for column in columns)
    return (
        f"count(*) AS n, unix_micros(CAST(min({moment}) AS TIMESTAMP)) AS first, "
        f"unix_micros(CAST(max({moment}) AS TIMESTAMP)) AS last, "
        f"CAST(coalesce(sum(CAST(xxhash64({hashed}) AS DECIMAL(38, 0))), 0) AS STRING) AS checksum, "
        "unix_micros(current_timestamp()) AS now"
    )


def relations(catalog: str, schema: str) -> str:
    """Asks for the tables and views of a schema that the one who asks may see. Metric views are no rows to read."""
    return (
        "SELECT table_schema, table_name, CASE WHEN table_type IN ('VIEW', 'MATERIALIZED_VIEW') THEN 'view' "
        f"ELSE 'table' END AS kind FROM {identifier(catalog)}.information_schema.tables "
        f"WHERE table_schema = {literal(schema.lower())} AND table_type <> 'METRIC_VIEW' ORDER BY table_name"
    )


# Rights


def owner(catalog: str, schema: str) -> str:
    return (
        f"SELECT schema_owner FROM {identifier(catalog)}.information_schema.schemata "
        f"WHERE schema_name = {literal(schema.lower())}"
    )


def grant(action: str, kind: str, name: str, principal: str) -> str:
    return f"GRANT {action} ON {kind} {name} TO {identifier(principal)};"


def revoke(action: str, kind: str, name: str, principal: str) -> str:
    return f"REVOKE {action} ON {kind} {name} FROM {identifier(principal)};"


def granting(said: str, principal: str) -> str:
    """The statement that gives the right Databricks says is missing, or nothing if it does not say which."""
    found = re.search(r"does not have ([A-Z ]+) on (Catalog|Schema|Table|View) '([^']+)'", said)
    if found is None:
        return ""
    kind = "TABLE" if found[2] == "View" else found[2].upper()
    return grant(found[1], kind, identifier(*found[3].split(".")), principal)


def setup_script(
    *, catalog: str, import_schema: str, temp_schema: str, principal: str, http_path: str, egress: Sequence[str]
) -> str:
    """See `DatabricksConfig.setup_script`."""
    warehouse = http_path.split("?")[0].rstrip("/").rsplit("/", 1)[-1]
    importing, temporary, user = (identifier(catalog, import_schema), identifier(catalog, temp_schema), principal)
    parts = [
        f"""\
-- Run in the SQL editor as the owner of the catalog or a metastore administrator. Safe to run twice.
--
-- Rights go to {user}: a group of the account that a service principal is put into, or that service principal
-- itself, by its application id (the connection's field `principal`). Make it with the Databricks CLI:
--   databricks account groups create --display-name {user}
--   databricks account service-principals create --display-name isthmus
-- put the second into the first, add the group to the workspace, and let it use the warehouse and nothing else of it:
--   databricks permissions update warehouses {warehouse} --json '{{"access_control_list":
--     [{{"group_name": "{user}", "permission_level": "CAN_USE"}}]}}'
-- The token is not in this script. An administrator makes one for the service principal, and it ends in time:
--   databricks token-management create-obo-token APPLICATION_ID --comment isthmus --lifetime-seconds 7776000
"""
    ]
    if egress:
        addresses = ", ".join(f'"{address}"' for address in egress)
        parts.append(f"""\
-- Isthmus comes from these addresses. Where the workspace has IP access lists, let them in:
--   databricks ip-access-lists create --json '{{"label": "isthmus", "list_type": "ALLOW",
--     "ip_addresses": [{addresses}]}}'
""")
    parts.append(f"GRANT USE CATALOG ON CATALOG {identifier(catalog)} TO {identifier(user)};\n")
    parts.append(f"""\
-- What Isthmus may read: the tables, views and materialized views here, now and in future: a right on a schema holds
-- for whatever is made in it.
CREATE SCHEMA IF NOT EXISTS {importing};
GRANT USE SCHEMA ON SCHEMA {importing} TO {identifier(user)};
GRANT SELECT ON SCHEMA {importing} TO {identifier(user)};
""")
    parts.append(f"""\
-- Isthmus makes nothing in Databricks: this schema stays empty.
CREATE SCHEMA IF NOT EXISTS {temporary};
GRANT USE SCHEMA ON SCHEMA {temporary} TO {identifier(user)};
""")
    return "\n".join(parts)
