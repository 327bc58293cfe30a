"""A cluster as one process knows it: where keys go, what redirections teach, when a map is fetched."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sansio_cache.keys import ONE_PART
from sansio_cache_redis.topology.cluster import (
    FAILING_S,
    LEAST_PAUSE_S,
    LONG_S,
    LONG_WATCH_PAUSE_S,
    NO_OWNER,
    WATCH_PAUSE_S,
    Cluster,
)
from sansio_cache_redis.topology.slots import NOBODY, SLOTS, MapError, slot_of

A, B, C, SEED = "a:7001", "b:7002", "c:7003", "seed:7000"
HALF = SLOTS // 2
KEY = "ns:user:1"


def map_of(first=A, second=B):
    def node(address):
        host, _, port = address.rpartition(":")
        return [host.encode(), int(port), b"id"]

    return [[0, HALF - 1, node(first)], [HALF, SLOTS - 1, node(second)]]


def known(*owners, now_s=0.0):
    cluster = Cluster([SEED])
    cluster.candidates(now_s)
    cluster.take(map_of(*owners), SEED)
    return cluster


def test_before_anything_is_known_all_is_one_part_and_a_map_is_wanted_at_once():
    cluster = Cluster([SEED])
    assert cluster.part_of(KEY) == ONE_PART
    assert cluster.owner(KEY) == NOBODY
    assert cluster.is_wanted
    assert cluster.pause_s(0.0) == 0.0
    assert cluster.candidates(0.0) == [SEED]


def test_a_key_is_in_the_part_of_its_slots_owner():
    cluster = known()
    assert {cluster.part_of(f"ns:{number}") for number in range(100)} == {A, B}
    assert cluster.part_of(KEY) == cluster.owner(KEY) == cluster.owners[slot_of(KEY)]
    assert not cluster.is_wanted


def test_keys_whose_slots_nobody_owns_are_a_part_of_their_own():
    cluster = Cluster([SEED])
    cluster.take([[slot_of(KEY) + 1, SLOTS - 1, [b"a", 7001]]], SEED)
    assert cluster.part_of(KEY) == NO_OWNER
    assert cluster.is_wanted, "somebody may own them soon"


def test_moved_is_believed_at_once_for_its_slot_and_the_map_is_wanted():
    cluster = known()
    owner = cluster.owner(KEY)
    changes = cluster.changes
    cluster.moved(slot_of(KEY), "c", 7003, owner)

    assert cluster.owner(KEY) == C
    assert C in cluster.nodes
    assert cluster.owners.count(C) == 1
    assert cluster.is_wanted
    assert cluster.changes == changes + 1


class Looked(Cluster):
    """Notes the owner of the first slot whenever it says that owners have changed."""

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name == "changes" and value:
            self.found.append(self.owners[0])


def test_who_finds_that_owners_have_changed_finds_the_new_ones():
    """A listener looks once: it stayed at the node that had the slot before, and heard nothing any more."""
    Looked.found = found = []
    cluster = Looked(["127.0.0.1:1"])
    for port in (1, 2, 3):
        cluster.take([[0, SLOTS - 1, [b"127.0.0.1", port, b"id"]]], "127.0.0.1:1")
    assert found == ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]


def test_a_slot_that_is_said_to_have_no_owner_has_none_until_a_map_says_otherwise():
    cluster = known()
    cluster.redirected((), [KEY], A)
    assert cluster.part_of(KEY) == NO_OWNER
    assert cluster.owners.count(NOBODY) == 1
    assert cluster.is_wanted
    cluster.take(map_of(), A)
    assert cluster.part_of(KEY) in {A, B}


def test_moved_to_nowhere_is_where_it_was_answered_and_what_is_no_slot_is_passed_over():
    cluster = known()
    cluster.moved(5, "", 7009, "a:7001")
    assert cluster.owners[5] == "a:7009"
    for slot, port in ((SLOTS, 7001), (-1, 7001), (6, 70_000)):
        cluster.moved(slot, "c", port, A)
    assert C not in cluster.nodes


def test_a_key_is_asked_elsewhere_for_a_moment_and_until_it_is_said_to_be_moved():
    cluster = known()
    cluster.ask(KEY, "c", 7003, A, 10.0)
    assert cluster.asked_at("ns:other", 10.0) is None
    assert cluster.asked_at(KEY, 10.1) == C
    assert cluster.asked_at(KEY, 10.2) == C, "a batch asks several times until it knows of all of its keys"
    assert cluster.owner(KEY) != C, "the slot has not moved yet"
    assert cluster.asked_at("ns:other", 11.5) is None
    assert cluster.asking == {}, "and nothing is looked up any more"

    cluster.ask(KEY, "c", 7003, A, 10.0)
    cluster.moved(slot_of(KEY), "b", 7002, C, KEY)
    assert cluster.asked_at(KEY, 10.0) is None
    cluster.ask(KEY, "c", 70_000, A, 10.0)
    assert cluster.asking == {}


def told_of(cluster):
    found = []
    cluster.on_move = lambda moves, heirs: found.append(
        (set(moves), set(heirs), cluster.owner(KEY), cluster.part_of(KEY))
    )
    return found


def test_before_slots_go_to_another_node_that_is_told_and_their_keys_are_in_its_part():
    cluster = known()
    owner = cluster.owner(KEY)
    found = told_of(cluster)
    cluster.take(map_of(*(C if each == owner else each for each in (A, B))), SEED)
    assert found == [({(owner, C)}, {C}, owner, C)]
    assert cluster.owner(KEY) == C


def test_who_has_all_slots_of_a_node_is_its_heir_also_where_nobody_had_them_in_between():
    cluster = known()
    found = told_of(cluster)
    nobody = [each for each in map_of() if each[2][0] != b"a"]
    cluster.take(nobody, B)
    assert found == []
    cluster.take(map_of(first=C), B)
    assert [(moves, heirs) for moves, heirs, *_ in found] == [({(A, C)}, {C})]


def test_who_gets_some_slots_of_a_node_is_no_heir_unless_a_moved_names_one_that_had_none():
    cluster = known()
    found = told_of(cluster)
    cluster.moved(0, "b", 7002, A)
    cluster.moved(1, "c", 7003, A)
    cluster.moved(2, "c", 7003, A)
    cluster.ask(KEY, "c", 7003, A, 1.0)
    assert [(moves, heirs) for moves, heirs, *_ in found] == [
        ({(A, B)}, set()),
        ({(A, C)}, {C}),
        ({(A, C)}, set()),
        ({(A, C)}, set()),
    ]


def test_keys_that_are_asked_elsewhere_are_few():
    cluster = known()
    for number in range(10_001):
        cluster.ask(f"ns:{number}", "c", 7003, A, 1.0)
    assert cluster.asked_at("ns:10000", 1.0) == C
    assert len(cluster.asking) < 10_000


def test_a_map_is_fetched_no_more_often_than_every_so_often():
    cluster = known(now_s=1.0)
    cluster.want()
    assert cluster.is_wanted
    assert cluster.pause_s(1.0) == pytest.approx(LEAST_PAUSE_S)
    assert cluster.pause_s(1.0 + LEAST_PAUSE_S) == 0.0
    cluster.candidates(2.0)
    assert not cluster.is_wanted, "it is being fetched"


def test_while_a_node_fails_that_owns_slots_the_map_is_looked_at_again_and_again():
    cluster = known(now_s=1.0)
    cluster.failed(A, 1.0)
    assert cluster.is_wanted
    cluster.candidates(2.0)
    cluster.take(map_of(), B)
    assert cluster.is_wanted, "nobody has taken over yet"
    assert cluster.pause_s(2.0) == pytest.approx(WATCH_PAUSE_S)
    later_s = 2.0 + LONG_S
    assert cluster.pause_s(later_s) == 0.0
    cluster.failed(A, later_s)
    cluster.candidates(later_s)
    assert cluster.pause_s(later_s) == pytest.approx(LONG_WATCH_PAUSE_S)

    cluster.take(map_of(first=C), B)
    assert not cluster.is_wanted, "another owns its slots, so that it does not matter"
    assert cluster.failing == {}


def test_a_node_that_has_failed_once_is_not_watched_for_ever():
    cluster = known(now_s=1.0)
    cluster.failed(A, 1.0)
    cluster.candidates(1.0 + FAILING_S)
    assert cluster.is_wanted
    cluster.candidates(1.1 + FAILING_S)
    assert not cluster.is_wanted


def test_slots_that_nobody_owns_are_looked_at_less_often_after_a_while():
    cluster = known(now_s=1.0)
    cluster.take(map_of()[:1], A)
    for now_s in (2.0, 20.0):
        cluster.candidates(now_s)
        cluster.take(map_of()[:1], A)
        assert cluster.pause_s(now_s) == pytest.approx(WATCH_PAUSE_S)
    cluster.candidates(2.0 + LONG_S)
    assert cluster.pause_s(2.0 + LONG_S) == pytest.approx(LONG_WATCH_PAUSE_S)
    cluster.take(map_of(), A)
    cluster.candidates(100.0)
    assert not cluster.is_wanted
    cluster.take(map_of()[:1], A)
    cluster.candidates(101.0)
    assert cluster.pause_s(101.0) == pytest.approx(WATCH_PAUSE_S), "it begins anew"


def test_what_a_node_answers_at_once_is_one_change_and_is_told_once():
    cluster = known()
    found = told_of(cluster)
    changes = cluster.changes
    slots = [slot for slot in range(900) if cluster.owners[slot] == A]
    assert len(slots) > 100
    keys = [f"ns:{number}" for number in range(200)]
    mine = [key for key in keys if cluster.owner(key) == A and slot_of(key) not in slots]
    cluster.redirected([(slot, "c", 7003, None) for slot in slots], mine, A)
    assert {cluster.owners[slot] for slot in slots} == {C}
    assert {cluster.owner(key) for key in mine} == {NOBODY}
    assert cluster.changes == changes + 1
    assert [(moves, heirs) for moves, heirs, *_ in found] == [({(A, C)}, {C})]
    cluster.redirected([(slot, "c", 7003, None) for slot in slots], mine, A)
    assert cluster.changes == changes + 1, "nothing is new"


def test_while_a_map_is_told_a_moved_of_another_slot_changes_nothing_of_what_is_told():
    cluster = known()
    owner = cluster.owner(KEY)
    other = next(slot for slot in range(SLOTS) if cluster.owners[slot] != owner)
    parts = []

    def told(moves, heirs):
        cluster.on_move = lambda *_: parts.append(cluster.part_of(KEY))
        cluster.moved(other, "d", 7004, cluster.owners[other])  # as another thread does
        parts.append(cluster.part_of(KEY))

    cluster.on_move = told
    cluster.take(map_of(*(C if each == owner else each for each in (A, B))), SEED)
    assert parts == [C, C], "its heir is told of the keys that it will have"
    assert cluster.owner(KEY) == C
    assert cluster.owners[other] == "d:7004"


def test_a_node_that_answers_again_is_watched_no_more():
    cluster = known()
    cluster.failed(A, 1.0)
    cluster.candidates(1.0)
    cluster.answered(A)
    assert not cluster.is_wanted


def test_those_that_fail_are_asked_last_and_the_others_take_turns():
    cluster = known()
    firsts = {cluster.candidates(1.0)[0] for _ in range(4)}
    assert firsts == {A, B}
    cluster.failed(A, 1.0)
    for _ in range(4):
        assert cluster.candidates(1.0) == [B, SEED, A]


def test_a_map_that_contradicts_itself_or_is_empty_changes_nothing():
    cluster = known()
    before = cluster.owners
    for reply, why in (
        ([[0, 5, [b"a", 7001]], [5, 9, [b"b", 7002]]], "a slot has two owners"),
        ([], "no slot has an owner"),
        (b"nonsense", "is no map of slots"),
    ):
        with pytest.raises(MapError, match=why):
            cluster.take(reply, A)
    assert cluster.owners == before


def test_a_server_that_is_no_cluster_has_all_keys():
    cluster = Cluster([SEED])
    cluster.take_single(SEED)
    assert cluster.only == SEED
    assert cluster.is_known
    assert cluster.part_of(KEY) == SEED
    cluster.take(map_of(), SEED)
    assert cluster.part_of(KEY) in {A, B}, "and it may be one later"


class Redirections(RuleBasedStateMachine):
    """Whatever nodes answer, in whatever order: every key goes somewhere, and what is said agrees."""

    def __init__(self):
        super().__init__()
        self.cluster = Cluster([SEED])
        self.now_s = 0.0

    @rule(first=st.sampled_from([A, B, C]), second=st.sampled_from([A, B, C]))
    def map_comes(self, first, second):
        self.cluster.candidates(self.now_s)
        self.cluster.take(map_of(first, second), A)

    @rule(slot=st.integers(0, SLOTS - 1), node=st.sampled_from([A, B, C]))
    def moved(self, slot, node):
        host, _, port = node.rpartition(":")
        self.cluster.moved(slot, host, int(port), A)
        assert self.cluster.owners[slot] == node

    @rule(node=st.sampled_from([A, B, C, SEED]), seconds=st.floats(0, 60))
    def fails(self, node, seconds):
        self.now_s += seconds
        self.cluster.failed(node, self.now_s)
        assert self.cluster.is_wanted

    @rule(node=st.sampled_from([A, B, C]))
    def answers(self, node):
        self.cluster.answered(node)

    @rule()
    def nonsense(self):
        before = self.cluster.owners
        with pytest.raises(MapError):
            self.cluster.take([[0, 0, [b"h", -1]]], A)
        assert self.cluster.owners is before

    @invariant()
    def agrees(self):
        cluster = self.cluster
        assert len(cluster.owners) == SLOTS
        assert cluster.only == (cluster.owners[0] if len(set(cluster.owners)) == 1 else "")
        assert cluster.nodes == (frozenset(cluster.owners) if cluster.changes else frozenset())
        assert sorted(cluster.nodes - {NOBODY}) == sorted(
            set(Cluster.candidates(cluster, self.now_s)) - {SEED}
        )
        assert cluster.pause_s(self.now_s) <= LONG_WATCH_PAUSE_S + 0.001


TestRedirections = Redirections.TestCase
