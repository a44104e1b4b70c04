"""Google's clients as the connector uses them: nothing is tried again, nothing waits for ever, all errors are ours."""

from __future__ import annotations

import concurrent.futures
import json
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa

from isthmus.model.errors import Denied, Missing, Unreachable, WarehouseError
from isthmus.model.table import Column
from isthmus.secrets import Secret
from isthmus.warehouses.bigquery_errors import translated
from isthmus.warehouses.types import BIGQUERY

CALL_S = 60
"""How long one HTTP call may take."""
RUN_S = 3600
"""How long a query or a load may run. Google is told too, so that nothing goes on without us for long."""
ASK_S = 600
"""How long a question may take whose answer is a few rows. It is taken back then."""
STREAM_S = 24 * 3600
"""How long rows may be read: we take our time with them, they land meanwhile."""

ENDPOINT = "https://bigquery.googleapis.com"
STORAGE_ENDPOINT = "https://bigquerystorage.googleapis.com"
_SCOPES = ("https://www.googleapis.com/auth/bigquery",)
_ONCE = {"retry": None, "job_retry": None, "timeout": CALL_S}
_LABELS = {"app": "isthmus"}
_STANDARD = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL", "RECORD": "STRUCT"}
_UNBOUNDED = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),  # a peer that is gone is found out
    ("grpc.keepalive_timeout_ms", 20_000),
]


def credentials(key: Secret) -> Any:
    """The service account of a key file's text. Raises Denied that says what is wrong with it, never what is in it."""
    from google.oauth2 import service_account

    hint = "paste the whole key file as Google made it, or name it: service_account_key: {file: key.json}"
    try:
        content = json.loads(key.reveal())
    except ValueError:
        raise Denied("the service-account key is not JSON", code="key", hint=hint) from None
    if not isinstance(content, dict):
        raise Denied("the service-account key is JSON, but not a key file", code="key", hint=hint)
    kind = content.get("type")
    if kind != "service_account":
        what = f"of the type {kind!r}" if isinstance(kind, str) and len(kind) < 40 else "without a type"
        make = "make a key of a service account: gcloud iam service-accounts keys create key.json --iam-account=…"
        raise Denied(f"the key is {what}, not of a service account", code="key", hint=make)
    absent = [name for name in ("client_email", "private_key", "token_uri") if not content.get(name)]
    if absent:
        raise Denied(f"the service-account key lacks {', '.join(absent)}", code="key", hint=hint)
    try:
        return service_account.Credentials.from_service_account_info(content, scopes=_SCOPES)
    except Exception:  # what a broken PEM raises depends on where it is broken; its words may quote it
        cut = "the private key in the service-account key cannot be read: was it cut, or were its \\n taken out?"
        raise Denied(cut, code="key", hint=hint) from None


def email(key: Secret) -> str:
    """The account a key is of, if it is one."""
    with suppress(ValueError):
        content = json.loads(key.reveal())
        if isinstance(content, dict) and isinstance(content.get("client_email"), str):
            return str(content["client_email"])
    return ""


def secrets(key: Secret) -> tuple[Secret, ...]:
    """What of a key may be in no message."""
    with suppress(ValueError):
        content = json.loads(key.reveal())
        if isinstance(content, dict):
            return (
                key,
                *(Secret(v) for k in ("private_key", "private_key_id") if isinstance(v := content.get(k), str)),
            )
    return (key,)


class Session:
    """A signed-in account. Raises only WarehouseErrors; after `close`, Unreachable."""

    def __init__(self, key: Secret, *, project: str, location: str, endpoint: str, storage: str, limit: int) -> None:
        """Signs in: gets a token, and shows it. Raises Unreachable or Denied."""
        from google.api_core.client_info import ClientInfo
        from google.auth.transport.requests import Request
        from google.cloud import bigquery

        self._credentials = credentials(key)
        self.account: str = self._credentials.service_account_email
        self.project, self._location, self._storage, self._limit = project, location, storage, limit
        self._secrets = secrets(key)
        with self._translated():
            request = Request()
            with closing(request.session):
                self._credentials.refresh(request)
            self._client: Any = bigquery.Client(
                project=project,
                credentials=self._credentials,
                location=location or None,
                client_info=ClientInfo(user_agent="isthmus"),
                client_options={"api_endpoint": endpoint},
            )
        self._channel: Any = None
        try:
            self.datasets(at_most=1)  # the token came from another host than the one that all else is asked of
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(Exception):
                client.close()
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    # Tables

    def location(self, dataset: str) -> str:
        """Where a dataset lies, and with it all that we work on. Raises Missing or Denied."""
        if not self._location:
            with self._open() as client:
                found = client.get_dataset(self._reference(dataset), retry=None, timeout=CALL_S)
                self._location = str(found.location)
        return self._location

    def has_dataset(self, dataset: str) -> bool:
        try:
            with self._open() as client:
                client.get_dataset(self._reference(dataset), retry=None, timeout=CALL_S)
        except Missing:
            return False
        return True

    def default_expiration_ms(self, dataset: str) -> int | None:
        with self._open() as client:
            found = client.get_dataset(self._reference(dataset), retry=None, timeout=CALL_S)
            return None if found.default_table_expiration_ms is None else int(found.default_table_expiration_ms)

    def tables(self, dataset: str) -> list[tuple[str, str]]:
        """Names and kinds ("TABLE", "VIEW" …) of what is in a dataset."""
        with self._open() as client:
            listed = client.list_tables(self._reference(dataset), retry=None, timeout=CALL_S)
            return [(str(t.table_id), str(t.table_type)) for t in listed]

    def datasets(self, *, at_most: int | None = None) -> list[str]:
        """The datasets of the project that the account can see; anybody may ask."""
        with self._open() as client:
            listed = client.list_datasets(max_results=at_most, retry=None, timeout=CALL_S)
            return [str(d.dataset_id) for d in listed]

    def described(self, dataset: str, table: str) -> tuple[str, dict[str, str]]:
        """Kind, and types by column, of a table or view. Raises Missing."""
        from google.cloud import bigquery

        with self._open() as client:
            reference = bigquery.TableReference(self._reference(dataset), table)
            found = client.get_table(reference, retry=None, timeout=CALL_S)
            return str(found.table_type), {f.name: _type(f) for f in found.schema}

    def drop(self, dataset: str, table: str) -> None:
        with self._open() as client:
            client.delete_table(f"{self.project}.{dataset}.{table}", retry=None, timeout=CALL_S, not_found_ok=True)

    # Queries

    def ask(self, text: str, parameters: Mapping[str, str] = {}) -> list[tuple[Any, ...]]:
        """The rows of a query, few enough to be held."""
        with self._open() as client:
            rows = client.query_and_wait(
                text,
                job_config=self._config(parameters),
                retry=None,
                job_retry=None,
                api_timeout=CALL_S,
                wait_timeout=ASK_S,
            )
            return [tuple(row.values()) for row in rows]

    def shape(self, text: str) -> dict[str, str]:
        """Types by column of a query, which is not run. Costs nothing."""
        return {f.name: _type(f) for f in self.dry(text)}

    def dry(self, text: str) -> Sequence[Any]:
        """Have a statement checked, rights too, and not run."""
        with self._open() as client:
            config = self._config({})
            config.dry_run = True
            return client.query(text, job_config=config, **_ONCE).schema or ()

    def start(self, text: str, parameters: Mapping[str, str], *, name: str, location: str) -> Any:
        """Have a script run under a name that no other has or had. None if one has it: nothing was done then."""
        from google.api_core.exceptions import Conflict

        with self._open() as client:
            config = self._config(parameters)
            try:
                return client.query(text, job_config=config, job_id=name, location=location, **_ONCE)
            except Conflict:
                return None

    def wait(self, name: str, *, location: str) -> None:
        """Until the script of that name has come to its end, good or bad. Raises only if that cannot be found out."""
        with self._open() as client:
            script = client.get_job(name, location=location, retry=None, timeout=CALL_S)
        try:
            self.end(script)
        except WarehouseError:
            if script.state != "DONE":
                raise

    def end(self, script: Any) -> list[tuple[Any, ...]]:
        """The rows of a script's last SELECT, when it has come to its end. Raises what it failed with."""
        with self._open():
            return [tuple(row.values()) for row in _awaited(script, job_retry=None, page_size=100)]

    def result_of(self, text: str) -> str:
        """Run a query. Returns the path of the table that Google keeps its rows in for a day."""
        with self._open() as client:
            run = client.query(text, job_config=self._config({}), **_ONCE)
            _awaited(run, job_retry=None, page_size=1)
            return str(run.destination.path).strip("/")

    def upload(self, file: Path, dataset: str, table: str, columns: Sequence[Column], *, name: str) -> None:
        """Load a Parquet file into a new table, which is there whole after it, or not at all."""
        from google.cloud import bigquery

        with self._open() as client, file.open("rb") as content:
            config = bigquery.LoadJobConfig(
                source_format="PARQUET",
                schema=[bigquery.SchemaField(c.name, BIGQUERY[c.type].name) for c in columns],
                write_disposition="WRITE_EMPTY",
                labels=_LABELS,
                job_timeout_ms=RUN_S * 1000,
            )
            loading = client.load_table_from_file(
                content,
                f"{self.project}.{dataset}.{table}",
                size=file.stat().st_size,
                job_id=name,
                job_config=config,
                location=self._location or None,
                num_retries=0,
                timeout=CALL_S,
            )
            _awaited(loading)

    def _config(self, parameters: Mapping[str, str]) -> Any:
        from google.cloud import bigquery

        config = bigquery.QueryJobConfig(labels=_LABELS, job_timeout_ms=RUN_S * 1000)
        config.query_parameters = [bigquery.ScalarQueryParameter(n, "STRING", v) for n, v in parameters.items()]
        if self._limit:
            config.maximum_bytes_billed = self._limit
        return config

    # Rows

    def rows(self, path: str, *, in_order: bool) -> Generator[pa.RecordBatch, None, None]:
        """The rows of a table by the Storage Read API: Arrow, a few thousand at a time. Close it to read no further."""
        from google.cloud.bigquery_storage_v1 import types

        with self._open():
            client = self._storage_client()
            compressed = types.ArrowSerializationOptions(
                buffer_compression=types.ArrowSerializationOptions.CompressionCodec.LZ4_FRAME
            )
            wanted = types.ReadSession(
                table=path,
                data_format=types.DataFormat.ARROW,
                read_options=types.ReadSession.TableReadOptions(arrow_serialization_options=compressed),
            )
            opened = client.create_read_session(
                parent=f"projects/{self.project}",
                read_session=wanted,
                max_stream_count=1 if in_order else 0,
                retry=None,
                timeout=CALL_S,
                metadata=self._signature(),
            )
            schema = pa.ipc.read_schema(pa.py_buffer(opened.arrow_schema.serialized_schema))
            for each in opened.streams:
                answers = client.read_rows(
                    read_stream=each.name, retry=None, timeout=STREAM_S, metadata=self._signature()
                )
                try:
                    for answer in answers:
                        content = answer._pb.arrow_record_batch.serialized_record_batch
                        yield pa.ipc.read_record_batch(pa.py_buffer(content), schema)
                finally:
                    answers.cancel()

    def _storage_client(self) -> Any:
        import grpc
        from google.cloud.bigquery_storage_v1.services.big_query_read import BigQueryReadClient
        from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport

        if self._channel is None:
            at = urlsplit(self._storage)
            host = f"{at.hostname}:{at.port or (80 if at.scheme == 'http' else 443)}"
            if at.scheme == "http":
                self._channel = grpc.insecure_channel(host, options=_UNBOUNDED)
            else:
                self._channel = BigQueryReadGrpcTransport.create_channel(
                    host, credentials=self._credentials, scopes=_SCOPES, options=_UNBOUNDED
                )
        return BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=self._channel))

    # Inside

    def _signature(self) -> tuple[tuple[str, str], ...]:
        """The token as a header, where the channel cannot carry it: gRPC signs calls over TLS only."""
        if not self._storage.startswith("http://"):
            return ()
        from google.auth.transport.requests import Request

        headers: dict[str, str] = {}
        request = Request()
        with closing(request.session):
            self._credentials.before_request(request, "POST", self._storage, headers)
        return (("authorization", headers["authorization"]),)

    def _reference(self, dataset: str) -> Any:
        from google.cloud import bigquery

        return bigquery.DatasetReference(self.project, dataset)

    @contextmanager
    def _open(self) -> Iterator[Any]:
        if self._client is None:
            raise Unreachable("the connection is closed", hint="open it again")
        with self._translated():
            yield self._client

    def _translated(self) -> Any:
        return translated(self._secrets, self.project, self.account)


def _awaited(run: Any, **options: Any) -> Any:
    """The result of what runs at Google. Each call there is short: a network that is gone is noticed."""
    deadline = time.monotonic() + RUN_S
    while True:
        try:
            return run.result(retry=None, timeout=CALL_S, **options)
        except concurrent.futures.TimeoutError:
            if time.monotonic() > deadline:
                raise


def _type(field: Any) -> str:
    """A column's type as standard SQL writes it, with what limits its values."""
    kind = _STANDARD.get(field.field_type, field.field_type)
    if field.mode == "REPEATED":
        return f"ARRAY<{kind}>"
    if kind in ("STRING", "BYTES") and field.max_length:
        return f"{kind}({field.max_length})"
    return str(kind)
