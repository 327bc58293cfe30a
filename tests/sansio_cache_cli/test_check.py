"""`sansio-cache check`: what is planted on a real server is found; and what it says of facts, without one."""

from __future__ import annotations

import time

import attrs
import pytest

from sansio_cache.cell import Cell, Kind, format_cell, make_grant
from sansio_cache.health import Health
from sansio_cache.inspection import inspect
from sansio_cache_cli.lives import lives_of
from sansio_cache_cli.server_info import ServerInfo
from sansio_cache_cli.verdicts import ClockOffset, Facts, Level, Verdict, Wanted, verdicts, worst
from support.servers import Server

COMMANDS = (
    "get",
    "mget",
    "set",
    "getrange",
    "setrange",
    "pttl",
    "pexpire",
    "unlink",
    "scan",
    "time",
    "evalsha",
    "eval",
)
CACHE_RULES = (
    "on",
    ">secret-pw",
    "resetkeys",
    "~shop:*",
    "resetchannels",
    "-@all",
    *(f"+{name}" for name in COMMANDS),
)
WANTED = Wanted()
SMALL = "small"
"""A namespace with next to nothing in it, where it does not matter what there is."""


@pytest.fixture
def planted(full_server: Server):
    """A client that plants keys, which are removed in the end."""
    client = full_server.client()
    yield client
    for pattern in ("shop:planted*", "small:*", "sessions:*"):
        for key in client.scan_iter(pattern):
            client.unlink(key)
    client.config_set("maxmemory-policy", "allkeys-lfu")
    client.acl_deluser("cache")


def verdict_of(ran, name):
    """The one verdict about something."""
    [found] = [each for each in ran.json()["verdicts"] if each["name"] == name]
    return found


def check(run, server, *more, url=None, namespace="shop"):
    return run("check", "--url", url or server.url, "--namespace", namespace, "--json", *more)


def test_a_server_and_a_namespace_that_are_right_have_no_problem(run, full_server):
    ran = check(run, full_server)
    assert ran.status == 0
    assert {each["level"] for each in ran.json()["verdicts"]} == {"ok"}
    assert verdict_of(ran, "ttl")["said"] == "each of 50,000 keys (all there are) has a time to live"
    assert verdict_of(ran, "jitter")["said"].startswith("times to live were from 3,9")


def test_verdicts_are_a_line_each_with_what_to_do_below(run, full_server, planted):
    planted.set("shop:planted", 1)
    ran = run("check", "--url", full_server.url, "--namespace", "shop")
    assert ran.status == 1
    lines = ran.out.splitlines()
    [at] = [place for place, line in enumerate(lines) if line.startswith("problem ")]
    assert lines[at].startswith(
        "problem ttl         1 of 50,001 keys (all there are) have no time to live: shop:planted"
    )
    assert lines[at + 1].strip().startswith("do: the cache stores none without")


def test_a_planted_key_without_a_time_to_live_is_found_among_50_000(run, full_server, planted):
    planted.set("shop:planted", 1)
    ran = check(run, full_server, "--sample", "10")
    assert ran.status == 1
    assert (verdict_of(ran, "ttl")["level"], "shop:planted" in verdict_of(ran, "ttl")["said"]) == (
        "problem",
        True,
    )


def test_the_name_of_a_planted_key_is_no_command_to_the_terminal(run, full_server, planted):
    planted.set("shop:planted\x1b[2J\nok", 1)
    ran = run("check", "--url", full_server.url, "--namespace", "shop")
    assert "shop:planted\\x1b[2J\\nok" in ran.out
    assert "\x1b[2J" not in ran.out


def test_a_policy_that_evicts_what_must_stay_is_found(run, full_server, planted):
    assert verdict_of(check(run, full_server, namespace=SMALL), "eviction")["level"] == "ok"
    ran = check(run, full_server, "--durable", namespace=SMALL)
    assert (ran.status, verdict_of(ran, "eviction")["level"]) == (1, "problem")
    assert "allkeys-lfu" in verdict_of(ran, "eviction")["said"]
    planted.set("sessions:1", 1)
    assert verdict_of(check(run, full_server, namespace=SMALL), "eviction")["level"] == "warning"
    planted.xadd("small:%w:0", {"a": 1})
    ran = check(run, full_server, namespace=SMALL)
    assert (ran.status, verdict_of(ran, "eviction")["level"]) == (1, "problem")
    planted.config_set("maxmemory-policy", "volatile-lfu")
    assert verdict_of(check(run, full_server, namespace=SMALL), "eviction")["level"] == "ok"


def test_a_policy_that_may_evict_a_lock_is_a_warning_and_strict_makes_it_fail(run, full_server, planted):
    planted.set("small:%l:job", 1, ex=60)
    ran = check(run, full_server, namespace=SMALL)
    assert (ran.status, verdict_of(ran, "eviction")["level"]) == (0, "warning")
    assert check(run, full_server, "--strict", namespace=SMALL).status == 1


@pytest.mark.parametrize(
    ("missing", "said"), [("+eval", "scripts"), ("+unlink", "invalidation"), ("+mget", "reading many keys")]
)
def test_a_missing_permission_is_found(run, full_server, planted, missing, said):
    planted.acl_setuser("cache", enabled=True)  # it exists before its rules
    planted.execute_command(
        "ACL", "SETUSER", "cache", *(rule for rule in CACHE_RULES if rule != missing), "~small:*"
    )
    url = full_server.url.replace("redis://", "redis://cache:secret-pw@")
    ran = check(run, full_server, url=url, namespace=SMALL)
    assert ran.status == 1
    problems = [each["said"] for each in ran.json()["verdicts"] if each["level"] == "problem"]
    assert any(said in problem for problem in problems)
    assert "secret-pw" not in ran.out + ran.err


def test_with_the_permissions_of_the_cache_alone_it_says_what_it_cannot_know(run, full_server, planted):
    planted.execute_command("ACL", "SETUSER", "cache", *CACHE_RULES)
    ran = check(run, full_server, url=full_server.url.replace("redis://", "redis://cache:secret-pw@"))
    assert ran.status == 0
    notes = {each["name"]: each["remedy"] for each in ran.json()["verdicts"] if each["level"] == "note"}
    assert set(notes) == {"server", "wake-ups"}
    assert "+info" in notes["server"]
    assert verdict_of(ran, "ttl")["level"] == "ok"


@pytest.mark.parametrize(("off_s", "side"), [(-5.0, "ahead of"), (5.0, "behind")])
def test_a_wrong_clock_is_found(run, full_server, monkeypatch, off_s, side):
    monkeypatch.setattr("sansio_cache_cli.checking.wall_clock", lambda: time.time() + off_s)
    ran = check(run, full_server, namespace=SMALL)
    clock = verdict_of(ran, "clock")
    assert (ran.status, clock["level"]) == (1, "problem")
    assert f"{side} this machine's" in clock["said"]
    assert check(run, full_server, "--most-clock-offset", "20", namespace=SMALL).status == 0


def test_a_clock_that_was_set_back_is_found_by_the_values_it_left_in_the_future(run, full_server, planted):
    grant = make_grant(b"-future-", (time.time_ns() // 1000) + 3600 * 10**6)
    planted.set("small:planted", format_cell(Cell(Kind.VALUE, filled_by=grant, body=bytes(22))), ex=9)
    ran = check(run, full_server, namespace=SMALL)
    assert (ran.status, verdict_of(ran, "entries")["level"]) == (0, "warning")
    assert "1 values were stored in the server's future" in verdict_of(ran, "entries")["said"]


def test_keys_of_another_program_in_the_namespace_are_found(run, full_server, planted):
    planted.set("small:planted", "text", ex=9)
    planted.rpush("small:planted:list", "text")
    planted.expire("small:planted:list", 9)
    ran = check(run, full_server, namespace=SMALL)
    assert "2 keys of the namespace were written by another program" in verdict_of(ran, "entries")["said"]


def test_a_namespace_without_keys_is_a_warning(run, full_server):
    ran = run("check", "--url", full_server.url, "--namespace", "shopp", "--json")
    assert (ran.status, verdict_of(ran, "keys")["level"]) == (0, "warning")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://user:secret-pw@127.0.0.1:1", "127.0.0.1:1 refuses connections"),
        ("redis://user:secret-pw@{place}", "refuses the user name or the password of the URL"),
        ("redis://user:secret-pw@no-such-host.invalid", "the name of the host is not known"),
    ],
)
@pytest.mark.parametrize(
    "command", [("check",), ("ttl",), ("keys", "*"), ("inspect", "user:1")], ids=lambda command: command[0]
)
def test_a_server_that_cannot_be_asked_is_one_line_without_the_password(run, full_server, command, url, said):
    place = full_server.url.removeprefix("redis://")
    ran = run(*command, "--url", url.format(place=place), "--namespace", "shop")
    assert ran.status == 1
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1
    assert ran.out == ""
    assert "secret" not in ran.err


# Without a server.

INFO = ServerInfo(
    {"role": "master", "maxmemory": "1000", "maxmemory_policy": "volatile-lru", "used_memory": "10"}
)
FACTS = Facts(
    place="h:1",
    namespace="shop",
    latency_s=0.001,
    health=Health(ok=True, server="Valkey 9.1"),
    may_wake=True,
    info=INFO,
    clock=ClockOffset(offset_s=0.0, uncertain_s=0.0),
    lives=lives_of([]),
    keys=1,
)


def said_of(name, facts=FACTS, wanted=WANTED):
    return [each for each in verdicts(facts, wanted) if each.name == name]


def with_info(**fields):
    return attrs.evolve(FACTS, info=ServerInfo({**INFO.fields, **fields}))


def test_the_worst_verdict_decides():
    assert worst([]) is Level.OK
    assert worst([Verdict("a", Level.WARNING, ""), Verdict("b", Level.NOTE, "")]) is Level.WARNING


def test_a_clock_is_wrong_only_where_it_is_so_beyond_what_the_way_makes_uncertain():
    for uncertain_s, level in ((0.0, Level.PROBLEM), (2.0, Level.OK)):
        clock = ClockOffset(offset_s=-2.5, uncertain_s=uncertain_s)
        [found] = said_of("clock", attrs.evolve(FACTS, clock=clock))
        assert found.level is level


def test_a_disk_that_fails_is_a_problem():
    [found] = said_of("durability", with_info(rdb_last_bgsave_status="err"))
    assert (found.level, "MISCONF" in found.said) == (Level.PROBLEM, True)


@pytest.mark.parametrize(
    ("queues", "durable", "aof", "level"),
    [
        (0, False, "0", Level.OK),
        (1, False, "0", Level.WARNING),
        (0, True, "0", Level.PROBLEM),
        (1, True, "1", Level.OK),
    ],
)
def test_what_is_queued_wants_a_server_that_writes_to_disk(queues, durable, aof, level):
    facts = attrs.evolve(with_info(aof_enabled=aof), internal={"%w:": queues})
    [found] = said_of("durability", facts, Wanted(durable=durable))
    assert found.level is level


@pytest.mark.parametrize(("least", "level"), [(0.0, Level.OK), (90.0, Level.OK), (90.1, Level.PROBLEM)])
def test_a_hit_rate_is_too_low_only_where_one_was_asked_for(least, level):
    facts = with_info(keyspace_hits="9", keyspace_misses="1")
    [found] = said_of("hit rate", facts, Wanted(least_hit_rate=least))
    assert found.level is level
    assert said_of("hit rate")[0].level is Level.OK


def test_entries_that_expire_together_are_a_warning():
    assert said_of("jitter") == []

    def entry(number, life_ms):
        grant = make_grant(b"nonce---", 1_000_000_000)
        raw = format_cell(Cell(Kind.VALUE, filled_by=grant, body=bytes(22)))
        return inspect(f"shop:user:{number}", raw, left_ms=life_ms, server_ms=1_000_000)

    for lives, level in ((range(60_000, 160_000, 1_000), Level.OK), ([60_000] * 100, Level.WARNING)):
        found = lives_of([entry(number, life_ms) for number, life_ms in enumerate(lives)])
        [verdict] = said_of("jitter", attrs.evolve(FACTS, lives=found))
        assert verdict.level is level


def test_fields_of_info_that_are_not_there_or_no_numbers_are_not_known():
    info = ServerInfo.parse(b"# Server\r\nredis_version:7.0\r\nused:x\r\n")
    assert info is not None
    assert (info.number("used"), info.count("nothing"), info.text("redis_version")) == (None, 0, "7.0")
    assert info.hit_rate is None
    assert ServerInfo.parse(ValueError()) is None


@pytest.mark.parametrize(
    ("in_cluster", "needed"),
    [(False, "+publish +subscribe"), (True, "+spublish +ssubscribe +sunsubscribe")],
)
def test_what_a_user_lacks_to_be_woken_is_named(in_cluster, needed):
    [found] = said_of("wake-ups", attrs.evolve(FACTS, may_wake=False, in_cluster=in_cluster))
    assert found.level is Level.NOTE
    assert found.remedy == f"ACL SETUSER <user> &shop:* {needed}"
