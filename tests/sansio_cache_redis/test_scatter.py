"""Commands about several keys, parted by nodes and put together again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sansio_cache.cell import NO_GRANT
from sansio_cache.commands import (
    AcquireLease,
    AcquireLeases,
    Capture,
    ClaimCell,
    DeleteKeys,
    ExpireCells,
    Fill,
    FillCells,
    FreeLock,
    HoldCells,
    InspectCell,
    Lease,
    LeaseRequest,
    MeasureQueue,
    Mode,
    ReadCell,
    ReadCells,
    ReadTags,
    ReleaseLeases,
    RenewLeases,
    SwapCell,
    TakeLock,
    TouchCell,
    keys_and_tags,
)
from sansio_cache.events import FailureKind, LeaseGranted, StoreFailed
from sansio_cache.memory_store import MemoryStore
from sansio_cache.queues import hold_of, lease_of, root_of, stream_of
from sansio_cache_redis.topology.scatter import gather, scatter, scatter_reads
from sansio_cache_redis.topology.slots import SLOTS, slot_of

NODES = ("a", "b", "c")
KEYS = tuple(f"n:{number}" for number in range(7))
TAGS = tuple(f"n:%t:{number}" for number in range(4))
NONCE = b"nonce..."
GRANT = b"g" * 16
T = 1.0


def owner(key):
    return NODES[sum(key.encode()) % len(NODES)]


def commands():
    keys = st.lists(st.sampled_from(KEYS), min_size=1, unique=True).map(tuple)
    tags = st.lists(st.sampled_from(TAGS), unique=True).map(tuple)
    capture = tags.map(lambda each: Capture(each, 1000))
    key = st.sampled_from(KEYS)
    leases = keys.map(lambda each: tuple(Lease(one, GRANT) for one in each))
    fills = keys.map(lambda each: tuple(Fill(one, GRANT, 1000, 0, b"body") for one in each))
    requests = keys.map(lambda each: tuple(LeaseRequest(one, NO_GRANT, Mode.KEEP) for one in each))
    return st.one_of(
        st.builds(ReadCell, key, st.just(T), tags),
        st.builds(ReadCells, keys, st.just(3), st.just(T), tags),
        st.builds(ReadTags, tags.filter(bool), st.just(T)),
        st.builds(InspectCell, key, st.just(T)),
        st.builds(
            AcquireLease,
            key,
            st.just(NONCE),
            st.just(1000),
            st.just(NO_GRANT),
            st.just(Mode.KEEP),
            st.just(T),
            capture,
        ),
        st.builds(AcquireLeases, requests, st.just(NONCE), st.just(1000), st.just(T), capture),
        st.builds(FillCells, fills, st.just(T), tags),
        st.builds(RenewLeases, leases, st.just(1000), st.just(T)),
        st.builds(ReleaseLeases, leases, st.just(T)),
        st.builds(HoldCells, keys, st.just(NONCE), st.just(1000), st.just(T), capture),
        st.builds(ClaimCell, key, st.just(NONCE), st.just(1000), st.just(T), capture),
        st.just(SwapCell(KEYS[0], GRANT, NONCE, 1000, 0, b"body", T)),
        st.builds(
            TouchCell, key, st.just(GRANT), st.just(9), st.just(99), st.just(NONCE), st.just(T), capture
        ),
        st.just(TakeLock("n:%l:x", NONCE, 1000, T)),
        st.just(FreeLock(Lease("n:%l:x", GRANT), T)),
        st.builds(ExpireCells, keys, st.just(T)),
        st.builds(DeleteKeys, keys, st.just(T)),
    )


@given(commands())
def test_each_key_and_tag_goes_to_its_owner_once_and_to_nobody_else(command):
    keys, tags = keys_and_tags(command)
    pieces = scatter(command, owner)

    assert len({piece.address for piece in pieces}) == len(pieces)
    asked_keys, asked_tags = [], []
    for piece in pieces:
        its_keys, its_tags = keys_and_tags(piece.command)
        assert {owner(key) for key in (*its_keys, *its_tags)} == {piece.address}
        assert [keys[place] for place in piece.keys] == list(its_keys)
        assert [tags[place] for place in piece.tags] == list(its_tags)
        asked_keys += its_keys
        asked_tags += its_tags
    assert sorted(asked_keys) == sorted(keys)
    assert sorted(asked_tags) == sorted(tags)


def seed(stores):
    """Some of the keys have values, some leases of others, and some of the tags versions."""
    for number, key in enumerate(KEYS):
        for store in stores(key):
            nonce = b"setup..%d" % number
            if number % 3 == 0:
                [grant] = store.perform(HoldCells((key,), nonce, 1000, T)).grants
                store.perform(FillCells((Fill(key, grant, 60_000, 0, b"body %d" % number),), T))
            elif number % 3 == 1:
                store.perform(AcquireLease(key, nonce, 60_000, NO_GRANT, Mode.KEEP, T))
    for number, tag in enumerate(TAGS[::2]):
        for store in stores(tag):
            store.perform(HoldCells((), b"tags...%d" % number, 0, T, Capture((tag,), 60_000)))


def shape(event):
    """An event without grants and versions, which hold the store's clock."""
    said = {name: getattr(event, name) for name in event.__struct_fields__ if name != "now_s"}
    return type(event), len(said.get("versions", ())), _shape(said)


def _shape(value):
    if isinstance(value, dict):
        return {key: _shape(each) for key, each in value.items() if not key.endswith(("_ms", "_s"))}
    if isinstance(value, tuple):
        return [_shape(each) for each in value]
    if isinstance(value, bytes) and len(value) == 16:
        return value[:8]
    if hasattr(value, "__struct_fields__"):
        return [
            type(value),
            [
                _shape(getattr(value, name))
                for name in value.__struct_fields__
                if not name.endswith(("_ms", "_s"))
            ],
        ]
    return value


@given(commands())
def test_what_nodes_answer_together_is_what_one_store_would_have_answered(command):
    one = MemoryStore(lambda: 100.0)
    many = {node: MemoryStore(lambda: 100.0) for node in NODES}
    seed(lambda key: (one, many[owner(key)]))

    pieces = scatter(command, owner)
    together = gather(command, pieces, [many[piece.address].perform(piece.command) for piece in pieces])

    assert shape(together) == shape(one.perform(command))


def test_a_command_of_one_node_is_asked_as_it_is():
    command = ReadCells(tuple(key for key in KEYS if owner(key) == "a"), 3, T)
    [piece] = scatter(command, owner)
    assert piece.command is command


def test_of_several_clocks_the_latest_counts_and_an_unknown_one_makes_all_unknown():
    command = ReadTags(TAGS, T)
    pieces = scatter(command, owner)
    assert len(pieces) > 1
    stores = {node: MemoryStore(lambda ahead=number: 100.0 + ahead) for number, node in enumerate(NODES)}
    events = [stores[piece.address].perform(piece.command) for piece in pieces]
    assert gather(command, pieces, events).server_ms == max(event.server_ms for event in events)
    events[0] = type(events[0])(events[0].now_s, events[0].versions, None)
    assert gather(command, pieces, events).server_ms is None


@pytest.mark.parametrize(
    "command",
    [ReadCell(KEYS[0], T, TAGS), AcquireLease(KEYS[0], NONCE, 9, NO_GRANT, Mode.KEEP, T, Capture(TAGS, 9))],
)
def test_of_one_key_nothing_is_known_where_one_of_its_nodes_fails(command):
    pieces = scatter(command, owner)
    failed = StoreFailed(1.0, FailureKind.TIMEOUT, "b")
    events = [LeaseGranted(1.0, GRANT, None, 1)] * (len(pieces) - 1) + [failed]
    assert gather(command, pieces, events) is failed


def test_what_concerns_a_partition_of_a_queue_goes_to_the_node_that_has_all_of_it():
    root = root_of("n:", "orders", 3)
    question = MeasureQueue(root, T)
    assert keys_and_tags(question) == ((root,), ())
    assert [piece.command for piece in scatter(question, owner)] == [question]
    assert {slot_of(key) for key in (stream_of(root), lease_of(root), hold_of(root, "n:{x}"))} == {
        slot_of(root)
    }


def test_a_command_about_a_queue_goes_to_the_node_that_has_its_partition():
    root = root_of("n:", "orders", 3)
    command = MeasureQueue(root, T)
    [piece] = scatter(command, slot_of)
    assert (piece.address, piece.command) == (slot_of(root), command)
    keys = [stream_of(root), lease_of(root), hold_of(root, "n:user:7")]
    assert {slot_of(key) for key in keys} == {slot_of(root)}


@given(keys=st.lists(st.text(max_size=4), min_size=1, unique=True), width=st.sampled_from([1, 100, SLOTS]))
def test_a_batch_that_is_read_is_parted_by_slots_as_by_asking_for_each_key(keys, width):
    owners = [NODES[slot // width % len(NODES)] for slot in range(SLOTS)]
    command = ReadCells(tuple(f"{{{key}}}{key}" if "x" in key else key for key in keys), 1, T)
    assert scatter_reads(command, owners) == scatter(command, lambda key: owners[slot_of(key)])
