"""The T-SQL texts of the Synapse connector, without a connection: what is said, not when.

Names are in double quotes, which a dedicated SQL pool always takes for names. Texts are N'…': without the N they would
pass through the code page of the database.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from isthmus.duck import identifier
from isthmus.model.table import DELETED, SEQ, Batch, Column, SeqRange, Table, Type
from isthmus.warehouses import sql
from isthmus.warehouses.types import Spelling

COLLATION = "Latin1_General_100_BIN2"
"""Compares code points, so that case and accents count. Only blanks at the end never count in T-SQL."""

_UTF8 = "Latin1_General_100_BIN2_UTF8"
KEY_CHARACTERS = 4000

TYPES: Mapping[Type, Spelling] = {
    # (max) is for heaps only: a columnstore index takes none. 5 MB of JSON need it.
    Type.TEXT: Spelling(f"nvarchar(max) COLLATE {COLLATION}", frozenset({"nvarchar(max)"})),
    Type.JSON: Spelling(f"nvarchar(max) COLLATE {COLLATION}", frozenset({"nvarchar(max)"})),
    Type.TIMESTAMP: Spelling("datetimeoffset(6)", frozenset({"datetimeoffset(7)"})),
    Type.DOUBLE: Spelling("float"),
    Type.BIGINT: Spelling("bigint"),
    Type.BOOLEAN: Spelling("bit"),
}
KEY_TYPES: Mapping[Type, Spelling] = {
    **TYPES,
    # What rows are found by may be no (max) where they are distributed by it, and must tell "a" from "A".
    Type.TEXT: Spelling(f"nvarchar({KEY_CHARACTERS}) COLLATE {COLLATION}"),
}

TURN = "_isthmus_turn"
"""The id of the row of the receipts table whose lock is a load's turn. Keys are not enforced in a dedicated SQL pool,
and reads are not isolated; that two transactions cannot change one row at the same time is."""

STAGE = "_isthmus_stage_"


def text(value: str) -> str:
    """`value` as a Unicode string of T-SQL."""
    return "N'" + value.replace("'", "''") + "'"


def bracketed(name: str) -> str:
    """`name` as people write it in T-SQL."""
    return "[" + name.replace("]", "]]") + "]"


def same_text(column: str, value: str) -> str:
    """The condition that a column holds exactly this text: to T-SQL, blanks at the end make no difference."""
    return f"{column} = {text(value)} AND DATALENGTH({column}) = {2 * characters(value)}"


def characters(value: str) -> int:
    """How long T-SQL finds a text: in pairs of bytes of UTF-16."""
    return len(value.encode("utf-16-le")) // 2


# Tables


def definitions(table: Table) -> list[str]:
    """The columns of a CREATE TABLE, one each."""
    return [_definition(c, table.key) for c in table.columns]


def _definition(column: Column, key: Sequence[str]) -> str:
    spellings = KEY_TYPES if column.name in key else TYPES
    return f"{sql.definitions([column], spellings)} NULL"


def create_table(table: Table, name: str, *, batch: bool = False) -> str:
    """A heap, its rows distributed by the key, so that new versions meet old ones without moving."""
    columns = [*definitions(table), *([f"{identifier(DELETED)} bit NULL"] if batch and table.key else [])]
    spread = f"HASH ({identifier(table.key[0])})" if table.key else "ROUND_ROBIN"
    inner = ",\n    ".join(columns)
    return f"CREATE TABLE {name} (\n    {inner}\n)\nWITH (HEAP, DISTRIBUTION = {spread})"


def create_receipts(name: str) -> str:
    """One row a batch, and one that is the turn. Spread over nothing: it is small, and its rows are locked."""
    columns = [_definition(c, ("batch_id", "table_name")) for c in sql.RECEIPT_COLUMNS]
    inner = ",\n    ".join(columns)
    return f"CREATE TABLE {name} (\n    {inner}\n)\nWITH (HEAP, DISTRIBUTION = ROUND_ROBIN)"


def make_turn(receipts: str) -> str:
    """The row that is the turn, if it is not there. Two of them, made at the same time, do as well as one."""
    values = f"{text(TURN)}, {text('')}, NULL, NULL, 0, {_now()}"
    return f"INSERT INTO {receipts} SELECT {values} WHERE NOT EXISTS ({_turn(receipts)})"


def _turn(receipts: str) -> str:
    return f"SELECT 1 FROM {receipts} WHERE {identifier('batch_id')} = {text(TURN)}"


def add_columns(name: str, columns: Sequence[Column]) -> str:
    return f"ALTER TABLE {name} ADD {', '.join(_definition(c, ()) for c in columns)}"


def columns(schema: str, table: str) -> str:
    """Asks for the columns of a table: name, type, length, digits of a time, collation."""
    return (
        "SELECT COLUMN_NAME, DATA_TYPE, CHARACTER_MAXIMUM_LENGTH, DATETIME_PRECISION, COLLATION_NAME "
        f"FROM INFORMATION_SCHEMA.COLUMNS WHERE TABLE_SCHEMA = {text(schema)} AND TABLE_NAME = {text(table)} "
        "ORDER BY ORDINAL_POSITION"
    )


def type_name(row: Sequence[object], *, with_collation: bool) -> str:
    """The type of a row of `columns`, in the words of `TYPES`."""
    _, kind, length, precision, collation = row
    name = str(kind)
    if length is not None:
        name += f"({'max' if length == -1 else length})"
    elif name in ("datetime2", "datetimeoffset", "time"):
        name += f"({precision})"
    return f"{name} COLLATE {collation}" if with_collation and collation else name


def missing_columns(table: Table, rows: Iterable[Sequence[object]]) -> list[Column]:
    """`sql.missing_columns`, with other types for what rows are found by."""
    described = list(rows)
    own = {str(row[0]): type_name(row, with_collation=str(row[0]) in table.key) for row in described}
    names = _folded(table.columns, own)
    key = Table(table.name, tuple(c for c in table.columns if c.name in table.key))
    rest = Table(table.name, tuple(c for c in table.columns if c.name not in table.key))
    return sql.missing_columns(key, names, KEY_TYPES) + sql.missing_columns(rest, names, TYPES)


def _folded(columns: Sequence[Column], theirs: Mapping[str, str]) -> dict[str, str]:
    """Their types by our names: a column of another case is the same one."""
    ours = {c.name.lower(): c.name for c in columns}
    return {ours.get(name.lower(), name): kind for name, kind in theirs.items()}


def old_stages(schema: str) -> str:
    """Asks for the tables of a schema and their ages in seconds: what a load that was killed leaves is found by it."""
    return (
        "SELECT t.name, DATEDIFF_BIG(SECOND, t.create_date, SYSUTCDATETIME()) FROM sys.tables AS t "
        f"JOIN sys.schemas AS s ON s.schema_id = t.schema_id WHERE s.name = {text(schema)}"
    )


def has_schema(name: str) -> str:
    return f"SELECT 1 FROM sys.schemas WHERE name = {text(name)}"


def create_schema(name: str) -> str:
    """Safe to say twice. CREATE SCHEMA stands alone in a batch, hence the EXEC."""
    inner = f"CREATE SCHEMA {bracketed(name)}"
    return f"IF SCHEMA_ID({text(name)}) IS NULL EXEC ({text(inner)});"


# Loading


def insert_row(stage: str, table: Table) -> str:
    """Takes one row of a batch, as parameters."""
    names = table.batch_schema.names
    return f"INSERT INTO {stage} ({sql.names(names)}) VALUES ({', '.join('?' * len(names))})"


def copy_into(stage: str, urls: Iterable[str], sas: str) -> str:
    """AUTO_CREATE_TABLE makes nothing, for the table is there; but with it another reader of Parquet is used, one that
    takes text beyond ASCII."""
    files = ", ".join("'" + url.replace("'", "''") + "'" for url in urls)
    secret = sas.replace("'", "''")
    return (
        f"COPY INTO {stage} FROM {files} WITH (FILE_TYPE = 'PARQUET', "
        f"CREDENTIAL = (IDENTITY = 'Shared Access Signature', SECRET = '{secret}'), AUTO_CREATE_TABLE = 'ON')"
    )


RECEIPT = ("table_name", "rows", "after_seq", "upto_seq", "loaded_at")


def _receipt_columns() -> str:
    *plain, moment = RECEIPT
    return f"{sql.names(plain)}, {microseconds(identifier(moment))}"


def _of_batch(receipts: str, batch_id: str) -> str:
    return f"FROM {receipts} WHERE {same_text(identifier('batch_id'), batch_id)}"


def _take_turn(receipts: str) -> str:
    """Waits until no other load is between its BEGIN and its COMMIT. The value must change: to leave a row as it is
    may lock nothing."""
    return f"UPDATE {receipts} SET {identifier('loaded_at')} = {_now()} WHERE {identifier('batch_id')} = {text(TURN)}"


def find_receipt(receipts: str, batch_id: str) -> str:
    """Asks for a batch's receipt, when nobody is just writing one: uncommitted rows can be read. Its one row says first
    whether there is a turn to take."""
    return (
        f"SET NOCOUNT ON; BEGIN TRANSACTION; {_take_turn(receipts)}; "
        f"SELECT 1, {_receipt_columns()} {_of_batch(receipts, batch_id)} "
        f"UNION ALL SELECT 0, NULL, NULL, NULL, NULL, NULL FROM {receipts} "
        f"WHERE {identifier('batch_id')} = {text(TURN)}; COMMIT TRANSACTION"
    )


def reached(receipts: str, table: str) -> str:
    return (
        f"SET NOCOUNT ON; BEGIN TRANSACTION; {_take_turn(receipts)}; SELECT MAX({identifier('upto_seq')}) "
        f"FROM {receipts} WHERE {same_text(identifier('table_name'), table)}; COMMIT TRANSACTION"
    )


def take(batch: Batch, target: str, receipts: str, stage: str | None) -> str:
    """The whole transaction of a load as one batch: a client that is frozen in the middle of it can hold no lock.

    Its one row is whether the receipt was there before, then the receipt. Without a count of rows an error comes at
    once instead of after the first statement's count.
    """
    steps = list(_rows(batch, target, stage))
    after, upto = ("NULL" if s is None else str(s) for s in (batch.seqs.after, batch.seqs.upto))
    values = f"{text(batch.batch_id)}, {text(batch.table.name)}, {after}, {upto}, {batch.rows}, {_now()}"
    steps.append(f"INSERT INTO {receipts} SELECT {values}")  # VALUES takes constants only
    found = _of_batch(receipts, batch.batch_id)
    inner = "".join(f"    {step};\n" for step in steps)
    return (
        f"SET NOCOUNT ON;\nBEGIN TRANSACTION;\n{_take_turn(receipts)};\n"
        f"IF NOT EXISTS (SELECT 1 {found})\nBEGIN\n{inner}    COMMIT TRANSACTION;\n"
        f"    SELECT 0, {_receipt_columns()} {found};\nEND\n"
        f"ELSE\nBEGIN\n    COMMIT TRANSACTION;\n    SELECT 1, {_receipt_columns()} {found};\nEND"
    )


ROLLBACK = "IF @@TRANCOUNT > 0 ROLLBACK TRANSACTION"


def _rows(batch: Batch, target: str, stage: str | None) -> Iterator[str]:
    table, seq, deleted = batch.table, identifier(SEQ), identifier(DELETED)
    if batch.replaces is not None:
        yield f"DELETE FROM {target} WHERE {in_range(batch.replaces)}"
    if stage is None:
        return
    names = sql.names(c.name for c in table.columns)
    if batch.adds_only or not table.key:
        present = f" WHERE {deleted} IS NULL OR {deleted} = 0" if table.key else ""
        yield f"INSERT INTO {target} ({names}) SELECT {names} FROM {stage}{present}"
        return
    # What is in the batch in any version not older goes, or with `replaces` whatever is there.
    old = identifier(table.name)
    is_newer = f" AND ({old}.{seq} IS NULL OR {old}.{seq} <= COALESCE(s.{seq}, -1))"
    matching = f"SELECT 1 FROM {stage} AS s WHERE {_same_key(table, old, 's')}"
    yield f"DELETE FROM {target} WHERE EXISTS ({matching}{is_newer if batch.replaces is None else ''})"
    newest = (
        f"(SELECT {names}, {deleted}, ROW_NUMBER() OVER (PARTITION BY {_key_parts(table)} ORDER BY {seq} DESC) AS n "
        f"FROM {stage})"
    )
    newer = f"SELECT 1 FROM {target} AS t WHERE {_same_key(table, 't', 's')}"
    yield (
        f"INSERT INTO {target} ({names}) SELECT {names} FROM {newest} AS s "
        f"WHERE n = 1 AND ({deleted} IS NULL OR {deleted} = 0) AND NOT EXISTS ({newer})"
    )


def _same_key(table: Table, left: str, right: str) -> str:
    lengths = (
        f" AND DATALENGTH({left}.{identifier(k)}) = DATALENGTH({right}.{identifier(k)})" for k in _text_keys(table)
    )
    return sql.same(table.key, left, right) + "".join(lengths)


def _key_parts(table: Table) -> str:
    return ", ".join([sql.names(table.key), *(f"DATALENGTH({identifier(k)})" for k in _text_keys(table))])


def _text_keys(table: Table) -> list[str]:
    return [k for k in table.key if table.column(k).type is Type.TEXT]


def in_range(seqs: SeqRange) -> str:
    """`sql.in_range` for a language without `true`."""
    found = sql.in_range(seqs)
    return "1 = 1" if found == "true" else found


# Proof


def tally(table: Table, name: str, seqs: SeqRange) -> str:
    """Counts and checksums a seq: `row_digest` in the inner query, so that it is computed once a row."""
    seq = identifier(SEQ)
    return (
        f"SELECT {seq}, COUNT_BIG(*), SUM(CAST(CONVERT(BIGINT, SUBSTRING(h, 1, 7)) * 16 "
        f"+ CONVERT(BIGINT, SUBSTRING(h, 8, 1)) / 16 AS DECIMAL(38, 0))) "
        f"FROM (SELECT {seq}, {hashed(row_text(table.columns))} AS h FROM {name} WHERE {in_range(seqs)}) AS digests "
        f"GROUP BY {seq} ORDER BY {seq}"
    )


def hashed(expression: str) -> str:
    """The MD5 of a text in UTF-8, as 16 bytes."""
    return f"HASHBYTES('MD5', CONVERT(VARCHAR(MAX), {expression} COLLATE {_UTF8}))"


def row_text(columns: Iterable[Column]) -> str:
    """What `isthmus.duck.row_digest` hashes. The first argument makes CONCAT's result one without a limit."""
    parts: list[str] = []
    for column in columns:
        name = identifier(column.name)
        parts.append(f"CASE WHEN {name} IS NULL THEN N'' ELSE CONCAT(N'=', {_canonical(column)}) END")
    return f"CONCAT(CAST(N'' AS NVARCHAR(MAX)), {', NCHAR(31), '.join(parts)})"


def _canonical(column: Column) -> str:
    name = identifier(column.name)
    match column.type:
        case Type.TEXT | Type.JSON:
            return name
        case Type.TIMESTAMP:
            return microseconds(name)
        case Type.DOUBLE:
            # 'E14' gives 15 digits and an exponent of three at least: 1.23450000000000E+002.
            number = f"FORMAT({name} + CAST(0 AS FLOAT), 'E14', 'en-US')"
            return f"LOWER(REPLACE(REPLACE({number}, 'E+0', 'E+'), 'E-0', 'E-'))"
        case Type.BIGINT:
            return name
        case Type.BOOLEAN:
            return f"CASE WHEN {name} = 1 THEN N'1' ELSE N'0' END"


def microseconds(expression: str) -> str:
    """A date or time as whole microseconds since 1970, cut and not rounded."""
    return f"DATEDIFF_BIG(MICROSECOND, '1970-01-01', {expression})"


def _now() -> str:
    return "CAST(SYSUTCDATETIME() AS DATETIMEOFFSET(6))"
