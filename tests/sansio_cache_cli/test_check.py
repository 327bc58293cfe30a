"""`sansio-cache check`: what is planted on a real server is found; and what it says of facts, without one."""

from __future__ import annotations

import time

import attrs
import pytest
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache.cell import Cell, Kind, format_cell, make_grant
from sansio_cache.health import Health
from sansio_cache.inspection import inspect
from sansio_cache_cli.lives import lives_of
from sansio_cache_cli.server import Server as Connection
from sansio_cache_cli.server_info import ServerInfo
from sansio_cache_cli.verdicts import ClockOffset, Facts, Level, Verdict, Wanted, verdicts, worst
from sansio_cache_redis.health import judge
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
    to = ("--url", url or server.url, "--namespace", namespace)
    return run("check", *to, "--json", "--seconds", "120", *more)


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


def test_a_server_that_is_right_for_queues_passes_the_strictest_check(run, full_server, planted):
    append = planted.config_get("appendonly")["appendonly"]
    planted.config_set("maxmemory-policy", "noeviction")
    planted.config_set("appendonly", "yes")
    try:
        ran = check(run, full_server, "--durable", "--strict")
    finally:
        planted.config_set("appendonly", append)
    assert {each["level"] for each in ran.json()["verdicts"]} == {"ok"}
    assert ran.status == 0


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


def restricted(server, planted, *denied):
    """The URL of a user that may do what the cache needs, but for some commands."""
    planted.acl_setuser("cache", enabled=True)  # it exists before its rules
    rules = (*CACHE_RULES, "~small:*", "+info", *(f"-{name}" for name in denied))
    planted.execute_command("ACL", "SETUSER", "cache", *rules)
    return server.url.replace("redis://", "redis://cache:secret-pw@")


def test_where_time_may_not_be_asked_keys_are_looked_at_without_their_ages(run, full_server, planted):
    url = restricted(full_server, planted, "time")
    ran = check(run, full_server, url=url)
    assert verdict_of(ran, "clock") == {
        "name": "clock",
        "level": "note",
        "said": "the user of the URL may not ask TIME",
        "remedy": "ACL SETUSER <user> +time",
    }
    assert verdict_of(ran, "ttl")["said"] == "each of 50,000 keys (all there are) has a time to live"
    assert not [each for each in ran.json()["verdicts"] if each["name"] in ("jitter", "entries")]


@pytest.mark.parametrize("command", [("ttl",), ("keys", "user:1*")], ids=lambda command: command[0])
def test_where_time_may_not_be_asked_what_shows_ages_is_refused(run, full_server, planted, command):
    url = restricted(full_server, planted, "time")
    ran = run(*command, "--url", url, "--namespace", "shop")
    assert (ran.status, ran.out) == (1, "")
    assert "does not permit the user of the URL TIME" in ran.err


@pytest.mark.parametrize("name", ["getrange", "pttl"])
def test_what_may_not_be_read_is_not_taken_for_another_programs(run, full_server, planted, name):
    url = restricted(full_server, planted, name)
    for command in (("ttl",), ("keys", "user:1*")):
        ran = run(*command, "--url", url, "--namespace", "shop")
        assert (ran.status, ran.out) == (1, "")
        assert f"does not permit the user of the URL {name.upper()}" in ran.err
    ran = check(run, full_server, url=url)
    assert ran.status == 1
    assert verdict_of(ran, "keys") == {
        "name": "keys",
        "level": "problem",
        "said": f"the user of the URL may not {name.upper()}: no key was looked at",
        "remedy": f"ACL SETUSER <user> +{name}",
    }
    assert not [each for each in ran.json()["verdicts"] if each["name"] == "entries"]


def test_where_keys_may_not_be_found_it_is_a_note(run, full_server, planted):
    ran = check(run, full_server, url=restricted(full_server, planted, "scan"))
    assert (verdict_of(ran, "keys")["level"], "may not SCAN" in verdict_of(ran, "keys")["said"]) == (
        "note",
        True,
    )


@pytest.mark.parametrize("name", ["SCAN", "GETRANGE", "PTTL"])
def test_a_server_that_fails_in_the_middle_of_it_fails_the_check(run, full_server, monkeypatch, name):
    ask = Connection.ask

    def failing(self, *commands):
        replies = ask(self, *commands)
        failure = ResponseError("LOADING the dataset in memory")
        return [
            failure if command[0] == name.encode() else reply
            for command, reply in zip(commands, replies, strict=True)
        ]

    monkeypatch.setattr(Connection, "ask", failing)
    ran = check(run, full_server)
    assert (ran.status, ran.out) == (1, "")
    assert f"refuses {name}" in ran.err


def test_a_server_that_is_lost_in_the_middle_of_it_fails_the_check(run, full_server, monkeypatch):
    def losing(self, pattern):
        raise self._failure(RedisTimeoutError())

    monkeypatch.setattr(Connection, "scan", losing)
    ran = check(run, full_server)
    assert (ran.status, ran.out) == (1, "")
    assert "the server cannot be asked" in ran.err


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
    ("policy", "queues", "durable", "level", "remedy"),
    [
        ("noeviction", 1, True, Level.OK, ""),
        ("volatile-lru", 1, False, Level.OK, ""),
        ("volatile-lru", 1, True, Level.WARNING, "CONFIG SET maxmemory-policy noeviction, where "),
        ("volatile-ttl", 0, True, Level.WARNING, "CONFIG SET maxmemory-policy noeviction, where "),
        ("allkeys-lfu", 0, True, Level.PROBLEM, "CONFIG SET maxmemory-policy noeviction, or "),
        ("allkeys-lfu", 1, False, Level.PROBLEM, "CONFIG SET maxmemory-policy volatile-lfu or noeviction, "),
    ],
)
def test_what_must_stay_wants_a_policy_that_evicts_nothing(policy, queues, durable, level, remedy):
    facts = attrs.evolve(with_info(maxmemory_policy=policy), internal={"%w:": queues})
    [found] = said_of("eviction", facts, Wanted(durable=durable))
    assert (found.level, found.remedy.startswith(remedy)) == (level, True)
    assert ("--durable was asked for" in found.said) == (durable and level is Level.PROBLEM)


@pytest.mark.parametrize("limit", ["0", "1000000000"])
@pytest.mark.parametrize("policy", ["noeviction", "volatile-ttl", "volatile-lru"])
def test_no_verdict_advises_to_evict_what_must_stay(policy, limit):
    """`health()` speaks of a server with nothing but caches, and here it is another one that is wanted."""
    fields = {"redis_version": "8.2.0", "role": "master", "maxmemory": limit, "maxmemory_policy": policy}
    asked = [("the server's memory", (b"INFO", b"memory"))]
    reply = "".join(f"{name}:{value}\r\n" for name, value in fields.items()).encode()
    health = judge(asked, [reply], 8 * 2**20)
    facts = attrs.evolve(with_info(**fields, aof_enabled="1"), health=health)
    found = verdicts(facts, Wanted(durable=True))
    assert not [each for each in found if "allkeys" in each.said + each.remedy]
    is_right = (policy, limit) == ("noeviction", "1000000000")
    assert (worst(found) is Level.OK) == is_right
    if limit == "0":
        assert any(each.remedy.startswith("set maxmemory, with noeviction") for each in found)
    assert bool([each for each in verdicts(facts, WANTED) if "allkeys" in each.remedy]) == (
        limit == "0" or policy != "volatile-lru"
    )


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


def test_what_is_queued_can_lose_what_its_health_says():
    health = attrs.evolve(FACTS.health, durability="The append-only file is on: nothing is lost.")
    facts = attrs.evolve(with_info(aof_enabled="1"), health=health)
    [found] = said_of("durability", facts, Wanted(durable=True))
    assert found.said == "The append-only file is on: nothing is lost"


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

    for lives, level in (
        (range(60_000, 160_000, 1_000), Level.OK),
        ([60_000] * 100, Level.WARNING),
        ([2_500] * 100, Level.OK),  # whatever is stored when, most of them are loaded again in a second
    ):
        found = lives_of([entry(number, life_ms) for number, life_ms in enumerate(lives)])
        [verdict] = said_of("jitter", attrs.evolve(FACTS, lives=found))
        assert verdict.level is level


@pytest.mark.parametrize(
    ("life_ms", "is_even", "level"),
    [(11_000, True, Level.OK), (11_000, False, Level.WARNING), (600_000, False, Level.WARNING)],
)
def test_short_lives_that_were_stored_evenly_are_not_taken_for_ones_without_jitter(life_ms, is_even, level):
    """A thousand entries with lives of 11 to 12 s: of these, at least 83 are loaded again each second."""

    def entry(number):
        own_ms = life_ms + (number * 37) % 1_000
        age_ms = number * own_ms // 1_000 if is_even else number % 10
        grant = make_grant(b"nonce---", (10_000_000 - age_ms) * 1_000)
        raw = format_cell(Cell(Kind.VALUE, filled_by=grant, body=bytes(22)))
        return inspect(f"shop:user:{number}", raw, left_ms=own_ms - age_ms, server_ms=10_000_000)

    [found] = said_of("jitter", attrs.evolve(FACTS, lives=lives_of(map(entry, range(1_000)))))
    assert found.level is level


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
