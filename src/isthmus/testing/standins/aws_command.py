"""The AWS command line, as far as set-up scripts use it: each command becomes one call of boto3.

`aws s3api put-object --bucket b --key k` is the operation PutObject of the service s3 with the parameters Bucket and
Key; that is how the real command line makes its commands too, from the same descriptions of the services. Commands run
in this process, so that a script of twenty takes a second; what the script calls as `aws` only hands them over.
"""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SERVICES = {"s3api": "s3"}
_HAND_OVER = """\
import json, socket, sys
with socket.create_connection(("127.0.0.1", {port})) as s:
    s.sendall(json.dumps(sys.argv[1:]).encode())
    s.shutdown(socket.SHUT_WR)
    answer = json.loads(b"".join(iter(lambda: s.recv(65536), b"")))
sys.stdout.write(answer["out"])
sys.stderr.write(answer["err"])
sys.exit(answer["code"])
"""


@dataclass(frozen=True)
class AwsCommand:
    """`aws` for bash scripts. `calls` are the operations it was asked for, in order."""

    folder: Path
    access_key_id: str
    secret_access_key: str
    endpoints: dict[str, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    _clients: dict[tuple[str, str, str], Any] = field(default_factory=dict)

    def bash(self, script: str) -> str:
        """Run a script to its end and return what it printed. Raises RuntimeError if it failed."""
        environment = {"PATH": f"{self.folder}:{os.defpath}", "HOME": str(self.folder), "LC_ALL": "C.UTF-8"}
        done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"the script failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def run(self, arguments: Sequence[str]) -> dict[str, Any]:
        """One command. What it does not know is an error, never passed over."""
        from botocore.exceptions import BotoCoreError, ClientError

        options, words = _parsed(arguments)
        service, command = _SERVICES.get(words[0], words[0]), words[1]
        self.calls.append(command)
        query = options.pop("query", "")
        options.pop("output", None)
        url = options.pop("endpoint-url", self.endpoints.get(service, ""))
        client = self._client(service, url, options.pop("region", "us-east-1"))
        try:
            answer = _call(client, command, options)
        except (ClientError, BotoCoreError) as e:
            return {"out": "", "err": f"{e}\n", "code": 254}
        answer.pop("ResponseMetadata", None)
        out = _chosen(answer, query) if query else json.dumps(answer, default=str)
        return {"out": f"{out}\n", "err": "", "code": 0}

    def _client(self, service: str, url: str, region: str) -> Any:
        import boto3

        place = (service, url, region)
        if place not in self._clients:
            self._clients[place] = boto3.client(
                service,
                endpoint_url=url or None,
                region_name=region,
                aws_access_key_id=self.access_key_id,
                aws_secret_access_key=self.secret_access_key,
            )
        return self._clients[place]


@contextmanager
def aws_command(
    folder: Path, *, access_key_id: str, secret_access_key: str, endpoints: dict[str, str] | None = None
) -> Iterator[AwsCommand]:
    """Put an `aws` into `folder` that works with this key, at these endpoints where a command names none."""
    command = AwsCommand(folder, access_key_id, secret_access_key, endpoints or {})

    class Answering(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            try:
                answer = command.run(json.loads(self.rfile.read()))
            except Exception as e:
                answer = {"out": "", "err": f"aws: {type(e).__name__}: {e}\n", "code": 252}
            self.wfile.write(json.dumps(answer).encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        client = folder / "aws.py"
        client.write_text(_HAND_OVER.format(port=server.server_address[1]))
        program = folder / "aws"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{client}" "$@"\n')
        program.chmod(0o755)
        try:
            yield command
        finally:
            server.shutdown()
            for made in command._clients.values():
                made.close()


def _parsed(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The options and the two other words of a command line."""
    options: dict[str, str] = {}
    words: list[str] = []
    left = list(arguments)
    while left:
        word = left.pop(0)
        if word.startswith("--"):
            options[word[2:]] = left.pop(0)
        else:
            words.append(word)
    if len(words) != 2:
        raise ValueError(f"a service and a command are wanted, not {words}")
    return options, words


def _call(client: Any, command: str, options: dict[str, str]) -> dict[str, Any]:
    from botocore import xform_name

    model = client.meta.service_model
    operation = next(name for name in model.operation_names if xform_name(name, "-") == command)
    members = model.operation_model(operation).input_shape.members
    names = {xform_name(member, "-"): member for member in members}
    parameters = {names[name]: _value(members[names[name]], text) for name, text in options.items()}
    answer: dict[str, Any] = getattr(client, xform_name(operation))(**parameters)
    return answer


def _value(shape: Any, text: str) -> Any:
    """A parameter as boto3 wants it: JSON, or the command line's short form `Name=value`, for a structure."""
    if shape.type_name == "string":
        return text
    if shape.type_name == "structure" and not text.lstrip().startswith("{"):
        return dict(pair.split("=", 1) for pair in text.split(","))
    return json.loads(text)


def _chosen(answer: dict[str, Any], query: str) -> str:
    import jmespath  # type: ignore[import-untyped]

    found = jmespath.search(query, answer)
    if isinstance(found, list):
        return "\t".join(str(each) for each in found)
    return str(found)
