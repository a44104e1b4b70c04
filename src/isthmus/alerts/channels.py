"""The ways to a person: a webhook and e-mail. A channel sends one message, or raises `Untold` and says why.

A channel does not try again and keeps nothing. No error holds a secret; the whole address of a webhook counts as one,
because many carry a token in their path.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import smtplib
import socket
import ssl
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, formataddr
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from isthmus import __version__
from isthmus.alerts.messages import Message
from isthmus.ledger.incidents import News
from isthmus.model.errors import IsthmusError
from isthmus.secrets import Secret

TIMEOUT_S = 10
"""How long a channel waits for each answer."""

SIGNATURE = "Isthmus-Signature"


class Untold(IsthmusError):
    """A message could not be delivered, or nobody knows whether it was."""


class Channel(Protocol):
    """One way to a person."""

    @property
    def name(self) -> str: ...

    def send(self, message: Message) -> str:
        """Send it once. Returns a remark, "" when all is well; raises Untold."""


@dataclass(frozen=True)
class Webhook:
    """Posts each message as JSON. With a secret, the body is signed. Any 2xx is success; no redirect is followed."""

    url: Secret
    secret: Secret | None = None
    name: str = "webhook"

    def send(self, message: Message) -> str:
        parts = _parts(self.url, ("http", "https"))
        body = json.dumps(message.document(), ensure_ascii=False).encode()
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": f"isthmus/{__version__}",
            "Idempotency-Key": message.message_id,
        }
        if self.secret is not None:
            headers[SIGNATURE] = signature(self.secret, body)
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="")
        where = bare.hostname or ""
        try:
            request = Request(urlunsplit(bare), body, headers, method="POST")
            with build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S):
                return ""
        except HTTPError as e:
            with e:
                raise self._refused(e, where) from None
        except (OSError, http.client.HTTPException, ValueError) as e:
            raise _unreachable(e.reason if isinstance(e, URLError) else e, where) from None

    def _refused(self, e: HTTPError, where: str) -> Untold:
        words = ""
        with suppress(OSError, http.client.HTTPException):
            words = _clean(e.read(300).decode("utf-8", "replace"), self._secrets())
        hint = "see what runs there, and ISTHMUS_ALERT_WEBHOOK_URL"
        if 300 <= e.code < 400:
            hint = (
                "it points elsewhere, and redirects are not followed: set ISTHMUS_ALERT_WEBHOOK_URL to the new address"
            )
        said = f": {words}" if words else ""
        return Untold(f"the webhook at {where} answered {e.code}{said}", hint=hint, code=str(e.code))

    def _secrets(self) -> Iterable[str]:
        url = self.url.reveal()
        parts = urlsplit(url)
        yield url
        yield from (text for text in (parts.path.strip("/"), parts.query, parts.username, parts.password) if text)
        if self.secret is not None:
            yield self.secret.reveal()


def signature(secret: Secret, body: bytes) -> str:
    """What the header `Isthmus-Signature` says of a body."""
    return "sha256=" + hmac.new(secret.reveal().encode(), body, hashlib.sha256).hexdigest()


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None  # the answer itself is the error then


@dataclass(frozen=True)
class Email:
    """Sends each message as a plain-text mail to all recipients.

    `smtp://user:password@host:587` turns to TLS when the server offers it, and with a password insists on that and on
    a certificate that can be verified; `smtps://` is TLS from the first byte. One accepted recipient is success.
    """

    smtp_url: Secret
    sender: str
    recipients: tuple[str, ...]
    name: str = "email"

    def send(self, message: Message) -> str:
        parts = _parts(self.smtp_url, ("smtp", "smtps"))
        where = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
        try:
            with _Session(self._connect()) as server:
                refused = server.send_message(self.letter(message), self.sender, list(self.recipients))
        except smtplib.SMTPRecipientsRefused as e:
            code, words = next(iter(e.recipients.values()))
            raise self._refused(f"the mail server {where} takes none of the recipients", code, words) from None
        except smtplib.SMTPAuthenticationError as e:
            raise self._refused(f"the mail server {where} refuses the sign-in", e.smtp_code, e.smtp_error) from None
        except smtplib.SMTPResponseException as e:
            raise self._refused(f"the mail server {where} refuses the mail", e.smtp_code, e.smtp_error) from None
        except smtplib.SMTPNotSupportedError as e:
            raise Untold(
                f"the mail server {where} cannot do what is needed: {_clean(str(e), self._secrets())}",
                hint="a password is only sent over TLS: use smtps://, or a server that offers STARTTLS and signing in",
            ) from None
        except (OSError, ValueError) as e:  # SMTPException is an OSError
            ended = isinstance(e, smtplib.SMTPServerDisconnected) and isinstance(e.__context__, OSError)
            raise _unreachable(e.__context__ if ended else e, where) from None
        return f"refused for {', '.join(sorted(refused))}" if refused else ""

    def letter(self, message: Message) -> EmailMessage:
        """The mail. Sent twice, it has the same Message-ID; the news that it cleared is an answer to the first one."""
        subject = " ".join(message.subject.split())[:200]
        # A long subject would be put on a line below its name, which some take for an empty one. Only words that have
        # to be encoded need the short lines.
        letter = EmailMessage(policy=SMTP.clone(max_line_length=900) if subject.isascii() else SMTP)
        letter["Subject"] = subject
        letter["From"] = formataddr(("Isthmus", self.sender))
        letter["To"] = ", ".join(self.recipients)
        letter["Date"] = format_datetime(datetime.now(UTC))
        letter["Message-ID"] = self._id(message.message_id)
        if message.incident is not None and message.event == News.CLEARED:
            first = self._id(f"{message.incident.incident_id}.{News.OPENED.value}")
            letter["In-Reply-To"] = letter["References"] = first
        letter["Auto-Submitted"] = "auto-generated"
        letter["X-Auto-Response-Suppress"] = "All"
        letter.set_content(message.text, cte="quoted-printable")
        return letter

    def _id(self, message_id: str) -> str:
        return f"<{message_id}@{self.sender.rpartition('@')[2]}>"

    def _connect(self) -> smtplib.SMTP:
        parts = urlsplit(self.smtp_url.reveal())
        host, user, password = parts.hostname or "", unquote(parts.username or ""), unquote(parts.password or "")
        if parts.scheme == "smtps":
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                host, parts.port or 465, timeout=TIMEOUT_S, context=ssl.create_default_context()
            )
        else:
            server = smtplib.SMTP(host, parts.port or 587, timeout=TIMEOUT_S)
        try:
            server.ehlo_or_helo_if_needed()
            signs_in = bool(user or password)
            if parts.scheme == "smtp" and (signs_in or server.has_extn("starttls")):
                server.starttls(context=_tls(verified=signs_in))
            if signs_in:
                server.login(user, password)
        except BaseException:
            server.close()
            raise
        return server

    def _refused(self, summary: str, code: int, words: bytes | str) -> Untold:
        said = words.decode("utf-8", "replace") if isinstance(words, bytes) else words
        return Untold(
            f"{summary}: {code} {_clean(said, self._secrets())}",
            hint="see ISTHMUS_SMTP_URL, ISTHMUS_ALERT_EMAIL_FROM and ISTHMUS_ALERT_EMAIL_TO",
            code=str(code),
        )

    def _secrets(self) -> Iterable[str]:
        parts = urlsplit(self.smtp_url.reveal())
        for text in (parts.password, parts.netloc.rpartition("@")[0]):
            if text:
                yield from (text, unquote(text), base64.b64encode(unquote(text).encode()).decode())


@dataclass(frozen=True)
class _Session:
    """A session that is ended politely if that works: once the mail is taken, nothing may make it look untold."""

    server: smtplib.SMTP

    def __enter__(self) -> smtplib.SMTP:
        return self.server

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self.server.quit()
        self.server.close()


def _tls(*, verified: bool) -> ssl.SSLContext:
    """Without a password, TLS is as mail servers do it among themselves: better than none, whoever signed for it."""
    context = ssl.create_default_context()
    if not verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def configured(
    *,
    webhook_url: Secret | None,
    webhook_secret: Secret | None,
    smtp_url: Secret | None,
    email_from: str | None,
    email_to: tuple[str, ...],
) -> tuple[Channel, ...]:
    """The channels that the settings ask for."""
    found: list[Channel] = []
    if webhook_url is not None:
        found.append(Webhook(webhook_url, webhook_secret))
    if smtp_url is not None and email_from is not None and email_to:
        found.append(Email(smtp_url, email_from, email_to))
    return tuple(found)


def _parts(url: Secret, schemes: tuple[str, ...]) -> SplitResult:
    with suppress(ValueError):
        parts = urlsplit(url.reveal())
        if parts.scheme in schemes and parts.hostname and parts.port != 0 and url.reveal().isascii():
            return parts
    raise Untold("the address is none", hint=f"write {' or '.join(f'{scheme}://' for scheme in schemes)} and a host")


def _unreachable(cause: object, where: str) -> Untold:
    """From the class of an error, never its words: they may hold an address with a token."""
    match cause:
        case socket.gaierror():
            return Untold(f"there is no host {where}", hint="see that the name is right and can be resolved from here")
        case TimeoutError():
            return Untold(f"{where} gave no answer within {TIMEOUT_S} s", hint="see that it can be reached from here")
        case ConnectionRefusedError():
            return Untold(f"{where} refuses connections", hint="see that it runs, and that the port is right")
        case ssl.SSLCertVerificationError():
            why = cause.verify_message
            return Untold(
                f"the certificate of {where} cannot be verified: {why}",
                hint="mend it, or name its authority in SSL_CERT_FILE",
            )
        case ssl.SSLError():
            return Untold(
                f"{where} does not speak TLS as expected", hint="see the port, and whether it is http or https"
            )
        case OSError(strerror=str(why)) if why:
            return Untold(f"{where} cannot be reached: {why}", hint="see that it can be reached from here")
    return Untold(f"{where} broke off or answered what cannot be read", hint="see that the address and port are right")


def _clean(words: str, secrets: Iterable[str]) -> str:
    """Somebody's words in one short line without the secrets that they may repeat."""
    for secret in sorted(secrets, key=len, reverse=True):
        words = words.replace(secret, "•••")
    return " ".join(words.split())[:200]
