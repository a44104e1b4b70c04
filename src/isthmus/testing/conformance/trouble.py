"""Errors, checks and the set-up script."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isthmus.model.errors import Denied, Mismatch, Missing, WarehouseError
from isthmus.model.table import SeqRange, Table
from isthmus.secrets import Secret
from isthmus.testing.builders import batch_of
from isthmus.testing.conformance.situations import (
    EVERY_TYPE,
    MOMENT,
    NOTES,
    PEOPLE,
    Situations,
    while_open,
)
from isthmus.warehouses.kinds import fields
from isthmus.warehouses.protocol import Config, Direction, Relation, Warehouse, Window


class Trouble(Situations):
    """What goes wrong, and how a person is told."""

    # Trouble

    def test_what_is_not_there_is_missing(self, warehouse: Warehouse, config: Any, tmp_path: Path) -> None:
        nothing = Relation(getattr(config, self.import_field), "nothing here")
        people = self.expose(config, PEOPLE, [{"id": "1"}], tmp_path)
        for ask in (
            lambda: warehouse.schema(nothing),
            lambda: list(warehouse.read(nothing)),
            lambda: warehouse.count(nothing),
            lambda: list(warehouse.read(people, window=Window("nothing", None, MOMENT, None))),
        ):
            with pytest.raises(Missing) as caught:
                ask()
            assert caught.value.hint
            assert not caught.value.retryable

    def test_a_window_over_a_column_that_is_no_time(self, warehouse: Warehouse, config: Config, tmp_path: Path) -> None:
        people = self.expose(config, PEOPLE, [{"id": "1"}], tmp_path)
        with pytest.raises(Mismatch) as caught:
            warehouse.count(people, window=Window("name", None, MOMENT, None))
        assert caught.value.column == "name"

    def test_a_wrong_secret_is_denied_and_not_repeated(self, config: Config) -> None:
        secrets = [f.name for f in fields(config.kind) if f.secret and getattr(config, f.name) is not None]
        for name in secrets:
            wrong = replace(config, **{name: Secret("not-the-secret")})  # type: ignore[type-var]
            with pytest.raises(Denied) as caught:
                wrong.open()
            assert "not-the-secret" not in json.dumps(caught.value.as_dict())
            answers = list(wrong.check())
            assert not answers[-1].passed
            assert "not-the-secret" not in repr(answers) + repr(wrong)

    def test_nobody_at_the_other_end(self, config: Config, tmp_path: Path) -> None:
        nowhere = self.nowhere(config, tmp_path)
        with pytest.raises(WarehouseError) as caught:
            nowhere.open()
        assert caught.value.hint
        answers = list(nowhere.check())
        assert [a.passed for a in answers] == [False]
        assert answers[0].hint

    def test_closing_twice_is_safe_and_then_nothing_works(self, config: Any) -> None:
        opened = config.open()
        opened.close()
        opened.close()
        with pytest.raises(WarehouseError):
            opened.count(self.target(config, PEOPLE))

    # Set-up

    def test_all_checks_pass_and_leave_nothing(self, config: Any) -> None:
        for _ in range(2):
            answers = list(config.check())
            assert [a for a in answers if not a.passed] == []
            assert len({a.question for a in answers}) == len(answers) >= 4
        opened = replace(config, **{self.import_field: getattr(config, self.temp_field)}).open()
        assert list(opened.relations()) == []
        opened.close()

    def test_a_missing_schema_is_a_no_with_the_statement_for_it(self, config: Any) -> None:
        while_open(config, lambda warehouse: None)
        answers = list(replace(config, **{self.temp_field: "not made yet"}).check())
        refused = [a for a in answers if not a.passed]
        assert refused
        assert all("not made yet" in a.statement and a.hint for a in refused)

    def test_the_setup_script_holds_no_secret_and_names_every_table(self, config: Any) -> None:
        script = config.setup_script([PEOPLE, EVERY_TYPE])
        tables = (self.folded("people"), self.folded("every_type")) if config.traits.loads else ()
        for part in (*tables, getattr(config, self.import_field), getattr(config, self.temp_field)):
            assert part in script
        for field in fields(config.kind):
            if field.secret:
                secret = getattr(config, field.name)
                assert secret is None or not secret.reveal() or secret.reveal() not in script


class LoadingTrouble(Trouble):
    """The same, and what only a kind that loads can meet."""

    def test_what_a_load_needs_and_is_not_there_is_missing(
        self, warehouse: Warehouse, people: Any, tmp_path: Path
    ) -> None:
        for ask in (
            lambda: list(warehouse.tally(Table("nothing", PEOPLE.columns, ("id",)), SeqRange(None, None))),
            lambda: warehouse.load(batch_of(tmp_path, Table("nothing", NOTES.columns), [{"note": "x"}])),
        ):
            with pytest.raises(Missing) as caught:
                ask()
            assert caught.value.hint
            assert not caught.value.retryable

    def test_a_script_gives_only_the_rights_of_its_direction(self, config: Any) -> None:
        tables, egress = [PEOPLE], ("192.0.2.7/32",)
        both = config.setup_script(tables, egress=egress)
        exporting = config.setup_script(tables, direction=Direction.EXPORT, egress=egress)
        importing = config.setup_script(tables, direction=Direction.IMPORT, egress=egress)
        if config.traits.title != "DuckDB file":  # there a script gives no rights
            assert len({both, exporting, importing}) == 3
            assert all("192.0.2.7" in script for script in (both, exporting, importing))
        assert self.folded("people") in exporting
        assert self.folded("people") not in importing
