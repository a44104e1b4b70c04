"""What an administrator runs, and the rights in it: the whole script, or the one command that gives a missing right."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from isthmus.model.table import Table
from isthmus.warehouses.protocol import Direction
from isthmus.warehouses.s3_manifest import folder

if TYPE_CHECKING:
    from isthmus.warehouses.s3 import S3Config

USER = "isthmus"
"""The name the script gives the user. One may serve several connections: each has policies of its own."""

_OBJECTS = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
_OURS = "_isthmus_*"
_PARTITIONS = {"cn-": "aws-cn", "us-gov-": "aws-us-gov"}
_RIGHTS = {
    "list": "s3:ListBucket",
    "read": "s3:GetObject",
    "get": "s3:GetObject",
    "put": "s3:PutObject",
    "delete": "s3:DeleteObject",
    "abort": "s3:AbortMultipartUpload",
}


def setup_script(config: S3Config, tables: Sequence[Table], *, direction: Direction, egress: Sequence[str]) -> str:
    """See `S3Config.setup_script`."""
    names = [t.name for t in tables] if direction.exports else []
    parts = [_head(config), _bucket(config)]
    if egress:
        lines = "".join(f"#   {address}\n" for address in egress)
        parts.append(f"# Isthmus comes from these addresses; the policies below hold from nowhere else:\n{lines}")
    parts.append(_who(config))
    rights = policy(config, names, direction=direction, egress=egress)
    parts.append(
        "# What it may do: list and use its own folders, and nothing else.\n"
        + _put_policy(config, _policy_name(config, direction.value), rights)
        + "# If the bucket is encrypted with a key of your own (SSE-KMS), the key's policy must also allow it\n"
        "# kms:GenerateDataKey and kms:Decrypt.\n"
    )
    parts.append(_folders(config, names))
    if direction.exports:
        parts.append(_lifecycle(config))
    parts.append(
        "# The access key is not in this script. Make it where nobody looks over your shoulder; Isthmus needs it:\n"
        f"#   aws iam create-access-key --user-name {USER}\n"
    )
    return "\n".join(parts)


def policy(
    config: S3Config, tables: Iterable[str], *, direction: Direction = Direction.BOTH, egress: Sequence[str] = ()
) -> dict[str, Any]:
    """The rights as an IAM policy. Without a prefix they are to the folders of the tables, not to the whole bucket."""
    places = {"Temporary": [f"{folder(config.temp_prefix)}*"]}
    if direction.exports:
        places["Tables"] = _targets(config, tables)
    listed = [pattern for patterns in places.values() for pattern in patterns]
    if direction.exports and not folder(config.prefix):
        listed.append("")
    statements = [_statement(config, name, _OBJECTS, patterns) for name, patterns in places.items()]
    if direction.imports:
        importing = [f"{folder(config.import_prefix)}*"]
        listed += importing
        statements.append(_statement(config, "Import", ["s3:GetObject"], importing))
    statements.append(_listing(config, listed))
    if egress:
        for statement in statements:
            statement.setdefault("Condition", {})["IpAddress"] = {"aws:SourceIp": list(egress)}
    return {"Version": "2012-10-17", "Statement": statements}


def granting(config: S3Config, right: str) -> str:
    """The one command that gives a right, e.g. "put-temp"."""
    verb, _, place = right.partition("-")
    prefixes = {"temp": config.temp_prefix, "import": config.import_prefix, "target": config.prefix}
    prefix = folder(prefixes[place])
    if verb == "list":
        statement = _listing(config, [f"{prefix}*"] if prefix else [""])
    else:
        statement = _statement(config, "Missing", [_RIGHTS[verb]], [f"{prefix}*"])
    document = {"Version": "2012-10-17", "Statement": [{k: v for k, v in statement.items() if k != "Sid"}]}
    return _put_policy(config, _policy_name(config, right), document, here=False)


def only_ours(config: S3Config) -> str:
    """The one command that takes away what is too much, whatever gave it."""
    ours = [f"{folder(p)}*" for p in (config.prefix, config.import_prefix, config.temp_prefix) if folder(p)]
    theirs = [_arn(config, f"{folder(config.import_prefix)}*")]
    writing = {"Effect": "Deny", "Action": ["s3:PutObject", "s3:DeleteObject"], "Resource": theirs}
    statements: list[dict[str, Any]] = [writing]
    if folder(config.prefix):
        outside = {"Effect": "Deny", "Action": "s3:*", "NotResource": [_arn(config), *(_arn(config, p) for p in ours)]}
        condition = {"StringNotLike": {"s3:prefix": ours}}
        listing = {"Effect": "Deny", "Action": "s3:ListBucket", "Resource": [_arn(config)], "Condition": condition}
        statements += [outside, listing]
    document = {"Version": "2012-10-17", "Statement": statements}
    return _put_policy(config, _policy_name(config, "nothing-else"), document, here=False)


def make_bucket(config: S3Config) -> str:
    """The command that makes the bucket."""
    where = "" if config.region == "us-east-1" else f" --create-bucket-configuration LocationConstraint={config.region}"
    return f"{_aws(config, 's3api')} create-bucket --bucket {shlex.quote(config.bucket)}{where}"


# Parts of the script


def _head(config: S3Config) -> str:
    return f"""\
#!/usr/bin/env bash
# Sets up the bucket {config.bucket} for Isthmus. Run it with bash and the AWS CLI (version 2), as somebody who may make
# users and policies. Safe to run twice.
set -euo pipefail
"""


def _bucket(config: S3Config) -> str:
    bucket = shlex.quote(config.bucket)
    return f"""\
if ! {_aws(config, "s3api")} head-bucket --bucket {bucket} > /dev/null 2>&1; then
  {make_bucket(config)} > /dev/null
fi
"""


def _who(config: S3Config) -> str:
    aws = _aws(config, "iam")
    text = f"""\
if ! {aws} get-user --user-name {USER} > /dev/null 2>&1; then
  {aws} create-user --user-name {USER} > /dev/null
fi
"""
    if not config.role_arn:
        return text
    role, name = shlex.quote(_role_name(config)), shlex.quote(f"take-on-{_role_name(config)}")
    account, partition = config.role_arn.split(":")[4], config.role_arn.split(":")[1]
    trusted: dict[str, Any] = {
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:{partition}:iam::{account}:user/{USER}"},
        "Action": "sts:AssumeRole",
    }
    if config.external_id:
        trusted["Condition"] = {"StringEquals": {"sts:ExternalId": config.external_id}}
    trust = {"Version": "2012-10-17", "Statement": [trusted]}
    taking = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": config.role_arn}],
    }
    return f"""\
{text}
# The role, which only this user may take on{", and only with the external id" if config.external_id else ""}.
trust=$(cat << 'JSON'
{json.dumps(trust, indent=2)}
JSON
)
if {aws} get-role --role-name {role} > /dev/null 2>&1; then
  {aws} update-assume-role-policy --role-name {role} --policy-document "$trust"
else
  {aws} create-role --role-name {role} --assume-role-policy-document "$trust" > /dev/null
fi
{_put(f"{aws} put-user-policy --user-name {USER} --policy-name {name}", taking)}"""


def _folders(config: S3Config, tables: Iterable[str]) -> str:
    places = [folder(config.import_prefix), folder(config.temp_prefix)]
    places += [f"{folder(config.prefix)}{name}/" for name in tables]
    put = f"{_aws(config, 's3api')} put-object --bucket {shlex.quote(config.bucket)} --key"
    lines = "".join(f"{put} {shlex.quote(place)} > /dev/null\n" for place in places)
    return (
        "# Folders, so that a person sees them: what Isthmus may read, its own short-lived objects, and its tables,\n"
        f"# which it makes itself.\n{lines}"
    )


def _lifecycle(config: S3Config) -> str:
    prefix = folder(config.prefix)
    rule: dict[str, Any] = {
        "ID": _policy_name(config, "half-written"),
        "Status": "Enabled",
        "Filter": {"Prefix": prefix},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
    }
    bucket, aws = shlex.quote(config.bucket), _aws(config, "s3api")
    return f"""\
# Parts of files that were never finished are thrown away after a day. A bucket has one list of rules: if there are some
# already, this one is only printed, for you to add it.
rules=$(cat << 'JSON'
{json.dumps({"Rules": [rule]}, indent=2)}
JSON
)
there=$({aws} get-bucket-lifecycle-configuration --bucket {bucket} \\
  --query 'Rules[].ID' --output text 2> /dev/null || true)
if [ -z "$there" ] || [ "$there" = None ]; then
  {aws} put-bucket-lifecycle-configuration --bucket {bucket} --lifecycle-configuration "$rules"
elif [[ "$there" != *{shlex.quote(rule["ID"])}* ]]; then
  echo "Add this rule to the bucket's lifecycle configuration: $rules"
fi
"""


def _put_policy(config: S3Config, name: str, document: dict[str, Any], *, here: bool = True) -> str:
    aws = _aws(config, "iam")
    who = f"user-policy --user-name {USER}"
    if config.role_arn:
        who = f"role-policy --role-name {shlex.quote(_role_name(config))}"
    command = f"{aws} put-{who} --policy-name {shlex.quote(name)}"
    if not here:
        return f"{command} --policy-document {shlex.quote(json.dumps(document))}"
    return _put(command, document)


def _put(command: str, document: dict[str, Any]) -> str:
    return f"{command} --policy-document \"$(cat << 'JSON'\n{json.dumps(document, indent=2)}\nJSON\n)\"\n"


# Names


def _statement(config: S3Config, name: str, actions: list[str], patterns: Iterable[str]) -> dict[str, Any]:
    resources = [_arn(config, pattern) for pattern in patterns]
    return {"Sid": name, "Effect": "Allow", "Action": actions, "Resource": resources}


def _listing(config: S3Config, prefixes: list[str]) -> dict[str, Any]:
    statement: dict[str, Any] = {"Sid": "List", "Effect": "Allow", "Action": ["s3:ListBucket"]}
    return statement | {"Resource": [_arn(config)], "Condition": {"StringLike": {"s3:prefix": prefixes}}}


def _targets(config: S3Config, tables: Iterable[str]) -> list[str]:
    prefix = folder(config.prefix)
    return [f"{prefix}*"] if prefix else [*(f"{name}/*" for name in tables), _OURS]


def _arn(config: S3Config, pattern: str | None = None) -> str:
    partition = next((p for start, p in _PARTITIONS.items() if config.region.startswith(start)), "aws")
    return f"arn:{partition}:s3:::{config.bucket}" + ("" if pattern is None else f"/{pattern}")


def _role_name(config: S3Config) -> str:
    return config.role_arn.rpartition("/")[2]


def _policy_name(config: S3Config, what: str) -> str:
    """A name of the characters and the length IAM allows, another one for each place."""
    place = folder(config.prefix).rstrip("/")
    text = "-".join(part for part in ("isthmus", config.bucket, place, what) if part)
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in text)[:128]


def _aws(config: S3Config, service: str) -> str:
    """The command line's first words. Amazon's own IAM is not where a private link to S3 leads."""
    host = urlsplit(config.endpoint_url).hostname or ""
    elsewhere = config.endpoint_url and (service == "s3api" or not host.endswith(("amazonaws.com", "amazonaws.com.cn")))
    endpoint = f" --endpoint-url {shlex.quote(config.endpoint_url)}" if elsewhere else ""
    return f"aws{endpoint} --region {shlex.quote(config.region)} {service}"
