"""What the set-up script gives, what the checks find missing or too much, and the commands that mend it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from s3_cast import PEOPLE, soon

from isthmus.model.checks import Check
from isthmus.model.errors import Denied, Missing
from isthmus.model.table import SEQ
from isthmus.model.tables import ALL, named
from isthmus.secrets import Secret
from isthmus.testing.builders import batch_of
from isthmus.testing.standins import S3Server, StsServer
from isthmus.testing.standins.aws_command import AwsCommand, aws_command
from isthmus.testing.standins.s3_wire import Fault, S3Wire, s3_wire
from isthmus.warehouses import s3_setup
from isthmus.warehouses.protocol import Direction, Relation
from isthmus.warehouses.s3 import S3Config

GOLDEN = Path(__file__).parents[1] / "golden"
AMAZON = S3Config("example-analytics", "eu-central-1", "AKIAIOSFODNN7EXAMPLE", Secret("hidden"), prefix="isthmus")
ROLE = replace(AMAZON, role_arn="arn:aws:iam::123456789012:role/isthmus", external_id="isthmus-7f3a")
TABLES = [named(t, "klaviyo_") for t in ALL]
EGRESS = ("192.0.2.7/32", "2001:db8::/32")


# The script


@pytest.mark.parametrize("direction", list(Direction))
def test_the_script_is_the_one_that_was_read(direction: Direction) -> None:
    script = AMAZON.setup_script(TABLES, direction=direction, egress=EGRESS)
    golden = GOLDEN / f"s3_{direction.value}.sh"
    assert golden.exists() and script == golden.read_text(), f"read it, then write it to {golden}"


@pytest.mark.parametrize("config", [AMAZON, ROLE, replace(AMAZON, prefix="", region="cn-north-1")], ids=str)
@pytest.mark.parametrize("direction", list(Direction))
def test_every_script_is_bash_with_policies_of_json(config: S3Config, direction: Direction) -> None:
    script = config.setup_script(TABLES, direction=direction, egress=EGRESS)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    documents = [json.loads(text) for text in re.findall(r"<< 'JSON'\n(.*?)\nJSON\n", script, re.DOTALL)]
    assert len(documents) >= 1
    for statement in (s for d in documents for s in d.get("Statement", ())):
        assert statement["Effect"] == "Allow"
        assert statement.get("Resource") != "*" and "*" not in statement["Action"]


@pytest.mark.parametrize("direction", list(Direction))
def test_a_policy_gives_the_rights_of_its_direction(direction: Direction) -> None:
    statements = {s["Sid"]: s for s in s3_setup.policy(AMAZON, ["people"], direction=direction)["Statement"]}
    assert ("Tables" in statements) == direction.exports
    assert ("Import" in statements) == direction.imports
    listed = statements["List"]["Condition"]["StringLike"]["s3:prefix"]
    assert ("isthmus/*" in listed, "KLAVIYO_IMPORT_FROM_DWH/*" in listed) == (direction.exports, direction.imports)


def test_without_a_prefix_the_rights_are_to_the_tables_alone(
    prepared: S3Config, s3: S3Server, aws: AwsCommand, tmp_path: Path
) -> None:
    key_id, secret = s3.key_of("isthmus")
    made = replace(
        prepared, bucket=s3.fresh_bucket(), prefix="", access_key_id=key_id, secret_access_key=Secret(secret)
    )
    for _ in range(2):
        aws.bash(made.setup_script([PEOPLE]))
    soon(lambda: made.open().close())
    assert [c for c in made.check() if not c.passed or c.warns] == []
    with closing(made.open()) as warehouse:
        warehouse.create(PEOPLE)
        warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "1", SEQ: 1}], batch_id="b"))
        assert warehouse.receipt("b") is not None
        with pytest.raises(Denied):
            warehouse.create(replace(PEOPLE, name="others"))


def test_a_rule_of_the_customers_is_not_replaced(prepared: S3Config, s3: S3Server, aws: AwsCommand) -> None:
    bucket = s3.fresh_bucket()
    rule = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "tmp/"}, "Expiration": {"Days": 1}}
    client = s3.client()
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})
    printed = aws.bash(replace(prepared, bucket=bucket).setup_script([]))
    assert "AbortIncompleteMultipartUpload" in printed
    (kept,) = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert kept["ID"] == "theirs"


# Rights that are missing


class Policy:
    """The user's policy, to take rights out of it."""

    def __init__(self, server: S3Server, config: S3Config) -> None:
        self.iam, self.config = server.client("iam"), config
        self.whole = s3_setup.policy(config, [])

    def set(self, statements: list[dict[str, Any]]) -> None:
        for name in self.iam.list_user_policies(UserName=s3_setup.USER)["PolicyNames"]:
            self.iam.delete_user_policy(UserName=s3_setup.USER, PolicyName=name)
        document = json.dumps({"Version": "2012-10-17", "Statement": statements})
        self.iam.put_user_policy(UserName=s3_setup.USER, PolicyName="changed", PolicyDocument=document)

    def without(self, action: str, place: str) -> None:
        statements = json.loads(json.dumps(self.whole["Statement"]))
        for statement in statements:
            if action == "s3:ListBucket" and statement["Sid"] == "List":
                condition = statement["Condition"]["StringLike"]
                condition["s3:prefix"] = [p for p in condition["s3:prefix"] if p != f"{place}/*"]
            elif any(r.endswith(f"/{place}/*") for r in statement["Resource"]):
                statement["Action"] = [a for a in statement["Action"] if a != action]
        self.set([s for s in statements if s["Action"]])


@pytest.fixture
def policy(s3: S3Server, config: S3Config) -> Iterator[Policy]:
    made = Policy(s3, config)
    yield made
    made.set(made.whole["Statement"])
    soon(lambda: passing(config))


def passing(config: S3Config) -> list[Check]:
    answers = list(config.check())
    assert [c for c in answers if not c.passed] == []
    return answers


EVERY = [
    *[("s3:ListBucket", place) for place in ("export", "KLAVIYO_IMPORT_FROM_DWH", "KLAVIYO_TMP")],
    *[
        (f"s3:{action}", place)
        for action in ("GetObject", "PutObject", "DeleteObject")
        for place in ("export", "KLAVIYO_TMP")
    ],
    ("s3:GetObject", "KLAVIYO_IMPORT_FROM_DWH"),
]


@pytest.mark.parametrize(("action", "place"), EVERY)
def test_the_command_of_a_no_makes_it_a_yes(
    config: S3Config, policy: Policy, aws: AwsCommand, action: str, place: str
) -> None:
    policy.without(action, place)

    def one_no() -> Check:
        (refused,) = [c for c in config.check() if not c.passed]
        return refused

    refused = soon(one_no)
    assert action in refused.statement and place in refused.statement
    assert refused.hint
    aws.bash(refused.statement)
    soon(lambda: passing(config))


def test_what_is_too_much_is_said(
    config: S3Config, policy: Policy, sts_server: StsServer, aws_there: AwsCommand
) -> None:
    everything = {"Effect": "Allow", "Action": "s3:*", "Resource": ["arn:aws:s3:::*"]}
    policy.set([everything])

    def warning() -> Check:
        (found,) = [c for c in passing(config) if c.warns]
        return found

    found = soon(warning)
    for words in ("list the whole bucket", "read outside", "write outside", "write into the import prefix"):
        assert words in found.detail
    # The server here holds no policies that deny; moto reads them at least.
    aws_there.bash(f"aws --endpoint-url {sts_server.endpoint} iam create-user --user-name {s3_setup.USER} || true")
    aws_there.bash(found.statement.replace(config.endpoint_url, sts_server.endpoint))
    document = json.loads(shlex.split(found.statement)[-1])
    assert all(s["Effect"] == "Deny" for s in document["Statement"])
    (outside,) = [s for s in document["Statement"] if "NotResource" in s]
    assert f"arn:aws:s3:::{config.bucket}/export/*" in outside["NotResource"]


def test_the_key_of_the_script_may_do_no_more_than_it_must(config: S3Config) -> None:
    assert passing(config)[-1].question == "Are there rights it does not need?"
    assert not [c for c in passing(config) if c.warns]
    with closing(config.open()) as warehouse:
        for key in ("elsewhere/x", f"{config.import_prefix}/x"):
            with pytest.raises(Denied):
                warehouse._bucket.put(key, b"x")
        with pytest.raises(Denied):
            warehouse._bucket.list("")


def test_an_address_that_is_not_let_in_is_refused(config: S3Config, policy: Policy) -> None:
    policy.set(s3_setup.policy(config, [], egress=["192.0.2.7/32"])["Statement"])

    def refused() -> None:
        with pytest.raises(Denied):
            config.open()

    soon(refused)


# Stores and keys that will not do


def test_a_store_that_ignores_conditions_is_refused(config: S3Config, wire: S3Wire) -> None:
    wire.give(Fault("pretend", "PUT", "_isthmus_probe", times=99))
    (refused,) = [c for c in replace(config, endpoint_url=wire.endpoint).check() if not c.passed]
    assert "over another" in refused.question
    assert "If-None-Match" in refused.hint


def test_a_bucket_that_is_not_there_is_made_by_the_command_of_the_check(
    prepared: S3Config, s3: S3Server, aws: AwsCommand
) -> None:
    own = {"access_key_id": s3.access_key_id, "secret_access_key": Secret(s3.secret_access_key)}
    nowhere = replace(prepared, bucket="nowhere-yet", **own)
    with pytest.raises(Missing):
        nowhere.open()
    refused = list(nowhere.check())[-1]
    assert refused.question == "Is the bucket there, in this region?" and not refused.passed
    aws.bash(refused.statement)
    passing(nowhere)


@pytest.mark.parametrize("bucket", ["s3://example", "a", "Example_Bucket"])
def test_a_bucket_that_cannot_be_is_said_to_be_one(config: S3Config, bucket: str) -> None:
    with pytest.raises((Missing, Denied)) as caught:
        replace(config, bucket=bucket).open()
    assert caught.value.hint


@pytest.mark.parametrize("url", ["minio:9000", "http://", "nonsense"])
def test_an_endpoint_that_cannot_be_is_said_to_be_one(config: S3Config, url: str) -> None:
    wrong = replace(config, endpoint_url=url)
    with pytest.raises(Missing) as caught:
        wrong.open()
    assert "endpoint" in caught.value.summary
    assert [c.passed for c in wrong.check()][-1] is False


def test_a_key_that_was_rotated_is_denied_and_the_new_one_goes_on(config: S3Config, s3: S3Server) -> None:
    key_id, secret = s3.key_of("isthmus")
    old = replace(config, access_key_id=key_id, secret_access_key=Secret(secret))
    soon(lambda: old.open().close())
    with closing(old.open()) as warehouse:
        warehouse.create(PEOPLE)
        s3.client("iam").delete_access_key(UserName="isthmus", AccessKeyId=key_id)

        def refused() -> None:
            with pytest.raises(Denied) as caught:
                warehouse.reached(PEOPLE)
            assert caught.value.code == "InvalidAccessKeyId"
            assert secret not in json.dumps(caught.value.as_dict())

        soon(refused)
    with closing(config.open()) as warehouse:
        assert warehouse.reached(PEOPLE) is None


# A role


@pytest.fixture(scope="module")
def sts_over(sts_server: StsServer) -> Iterator[S3Wire]:
    with s3_wire(sts_server.endpoint) as wire:
        yield wire


@pytest.fixture
def role(sts_server: StsServer, sts_over: S3Wire) -> S3Config:
    sts_over.clear()
    return S3Config(
        sts_server.bucket,
        sts_server.region,
        "AKIAIOSFODNN7EXAMPLE",
        Secret("the user's own"),
        prefix="export",
        endpoint_url=sts_over.endpoint,
        sts_endpoint_url=sts_over.endpoint,
        role_arn=f"arn:aws:iam::{sts_server.account}:role/isthmus",
        external_id="isthmus-7f3a",
    )


def test_a_role_is_taken_on_with_the_external_id(role: S3Config, sts_over: S3Wire, tmp_path: Path) -> None:
    with closing(role.open()) as warehouse:
        warehouse.create(PEOPLE)
        warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "1", "name": "Ann", SEQ: 1}]))
        warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "1", "name": "Anna", SEQ: 2}]))
        (rows,) = warehouse.read(Relation("export", "people"))
        assert rows.to_pylist() == [{"id": "1", "name": "Anna", SEQ: 2}]
        secrets = warehouse._open().secrets()
    asked = [r.form for r in sts_over.requests if "AssumeRole" in r.form]
    assert len(asked) == 1
    assert "ExternalId=isthmus-7f3a" in asked[0] and "role%2Fisthmus" in asked[0]
    assert len(secrets) == 3, "the key's, the role's and its token"


def test_a_role_that_may_not_be_taken_on_is_denied(role: S3Config, sts_over: S3Wire) -> None:
    sts_over.give(Fault("answer", "POST", status=403, code="AccessDenied", times=9))
    with pytest.raises(Denied) as caught:
        role.open()
    assert "role" in caught.value.summary and "external id" in caught.value.hint
    refused = list(role.check())[-1]
    assert (refused.question, refused.passed) == ("Are the credentials accepted?", False)


def test_the_script_of_a_role_makes_it_and_trusts_only_the_user(
    sts_server: StsServer, role: S3Config, aws_there: AwsCommand
) -> None:
    for _ in range(2):
        aws_there.bash(replace(role, endpoint_url=sts_server.endpoint).setup_script([PEOPLE], egress=EGRESS))
    assert "update-assume-role-policy" in aws_there.calls
    iam = aws_there._client("iam", sts_server.endpoint, "us-east-1")
    (trusted,) = iam.get_role(RoleName="isthmus")["Role"]["AssumeRolePolicyDocument"]["Statement"]
    assert trusted["Condition"] == {"StringEquals": {"sts:ExternalId": "isthmus-7f3a"}}
    assert trusted["Principal"]["AWS"].endswith(":user/isthmus")
    (name,) = iam.list_role_policies(RoleName="isthmus")["PolicyNames"]
    rights = iam.get_role_policy(RoleName="isthmus", PolicyName=name)["PolicyDocument"]
    assert rights == s3_setup.policy(role, ["people"], egress=EGRESS)
    assert "take-on-isthmus" in iam.list_user_policies(UserName="isthmus")["PolicyNames"]


@pytest.fixture
def aws_there(tmp_path: Path) -> Iterator[AwsCommand]:
    """The administrator's command line without an endpoint of its own."""
    folder = tmp_path / "aws"
    folder.mkdir()
    with aws_command(folder, access_key_id="any", secret_access_key="any") as command:
        yield command
