"""T-SQL's functions in DuckDB's words. One that is not here is refused, as the vendor refuses what it does not know."""

from __future__ import annotations

from collections.abc import Mapping

from sqlglot import exp

MACROS = (
    # The length a text has in UTF-16, in pairs of bytes: two for what lies beyond the first 65,536 characters.
    r"CREATE MACRO pairs_of_bytes(x) AS length(x) + "
    r"CASE WHEN strlen(x) > length(x) THEN length(regexp_replace(x, '[^\x{10000}-\x{10FFFF}]', '', 'g')) ELSE 0 END",
    "CREATE MACRO data_length(x) AS 2 * pairs_of_bytes(x)",
    # HASHBYTES over a varchar of a UTF-8 collation.
    "CREATE MACRO md5_bytes(x) AS unhex(md5(x))",
    # varbinary → bigint: big-endian, filled with zeros on the left.
    "CREATE MACRO bytes_as_bigint(x) AS CASE WHEN typeof(x) = 'BLOB' "
    "THEN ('0x' || hex(x::BLOB))::BIGINT ELSE x::VARCHAR::BIGINT END",
    "CREATE MACRO part(x, first, size) AS array_slice(x, first, first + size - 1)",
    # FORMAT(x, 'E14'): fifteen digits, an exponent of at least three.
    "CREATE MACRO e14(x) AS regexp_replace(upper(format('{:.14e}', x::DOUBLE)), 'E([+-])([0-9]{2})$', 'E\\10\\2')",
    "CREATE MACRO utc_now() AS (get_current_timestamp() AT TIME ZONE 'UTC')",
    "CREATE MACRO text_length(x) AS pairs_of_bytes(rtrim(x, ' '))",
    "CREATE MACRO style_3(x) AS format('{:.16e}', x::DOUBLE)",
    "CREATE MACRO style_121(x) AS strftime(x::TIMESTAMP, '%Y-%m-%d %H:%M:%S.%f')",
)

PLAIN: Mapping[str, str] = {
    "DATALENGTH": "data_length",
    "SYSUTCDATETIME": "utc_now",
    "GETUTCDATE": "utc_now",
    "LEN": "text_length",
    "NCHAR": "chr",
    "NEWID": "uuid",
    "REPLICATE": "repeat",
}
"""Functions that are one of DuckDB's, or a macro, under another name."""

KNOWN: tuple[type[exp.Expression], ...] = (
    exp.Count, exp.Sum, exp.Min, exp.Max, exp.Avg, exp.Concat, exp.Coalesce, exp.Case, exp.If, exp.Cast, exp.TryCast,
    exp.Convert, exp.MD5, exp.SHA, exp.SHA2, exp.Substring, exp.DateDiff, exp.DateAdd, exp.RowNumber, exp.Lower,
    exp.Upper, exp.Exists, exp.NumberToStr, exp.Round, exp.Abs, exp.Left, exp.Right, exp.Replace, exp.Chr, exp.Trim,
    exp.Length, exp.And, exp.Or, exp.Anonymous, exp.TimeStrToTime, exp.Repeat, exp.JSONExtractScalar, exp.StrPosition,
    exp.Uuid,
)  # fmt: skip
"""sqlglot's nodes of functions whose meaning is the same, or is given here."""


def call(name: str, *arguments: exp.Expression) -> exp.Expression:
    return exp.Anonymous(this=name, expressions=list(arguments))


def hashed(node: exp.MD5) -> exp.Expression:
    """Only over a varchar in UTF-8: over nvarchar the bytes would be others."""
    inner = node.this
    converted = isinstance(inner, (exp.Convert, exp.Cast))
    what = inner.expression if isinstance(inner, exp.Convert) else inner.this
    if not converted or not isinstance(what, exp.Collate) or not what.expression.name.upper().endswith("_UTF8"):
        raise NotImplementedError("HASHBYTES over anything but a varchar of a UTF-8 collation")
    return call("md5_bytes", what.this)


def formatted(node: exp.NumberToStr) -> exp.Expression:
    if node.args["format"].name != "E14":
        raise NotImplementedError(f"FORMAT with {node.args['format'].name}")
    return call("e14", node.this)


def difference(node: exp.DateDiff) -> exp.Expression:
    """DATEDIFF_BIG: how many boundaries of the unit lie between. DuckDB's date_diff counts the same ones."""
    unit = node.args["unit"].name.lower()

    def moment(side: exp.Expression) -> exp.Expression:
        inner = side.this if isinstance(side, exp.TimeStrToTime) else side
        return exp.cast(inner, "TIMESTAMPTZ") if not isinstance(inner, exp.Literal) else exp.cast(inner, "TIMESTAMP")

    later, earlier = moment(node.this), moment(node.expression)
    # Both as moments of UTC: a TIMESTAMP cast to one with a zone takes the session's, which is UTC.
    return call("date_diff", exp.Literal.string(unit), exp.cast(earlier, "TIMESTAMPTZ"), later)


def converted(node: exp.Convert) -> exp.Expression:
    style = node.args.get("style")
    to, value = node.this, node.expression
    if isinstance(value, exp.Collate):
        value = value.this
    if style is not None and to.is_type(*exp.DataType.TEXT_TYPES):
        macros = {"3": "style_3", "121": "style_121", "127": "style_121", "1": "style_1"}
        if style.name not in macros:
            raise NotImplementedError(f"CONVERT with style {style.name}")
        if style.name == "1":
            return call("concat", exp.Literal.string("0x"), call("hex", value))
        return call(macros[style.name], value)
    if to.is_type("bigint", "int") and isinstance(value, exp.Substring):
        return call("bytes_as_bigint", value)
    return exp.TryCast(this=value, to=to) if node.args.get("safe") else exp.Cast(this=value, to=to)
