"""The set-up script of a BigQuery connection: bash, because roles on a project are not given by SQL."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from isthmus.model.table import RECEIPTS, Table
from isthmus.warehouses import sql
from isthmus.warehouses.bigquery_errors import JOBS, READ_SESSIONS, grant_on_dataset
from isthmus.warehouses.bigquery_sql import create_table, quoted, require_names
from isthmus.warehouses.protocol import Direction

_ACCOUNT = "isthmus"


def setup_script(
    tables: Sequence[Table],
    *,
    project: str,
    account: str,
    dataset: str,
    import_dataset: str,
    temp_dataset: str,
    location: str,
    direction: Direction,
    egress: Sequence[str],
) -> str:
    """See `BigQueryConfig.setup_script`. Without an account's address it is `isthmus@` the project."""
    account = account or f"{_ACCOUNT}@{project}.iam.gserviceaccount.com"
    name, _, domain = account.partition("@")
    home = domain.removesuffix(".iam.gserviceaccount.com")
    member = f"serviceAccount:{account}"
    parts = [
        f"""\
#!/usr/bin/env bash
# Run in Cloud Shell, or where gcloud and bq are signed in as an owner of the project. Safe to run twice.
set -euo pipefail
project={shlex.quote(project)}
account={shlex.quote(account)}

gcloud services enable bigquery.googleapis.com bigquerystorage.googleapis.com --project="$project"

# The account Isthmus signs in with. Its key is not in this script; to make one:
#   gcloud iam service-accounts keys create key.json --iam-account={account}
if ! gcloud iam service-accounts describe "$account" --project={shlex.quote(home)} > /dev/null 2>&1; then
    gcloud iam service-accounts create {shlex.quote(name)} --project={shlex.quote(home)} --display-name=Isthmus
fi
"""
    ]
    roles = [(JOBS, "run queries and loads; it lets no table be seen")]
    if direction.imports:
        roles.append((READ_SESSIONS, "fetch rows by the Storage Read API"))
    parts.append("# On the project there are only the rights to work at all: " + "; ".join(w for _, w in roles) + ".\n")
    for role, _ in roles:
        parts[-1] += (
            f'gcloud projects add-iam-policy-binding "$project" --member={shlex.quote(member)} --role={role} '
            "--condition=None > /dev/null\n"
        )
    at = f" --location={shlex.quote(location)}" if location else ""
    statements = _statements(
        tables,
        project=project,
        account=account,
        datasets=(dataset, import_dataset, temp_dataset),
        location=location,
        direction=direction,
    )
    parts.append(
        f"# All other rights are on datasets, and hold for the tables and views that are there and that will be.\n"
        f"bq --project_id=\"$project\"{at} query --quiet --use_legacy_sql=false <<'SQL'\n{statements}SQL\n"
    )
    parts.append(_network(egress))
    return "\n".join(parts)


def _statements(
    tables: Sequence[Table],
    *,
    project: str,
    account: str,
    datasets: tuple[str, str, str],
    location: str,
    direction: Direction,
) -> str:
    target, importing, temporary = datasets

    def grant(role: str, dataset: str) -> str:
        return grant_on_dataset(f"roles/bigquery.{role}", project, dataset, account) + "\n"

    def make(dataset: str, *options: str) -> str:
        given = [*options, *([f"location = '{location}'"] if location else [])]
        return f"CREATE SCHEMA IF NOT EXISTS {quoted(project, dataset)}" + (
            f" OPTIONS({', '.join(given)});\n" if given else ";\n"
        )

    parts = [f"-- Where exported tables go.\n{make(target)}"]
    if direction.exports:
        receipts = Table(RECEIPTS, sql.RECEIPT_COLUMNS)
        for table in (receipts, *tables):
            require_names(table)
            parts[-1] += f"{create_table(table, quoted(project, target, table.name))};\n"
        parts[-1] += grant("dataEditor", target)
    exposing = make(importing)
    if direction.imports:
        exposing = (
            "-- What Isthmus may read. A view here over another dataset must be authorized there, by its owner:\n"
            f"-- then the account needs no right on that dataset.\n{exposing}{grant('dataViewer', importing)}"
        )
    parts.append(exposing)
    parts.append(
        "-- Isthmus's own short-lived tables. What a killed process leaves there ends by itself after a day.\n"
        + make(temporary, "default_table_expiration_days = 1")
        + grant("dataEditor", temporary)
    )
    return "\n".join(parts)


def _network(egress: Sequence[str]) -> str:
    lines = [
        "# BigQuery has no network rule of an account: whoever holds the key can sign in from anywhere. If the project",
        "# lies in a VPC service perimeter, let Isthmus in by an access level of its addresses, in an ingress rule:",
    ]
    if not egress:
        return "\n".join([*lines[:1], "# A VPC service perimeter around the project can change that.\n"])
    lines += [f"#   {address}" for address in egress]
    return "\n".join(lines) + "\n"
