"""`sansio-cache top`: a server and its programs, as they do."""

from __future__ import annotations

import json

import msgspec
import pytest

from sansio_cache_cli.rates import Programs, server_rates, together
from sansio_cache_cli.server_info import ServerInfo
from sansio_cache_redis.exporting import ProgramStats, export_stats
from sansio_cache_redis.sync import Cache
from support.terminal import Terminal


@pytest.fixture
def exporting(full_server):
    """A program that tells how it does, ten times a second."""
    with (
        Cache.from_url(full_server.url, namespace="shop", operation_timeout_s=5) as cache,
        export_stats(cache, every_s=0.1, name="web"),
    ):
        yield cache


def test_a_look_tells_of_the_server_and_of_programs(run, full_server, exporting):
    exporting.get("user:1")
    ran = run(
        "top", "--url", full_server.url, "--namespace", "shop", "--json", "--count", "2", "--interval", "0.5"
    )
    looks = [json.loads(line) for line in ran.out.splitlines()]
    assert (ran.status, len(looks)) == (0, 2)
    assert looks[0]["server"]["used_bytes"] > 1_000_000
    assert looks[0]["server"]["limit_bytes"] == 2**30
    assert looks[0]["server"]["latency_s"] > 0
    assert [each["name"] for each in looks[1]["programs"]] == ["web"]


def test_off_a_terminal_one_look_is_shown_as_a_table(run, full_server, exporting):
    ran = run("top", "--url", full_server.url, "--namespace", "shop", "--interval", "0.5")
    assert ran.status == 0
    assert "round trip" in ran.out
    assert "web" in ran.out
    assert "serves" in ran.out


def test_a_terminal_shows_it_live_until_ctrl_c(full_server, exporting):
    arguments = ("top", "--url", full_server.url, "--namespace", "shop", "--interval", "0.2")
    with Terminal(arguments, lines=20) as terminal:
        first = terminal.wait_for(lambda text: "web" in text)
        terminal.wait_for(lambda text: text != first)
        terminal.type("\x03")
        assert terminal.end() == 0
        assert "Traceback" not in terminal.text
        assert terminal.text.count("round trip") == 1, "it is drawn in its place"


def test_without_a_program_that_tells_it_says_how_to(run, full_server):
    ran = run("top", "--url", full_server.url, "--namespace", "quiet", "--interval", "0.2")
    assert "export_stats(cache)" in ran.out


def test_a_user_who_may_not_ask_is_told_what_to_grant(run, full_server):
    client = full_server.client()
    client.execute_command("ACL", "SETUSER", "looker", "on", ">secret-pw", "~*", "+@all", "-info")
    url = full_server.url.replace("redis://", "redis://looker:secret-pw@")
    ran = run("top", "--url", url, "--namespace", "shop")
    assert (ran.status, "+info" in ran.err) == (1, True)
    client.execute_command("ACL", "SETUSER", "looker", "+info", "resetchannels")
    ran = run("top", "--url", url, "--namespace", "shop", "--interval", "0.2")
    client.acl_deluser("looker")
    assert (ran.status, "may not SUBSCRIBE" in ran.out) == (0, True)
    assert "secret" not in ran.out + ran.err


# Without a server.


def told(name="web", **fields):
    return ProgramStats(**{"name": name, "host": "h", "pid": 1, "every_s": 2.0, "window_s": 2.0, **fields})


def message(program):
    return [b"message", b"shop:%stats", msgspec.json.encode(program)]


def test_a_program_is_shown_as_it_told_the_last_time_and_no_more_when_it_is_silent():
    programs = Programs()
    programs.hear(message(told(requests=1)), 0.0)
    programs.hear(message(told(requests=2)), 1.0)
    programs.hear(message(told("batch")), 1.0)
    assert [(each.name, each.requests) for each in programs.at(7.0)] == [("batch", 0), ("web", 2)]
    assert programs.at(7.1) == []


@pytest.mark.parametrize(
    "noise",
    [
        None,
        1,
        b"x",
        [b"subscribe", b"c", 1],
        [b"message", b"c", b"{"],
        [b"message", b"c", b"[" * 9999],
        [b"message", b"c", 7],
    ],
)
def test_what_makes_no_sense_is_passed_over(noise):
    programs = Programs()
    programs.hear(noise, 0.0)
    assert programs.at(0.0) == []


def test_who_publishes_without_end_fills_no_memory():
    programs = Programs()
    for pid in range(1_000):
        programs.hear(message(told(pid=pid)), 0.0)
    programs.hear(message(told("x" * 1_000_000)), 0.0)
    assert len(programs.at(0.0)) == 200
    programs.hear(message(told(pid=0, requests=7)), 1.0)
    assert max(each.requests for each in programs.at(1.0)) == 7


def test_rates_are_what_happened_between_two_looks_also_where_the_server_was_restarted():
    before = ServerInfo({"total_commands_processed": "100", "keyspace_hits": "50", "keyspace_misses": "0"})
    after = ServerInfo({"total_commands_processed": "300", "keyspace_hits": "53", "keyspace_misses": "1"})
    rates = server_rates(before, after, 2.0, 0.001)
    assert (rates.per_second, rates.hit_rate) == (100.0, 75.0)
    assert server_rates(after, before, 1.0, 0.001).per_second == 100.0
    assert server_rates(before, before, 0.0, 0.001).hit_rate is None


def test_programs_together_are_the_sum_of_their_rates():
    sums = together([told(requests=20, hits=10), told(requests=20, hits=20, window_s=1.0, loads=1)])
    assert sums == {"requests_per_second": 30.0, "hit_rate": 75.0, "loads_per_second": 1.0}
    assert together([])["hit_rate"] is None
