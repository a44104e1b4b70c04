"""Listens, signs in, answers. `python -m isthmus.testing.standins.synapse_wire.server PORT …`: see `synapse.py`."""

from __future__ import annotations

import argparse
import os
import re
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import duckdb
import pyarrow as pa

from isthmus.testing.standins.synapse_wire import packets
from isthmus.testing.standins.synapse_wire.catalog import Server
from isthmus.testing.standins.synapse_wire.packets import Attention, Gone, Refused, Wire
from isthmus.testing.standins.synapse_wire.session import Result, Session, refusal
from isthmus.testing.standins.synapse_wire.values import Reader, rows

_PROCEDURES = {"sp_executesql": 10, "sp_prepare": 11, "sp_execute": 12, "sp_prepexec": 13, "sp_unprepare": 15}
_INSERT_BULK = re.compile(r"\s*INSERT\s+BULK\s+((?:\[[^\]]*\]|[\w.])+)\s*\(.*\)\s*(WITH.*)?;?\s*", re.I | re.S)


class Visit:
    """One client, from its first packet to its last."""

    def __init__(self, server: Server, connection: socket.socket, tls: ssl.SSLContext | None) -> None:
        self._server, self._tls = server, tls
        self._wire = Wire(connection)
        self._prepared: dict[int, tuple[str, str]] = {}
        self._bulk = ""
        self._session: Session | None = None

    def serve(self) -> None:
        try:
            self._greet()
            self._sign_in(self._wire.receive()[1])
            while True:
                kind, body = self._wire.receive()
                self._answer(kind, body)
        except (Gone, OSError, ssl.SSLError):
            pass
        finally:
            if self._session is not None:
                self._session.close()
            with suppress(OSError):
                self._wire.close()

    def _greet(self) -> None:
        strict = self._tls is not None and self._wire.begins_with_tls()
        if strict and self._tls is not None:
            self._wire.wrap(self._tls)
        wanted = packets.wanted_encryption(self._wire.receive()[1])
        encrypts = self._tls is not None and not strict and wanted in (1, 3)
        self._wire.send([packets.prelogin(1 if encrypts else 2)])
        if encrypts and self._tls is not None:
            self._wire.wrap_in_packets(self._tls)

    def _sign_in(self, body: bytes) -> None:
        def text(number: int) -> bytes:
            offset, length = struct.unpack("<HH", body[36 + 4 * number : 40 + 4 * number])
            return body[offset : offset + 2 * length]

        login, database = text(1).decode("utf-16-le"), text(8).decode("utf-16-le")
        swapped = bytes(((b ^ 0xA5) >> 4) | (((b ^ 0xA5) << 4) & 0xFF) for b in text(2))
        size = min(max(struct.unpack("<I", body[8:12])[0] or 4096, 512), 32767)
        try:
            fault = self._server.fault(database or "master", f"LOGIN {login}")
            if fault is not None and fault.how == "refuse":
                raise Refused(fault.number, fault.message)
            if fault is not None:
                raise Gone
            found = self._server.sign_in(login, swapped.decode("utf-16-le"), database)
        except Refused as e:
            self._wire.send([packets.error(e), packets.done(status=packets.ERROR)])
            raise Gone from e
        self._session = Session(self._server, found, login, self._wire.attend)
        greeting = [
            packets.environment(1, found.name, "master"),
            packets.environment_bytes(7, packets.COLLATION),
            packets.environment(2, "us_english"),
            packets.login_acknowledged(),
            packets.environment(4, str(size), "4096"),
            packets.done(),
        ]
        self._wire.send(greeting)
        self._wire.packet_bytes = size

    def _answer(self, kind: int, body: bytes) -> None:
        assert self._session is not None
        try:
            if kind == packets.BATCH:
                reader = Reader(body)
                reader.skip_headers()
                self._batch(body[reader.at :].decode("utf-16-le"))
            elif kind == packets.RPC:
                self._calls(body)
            elif kind == packets.TRANSACTION:
                self._transaction(body)
            elif kind == packets.BULK:
                self._bulk_load(body)
            elif kind == packets.ATTENTION:
                self._wire.send([packets.done(status=packets.ATTENDED)])
        except Attention:
            self._wire.send([packets.done(status=packets.ATTENDED)])
        except (Refused, duckdb.Error) as e:
            self._wire.send([packets.error(_refused(e)), packets.done(status=packets.ERROR)])

    def _batch(self, text: str) -> None:
        if match := _INSERT_BULK.fullmatch(text):
            self._bulk = match[1]
            self._wire.send([packets.done()])
            return
        self._wire.send(self._results(text, {}, packets.DONE, packets.DONE, []))

    def _results(
        self, text: str, parameters: dict[str, Any], inner: int, outer: int, tail: list[bytes]
    ) -> Iterator[bytes]:
        """The tokens of all results of a batch or a call; the last DONE says that no more follow."""
        session = self._session
        assert session is not None
        pending: Result | None = None
        count = 0
        try:
            for result in session.run(text, parameters):
                if pending is not None:
                    yield packets.done(inner, packets.MORE | (packets.COUNT if count >= 0 else 0), max(count, 0))
                    pending = None
                if result.rows is not None and result.types is not None:
                    count = 0
                    for chunk in rows(result.rows, result.types):
                        count += 0
                        yield chunk
                    pending, count = result, -1
                elif result.touched is not None and session.counts:
                    pending, count = result, result.touched
        except (Refused, duckdb.Error) as e:
            yield packets.error(_refused(e)) + packets.done(outer, packets.ERROR)
            return
        said = packets.COUNT if pending is not None and count >= 0 else 0
        if outer == packets.DONE:
            yield packets.done(outer, said, max(count, 0) if said else 0)
            return
        if pending is not None:
            yield packets.done(inner, packets.MORE | said, max(count, 0) if said else 0)
        yield b"\x79\0\0\0\0"
        yield from tail
        yield packets.done(outer)

    def _calls(self, body: bytes) -> None:
        """Stored procedures: several may be asked for at once."""
        reader = Reader(body)
        reader.skip_headers()
        answer: list[bytes] = []
        while not reader.is_at_end:
            one = list(self._call(reader))
            if not reader.is_at_end:
                reader.take(1)
            if not reader.is_at_end:  # the DONE of this one says that more follow
                last = one[-1]
                status, touched = struct.unpack("<H", last[-12:-10])[0], struct.unpack("<Q", last[-8:])[0]
                one[-1] = last[:-13] + packets.done(packets.DONE_PROC, status | packets.MORE, touched)
            answer += one
        self._wire.send(answer)

    def _call(self, reader: Reader) -> Iterator[bytes]:
        length = reader.number("H")
        if length == 0xFFFF:
            number = reader.number("H")
        else:
            number = _PROCEDURES.get(reader.take(2 * length).decode("utf-16-le").lower().split(".")[-1], 0)
        reader.take(2)
        given: list[tuple[str, Any]] = []
        while not reader.is_at_end and reader.data[reader.at] not in (0x80, 0xFF):
            name = reader.short_text()
            reader.take(1)
            given.append((name, reader.value(reader.type_info())))
        match number:
            case 10:
                declared = given[1][1] if len(given) > 1 else ""
                return self._results(given[0][1], _bound(declared, given[2:]), 0xFF, 0xFE, [])
            case 11 | 13:
                handle = len(self._prepared) + 1
                self._prepared[handle] = (given[1][1] or "", given[2][1])
                said = _handle(handle)
                if number == 11:
                    return iter([b"\x79\0\0\0\0", said, packets.done(packets.DONE_PROC)])
                return self._results(given[2][1], _bound(given[1][1], given[3:]), 0xFF, 0xFE, [said])
            case 12:
                declared, text = self._prepared[given[0][1]]
                return self._results(text, _bound(declared, given[1:]), 0xFF, 0xFE, [])
            case 15:
                return iter([b"\x79\0\0\0\0", packets.done(packets.DONE_PROC)])
        refused = Refused(2812, f"Could not find stored procedure {number}.")
        return iter([packets.error(refused), packets.done(packets.DONE_PROC, packets.ERROR)])

    def _transaction(self, body: bytes) -> None:
        """Requests of the transaction manager: what drivers send instead of BEGIN, COMMIT and ROLLBACK."""
        session = self._session
        assert session is not None
        reader = Reader(body)
        reader.skip_headers()
        kind = reader.number("H")
        number = b"\x01" + b"\0" * 7
        begun = packets.environment_bytes(8, number)
        if kind == 5:
            session.transact("BEGIN")
            answer = begun
        else:
            session.transact("COMMIT" if kind == 7 else "ROLLBACK")
            answer = packets.environment_bytes(9 if kind == 7 else 10, b"", number)
            if not reader.is_at_end and body[-1] & 1:
                session.transact("BEGIN")
                answer += begun
        self._wire.send([answer + packets.done()])

    def _bulk_load(self, body: bytes) -> None:
        session = self._session
        assert session is not None
        reader = Reader(body)
        reader.take(1)
        columns = []
        for _ in range(reader.number("H")):
            reader.take(6)
            info = reader.type_info()
            columns.append((info, reader.short_text()))
        found = []
        while not reader.is_at_end:
            token = reader.number("B")
            if token == 0xD1:
                found.append([reader.value(info) for info, _ in columns])
            elif token == 0xD2:
                nulls = reader.take((len(columns) + 7) // 8)
                absent = [nulls[i // 8] >> (i % 8) & 1 for i in range(len(columns))]
                found.append([None if gone else reader.value(c[0]) for gone, c in zip(absent, columns, strict=True)])
            else:
                break
        table = pa.table({name: [row[i] for row in found] for i, (_, name) in enumerate(columns)})
        taken = session.take(self._bulk, table)
        self._wire.send([packets.done(status=packets.COUNT, rows=taken)])


def _refused(e: Exception) -> Refused:
    return e if isinstance(e, Refused) else refusal(e) if isinstance(e, duckdb.Error) else Refused(50000, str(e))


def _bound(declared: str | None, given: list[tuple[str, Any]]) -> dict[str, Any]:
    """Values by the names of their parameters: as given, or as declared, in order."""
    names = re.findall(r"@(\w+)", re.sub(r"\([^)]*\)", "", declared or ""))
    return {(name[1:] if name else names[i]): value for i, (name, value) in enumerate(given) if name or i < len(names)}


def _handle(number: int) -> bytes:
    head = b"\xac" + struct.pack("<H", 0) + packets.short_text("@handle") + b"\x01"
    return head + struct.pack("<IH", 0, 1) + b"\x26\x04\x04" + struct.pack("<i", number)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--admin", required=True)
    parser.add_argument("--password-file", required=True)
    parser.add_argument("--blob-endpoint", default="")
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    given = parser.parse_args()
    with open(given.password_file, encoding="utf-8") as file:
        server = Server(given.admin, file.read(), given.blob_endpoint)
    tls = None
    if given.certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(given.certificate, given.key)
        tls.set_alpn_protocols(["tds/8.0"])
        tls.maximum_version = ssl.TLSVersion.TLSv1_2  # inside packets, clients understand no newer one
    with socket.create_server(("127.0.0.1", given.port), backlog=64) as listening:
        print(f"ready, process {os.getpid()}", flush=True)
        while True:
            connection, _ = listening.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=Visit(server, connection, tls).serve, daemon=True).start()


if __name__ == "__main__":
    main()
