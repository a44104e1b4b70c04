"""One client's session: its messages go to PostgreSQL, rewritten, and the answers come back.

A session is one thread. Clients send a batch (up to Sync, or one simple query) and then wait; so does this, which keeps
the order of things plain: read a batch, tell PostgreSQL, pass its answers on until it is ready again.
"""

from __future__ import annotations

import re
import socket
import struct
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from isthmus.testing.standins.redshift_wire import copying, protocol
from isthmus.testing.standins.redshift_wire.protocol import Described, Frame
from isthmus.testing.standins.redshift_wire.rewriting import Copy, Rewritten, Unload, rewrite

SUPER, VARBYTE, JSONB, BYTEA = 4000, 6551, 3802, 17
_KEPT = (b"user", b"database", b"application_name", b"options")


@dataclass(frozen=True)
class Fault:
    """What goes wrong at the next statement that matches. Without `code`, it is carried out and the connection cut
    before the answer; with one, it is not carried out and that error is the answer."""

    pattern: str
    code: str = ""
    message: str = ""


class World(Protocol):
    """What sessions share."""

    bucket: copying.Bucket

    def connect(self) -> socket.socket: ...

    def keep(self, user: str, database: str, statement: str) -> None: ...

    def fault(self, database: str, statement: str) -> Fault | None: ...

    def refused(self, database: str, **row: object) -> None:
        """Keep what a COPY refused for SYS_LOAD_ERROR_DETAIL."""


class CutOff(Exception):
    """The connection is to be cut here."""


@dataclass
class Session:
    """A client that has connected; TLS is spoken already, if it is."""

    client: socket.socket
    world: World
    user: str = ""
    database: str = ""
    process: int = 0
    folds: bool = True  # enable_case_sensitive_identifier is off
    statements: dict[bytes, tuple[Rewritten, str]] = field(default_factory=dict)
    portals: dict[bytes, tuple[Rewritten, str]] = field(default_factory=dict)
    shapes: dict[Copy | Unload, list[Described]] = field(default_factory=dict)  # what a transfer fills or gives
    hexes: list[int] = field(default_factory=list)  # which columns of the rows that come next are VARBYTE
    pending: Fault | None = None
    refusal: copying.TransferError | None = None

    def run(self, startup: bytes) -> None:
        """Serve until the client goes. `startup` is its first message, without the length."""
        self.server = self.world.connect()
        self.to_server: IO[bytes] = self.server.makefile("wb")
        self.to_client: IO[bytes] = self.client.makefile("wb")
        self.from_client, self.from_server = self.client.makefile("rb"), self.server.makefile("rb")
        try:
            self._start(startup)
            while True:
                frame = protocol.read(self.from_client)
                if frame.kind == b"X":
                    return
                if frame.kind == b"Q":
                    self._simple(frame)
                else:
                    self._extended(frame)
        except (EOFError, OSError, CutOff):
            pass  # the client has gone, or is to find us gone
        finally:
            self.server.close()
            for file in (self.to_server, self.to_client, self.from_client, self.from_server):
                try:
                    file.close()
                except OSError:
                    pass

    # Signing in

    def _start(self, startup: bytes) -> None:
        parts = startup[4:].rstrip(b"\0").split(b"\0")
        said = dict(zip(parts[::2], parts[1::2], strict=False))
        self.user, self.database = said.get(b"user", b"").decode(), said.get(b"database", b"").decode()
        kept = {k: v for k, v in said.items() if k in _KEPT} | {b"client_encoding": b"UTF8"}
        body = struct.pack(">I", 196608) + b"".join(k + b"\0" + v + b"\0" for k, v in kept.items()) + b"\0"
        self.to_server.write(struct.pack(">I", len(body) + 4) + body)
        self.to_server.flush()
        while True:
            frame = protocol.read(self.from_server)
            if frame.kind == b"S" and frame.body.startswith(b"server_version\0"):
                frame = Frame(b"S", b"server_version\x008.0.2\0")
            if frame.kind == b"K":
                self.process = struct.unpack(">I", frame.body[:4])[0]
            self._answer(frame, at_once=True)
            if frame.kind in (b"Z", b"E"):
                return
            if frame.kind == b"R" and struct.unpack(">I", frame.body[:4])[0] in protocol.PASSWORD_REQUESTS:
                self._tell(protocol.read(self.from_client), at_once=True)

    # Simple queries

    def _simple(self, frame: Frame) -> None:
        sql = frame.body[:-1].decode()
        try:
            told = self._understood(sql)
        except ValueError as e:
            self._answer(protocol.error(str(e), "0A000"))
            self._answer(Frame(b"Z", b"I"), at_once=True)
            return
        if self._goes_well(sql):
            self._tell(Frame(b"Q", protocol.text(told.sql)), at_once=True)
            self._until_ready(told)

    # Extended queries

    def _extended(self, frame: Frame) -> None:
        batch = [frame]
        while batch[-1].kind != b"S":
            batch.append(protocol.read(self.from_client))
        told = Rewritten("")
        for number, one in enumerate(batch):
            if one.kind == b"P":
                one = self._parse(one)
            elif one.kind == b"B":
                portal, statement = one.body.split(b"\0", 2)[:2]
                self.portals[portal] = self.statements[statement]
            elif one.kind == b"E":
                told, sql = self.portals[one.body.split(b"\0")[0]]
                if not self._goes_well(sql, in_batch=True):
                    return
                if told.transfer is not None:
                    self._tell(one)
                    self._tell(Frame(b"H", b""), at_once=True)
                    self._transfer(told, [r for r in batch[number + 1 :] if r.kind == b"S"])
                    return
            self._tell(one)
        self.to_server.flush()
        self._until_ready(told)

    def _parse(self, frame: Frame) -> Frame:
        name, query, rest = frame.body.split(b"\0", 2)
        sql = query.decode()
        told = self._understood(sql)
        self.statements[name] = (told, sql)
        return Frame(b"P", name + b"\0" + protocol.text(told.sql) + rest)

    def _transfer(self, told: Rewritten, rest: list[Frame]) -> None:
        """A COPY or UNLOAD that was just executed. The Sync comes after it: PostgreSQL passes one over in a COPY."""
        copied = None
        while (frame := protocol.read(self.from_server)).kind not in (b"C", b"E"):
            if frame.kind == b"G" and isinstance(told.transfer, Copy):
                self._feed(told.transfer)
                self._tell(Frame(b"H", b""), at_once=True)  # asked for again: a COPY passes over it
            elif frame.kind == b"H":
                copied = self._swallow()
            else:
                self._answer(frame)
        for one in rest:
            self._tell(one, at_once=True)
        ready = self._ready()
        if frame.kind == b"E":
            frame = self._error(frame, told)
        elif isinstance(told.transfer, Unload) and copied is not None:
            frame = self._unloaded(told.transfer, copied)
        self._finish(frame, told, is_ready=True)
        self._answer(ready, at_once=True)

    # Answers

    def _until_ready(self, told: Rewritten) -> None:
        """Pass on what PostgreSQL answers until it is ready for more."""
        copied = None
        while (frame := protocol.read(self.from_server)).kind != b"Z":
            if frame.kind == b"G" and isinstance(told.transfer, Copy):
                self._feed(told.transfer)
            elif frame.kind == b"H" and isinstance(told.transfer, Unload):
                copied = self._swallow()
            elif frame.kind == b"E":
                self._answer(self._error(frame, told))
            elif frame.kind == b"C":
                if isinstance(told.transfer, Unload) and copied is not None:
                    frame = self._unloaded(told.transfer, copied)
                self._finish(frame, told)
            elif frame.kind == b"T":
                self.hexes = [n for n, c in enumerate(protocol.columns(frame.body)) if c.oid == BYTEA]
                self._answer(Frame(b"T", protocol.with_oids(frame.body, {JSONB: SUPER, BYTEA: VARBYTE})))
            elif frame.kind == b"D" and self.hexes:
                self._answer(Frame(b"D", protocol.without_mark(frame.body, self.hexes)))
            else:
                self._answer(frame)
        self.pending = None
        self._answer(frame, at_once=True)

    def _finish(self, frame: Frame, told: Rewritten, *, is_ready: bool = False) -> None:
        """Answer that a statement is done, unless the connection is to be cut before that is known."""
        if frame.kind == b"C" and told.folds is not None:
            self.folds = told.folds
        if self.pending is not None:
            if not is_ready:
                self._ready()
            raise CutOff
        self._answer(frame)

    def _ready(self) -> Frame:
        while True:
            frame = protocol.read(self.from_server)
            if frame.kind == b"Z":
                return frame

    def _goes_well(self, sql: str, *, in_batch: bool = False) -> bool:
        """Record the statement, and see whether a fault was ordered for it. False: it is answered already."""
        self.world.keep(self.user, self.database, sql)
        fault = self.world.fault(self.database, sql)
        if fault is None:
            return True
        if not fault.code:
            self.pending = fault
            return True
        # The client's transaction has failed, as after any error: PostgreSQL is told to let it fail.
        failing = Frame(b"Q", protocol.text("SELECT 1/0"))
        if in_batch:
            self._tell(Frame(b"S", b""), at_once=True)
            self._ready()
        self._tell(failing, at_once=True)
        ready = self._ready()
        self._answer(protocol.error(fault.message, fault.code))
        self._answer(ready, at_once=True)
        return False

    def _error(self, frame: Frame, told: Rewritten) -> Frame:
        """A PostgreSQL error in Redshift's words, where those are others."""
        said = protocol.fields(frame.body)
        if self.refusal is not None:
            refused, self.refusal = self.refusal, None
            return protocol.error(refused.message, refused.code, refused.detail)
        if said.get("C", "").startswith("22P") and "json_parse" in said.get("W", ""):
            return protocol.error(
                "JSON parsing error", "XX000", "error: JSON parsing error code: 8001 context: invalid"
            )
        if said.get("C") == "40001":
            detail = "Serializable isolation violation on table - 1, transactions forming the cycle are: 1, 2"
            return protocol.error("1023", "XX000", detail)
        if said.get("C") == "23514" and (m := re.match(r"bytes_(\d+)_(\d+)$", said.get("n", ""))):
            if isinstance(told.transfer, Copy):
                return self._too_long(told.transfer, int(m[1]), int(m[2]), said.get("W", ""))
            return protocol.error(f"value too long for type character varying({m[2]})", "22001")
        return frame

    # COPY and UNLOAD

    def _feed(self, copy: Copy) -> None:
        names = {16: "boolean", BYTEA: "bytea", 1184: "timestamp with time zone"}
        columns = [(c.name, names.get(c.oid, "other")) for c in self.shapes[copy]]
        with tempfile.TemporaryDirectory() as folder:
            try:
                rows = copying.fetch(copy, self.world.bucket, columns, Path(folder))
            except copying.TransferError as e:
                self.refusal = e
            except Exception as e:  # DuckDB found a file that is none
                self.refusal = copying.TransferError("Spectrum Scan Error", detail=str(e))
            if self.refusal is not None:
                self._tell(Frame(b"f", protocol.text("refused")), at_once=True)
                return
            try:
                for piece in copying.pieces(rows):
                    self._tell(Frame(b"d", piece))
                self._tell(Frame(b"c", b""), at_once=True)
            except OSError:  # PostgreSQL said no in the middle and reads no further
                pass

    def _too_long(self, copy: Copy, number: int, limit: int, where: str) -> Frame:
        line = int((re.search(r"line (\d+)", where) or ["", "0"])[1])
        column = self.shapes[copy][number - 1].name
        said = (
            f"The length of the data column {column} is longer than the length defined in the table. "
            f"Table: {limit}, File name: {copy.url}"
        )
        self.world.refused(
            self.database, session_id=self.process, usename=self.user, file_name=copy.url, line_number=line,
            column_name=column, column_type="varchar", error_code=15001, error_message=said,
        )  # fmt: skip
        refused = copying.too_long(said)
        return protocol.error(refused.message, refused.code, refused.detail)

    def _swallow(self) -> Path:
        file = Path(tempfile.mkstemp(suffix=".csv")[1])
        with file.open("wb") as opened:
            while (frame := protocol.read(self.from_server)).kind == b"d":
                opened.write(frame.body)
        return file

    def _unloaded(self, unload: Unload, rows: Path) -> Frame:
        try:
            with tempfile.TemporaryDirectory() as folder:
                copying.put(unload, self.world.bucket, self.shapes[unload], rows, Path(folder))
        except copying.TransferError as e:
            return protocol.error(e.message, e.code, e.detail)
        finally:
            rows.unlink()
        return Frame(b"C", b"UNLOAD\0")

    def _understood(self, sql: str) -> Rewritten:
        told = rewrite(sql, folds=self.folds)
        if isinstance(told.transfer, Copy):
            chosen = told.transfer.columns.strip().strip("()") or "*"
            self.shapes[told.transfer] = self._described(f"SELECT {chosen} FROM {told.transfer.table}")
        elif told.transfer is not None:
            self.shapes[told.transfer] = self._described(told.transfer.query)
        return told

    def _described(self, query: str) -> list[Described]:
        """The columns of a query, asked in this session between two batches of the client. Empty if it is none: the
        client's own statement will then fail in the same way."""
        name = protocol.text("isthmus_standin")
        self._tell(Frame(b"P", name + protocol.text(query) + b"\0\0"))
        self._tell(Frame(b"D", b"S" + name))
        self._tell(Frame(b"C", b"S" + name))
        self._tell(Frame(b"S", b""), at_once=True)
        found: list[Described] = []
        while (frame := protocol.read(self.from_server)).kind != b"Z":
            if frame.kind == b"T":
                found = protocol.columns(frame.body)
        return found

    # Wire

    def _tell(self, frame: Frame, *, at_once: bool = False) -> None:
        self.to_server.write(frame.packed())
        if at_once:
            self.to_server.flush()

    def _answer(self, frame: Frame, *, at_once: bool = False) -> None:
        self.to_client.write(frame.packed())
        if at_once:
            self.to_client.flush()
