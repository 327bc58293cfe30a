"""`sansio-cache purge`: nothing goes before somebody has said so, and then all that matches."""

from __future__ import annotations

import io

import pytest

from sansio_cache_redis.sync import Cache
from support.keyspaces import fill_namespace
from support.terminal import Terminal

USERS = 8


@pytest.fixture
def keys(redis_client, namespace):
    """Ten entries of two entities; gives a function that counts what is left."""
    fill_namespace(redis_client, namespace, range(10))
    yield lambda: len(list(redis_client.scan_iter(f"{namespace}:*")))
    for key in redis_client.scan_iter(f"{namespace}:*"):
        redis_client.unlink(key)


@pytest.fixture
def arguments(redis_url, namespace):
    return ("purge", "user:*", "--url", redis_url, "--namespace", namespace)


def test_off_a_terminal_nothing_is_removed_without_yes(run, keys, arguments):
    ran = run(*arguments)
    assert ran.status == 2
    assert "--yes was not given" in ran.err
    assert len(ran.err.splitlines()) == 1
    assert "8 keys" in ran.err
    assert keys() == 10


def test_a_dry_run_counts_and_removes_nothing(run, keys, arguments):
    ran = run(*arguments, "--dry-run", "--json")
    assert (ran.status, ran.json()) == (0, {"matched": USERS, "removed": 0, "dry_run": True})
    assert "8 keys of the namespace" in run(*arguments, "--dry-run").out
    assert keys() == 10


def test_what_was_confirmed_is_removed_and_a_load_under_way_cannot_store(
    run, keys, arguments, redis_url, namespace
):
    with Cache.from_url(redis_url, namespace=namespace, operation_timeout_s=5) as cache:

        def load():
            ran = run(*arguments, "--yes", "--json")
            assert (ran.status, ran.json()["removed"]) == (0, USERS + 1)
            return 1

        assert cache.get_or_load("user:late", load) == 1
        assert cache.get("user:late") is None
    assert keys() == 10 - USERS


def test_what_does_not_match_is_no_failure_and_a_namespace_that_is_not_there_is(
    run, keys, redis_url, namespace
):
    ran = run("purge", "nothing:*", "--url", redis_url, "--namespace", namespace)
    assert (ran.status, "0 keys" in ran.out) == (0, True)
    ran = run("purge", "*", "--yes", "--url", redis_url, "--namespace", f"{namespace}x")
    assert (ran.status, "no key of the namespace" in ran.err) == (1, True)


def test_a_pattern_of_another_namespace_is_refused(run, keys, redis_url, namespace):
    ran = run("purge", f"{namespace}:user:*", "--yes", "--url", redis_url, "--namespace", namespace)
    assert (ran.status, "given inside the namespace: write 'user:*'" in ran.err) == (2, True)
    assert keys() == 10


def test_no_is_the_answer_of_who_only_presses_enter(run, keys, arguments, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    ran = run(*arguments)
    assert (ran.status, "nothing is removed" in ran.err) == (2, True)
    assert keys() == 10


def test_ctrl_c_at_the_question_removes_nothing(keys, arguments):
    """What becomes of a yes is on a screen of the documentation, which a test captures."""
    with Terminal(arguments) as terminal:
        terminal.wait_for(lambda text: "[y/N]" in text)
        terminal.type("\x03")
        assert terminal.end() == 130
        assert "Traceback" not in terminal.text
    assert keys() == 10
