"""Our types in each warehouse's words: what we write in a CREATE TABLE, and what else an existing column may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from isthmus.model.table import Type


@dataclass(frozen=True)
class Spelling:
    """`name` is the column type we create, as the warehouse's own catalog writes it back. `also` are the other types
    of a column somebody else made that hold the same values without loss."""

    name: str
    also: frozenset[str] = frozenset()

    def holds(self, theirs: str) -> bool:
        return theirs == self.name or theirs in self.also


DUCKDB: Mapping[Type, Spelling] = {
    Type.TEXT: Spelling("VARCHAR"),
    # Not JSON: that type refuses texts other warehouses take ("\\ud83d", half an emoji cut by somebody's script), and
    # checking costs 7 % of a load. DuckDB's JSON functions take VARCHAR as well.
    Type.JSON: Spelling("VARCHAR", frozenset({"JSON"})),
    Type.TIMESTAMP: Spelling("TIMESTAMP WITH TIME ZONE"),
    Type.DOUBLE: Spelling("DOUBLE"),
    Type.BIGINT: Spelling("BIGINT"),
    Type.BOOLEAN: Spelling("BOOLEAN"),
}

POSTGRES: Mapping[Type, Spelling] = {
    Type.TEXT: Spelling("text", frozenset({"character varying"})),
    # json, not jsonb: jsonb reorders keys, drops repeated ones and rewrites numbers, and refuses \u0000. json is kept
    # byte for byte, so checksums of both sides are exact. A view with ::jsonb is one line for who wants it.
    Type.JSON: Spelling("json", frozenset({"text", "character varying"})),
    Type.TIMESTAMP: Spelling("timestamp with time zone"),
    Type.DOUBLE: Spelling("double precision"),
    Type.BIGINT: Spelling("bigint"),
    Type.BOOLEAN: Spelling("boolean"),
}

SNOWFLAKE: Mapping[Type, Spelling] = {
    Type.TEXT: Spelling("VARCHAR(16777216)", frozenset({"VARCHAR(134217728)"})),
    # Not VARIANT: that rewrites what it is given. A text stays byte for byte, and PARSE_JSON of it is one word more.
    Type.JSON: Spelling("VARCHAR(16777216)", frozenset({"VARCHAR(134217728)"})),
    # With its offset, always +00:00: compared with CURRENT_TIMESTAMP it is right in every session's time zone, and its
    # date is the same in all of them. TIMESTAMP_NTZ is wrong in the first, TIMESTAMP_LTZ in the second.
    Type.TIMESTAMP: Spelling(
        "TIMESTAMP_TZ(6)",
        frozenset(f"TIMESTAMP_{kind}({digits})" for kind in ("TZ", "LTZ", "NTZ") for digits in (6, 7, 8, 9)),
    ),
    Type.DOUBLE: Spelling("FLOAT"),
    Type.BIGINT: Spelling("NUMBER(38,0)", frozenset(f"NUMBER({digits},0)" for digits in range(19, 38))),
    Type.BOOLEAN: Spelling("BOOLEAN"),
}

BIGQUERY: Mapping[Type, Spelling] = {
    Type.TEXT: Spelling("STRING"),
    # Not JSON: Parquet cannot be loaded into that type, and it rewrites what it holds. The original has a STRING too.
    Type.JSON: Spelling("STRING"),
    Type.TIMESTAMP: Spelling("TIMESTAMP"),
    Type.DOUBLE: Spelling("FLOAT64"),
    Type.BIGINT: Spelling("INT64"),
    Type.BOOLEAN: Spelling("BOOL"),
}
