"""Operations on a store of several parts, of which one has failed: its keys only do without the store."""

import pytest

from sansio_cache.budget import StoreTimeouts
from sansio_cache.codec import codec_for
from sansio_cache.commands import Compute, ComputeMany, Lease, ReadTags, Renewal, Sleep, StoreCommand
from sansio_cache.entry import MissReason
from sansio_cache.events import Computed, FailureKind, FillResult, StoreFailed, Woke
from sansio_cache.keys import KeyBuilder
from sansio_cache.memory_store import MemoryStore
from sansio_cache.notices import (
    FillRefused,
    InvalidationFailed,
    InvalidationRefused,
    Missed,
    OperationName,
    StoreGaveUp,
)
from sansio_cache.operations.batch import LoadManyRequest
from sansio_cache.operations.delete_pattern import PatternRequest, delete_pattern
from sansio_cache.operations.get_many import ReadManyRequest, get_many
from sansio_cache.operations.invalidate import InvalidateRequest, invalidate
from sansio_cache.operations.load_many import load_many
from sansio_cache.operations.loading import LoadRequest
from sansio_cache.operations.mutate import EndRequest, MutateRequest
from sansio_cache.operations.mutate import begin as begin_mutation
from sansio_cache.operations.mutate import end as end_mutation
from sansio_cache.operations.recovery import RecoveryRequest, tell
from sansio_cache.operations.renewal import renew
from sansio_cache.operations.scan import scan
from sansio_cache.operations.set_many import Item, SetRequest, set_many
from sansio_cache.policy import Policy
from sansio_cache.step import Missing, Unavailable, Value
from sansio_cache_redis.topology.scatter import gather, scatter

CODEC = codec_for(None, 1000)
TIMEOUTS = StoreTimeouts()
A, B, C = "n:a", "n:b", "n:c"
KEYS = (A, B, C)
NONCE = b"nonce..."
NOW_S = 50.0


class Parts:
    """A part for each letter. Some of them fail, for ever or so many times."""

    def __init__(self, failing=("b",), kind=FailureKind.CONNECTION, times=10**6):
        self.stores = {name: MemoryStore(lambda: NOW_S) for name in "abct"}
        self.failing, self.kind, self.times = failing, kind, times
        self.asked = []

    def part_of(self, key):
        return "t" if key.startswith("n:%t") else key[2]

    def perform(self, command):
        self.asked.append(type(command).__name__)
        pieces = scatter(command, self.part_of)
        is_failing = self.times > 0
        self.times -= 1
        events = [
            StoreFailed(NOW_S, self.kind, piece.address)
            if piece.address in self.failing and is_failing
            else self.stores[piece.address].perform(piece.command)
            for piece in pieces
        ]
        return events[0] if len(events) == 1 else gather(command, pieces, events)

    def run(self, step, loaded=None):
        notices = list(step.notices)
        while step.command is not None:
            command = step.command
            if isinstance(command, ComputeMany):
                event = Computed(NOW_S, dict.fromkeys(command.names, loaded))
            elif isinstance(command, Compute):
                event = Computed(NOW_S, loaded)
            elif isinstance(command, Sleep):
                event = Woke(NOW_S)
            else:
                assert isinstance(command, StoreCommand)
                event = self.perform(command)
            step = step.state.receive(event)
            notices += step.notices
        return step.outcome, notices

    def filled(self):
        """The same, and every key has a value."""
        failing, self.failing = self.failing, ()
        self.run(set_many(setting("old")))
        self.failing = failing
        self.asked.clear()
        return self

    def values(self, keys=KEYS):
        failing, self.failing = self.failing, ()
        outcome, _ = self.run(get_many(reading(keys)))
        self.failing = failing
        return [each.value if isinstance(each, Value) else None for each in outcome.values]


def items(value, keys=KEYS):
    return tuple(Item(key, CODEC, CODEC.encode(value).payload, 60_000, 0) for key in keys)


def setting(value, **changes):
    fields = {"chunk": 100, "timeouts": TIMEOUTS, "started_s": NOW_S}
    return SetRequest(OperationName.SET_MANY, items(value), NONCE, 1000, **(fields | changes))


def reading(keys=KEYS, **changes):
    return ReadManyRequest(keys, CODEC, 100, TIMEOUTS, NOW_S, **changes)


def loading(policy=None):
    each = LoadRequest(A, CODEC, policy or Policy(), bytes(range(24)), TIMEOUTS, NOW_S)
    return LoadManyRequest(KEYS, KEYS, 100, each)


def of(kind, notices):
    return [each for each in notices if isinstance(each, kind)]


def keys_of(kind, notices):
    return [key for each in of(kind, notices) for key in each.keys]


def given_up(notices):
    return {(each.part, each.kind) for each in of(StoreGaveUp, notices)}


B_FAILED = {("b", FailureKind.CONNECTION)}


def test_a_read_gives_what_the_others_have():
    parts = Parts().filled()
    outcome, notices = parts.run(get_many(reading()))
    assert outcome.values == (Value("old"), Missing(), Value("old"))
    assert of(Missed, notices) == [Missed(B, MissReason.STORE_ERROR)]
    assert given_up(notices) == B_FAILED
    assert parts.asked == ["ReadCells"] * 3, "it may have been a moment's trouble"


def test_who_wants_to_know_of_failures_hears_of_one_part():
    outcome, _ = Parts().filled().run(get_many(reading(raises=True)))
    assert isinstance(outcome, Unavailable)
    raising = loading(Policy(on_read_error="raise"))
    outcome, _ = Parts().filled().run(load_many(raising))
    assert isinstance(outcome, Unavailable)


def test_a_part_that_fails_once_is_asked_again():
    parts = Parts(times=1).filled()
    parts.times = 1
    outcome, notices = parts.run(get_many(reading()))
    assert outcome.values == (Value("old"),) * 3
    assert given_up(notices) == set()


def test_a_load_stores_what_it_can_and_gives_everything():
    parts = Parts()
    outcome, notices = parts.run(load_many(loading()), loaded="new")
    assert outcome.values == (Value("new"),) * 3
    assert parts.values() == ["new", None, "new"]
    assert given_up(notices) == B_FAILED
    assert not of(FillRefused, notices)


@pytest.mark.parametrize("command", ["AcquireLeases", "FillCells"])
def test_a_load_whose_part_fails_in_the_middle_goes_on(command):
    parts = Parts(failing=())
    step = load_many(loading())
    perform = parts.perform

    def failing_from(each):
        parts.failing = ("b",) if type(each).__name__ == command else parts.failing
        return perform(each)

    parts.perform = failing_from
    outcome, notices = parts.run(step, loaded="new")
    assert outcome.values == (Value("new"),) * 3
    assert parts.values() == ["new", None, "new"]
    assert given_up(notices) == B_FAILED


def test_who_wants_to_know_hears_of_a_part_that_fails_as_leases_are_asked_for():
    parts = Parts(failing=())
    step = load_many(loading(Policy(on_read_error="raise")))
    step = step.state.receive(parts.perform(step.command))
    parts.failing = ("b",)
    outcome, _ = parts.run(step, loaded="new")
    assert isinstance(outcome, Unavailable)
    assert parts.values() == [None] * 3


def test_what_nobody_could_hold_is_pending_and_the_rest_is_stored():
    parts = Parts().filled()
    outcome, notices = parts.run(set_many(setting("new")))
    assert [result and result.is_accepted for result in outcome.results] == [True, None, True]
    assert parts.values() == ["new", "old", "new"]
    assert set(keys_of(InvalidationFailed, notices)) == {B}
    assert given_up(notices) == B_FAILED


def test_a_part_that_is_back_before_the_fill_takes_no_value_that_was_not_held():
    parts = Parts().filled()
    step = set_many(setting("new"))
    notices = []
    while type(step.command).__name__ == "HoldCells":
        step = step.state.receive(parts.perform(step.command))
        notices += step.notices
    parts.failing = ()
    outcome, more = parts.run(step)
    assert outcome.results[1] is FillResult.REFUSED
    assert parts.values() == ["new", "old", "new"]
    assert set(keys_of(InvalidationFailed, [*notices, *more])) == {B}


def test_what_a_mutation_could_not_hold_is_removed_at_its_end_or_pending():
    parts = Parts().filled()
    begin = MutateRequest(KEYS, NONCE, 1000, 60.0, TIMEOUTS, NOW_S)
    held, notices = parts.run(begin_mutation(begin))
    assert len(held.grants) == 3
    assert given_up(notices) == B_FAILED
    request = EndRequest(KEYS, held.grants, items("new"), TIMEOUTS, NOW_S)
    outcome, notices = parts.run(end_mutation(request))
    assert (outcome.done, outcome.failed) == ((), (B,)) or set(outcome.failed) == {B}
    assert parts.values() == ["new", "old", "new"]
    assert keys_of(InvalidationFailed, notices) == [B]


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_what_cannot_be_invalidated_is_pending_and_the_rest_is_done(soft, chunk):
    parts = Parts().filled()
    request = InvalidateRequest(OperationName.INVALIDATE, KEYS, chunk, TIMEOUTS, NOW_S, soft)
    outcome, notices = parts.run(invalidate(request))
    if chunk == 1:  # as with a single server: what has failed for itself ends it
        assert outcome.failed == (B, C)
        return
    assert (outcome.done, outcome.failed) == ((A, C), (B,))
    assert keys_of(InvalidationFailed, notices) == [B]
    assert given_up(notices) == B_FAILED
    if not soft:
        assert parts.values() == [None, "old", None]


def test_of_a_later_chunk_that_fails_the_earlier_failures_are_told_too():
    parts = Parts(failing=("b", "c")).filled()
    request = InvalidateRequest(OperationName.INVALIDATE, KEYS, 2, TIMEOUTS, NOW_S)
    outcome, _ = parts.run(invalidate(request))
    assert (outcome.done, outcome.failed) == ((A,), (B, C))


def test_a_recovery_tells_what_it_can():
    parts = Parts().filled()
    outcome, notices = parts.run(tell(RecoveryRequest("a", KEYS, TIMEOUTS), NOW_S))
    assert (set(outcome.told), outcome.failure) == ({A, C}, FailureKind.CONNECTION)
    assert parts.values() == [None, "old", None]
    assert not of(InvalidationRefused, notices)


def test_a_recovery_finds_the_key_that_one_part_refuses():
    parts = Parts(kind=FailureKind.PERMISSION).filled()
    outcome, notices = parts.run(tell(RecoveryRequest("a", KEYS, TIMEOUTS), NOW_S))
    assert (set(outcome.told), outcome.refused, outcome.failure) == ({A, C}, (B,), None)
    assert of(InvalidationRefused, notices) == [InvalidationRefused((B,), FailureKind.PERMISSION)]


def test_leases_in_a_part_that_fails_are_not_taken_for_lost():
    parts = Parts(failing=())
    held, _ = parts.run(begin_mutation(MutateRequest(KEYS, NONCE, 1000, 60.0, TIMEOUTS, NOW_S)))
    leases = tuple(Lease(key, grant) for key, grant in zip(KEYS, held.grants, strict=True))
    parts.failing = ("b",)
    step = renew(Renewal(leases, 1000, NOW_S + 60, 0.25, 0.1))
    step = step.state.receive(Woke(NOW_S))
    step = step.state.receive(parts.perform(step.command))
    assert step.state.renewal.leases == leases


def scanning(**changes):
    return PatternRequest(KeyBuilder("n"), "n:*", 100, TIMEOUTS, NOW_S, **changes)


class Scanned(Parts):
    """Its scan finds all keys, on one page, and says that a part of the store has more."""

    def __init__(self, **changes):
        super().__init__(**changes)
        self.failures = ()

    def perform(self, command):
        if type(command).__name__ != "ScanKeys":
            return super().perform(command)
        found = self.stores["a"].perform(command)
        return type(found)(found.now_s, 0, KEYS, self.failures)


def test_a_removal_by_pattern_that_misses_a_part_is_incomplete_and_goes_on():
    parts = Scanned().filled()
    outcome, notices = parts.run(delete_pattern(scanning()))
    assert (outcome.matched, outcome.deleted, outcome.complete) == (3, 2, False)
    assert given_up(notices) == B_FAILED

    parts = Scanned(failing=()).filled()
    parts.failures = (StoreFailed(NOW_S, FailureKind.UNAVAILABLE, "d"),)
    outcome, notices = parts.run(delete_pattern(scanning()))
    assert (outcome.matched, outcome.deleted, outcome.complete) == (3, 3, False)
    assert given_up(notices) == {("d", FailureKind.UNAVAILABLE)}
    outcome, _ = parts.run(delete_pattern(scanning(dry_run=True)))
    assert (outcome.matched, outcome.complete) == (3, False)


def test_a_page_of_which_a_part_was_missed_is_asked_for_again():
    parts = Scanned(failing=()).filled()
    parts.failures = (StoreFailed(NOW_S, FailureKind.CONNECTION, "d"),)
    step = delete_pattern(scanning())
    step = step.state.receive(parts.perform(step.command))
    parts.failures = ()
    outcome, _ = parts.run(step)
    assert (outcome.deleted, outcome.complete) == (3, True)


def test_a_scan_that_misses_a_part_says_so():
    parts = Scanned().filled()
    outcome, _ = parts.run(scan(scanning(), 0, frozenset()))
    assert isinstance(outcome, Unavailable)
    parts = Scanned(failing=()).filled()
    parts.failures = (StoreFailed(NOW_S, FailureKind.UNAVAILABLE, "d"),)
    outcome, _ = parts.run(scan(scanning(), 0, frozenset()))
    assert isinstance(outcome, Unavailable)


def test_of_tags_nothing_is_known_without_one_of_their_parts():
    parts = Parts(failing=("t",))
    event = parts.perform(ReadTags(("n:%t:x",), 1.0))
    assert isinstance(event, StoreFailed)
