"""The stand-ins of S3, through drivers that are not our connector: boto3 and pyarrow."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pf
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from isthmus.testing.standins import S3Server, StsServer
from isthmus.testing.standins.aws_command import aws_command
from isthmus.testing.standins.s3_wire import Fault, s3_wire


def code_of(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def test_a_condition_is_honoured(s3: S3Server) -> None:
    client, bucket = s3.client(), s3.fresh_bucket()
    client.put_object(Bucket=bucket, Key="k", Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError) as caught:
        client.put_object(Bucket=bucket, Key="k", Body=b"second", IfNoneMatch="*")
    assert code_of(caught) == "PreconditionFailed"
    assert client.get_object(Bucket=bucket, Key="k")["Body"].read() == b"first"


def test_a_user_may_do_what_its_policy_says(s3: S3Server) -> None:
    bucket = s3.fresh_bucket()
    key = s3.key_of(f"user-of-{bucket}")
    rights = {"Effect": "Allow", "Action": ["s3:PutObject"], "Resource": [f"arn:aws:s3:::{bucket}/in/*"]}
    document = json.dumps({"Version": "2012-10-17", "Statement": [rights]})
    s3.client("iam").put_user_policy(UserName=f"user-of-{bucket}", PolicyName="p", PolicyDocument=document)
    client = s3.client(key=key)
    deadline = time.monotonic() + 10
    while True:
        try:
            client.put_object(Bucket=bucket, Key="in/k", Body=b"x")
            break
        except ClientError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    for attempt in (
        lambda: client.put_object(Bucket=bucket, Key="out/k", Body=b"x"),
        lambda: client.get_object(Bucket=bucket, Key="in/k"),
        lambda: client.delete_object(Bucket=bucket, Key="in/k"),
        lambda: client.list_objects_v2(Bucket=bucket),
    ):
        with pytest.raises(ClientError) as caught:
            attempt()
        assert code_of(caught) == "AccessDenied"


def test_a_bucket_is_emptied_with_its_older_versions(s3: S3Server) -> None:
    client, bucket = s3.client(), s3.fresh_bucket()
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for content in (b"one", b"two"):
        client.put_object(Bucket=bucket, Key="k", Body=content)
    client.delete_object(Bucket=bucket, Key="k")
    client.create_multipart_upload(Bucket=bucket, Key="m")
    s3.empty(bucket)
    found = client.list_object_versions(Bucket=bucket)
    assert not found.get("Versions") and not found.get("DeleteMarkers")
    assert not client.list_multipart_uploads(Bucket=bucket).get("Uploads")


def test_the_wire_passes_everything_on_and_writes_it_down(s3: S3Server) -> None:
    bucket = s3.fresh_bucket()
    with s3_wire(s3.endpoint) as wire:
        client = s3.client(endpoint=wire.endpoint)
        client.put_object(Bucket=bucket, Key="ü n/k", Body=b"content")
        assert client.get_object(Bucket=bucket, Key="ü n/k", Range="bytes=3-")["Body"].read() == b"tent"
        assert client.head_object(Bucket=bucket, Key="ü n/k")["ContentLength"] == 7
        client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "ü n/k"}]})
        seen = [(r.method, r.key, r.status) for r in wire.requests]
        assert seen == [("PUT", "ü n/k", 200), ("GET", "ü n/k", 206), ("HEAD", "ü n/k", 200), ("POST", "", 200)]
        table = pa.table({"n": range(1000)})
        files = pf.S3FileSystem(
            access_key=s3.access_key_id,
            secret_key=s3.secret_access_key,
            endpoint_override=wire.endpoint.removeprefix("http://"),
            scheme="http",
            region=s3.region,
            allow_bucket_creation=False,
        )
        with pa.BufferOutputStream() as out:
            pq.write_table(table, out)
            client.put_object(Bucket=bucket, Key="t.parquet", Body=out.getvalue().to_pybytes())
        assert pq.read_table(f"{bucket}/t.parquet", filesystem=files).equals(table)


def test_what_is_to_go_wrong_does_and_only_that(s3: S3Server) -> None:
    bucket = s3.fresh_bucket()
    with s3_wire(s3.endpoint) as wire:
        client = s3.client(endpoint=wire.endpoint)

        def put(key: str) -> None:
            client.put_object(Bucket=bucket, Key=key, Body=b"x" * 1000)

        wire.give(Fault("answer", "PUT", "busy", skip=1))
        put("busy")
        with pytest.raises(ClientError) as caught:
            put("busy")
        assert code_of(caught) == "SlowDown"
        put("busy")
        for what, is_there in (("lose", True), ("cut", False)):
            wire.give(Fault(what, "PUT", what))  # type: ignore[arg-type]
            with pytest.raises(ConnectionClosedError):
                put(what)
            time.sleep(0.1)
            assert bool(s3.client().list_objects_v2(Bucket=bucket, Prefix=what).get("Contents")) == is_there
        assert [r.status for r in wire.requests] == [200, 503, 200, 0, 0]


def test_a_role_is_given_to_whoever_asks(sts_server: StsServer) -> None:
    """What moto does not do: look at the trust policy. A test of ours must not rest on it."""
    import boto3

    key = {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
    sts = boto3.client("sts", endpoint_url=sts_server.endpoint, region_name=sts_server.region, **key)
    role = f"arn:aws:iam::{sts_server.account}:role/anything"
    taken = sts.assume_role(RoleArn=role, RoleSessionName="test", ExternalId="whatever")["Credentials"]
    assert taken["SessionToken"]
    sts.close()


def test_the_command_line_says_what_it_does_not_know(s3: S3Server, tmp_path: Path) -> None:
    key = {"access_key_id": s3.access_key_id, "secret_access_key": s3.secret_access_key}
    with aws_command(tmp_path, **key, endpoints={"s3": s3.endpoint}) as aws:
        bucket = s3.fresh_bucket()
        aws.bash(f"set -e; aws s3api put-object --bucket {bucket} --key a/ > /dev/null")
        printed = aws.bash(f"aws s3api list-objects-v2 --bucket {bucket} --query 'Contents[].Key' --output text")
        assert printed == "a/\n"
        for wrong in ("s3api dance --bucket x", "s3api put-object --colour red", "s3api", "sso login"):
            with pytest.raises(RuntimeError):
                aws.bash(f"aws {wrong}")
        assert aws.calls[:2] == ["put-object", "list-objects-v2"]
