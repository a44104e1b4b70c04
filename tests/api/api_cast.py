"""What asks a server over the wire."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any, NamedTuple

from isthmus.api import server


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str

    @property
    def document(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.text)


def ask(listening: server.Server, path: str, method: str = "GET") -> Answer:
    connection = HTTPConnection("127.0.0.1", listening.port, timeout=20)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read().decode())
    finally:
        connection.close()


Get = Callable[..., Answer]
