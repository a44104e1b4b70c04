"""local-bigquery for Google BigQuery, with our own front before it that checks who asks for what."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from isthmus.testing.standins import environments
from isthmus.testing.standins.bigquery_wire import Access, Calls, Front, commands
from isthmus.testing.standins.bigquery_wire.rpc import Rpc
from isthmus.testing.standins.launching import folder_of_its_own, free_ports, run_to_end, running

_EXTENSIONS = (
    "from duckdb_extensions import import_extension\nfor e in ('icu', 'ducklake', 'spatial'): import_extension(e)"
)


@dataclass(frozen=True)
class BigQueryServer:
    """A running BigQuery with one project. `owner` is the key of somebody who may do anything in it."""

    project: str
    endpoint: str
    storage_endpoint: str
    access: Access
    calls: Calls
    owner: dict[str, str]
    commands: str
    folder: Path

    def fresh_account(self, *roles: str) -> str:
        """The key file, as text, of a new service account with these roles on the project."""
        return json.dumps(self.access.new_key(f"a{uuid4().hex[:12]}", roles=roles))

    def client(self, key: str | None = None) -> Any:
        """Google's own client, signed in with a key file's text, or as the owner. Close it."""
        from google.cloud import bigquery
        from google.oauth2 import service_account

        content = self.owner if key is None else json.loads(key)
        credentials = service_account.Credentials.from_service_account_info(
            content, scopes=["https://www.googleapis.com/auth/bigquery"]
        )
        options = {"api_endpoint": self.endpoint}
        return bigquery.Client(project=self.project, credentials=credentials, client_options=options)

    def run(self, script: str) -> None:
        """Run a bash script as the owner, whose gcloud and bq speak to this server. Raises RuntimeError if it fails."""
        commands.run(script, self.folder, self.commands)

    def execute(self, text: str) -> list[tuple[Any, ...]]:
        """Run a query or script as the owner. Returns the rows of its last SELECT."""
        with closing(self.client()) as client:
            return [tuple(row.values()) for row in client.query_and_wait(text)]


@contextmanager
def bigquery() -> Iterator[BigQueryServer]:
    """local-bigquery on a new folder, its REST and gRPC ports behind our front; on 127.0.0.1 only.

    Raises Unavailable without the Python it needs.
    """
    python = environments.python("bigquery")
    project = "isthmus-test"
    with folder_of_its_own("isthmus-bigquery-") as folder:
        run_to_end([str(python), "-c", _EXTENSIONS], None, folder)
        port, grpc_port = free_ports(2)
        arguments = [
            *(str(python.with_name("local-bigquery")), "--host", "127.0.0.1", "--port", str(port)),
            *("--grpc-port", str(grpc_port), "--data-dir", str(folder / "data"), "--project", project),
        ]
        query = f"http://127.0.0.1:{port}/bigquery/v2/projects/{project}/queries"

        def is_ready() -> bool:
            # The first query makes the lake: later ones are fast.
            asked = urllib.request.Request(query, b'{"query": "SELECT 1"}', {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(asked, timeout=30) as answer:
                    return bool(answer.status == 200)
            except (OSError, urllib.error.URLError):
                return False

        with running(arguments, is_ready, folder, end_signal=signal.SIGKILL):
            access, calls = Access(project), Calls()
            front = Front(access, calls, ("127.0.0.1", port))
            rpc = Rpc(front, f"127.0.0.1:{grpc_port}")
            front.open()
            rpc.open()
            try:
                owner = access.new_key("owner", roles=["roles/owner"])
                storage = f"http://127.0.0.1:{rpc.port}"
                programs = folder / "programs"
                programs.mkdir()
                server = BigQueryServer(project, front.url, storage, access, calls, owner, front.commands_url, programs)
                front.commands = commands.Commands(access, server.execute).answer
                yield server
            finally:
                rpc.close()
                front.close()
