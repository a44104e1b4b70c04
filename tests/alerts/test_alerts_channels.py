"""What arrives at a web server and at a mail server, and what is said when nothing does."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from alerts_cast import NOON, Desk, Receiver, certificate, postman, receiver

from isthmus.alerts import channels, messages
from isthmus.alerts.channels import Email, Untold, Webhook
from isthmus.alerts.messages import Message
from isthmus.ledger.incidents import News
from isthmus.secrets import Secret
from isthmus.testing.standins import free_ports

TEST = messages.test("test_1", NOON)


@pytest.fixture
def opened(desk: Desk) -> Message:
    desk.apply()
    desk.deliver()
    desk.later(minutes=60)
    desk.fail_one()
    desk.look()
    return messages.about(desk.incidents()[0], News.OPENED)


@pytest.fixture
def cleared(desk: Desk, opened: Message) -> Message:
    desk.later(minutes=12, seconds=5)
    desk.deliver()
    desk.look()
    return messages.about(desk.incidents()[0], News.CLEARED)


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as server:
        yield server


def test_a_webhook_gets_what_happened_and_what_to_do(hook: Receiver, opened: Message) -> None:
    assert hook.webhook().send(opened) == ""
    ((path, headers, body),) = hook.posts
    assert path == "/hooks/T0KEN?k=t0ken"
    assert headers["content-type"] == "application/json; charset=utf-8"
    assert "isthmus-signature" not in headers
    got = json.loads(body)
    incident_id = opened.incident and opened.incident.incident_id
    assert headers["idempotency-key"] == got["id"] == f"{incident_id}.opened"
    assert got == {
        "version": 1,
        "id": f"{incident_id}.opened",
        "event": "opened",
        "at": "2026-11-21T13:00:00+00:00",
        "text": "[Isthmus] everything: a periodic run failed: the role may not create tables",
        "sync": "everything",
        "connection": None,
        "incident": {
            "id": incident_id,
            "kind": "failure",
            "summary": "a periodic run failed: the role may not create tables",
            "hint": "run the set-up script again",
            "run_id": got["incident"]["run_id"],
            "opened_at": "2026-11-21T13:00:00+00:00",
            "cleared_at": None,
        },
        "freshness": {"complete_up_to": "2026-11-21T12:00:00+00:00", "limit_s": None},
    }
    documented = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text().split("```json\n")[1].split("```")[0]
    example = json.loads(documented)
    assert [list(example), list(example["incident"]), list(example["freshness"])] == [
        list(got),
        list(got["incident"]),
        list(got["freshness"]),
    ]


def test_with_a_secret_the_receiver_can_tell_who_sent_it(hook: Receiver, cleared: Message) -> None:
    hook.webhook("hunter2").send(cleared)
    ((_, headers, body),) = hook.posts
    right = hmac.new(b"hunter2", body, hashlib.sha256).hexdigest()
    assert headers["isthmus-signature"] == f"sha256={right}"
    got = json.loads(body)
    assert got["event"] == "cleared" and got["incident"]["cleared_at"] == "2026-11-21T13:12:05+00:00"
    assert got["text"] == "[Isthmus] everything: failure cleared after 12 min 5 s"


def test_a_name_and_password_in_the_url_sign_in(hook: Receiver) -> None:
    Webhook(Secret(hook.url.replace("//", "//ann:p%40ss@"))).send(TEST)
    assert hook.posts[0][1]["authorization"] == "Basic YW5uOnBAc3M="


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(hook: Receiver, status: int) -> None:
    with receiver() as elsewhere:
        hook.status, hook.location = status, elsewhere.url
        with pytest.raises(Untold, match=f"answered {status}") as caught:
            hook.webhook().send(TEST)
        assert "redirects are not followed" in caught.value.hint
        assert not elsewhere.posts


def test_a_refusal_is_told_without_the_secrets_it_repeats(hook: Receiver) -> None:
    hook.status, hook.words = 403, f"no: {hook.url} hunter2\n\x1b[2J"
    with pytest.raises(Untold) as caught:
        hook.webhook("hunter2").send(TEST)
    said = str(caught.value.as_dict())
    assert "answered 403: no: •••" in said
    assert "T0KEN" not in said and "t0ken" not in said and "hunter2" not in said


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:{port}/T0KEN", "127.0.0.1 refuses connections"),
        ("http://nowhere.invalid/T0KEN", "there is no host nowhere.invalid"),
        ("http://[::1/T0KEN", "the address is none"),
        ("http://a b/T0KEN", "a b"),
        ("http://127.0.0.1:99999/T0KEN", "the address is none"),
        ("ftp://127.0.0.1/T0KEN", "the address is none"),
        ("T0KEN", "the address is none"),
    ],
)
def test_a_bad_url_is_an_error_without_the_url(url: str, said: str) -> None:
    with pytest.raises(Untold, match=said) as caught:
        Webhook(Secret(url.format(port=free_ports(1)[0]))).send(TEST)
    assert "T0KEN" not in str(caught.value.as_dict())
    assert caught.value.__cause__ is None


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for channel in (Webhook(Secret(f"http://127.0.0.1:{port}/")), _mail(f"smtp://127.0.0.1:{port}")):
            with pytest.raises(Untold, match="no answer within"):
                channel.send(TEST)


def test_a_server_that_speaks_something_else(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as odd:
        port = odd.getsockname()[1]

        def answer() -> None:
            for _ in range(3):
                client, _ = odd.accept()
                with client:
                    client.sendall(b"WHAT IS IT?\r\n")
                    client.settimeout(5)
                    client.recv(1000)

        thread = threading.Thread(target=answer)
        thread.start()
        for channel in (
            Webhook(Secret(f"http://127.0.0.1:{port}/")),
            Webhook(Secret(f"https://127.0.0.1:{port}/")),
            _mail(f"smtp://127.0.0.1:{port}"),
        ):
            with pytest.raises(Untold):
                channel.send(TEST)
        thread.join()


def test_a_mail_says_what_happened_and_what_to_do(opened: Message, cleared: Message) -> None:
    with postman() as server:
        channel = server.email("me@example.com", "you@example.com")
        assert channel.send(opened) == ""
        channel.send(opened)
        channel.send(cleared)
    first, again, last = server.letters
    assert server.taken_for[0] == ["me@example.com", "you@example.com"]
    assert first["Subject"] == "[Isthmus] everything: a periodic run failed: the role may not create tables"
    assert first["From"] == "Isthmus <isthmus@example.com>"
    assert first["To"] == "me@example.com, you@example.com"
    assert first["Auto-Submitted"] == "auto-generated"
    assert parsedate_to_datetime(str(first["Date"])).tzinfo is not None
    assert first["Message-ID"] == again["Message-ID"] == f"<{opened.message_id}@example.com>"
    assert last["In-Reply-To"] == last["References"] == first["Message-ID"] != last["Message-ID"]
    text = first.get_content()
    assert first.get_content_type() == "text/plain"
    for line in (
        "everything: a periodic run failed: the role may not create tables.",
        "What to do: run the set-up script again",
        "Opened:          2026-11-21 13:00:00 UTC",
        "Complete up to:  2026-11-21 12:00:00 UTC",
    ):
        assert line in text.splitlines()
    assert last["Subject"] == "[Isthmus] everything: failure cleared after 12 min 5 s"
    assert last.get_content().splitlines()[0] == "Cleared after 12 min 5 s. It was:"


def test_a_name_may_hold_anything(desk: Desk) -> None:
    name = "Käufe → 東京\r\nBcc: all@example.com " + "x" * 300
    desk.apply(name)
    desk.fail_one(name)
    desk.look()
    message = messages.about(desk.incidents()[0], News.OPENED)
    with postman() as server:
        server.email().send(message)
    (letter,) = server.letters
    assert letter["Subject"].startswith("[Isthmus] Käufe → 東京 Bcc: all@example.com xxx")
    assert letter["Bcc"] is None and server.taken_for == [["me@example.com"]]
    with receiver() as hook:
        hook.webhook("s").send(message)
        assert json.loads(hook.posts[0][2])["sync"] == name


@pytest.mark.parametrize("offered", [False, True])
def test_without_a_password_tls_is_taken_where_it_is_offered(tmp_path: Path, offered: bool) -> None:
    with postman(tls=certificate(tmp_path)[0] if offered else None) as server:
        server.email(host="127.0.0.1").send(TEST)
    assert server.encrypted == [offered]


def test_a_password_is_sent_over_verified_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls, trusted = certificate(tmp_path)
    with postman(tls=tls, password="p@ss/hunter2") as server:
        channel = server.email(user="ann:p%40ss%2Fhunter2")
        with pytest.raises(Untold, match=r"certificate of localhost:\d+ cannot be verified"):
            channel.send(TEST)
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        channel.send(TEST)
        assert (server.encrypted, server.signed_in) == ([True], [True])
        with pytest.raises(Untold, match="refuses the sign-in: 535") as caught:
            server.email(user="ann:hunter3").send(TEST)
        assert "hunter3" not in str(caught.value.as_dict())
        with pytest.raises(Untold, match="cannot be verified"):
            server.email(user="ann:hunter3", host="127.0.0.1").send(TEST)


def test_a_password_never_goes_over_a_plain_connection() -> None:
    with postman() as server, pytest.raises(Untold, match="cannot do what is needed") as caught:
        server.email(user="ann:hunter2").send(TEST)
    assert "STARTTLS" in caught.value.hint and not server.letters


@pytest.mark.filterwarnings("ignore:Requiring AUTH")  # TLS from the first byte counts as none there
def test_tls_from_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls, trusted = certificate(tmp_path)
    with postman(tls=tls, at_once=True, password="hunter2") as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        server.email(user="ann:hunter2").send(TEST)
        monkeypatch.setattr(channels, "TIMEOUT_S", 0.5)
        with pytest.raises(Untold, match="no answer within"):
            replace(server, scheme="smtp").email().send(TEST)  # it waits to be spoken to in TLS
    assert server.signed_in == [True]


def test_a_server_that_wants_a_password_and_gets_none(tmp_path: Path) -> None:
    with postman(tls=certificate(tmp_path)[0], password="hunter2") as server:
        with pytest.raises(Untold, match="refuses the mail: 530"):
            server.email().send(TEST)


def test_recipients_that_are_refused() -> None:
    with postman() as server:
        server.refuses = ("gone@example.com",)
        assert server.email("gone@example.com", "me@example.com").send(TEST) == "refused for gone@example.com"
        assert server.taken_for == [["me@example.com"]]
        with pytest.raises(Untold, match="takes none of the recipients: 550"):
            server.email("gone@example.com").send(TEST)


def test_no_secret_is_in_a_channel_as_text() -> None:
    made = channels.configured(
        webhook_url=Secret("https://example.com/T0KEN"),
        webhook_secret=Secret("hunter2"),
        smtp_url=Secret("smtp://a:hunter3@h"),
        email_from="a@example.com",
        email_to=("b@example.com",),
    )
    assert [channel.name for channel in made] == ["webhook", "email"]
    assert not any(secret in repr(made) for secret in ("T0KEN", "hunter"))


def test_a_private_key_is_verified_by_default() -> None:
    assert channels._tls(verified=True).verify_mode == ssl.CERT_REQUIRED


def _mail(url: str) -> Email:
    return Email(Secret(url), "a@example.com", ("b@example.com",))
