"""Short cuts that were rejected, on a real server: each of them serves a stale value, in a few steps.

What is left of the scripts, an acquire and a hold, could be plain commands if the client made the grant. The
explorer finds what goes wrong then (`tests/explorations/variants.py`, 61 to 65); here its counterexamples are
replayed, and beside each the same steps of the protocol, which refuse the old value. The database's version
is in the value: 0 is what was read before the write, 1 what was written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import pytest
import redis

from sansio_cache.cell import NO_GRANT, Cell, Kind, format_cell, make_grant, parse_cell
from sansio_cache.commands import (
    AcquireLease,
    DeleteKeys,
    Fill,
    FillCells,
    HoldCells,
    Mode,
)
from sansio_cache.config import CacheConfig
from sansio_cache.events import FillResult
from sansio_cache_redis.backend.sync import RedisBackend, make_backend
from sansio_cache_redis.scripts import Script
from sansio_cache_runtime.sync.background import Background
from support.servers import Server, can_compare

pytestmark = pytest.mark.servers

KEY, NAME = "ns:k", b"ns:k"
LEASE_MS = 300_000
ONE, OTHER = b"nonce--1", b"nonce--2"
OLD, NEW = b"0", b"1"
TIMEOUT_S = 10.0

COMPARE = Script(
    "compare",
    "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return nil end "
    "return redis.call('SET', KEYS[1], ARGV[2], 'PX', 300000)",
)
"""SET with IFEQ, where the server has none."""


@pytest.fixture(scope="module")
def client() -> Iterator[redis.Redis]:
    with Server.start() as server, closing(server.client()) as client:
        yield client


@pytest.fixture
def store(client: redis.Redis) -> RedisBackend:
    """The protocol as it ships, which has found out whether the server compares."""
    client.flushall()
    backend = make_backend(CacheConfig(namespace="ns"), client, time.monotonic, Background().start)
    backend.perform(FillCells((Fill(KEY, NO_GRANT, 1, 0, b""),), TIMEOUT_S))
    return backend


def left(kind: Kind, grant: bytes) -> bytes:
    """What a key holds that was taken without a script: all of it is the client's."""
    return format_cell(Cell(kind, grant, lease_deadline_ms=1))


def take(client: redis.Redis, cell: bytes, *, if_absent: bool = True) -> bool:
    return bool(client.set(KEY, cell, px=LEASE_MS, nx=if_absent))


def store_if(client: redis.Redis, cell: bytes, body: bytes) -> bool:
    """Store a value where the key holds this very cell."""
    value = format_cell(Cell(Kind.VALUE, filled_by=ONE + bytes(8), body=body))
    if can_compare(client):
        return bool(client.execute_command("SET", NAME, value, "IFEQ", cell, "PX", LEASE_MS))
    return bool(client.eval(COMPARE.text, 1, NAME, cell, value))


def body_of(client: redis.Redis) -> bytes | None:
    raw = client.get(KEY)
    cell = None if raw is None else parse_cell(raw)
    return cell.body if isinstance(cell, Cell) and cell.kind == Kind.VALUE else None


def test_grants_that_are_random_per_attempt(client: redis.Redis, store: RedisBackend) -> None:
    """An attempt that was acknowledged arrives once more, after the invalidation."""
    attempt = left(Kind.EMPTY, make_grant(ONE, 7))
    assert take(client, attempt)
    client.unlink(KEY)  # the writer has committed version 1, and says so
    assert take(client, attempt)
    assert store_if(client, attempt, OLD)
    assert body_of(client) == OLD, "stale"

    client.flushall()
    acquire = AcquireLease(KEY, ONE, LEASE_MS, NO_GRANT, Mode.KEEP, TIMEOUT_S)
    grant = store.perform(acquire).grant
    store.perform(DeleteKeys((KEY,), TIMEOUT_S))
    assert store.perform(acquire).grant != grant
    assert is_refused(store, Kind.EMPTY, grant)
    assert body_of(client) is None


def test_one_grant_for_all_attempts(client: redis.Redis, store: RedisBackend) -> None:
    """The reply to the first attempt is lost, the second finds its own grant; the first arrives late."""
    attempt = left(Kind.EMPTY, make_grant(ONE, 0))
    assert take(client, attempt)
    assert not take(client, attempt)
    assert client.get(KEY) == attempt
    client.unlink(KEY)
    assert take(client, attempt)
    assert store_if(client, attempt, OLD)
    assert body_of(client) == OLD, "stale"

    client.flushall()
    acquire = AcquireLease(KEY, ONE, LEASE_MS, NO_GRANT, Mode.KEEP, TIMEOUT_S)
    grant = store.perform(acquire).grant
    assert store.perform(acquire).grant == grant
    store.perform(DeleteKeys((KEY,), TIMEOUT_S))
    store.perform(acquire)
    assert is_refused(store, Kind.EMPTY, grant)
    assert body_of(client) is None


def test_an_empty_cell_without_a_grant(client: redis.Redis, store: RedisBackend) -> None:
    """Nothing tells a lease from the next one of somebody else."""
    empty = left(Kind.EMPTY, NO_GRANT)
    assert take(client, empty)
    client.unlink(KEY)
    assert take(client, empty), "another reader, who loads version 1"
    assert store_if(client, empty, OLD)
    assert not store_if(client, empty, NEW)
    assert body_of(client) == OLD, "stale"

    client.flushall()
    mine = store.perform(AcquireLease(KEY, ONE, LEASE_MS, NO_GRANT, Mode.KEEP, TIMEOUT_S)).grant
    store.perform(DeleteKeys((KEY,), TIMEOUT_S))
    theirs = store.perform(AcquireLease(KEY, OTHER, LEASE_MS, NO_GRANT, Mode.KEEP, TIMEOUT_S)).grant
    assert is_refused(store, Kind.EMPTY, mine)
    assert is_stored(store, Kind.EMPTY, theirs)
    assert body_of(client) == NEW


def test_a_hold_with_fixed_bytes(client: redis.Redis, store: RedisBackend) -> None:
    """Two writers set: whose hold it is that is filled cannot be told."""
    hold = left(Kind.HOLD, NO_GRANT)
    take(client, hold, if_absent=False)
    take(client, hold, if_absent=False)  # the other writer, who has committed version 1 since
    assert store_if(client, hold, OLD)
    assert not store_if(client, hold, NEW)
    assert body_of(client) == OLD, "stale"

    client.flushall()
    [mine] = store.perform(HoldCells((KEY,), ONE, LEASE_MS, TIMEOUT_S)).grants
    [theirs] = store.perform(HoldCells((KEY,), OTHER, LEASE_MS, TIMEOUT_S)).grants
    assert is_refused(store, Kind.HOLD, mine)
    assert is_stored(store, Kind.HOLD, theirs)
    assert body_of(client) == NEW


def test_a_set_in_one_trip(client: redis.Redis, store: RedisBackend) -> None:
    """Hold and fill in one go need a grant of the client's: arriving once more, they are a whole set."""
    hold = left(Kind.HOLD, make_grant(ONE, 7))

    def set_old() -> bool:
        take(client, hold, if_absent=False)
        return store_if(client, hold, OLD)

    assert set_old()
    client.unlink(KEY)
    assert set_old()
    assert body_of(client) == OLD, "stale"

    client.flushall()
    command = HoldCells((KEY,), ONE, LEASE_MS, TIMEOUT_S)
    [grant] = store.perform(command).grants
    assert is_stored(store, Kind.HOLD, grant)
    store.perform(DeleteKeys((KEY,), TIMEOUT_S))
    store.perform(command)
    assert is_refused(store, Kind.HOLD, grant)
    assert body_of(client) is None


def fill(store: RedisBackend, kind: Kind, grant: bytes, body: bytes) -> set[FillResult]:
    """Fill as the machines do: by comparing, and where that finds a change, by the grant."""
    found = set()
    for lease_ms in (LEASE_MS, 0):
        event = store.perform(FillCells((Fill(KEY, grant, LEASE_MS, 0, body, kind, lease_ms),), TIMEOUT_S))
        found.update(event.results)
        if FillResult.CHANGED not in event.results:
            break
    return found - {FillResult.CHANGED}


def is_refused(store: RedisBackend, kind: Kind, grant: bytes) -> bool:
    return fill(store, kind, grant, OLD) == {FillResult.REFUSED}


def is_stored(store: RedisBackend, kind: Kind, grant: bytes) -> bool:
    return fill(store, kind, grant, NEW) == {FillResult.STORED}
