"""A batch of source rows as typed rows or rejections: the SQL that a mapping becomes.

The result has one row per source row: `n`, the identifiers, the fields, `properties`, and `bad`, the number of the
first rule that the row breaks (NULL if none): `Mapped.faults[bad - 1]` says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from isthmus.duck import literal
from isthmus.model import intake
from isthmus.model.intake import IncomingColumn, Reason, Shape
from isthmus.model.mapping import CHANNELS, NESTING, Given, Mapping, levels
from isthmus.model.table import Type
from isthmus.model.tables import PROFILE_FIELDS
from isthmus.store import cells, lines, properties
from isthmus.store.properties import Branches, Part, Tree
from isthmus.store.rules import Fault, Rules


@dataclass(frozen=True)
class Mapped:
    """The SQL over the relation `incoming`, and what the numbers in its column `bad` mean."""

    sql: str
    faults: list[Fault]
    identifiers: list[str]
    suspicious: bool  # whether rows must be looked at by `intake.find_fault`
    payload: str  # SQL for a source row as text, to keep with a rejection
    branches: Branches = field(default_factory=dict)  # the objects that the names of properties make


def build(
    mapping: Mapping,
    columns: Sequence[IncomingColumn],
    *,
    as_lines: bool,
    needs_changed_at: bool = False,
    is_history: bool = False,
    key: Sequence[str] = (),
) -> Mapped:
    """The SQL for this mapping over `incoming(n, c0, c1, …)`, or over `incoming(n, line)` for JSON lines.

    With `needs_changed_at` a row that does not say when it was changed is a rejection; with the names of `key` columns
    so is one of which `incoming.key_fault` says that these do not tell it from others. `is_history` is what `backfill`
    is of events for which neither the mapping nor the row says.
    """
    builder = _Builder(mapping, columns, as_lines, needs_changed_at, is_history)
    for fault, (reason, message) in enumerate(intake.KEY_FAULTS if key else (), start=1):
        builder.rules.add(f"key_fault = {fault}", ", ".join(key), reason, message)
    return builder.build()


class _Builder:
    def __init__(
        self,
        mapping: Mapping,
        columns: Sequence[IncomingColumn],
        as_lines: bool,
        needs_changed_at: bool,
        is_history: bool,
    ) -> None:
        self.mapping, self.lines, self.needs_changed_at = mapping, as_lines, needs_changed_at
        self.is_history = is_history
        self.rules = Rules()
        self.named = {c.name: c for c in columns}
        self.columns = list(columns)
        self.out: list[tuple[str, str]] = []
        if as_lines:
            self.paths = list(dict.fromkeys(column for _, column in self._wanted()))
            self.named = {
                name: IncomingColumn(name, f"x[{i}]", Shape.TEXT) for i, name in enumerate(self.paths, start=1)
            }

    def _wanted(self) -> list[tuple[str, str]]:
        return [*self.mapping.used(), *(self.mapping.properties or ())]

    def build(self) -> Mapped:
        for condition, reason, message in lines.faults(self.mapping) if self.lines else ():
            self.rules.add(condition, "", reason, message)
        self._identifiers()
        if self.mapping.data == "events":
            self._event_fields()
        else:
            self._profile_fields()
        if self.mapping.changed_at and (self.mapping.data == "profiles" or self.needs_changed_at):
            self._changed_at(self.mapping.changed_at)
        for channel in (name for name, _ in self.mapping.consent if name in CHANNELS):
            times = [f"{channel}_at"] if f"{channel}_at" in dict(self.mapping.consent) else []
            since = f"coalesce({', '.join([*times, *(['changed_at'] if self.mapping.changed_at else []), 'now()'])})"
            self.out.append((f"consent_{channel}", f"consent_value(status_{channel}, {since})"))
        self.tree = lines.tree(self.mapping) if self.lines else Tree.of(self._parts())
        properties = self._line_properties() if self.lines else self._cell_properties()
        self._property_rules()
        first = ", ".join(f"{sql} AS {name}" for name, sql in self.out)
        sql = (
            f"SELECT {', '.join(self._result())} FROM (SELECT *, {self.rules.case()} AS bad FROM "
            f"(SELECT *, {properties} AS properties FROM (SELECT *, {first} FROM {self._incoming()})))"
        )
        return Mapped(
            sql,
            self.rules.faults,
            [kind for kind, _ in self.mapping.identifiers],
            suspicious=self._free_form(),
            payload=self._payload(),
            branches=self.tree.branches(),
        )

    def _result(self) -> list[str]:
        kinds = [f"id_{kind}" for kind, _ in self.mapping.identifiers]
        if self.mapping.data == "profiles":
            order = "changed_at" if self.mapping.changed_at else "NULL::TIMESTAMPTZ AS changed_at"
            consent = [f"consent_{name}" for name, _ in self.mapping.consent if name in CHANNELS]
            return ["n", *kinds, *(name for name, _ in self.mapping.fields), *consent, order, "properties", "bad"]
        # Without an id of its own a row stands for itself: the same content is the same event.
        # Value and currency are among the properties.
        content = "concat('content:', epoch_us(event_time), '-', md5(properties))"
        unique = f"coalesce(unique_id, {content}) AS unique_id"
        return [
            *("n", *kinds, "event_time", "metric", "integration", "metric_id", unique),
            *("value", "value_currency", "properties", "bad", "backfill"),
            *(["changed_at"] if self.mapping.changed_at and self.needs_changed_at else []),
        ]

    def _free_form(self) -> bool:
        """Whether values may hold JSON of any shape, so that their insides must be looked at."""
        shapes = (Shape.TEXT, Shape.STRING, Shape.NESTED)
        return self.lines or any(c.shape in shapes for c in self._property_columns())

    def _incoming(self) -> str:
        if not self.lines:
            return "incoming"
        return lines.incoming(self.mapping, self.paths)

    def _column(self, name: str) -> IncomingColumn:
        return self.named[name]

    def _raw(self, name: str, rule_column: str) -> str:
        """The column's value as text, kept in the inner select as `raw_…` so that rules can compare it."""
        alias = f"raw_{rule_column}"
        if all(existing != alias for existing, _ in self.out):
            column = self._column(name)
            text = cells.as_text(column)
            self.out.append((alias, f"nullif({text}, '')"))
        return alias

    def _presence(self, column: IncomingColumn, rule_column: str) -> str:
        """What tells whether a value is there: the text, or the typed value itself, which costs no cast."""
        return self._raw(column.name, rule_column) if column.shape in (Shape.TEXT, Shape.STRING) else column.ref

    def _identifiers(self) -> None:
        for kind, name in self.mapping.identifiers:
            raw = self._raw(name, f"id_{kind}")
            clean = {"email": "clean_email", "phone_number": "clean_phone"}.get(kind, "clean_id")
            text = f"nullif({cells.as_text(self._column(name))}, '')"
            cleaned = f"{clean}({text})"
            if kind == "phone_number":  # `phones` holds what the library made of those written another way
                cleaned = f"coalesce({cleaned}, (SELECT any_value(p.good) FROM phones p WHERE p.given = {text}))"
            self.out.append((f"id_{kind}", cleaned))
            if self.lines:  # not a text that looks like one: those are fine
                kept = f"json_type(text, {literal(cells.pointer(name))}) IN ('OBJECT', 'ARRAY')"
                self.rules.add(f"{raw}[1] IN ('{{', '[') AND {kept}", name, Reason.BAD_VALUE, "not a text or a number")
            if kind == "email":
                self.rules.add(
                    f"{raw} IS NOT NULL AND id_{kind} IS NULL", name, Reason.BAD_EMAIL, "not an e-mail address"
                )
            if kind == "phone_number":
                self.rules.add(
                    f"{raw} IS NOT NULL AND id_{kind} IS NULL",
                    name,
                    Reason.BAD_PHONE,
                    "not a phone number in international form, such as +14155550123",
                )
            self.rules.add(f"contains({raw}, chr(0))", name, Reason.NUL, "the identifier holds the NUL character")
            self.rules.add(
                f"length({raw}) > {intake.MAX_UNIQUE_ID}",
                name,
                Reason.TOO_LONG,
                "an identifier has up to 255 characters",
            )
        names = ", ".join(name for _, name in self.mapping.identifiers)
        self.rules.add(
            " AND ".join(f"id_{kind} IS NULL" for kind, _ in self.mapping.identifiers),
            names,
            Reason.NO_IDENTIFIER,
            "the row names nobody: every identifier is empty",
        )

    def _event_fields(self) -> None:
        assert self.mapping.event_time is not None and self.mapping.metric is not None
        self._time("event_time", self.mapping.event_time, required=True)
        self._given("metric", self.mapping.metric, required=True)
        self._given("integration", self.mapping.integration, required=False, default="File")
        self.out.append(("metric_id", "metric_key(integration, metric)"))
        if self.mapping.unique_id:
            raw = self._raw(self.mapping.unique_id, "unique_id")
            self.out.append(("unique_id", f"nullif(trim({raw}), '')"))
            self.rules.add(
                f"length({raw}) > {intake.MAX_UNIQUE_ID}",
                self.mapping.unique_id,
                Reason.TOO_LONG,
                "a unique id has up to 255 characters",
            )
            self.rules.add(f"contains({raw}, chr(0))", self.mapping.unique_id, Reason.NUL, "it holds a NUL character")
        else:
            self.out.append(("unique_id", "NULL::VARCHAR"))
        self._number("value", self.mapping.value)
        if self.mapping.value_currency:
            self._given("value_currency", self.mapping.value_currency, required=False)
            self.rules.add(
                "value_currency IS NOT NULL AND NOT regexp_full_match(value_currency, '[A-Z]{3}')",
                self.mapping.value_currency.column or "value_currency",
                Reason.BAD_CURRENCY,
                "not a currency code of three capital letters, such as USD",
            )
        else:
            self.out.append(("value_currency", "NULL::VARCHAR"))
        self._backfill(self.mapping.backfill)

    def _backfill(self, given: Given | None) -> None:
        if given is None or given.column is None:
            is_so = self.is_history if given is None else given.constant == "true"
            self.out.append(("backfill", str(is_so).lower()))
            return
        raw = self._raw(given.column, "backfill")
        self.out.append(("flag_backfill", f"parse_flag({raw})"))
        self.out.append(("backfill", f"coalesce(flag_backfill, {str(self.is_history).lower()})"))
        unclear = f"{raw} IS NOT NULL AND flag_backfill IS NULL"
        self.rules.add(unclear, given.column, Reason.BAD_VALUE, "not true or false, yes or no, 1 or 0")

    def _profile_fields(self) -> None:
        types = dict(PROFILE_FIELDS)
        for name, column in self.mapping.fields:
            if types[name] is Type.DOUBLE:
                self._number(name, column)
                continue
            raw = self._raw(column, name)
            self.out.append((name, raw))
            self.rules.add(f"contains({raw}, chr(0))", column, Reason.NUL, "the text holds the NUL character U+0000")
            self.rules.add(
                f"length({raw}) > 25600 AND octet_length(encode({raw})) > {intake.MAX_STRING_BYTES}",
                column,
                Reason.TOO_LONG,
                "a text has up to 100 KB",
            )
        self._consent()

    def _consent(self) -> None:
        given = dict(self.mapping.consent)
        for channel in CHANNELS:
            if channel not in given:
                continue
            raw = self._raw(given[channel], channel)
            self.out.append((f"status_{channel}", f"consent_status({raw})"))
            self.rules.add(
                f"trim({raw}) <> '' AND status_{channel} IS NULL",
                given[channel],
                Reason.BAD_CONSENT,
                "not Subscribe, Subscribed, Unsubscribed or Never Subscribed",
            )
            at = given.get(f"{channel}_at")
            if at:
                self._time(f"{channel}_at", at)

    def _changed_at(self, column: str) -> None:
        self._time("changed_at", column)
        if self.needs_changed_at:
            raw = self._presence(self._column(column), "changed_at")
            self.rules.add(
                f"{raw} IS NULL", column, Reason.NO_CHANGED_AT, "the row does not say when it was last changed"
            )

    def _time(self, name: str, column: str, *, required: bool = False) -> None:
        given = self._column(column)
        raw = self._presence(given, name)
        value = {
            Shape.TIMESTAMP: f"in_range({given.ref}::TIMESTAMPTZ)",
            Shape.TEXT: f"parse_time(trim({raw}))",
            Shape.STRING: f"parse_time(trim({raw}))",
        }.get(given.shape, f"parse_time({given.ref}::VARCHAR)")
        self.out.append((name, value))
        if required:
            self.rules.add(f"{raw} IS NULL", column, Reason.NO_TIME, "the time of the event is empty")
        self.rules.add(
            f"{raw} IS NOT NULL AND {name} IS NULL",
            column,
            Reason.BAD_TIME,
            "not a time between the years 1 and 9999 as ISO 8601, MM/DD/YYYY or Unix seconds",
        )

    def _number(self, name: str, column: str | None) -> None:
        if column is None:
            self.out.append((name, "NULL::DOUBLE"))
            return
        given = self._column(column)
        raw = self._presence(given, name)
        texts = given.shape in (Shape.TEXT, Shape.STRING)
        value = f"parse_number({raw})" if texts else f"finite(TRY_CAST({given.ref} AS DOUBLE))"
        self.out.append((name, value))
        self.rules.add(
            f"{raw} IS NOT NULL AND {name} IS NULL", column, Reason.BAD_NUMBER, "not a finite number, such as 12.50"
        )

    def _given(self, name: str, given: Given, *, required: bool, default: str | None = None) -> None:
        if given.constant is not None:
            self.out.append((name, literal(given.constant.strip())))
            return
        assert given.column is not None
        raw = self._raw(given.column, name)
        value = f"nullif(trim({raw}), '')"
        self.out.append((name, f"coalesce({value}, {literal(default)})" if default else value))
        if required:
            self.rules.add(f"{name} IS NULL", given.column, Reason.NO_METRIC, f"the {name} is empty")
        self.rules.add(f"length({name}) > 127", given.column, Reason.TOO_LONG, f"a {name} has up to 127 characters")
        self.rules.add(f"contains({name}, chr(0))", given.column, Reason.NUL, "it holds the NUL character U+0000")

    def _own_properties(self) -> list[tuple[str, str, str]]:
        """What the original keeps inside an event's properties: (key, JSON, is-there condition)."""
        if self.mapping.data != "events":
            return []
        own = []
        if self.mapping.unique_id:
            own.append(("$event_id", "to_json(unique_id)", "unique_id IS NOT NULL"))
        if self.mapping.value:
            own.append(("$value", "to_json(value)", "value IS NOT NULL"))
        if self.mapping.value_currency:
            own.append(("$currency_code", "to_json(value_currency)", "value_currency IS NOT NULL"))
        return own

    def _property_columns(self) -> list[IncomingColumn]:
        if self.lines:
            return []
        return [self.named[c] for _, c in self.mapping.property_columns([c.name for c in self.columns])]

    def _parts(self) -> list[Part]:
        """The columns that become properties, behind what is ours."""
        own = [Part((key,), value, there, key) for key, value, there in self._own_properties()]
        taken = {part.path for part in own}
        clear = self.mapping.cleared_properties()
        parts = []
        for name, column in self.mapping.property_columns([c.name for c in self.columns]):
            path, given = levels(name), self.named[column]
            if path in taken:  # no reader of JSON agrees with the next on what a key that stands twice means
                continue
            parts.append(Part(path, cells.as_json(given), f"{given.ref} IS NOT NULL", column, name in clear))
            for flag, condition, reason, message in properties.shape_faults(given):
                if all(existing != flag for existing, _ in self.out):
                    self.out.append((flag, condition))
                    self.rules.add(flag, column, reason, message)
        return own + parts

    def _cell_properties(self) -> str:
        if len(self.tree.below) > intake.MAX_PROPERTIES:
            self.out.append(("many", self.tree.count()))
        return self.tree.object()

    def _line_properties(self) -> str:
        own = self._own_properties()
        if not own:
            return "guard_json(rest)"
        extra = ", ".join(f"CASE WHEN {there} THEN {literal(cells.key(k))} || {v} END" for k, v, there in own)
        return (
            "CASE WHEN fine THEN guard_json(json_merge_patch(coalesce(rest, '{}'), "
            f"'{{' || concat_ws(',', {extra}) || '}}')::VARCHAR) END"
        )

    def _property_rules(self) -> None:
        for part, inner in self.tree.torn():
            name, below = NESTING.join(part.path), NESTING.join(inner[0].path)
            words = f"{name!r} has a value, and so has its part {below!r}: a property is a value or an object"
            self.rules.add(properties.both(part, inner), part.column, Reason.BAD_VALUE, words)
        events = self.mapping.data == "events"
        limit = intake.MAX_EVENT_BYTES if events else intake.MAX_PROFILE_BYTES
        words = "an event has up to 5 MB" if events else "a profile has up to 100 KB"
        many = "len(json_keys(rest))" if self.lines else "many" if any(name == "many" for name, _ in self.out) else ""
        if many:
            words_many = f"more than {intake.MAX_PROPERTIES} properties"
            self.rules.add(f"{many} > {intake.MAX_PROPERTIES}", "", Reason.TOO_MANY, words_many)
        if self._free_form():
            size = "octet_length(encode(properties))"
            self.rules.add(f"length(properties) > {limit // 4} AND {size} > {limit}", "", Reason.TOO_LARGE, words)
            levels = f"more than {intake.MAX_LEVELS} levels of objects and lists"
            self.rules.add("too_deep(properties)", "", Reason.TOO_DEEP, levels)

    def _payload(self) -> str:
        if self.lines:
            return "coalesce(TRY(decode(line)), line::VARCHAR)"
        pairs = ", ".join(f"{literal(c.name)}, {cells.payload_cell(c)}" for c in self.columns)
        return f"json_object({pairs})::VARCHAR"
