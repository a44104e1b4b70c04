"""A machine asks over HTTP whether this process is up and can do its work; something is amiss."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from http.client import HTTPConnection

import pytest
from api_cast import Get, ask
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from isthmus import __version__
from isthmus.actions import observing
from isthmus.api import application, server
from isthmus.app import App
from isthmus.ledger import workers
from isthmus.model.checks import Check
from isthmus.model.errors import InvalidInput
from isthmus.secrets import Secret
from isthmus.settings import Settings
from isthmus.testing import standins


def put_worker(app: App, *, role: str = "serve", seen_s_ago: float = 0) -> None:
    with app.ledger.transaction() as tx:
        at = app.now() - timedelta(seconds=seen_s_ago)
        workers.join(tx, f"worker_{role}_{seen_s_ago}", role=role, place="here", at=at)


def failed(app: App) -> list[tuple[str, str]]:
    return [(check.question, check.detail) for check in observing.readiness(app) if not check.passed]


def test_a_process_that_is_up_says_so_with_its_version(get: Get) -> None:
    answer = get("/healthz")
    assert (answer.status, answer.document) == (200, {"status": "up", "version": __version__})
    assert answer.headers["cache-control"] == "no-store" and "server" not in answer.headers
    assert get("/healthz", method="HEAD").status == 200


def test_it_is_ready_when_every_check_passes(app: App, get: Get) -> None:
    put_worker(app)
    answer = get("/readyz")
    assert answer.status == 200
    assert answer.document == {
        "ready": True,
        "checks": [
            {"check": "the ledger answers", "passed": True, "detail": "", "hint": ""},
            {"check": "a worker is there", "passed": True, "detail": "1 alive", "hint": ""},
            {"check": "the store is reachable", "passed": True, "detail": "", "hint": ""},
        ],
    }


def test_without_a_worker_it_is_not_ready(app: App, get: Get) -> None:
    answer = get("/readyz")
    assert answer.status == 503 and not answer.document["ready"]
    assert failed(app) == [("a worker is there", "none has signed on")]
    put_worker(app, role="command")  # does what one person asked for, and nothing else
    put_worker(app, role="worker", seen_s_ago=31)
    ((question, detail),) = failed(app)
    assert question == "a worker is there" and detail.startswith("the last one was seen at 2")
    put_worker(app, role="worker", seen_s_ago=25)
    assert get("/readyz").status == 200


def test_a_ledger_that_was_removed_is_told_and_not_made_anew(app: App, get: Get) -> None:
    put_worker(app)
    assert get("/readyz").status == 200
    shutil.rmtree(app.home)
    answer = get("/readyz")
    assert answer.status == 503
    assert [check["passed"] for check in answer.document["checks"]] == [False, False, False]
    assert "was removed" in answer.document["checks"][0]["detail"]
    assert get("/healthz").status == 200
    assert not app.home.exists()


def test_a_database_and_a_bucket_that_do_not_answer_are_told_without_their_passwords(
    serving: Callable[..., Get], app: App
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    shared = Settings(
        home=app.home,
        database_url=Secret(f"postgresql://isthmus:hunter2@127.0.0.1:{port}/isthmus"),
        storage_url="s3://bucket",
        s3_endpoint=f"http://127.0.0.1:{port}",
        s3_access_key_id="id",
        s3_secret_access_key=Secret("hunter3"),
    )
    with App(shared) as away:
        get = serving(away)
        answer = get("/readyz")
        assert get("/healthz").status == 200
    assert answer.status == 503 and "hunter" not in answer.text
    ledger, worker, store = answer.document["checks"]
    assert "does not answer" in ledger["detail"] and "ISTHMUS_DATABASE_URL" in ledger["hint"]
    assert worker["detail"] == "not known: the ledger does not answer"
    assert f"127.0.0.1:{port} does not answer" in store["detail"]


def test_a_database_that_goes_away_and_comes_back(
    serving: Callable[..., Get], app: App, postgres_server: standins.PostgresServer, s3: standins.S3Server
) -> None:
    url = postgres_server.url(postgres_server.fresh_database())
    shared = Settings(home=app.home, database_url=Secret(url), storage_url="s3://bucket", s3_endpoint=s3.endpoint)
    with App(shared) as scaled:
        put_worker(scaled)
        get = serving(scaled)
        assert get("/readyz").status == 200
        scaled.ledger._writing.dispose()  # what a restart of the server does to connections
        assert get("/readyz").status == 200


def test_the_store_is_asked_after_as_the_caller_says(serving: Callable[..., Get], app: App) -> None:
    put_worker(app)
    get = serving(app, store=lambda _: Check("the store is reachable", False, detail="no", hint="mend it"))
    answer = get("/readyz")
    assert answer.status == 503
    assert answer.document["checks"][2] == {
        "check": "the store is reachable",
        "passed": False,
        "detail": "no",
        "hint": "mend it",
    }


def test_what_is_not_there_is_said_in_json(get: Get) -> None:
    answer = get("/nothing")
    assert (answer.status, answer.document) == (404, {"error": "there is nothing at /nothing"})
    answer = get("/healthz", method="POST")
    assert (answer.status, answer.document) == (405, {"error": "POST is not possible here"})
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


def test_an_endpoint_that_fails_says_no_more_than_that(
    serving: Callable[..., Get], app: App, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(request: Request) -> Response:
        raise ValueError("hunter2")

    get = serving(app, extra=[Route("/fail", fail)])
    answer = get("/fail")
    assert answer.status == 500 and "hunter2" not in answer.text
    line = next(line for line in caplog.records if line.levelname == "ERROR")
    assert "request failed" in str(line.msg) and "/fail" in str(line.msg)


def test_a_port_that_is_taken_is_told(app: App) -> None:
    application_ = application.build(app)
    with server.serve(application_, "127.0.0.1", 0) as first:
        assert first.port != 0 and first.url == f"http://127.0.0.1:{first.port}"
        with pytest.raises(InvalidInput, match=f"the port {first.port} is taken") as caught:
            server.serve(application_, "127.0.0.1", first.port)
        assert "ISTHMUS_HTTP_PORT" in caught.value.hint
    with server.serve(application_, "127.0.0.1", first.port) as again:  # it is free at once
        assert ask(again, "/healthz").status == 200


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_told(app: App, host: str) -> None:
    with pytest.raises(InvalidInput, match=f"{host} is no address of this machine"):
        server.serve(application.build(app), host, 0)


def test_it_stops_within_two_seconds_whatever_is_being_answered(app: App) -> None:
    entered, leave = threading.Event(), threading.Event()

    def hang(request: Request) -> Response:
        entered.set()
        leave.wait(30)
        return Response()

    listening = server.serve(application.build(app, [Route("/hang", hang)]), "127.0.0.1", 0)
    idle, hanging = (HTTPConnection("127.0.0.1", listening.port, timeout=20) for _ in range(2))
    idle.request("GET", "/healthz")
    idle.getresponse().read()
    hanging.request("GET", "/hang")
    assert entered.wait(10)
    begun = time.monotonic()
    listening.stop()
    listening.stop()
    assert time.monotonic() - begun < 2.5
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", listening.port), timeout=2)
    leave.set()
    idle.close()
    hanging.close()
