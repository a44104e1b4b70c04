"""A cell of an incoming row as SQL: as text, as JSON, as part of what a rejection keeps."""

from __future__ import annotations

import json

from isthmus.model.intake import IncomingColumn, Shape


def pointer(name: str) -> str:
    """The JSON pointer to a key of the top level."""
    return "/" + name.replace("~", "~0").replace("/", "~1")


def key(name: str) -> str:
    return json.dumps(name, ensure_ascii=False) + ":"


def payload_cell(column: IncomingColumn) -> str:
    """What a rejection keeps of a cell: a text that the column's type reads as the same value again."""
    if column.shape is Shape.NUMBER:  # JSON would write a long decimal as a float
        exact = f"to_json({column.ref}::VARCHAR)"
        return f"CASE WHEN typeof({column.ref}) LIKE 'DECIMAL%' THEN {exact} ELSE to_json({column.ref}) END"
    if column.shape not in (Shape.TEXT, Shape.STRING):
        return f"{column.ref}::VARCHAR"
    return column.ref


def as_text(column: IncomingColumn) -> str:
    """The value as text, for identifiers and names. A whole number is written as one, also where a column with gaps has
    made it a float; NaN is how such a column says that there is none."""
    ref = column.ref
    if column.shape in (Shape.TEXT, Shape.STRING):
        return ref
    if column.shape is Shape.FLOAT:
        whole = f"{ref} = trunc({ref}) AND abs({ref}) < 9007199254740992"
        return f"CASE WHEN isnan({ref}) THEN NULL WHEN {whole} THEN {ref}::BIGINT::VARCHAR ELSE {ref}::VARCHAR END"
    return f"{ref}::VARCHAR"


def as_json(column: IncomingColumn) -> str:
    match column.shape:
        case Shape.TEXT:
            return f"cell_json({column.ref})"
        case Shape.STRING:
            return f"text_json({column.ref})"
        case Shape.TIMESTAMP:
            return f"strftime({column.ref}::TIMESTAMPTZ, '\"%Y-%m-%dT%H:%M:%S.%fZ\"')"
        case Shape.NUMBER | Shape.FLOAT:
            return f"{column.ref}::VARCHAR"  # as DuckDB writes it, it is JSON; what is not finite is rejected
        case Shape.BINARY:
            return f"to_json(base64({column.ref}))::VARCHAR"
        case _:
            return f"to_json({column.ref})::VARCHAR"
