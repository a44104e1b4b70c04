"""The frames of the PostgreSQL protocol, version 3, which Redshift speaks too: read, written, taken apart."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO

SSL_REQUEST, GSS_REQUEST, CANCEL_REQUEST = 80877103, 80877104, 80877102
PASSWORD_REQUESTS = (3, 5, 10, 11)
"""Kinds of an authentication message that wait for an answer of the client."""


@dataclass(frozen=True)
class Frame:
    """One message: a letter and what follows it."""

    kind: bytes
    body: bytes

    def packed(self) -> bytes:
        return self.kind + struct.pack(">I", len(self.body) + 4) + self.body


def read(file: IO[bytes]) -> Frame:
    """The next message. Raises EOFError when the other end has gone."""
    head = file.read(5)
    if len(head) < 5:
        raise EOFError
    length = struct.unpack(">I", head[1:])[0] - 4
    body = file.read(length)
    if len(body) < length:
        raise EOFError
    return Frame(head[:1], body)


def text(value: str) -> bytes:
    return value.encode() + b"\0"


def error(message: str, code: str = "XX000", detail: str = "") -> Frame:
    """An ErrorResponse as Redshift words it."""
    fields = {b"S": "ERROR", b"C": code, b"M": message} | ({b"D": detail} if detail else {})
    return Frame(b"E", b"".join(k + text(v) for k, v in fields.items()) + b"\0")


def fields(body: bytes) -> dict[str, str]:
    """The fields of an ErrorResponse."""
    return {part[:1].decode(): part[1:].decode() for part in body.split(b"\0") if part}


@dataclass(frozen=True)
class Described:
    """One column of a RowDescription. `modifier` is the type's own: length, or precision and scale."""

    name: str
    oid: int
    modifier: int


def columns(body: bytes) -> list[Described]:
    """The columns of a RowDescription."""
    found, at = [], 2
    for _ in range(struct.unpack(">H", body[:2])[0]):
        end = body.index(b"\0", at)
        oid, _, modifier = struct.unpack(">IhI", body[end + 7 : end + 17])
        found.append(Described(body[at:end].decode(), oid, modifier))
        at = end + 19
    return found


def with_oids(body: bytes, other: dict[int, int]) -> bytes:
    """A RowDescription in which some types have other numbers."""
    made, at = bytearray(body), 2
    for _ in range(struct.unpack(">H", body[:2])[0]):
        end = body.index(b"\0", at)
        oid = struct.unpack(">I", body[end + 7 : end + 11])[0]
        if oid in other:
            made[end + 7 : end + 11] = struct.pack(">I", other[oid])
        at = end + 19
    return bytes(made)


def without_mark(body: bytes, which: list[int]) -> bytes:
    """A DataRow in which some columns are hexadecimal as Redshift writes it: without PostgreSQL's `\\x`."""
    made, at = [body[:2]], 2
    for number in range(struct.unpack(">H", body[:2])[0]):
        length = struct.unpack(">i", body[at : at + 4])[0]
        value = body[at + 4 : at + 4 + max(length, 0)]
        at += 4 + len(value)
        if number in which and length >= 0:
            value = value.removeprefix(b"\\x")
            length = len(value)
        made += [struct.pack(">i", length), value]
    return b"".join(made)
