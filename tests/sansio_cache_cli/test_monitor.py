"""`sansio-cache monitor`: what MONITOR shows, in the words of the protocol; on a server, and line by line."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter

import pytest

from sansio_cache import Absent, Policy
from sansio_cache.cell import Cell, Kind, format_cell, make_grant
from sansio_cache.codec import codec_for
from sansio_cache.entry import seal
from sansio_cache.url import read_url
from sansio_cache_cli.following import Follower
from sansio_cache_cli.happenings import What
from sansio_cache_cli.monitored import Monitored, parse_line
from sansio_cache_cli.monitoring import _follow, _Stream
from sansio_cache_cli.server import Server as Connection
from sansio_cache_redis.queue_scripts import APPEND, SETTLE
from sansio_cache_redis.scripts import ACQUIRE, FILL, RELEASE
from sansio_cache_redis.sync import Cache
from support.servers import wait_until
from support.terminal import Terminal


class Watching:
    """A namespace that is followed while a test uses it."""

    def __init__(self, url, namespace, *, asks=True):
        self.follower = Follower(namespace, asks=asks, database=read_url(url).database)
        self.watched = Connection(url, namespace, 10)
        self.asked = Connection(url, namespace, 10)
        self.namespace = namespace

    def __enter__(self):
        self.watched.__enter__()
        self.asked.__enter__()
        self.watched.asked((b"MONITOR",), "the test")
        self.stream = _Stream(self.watched, self.namespace)
        return self

    def __exit__(self, *_):
        self.stream.stop()
        self.watched.__exit__(None, None, None)
        self.asked.__exit__(None, None, None)

    def happened(self):
        """What has happened up to now, without its namespace and without what is not looked at."""
        marker = f"{self.namespace}:end-{random.random()}"
        self.asked.ask((b"APPEND", marker.encode(), b""))
        found = []
        until_s = time.monotonic() + 20
        while not (found and found[-1].key == marker):
            assert time.monotonic() < until_s, (found, list(self.follower._out), self.follower._open)
            _follow(self.stream, self.follower, self.asked)
            found += self.follower.happened(self.asked.clock_ms())
        self.follower.settle()
        return [(each.what, each.key.removeprefix(f"{self.namespace}:")) for each in found[:-1]]


@pytest.fixture
def watching(redis_url, namespace):
    with Watching(redis_url, namespace) as watching:
        yield watching


@pytest.fixture
def cache(redis_url, namespace):
    with Cache.from_url(redis_url, namespace=namespace, operation_timeout_s=5) as cache:
        yield cache
        cache.clear()


@pytest.mark.servers
def test_what_a_load_does_is_told_step_by_step_whatever_the_scripts_were_sent_as(
    watching, cache, redis_client
):
    redis_client.script_flush()
    for key in ("a", "b", "c"):  # by script, then by comparing
        assert cache.get_or_load(key, lambda: 1) == cache.get(key) == 1
        assert watching.happened() == [
            (What.MISS, key),
            (What.GRANT, key),
            (What.FILL, key),
            (What.HIT, key),
        ]


@pytest.mark.servers
def test_a_load_that_an_invalidation_overtakes_ends_in_a_refused_fill(watching, cache):
    for key in ("a", "b", "c"):
        cache.get_or_load(key, lambda key=key: cache.invalidate(key) and 1)
        assert watching.happened() == [
            (What.MISS, key),
            (What.GRANT, key),
            (What.INVALIDATION, key),
            (What.FILL_REFUSED, key),
        ]


@pytest.mark.servers
def test_what_was_stored_before_is_known_after_a_question(watching, cache, redis_client, namespace):
    cache.set_many({"a": 1, "b": 2, "c": 3})
    cache.get_or_load("none", Absent)
    redis_client.set(f"{namespace}:alien", "text")
    watching.happened()
    watching.follower.forget()
    assert cache.get_many(["a", "b", "x"]) == {"a": 1, "b": 2}
    cache.get("none")
    cache.get("alien")
    cache.get("a")
    assert watching.happened() == [
        (What.HIT, "a"),
        (What.HIT, "b"),
        (What.MISS, "x"),
        (What.NOTHING, "none"),
        (What.MISS, "alien"),
        (What.HIT, "a"),
    ]
    redis_client.unlink(f"{namespace}:alien")
    assert watching.happened() == [(What.INVALIDATION, "alien")]


@pytest.mark.servers
def test_writes_locks_tags_and_stale_values_have_their_names(watching, cache):
    cache.set("a", 1)
    with cache.mutate("a"):
        assert cache.get("a") is None
    cache.add("i", 1)
    cache.add("i", 2)
    cache.incr("i")
    with cache.lock("job", 30):
        pass
    assert watching.happened() == [
        (What.HOLD, "a"),
        (What.FILL, "a"),
        (What.HOLD, "a"),
        (What.MISS, "a"),
        (What.INVALIDATION, "a"),
        (What.HOLD, "i"),
        (What.FILL, "i"),
        (What.FOUND, "i"),
        (What.HIT, "i"),
        (What.SWAP, "i"),
        (What.LOCK, "%l:job"),
        (What.UNLOCK, "%l:job"),
    ]
    cache.get_or_load("t", lambda: 1, tags=["x"], policy=Policy(stale_for_s=60))
    cache.get("t")
    cache.expire("t")
    cache.get("t")
    cache.invalidate(tags=["x"])
    cache.get("t")
    happened = watching.happened()
    happened.remove(
        (What.TAG, "%t:x")
    )  # before the grant, or after it where the script has to be sent as text
    assert happened == [
        (What.MISS, "t"),
        (What.GRANT, "t"),
        (What.FILL, "t"),
        (What.HIT, "t"),
        (What.SOFT_EXPIRY, "t"),
        (What.STALE, "t"),
        (What.INVALIDATION, "%t:x"),
        (What.MISS, "t"),
    ]


def test_a_loader_that_fails_gives_its_lease_back(watching, cache):
    with pytest.raises(ZeroDivisionError):
        cache.get_or_load("a", lambda: 1 / 0)
    assert watching.happened() == [(What.MISS, "a"), (What.GRANT, "a"), (What.RELEASE, "a")]


def test_who_has_to_wait_and_who_finds_what_another_has_stored_are_told(
    watching, cache, redis_url, namespace
):
    with Cache.from_url(redis_url, namespace=namespace, operation_timeout_s=5) as other:
        cache.get_or_load("a", lambda: other.get_or_load("a", lambda: 2, policy=Policy(wait_s=0.01)) and 1)
    happened = watching.happened()
    assert happened[:2] == [(What.MISS, "a"), (What.GRANT, "a")]
    assert (What.WAIT, "a") in happened
    assert happened[-1] == (What.FILL, "a")


@pytest.mark.parametrize("seed", range(3))
def test_hits_and_misses_are_those_that_the_cache_itself_has_counted(watching, cache, seed):
    draw = random.Random(seed)
    cache.get_many([f"k{number}" for number in range(8)])  # so that no key is unknown when it is written
    watching.happened()
    before = cache.stats()
    for _ in range(300):
        key = f"k{draw.randrange(8)}"
        match draw.randrange(8):
            case 0:
                cache.invalidate(key)
            case 1:
                cache.set(key, 1, ttl=60)
            case 2 | 3:
                cache.get_or_load(key, lambda: 1)
            case _:
                cache.get(key)
    counted = Counter(what for what, _ in watching.happened())
    stats = cache.stats() - before
    assert counted[What.HIT] == stats.redis_hits
    assert counted[What.MISS] == stats.redis_misses
    assert counted[What.FILL] == stats.stored
    assert counted[What.READ] == counted[What.ACQUIRE] == 0


@pytest.mark.servers
def test_what_is_done_in_another_database_is_not_told(redis_url, cache, redis_client, namespace):
    url = f"{redis_url.rstrip('/').removesuffix('/0')}/1"
    with Cache.from_url(url, namespace=namespace, operation_timeout_s=5) as other:
        with Watching(url, namespace) as watching:
            other.get_or_load("a", lambda: 1)
            cache.get_or_load("a", lambda: 2)  # by script, and by comparing
            cache.get_or_load("b", lambda: 2)
            redis_client.unlink(f"{namespace}:a")
            assert other.get("a") == 1
            assert watching.happened() == [
                (What.MISS, "a"),
                (What.GRANT, "a"),
                (What.FILL, "a"),
                (What.HIT, "a"),
            ]
        other.clear()


# The command.


def is_monitored(client):
    return any(each["cmd"] == "monitor" for each in client.client_list())


def test_events_are_an_object_a_line_for_programs_and_end_when_there_were_enough(
    run, cache, redis_url, redis_client, namespace
):
    def use():
        wait_until(lambda: is_monitored(redis_client))
        cache.set("other", 1)
        cache.get_or_load("user:1", lambda: 1)

    user = threading.Thread(target=use)
    user.start()
    ran = run(
        "monitor",
        "user:*",
        "--url",
        redis_url,
        "--namespace",
        namespace,
        "--json",
        "--most",
        "3",
        "--seconds",
        "60",
    )
    user.join()
    events = [json.loads(line) for line in ran.out.splitlines()]
    assert [each["what"] for each in events] == ["miss", "grant", "fill"]
    assert {each["key"] for each in events} == {f"{namespace}:user:1"}
    assert ran.status == 0
    assert "MONITOR has the server send every command" in ran.err
    assert "1 miss, 1 grant, 1 fill" in ran.err


def test_a_name_that_is_no_text_is_shown_with_its_bytes(run, redis_url, redis_client, namespace):
    key = f"{namespace}:".encode() + b"\xff"
    value = format_cell(Cell(Kind.VALUE, filled_by=GRANT, body=bytes(22)))

    def use():
        wait_until(lambda: is_monitored(redis_client))
        redis_client.set(key, value, ex=60)
        redis_client.get(key)
        redis_client.unlink(key)

    for more, said in ((("--json",), f'"{namespace}:\\\\xff"'), ((), f"{namespace}:\\xff ")):
        user = threading.Thread(target=use)
        user.start()
        arguments = ("--url", redis_url, "--namespace", namespace, "--most", "3", "--seconds", "60")
        ran = run("monitor", *arguments, *more)
        user.join()
        assert (ran.status, ran.out.count(said)) == (0, 3), ran


def test_without_the_permission_it_is_one_line_with_what_to_grant(run, full_server):
    client = full_server.client()
    client.execute_command("ACL", "SETUSER", "watcher", "on", ">secret-pw", "~*", "&*", "+@all", "-monitor")
    url = full_server.url.replace("redis://", "redis://watcher:secret-pw@")
    ran = run("monitor", "--url", url, "--namespace", "shop")
    client.acl_deluser("watcher")
    assert (ran.status, "ACL SETUSER <user> +monitor" in ran.err) == (1, True)
    assert "secret-pw" not in ran.err


def test_a_server_that_goes_away_is_one_line(fresh_server):
    arguments = ("monitor", "--url", fresh_server.url, "--namespace", "shop", "--seconds", "600")
    client = fresh_server.client()
    with Terminal(arguments) as terminal:
        wait_until(lambda: is_monitored(client))
        fresh_server.kill()
        assert terminal.end() == 1
        assert "closed the connection" in terminal.text
        assert "Traceback" not in terminal.text


# Line by line.

NS = "ns:"
NOW_MS = 1_000_000
NONCE = b"nonce---"
GRANT = make_grant(NONCE, (NOW_MS - 10) * 1000)


def test_a_line_is_read_with_its_time_its_client_and_its_bytes():
    line = rb'1732600000.123456 [0 127.0.0.1:50412] "set" "ns:\xc5\x00\"\\\n" "x"'
    assert parse_line(line) == Monitored(
        1_732_600_000_123, "127.0.0.1:50412", "SET", (b'ns:\xc5\x00"\\\n', b"x"), 0
    )
    script = parse_line(b'1.0 [12 lua] "TIME"')
    assert script is not None
    assert script.is_of_script
    assert script.database == 12


@pytest.mark.parametrize("line", [b"", b"OK", b"1 [0 x] GET", b'x [0 h] "GET"', b"\xff" * 9])
def test_what_is_no_line_is_none(line):
    assert parse_line(line) is None


class Fed:
    """A follower that is fed by hand."""

    def __init__(self, *, asks=False):
        self.follower = Follower("ns", asks=asks)
        self.now_ms = NOW_MS

    def client(self, name, *args, at_ms=None):
        self.follower.feed(Monitored(at_ms or self.now_ms, "h:1", name, tuple(args)))

    def lua(self, name, *args):
        self.follower.feed(Monitored(self.now_ms, "", name, tuple(args)))

    def script(self, script, key, *args):
        self.client("EVALSHA", script.sha, b"1", key, *args)

    def happened(self):
        self.follower.settle()
        return [(each.what, each.key) for each in self.follower.happened()]


def cell(**fields):
    body = seal("ns:a", codec_for(None, 100), b"1", 0.0)
    return format_cell(Cell(Kind.VALUE, filled_by=GRANT, body=body, **fields))


def test_a_value_that_has_expired_by_the_servers_time_is_a_miss():
    fed = Fed()
    fed.script(FILL, b"ns:a", GRANT, cell(), b"5000", b"c")
    fed.lua("SET", b"ns:a", cell(), b"PX", b"5000")
    fed.client("GET", b"ns:a", at_ms=NOW_MS + 4_999)
    fed.client("GET", b"ns:a", at_ms=NOW_MS + 5_000)
    assert fed.happened() == [(What.FILL, "ns:a"), (What.HIT, "ns:a"), (What.MISS, "ns:a")]


def test_writes_that_are_queued_and_settled_are_told_by_their_keys():
    fed, root = Fed(), b"ns:%w:{q:0}"
    keys = [root + b":stream", root + b":pending", root + b":dead", root + b":h:ns:a", root + b":h:ns:b"]
    writes = (b"ns:a", GRANT, b"body", b"", b"ns:b", GRANT, b"body", b"")
    fed.client("EVALSHA", APPEND.sha, b"5", *keys, b"100", b"1", *writes)
    fed.lua("XLEN", keys[0])
    fed.lua("UNLINK", keys[3])
    keys = [root + b":lease", root + b":stream", root + b":pending", root + b":letters", root + b":dead"]
    verdicts = (b"7", b"ns:a", b"", b"0", b"8", b"ns:b", b"ValueError", b"0")
    for is_mine in (False, True):
        fed.client("EVALSHA", SETTLE.sha, b"5", *keys, GRANT, *verdicts)
        fed.lua("GETRANGE", keys[0], b"0", b"17")
        if is_mine:
            fed.lua("XACK", keys[1], b"consumers", b"7-0")
    assert fed.happened() == [
        (What.QUEUED, "ns:a"),
        (What.QUEUE_REFUSED, "ns:b"),
        (What.APPLIED, "ns:a"),
        (What.GIVEN_UP, "ns:b"),
    ]


def test_a_script_that_the_server_does_not_know_has_done_nothing():
    fed = Fed()
    fed.script(FILL, b"ns:a", GRANT, cell(), b"5000", b"c")
    fed.client("EVAL", FILL.source, b"1", b"ns:a", GRANT, cell(), b"5000", b"c")
    fed.lua("GETRANGE", b"ns:a", b"0", b"49")
    assert fed.happened() == [(What.FILL_REFUSED, "ns:a")]


def test_without_questions_a_first_read_is_only_a_read_and_an_acquire_only_that():
    fed = Fed()
    fed.client("GET", b"ns:a")
    fed.script(ACQUIRE, b"ns:a", NONCE, b"5000", bytes(16), b"keep")
    fed.lua("SET", b"ns:a", b"cell", b"PX", b"5000", b"NX", b"GET")
    fed.script(RELEASE, b"ns:a", NONCE)
    fed.lua("UNLINK", b"ns:a")
    fed.client("GET", b"ns:a")
    assert fed.happened() == [
        (What.READ, "ns:a"),
        (What.ACQUIRE, "ns:a"),
        (What.RELEASE, "ns:a"),
        (What.MISS, "ns:a"),
    ]
    assert fed.follower.questions() == []


def test_what_waits_for_an_answer_keeps_what_comes_after_it_and_not_for_ever():
    fed = Fed(asks=True)
    fed.client("GET", b"ns:a")
    fed.client("UNLINK", b"ns:b")
    assert fed.follower.questions() == ["ns:a"]
    assert fed.follower.happened(NOW_MS) == []
    [read, removal] = fed.follower.happened(NOW_MS + 501)
    assert (read.what, removal.what) == (What.READ, What.INVALIDATION)


def test_an_answer_holds_where_its_question_is_in_the_stream():
    fed = Fed(asks=True)
    fed.client("GET", b"ns:a")
    (question, _) = Follower.question("ns:a")
    fed.follower.know("ns:a", cell(), 9_000, NOW_MS)
    assert fed.follower.happened(NOW_MS) == []
    fed.client("GETRANGE", *question[1:])
    assert fed.happened() == [(What.HIT, "ns:a")]
    fed.client("GET", b"ns:a", at_ms=NOW_MS + 9_000)
    assert fed.happened() == [(What.MISS, "ns:a")]


def test_a_write_between_the_read_and_the_answer_makes_it_only_a_read():
    fed = Fed(asks=True)
    fed.client("GET", b"ns:a")
    fed.client("SET", b"ns:a", b"text", b"EX", b"9")
    assert fed.happened() == [(What.READ, "ns:a"), (What.OTHER, "ns:a")]


def test_after_a_flush_and_after_a_command_that_is_not_known_nothing_is_known():
    fed = Fed()
    for command in (("FLUSHDB",), ("RENAME", b"ns:a", b"ns:b")):
        fed.client("SET", b"ns:a", cell(), b"PX", b"9000")
        fed.client(*command)
        fed.client("GET", b"ns:a")
        assert fed.happened()[-2:] == [
            (What.OTHER, fed.happened and ("ns:" if len(command) == 1 else "ns:a")),
            (What.READ, "ns:a"),
        ]


def test_of_other_databases_only_the_flush_of_all_is_followed():
    follower = Follower("ns", asks=False, database=1)
    for line in (
        b'1.0 [0 h:1] "UNLINK" "ns:a"',
        b'1.0 [0 h:1] "FLUSHDB"',
        b'1.0 [0 h:1] "EVALSHA" "%s" "1" "ns:a" "%s" "c"' % (RELEASE.sha, NONCE),
        b'1.0 [0 lua] "UNLINK" "ns:a"',
        b'1.0 [1 h:1] "UNLINK" "ns:b"',
        b'1.0 [1 h:1] "EVALSHA" "%s" "1" "ns:c" "%s"' % (RELEASE.sha, NONCE),
        b'1.0 [1 lua] "UNLINK" "ns:c"',
        b'1.0 [0 h:1] "FLUSHALL"',
    ):
        command = parse_line(line)
        assert command is not None
        follower.feed(command)
    follower.settle()
    assert [(each.what, each.key) for each in follower.happened()] == [
        (What.INVALIDATION, "ns:b"),
        (What.RELEASE, "ns:c"),
        (What.OTHER, "ns:"),
    ]


@pytest.mark.parametrize(
    "args",
    [
        ("GET",),
        ("EVALSHA",),
        ("EVALSHA", b"x"),
        ("EVALSHA", b"x", b"y"),
        ("EVAL", b"", b"0"),
        ("SET", b"ns:a"),
        ("SET", b"ns:a", b"v", b"IFEQ"),
        ("SETRANGE", b"ns:a", b"x", b"y"),
        ("MGET", b"\xff", b"ns:\xff"),
        ("PEXPIRE", b"ns:a"),
        ("PEXPIRE", b"ns:a", b"9" * 5_000),
        ("SET", b"ns:a", b"v", b"PX", b"9" * 5_000),
        ("EVALSHA", b"x", b"9" * 5_000),
    ],
)
def test_commands_that_make_no_sense_harm_nothing(args):
    fed = Fed()
    fed.client(*args)
    fed.lua("SET", b"ns:a", b"v")
    fed.client("SETRANGE", b"ns:a", b"9", b"v")
    fed.client("GET", b"ns:a")
    assert fed.happened()[-1] in [(What.READ, "ns:a"), (What.MISS, "ns:a")]


def test_an_offset_far_beyond_a_value_takes_no_memory():
    fed = Fed()
    fed.client("SET", b"ns:a", b"v")
    fed.client("SETRANGE", b"ns:a", b"536870000", b"x")
    fed.client("SETRANGE", b"ns:a", b"9" * 18, b"x")
    held = fed.follower._keyspace.get("ns:a")
    assert held is not None
    assert held.raw == b"v".ljust(512, b"\0")


def test_lines_that_come_too_fast_are_dropped_and_nothing_is_taken_for_known(monkeypatch):
    class Source:
        def __init__(self):
            self.pages = [[b'1.0 [0 h:1] "GET" "ns:a"'] * 30, [b'1.0 [0 h:1] "GET" "other:a"', b"OK"]]

        def receive(self, until_s):
            return self.pages.pop(0) if self.pages else time.sleep(0.001) or []

    monkeypatch.setattr("sansio_cache_cli.monitoring._MOST_LINES", 20)
    source = Source()
    stream = _Stream(source, "ns")
    wait_until(lambda: not source.pages)
    stream.stop()
    assert stream.dropped == 20
    commands, were_lost = stream.take(100)
    assert (len(commands), were_lost) == (10, True)
    assert stream.take(100) == ([], False)


class Wire:
    """Gives what comes, each time in one piece."""

    def __init__(self, *pieces):
        self._pieces = list(pieces)

    def write(self, data):
        pass

    def read(self, until_s):
        return self._pieces.pop(0) if self._pieces else []


def test_lines_that_come_together_with_the_reply_to_monitor_are_shown():
    """As on a busy server."""
    server = Connection("redis://127.0.0.1:1", "shop", 5.0)
    server._wire = Wire([b"OK", b"first", b"second"], [b"third"])
    assert server.asked((b"MONITOR",), "monitor") == b"OK"
    until_s = time.monotonic() + 1.0
    assert [server.receive(until_s) for _ in range(3)] == [[b"first", b"second"], [b"third"], []]
