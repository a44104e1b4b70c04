"""Bytes on the wire: packets, the tokens of an answer, and TLS whose handshake is carried in packets (MS-TDS)."""

from __future__ import annotations

import select
import socket
import ssl
import struct
from collections.abc import Iterable

BATCH, RPC, ANSWER, ATTENTION, BULK, TRANSACTION, LOGIN, PRELOGIN = 1, 3, 4, 6, 7, 14, 16, 18

MORE, ERROR, COUNT, ATTENDED = 0x01, 0x02, 0x10, 0x20
"""Bits of a DONE token."""
DONE, DONE_PROC, DONE_IN_PROC = 0xFD, 0xFE, 0xFF

COLLATION = bytes.fromhex("0904d00034")  # SQL_Latin1_General_CP1_CI_AS


class Refused(Exception):
    """What the server says no to, with the number and the severity a real one gives."""

    def __init__(self, number: int, message: str, *, severity: int = 16) -> None:
        super().__init__(message)
        self.number, self.message, self.severity = number, message, severity


class Gone(Exception):
    """The client hung up."""


class Attention(Exception):
    """The client does not want the answer any more."""


def utf16(text: str) -> bytes:
    return text.encode("utf-16-le")


def short_text(text: str) -> bytes:
    return bytes([len(text)]) + utf16(text)


def error(e: Refused) -> bytes:
    message = e.message[:2000]
    body = struct.pack("<iBB", e.number, 1, e.severity) + struct.pack("<H", len(message)) + utf16(message)
    body += short_text("standin") + short_text("") + struct.pack("<i", 1)
    return b"\xaa" + struct.pack("<H", len(body)) + body


def environment(kind: int, new: str, old: str = "") -> bytes:
    body = bytes([kind]) + short_text(new) + short_text(old)
    return b"\xe3" + struct.pack("<H", len(body)) + body


def environment_bytes(kind: int, new: bytes, old: bytes = b"") -> bytes:
    body = bytes([kind, len(new)]) + new + bytes([len(old)]) + old
    return b"\xe3" + struct.pack("<H", len(body)) + body


def done(token: int = DONE, status: int = 0, rows: int = 0) -> bytes:
    return struct.pack("<BHHQ", token, status, 0, rows)


def login_acknowledged() -> bytes:
    body = b"\x01" + bytes.fromhex("74000004") + short_text("Microsoft SQL Server") + bytes([10, 0, 0x30, 0x39])
    return b"\xad" + struct.pack("<H", len(body)) + body


def prelogin(encryption: int) -> bytes:
    options = [(0, bytes([10, 0, 0x30, 0x39, 0, 0])), (1, bytes([encryption])), (2, b"\x00"), (3, b""), (4, b"\x00")]
    offset, head, body = 5 * len(options) + 1, b"", b""
    for kind, value in options:
        head += struct.pack(">BHH", kind, offset + len(body), len(value))
        body += value
    return head + b"\xff" + body


def wanted_encryption(body: bytes) -> int:
    """What the client's PRELOGIN says about encryption: 0 off, 1 on, 2 not supported, 3 required."""
    at = 0
    while body[at] != 0xFF:
        kind, offset, _ = struct.unpack(">BHH", body[at : at + 5])
        if kind == 1:
            return int(body[offset])
        at += 5
    return 2


class Wire:
    """One connection: packets in, packets out."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket: socket.socket | ssl.SSLSocket | _Carried = connection
        self._raw = connection
        self.packet_bytes = 4096

    def begins_with_tls(self) -> bool:
        """TDS 8: TLS comes before the first packet."""
        return self._raw.recv(1, socket.MSG_PEEK) == b"\x16"

    def wrap(self, context: ssl.SSLContext) -> None:
        self._socket = context.wrap_socket(self._raw, server_side=True)

    def wrap_in_packets(self, context: ssl.SSLContext) -> None:
        self._socket = _Carried(self, self._raw, context)

    def receive(self) -> tuple[int, bytes]:
        """The next message, whatever number of packets it came in."""
        whole = b""
        parts = []
        while True:
            kind, status, length = struct.unpack(">BBH", self._exactly(8)[:4])
            parts.append(self._exactly(length - 8))
            if status & 1:
                whole = b"".join(parts)
                return kind, whole

    def send(self, chunks: Iterable[bytes], kind: int = ANSWER) -> None:
        waiting, number, room = b"", 1, self.packet_bytes - 8
        for chunk in chunks:
            waiting += chunk
            full, at = [], 0
            while len(waiting) - at > room:
                full.append(struct.pack(">BBHHBB", kind, 0, room + 8, 51, number & 255, 0) + waiting[at : at + room])
                at += room
                number += 1
            if full:
                waiting = waiting[at:]
                self._send(b"".join(full))
        self._send(struct.pack(">BBHHBB", kind, 1, len(waiting) + 8, 51, number & 255, 0) + waiting)

    def attend(self) -> None:
        """Raise Attention or Gone if the client said that it waits no longer."""
        if select.select([self._raw], [], [], 0)[0]:
            kind, _ = self.receive()
            if kind == ATTENTION:
                raise Attention

    def close(self) -> None:
        """Hang up hard: whoever waits for an answer gets none."""
        self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._raw.close()

    def _exactly(self, size: int) -> bytes:
        parts, left = [], size
        while left:
            try:
                part = self._socket.recv(left)
            except (OSError, ssl.SSLError) as e:
                raise Gone from e
            if not part:
                raise Gone
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except (OSError, ssl.SSLError) as e:
            raise Gone from e


class _Carried:
    """TLS of TDS 7: the handshake inside PRELOGIN packets, everything after it as it is."""

    def __init__(self, wire: Wire, raw: socket.socket, context: ssl.SSLContext) -> None:
        self._raw = raw
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        finished = False
        while not finished:
            try:
                self._tls.do_handshake()
                finished = True
            except ssl.SSLWantReadError:
                pass
            if answer := self._outgoing.read():
                wire.send([answer], PRELOGIN)
            if not finished:
                self._incoming.write(wire.receive()[1])

    def recv(self, size: int) -> bytes:
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                data = self._raw.recv(65536)
                if not data:
                    return b""
                self._incoming.write(data)

    def sendall(self, data: bytes) -> None:
        self._tls.write(data)
        self._raw.sendall(self._outgoing.read())
