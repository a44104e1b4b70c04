"""What vendors say comes to a person as what it means: every entry of every kind's table, by its own example."""

from __future__ import annotations

from importlib.resources import files

import pytest

from isthmus.model.errors import WarehouseError
from isthmus.secrets import Secret
from isthmus.warehouses import vendor_errors

KINDS = sorted(f.name.removesuffix(".toml") for f in (files("isthmus.warehouses") / "errors").iterdir())
ENTRIES = [(kind, known) for kind in KINDS for known in vendor_errors.table(kind)]


@pytest.mark.parametrize(("kind", "known"), ENTRIES, ids=[f"{k}-{e.code}-{e.words[:30]}" for k, e in ENTRIES])
def test_an_example_is_found_under_its_own_entry(kind: str, known: vendor_errors.Known) -> None:
    assert known.summary and known.hint and known.source and known.example
    assert vendor_errors.find(kind, known.code, known.example) == known
    error = vendor_errors.translate(kind, "The warehouse", code=known.code, message=known.example)
    assert type(error) is known.error
    assert (error.summary, error.hint, error.vendor) == (known.summary, known.hint, known.example)


@pytest.mark.parametrize("kind", KINDS)
def test_what_nobody_met_before_is_shown_in_full_but_for_the_secrets(kind: str) -> None:
    message = "Whatever: the flux of s3cret exceeds 17\nand here is more"
    error = vendor_errors.translate(kind, "Vendor", code="ZZ999", message=message, secrets=[Secret("s3cret")])
    assert type(error) is WarehouseError
    assert (error.code, error.vendor) == ("ZZ999", message.replace("s3cret", "•••"))
    assert error.hint and not error.retryable
