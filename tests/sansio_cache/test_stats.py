"""Statistics: a fold over notices whose figures balance (B3)."""

from __future__ import annotations

import json
from collections import deque
from random import Random

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sansio_cache import CacheStats, EntityStats, Histogram, Sizes
from sansio_cache.cell import FOREIGN
from sansio_cache.codec import codec_for
from sansio_cache.commands import ReadCell
from sansio_cache.entry import MissReason
from sansio_cache.events import FailureKind
from sansio_cache.glance import Glance
from sansio_cache.loader import Absent, Fresh
from sansio_cache.memory_store import MemoryStore
from sansio_cache.notices import (
    Began,
    Ended,
    FillRefused,
    Hit,
    Invalidated,
    InvalidationFailed,
    InvalidationRefused,
    LeaseLost,
    LeaseOutgrown,
    Loaded,
    LoadFailed,
    LoadShared,
    Missed,
    OperationName,
    Outlived,
    PartitionLost,
    PartitionMeasured,
    PartitionTaken,
    PatternDeleted,
    PatternProgressed,
    RefreshFailed,
    RefreshSkipped,
    RefreshStarted,
    RemovalBegan,
    Result,
    SkipReason,
    SoftExpired,
    StaleServed,
    StoreAnswered,
    Stored,
    StoreErrored,
    StoreGaveUp,
    Unasked,
    Unstorable,
    VariantStored,
    Waited,
    WriteDead,
    WriteQueued,
    WriterFailed,
    WritesApplied,
)
from sansio_cache.operations.batch import LoadManyRequest
from sansio_cache.operations.get import ReadRequest, get
from sansio_cache.operations.get_many import ReadManyRequest, get_many
from sansio_cache.operations.get_or_load import get_or_load
from sansio_cache.operations.invalidate import InvalidateRequest, invalidate
from sansio_cache.operations.load_many import load_many
from sansio_cache.operations.set_many import Item, SetRequest, set_many
from sansio_cache.policy import Policy
from sansio_cache.stats import OTHERS, CacheState, PartStats, StatsFold
from sansio_cache.ttl import NO_JITTER
from support.machines import INTS, NONCE, TEXTS, TIMEOUTS, Clock, Fault, Process, load_request


def folded(*notices):
    fold = StatsFold()
    fold.record(notices)
    return fold.snapshot()


@pytest.mark.parametrize(
    ("notice", "stats"),
    [
        (Hit("k"), CacheStats(redis_hits=1)),
        (StaleServed("k"), CacheStats(stale_hits=1)),
        (Missed("k", MissReason.SCHEMA), CacheStats(misses={MissReason.SCHEMA: 1})),
        (Loaded("k", True, 1e-6), CacheStats(loads=1, load_time=Histogram({1: 1}, 1))),
        (
            Loaded("k", False, 2e-6),
            CacheStats(loads=1, loads_without_lease=1, load_time=Histogram({2: 1}, 2)),
        ),
        (LoadFailed("k", True, "ValueError"), CacheStats(load_failures=1)),
        (RefreshStarted("k", True), CacheStats(refreshes=1)),
        (RefreshFailed("k", "ValueError"), CacheStats(refresh_failures=1)),
        (RefreshSkipped("k"), CacheStats(refreshes_skipped=1)),
        (RefreshSkipped("k", SkipReason.REBOUND, "id"), CacheStats(refreshes_skipped=1)),
        (VariantStored("k"), CacheStats(variants_stored=1)),
        (LoadShared("k"), CacheStats(shared=1)),
        (Waited("k", 3e-6), CacheStats(waits=1, wait_time=Histogram({3: 1}, 3))),
        (Stored("k", 2), CacheStats(stored=1, stored_size=Sizes({2: 1}, 2))),
        (FillRefused("k"), CacheStats(lost_leases=1)),
        (LeaseOutgrown("k"), CacheStats(outgrown_leases=1)),
        (Outlived("k"), CacheStats(outlived=1)),
        (Unstorable("k", "why"), CacheStats(unstorable=1)),
        (RemovalBegan(("k", "l")), CacheStats()),
        (Invalidated(("k", "l")), CacheStats(invalidated=2)),
        (PatternDeleted("p", 3), CacheStats(invalidated=3)),
        (SoftExpired(("k", "l")), CacheStats(soft_expired=2)),
        (InvalidationFailed(("k", "l")), CacheStats(failed_invalidations=2)),
        (InvalidationRefused(("k", "l"), FailureKind.PERMISSION), CacheStats(refused_invalidations=2)),
        (WriteQueued("k"), CacheStats(writes_queued=1)),
        (WritesApplied(("k", "l"), 3, 0.1), CacheStats(writes_applied=2, writes_coalesced=3)),
        (
            WriterFailed("n:%w:{q:0}", 2, "ValueError"),
            CacheStats(writer_failures=1, entities={"q": EntityStats(writer_failures=1)}),
        ),
        (WriteDead("k", "poison"), CacheStats(writes_dead=1)),
        (PartitionTaken("n:%w:{q:0}"), CacheStats()),
        (PartitionMeasured("n:%w:{q:0}", 2, 0.1, 5.0), CacheStats()),
        (PartitionLost("n:%w:{q:0}"), CacheStats()),
        (StoreErrored(FailureKind.TIMEOUT), CacheStats(errors={FailureKind.TIMEOUT: 1})),
        (StoreGaveUp(FailureKind.TIMEOUT), CacheStats(gave_up={FailureKind.TIMEOUT: 1})),
        # It shows again as FillRefused, and the pages of a pattern add up; the breaker alone takes an answer
        # in, and only the log what nobody asked for.
        (LeaseLost("k"), CacheStats()),
        (PatternProgressed("p", 3, 2), CacheStats()),
        (StoreAnswered(), CacheStats()),
        (Unasked(2), CacheStats()),
        # Nobody has waited for the one, and the other came to nothing.
        (Ended(OperationName.REFRESH, 0.1), CacheStats()),
        (Ended(OperationName.GET, 0.1, Result.ABANDONED), CacheStats()),
        (Began(OperationName.GET, "k", 1, "", 7), CacheStats()),
    ],
)
def test_each_notice_raises_exactly_its_own_counter(notice, stats):
    """B3."""
    assert folded(notice) == stats


def test_operations_are_timed_by_name():
    stats = folded(
        Ended(OperationName.GET, 0.001), Ended(OperationName.GET, 0.002), Ended(OperationName.SET, 0.003)
    )
    assert {name: histogram.count for name, histogram in stats.latency.items()} == {
        OperationName.GET: 2,
        OperationName.SET: 1,
    }


def test_what_is_about_a_key_is_counted_by_its_entity():
    stats = folded(
        Hit("shop:user:1"),
        Hit("shop:user:2"),
        Missed("shop:user:2", MissReason.ABSENT),
        Loaded("shop:user:2", True, 0.5),
        Stored("shop:user:2", 120),
        Waited("shop:top", 0.25),
        Unstorable("shop:top", "set"),
        Invalidated(("shop:user:1", "shop:%t:users", "shop:order:9")),
        PatternDeleted("shop:order:*", 3),
        PatternDeleted("shop:or*:*", 4),
    )
    assert set(stats.entities) == {"user", "top", "order"}
    user, top, order = (stats.entities[name] for name in ("user", "top", "order"))
    assert (user.redis_hits, user.misses, user.hit_rate) == (
        2,
        {MissReason.ABSENT: 1},
        pytest.approx(200 / 3),
    )
    assert (user.loads, user.load_time.count, user.load_time.sum_s) == (1, 1, 0.5)
    assert (user.stored, user.stored_size.count, user.stored_size.sum_bytes) == (1, 1, 120)
    assert 120 < user.stored_size.percentile_bytes(50) < 151
    assert user.stored_size.bounds() == [(user.stored_size.percentile_bytes(50), 1)]
    assert (top.waits, top.wait_time.sum_s, top.unstorable) == (1, 0.25, 1)
    assert (user.invalidated, order.invalidated) == (1, 4)
    assert stats.invalidated == 10, "tags, and what several entities may be meant by, are in the total alone"


def test_the_totals_are_the_sums_of_the_entities_however_many_there_are():
    fold = StatsFold()
    fold.know("late")
    for number in range(150):
        fold.record([Hit(f"shop:e{number}:1"), Loaded(f"shop:e{number}:1", True, 0.001)])
    fold.record([Hit("shop:late:1")])
    stats = fold.snapshot()
    assert len(stats.entities) == 101
    assert stats.entities["late"].redis_hits == 1, "a place was kept for it"
    assert stats.entities[OTHERS].redis_hits == 51
    assert stats.redis_hits == sum(each.redis_hits for each in stats.entities.values()) == 151
    assert stats.load_time.sum == sum(each.load_time.sum for each in stats.entities.values()) == 150_000


def test_an_entity_for_which_a_place_is_kept_is_there_from_the_start_and_after_a_fork():
    fold = StatsFold()
    fold.record([Hit("shop:user:1")])
    fold.know("user")
    fold.know("order")
    assert fold.snapshot().entities["order"] == EntityStats()
    assert fold.snapshot().entities["user"].redis_hits == 1
    assert fold.successor().snapshot() == CacheStats(entities={"user": EntityStats(), "order": EntityStats()})


def test_the_keys_that_are_remembered_by_their_entity_are_bounded():
    fold = StatsFold()
    for number in range(300_000):
        fold.record([Hit(f"shop:user:{number}")])
    assert len(fold._by_key) <= 24_576
    assert "shop:user:0" not in fold._by_key, "what is not used any more makes room"
    assert fold.snapshot().entities["user"].redis_hits == 300_000


def test_of_more_keys_in_turn_than_are_remembered_some_are():
    fold = StatsFold()
    for number in range(30_000):
        fold.record([Hit(f"shop:user:{number}")])
    remembered = set(fold._by_key)
    fold.record(Hit(f"shop:user:{number}") for number in range(15_000))
    assert set(fold._by_key) == remembered, "it does not begin anew with each key that it does not hold"


def test_totals_and_the_hit_rate_count_stale_answers_as_answers():
    stats = CacheStats(redis_hits=5, stale_hits=1, misses={MissReason.ABSENT: 1, MissReason.EXPIRED: 1})
    assert stats.redis_misses == 2
    assert stats.total_requests == 8
    assert stats.hit_rate == 75.0
    assert CacheStats().hit_rate == 0.0


def test_a_snapshot_does_not_change_any_more():
    fold = StatsFold()
    fold.record([Missed("k", MissReason.ABSENT), Ended(OperationName.GET, 0.1)])
    before = fold.snapshot()
    fold.record([Missed("k", MissReason.ABSENT), Hit("k"), Ended(OperationName.GET, 0.1)])
    assert before.misses == {MissReason.ABSENT: 1}
    assert before.redis_hits == 0
    assert before.latency[OperationName.GET].count == 1
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        before.redis_hits = 1
    with pytest.raises(TypeError):
        before.misses[MissReason.ABSENT] = 2
    with pytest.raises(TypeError):
        before.latency[OperationName.GET].buckets[0] = 2
    assert len({before, fold.snapshot()}) == 2


keys = st.sampled_from(["a", "b"])
seconds = st.floats(0, 100)
notices = st.one_of(
    st.builds(Hit, keys),
    st.builds(StaleServed, keys),
    st.builds(Missed, keys, st.sampled_from(MissReason)),
    st.builds(Loaded, keys, st.booleans(), seconds),
    st.builds(Ended, st.sampled_from(OperationName), seconds),
    st.builds(StoreErrored, st.sampled_from(FailureKind)),
    st.builds(Invalidated, st.lists(keys).map(tuple)),
)


def test_the_difference_leaves_out_what_did_not_happen():
    earlier = folded(Hit("k"), Missed("k", MissReason.ABSENT), Ended(OperationName.GET, 0.1))
    later = folded(
        *(Hit("k"), Missed("k", MissReason.ABSENT), Ended(OperationName.GET, 0.1)),
        *(Hit("k"), Missed("k", MissReason.EXPIRED), Ended(OperationName.SET, 0.2)),
    )
    between = later - earlier
    assert between.redis_hits == 1
    assert between.misses == {MissReason.EXPIRED: 1}
    assert set(between.latency) == {OperationName.SET}


@settings(deadline=None)
@given(st.lists(notices), st.lists(notices))
def test_the_difference_of_two_snapshots_is_what_happened_in_between(earlier, later):
    fold = StatsFold()
    fold.record(earlier)
    before = fold.snapshot()
    fold.record(later)
    assert fold.snapshot() - before == folded(*later)
    assert before - before == CacheStats()


# Histograms.


@settings(deadline=None)
@given(st.floats(0, 10_000))
def test_a_duration_falls_into_a_bucket_that_bounds_it_within_a_quarter(took_s):
    [(upper_s, count)] = folded(Ended(OperationName.GET, took_s)).latency[OperationName.GET].bounds()
    assert count == 1
    assert took_s <= upper_s
    if took_s >= 4e-6:
        assert upper_s < took_s * 1.26
    else:
        assert upper_s <= 4.000001e-6


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**8).map(lambda us: us / 1e6), min_size=2))
def test_longer_durations_never_fall_into_lower_buckets(durations):
    bounds = [
        folded(Ended(OperationName.GET, took_s)).latency[OperationName.GET].bounds()[0][0]
        for took_s in sorted(durations)
    ]
    assert bounds == sorted(bounds)


def test_buckets_are_numbered_without_gaps():
    fold = StatsFold()
    fold.record(Ended(OperationName.GET, us / 1e6 + 1e-7) for us in range(4_096))
    histogram = fold.snapshot().latency[OperationName.GET]
    assert sorted(histogram.buckets) == list(range(max(histogram.buckets) + 1))
    assert histogram.count == 4_096


def test_a_clock_that_went_back_does_not_break_the_histogram():
    histogram = folded(Ended(OperationName.GET, -1.0)).latency[OperationName.GET]
    assert histogram.bounds() == [(1e-6, 1)]


def test_a_percentile_is_the_bound_that_so_many_do_not_exceed():
    fold = StatsFold()
    fold.record(Ended(OperationName.GET, 0.001) for _ in range(99))
    fold.record([Ended(OperationName.GET, 1.0)])
    histogram = fold.snapshot().latency[OperationName.GET]
    assert 0.001 <= histogram.percentile_s(50) < 0.00126
    assert histogram.percentile_s(50) == histogram.percentile_s(99) == histogram.percentile_s(0)
    assert 1.0 <= histogram.percentile_s(99.5) < 1.26
    assert histogram.percentile_s(100) == histogram.percentile_s(99.5)


def test_without_any_durations_a_percentile_is_0():
    assert Histogram().percentile_s(99) == 0.0
    assert Histogram().bounds() == []
    assert Histogram().count == 0


# The balance.

KEYS = ("shop:a", "shop:b")
KINDS = (FailureKind.TIMEOUT, FailureKind.CONNECTION, FailureKind.PERMISSION)
SKIPS = (MissReason.DISABLED, MissReason.STORE_ERROR, MissReason.BYPASSED)


class RandomTraffic:
    """Operations of two processes that take turns in any order, on two keys with two tags.

    Time, other programs, readers of another type and writers interfere; store commands fail before or after
    they are done; loaders raise, find nothing, and give what cannot be stored, what nobody asked for, or no
    mapping at all. Refreshes run beside.
    """

    def __init__(self, seed):
        self.random = Random(seed)
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.processes = [Process(self.store, self.clock), Process(self.store, self.clock)]
        for process in self.processes:
            process.fault = self.fault
        self.asked = 0
        self.under_way = []
        self.notices = []

    def fault(self, _):
        if self.random.random() < 0.1:
            return Fault(self.random.choice(KINDS), is_done=self.random.random() < 0.5)
        return None

    def value(self):
        return self.random.choice(
            [7, 7, 7, Fresh(7, ttl=1), Fresh(7, ttl=0), Absent(), "unstorable as an int"]
        )

    def load(self, names=None):
        if self.random.random() < 0.25:
            raise RuntimeError("database")
        if names is None:
            return self.value()
        if self.random.random() < 0.1:
            return [7] * len(names)
        given = {name: self.value() for name in names if self.random.random() < 0.8}
        return given | ({"unasked": 7} if self.random.random() < 0.2 else {})

    def policy(self):
        choice = self.random.choice
        stale_for_s = choice([0, 2, 2])
        return Policy(
            ttl=choice([0.4, 2]),
            jitter=NO_JITTER,
            stale_for_s=stale_for_s,
            refresh_at=choice([None, None, 0.1]),
            negative_ttl=0.5,
            lease_s=0.3,
            wait_s=choice([0.0, 0.05, 30.0]),
            on_wait_timeout=choice(["load", "raise", *(["stale"] * 2 if stale_for_s else [])]),
            retry_after_s=choice([0.0, 0.5]),
            on_read_error=choice(["load", "load", "raise"]),
        )

    def begin(self, number):
        """Begin an operation: how many keys it asks for is how often it is to be counted."""
        choice = self.random.choice
        process = choice(self.processes)
        skip = choice(SKIPS) if self.random.random() < 0.1 else None
        key, codec = choice(KEYS), choice([INTS, INTS, INTS, TEXTS])
        nonce, tags = b"caller%02d" % number, choice([(), (), ("t:a",), ("t:a", "t:b")])
        bypassed = frozenset({"shop:%t:a"}) if self.random.random() < 0.1 else frozenset()
        raises, now_s = choice([False, False, True]), self.clock()
        asked = 1
        match self.random.randrange(12):
            case 0:
                step = get(ReadRequest(key, codec, TIMEOUTS, now_s, raises, bypassed), skip=skip)
            case 1:
                many = ReadManyRequest(KEYS, codec, choice([1, 2]), TIMEOUTS, now_s, raises, bypassed)
                step, asked = get_many(many, skip=skip), len(KEYS)
            case 2:
                item = Item(
                    key, codec, codec.encode({INTS: 7, TEXTS: "a"}[codec]).payload, 2_000, choice([0, 1])
                )
                request = SetRequest(OperationName.SET, (item,), nonce, 300, 2, TIMEOUTS, now_s, tags)
                step, asked = set_many(request), 0
            case 3:
                gone = choice([(key,), ("shop:%t:a",), ("shop:%t:b", key)])
                step, asked = (
                    invalidate(InvalidateRequest(OperationName.INVALIDATE, gone, 1, TIMEOUTS, now_s)),
                    0,
                )
            case 4:
                stale = InvalidateRequest(OperationName.EXPIRE, KEYS, 1, TIMEOUTS, now_s, soft=True)
                step, asked = invalidate(stale), 0
            case 5 | 6 | 7:
                each = self.request(KEYS[0], codec, nonce, tags, bypassed)
                many = LoadManyRequest(KEYS, ("a", "b"), choice([1, 2]), each)
                step, asked = load_many(many, skip=skip), len(KEYS)
            case _:
                step = get_or_load(self.request(key, codec, nonce, tags, bypassed), skip=skip)
        self.asked += asked
        self.under_way.append((process, process.start(step, self.load), asked))

    def request(self, key, codec, nonce, tags, bypassed):
        return load_request(
            name=key,
            codec=codec,
            policy=self.policy(),
            nonce=nonce,
            started_s=self.clock(),
            tags=tags,
            bypassed=bypassed,
        )

    def happen(self):
        """One thing, whatever it is."""
        match self.random.randrange(25):
            case 0:
                self.clock.advance(self.random.choice([0.001, 0.4, 3.0]))
            case 1:
                cell = self.random.choice([None, FOREIGN])
                self.store.plant(self.random.choice(KEYS), cell, int(self.clock() * 1000) + 400)
            case _:
                process, run, _ = self.random.choice(self.under_way)
                if not run.is_over:
                    process.advance(run)

    def settle(self):
        """Take what is over off the list, and what was spawned on it."""
        for process in self.processes:
            self.under_way += [(process, run, 0) for run in process.spawned]
            process.spawned.clear()
        for each in [each for each in self.under_way if each[1].is_over]:
            self.under_way.remove(each)
            _, run, asked = each
            counted = [notice for notice in run.notices if isinstance(notice, Hit | StaleServed | Missed)]
            assert len(counted) == asked, run
            self.notices += run.notices

    def run(self, operations, at_once):
        number = 0
        while number < operations or self.under_way:
            if number < operations and len(self.under_way) < at_once:
                self.begin(number)
                number += 1
            else:
                self.happen()
            self.settle()


@settings(deadline=None, max_examples=300)
@given(seed=st.integers(0, 2**32), at_once=st.integers(1, 6))
def test_every_request_is_counted_once_whatever_happens(seed, at_once):
    """B3: hits + stale + misses = requests; loads = loads under a grant + loads without."""
    traffic = RandomTraffic(seed)
    traffic.run(30, at_once)
    stats = folded(*traffic.notices)
    assert stats.total_requests == traffic.asked
    loads = [notice for notice in traffic.notices if isinstance(notice, Loaded)]
    leased = sum(notice.leased for notice in loads)
    assert stats.loads == leased + stats.loads_without_lease == len(loads)
    assert sum(histogram.count for histogram in stats.latency.values()) == 30
    # Every refresh that was begun came to one end or another, and only the failed ones are counted as such.
    failures = sum(isinstance(notice, RefreshFailed) for notice in traffic.notices)
    assert stats.refresh_failures == failures <= stats.refreshes
    assert all(process.holds_nothing for process in traffic.processes)  # B2


def test_the_random_traffic_meets_everything_that_there_is_to_count():
    # The control for the balance: a figure that stays 0 was not tested.
    fold = StatsFold()
    kinds = set()
    for seed in range(150):
        traffic = RandomTraffic(seed)
        traffic.run(30, 4)
        fold.record(traffic.notices)
        kinds |= {type(notice) for notice in traffic.notices}
    stats = fold.snapshot()
    # A memory store's replies belong to their keys, and its cells are whole; nothing is signed here.
    unmet = {MissReason.KEY_CHECK, MissReason.CORRUPT, MissReason.SIGNATURE}
    assert set(stats.misses) == set(MissReason) - unmet
    figures = attrs.asdict(stats, recurse=False)
    for other in ("misses", "errors", "gave_up", "latency", "entities"):
        assert figures.pop(other)
    idle = {name for name, figure in figures.items() if figure == 0}
    # Renewals do not run here, it is drivers who skip a refresh, and a memory store refuses nothing; nobody
    # queues a write.
    failover = {"replayed", "store_changes"}  # nobody fails over there
    queued = {"writes_queued", "writes_applied", "writes_coalesced", "writes_dead", "writer_failures"}
    assert idle == {"outgrown_leases", "refreshes_skipped", "refused_invalidations"} | queued | failover
    assert Unasked in kinds


def test_a_request_that_is_interrupted_is_counted_at_most_once():
    clock = Clock()
    process = Process(MemoryStore(clock), clock)
    for turns in range(5):
        run = process.start(get_or_load(load_request(started_s=clock(), nonce=NONCE)), lambda: 7)
        for _ in range(turns):
            process.advance(run)
        process.interrupt(run)
        process.finish(run)
        assert folded(*run.notices).total_requests <= 1
        process.store.plant(load_request().key, None, 0)


def test_a_batch_that_is_interrupted_counts_each_of_its_keys_at_most_once():
    clock = Clock()
    process = Process(MemoryStore(clock), clock)
    for turns in range(4):
        each = load_request(name=KEYS[0], started_s=clock(), nonce=b"batch-%02d" % turns)
        batch = LoadManyRequest(KEYS, ("a", "b"), 1, each)
        run = process.start(load_many(batch), lambda names: dict.fromkeys(names, 7))
        for _ in range(turns):
            process.advance(run)
        process.interrupt(run)
        process.finish(run)
        assert folded(*run.notices).total_requests <= 2


def test_the_counters_are_plain_data_that_can_be_made_json_of():
    traffic = RandomTraffic(7)
    traffic.run(50, 4)
    stats = folded(*traffic.notices)
    plain = json.loads(json.dumps(stats.as_dict()))
    derived = {"total_requests", "redis_misses", "hit_rate"}
    assert set(plain) == set(attrs.fields_dict(CacheStats)) | derived
    assert {name: plain[name] for name in derived} == {name: getattr(stats, name) for name in derived}
    assert plain["misses"] == {reason.value: count for reason, count in stats.misses.items()} != {}
    assert plain["latency"] == {
        operation.value: {
            "count": each.count,
            "sum_s": each.sum_s,
            "p50_s": each.percentile_s(50),
            "p99_s": each.percentile_s(99),
        }
        for operation, each in stats.latency.items()
    }
    assert plain["latency"] != {}
    assert plain["entities"] == {"a": stats.entities["a"].as_dict(), "b": stats.entities["b"].as_dict()}
    assert plain["entities"]["a"]["stored_size"]["sum_bytes"] == stats.entities["a"].stored_size.sum_bytes > 0


def test_a_hit_at_the_first_look_whose_clock_went_back_took_no_time():
    command = ReadCell("n:user:1", 1.0)
    glance = Glance(command, codec_for(None, 1_000), b"", OperationName.GET, 5.0, lambda _: None)
    fold = StatsFold()
    fold.record_hits(deque([(glance, 4.0), (glance, 5.5)]))
    stats = fold.snapshot()
    assert stats.redis_hits == 2
    assert stats.latency[OperationName.GET].count == 2
    assert stats.latency[OperationName.GET].sum_s == 0.5


def test_what_was_not_counted_is_no_difference_and_the_later_one_stands():
    out = CacheState(parts={"a": PartStats(is_open=True, pending_invalidations=2)}, connections=3)
    now = CacheStats(redis_hits=1, state=out)
    assert now == CacheStats(redis_hits=1)
    assert (now - CacheStats()).state == out
    assert (CacheStats() - now).state == CacheState()
    assert (out.is_open, out.pending_invalidations) == (True, 2)
    assert not CacheState().is_open
    assert out.as_dict() == {
        "parts": {"a": {"is_open": True, "pending_invalidations": 2}},
        "connections": 3,
        "loads_running": 0,
        "refreshes_running": 0,
        "refreshes_waiting": 0,
        "queues": {},
    }
