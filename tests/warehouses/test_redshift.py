"""The Redshift connector against its stand-in: the conformance suite, with a bucket and without."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest
import sqlglot
from warehouses_cast import PEOPLE, require_as_read

from isthmus.model.errors import Busy, Denied, Mismatch, Missing, Rejected, Unreachable, WarehouseError
from isthmus.model.table import DELETED, SEQ, Column, SeqRange, Table, Type
from isthmus.secrets import Secret
from isthmus.testing.builders import batch_of, tallies
from isthmus.testing.conformance import Conformance
from isthmus.testing.standins import REDSHIFT_ROLE, RedshiftServer, S3Server
from isthmus.warehouses import redshift_reading
from isthmus.warehouses.protocol import Direction, Relation, Window
from isthmus.warehouses.redshift import RedshiftConfig
from isthmus.warehouses.redshift_warehouse import RedshiftWarehouse

PASSWORD = "it's a \\ Secret1"
PREFIX = f"staging/{uuid4().hex}"
IMPORT = "klaviyo_import_from_dwh"
DOCS = Table("docs", (Column("id", Type.TEXT), Column("doc", Type.JSON), Column(SEQ, Type.BIGINT)), key=("id",))


@pytest.fixture(scope="module")
def database(redshift_server: RedshiftServer) -> str:
    return redshift_server.fresh_database()


@pytest.fixture
def config(redshift_server: RedshiftServer, database: str) -> RedshiftConfig:
    """A database as good as new in which the set-up script was run twice, and the user it made with a password."""
    made = RedshiftConfig(
        host=redshift_server.host,
        port=redshift_server.port,
        database=database,
        username=f"user of {database}",
        password=Secret(PASSWORD),
        sslmode="disable",
    )
    schemas = f"public, private, exports, {made.import_schema}, {made.temp_schema}"
    redshift_server.execute(f"DROP SCHEMA IF EXISTS {schemas} CASCADE", database=database)
    for _ in range(2):
        redshift_server.execute(made.setup_script([]), database=database)
    quoted = PASSWORD.replace("\\", "\\\\").replace("'", "''")
    redshift_server.execute(f"ALTER USER \"{made.username}\" PASSWORD '{quoted}'", database=database)
    return made


@pytest.fixture
def staged(config: RedshiftConfig, s3: S3Server) -> RedshiftConfig:
    """The same with a staging bucket."""
    return replace(
        config,
        bucket=s3.bucket,
        region=s3.region,
        prefix=PREFIX,
        access_key_id=s3.access_key_id,
        secret_access_key=Secret(s3.secret_access_key),
        endpoint_url=s3.endpoint,
    )


def _exactly(text: str) -> Any:
    """JSON in which a number is what it says, however it is written."""
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


class _Redshift(Conformance):
    text_limit_bytes = 65_535
    checks_json = False  # what is no JSON is kept as a text in the SUPER
    folds_case = True

    @pytest.fixture
    def config(self, config: RedshiftConfig, redshift_server: RedshiftServer) -> RedshiftConfig:
        self.owner = {"username": redshift_server.username, "password": Secret(redshift_server.password)}
        return config

    def exposing(self, config: RedshiftConfig) -> RedshiftConfig:
        """The customer's own user: ours may only read there."""
        return replace(config, schema=config.import_schema, **self.owner)

    def folded(self, name: str) -> str:
        return name.lower()

    def same_json(self, ours: str | None, theirs: str | None) -> bool:
        """SUPER keeps the meaning; or else the text, whole or in pieces."""
        if ours is None or theirs is None:
            return ours is theirs
        found: Any = _exactly(theirs)
        if isinstance(found, dict) and set(found) == {"_isthmus_text"}:
            found = "".join(found["_isthmus_text"])
        return found == ours if isinstance(found, str) else found == _exactly(ours)


class TestRedshiftWithoutBucket(_Redshift):
    statements = ("_execute",)


class TestRedshift(_Redshift):
    statements = ("_execute", "_upload", "_put")

    @pytest.fixture
    def config(self, staged: RedshiftConfig, redshift_server: RedshiftServer) -> RedshiftConfig:
        self.owner = {"username": redshift_server.username, "password": Secret(redshift_server.password)}
        return staged


Say = Callable[[str], list[tuple[Any, ...]]]


@pytest.fixture
def admin(redshift_server: RedshiftServer, config: RedshiftConfig) -> Say:
    """Says a statement as the administrator."""
    return lambda statement: redshift_server.execute(statement, database=config.database)


@pytest.fixture(params=["bucket", "statements"])
def either(request: pytest.FixtureRequest, config: RedshiftConfig, staged: RedshiftConfig) -> RedshiftConfig:
    """A connection with a bucket, and one without."""
    return staged if request.param == "bucket" else config


@pytest.fixture
def warehouse(either: RedshiftConfig) -> Iterator[RedshiftWarehouse]:
    with closing(either.open()) as opened:
        yield opened


@pytest.fixture
def left(s3: S3Server) -> Iterator[Callable[[], list[str]]]:
    """What lies in the bucket under the prefix."""
    keys = {"aws_access_key_id": s3.access_key_id, "aws_secret_access_key": s3.secret_access_key}
    with closing(boto3.client("s3", endpoint_url=s3.endpoint, region_name=s3.region, **keys)) as client:
        yield lambda: [o["Key"] for o in client.list_objects_v2(Bucket=s3.bucket, Prefix=PREFIX).get("Contents", [])]


# Set-up and rights


@pytest.mark.parametrize("direction", list(Direction))
def test_the_script_is_what_it_was(config: RedshiftConfig, direction: Direction) -> None:
    named = replace(config, host="h", port=5439, database="analytics", username="isthmus", schema="exports")
    script = named.setup_script([PEOPLE, DOCS], direction=direction, egress=["192.0.2.7"])
    require_as_read(script, f"redshift_{direction}.sql")
    lines = [line for line in script.split("$isthmus$")[0::2] for line in line.splitlines()]
    for statement in "\n".join(line for line in lines if not line.startswith("--")).split(";"):
        if statement.strip() and "_isthmus_user" not in statement:
            sqlglot.parse_one(statement, read="redshift")


def test_the_script_makes_tables_a_user_can_load_and_widen(either: RedshiftConfig, admin: Say, tmp_path: Path) -> None:
    for _ in range(2):
        admin(either.setup_script([PEOPLE]))
    with closing(either.open()) as warehouse:
        warehouse.create(Table("people", (*PEOPLE.columns, Column("born", Type.TIMESTAMP)), PEOPLE.key))
        for seq in (1, 2):
            warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "1", "name": "Ann", SEQ: seq}]))
        assert warehouse.count(Relation("public", "people")).rows == 1


def test_the_user_of_the_script_may_do_no_more_than_it_must(config: RedshiftConfig, admin: Say) -> None:
    admin("CREATE SCHEMA private")
    admin("CREATE TABLE private.salaries (n integer)")
    admin(f"CREATE TABLE {IMPORT}.orders (n integer)")
    admin(f"CREATE VIEW {IMPORT}.big_orders AS SELECT * FROM {IMPORT}.orders WHERE n > 100")
    with closing(config.open()) as warehouse:
        found = list(warehouse.relations())
        assert found == [Relation(IMPORT, "big_orders", "view"), Relation(IMPORT, "orders")]
        assert [warehouse.count(r).rows for r in found] == [0, 0]
        with pytest.raises(Denied) as caught:
            warehouse.schema(Relation("private", "salaries"))
        assert 'GRANT SELECT ON "private"."salaries"' in caught.value.hint
        with pytest.raises(Denied):
            warehouse._execute(f"DELETE FROM {IMPORT}.orders")


@pytest.mark.parametrize(
    "revoked",
    [
        "USAGE ON SCHEMA {import}",
        "SELECT ON ALL TABLES IN SCHEMA {import}",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA {import} REVOKE SELECT ON TABLES",
        "CREATE ON SCHEMA {temp}",
        "USAGE ON SCHEMA {temp}",
        "CREATE ON SCHEMA exports",
        "USAGE ON SCHEMA exports",
        "TEMPORARY ON DATABASE {database}",
    ],
)
def test_the_statement_of_a_no_makes_it_a_yes(config: RedshiftConfig, admin: Say, revoked: str) -> None:
    config = replace(config, schema="exports")
    admin(config.setup_script([]))
    admin(f"REVOKE TEMPORARY ON DATABASE {config.database} FROM PUBLIC")
    admin(f"CREATE TABLE {IMPORT}.orders (n integer)")
    assert not _wrong(config)
    what = revoked.replace("{import}", config.import_schema).replace("{temp}", config.temp_schema)
    what = what.replace("{database}", config.database)
    admin(f'{what if what.startswith("ALTER") else f"REVOKE {what}"} FROM "{config.username}"')
    refused = _wrong(config)
    assert refused and (refused[0].detail or refused[0].hint)
    # Without USAGE, a table cannot be read either: one statement after the other mends what is left.
    for _ in range(2):
        for answer in _wrong(config)[:1]:
            admin(answer.statement)
    assert not _wrong(config)


def _wrong(config: RedshiftConfig) -> list[Any]:
    return [c for c in config.check() if not c.passed or c.warns]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("ALTER USER {user} CREATEUSER", "superuser"),
        ("ALTER USER {user} CREATEDB", "databases"),
        ("GRANT CREATE ON DATABASE {database} TO {user}", "schemas"),
        ("GRANT CREATE ON SCHEMA {import} TO {user}", "create tables in"),
        ("GRANT DELETE ON {import}.orders TO {user}", "change rows in"),
    ],
)
def test_a_right_too_many_is_named_and_taken_away(config: RedshiftConfig, admin: Say, given: str, said: str) -> None:
    admin(f"CREATE TABLE {IMPORT}.orders (n integer)")
    admin(
        given.replace("{user}", f'"{config.username}"')
        .replace("{import}", IMPORT)
        .replace("{database}", config.database)
    )
    (warning,) = _wrong(config)
    assert warning.passed and warning.warns and said in warning.detail
    admin(warning.statement)
    assert not _wrong(config)


def test_a_check_with_a_bucket_stages_a_file_and_removes_it(
    staged: RedshiftConfig, left: Callable[[], list[str]]
) -> None:
    answers = list(replace(staged, iam_role=REDSHIFT_ROLE).check())
    assert all(c.passed for c in answers) and sum("bucket" in c.question for c in answers) == 1
    assert left() == []
    refused = [c for c in replace(staged, iam_role="arn:aws:iam::1:role/other").check() if not c.passed]
    assert [c.question for c in refused] == ["Can Redshift read them from there?"]
    assert "put-role-policy --role-name other" in refused[0].statement and PREFIX in refused[0].statement
    (refused_,) = [c for c in replace(staged, bucket="no-such-bucket").check() if not c.passed]
    assert "NoSuchBucket" in refused_.detail


# Loading


def test_a_role_may_stand_for_the_keys(staged: RedshiftConfig, tmp_path: Path, redshift_server: RedshiftServer) -> None:
    with closing(replace(staged, iam_role=REDSHIFT_ROLE).open()) as warehouse:
        warehouse.create(PEOPLE)
        warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "1", SEQ: 1}]))
    (copied,) = [s for s in redshift_server.statements(staged.database) if s.startswith("COPY _i")][-1:]
    assert REDSHIFT_ROLE in copied and "aws_secret" not in copied
    with closing(replace(staged, iam_role="arn:aws:iam::1:role/other").open()) as warehouse, pytest.raises(Denied):
        warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "2", SEQ: 1}]))
    with pytest.raises(Denied):
        replace(staged, access_key_id="", secret_access_key=None).open()


HALF = '["\\ud83d"]'
ODD = {
    "half": HALF,
    "twice": '{"a": 1, "a": 2}',
    "none": "{oops 'x' \\ y",
    "nul": '["\\u0000"]',
    "long": json.dumps({"ä": "ü" * 400_000}, ensure_ascii=False),
    "longer": "[" + ",".join(['"ä\\"b"'] * 40_000),
}
EVEN = {
    "many": json.dumps([{"n": n, "text": "ä" * 20} for n in range(5000)], ensure_ascii=False),
    "digits": "[12345678901234567890123456789012345678, 0.1234567890123456789]",
}


@pytest.mark.parametrize("adds_only", [False, True])
def test_json_that_cannot_be_parsed_is_kept_as_text(
    warehouse: RedshiftWarehouse, admin: Say, tmp_path: Path, adds_only: bool
) -> None:
    warehouse.create(DOCS)
    rows: list[dict[str, Any]] = [{"id": k, "doc": v, SEQ: 1} for k, v in (ODD | EVEN).items()]
    warehouse.load(batch_of(tmp_path, DOCS, rows, adds_only=adds_only))
    found = {r["id"]: r["doc"] for b in warehouse.read(Relation("public", "docs")) for r in b.to_pylist()}
    for key, text in EVEN.items():
        assert _exactly(found[key]) == _exactly(text)
    for key, text in ODD.items():
        kept = json.loads(found[key])
        if len(text.encode()) > 65_535:
            assert list(kept) == ["_isthmus_text"] and "".join(kept["_isthmus_text"]) == text
            assert max(len(piece.encode()) for piece in kept["_isthmus_text"]) <= 65_535
        else:
            assert kept == text
    assert list(warehouse.tally(DOCS, SeqRange(None, None))) == tallies(tmp_path, DOCS, rows)


@pytest.mark.long
def test_json_beyond_what_can_be_sent_is_refused_by_row_and_column(
    config: RedshiftConfig, staged: RedshiftConfig, tmp_path: Path
) -> None:
    sizes = {True: 16_777_216, False: 7_000_000}
    for has_bucket, limit in sizes.items():
        with closing((staged if has_bucket else config).open()) as warehouse:
            warehouse.create(DOCS)
            fits = '["' + "x" * 60_000 + '",' + " " * (limit - 60_006) + "1]"
            rows = [{"id": "fits", "doc": fits, SEQ: 1}]
            assert len(fits) == limit
            if not has_bucket:
                warehouse.load(batch_of(tmp_path, DOCS, rows))
            with pytest.raises(Rejected) as caught:
                warehouse.load(batch_of(tmp_path, DOCS, [*rows, {"id": "7", "doc": fits + " ", SEQ: 1}]))
            assert (caught.value.row, caught.value.column) == ("7", "doc")
            assert ("staging bucket" in caught.value.hint) is not has_bucket


def test_rows_in_statements_come_in_as_few_as_fit(
    config: RedshiftConfig, redshift_server: RedshiftServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": f"{n}", "name": "it's \\ é" * 50 + str(n), SEQ: n} for n in range(10_000)]
    longest = 0
    say = RedshiftWarehouse._say

    def measured(self: RedshiftWarehouse, cursor: Any, statement: str) -> None:
        nonlocal longest
        longest = max(longest, len(statement.encode()))
        say(self, cursor, statement)

    monkeypatch.setattr(RedshiftWarehouse, "_say", measured)
    with closing(config.open()) as warehouse:
        warehouse.create(PEOPLE)
        before = len(redshift_server.statements(config.database))
        warehouse.load(batch_of(tmp_path, PEOPLE, rows))
        said = redshift_server.statements(config.database)[before:]
        assert 2 <= sum(s.startswith("INSERT INTO _isthmus_stage") for s in said) <= 5
        assert 4_000_000 < longest < 16_000_000
        assert list(warehouse.tally(PEOPLE, SeqRange(None, None))) == tallies(tmp_path, PEOPLE, rows)


def test_the_tally_sees_what_somebody_changed(warehouse: RedshiftWarehouse, admin: Say, tmp_path: Path) -> None:
    columns = (
        *(Column("id", Type.TEXT), Column("doc", Type.JSON), Column("n", Type.DOUBLE), Column("at", Type.TIMESTAMP)),
        *(Column("ok", Type.BOOLEAN), Column(SEQ, Type.BIGINT)),
    )
    table = Table("proved", columns, ("id",))
    warehouse.create(table)
    rows = [{"id": "1", "doc": "{}", "n": 1.5, "at": datetime(2024, 1, 1, tzinfo=UTC), "ok": True, SEQ: 1}]
    warehouse.load(batch_of(tmp_path, table, rows))
    expected = tallies(tmp_path, table, rows)
    assert list(warehouse.tally(table, SeqRange(None, None))) == expected
    for change in ("id = '2'", "n = 1.51", "n = NULL", "at = at + interval '1 microsecond'", "ok = NULL"):
        admin(f"CREATE TABLE kept AS SELECT * FROM proved; UPDATE proved SET {change}")
        assert list(warehouse.tally(table, SeqRange(None, None))) != expected
        admin("DELETE FROM proved; INSERT INTO proved SELECT * FROM kept; DROP TABLE kept")
    assert list(warehouse.tally(table, SeqRange(None, None))) == expected
    admin("INSERT INTO proved (id, _isthmus_seq) VALUES ('x', 1)")
    assert list(warehouse.tally(table, SeqRange(None, None))) != expected


def test_a_column_that_would_cut_values_is_refused(warehouse: RedshiftWarehouse) -> None:
    warehouse._execute("CREATE TABLE people (id varchar(max), name varchar(5))")
    with pytest.raises(Mismatch) as caught:
        warehouse.create(PEOPLE)
    assert (caught.value.column, caught.value.theirs) == ("name", "character varying(5)")


def test_a_batch_that_is_in_is_one_question(
    either: RedshiftConfig, redshift_server: RedshiftServer, warehouse: RedshiftWarehouse, tmp_path: Path
) -> None:
    warehouse.create(PEOPLE)
    batch = batch_of(tmp_path, PEOPLE, [{"id": "1", SEQ: 1}])
    warehouse.load(batch)
    before = len(redshift_server.statements(either.database))
    assert warehouse.load(batch).repeated
    assert len(redshift_server.statements(either.database)) == before + 1


# Trouble


FAULTS = [
    ("^COPY _isthmus_stage", "", ""),
    ("^INSERT INTO _isthmus_stage", "", ""),
    ("^LOCK TABLE", "", ""),
    ('^DELETE FROM "public"', "", ""),
    ('^INSERT INTO "public"."_isthmus_receipts', "", ""),
    ("^COMMIT", "", ""),
    ("^COPY _isthmus_stage", "XX000", "S3ServiceException:Please reduce your request rate.,Status 503,Error SlowDown"),
    ("^CREATE TEMP TABLE", "XX000", "The cluster is currently being resized, and is in read-only mode"),
    ('^INSERT INTO "public"."people', "57014", "Query (7) cancelled on user's request"),
    ('^INSERT INTO "public"."people', "XX000", "1023"),
    ("^COMMIT", "XX000", "1023"),
]


@pytest.mark.parametrize(("pattern", "code", "message"), FAULTS)
def test_whatever_goes_wrong_the_next_load_makes_it_right(
    either: RedshiftConfig,
    redshift_server: RedshiftServer,
    tmp_path: Path,
    left: Callable[[], list[str]],
    pattern: str,
    code: str,
    message: str,
) -> None:
    if ("COPY" in pattern) != bool(either.bucket) and "_isthmus_stage" in pattern:
        pytest.skip("rows go another way here")
    with closing(either.open()) as warehouse:
        warehouse.create(PEOPLE)
        warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "1", "name": "old", SEQ: 1}, {"id": "2", SEQ: 1}]))
        batch = batch_of(tmp_path, PEOPLE, [{"id": "1", "name": "new", SEQ: 2}, {"id": "2", DELETED: True, SEQ: 2}])
        redshift_server.order_fault(either.database, pattern, code=code, message=message)
        with pytest.raises(Busy if code else Unreachable) as caught:
            warehouse.load(batch)
        assert caught.value.retryable and caught.value.hint
    with closing(either.open()) as warehouse:
        assert warehouse.load(batch).repeated is (pattern == "^COMMIT" and not code)
        (row,) = [r for b in warehouse.read(Relation("public", "people")) for r in b.to_pylist()]
        assert row == {"id": "1", "name": "new", SEQ: 2}
    assert left() == []


def test_an_upload_that_breaks_off_leaves_nothing(
    staged: RedshiftConfig, tmp_path: Path, left: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, key: str, content: bytes) -> None:
        assert left(), "the rows are there, their manifest is not"
        raise Unreachable("S3 does not answer", hint="it is tried again")

    with closing(staged.open()) as warehouse:
        warehouse.create(PEOPLE)
        batch = batch_of(tmp_path, PEOPLE, [{"id": "1", SEQ: 1}])
        with monkeypatch.context() as patched, pytest.raises(Unreachable):
            patched.setattr(RedshiftWarehouse, "_put", broken)
            warehouse.load(batch)
        assert left() == [] and warehouse.receipt(batch.batch_id) is None
        assert not warehouse.load(batch).repeated
        assert warehouse.count(Relation("public", "people")).rows == 1


def test_what_an_attempt_left_in_the_bucket_is_cleared_by_the_next(
    staged: RedshiftConfig, tmp_path: Path, s3: S3Server, left: Callable[[], list[str]]
) -> None:
    with closing(staged.open()) as warehouse:
        warehouse.create(PEOPLE)
        batch = batch_of(tmp_path, PEOPLE, [{"id": "1", SEQ: 1}])
        from isthmus.warehouses import redshift_staging

        warehouse._put(f"{redshift_staging.place(PREFIX, batch.batch_id)}dead/part", b"half a file")
        assert len(left()) == 1
        warehouse.load(batch)
    assert left() == []


def test_a_password_can_be_changed_without_losing_anything(staged: RedshiftConfig, admin: Say, tmp_path: Path) -> None:
    with closing(staged.open()) as warehouse:
        warehouse.create(PEOPLE)
        admin(f"ALTER USER \"{staged.username}\" PASSWORD 'Another1'")
        warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "1", SEQ: 1}]))  # a session goes on
    with pytest.raises(Denied):
        staged.open()
    with closing(replace(staged, password=Secret("Another1")).open()) as warehouse:
        warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "2", SEQ: 1}]))
        assert warehouse.count(Relation("public", "people")).rows == 2


@pytest.mark.filterwarnings("ignore:ssl:DeprecationWarning")  # the driver's own
def test_what_can_be_wrong_while_signing_in(config: RedshiftConfig, admin: Say) -> None:
    with pytest.raises(Missing, match="database"):
        replace(config, database="no such").open()
    with pytest.raises(Denied):
        replace(config, username="nobody here").open()
    with pytest.raises(Denied, match="TLS"):
        replace(config, sslmode="verify-full").open()
    with pytest.raises(Unreachable):
        replace(config, host="no-such-host.invalid").open()
    admin(f'ALTER ROLE "{config.username}" CONNECTION LIMIT 0')
    try:
        with pytest.raises(Busy):
            config.open()
    finally:
        admin(f'ALTER ROLE "{config.username}" CONNECTION LIMIT -1')


def test_two_connections_at_once(config: RedshiftConfig, redshift_server: RedshiftServer, tmp_path: Path) -> None:
    other = replace(
        config,
        database=redshift_server.fresh_database(),
        username=redshift_server.username,
        password=Secret(redshift_server.password),
    )
    with closing(config.open()) as one, closing(other.open()) as two:
        for number, warehouse in enumerate((one, two)):
            warehouse.create(PEOPLE)
            warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": f"{number}", SEQ: 1}]))
        ids = [[r["id"] for b in w.read(Relation("public", "people")) for r in b.to_pylist()] for w in (one, two)]
    assert ids == [["0"], ["1"]]


# Reading


def test_types_as_arrow(staged: RedshiftConfig, admin: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    admin(f"""CREATE TABLE {IMPORT}.odd AS SELECT 1.50::decimal(10, 2) AS price, json_parse('{{"b": [1]}}') AS doc,
        'ab'::char(3) AS code, DATE '2024-01-01' AS day, 7::smallint AS small, 1.5::real AS half, true AS ok,
        TIME '12:30:00' AS at, TIMESTAMP '2024-01-01 00:00:00.000001' AS naive, NULL::varchar AS nothing,
        TIMESTAMPTZ '2024-01-01 00:00:00+02' AS zoned, to_varbyte('00ff', 'hex') AS bytes, 3::bigint AS big""")
    expected = {
        "price": Decimal("1.50"), "doc": '{"b": [1]}', "code": "ab ", "day": date(2024, 1, 1), "small": 7, "half": 1.5,
        "ok": True, "at": "12:30:00", "naive": datetime(2024, 1, 1, 0, 0, 0, 1), "nothing": None,
        "zoned": datetime(2023, 12, 31, 22, tzinfo=UTC), "bytes": "00ff", "big": 3,
    }  # fmt: skip
    with closing(staged.open()) as warehouse:
        schema = warehouse.schema(Relation(IMPORT, "odd"))
        (batch,) = warehouse.read(Relation(IMPORT, "odd"))
        assert batch.schema.equals(schema) and batch.to_pylist() == [expected]
        monkeypatch.setattr(redshift_reading, "UNLOADED_FROM_ROWS", 1)
        (unloaded,) = warehouse.read(Relation(IMPORT, "odd"))
        assert unloaded.schema.equals(schema) and unloaded.to_pylist() == [expected]


@pytest.mark.parametrize("kind", ["date", "timestamp", "timestamptz"])
def test_every_kind_of_time_bounds_a_window(config: RedshiftConfig, admin: Say, kind: str) -> None:
    admin(f"CREATE TABLE {IMPORT}.days AS SELECT n, (DATE '2024-01-01' + n)::{kind} AS day "
          "FROM generate_series(0, 9) AS n")  # fmt: skip
    admin(f"INSERT INTO {IMPORT}.days VALUES (10, NULL), (11, '0005-03-01 BC')")
    window = Window("day", "n", datetime(2024, 1, 2, 5, tzinfo=UTC), datetime(2024, 1, 4, tzinfo=UTC))
    days = Relation(IMPORT, "days")
    with closing(config.open()) as warehouse:
        assert [row["n"] for batch in warehouse.read(days, window=window) for row in batch.to_pylist()] == [2, 3]
        assert warehouse.count(days, window=window).first == datetime(2024, 1, 3, tzinfo=UTC)
        # A time before the year 1 comes as what it is; Python has no word for it, Arrow has.
        nulls = [b.column(0).to_pylist() for b in warehouse.read(days, window=Window("day", "n", None, None, True))]
        assert sorted(n for batch in nulls for n in batch) == [10, 11]


def test_names_are_found_as_redshift_folds_them(config: RedshiftConfig, admin: Say) -> None:
    admin(f"CREATE TABLE {IMPORT}.pos_orders AS SELECT 1 AS n")
    with closing(config.open()) as warehouse:
        assert warehouse.count(Relation("KLAVIYO_IMPORT_FROM_DWH", "Pos_Orders")).rows == 1
        query = Relation(
            "", "SELECT n AS \"Big N\", '50%' AS s FROM klaviyo_import_from_dwh.pos_orders -- it's;", "query"
        )
        (batch,) = warehouse.read(query)
        assert batch.to_pylist() == [{"Big N": 1, "s": "50%"}]


def test_a_cluster_of_one_node_gives_rows_as_it_can(
    config: RedshiftConfig, admin: Say, redshift_server: RedshiftServer
) -> None:
    admin(f"CREATE TABLE {IMPORT}.many AS SELECT n FROM generate_series(1, 5000) AS n")
    said = (
        "Fetch size 20000 exceeds the limit of 1000 for a single node configuration. Reduce the client fetch/cache size"
    )
    redshift_server.order_fault(config.database, "^FETCH FORWARD 20000", code="XX000", message=said)
    before = len(redshift_server.statements(config.database))
    with closing(config.open()) as warehouse:
        assert sum(b.num_rows for b in warehouse.read(Relation(IMPORT, "many"))) == 5000
    asked = [int(s.split()[2]) for s in redshift_server.statements(config.database)[before:] if s.startswith("FETCH")]
    assert max(asked[1:]) == 1000


def test_long_rows_are_fetched_a_few_at_a_time(
    config: RedshiftConfig, admin: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redshift_reading, "FETCHED_BYTES", 1_000_000)
    admin(f"CREATE TABLE {IMPORT}.long AS SELECT n, repeat('x', 50000) AS s FROM generate_series(1, 600) AS n")
    with closing(config.open()) as warehouse:
        sizes = [b.num_rows for b in warehouse.read(Relation(IMPORT, "long"))]
    assert sum(sizes) == 600 and max(sizes[1:]) <= 20


def test_many_rows_come_by_the_bucket_in_order(
    staged: RedshiftConfig, admin: Say, redshift_server: RedshiftServer, left: Callable[[], list[str]]
) -> None:
    admin(f"""CREATE TABLE {IMPORT}.many AS SELECT n, TIMESTAMP '2024-01-01 00:00:00' + (n / 2) * interval '1 second'
        AS at, 'it''s ' || n AS s FROM generate_series(1, 120000) AS n""")
    window = Window("at", "n", datetime(2024, 1, 1, tzinfo=UTC), None)
    with closing(staged.open()) as warehouse:
        for fails in (False, True):
            before = len(redshift_server.statements(staged.database))
            if fails:
                said = "S3ServiceException:Access Denied,Status 403,Error AccessDenied,Rid 0,ExtRid 0,CanRetry 1"
                redshift_server.order_fault(staged.database, "^UNLOAD", code="XX000", message=said)
            numbers = [
                n for b in warehouse.read(Relation(IMPORT, "many"), window=window) for n in b.column(0).to_pylist()
            ]
            assert numbers == list(range(1, 120_001))
            kinds = {s.split()[0] for s in redshift_server.statements(staged.database)[before:]}
            assert "UNLOAD" in kinds and ("FETCH" in kinds) is fails
            assert left() == []
        half = warehouse.read(Relation(IMPORT, "many"))
        next(half)
        half.close()  # type: ignore[attr-defined]
        assert left() == []


def test_a_session_that_was_ended_is_unreachable(config: RedshiftConfig, redshift_server: RedshiftServer) -> None:
    with closing(config.open()) as warehouse:
        redshift_server.behind.execute(
            f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{config.database}'"
        )
        for _ in range(2):
            with pytest.raises(Unreachable) as caught:
                warehouse.create(PEOPLE)
            assert isinstance(caught.value, WarehouseError) and caught.value.retryable
