"""What a server says of itself as a connection opens, and what follows from it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from redis.exceptions import NoPermissionError, ReadOnlyError, ResponseError

from sansio_cache_redis.connections.redispy import pack
from sansio_cache_redis.dialect import Dialect
from sansio_cache_redis.errors import NotADataServerError
from sansio_cache_redis.facts import GREETING, NEEDED, Facts, facts_from

REFUSED = NoPermissionError("no permissions")
HELLO = [
    *(b"server", b"valkey", b"version", b"9.1.2", b"proto", 2, b"id", 4),
    *(b"mode", b"standalone", b"role", b"master", b"modules", []),
]
STARTED = Facts(started_s=1_000, loaded_keys=5)


def info(**facts):
    return "\r\n".join(["# Server", *(f"{name}:{value}" for name, value in facts.items()), ""]).encode()


def ask(server):
    """The replies of a server to the greeting, all of it in one write."""
    with server.client() as client:
        connection = client.connection_pool.get_connection()
        connection.send_packed_command([pack(GREETING)])
        replies = []
        for _ in GREETING:
            try:
                replies.append(connection.read_response())
            except ResponseError as error:
                replies.append(error)
        return replies


@pytest.mark.servers
def test_a_server_says_what_it_is(fresh_server):
    facts = facts_from(*ask(fresh_server)[1:])
    product, _, version = fresh_server.version.partition("-")
    assert (facts.name.lower(), facts.version) == (product, version)
    assert (facts.mode, facts.role, facts.missing) == ("standalone", "primary", ())
    assert len(facts.run_id) == 40
    assert (facts.is_loading, facts.has_log, facts.loaded_keys, facts.replicated_bytes) == (
        False,
        False,
        0,
        0,
    )
    assert not facts.heeds_replicas
    seconds, _ = fresh_server.client().time()
    assert seconds - 60 <= facts.started_s <= seconds
    before = facts.run_id
    fresh_server.restart()
    assert facts_from(*ask(fresh_server)[1:]).run_id != before


def test_what_is_refused_is_unknown_and_hello_says_what_it_can():
    facts = facts_from(HELLO, REFUSED, REFUSED)
    assert facts == Facts(name="Valkey", version="9.1.2", mode="standalone", role="primary")
    assert facts_from(dict(zip(HELLO[::2], HELLO[1::2], strict=True)), REFUSED) == facts
    assert facts_from(REFUSED, REFUSED, REFUSED) == Facts()


def test_a_client_of_the_users_has_parsed_what_is_told():
    facts = facts_from(REFUSED, {"role": "slave", "run_id": "abc", "rdb_last_load_keys_loaded": 7})
    assert (facts.role, facts.run_id, facts.loaded_keys) == ("replica", "abc", 7)


def test_a_redis_is_no_valkey():
    facts = facts_from(REFUSED, info(redis_version="7.0.15", redis_mode="cluster", connected_slaves=2))
    assert (facts.name, facts.version, facts.mode, facts.replicas) == ("Redis", "7.0.15", "cluster", 2)
    assert facts_from(REFUSED, info(role="master", min_slaves_good_slaves=0)).heeds_replicas


def test_commands_that_a_service_leaves_out_are_named():
    known = [None if name == "spublish" else [name.encode()] for name in NEEDED]
    assert facts_from(HELLO, REFUSED, known).missing == ("spublish",)
    assert facts_from(HELLO, REFUSED, known[1:]).missing == ()


@pytest.mark.parametrize(
    ("facts", "floor_us"),
    [
        (STARTED, 1_001_500_000),
        (Facts(started_s=1_000), 0),
        (Facts(loaded_keys=5), 0),
        (Facts(started_s=1_000, loaded_keys=5, has_log=True), 0),
        (Facts(started_s=1_000, loaded_keys=5, replicated_bytes=9), 0),
        (Facts(started_s=1_000, loaded_keys=5, role="replica"), 0),
    ],
)
def test_what_was_issued_before_a_snapshot_was_loaded_is_not_to_be_trusted(facts, floor_us):
    assert facts.floor_us(0.5) == floor_us


def test_a_run_that_has_begun_empty_holds_nothing_old():
    began = Facts(run_id="a", started_s=1_000)
    assert began.began_empty
    for known in ({"loaded_keys": 1}, {"has_log": True}, {"replicated_bytes": 1}, {"run_id": ""}):
        assert not replace(began, **known).began_empty
    assert not Facts(run_id="a").began_empty


@pytest.mark.parametrize(("facts", "is_another"), [({}, False), ({"aof_enabled": 1}, True)])
def test_another_run_is_another_store_where_it_may_hold_what_is_old(facts, is_another):
    dialect, met = Dialect(clock=float), []
    dialect.on_met = met.append
    for run_id in ("a", "a", "b"):
        told = info(run_id=run_id, server_time_usec=5_000_000, uptime_in_seconds=1, **facts)
        dialect.greet([[b"1", b"1"], REFUSED, told, REFUSED])
    assert met == [False, False, is_another]


def test_the_start_is_the_same_whenever_it_is_asked_for():
    early = facts_from(REFUSED, info(server_time_usec=1_000_999_999, uptime_in_seconds=0))
    late = facts_from(REFUSED, info(server_time_usec=1_100_000_000, uptime_in_seconds=100))
    assert early.started_s == late.started_s == 1_000


@pytest.mark.parametrize(
    ("facts", "error"),
    [({"role": "slave"}, ReadOnlyError), ({"redis_mode": "sentinel"}, NotADataServerError)],
)
def test_nothing_is_asked_of_a_replica_or_of_a_sentinel(facts, error):
    with pytest.raises(error):
        Dialect(clock=float).greet([[b"1", b"1"], REFUSED, info(**facts), REFUSED])


@given(st.lists(st.recursive(st.none() | st.binary() | st.integers(), st.lists), min_size=3, max_size=3))
def test_no_answer_is_so_odd_that_it_is_not_read(replies):
    assert isinstance(facts_from(*replies), Facts)
