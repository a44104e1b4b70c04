"""What lies in the bucket after loads, as anybody sees it who knows nothing of manifests; and loads that meet."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
from s3_cast import PEOPLE, Bystander

from isthmus.model.errors import Busy, InvalidInput, Mismatch, Unreachable, WarehouseError
from isthmus.model.table import SEQ, Column, Receipt, SeqRange, Table, Type
from isthmus.testing.builders import batch_of
from isthmus.testing.standins import S3Server
from isthmus.testing.standins.s3_wire import Fault, S3Wire
from isthmus.warehouses import s3_load, s3_table
from isthmus.warehouses.protocol import Relation
from isthmus.warehouses.s3 import S3Config, S3Warehouse
from isthmus.warehouses.s3_table import S3Table

Load = Callable[..., Receipt]
FILES = r"/people/\d{10}-"
MANIFESTS = r"/people/_manifests/"


def rows_of(warehouse: S3Warehouse) -> list[tuple[Any, ...]]:
    found = warehouse.read(Relation("export", "people"))
    return sorted(tuple(row.values()) for batch in found for row in batch.to_pylist())


# At rest


def test_a_glob_finds_one_row_an_id_and_nobody_who_is_gone(load: Load, bystander: Bystander) -> None:
    load(("1", "Ann", 1), ("2", "Bob", 1), adds_only=True)
    load(("3", "Cid", 2), adds_only=True)
    load(("1", "Anna", 3), ("2", "", 3, True), ("4", "Dan", 3))
    assert bystander.globbed() == [("1", "Anna", 3), ("3", "Cid", 2), ("4", "Dan", 3)]
    load(("3", "", 4, True))
    assert bystander.globbed() == [("1", "Anna", 3), ("4", "Dan", 3)]
    assert len(bystander.keys()) == 1, "two small files that lost rows became one"


def test_a_batch_that_only_adds_is_put_as_it_is(
    warehouse: S3Warehouse, people: Callable[..., Any], bystander: Bystander
) -> None:
    warehouse.create(PEOPLE)
    batch = people(("1", "Ann", 1), adds_only=True)
    warehouse.load(batch)
    (name,) = bystander.keys()
    content = bystander.client.get_object(Bucket=bystander.bucket, Key=f"export/people/{name}")["Body"].read()
    assert content == batch.files[0].read_bytes()


def test_what_is_not_touched_is_not_written_again(load: Load, bystander: Bystander) -> None:
    load(*[(f"a{n}", "Ann", 1) for n in range(9)], adds_only=True)
    load(*[(f"b{n}", "Bob", 2) for n in range(9)], adds_only=True)
    before = bystander.keys()
    load(("b3", "Bea", 3))
    after = bystander.keys()
    assert before[0] in after and before[1] not in after


def test_many_small_files_become_few(load: Load, bystander: Bystander, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_load, "MANY_SMALL", 5)
    for n in range(12):
        load((f"{n:02}", "x", n), adds_only=True)
        assert len(bystander.keys()) <= 6
    assert [row[0] for row in bystander.globbed()] == [f"{n:02}" for n in range(12)]


@pytest.mark.parametrize(("form", "ending"), [("csv", ".csv.gz"), ("jsonl", ".jsonl.gz")])
def test_another_format_takes_over_at_the_next_load(
    config: S3Config, load: Load, people: Callable[..., Any], bystander: Bystander, form: str, ending: str
) -> None:
    load(("1", "Ann", 1), ("2", "Bob", 1))
    with closing(replace(config, file_format=form).open()) as other:
        other.load(people(("3", "", 2)))
        other.load(people(("2", None, 3)))
        assert rows_of(other) == [("1", "Ann", 1), ("2", None, 3), ("3", "", 2)]
    assert all(key.endswith(ending) for key in bystander.keys())
    assert [row[0] for row in bystander.globbed(ending)] in (["1", "2", "3"], [1, 2, 3])


def test_a_new_column_touches_no_file(warehouse: S3Warehouse, load: Load, bystander: Bystander, tmp_path: Path) -> None:
    load(("1", "Ann", 1))
    before = bystander.keys()
    wider = Table("people", (*PEOPLE.columns, Column("born", Type.TIMESTAMP)), PEOPLE.key)
    warehouse.create(wider)
    assert bystander.keys() == before
    warehouse.load(batch_of(tmp_path, wider, [{"id": "2", SEQ: 2}]))
    assert rows_of(warehouse) == [("1", "Ann", 1, None), ("2", None, 2, None)]


def test_another_key_is_another_table(warehouse: S3Warehouse, load: Load) -> None:
    with pytest.raises(Mismatch) as caught:
        warehouse.create(Table("people", PEOPLE.columns, ("name",)))
    assert (caught.value.ours, caught.value.theirs) == ("name", "id")


# What is left over


def test_dead_files_go_and_others_stay(
    warehouse: S3Warehouse, load: Load, people: Callable[..., Any], bystander: Bystander
) -> None:
    load(("1", "Ann", 1))
    dead = "0000000002-0123456789ab-01234567-0.parquet"  # of a commit that others made
    coming = "0000000099-0123456789ab-01234567-0.parquet"  # of one that somebody is about to make
    theirs = ("notes.txt", "2024.parquet")
    for name in (dead, coming, *theirs):
        bystander.put(f"export/people/{name}", b"x")
    load(("1", "Anna", 2))
    assert {coming, *theirs} <= set(bystander.keys())
    assert dead not in bystander.keys()


def test_old_manifests_go_and_receipts_stay(
    warehouse: S3Warehouse, load: Load, bystander: Bystander, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_table, "KEPT", 2)
    for n in range(1, 8):
        load((f"{n}", "x", n), batch_id=f"batch {n}")
    found = bystander.client.list_objects_v2(Bucket=bystander.bucket, Prefix="export/people/_manifests/")
    assert len(found["Contents"]) == 3
    for n in range(1, 8):
        receipt = warehouse.receipt(f"batch {n}")
        assert receipt is not None and receipt.seqs.upto == n
    assert warehouse.reached(PEOPLE) == 7
    assert load(("2", "again", 9), batch_id="batch 2").repeated


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"{}", WarehouseError), (b"not json", WarehouseError), (b'{"format": 2, "table": "people"}', Mismatch)],
)
def test_a_manifest_nobody_can_read_is_said_to_be_one(
    warehouse: S3Warehouse, load: Load, bystander: Bystander, content: bytes, error: type[WarehouseError]
) -> None:
    load(("1", "Ann", 1))
    bystander.put("export/people/_manifests/0000000099.json", content)
    with pytest.raises(error) as caught:
        load(("2", "Bob", 2))
    assert caught.value.hint and not caught.value.retryable


def test_a_file_that_goes_away_while_it_is_read_is_no_loss(
    warehouse: S3Warehouse, load: Load, bystander: Bystander
) -> None:
    load(("1", "Ann", 1))
    (name,) = bystander.keys()
    bystander.client.delete_object(Bucket=bystander.bucket, Key=f"export/people/{name}")
    with pytest.raises(Busy) as caught:
        rows_of(warehouse)
    assert caught.value.hint


# Loads that meet


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads do not take turns: each is as in a process of its own."""
    monkeypatch.setattr(s3_load, "_turn", lambda place: nullcontext())


def held(wire: S3Wire, pool: ThreadPoolExecutor, load: Callable[[], Receipt]) -> tuple[Fault, Any]:
    """A load that stands before its commit."""
    fault = wire.give(Fault("hold", "PUT", MANIFESTS))
    future = pool.submit(load)
    assert fault.is_held.wait(20)
    return fault, future


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("adds_only", [True, False])
def test_who_is_overtaken_at_the_commit_plans_again(
    wired: S3Warehouse, wire: S3Wire, load: Load, people: Callable[..., Any], bystander: Bystander, adds_only: bool
) -> None:
    if not adds_only:
        load(("1", "Ann", 1), ("2", "Bob", 1), ("3", "Cid", 1))
    slow = people(("1", "slow", 5), ("2", "slow", 2), ("8", "slow", 2), adds_only=adds_only)
    with ThreadPoolExecutor(1) as pool:
        fault, future = held(wire, pool, lambda: wired.load(slow))
        load(*([] if adds_only else [("1", "fast", 4), ("2", "fast", 3), ("3", "", 3, True)]), ("9", "fast", 3))
        fault.go_on.set()
        assert not future.result().repeated
    expected = [("1", "slow", 5), ("2", "slow", 2), ("8", "slow", 2), ("9", "fast", 3)]
    if not adds_only:
        expected[1] = ("2", "fast", 3)
    assert rows_of(wired) == bystander.globbed() == expected


@pytest.mark.usefixtures("apart")
def test_who_is_overtaken_while_it_reads_the_table_plans_again(
    wired: S3Warehouse, wire: S3Wire, load: Load, people: Callable[..., Any], bystander: Bystander
) -> None:
    load(("1", "Ann", 1), ("2", "Bob", 1))
    fault = wire.give(Fault("hold", "GET", FILES))
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(lambda: wired.load(people(("1", "slow", 5))))
        assert fault.is_held.wait(20)
        load(("1", "fast", 2), ("2", "fast", 2))  # the file that is being read goes away
        fault.go_on.set()
        assert not future.result().repeated
    assert rows_of(wired) == bystander.globbed() == [("1", "slow", 5), ("2", "fast", 2)]


@pytest.mark.usefixtures("apart")
def test_the_same_batch_loaded_by_another_process_meanwhile_is_a_repetition(
    wired: S3Warehouse, wire: S3Wire, warehouse: S3Warehouse, people: Callable[..., Any], bystander: Bystander
) -> None:
    batch = people(("1", "Ann", 1))
    with ThreadPoolExecutor(1) as pool:
        fault, future = held(wire, pool, lambda: wired.load(batch))
        assert not warehouse.load(batch).repeated
        warehouse.load(people(("2", "Bob", 2)))
        fault.go_on.set()
        assert future.result().repeated
    assert bystander.globbed() == [("1", "Ann", 1), ("2", "Bob", 2)]


@pytest.mark.usefixtures("apart")
def test_a_commit_under_a_number_that_was_forgotten_counts_for_nothing(
    wired: S3Warehouse, wire: S3Wire, load: Load, people: Callable[..., Any], bystander: Bystander,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A process may stand still for days before its last request: its number has been used and removed by then."""
    monkeypatch.setattr(s3_table, "KEPT", 1)
    with ThreadPoolExecutor(1) as pool:
        fault, future = held(wire, pool, lambda: wired.load(people(("0", "late", 1))))
        for n in range(1, 6):
            load((f"{n}", "x", n))
        fault.go_on.set()
        assert not future.result().repeated
    assert [row[0] for row in bystander.globbed()] == list("012345")
    assert len(rows_of(wired)) == 6


@pytest.mark.parametrize("together", [True, False], ids=["in one process", "as in many"])
def test_many_load_into_one_table_at_once(
    config: S3Config,
    people: Callable[..., Any],
    bystander: Bystander,
    monkeypatch: pytest.MonkeyPatch,
    together: bool,
) -> None:
    commits = 0
    if together:
        usual = S3Table.commit

        def counted(table: S3Table, manifest: Any) -> bool:
            nonlocal commits
            commits += 1
            return usual(table, manifest)

        monkeypatch.setattr(S3Table, "commit", counted)
    else:
        monkeypatch.setattr(s3_load, "_turn", lambda place: nullcontext())
    with closing(config.open()) as opened:
        opened.create(PEOPLE)

    def work(n: int) -> None:
        with closing(config.open()) as opened:
            for m in range(3):
                opened.load(people((f"{n}-{m}", "x", 1), ("shared", f"{n}", 10 * m + n), adds_only=False))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    found = bystander.globbed()
    assert len(found) == 13
    assert found[-1] == ("shared", "3", 23)
    if together:
        assert commits == 13, "none was lost to another load: they take turns"


# Answers that get lost


def test_a_lost_answer_to_the_commit_is_asked_for(
    wired: S3Warehouse, wire: S3Wire, people: Callable[..., Any], bystander: Bystander
) -> None:
    wire.give(Fault("lose", "PUT", MANIFESTS))
    receipt = wired.load(people(("1", "Ann", 1), adds_only=True))
    assert not receipt.repeated, "the driver asked again, and the commit that was there was our own"
    assert bystander.globbed() == [("1", "Ann", 1)]


def test_a_commit_of_which_nothing_is_known_is_found_at_the_next_load(
    wired: S3Warehouse, wire: S3Wire, people: Callable[..., Any], bystander: Bystander
) -> None:
    batch = people(("1", "Ann", 1))
    wire.give(Fault("lose", "PUT", MANIFESTS))
    wire.give(Fault("answer", "PUT", MANIFESTS, times=9))
    with pytest.raises(Busy):
        wired.load(batch)
    wire.clear()
    assert wired.load(batch).repeated
    assert bystander.globbed() == [("1", "Ann", 1)]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault("answer", "PUT", FILES, times=9), Busy),
        (Fault("lose", "PUT", FILES, times=9), Unreachable),
        (Fault("cut", "PUT", FILES, times=9), Unreachable),
        (Fault("answer", "POST", "uploads", times=9), Busy),
        (Fault("answer", "PUT", "partNumber=2", times=9), Busy),
        (Fault("cut", "PUT", "partNumber=2", times=9), Unreachable),
        (Fault("lose", "POST", "uploadId", times=9), Unreachable),
        (Fault("answer", "PUT", MANIFESTS, times=9), Busy),
        (Fault("cut", "PUT", MANIFESTS, times=9), Unreachable),
    ],
    ids=lambda f: f"{f.what}-{f.path}" if isinstance(f, Fault) else "",
)
def test_whatever_breaks_off_leaves_nothing_missing_and_nothing_doubled(
    wired: S3Warehouse, wire: S3Wire, people: Callable[..., Any], bystander: Bystander, fault: Fault,
    error: type[WarehouseError], s3: S3Server, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if "art" in fault.path or "upload" in fault.path:
        monkeypatch.setattr("isthmus.warehouses.s3_bucket.WHOLE_BYTES", 10)
        monkeypatch.setattr("isthmus.warehouses.s3_bucket.PART_BYTES", 5 * 1024 * 1024)
        some = [("1", token_hex(6_000_000), 1)]
    else:
        some = [("1", "Ann", 1)]
    wired.load(people(("0", "there", 1)))
    batch = people(*some, ("2", "Bob", 1))
    again = replace(fault, times=9)
    wire.give(again)
    with pytest.raises(error) as caught:
        wired.load(batch)
    assert caught.value.retryable
    assert len(rows_of(wired)) == 1
    assert not s3.client().list_multipart_uploads(Bucket=bystander.bucket).get("Uploads")
    wire.clear()
    assert not wired.load(batch).repeated
    assert [row[0] for row in bystander.globbed()] == ["0", "1", "2"]


def test_a_moment_of_too_much_is_waited_out(
    wired: S3Warehouse, wire: S3Wire, people: Callable[..., Any], bystander: Bystander
) -> None:
    for method, path in (("PUT", FILES), ("PUT", MANIFESTS), ("GET", MANIFESTS), ("POST", "delete")):
        wire.give(Fault("answer", method, path))
    wired.load(people(("1", "Ann", 1)))
    wired.load(people(("1", "Anna", 2)))
    assert bystander.globbed() == [("1", "Anna", 2)]


def test_files_that_could_not_be_removed_are_the_next_time(
    wired: S3Warehouse, wire: S3Wire, people: Callable[..., Any], bystander: Bystander
) -> None:
    wired.load(people(("1", "Ann", 1)))
    batch = people(("1", "Anna", 2))
    wire.give(Fault("answer", "POST", "delete", times=9))
    with pytest.raises(Busy):
        wired.load(batch)
    assert rows_of(wired) == [("1", "Anna", 2)]
    wire.clear()
    assert wired.load(batch).repeated
    assert bystander.globbed() == [("1", "Anna", 2)]


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (400, "ExpiredToken", Busy),
        (403, "RequestTimeTooSkewed", WarehouseError),
        (301, "PermanentRedirect", WarehouseError),
        (400, "AuthorizationHeaderMalformed", WarehouseError),
        (503, "SlowDown", Busy),
        (500, "InternalError", Busy),
    ],
)
def test_what_the_store_says_comes_with_what_to_do(
    config: S3Config, wire: S3Wire, status: int, code: str, error: type[WarehouseError]
) -> None:
    wire.give(Fault("answer", status=status, code=code, times=99))
    with pytest.raises(error) as caught:
        replace(config, endpoint_url=wire.endpoint).open()
    assert caught.value.code in (code, f"HTTP{status}")
    assert caught.value.hint
    assert type(caught.value) is not WarehouseError


def test_nothing_is_asked_before_somebody_wants_something(config: S3Config, wire: S3Wire) -> None:
    made = replace(config, endpoint_url=wire.endpoint)
    made.setup_script([PEOPLE])
    assert wire.requests == []


def test_requests_of_a_load_are_few(wired: S3Warehouse, wire: S3Wire, people: Callable[..., Any]) -> None:
    wired.load(people(("1", "Ann", 1), adds_only=True))
    asked = [(r.method, r.key.removeprefix("export/").partition("/")[0]) for r in wire.requests]
    assert len(asked) <= 8, asked
    wire.requests.clear()
    wired.reached(PEOPLE)
    assert len(wire.requests) == 2


@pytest.mark.parametrize(
    "wrong", [{"file_format": "orc"}, {"target_file_mb": 0}, {"import_prefix": ""}, {"temp_prefix": "/"}]
)
def test_a_config_that_cannot_be_is_refused(config: S3Config, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        replace(config, **wrong)
    assert caught.value.hint


def test_two_connections_do_not_meet(
    config: S3Config, s3: S3Server, load: Load, people: Callable[..., Any], bystander: Bystander
) -> None:
    own = {"access_key_id": s3.access_key_id, "secret_access_key": type(config.secret_access_key)(s3.secret_access_key)}
    with closing(replace(config, bucket=s3.fresh_bucket(), **own).open()) as other:
        other.create(PEOPLE)
        load(("1", "here", 1), batch_id="same")
        assert not other.load(people(("1", "there", 1), batch_id="same")).repeated
        assert rows_of(other) == [("1", "there", 1)]
    assert bystander.globbed() == [("1", "here", 1)]


def test_a_manifest_says_all_a_reader_needs(load: Load, bystander: Bystander) -> None:
    load(("1", "Ann", 1), ("2", "Bob", 3))
    found = bystander.client.get_object(Bucket=bystander.bucket, Key="export/people/_manifests/0000000002.json")
    manifest = json.loads(found["Body"].read())
    assert manifest["rows"] == 2 and manifest["reached"] == 3
    (file,) = manifest["files"]
    assert (file["key_min"], file["key_max"], file["seq_min"], file["seq_max"]) == ("1", "2", 1, 3)
    assert [c["type"] for c in manifest["columns"]] == ["text", "text", "bigint"]
    assert SeqRange(0, 3).upto == manifest["receipts"][0]["upto_seq"]
