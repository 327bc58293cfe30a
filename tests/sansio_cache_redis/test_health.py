"""Health: what is missing is a problem, what will hurt is a warning, and what cannot be asked is neither."""

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import SimpleNamespace
from uuid import uuid4

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import InvalidResponse, NoPermissionError, ResponseError

from sansio_cache import CacheConfig, RedisConfig
from sansio_cache.health import Health
from sansio_cache_redis.backend.base import BaseBackend
from sansio_cache_redis.calls import TIME, wake_channel
from sansio_cache_redis.health import LEAST_VALUES, Trips, judge, probes, too_far
from sansio_cache_redis.reasons import Where
from sansio_cache_redis.replies import tell_time
from sansio_cache_redis.sync import Cache
from support.faulty import PATIENT, on_every_runtime, opened, run_on
from support.proxy import FaultProxy
from support.runtimes import ON_MEMORY, ON_SERVER, WAYS_IN, runs
from support.servers import Server

pytestmark = pytest.mark.servers

LARGEST_BYTES = 1000
ENOUGH_BYTES = LEAST_VALUES * LARGEST_BYTES
WORDS = {
    "replica": "is a replica",
    "min-replicas": "min-replicas-to-write is 0",
    "unlimited": "no memory limit",
    "noeviction": "policy is noeviction",
    "volatile-ttl": "policy is volatile-ttl",
    "small": "less than 16 values of max_value_bytes",
}


def info(
    *, maxmemory="100000000", policy="allkeys-lfu", role="master", version="8.2.0", replicas=0, heeded=None
):
    """Replies to INFO, by section."""
    memory = {"used_memory": "1", "maxmemory": maxmemory, "maxmemory_policy": policy}
    return {
        b"server": {"redis_version": version, "os": "Linux: 6"},
        b"memory": {name: value for name, value in memory.items() if value is not None},
        b"replication": {
            **({"role": role} if role else {}),
            **({"connected_slaves": replicas} if replicas else {}),
            **({} if heeded is None else {"min_slaves_good_slaves": heeded}),
        },
    }


def as_text(facts):
    lines = [f"{name}:{value}" for name, value in facts.items()]
    return "\r\n".join(["# Section", *lines, ""]).encode()


def judged(sections, parsed=False, max_value_bytes=LARGEST_BYTES) -> Health:
    """The verdict on a server that does everything, and says so much of itself."""
    asked = probes("shop")
    replies = [
        (sections[args[1]] if parsed else as_text(sections[args[1]])) if args[0] == b"INFO" else [b"1", 1]
        for _, args in asked
    ]
    return judge(asked, replies, max_value_bytes)


def warned_of(health: Health) -> set[str]:
    """Which of the warnings there are; each is one sentence that ends with what to do."""
    found = {name for name, words in WORDS.items() if any(words in each for each in health.warnings)}
    assert len(found) == len(health.warnings)
    return found


@pytest.mark.parametrize(
    ("facts", "warnings"),
    [
        ({}, set()),
        ({"policy": "allkeys-lru"}, set()),
        ({"policy": "volatile-lru"}, set()),
        ({"policy": "noeviction"}, {"noeviction"}),
        ({"policy": "volatile-ttl"}, {"volatile-ttl"}),
        # Nothing is evicted, and nothing refused, before there is a limit.
        ({"maxmemory": "0", "policy": "noeviction"}, {"unlimited"}),
        ({"maxmemory": str(ENOUGH_BYTES)}, set()),
        ({"maxmemory": str(ENOUGH_BYTES - 1)}, {"small"}),
        ({"maxmemory": "1", "policy": "noeviction"}, {"small", "noeviction"}),
        ({"role": "slave"}, {"replica"}),
        ({"replicas": 2}, {"min-replicas"}),
        ({"replicas": 2, "heeded": 1}, set()),
        # What a server does not tell is not held against it.
        ({"maxmemory": None, "policy": None, "role": None}, set()),
        ({"maxmemory": "", "policy": ""}, set()),
        ({"maxmemory": "much", "policy": "a policy of the future"}, set()),
    ],
)
@pytest.mark.parametrize("parsed", [False, True], ids=["bytes", "parsed"])
def test_what_will_hurt_is_warned_of_and_leaves_the_verdict_alone(facts, warnings, parsed):
    health = judged(info(**facts), parsed)

    assert warned_of(health) == warnings
    assert (health.ok, health.problems, health.server) == (True, (), "Redis 8.2.0")


@pytest.mark.parametrize(
    ("facts", "maxmemory_bytes", "policy"),
    [
        ({"maxmemory": "0", "policy": "noeviction"}, 0, "noeviction"),
        ({"maxmemory": "123456789"}, 123_456_789, "allkeys-lfu"),
        ({"maxmemory": None, "policy": None}, None, ""),
        ({"maxmemory": "-1", "policy": ""}, None, ""),
    ],
)
def test_the_memory_limit_and_the_policy_are_reported(facts, maxmemory_bytes, policy):
    health = judged(info(**facts))

    assert health.maxmemory_bytes == maxmemory_bytes
    assert health.eviction_policy == policy


def test_a_server_that_is_too_old_is_told_by_its_version_whatever_else_it_says():
    health = judged(info(version="6.2.14", policy="noeviction"))

    assert not health.ok
    assert health.problems == ("Redis 6.2.14 is too old: version 7.0 or later is needed",)
    assert warned_of(health) == {"noeviction"}


def test_a_refused_info_is_no_problem_and_one_warning_says_what_is_not_known_then():
    asked = probes("shop")
    refusal = redis.exceptions.NoPermissionError("no permissions to run the 'info' command")
    replies = [refusal if args[0] == b"INFO" else [b"1", 1] for _, args in asked]

    health = judge(asked, replies, LARGEST_BYTES)
    assert (health.ok, health.problems) == (True, ())
    [warning] = health.warnings
    assert warning.startswith("INFO is refused (NoPermissionError: no permissions to run the")
    assert "What a failover has lost is not told again" in warning
    assert warning.endswith("Allow the user +info")


@pytest.mark.parametrize(
    ("channel_of", "command"), [(wake_channel, "PUBLISH"), (str.encode, "SPUBLISH")], ids=["one", "cluster"]
)
def test_who_may_not_wake_those_who_wait_is_warned_of(channel_of, command):
    """A server that does not know the command says so in other words: then waiters poll as well."""
    asked = probes("shop", channel_of=channel_of)
    refusal = ResponseError(f"unknown command '{command}', with args beginning with: ")
    replies = [refusal if args[0] == command.encode() else [b"1", 1] for _, args in asked]

    health = judge(asked, replies, LARGEST_BYTES)
    assert (health.ok, health.problems) == (True, ())
    [warning] = health.warnings
    assert warning.startswith(f"{command} is refused (")
    assert warning.endswith("is not told when it has ended, and looks again every 100 ms")


@pytest.mark.parametrize(
    ("floor_us", "left_s"), [(0, 0), (5_000_001, 0), (5_000_002, 1), (3_605_000_001, 3600)]
)
def test_a_server_whose_clock_is_behind_its_start_from_a_snapshot_has_a_problem(floor_us, left_s):
    """Until then nothing is stored. `test_failover.py` has it of a real server."""
    asked = probes("shop")
    replies = [[b"5", b"1"] if args == TIME else [b"1", 1] for _, args in asked]

    health = judge(asked, replies, LARGEST_BYTES, floor_us)
    assert health.ok is (left_s == 0)
    if left_s:
        [problem] = health.problems
        assert f"for {left_s} s from now on by its clock nothing is stored" in problem
        assert "its clock was put back: set it right" in problem


@contextmanager
def configured(server: Server, **settings: str) -> Iterator[None]:
    """Set up a server otherwise, and as it was again."""
    admin = server.client()
    names = [name.replace("_", "-") for name in settings]
    before = {name: admin.config_get(name)[name] for name in names}
    try:
        for name, value in zip(names, settings.values(), strict=True):
            admin.config_set(name, value)
        yield
    finally:
        for name, value in before.items():
            admin.config_set(name, value)


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    """A server of this module, whose configuration may be changed."""
    with Server.start() as server:
        yield server


@on_every_runtime
@pytest.mark.parametrize(
    ("settings", "warnings"),
    [
        ({"maxmemory": "0"}, {"unlimited"}),
        ({"maxmemory": "1gb", "maxmemory_policy": "noeviction"}, {"noeviction"}),
        ({"maxmemory": "1gb", "maxmemory_policy": "volatile-ttl"}, {"volatile-ttl"}),
        ({"maxmemory": "1gb", "maxmemory_policy": "allkeys-lfu"}, set()),
        ({"maxmemory": "100mb", "maxmemory_policy": "allkeys-lru"}, {"small"}),
    ],
)
def test_a_server_says_how_it_is_set_up(runtime, settings, warnings, own_server, namespace):
    async def main() -> None:
        async with opened(runtime, own_server.url, namespace, **PATIENT) as cache:
            health = await cache.health()
            assert health.ok, health.problems
            assert warned_of(health) == warnings
            if "maxmemory_policy" in settings:
                assert health.eviction_policy == settings["maxmemory_policy"]
            assert (
                health.maxmemory_bytes == {"0": 0, "100mb": 100 * 2**20, "1gb": 2**30}[settings["maxmemory"]]
            )

    with configured(own_server, **settings):
        run_on(runtime, main)


@on_every_runtime
def test_a_replica_is_warned_of_before_anything_is_lost(runtime, own_server, namespace):
    admin = own_server.client()

    async def main() -> None:
        async with opened(runtime, own_server.url, namespace, **PATIENT) as cache:
            health = await cache.health()
            assert not health.ok
            assert "is a replica, and takes no writes" in health.problems[0]

    # Of a server that is not there: it stays a replica.
    admin.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        run_on(runtime, main)
    finally:
        admin.execute_command("REPLICAOF", "NO", "ONE")


@on_every_runtime
def test_a_user_who_may_not_ask_for_info_is_none_the_worse(runtime, own_server):
    name, namespace = f"u{uuid4().hex[:8]}", f"t{uuid4().hex[:12]}"
    own_server.client().execute_command(
        "ACL", "SETUSER", name, "reset", "on", ">pw", f"~{namespace}:*", "&*", "+@all", "-info"
    )
    url = own_server.url.replace("redis://", f"redis://{name}:pw@")

    async def main() -> None:
        async with opened(runtime, url, namespace, **PATIENT) as cache:
            health = await cache.health()
            assert (health.ok, health.problems) == (True, ())
            [warning] = health.warnings
            assert "INFO is refused" in warning
            assert name not in warning
            assert await cache.get_or_load("k", lambda: 1) == 1
            assert await cache.get("k") == 1
            assert (health.maxmemory_bytes, health.eviction_policy, health.server) == (None, "", "")

    run_on(runtime, main)


@runs(ON_SERVER + WAYS_IN, compare=None)
async def test_the_limit_is_known_whichever_way_the_server_is_reached(world):
    health = await world.cache.health()

    assert health.maxmemory_bytes == 0
    assert health.eviction_policy == "noeviction"
    assert warned_of(health) == {"unlimited"}


@runs(ON_MEMORY, memory_max_bytes=5_000_000)
async def test_a_store_in_memory_reports_its_own_limits(world):
    health = await world.cache.health()

    assert (health.ok, health.server, health.warnings) == (True, "memory", ())
    # The store is shared under a name; its limits are those of the first cache that has it.
    assert health.maxmemory_bytes == world.raw._store.max_bytes
    assert health.eviction_policy == "lru"


def test_the_limit_of_a_store_in_memory_is_that_of_the_configuration():
    with Cache.from_url("memory://", namespace="shop", memory_max_bytes=5_000_000) as cache:
        assert cache.health().maxmemory_bytes == 5_000_000


def test_a_server_that_cannot_be_asked_has_no_limit_that_is_known(namespace):
    with closing(Cache.from_url("redis://127.0.0.1:1", namespace=namespace)) as cache:
        health = cache.health()
    assert not health.ok
    assert (health.maxmemory_bytes, health.eviction_policy, health.warnings) == (None, "", ())


# What is odd, and what is far away.


odd = st.recursive(
    st.none() | st.integers() | st.binary(max_size=8) | st.text(max_size=8) | st.just(ResponseError("ERR x")),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(st.data())
def test_no_answer_is_so_odd_that_health_raises(data):
    """As of a server that is none, or a client that has parsed what it did not understand."""
    backend = BaseBackend.__new__(BaseBackend)
    backend._where, backend.place, backend._config = Where("h:1"), "h:1", CacheConfig(namespace="n")
    backend._server, backend._dialect = SimpleNamespace(warnings=tuple), SimpleNamespace(floor_us=1)
    asked = probes("n")
    health = backend._judged(asked, [data.draw(odd) for _ in asked], 0.001)
    assert isinstance(health, Health)


@pytest.mark.parametrize("reply", [None, b"", b"now", [], [b"1"], [b"x", b"y"], [None, None], 5, "²"])
def test_a_server_that_does_not_tell_the_time_has_a_problem(reply):
    asked = probes("shop")
    replies = [reply if args == TIME else [b"1", 1] for _, args in asked]
    health = judge(asked, replies, LARGEST_BYTES)
    assert "TIME does not give the time: the server's clock will not work" in health.problems
    with pytest.raises(InvalidResponse, match="does not give the time"):
        tell_time(reply, print)


def test_what_refuses_is_shown_without_the_name_of_the_user():
    asked = probes("shop")
    refusal = NoPermissionError("User alice has no permissions to run the 'get' command")
    health = judge(asked, [refusal] * len(asked), LARGEST_BYTES)
    assert not health.ok
    assert "alice" not in repr(health)
    assert "GET is refused (NoPermissionError: the user has no permissions to run the)" in repr(health)


@pytest.mark.parametrize(
    ("latency_s", "options", "warning"),
    [
        (0.099, {}, None),
        (
            0.121,
            {},
            "takes 121 ms, and no more than 100 ms .* Raise operation_timeout_s, to 0.7 s or more",
        ),
        (0.121, {"operation_timeout_s": 1.0}, None),
        (
            0.3,
            {"operation_timeout_s": 2.0, "attempt_timeout_s": 0.25},
            "takes 300 ms, and no more than 250 ms .* Raise attempt_timeout_s, to 0.6 s or more",
        ),
    ],
)
def test_a_server_that_is_too_far_away_for_the_time_outs_is_warned_of(latency_s, options, warning):
    config = RedisConfig(**options)
    warnings = list(too_far(latency_s, config))
    if warning is None:
        assert warnings == []
    else:
        [said] = warnings
        assert re.search(warning, said)
        raised = {"operation_timeout_s": 5.0, "attempt_timeout_s": None} | {
            words[1]: float(words[2]) for words in [re.search(r"Raise (\w+), to ([\d.]+)", said)]
        }
        assert not list(too_far(latency_s, RedisConfig(**raised))), "what it says is enough"


def test_the_shortest_trip_is_the_one_that_counts():
    trips = Trips(1.0)
    for now_s in (3.0, 3.5, 5.0):
        trips.ended(now_s)
    assert trips.shortest_s == 0.5


@pytest.mark.timing
@on_every_runtime
def test_a_server_that_is_far_away_is_warned_of_by_health(runtime, redis_server, namespace):
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main():
            async with opened(runtime, proxy.url, namespace) as cache:
                await cache.wait_ready(20)
                proxy.far_away(0.06)
                return await cache.health()

        health = run_on(runtime, main)
    assert health.ok
    assert health.latency_s >= 0.12
    [warning] = [each for each in health.warnings if "a round trip to the server takes" in each]
    assert "Raise operation_timeout_s" in warning
