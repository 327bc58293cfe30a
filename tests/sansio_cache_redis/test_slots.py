"""Which node owns which slot, as a node says: what is believed, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from sansio_cache.url import address_of, host_and_port
from sansio_cache_redis.topology.slots import NOBODY, SLOTS, MapError, moved_to, read_slots, slot_of

ASKED = "10.0.0.9:7000"


def node(host, port=7001):
    return [host, port, b"id", []]


@given(st.text(max_size=40) | st.text("{}ab", max_size=8))
def test_the_slot_of_a_key_is_that_of_redis(key):
    assert slot_of(key) == key_slot(key.encode())
    assert 0 <= slot_of(key) < SLOTS


@given(st.sets(st.integers(1, SLOTS - 1), max_size=8), st.data())
def test_every_slot_of_a_map_has_the_owner_that_its_range_names(cuts, data):
    edges = [0, *sorted(cuts), SLOTS]
    ranges = list(zip(edges, [edge - 1 for edge in edges[1:]], strict=False))
    kept = data.draw(st.lists(st.sampled_from(ranges), unique=True))
    reply = [[first, last, node(f"h{first}".encode()), node(b"replica")] for first, last in kept]

    owners = read_slots(data.draw(st.permutations(reply)), ASKED)

    assert len(owners) == SLOTS
    for first, last in ranges:
        expected = f"h{first}:7001" if (first, last) in kept else NOBODY
        assert set(owners[first : last + 1]) == {expected}


@pytest.mark.parametrize("told", [[b"ip", b"10.0.0.1", b"hostname", b""], {b"ip": b"10.0.0.1"}])
def test_a_node_without_a_name_among_names_is_at_its_address(told):
    reply = [[0, 8191, [b"?", 7000, b"id", told]], [8192, 16383, [b"h2", 7000, b"id", [b"ip", b"10.0.0.2"]]]]
    owners = read_slots(reply, "h2:7000")
    assert (owners[0], owners[-1]) == ("10.0.0.1:7000", "h2:7000")


@pytest.mark.parametrize("more", [[], [b"id"], [b"id", []], [b"id", None], [b"id", [b"hostname", b""]]])
def test_one_without_a_name_and_an_address_is_no_other_node(more):
    with pytest.raises(MapError, match="a node has no name \\(cluster-announce-hostname\\)"):
        read_slots([[0, 8191, [b"?", 7000, *more]], [8192, 16383, [b"h2", 7000]]], "h2:7000")
    with pytest.raises(MapError, match="a node has no name"):
        moved_to("?", 7000, "h2:7000")


@pytest.mark.parametrize("host", [None, b"", ""])
def test_a_node_that_does_not_know_its_address_is_where_it_was_asked(host):
    assert set(read_slots([[0, SLOTS - 1, node(host, 7002)]], ASKED)) == {"10.0.0.9:7002"}
    assert set(read_slots([[0, SLOTS - 1, node(host, 0)]], ASKED)) == {ASKED}
    assert moved_to(host or "", 7002, ASKED) == "10.0.0.9:7002"


def test_addresses_are_mapped_to_those_that_can_be_reached():
    def mapped(host, port):
        return "outside", port + 10_000

    assert set(read_slots([[0, SLOTS - 1, node(b"172.17.0.2")]], ASKED, mapped)) == {"outside:17001"}
    assert moved_to("172.17.0.2", 7001, ASKED, mapped) == "outside:17001"


def test_an_ipv6_address_stands_in_brackets_and_comes_back():
    [owner] = set(read_slots([[0, SLOTS - 1, node(b"::1")]], ASKED))
    assert owner == address_of("::1", 7001) == "[::1]:7001"
    assert host_and_port(owner) == ("::1", 7001)


@pytest.mark.parametrize(
    "reply",
    [
        None,
        b"OK",
        [None],
        [[0]],
        [[0, 5]],
        [[0, 5, None]],
        [[0, 5, [b"h"]]],
        [[0, 5, [b"h", b"7001"]]],
        [[0, 5, [b"h", 70_000]]],
        [[0, 5, [b"\xff", 7001]]],
        [[0, 5, [5, 7001]]],
        [[0, SLOTS, node(b"h")]],
        [[-1, 5, node(b"h")]],
        [[5, 0, node(b"h")]],
        [[b"0", 5, node(b"h")]],
        [[0, 100, node(b"a")], [100, 200, node(b"b")]],
        [[0, 100, node(b"a")], [0, 100, node(b"a", 7002)]],
    ],
)
def test_what_is_no_map_or_contradicts_itself_is_refused_as_a_whole(reply):
    with pytest.raises(MapError):
        read_slots(reply, ASKED)


def test_one_owner_may_be_named_twice():
    reply = [[0, 100, node(b"a")], [50, SLOTS - 1, node(b"a")]]
    assert set(read_slots(reply, ASKED)) == {"a:7001"}


@given(
    st.recursive(
        st.none() | st.integers() | st.binary(max_size=4) | st.booleans(),
        lambda inner: st.lists(inner, max_size=4),
    )
)
def test_whatever_a_node_answers_is_a_map_or_refused(reply):
    try:
        owners = read_slots(reply, ASKED)
    except MapError:
        return
    assert len(owners) == SLOTS
