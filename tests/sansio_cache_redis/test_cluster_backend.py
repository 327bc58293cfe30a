"""What the backend of a cluster decides without a server: whom it asks, and what it makes of refusals."""

import time
from types import SimpleNamespace

import pytest
import redis

from sansio_cache import CacheConfig
from sansio_cache.commands import DeleteKeys, ReadCell, ScanKeys
from sansio_cache.events import FailureKind, KeysFound, StoreFailed
from sansio_cache_redis.backend.cluster_base import BEHIND_ASKING
from sansio_cache_redis.backend.cluster_sync import make_cluster_backend
from sansio_cache_redis.connections.cluster_settings import cluster_settings
from sansio_cache_redis.reasons import Where, is_of_nobody
from sansio_cache_redis.topology.scatter import Piece
from sansio_cache_redis.topology.slots import SLOTS, MapError

A, B, C, D = "a:7001", "b:7002", "c:7003", "d:7004"
KEY = "ns:user:1"


def map_of(*nodes):
    step = SLOTS // len(nodes)
    ends = [*(step * place - 1 for place in range(1, len(nodes))), SLOTS - 1]
    begins = [0, *(end + 1 for end in ends)]
    return [
        [first, last, [host.encode(), int(port), b"id"]]
        for (host, port), first, last in zip((each.split(":") for each in nodes), begins, ends, strict=False)
    ]


@pytest.fixture
def backend():
    config = CacheConfig.from_options(namespace="ns", url="redis+cluster://a:7001")
    made = make_cluster_backend(
        config, cluster_settings(config.redis, None), time.monotonic, lambda *_: False
    )
    made.cluster.take(map_of(A, B), A)
    yield made
    made.close()


def page(cursor):
    return ScanKeys("ns:*", cursor, 100, 1.0)


def found(cursor):
    return KeysFound(1.0, cursor, ("ns:k",))


def scanned(backend, change_at, nodes):
    """Scan two pages of each node; the owners change after some pages. Who was asked, and what was missed."""
    asked, failures, cursor, pages = [], [], 0, 0
    while True:
        if pages == change_at:
            backend.cluster.take(map_of(*nodes), A)
        pieces = backend._pieces(page(cursor))
        if isinstance(pieces, list):
            [piece] = pieces
            asked.append((piece.address, piece.command.cursor))
            answer = backend._gathered(page(cursor), pieces, [found(7 if not piece.command.cursor else 0)])
        else:
            answer = pieces
        pages += 1
        failures += answer.failures
        cursor = answer.cursor
        if not cursor:
            return asked, [each.part for each in failures]


def test_a_scan_goes_through_the_nodes_one_after_the_other(backend):
    assert scanned(backend, None, ()) == ([(A, 0), (A, 7), (B, 0), (B, 7)], [])


def test_a_scan_goes_on_at_the_node_that_it_is_at_when_the_owners_change(backend):
    asked, missed = scanned(backend, 3, (B, C, D))
    assert asked == [(A, 0), (A, 7), (B, 0), (B, 7)], "and what a had was scanned before it went elsewhere"
    assert missed == []


def test_what_a_node_had_that_is_gone_before_it_was_scanned_is_said_to_be_missing(backend):
    assert scanned(backend, 3, (A, C)) == ([(A, 0), (A, 7), (B, 0)], [B])
    assert scanned(backend, 1, (B, C)) == ([(A, 0), (C, 0), (C, 7)], [A])


def test_a_scan_that_began_too_many_changes_ago_fails(backend):
    begun = backend._gathered(page(0), backend._pieces(page(0)), [found(7)])
    for number in range(100):
        backend.cluster.take(map_of(A, f"n:{number + 1}"), A)
        backend._pieces(page(0))
    answer = backend._pieces(page(begun.cursor))
    assert isinstance(answer, StoreFailed)
    assert len(backend._scanned) <= 64


def test_a_node_that_is_out_is_not_asked_behind_asking_either(backend):
    command = ReadCell(KEY, (), 0.25)
    backend.is_out = lambda part: part == B
    for address in (B, f"{BEHIND_ASKING}{B}"):
        unasked = backend._unasked(Piece(address, command, (0,), ()))
        assert unasked.kind is FailureKind.UNAVAILABLE
        assert unasked.part == B
    assert backend._unasked(Piece(f"{BEHIND_ASKING}{A}", command, (0,), ())) is None
    insists = DeleteKeys((KEY,), 0.25, insists=True)
    assert backend._unasked(Piece(f"{BEHIND_ASKING}{B}", insists, (0,), ())) is None


def test_a_node_to_which_a_connection_opens_fails_no_more(backend):
    backend.cluster.candidates(1.0)
    backend.cluster.failed(A, 1.0)
    backend.node(A)
    backend._dialects[A].on_met(False)
    backend.cluster.candidates(2.0)
    assert not backend.cluster.is_wanted


def test_of_several_nodes_that_have_no_map_to_give_the_one_that_says_most_is_told(backend):
    failures = {
        A: redis.ConnectionError("refused"),
        B: redis.AuthenticationError("WRONGPASS invalid username-password pair"),
    }
    failures[A].__cause__ = ConnectionRefusedError(111, "Connection refused")
    assert is_of_nobody(failures[A])
    for error in (failures[B], MapError("a slot has two owners")):
        assert not is_of_nobody(error)
        keeper = backend.keeper
        keeper._fetch_from = lambda address, _, error=error: error if address == B else failures[A]
        assert not keeper._fetch()
        assert keeper.failure == (B, error)


def test_of_several_seeds_those_who_are_told_of_commands_get_the_first():
    assert Where("127.0.0.1:7000, 127.0.0.2:7001").address == ("redis", "127.0.0.1", 7000, "0")
    assert Where("[::1]:7000, [::1]:7001").address == ("redis", "::1", 7000, "0")
    assert Where("/tmp/a:b, c").address == ("redis", "/tmp/a:b, c", 0, "0")


def test_an_interrupt_among_the_nodes_ends_what_was_begun_at_the_others(backend, monkeypatch):
    """A lane whose driver is not ended would be driven for ever, and no other caller could have it."""
    ended = []

    def begin(piece, _until_s, begun):
        begun.append((SimpleNamespace(end=ended.append), piece))
        if piece.address == B:
            raise KeyboardInterrupt

    monkeypatch.setattr(backend, "_begin", begin)
    pieces = [Piece(address, ReadCell(KEY, 1.0), (0,), ()) for address in (A, B)]
    with pytest.raises(KeyboardInterrupt):
        backend._perform_all(pieces, 1.0)
    assert ended == pieces
