"""The cast of the alerts' tests: a ledger with one hourly export, a clock, and servers that really listen."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from cryptography.fernet import Fernet
from sqlalchemy import update

from isthmus.alerts.channels import Channel, Email, Webhook
from isthmus.alerts.tell import Told, tell
from isthmus.alerts.watch import watch
from isthmus.ledger import connections, incidents, runs, syncs
from isthmus.ledger.database import Ledger
from isthmus.ledger.incidents import Incident
from isthmus.ledger.schema import syncs as syncs_table
from isthmus.model.work import Blame, Chunk, Finding, Run, RunError, RunKind, RunState, Selection, Sync, SyncState
from isthmus.secrets import Seal, Secret
from isthmus.testing.standins import free_ports

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
ERROR = RunError(
    summary="the role may not create tables",
    code="42501",
    vendor="permission denied, row was: ann@example.com",
    hint="run the set-up script again",
    retryable=False,
    at=NOON,
)


@dataclass
class Desk:
    """Somebody who lets things happen to a sync and looks at what is told."""

    ledger: Ledger
    now: datetime = NOON
    channels: tuple[Channel, ...] = ()
    seq: int = 0

    def later(self, **time: float) -> None:
        self.now += timedelta(**time)

    def apply(self, name: str = "everything", schedule: str = "hourly", limit_s: int | None = None) -> Sync:
        with self.ledger.transaction() as tx:
            connection = connections.put(
                tx,
                name="dwh",
                kind="duckdb",
                fields={"path": "x"},
                secrets={},
                seal=Seal(Fernet.generate_key()),
                at=NOON,
            )[0]
            return syncs.apply_export(
                tx,
                name=name,
                connection_id=connection.connection_id,
                selection=Selection(),
                schedule=schedule,
                at=self.now,
                freshness_limit_s=limit_s,
            )[0]

    def begin(self, name: str = "everything", kind: RunKind | None = None) -> str:
        """A run of one chunk is planned now."""
        self.seq += 10
        with self.ledger.transaction() as tx:
            sync = syncs.named(tx, name)
            chunk = Chunk(0, "klaviyo_event", "rows", sync.watermark, self.seq, f"b{self.seq}-{name}", 1, True)
            run = Run(
                run_id=runs.new_run_id(),
                sync_id=sync.sync_id,
                sync_name=name,
                kind=kind or (RunKind.PERIODIC if sync.watermark else RunKind.HISTORICAL),
                state=RunState.RUNNING,
                after=sync.watermark,
                upto=self.seq,
                snapshot_id=self.seq,
                snapshot_at=self.now,
                planned_at=self.now,
                chunks=(chunk,),
            )
            return runs.start(tx, run, generation=sync.generation).run_id

    def finish(self, run_id: str) -> None:
        with self.ledger.transaction() as tx:
            runs.finish_chunk(tx, run_id, 0, rows=1)
            runs.finish(tx, run_id, at=self.now)

    def fail(self, run_id: str, state: RunState = RunState.FAILED, blame: Blame = "") -> None:
        with self.ledger.transaction() as tx:
            runs.fail(tx, run_id, RunError(**{**vars(ERROR), "at": self.now, "blame": blame}), state=state)

    def shut(self) -> None:
        """It is found that nobody gets in at the connection."""
        finding = Finding("the password is wrong", self.now, "28P01", "no such password", "ask for it")
        with self.ledger.transaction() as tx:
            connection_id = connections.named(tx, "dwh").connection_id
            connections.set_unable(tx, connection_id, finding, next_try_at=self.now + timedelta(minutes=10))

    def deliver(self, name: str = "everything") -> None:
        self.finish(self.begin(name))

    def fail_one(self, name: str = "everything") -> str:
        run_id = self.begin(name)
        self.fail(run_id)
        return run_id

    def set(self, state: SyncState, name: str = "everything", because: str | None = None) -> None:
        """A person sets it, or, `because` of something, the sync itself."""
        with self.ledger.transaction() as tx:
            sync = syncs.set_state(tx, syncs.named(tx, name).sync_id, state, at=self.now)
            given = update(syncs_table).where(syncs_table.c.sync_id == sync.sync_id).values(paused_because=because)
            tx.execute(given)

    def look(self) -> list[tuple[str, str]]:
        """Watch once: what it is about, and the kind, of each incident that is open now."""
        return sorted((i.about, i.kind.value) for i in watch(self.ledger, self.now))

    def tell(self) -> list[Told]:
        return tell(self.ledger, self.channels, self.now)

    def look_and_tell(self) -> list[Told]:
        self.look()
        return self.tell()

    def incidents(self, **other: Any) -> list[Incident]:
        with self.ledger.reading() as tx:
            return incidents.newest(tx, **other)


@dataclass
class Letterbox:
    """A channel without a network. It can be out of order, or do something first."""

    name: str = "letterbox"
    got: list[tuple[str, str]] = field(default_factory=list)
    broken: Exception | None = None

    def send(self, message: Any) -> str:
        if self.broken:
            raise self.broken
        self.got.append((message.event, message.message_id))
        return ""


@dataclass
class Receiver:
    """A web server that keeps what is posted to it, and answers with `status`."""

    port: int
    posts: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    status: int = 200
    location: str = ""
    words: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks/T0KEN?k=t0ken"

    def webhook(self, secret: str | None = None) -> Webhook:
        return Webhook(Secret(self.url), Secret(secret) if secret else None)

    @property
    def events(self) -> list[str]:
        return [json.loads(body)["event"] for _, _, body in self.posts]


@contextmanager
def receiver(port: int = 0) -> Iterator[Receiver]:
    kept = Receiver(port)

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kept.posts.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            self.send_response(kept.status)
            if kept.location:
                self.send_header("Location", kept.location)
            self.send_header("Content-Length", str(len(kept.words.encode())))
            self.end_headers()
            self.wfile.write(kept.words.encode())

        def do_GET(self) -> None:
            kept.posts.append((self.path, {}, b"{}"))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Answer)
    kept.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Postman:
    """A mail server that keeps what it takes."""

    port: int
    letters: list[EmailMessage] = field(default_factory=list)
    taken_for: list[list[str]] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    signed_in: list[bool] = field(default_factory=list)
    refuses: tuple[str, ...] = ()
    scheme: str = "smtp"

    def email(self, *recipients: str, user: str = "", host: str = "localhost") -> Email:
        url = f"{self.scheme}://{user and user + '@'}{host}:{self.port}"
        return Email(Secret(url), "isthmus@example.com", recipients or ("me@example.com",))

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address in self.refuses:
            return "550 5.1.1 nobody of that name"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        letter = message_from_bytes(envelope.content, policy=default)
        assert isinstance(letter, EmailMessage)
        self.letters.append(letter)
        self.taken_for.append(envelope.rcpt_tos)
        self.encrypted.append(session.ssl is not None)
        self.signed_in.append(bool(session.authenticated))
        return "250 OK"


@contextmanager
def postman(
    *, port: int = 0, tls: ssl.SSLContext | None = None, at_once: bool = False, password: str | None = None
) -> Iterator[Postman]:
    kept = Postman(port or free_ports(1)[0], scheme="smtps" if at_once else "smtp")

    def allow(_server: Any, _session: Any, _envelope: Any, _mechanism: str, given: Any) -> AuthResult:
        right = isinstance(given, LoginPassword) and given.password == (password or "").encode()
        return AuthResult(success=right, handled=False)

    controller = Controller(
        kept,
        hostname="127.0.0.1",
        port=kept.port,
        server_hostname="mail.example.com",
        ssl_context=tls if at_once else None,
        tls_context=None if at_once else tls,
        authenticator=allow if password else None,
        auth_required=password is not None,
        auth_require_tls=not at_once,
    )
    controller.start()
    try:
        yield kept
    finally:
        controller.stop()


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A certificate for localhost that nobody else has signed: a server's TLS, and the file to trust."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context, folder / "cert.pem"
