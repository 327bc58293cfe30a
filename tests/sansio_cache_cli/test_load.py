"""`sansio-cache load`: bounded, on this machine unless told otherwise, and it measures what happened."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sansio_cache_cli import loopback
from sansio_cache_cli.database import Query
from sansio_cache_cli.load_figures import loads_per_expiry, percentiles
from support.terminal import Terminal

SMALL = ("--callers", "8", "--requests", "400", "--keys", "4", "--ttl", "0.1", "--load-ms", "5")


@contextmanager
def page(status=200):
    """A web server of this test; gives its URL and the paths that it was asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_server_is_asked_as_often_as_was_said_and_no_key_is_left(run, redis_url, redis_client):
    ran = run("load", "--url", redis_url, *SMALL, "--json")
    figures = ran.json()
    assert ran.status == 0
    assert (figures["requests"], figures["errors"]) == (400, {})
    assert figures["loads"] >= 4
    assert 0 < figures["p50_s"] <= figures["p99_s"] <= figures["p100_s"]
    if not figures["gave_up"]:
        assert figures["loads_per_expiry"] == 1.0, "two caches, one load"
    assert list(redis_client.scan_iter("load-*")) == []
    text = run("load", "--url", redis_url, *SMALL).out
    assert "400 requests in " in text
    assert "each time one expired" in text
    assert "no call failed" in text


def test_it_ends_when_the_time_is_up(run):
    figures = run("load", "--url", "memory://", "--seconds", "0.3", "--requests", "1000000", "--json").json()
    assert 0 < figures["requests"] < 1_000_000
    assert figures["loads_per_expiry"] == 1.0


def test_a_page_is_asked_for_each_of_its_entries(run):
    with page() as (url, asked):
        ran = run("load", "--http", f"{url}/users/{{n}}?full=1", *SMALL, "--json")
    figures = ran.json()
    assert (ran.status, figures["requests"], figures["loads"]) == (0, 400, None)
    assert len(asked) == 400
    assert set(asked) == {f"/users/{number}?full=1" for number in range(4)}


def test_a_page_that_fails_fails_the_test(run):
    with page(500) as (url, _):
        ran = run("load", "--http", url, *SMALL)
    assert (ran.status, "400 x HTTP 500" in ran.out) == (1, True)
    ran = run("load", "--http", "http://127.0.0.1:1", *SMALL, "--json")
    assert (ran.status, ran.json()["errors"]) == (1, {"ConnectionRefusedError": 400})


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (("--url", "redis://user:secret-pw@192.0.2.1:6379"), "192.0.2.1:6379 is not this machine"),
        (("--url", "redis://[2001:db8::1]:6379"), "is not this machine"),
        (("--http", "http://192.0.2.1/"), "192.0.2.1 is not this machine"),
        (("--http", "http://user:secret-pw@localhost/"), "without a user and a password"),
        (("--http", "ftp://localhost/"), "takes the URL of a page"),
        (("--http", "http://localhost:port/"), "takes the URL of a page"),
        (("--url", "http://localhost/"), "must begin with redis://"),
    ],
)
def test_another_machine_is_not_asked_and_no_url_is_guessed_at(run, target, said):
    ran = run("load", *target, *SMALL)
    assert (ran.status, said in ran.err) == (2, True)
    assert "secret" not in ran.err


def test_another_machine_is_asked_where_that_is_allowed(monkeypatch):
    monkeypatch.setattr(loopback, "is_loopback", lambda _: False)
    loopback.check_store("redis://192.0.2.1", allow_remote=True)
    assert loopback.check_page("https://192.0.2.1/a", allow_remote=True).hostname == "192.0.2.1"


def test_a_host_with_one_address_elsewhere_is_elsewhere(monkeypatch):
    found = [(0, 0, 0, "", ("127.0.0.1", 0)), (0, 0, 0, "", ("192.0.2.1", 0))]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: found[:1])
    assert loopback.is_loopback("h")
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: found)
    assert not loopback.is_loopback("h")


def test_a_server_that_is_not_there_is_one_line(run, monkeypatch):
    monkeypatch.setattr("sansio_cache_cli.loading._READY_S", 1.0)
    ran = run("load", "--url", "redis://127.0.0.1:1", *SMALL)
    assert (ran.status, "refuses connections" in ran.err) == (1, True)


def test_ctrl_c_ends_it_with_what_was_measured_and_no_key(redis_url, redis_client):
    arguments = ("load", "--url", redis_url, "--requests", "1000000", "--seconds", "300", "--callers", "2")
    with Terminal(arguments) as terminal:
        terminal.wait_for(lambda text: "callers ━" in text and "0/1000000" not in text)
        terminal.type("\x03")
        assert terminal.end() == 130
        assert "requests in" in terminal.text
        assert "Traceback" not in terminal.text
    assert list(redis_client.scan_iter("load-*")) == []


# Without a server.


def test_loads_are_counted_by_the_entries_that_were_not_there():
    once = [Query(1, 0.0, 0.1), Query(2, 0.0, 0.1), Query(1, 1.2, 1.3)]
    assert loads_per_expiry(once, 1.0) == 1.0
    assert loads_per_expiry([*once, Query(2, 0.05, 0.2)], 1.0) == pytest.approx(4 / 3)
    assert loads_per_expiry([], 1.0) is None


def test_percentiles_of_nothing_are_nothing():
    assert set(percentiles([])) == {0.0}
    assert percentiles([0.1 * each for each in range(1, 11)])[0] == 0.5
