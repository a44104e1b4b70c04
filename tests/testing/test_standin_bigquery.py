"""The stand-in for BigQuery does what BigQuery documents, through Google's client and through its bare REST."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.parse
import urllib.request
from contextlib import closing
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.api_core import exceptions
from google.cloud import bigquery
from google.oauth2 import service_account

from isthmus.testing.standins import BigQueryServer
from isthmus.testing.standins.bigquery_wire.access import AUDIENCE
from isthmus.testing.standins.bigquery_wire.calls import RATE_LIMIT


class Rest:
    """What any program can do that knows the REST reference, and no library of Google's but the signing of a key."""

    def __init__(self, server: BigQueryServer, key: dict[str, str]) -> None:
        self._root = f"{server.endpoint}/bigquery/v2/projects/{server.project}"
        self._token = ""
        signer = service_account.Credentials.from_service_account_info(key, scopes=["x"])
        assert signer._token_uri.startswith(server.endpoint)
        assertion = signer._make_authorization_grant_assertion()
        text = assertion.decode() if isinstance(assertion, bytes) else assertion
        form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": text}
        said = self._send("POST", f"{server.endpoint}/token", urllib.parse.urlencode(form).encode())
        self._token = said["access_token"]

    def ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """The answer; of a refusal its `error`."""
        return self._send(method, f"{self._root}/{path}", None if body is None else json.dumps(body).encode())

    def query(self, text: str) -> dict[str, Any]:
        return self.ask("POST", "queries", {"query": text, "useLegacySql": False})

    def _send(self, method: str, url: str, body: bytes | None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method)) as answer:
                found: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as e:
            with e:
                found = json.load(e)
        return found


@pytest.fixture
def rest(bigquery_server: BigQueryServer) -> Rest:
    return Rest(bigquery_server, bigquery_server.owner)


@pytest.fixture
def dataset(bigquery_server: BigQueryServer) -> str:
    name = f"d_{uuid4().hex[:8]}"
    bigquery_server.execute(f"CREATE SCHEMA `{name}`")
    return name


def test_a_key_of_nobody_and_a_token_of_nobody_are_refused(bigquery_server: BigQueryServer, rest: Rest) -> None:
    assert AUDIENCE.startswith("https://oauth2.googleapis.com")
    strange = bigquery_server.access.new_key("stranger")
    bigquery_server.access.revoke_key(strange["private_key_id"])
    with pytest.raises(KeyError, match="access_token"):
        Rest(bigquery_server, strange)
    rest._token = "ya29.nobody"
    assert rest.query("SELECT 1")["error"]["code"] == 401


def test_both_see_the_same_rows(bigquery_server: BigQueryServer, rest: Rest, dataset: str) -> None:
    text = f"SELECT n, t FROM `{dataset}.t` ORDER BY n"
    rest.query(f"CREATE TABLE `{dataset}.t` (n INT64, t STRING)")
    rest.query(f"INSERT INTO `{dataset}.t` VALUES (1, 'ä日本😀'), (2, NULL)")
    assert bigquery_server.execute(text) == [(1, "ä日本😀"), (2, None)]
    rows = rest.query(text)["rows"]
    assert [[cell["v"] for cell in row["f"]] for row in rows] == [["1", "ä日本😀"], ["2", None]]


def test_a_name_of_a_job_is_good_for_one_job(bigquery_server: BigQueryServer, dataset: str) -> None:
    bigquery_server.execute(f"CREATE TABLE `{dataset}.t` (n INT64)")
    name = f"job_{uuid4().hex}"
    with closing(bigquery_server.client()) as client:
        insert = f"INSERT INTO `{dataset}.t` VALUES (1)"
        client.query(insert, job_id=name, job_retry=None).result()
        with pytest.raises(exceptions.Conflict):
            client.query(insert, job_id=name, job_retry=None, retry=None).result()
    assert bigquery_server.execute(f"SELECT COUNT(*) FROM `{dataset}.t`") == [(1,)]


def test_a_script_is_one_transaction_or_nothing(bigquery_server: BigQueryServer, dataset: str) -> None:
    bigquery_server.execute(f"CREATE TABLE `{dataset}.t` (n INT64)")
    with pytest.raises(exceptions.GoogleAPIError):
        bigquery_server.execute(
            f"BEGIN TRANSACTION; INSERT INTO `{dataset}.t` VALUES (1); SELECT ERROR('no'); COMMIT TRANSACTION;"
        )
    assert bigquery_server.execute(f"SELECT COUNT(*) FROM `{dataset}.t`") == [(0,)]


def test_a_load_job_takes_a_file_whole_or_not_at_all(bigquery_server: BigQueryServer, dataset: str) -> None:
    made = io.BytesIO()
    pq.write_table(pa.table({"n": pa.array([1, 2], pa.int64())}), made)
    config = bigquery.LoadJobConfig(source_format="PARQUET", schema=[bigquery.SchemaField("n", "INT64")])
    with closing(bigquery_server.client()) as client:
        into = f"{bigquery_server.project}.{dataset}.t"
        client.load_table_from_file(io.BytesIO(made.getvalue()), into, job_config=config).result()
        with pytest.raises(exceptions.GoogleAPIError):
            client.load_table_from_file(io.BytesIO(made.getvalue()[:-20]), into, job_config=config).result()
    assert bigquery_server.execute(f"SELECT n FROM `{dataset}.t` ORDER BY n") == [(1,), (2,)]


@pytest.mark.parametrize(
    "text",
    ["SELEC 1", "SELECT * FROM `{d}.nowhere`", "SELECT NO_SUCH_FUNCTION(1)", "CALL nobody()", "EXPORT NONSENSE"],
)
def test_what_nobody_wrote_fails_loudly(bigquery_server: BigQueryServer, rest: Rest, dataset: str, text: str) -> None:
    statement = text.replace("{d}", dataset)
    assert rest.query(statement)["error"]["code"] in (400, 404, 501)
    with pytest.raises(exceptions.GoogleAPIError):
        bigquery_server.execute(statement)


def test_methods_nobody_wrote_are_not_implemented(rest: Rest, dataset: str) -> None:
    for method, path in (("GET", "jobs"), ("PATCH", f"datasets/{dataset}"), ("GET", f"datasets/{dataset}/models")):
        assert rest.ask(method, path, {} if method == "PATCH" else None)["error"]["code"] == 501


def test_roles_are_asked_for_where_they_are_given(bigquery_server: BigQueryServer, dataset: str) -> None:
    content = json.loads(bigquery_server.fresh_account("roles/bigquery.jobUser"))
    rest, email = Rest(bigquery_server, content), content["client_email"]
    bigquery_server.execute(f"CREATE TABLE `{dataset}.t` (n INT64)")
    read, write = f"SELECT n FROM `{dataset}.t`", f"INSERT INTO `{dataset}.t` VALUES (1)"
    assert rest.query("SELECT 1")["rows"]
    assert rest.query(read)["error"]["errors"][0]["reason"] == "accessDenied"
    bigquery_server.execute(f'GRANT `roles/bigquery.dataViewer` ON SCHEMA `{dataset}` TO "serviceAccount:{email}"')
    assert "error" not in rest.query(read)
    assert "bigquery.tables.updateData" in rest.query(write)["error"]["message"]
    bigquery_server.execute(f'GRANT `roles/bigquery.dataEditor` ON SCHEMA `{dataset}` TO "serviceAccount:{email}"')
    assert "error" not in rest.query(write)
    bigquery_server.access.revoke("roles/bigquery.jobUser", bigquery_server.project, email)
    assert "bigquery.jobs.create" in rest.query("SELECT 1")["error"]["message"]


def test_every_call_is_in_the_log_and_what_was_ordered_goes_wrong_once(
    bigquery_server: BigQueryServer, rest: Rest
) -> None:
    bigquery_server.calls.fail("jobs.query query", RATE_LIMIT)
    assert rest.query("SELECT 17")["error"]["errors"][0]["reason"] == "rateLimitExceeded"
    assert "error" not in rest.query("SELECT 17")
    texts = [call.text for call in bigquery_server.calls.of(bigquery_server.owner["client_email"])]
    assert texts.count("SELECT 17") == 2


def test_gcloud_and_bq_do_what_our_script_says_and_nothing_else(bigquery_server: BigQueryServer) -> None:
    bigquery_server.run("echo 'SELECT 1' | bq query --use_legacy_sql=false")
    for script in ("gcloud compute instances list", "bq ls", "false", "echo 'SELEC' | bq query --use_legacy_sql=false"):
        with pytest.raises(RuntimeError):
            bigquery_server.run(f"set -e\n{script}")
