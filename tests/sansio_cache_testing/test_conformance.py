"""The rules for backends: ours and a third party's keep them, and one that breaks a rule is told which."""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import get_args

import pytest

from sansio_cache import CacheConfig
from sansio_cache.cell import NO_GRANT, Cell, Kind, make_grant
from sansio_cache.commands import (
    ClaimCell,
    FreeLock,
    InspectCell,
    QueueCommand,
    StoreCommand,
    SwapCell,
    TakeLock,
    TouchCell,
)
from sansio_cache.config import RedisConfig
from sansio_cache.events import CellsFilled, FailureKind, FillResult, StoreFailed
from sansio_cache.memory_store import MemoryStore
from sansio_cache_redis.backend.anyio import make_backend_in_running_loop
from sansio_cache_redis.backend.sync import make_backend
from sansio_cache_runtime.anyio.memory import AnyioMemoryBackend
from sansio_cache_runtime.memory import SharedMemory, SyncMemoryBackend
from sansio_cache_runtime.sync.background import Background
from sansio_cache_testing.conformance import AnyioBackendConformance, SyncBackendConformance
from support.pages import blocks_of
from thirdparty.sqlite_backend import AnyioSqliteBackend, SqliteBackend


def memory():
    return SharedMemory(CacheConfig(namespace="n", redis=RedisConfig(url="memory://")))


class TestMemory(SyncBackendConformance):
    def make_backend(self):
        return SyncMemoryBackend(memory())


class TestMemoryUnderAsyncio(AnyioBackendConformance):
    def make_backend(self):
        return AnyioMemoryBackend(memory())


class TestMemoryUnderTrio(TestMemoryUnderAsyncio):
    runtime = "trio"


class OnSqlite:
    @pytest.fixture(autouse=True)
    def file(self, tmp_path):
        self.path = str(tmp_path / "store.db")


class TestSqlite(OnSqlite, SyncBackendConformance):
    def make_backend(self):
        return SqliteBackend(self.path)


class TestSqliteUnderTrio(OnSqlite, AnyioBackendConformance):
    runtime = "trio"

    def make_backend(self):
        return AnyioSqliteBackend(self.path)


@pytest.mark.servers
class OnServer:
    @pytest.fixture(autouse=True)
    def server(self, redis_client, redis_url):
        self.config = CacheConfig(namespace="n", redis=RedisConfig(url=redis_url))
        self.forget(redis_client)
        yield
        self.forget(redis_client)

    def forget(self, client):
        for key in client.scan_iter("conformance:*", count=1_000):
            client.unlink(key)


class TestServer(OnServer, SyncBackendConformance):
    def make_backend(self):
        return make_backend(self.config, None, time.monotonic, Background().start)


class TestServerUnderAsyncio(OnServer, AnyioBackendConformance):
    def make_backend(self):
        return make_backend_in_running_loop(self.config, None, time.monotonic, Background().start)


class TestServerUnderTrio(TestServerUnderAsyncio):
    runtime = "trio"


RULES = [name for name in dir(SyncBackendConformance) if name.startswith("test_")]
HOWTO = Path(__file__).parents[2] / "docs/howto/write-a-backend.md"


@pytest.fixture(scope="module")
def guide():
    """What the guide defines, as one has it who pastes it."""
    defined = {"__name__": "guide"}
    for block in blocks_of(HOWTO.read_text(encoding="utf-8")):
        # Not the use of it, which awaits at the top, and not what comes after its tests.
        is_needed = block.language == "python" and "TestMyBackend" not in defined
        if is_needed and "await cache" not in block.code:
            exec(block.code, defined)
    return defined


@pytest.mark.parametrize("rule", RULES)
def test_the_store_of_the_guide_keeps_the_rules_and_can_be_closed(guide, rule):
    suite = guide["TestMyBackend"]()
    getattr(suite, rule)()
    suite.teardown_method()


# Negative controls: stores that break one rule each.


def on(store):
    """The rules on a memory store of another kind."""

    class Broken(SyncBackendConformance):
        patience_s = 0.2  # nothing lapses there, however long it is waited for

        def make_backend(self):
            shared = memory()
            shared.store = store(shared.clock)
            return SyncMemoryBackend(shared)

    return Broken()


class FillsForAnybody(MemoryStore):
    """Stores without looking whose grant the cell holds."""

    def _fill(self, fill, *args):
        cell = self._look(fill.key, 0)
        if cell is not None and cell.kind == Kind.EMPTY and cell.grant != fill.grant:
            self._keep(fill.key, type(cell)(cell.kind, fill.grant, cell.lease_deadline_ms), 2**60)
        return super()._fill(fill, *args)


class IssuesTheSameGrantAgain(MemoryStore):
    """Makes a grant of the nonce alone."""

    def _grant(self, nonce, now_ms):
        return nonce + bytes(len(NO_GRANT) - len(nonce) - 1) + b"1"


class AcceptsEveryFill(MemoryStore):
    """Says that it has stored what it has refused."""

    def perform(self, command):
        event = super().perform(command)
        if isinstance(event, CellsFilled):
            event = CellsFilled(event.now_s, tuple(FillResult.STORED for _ in event.results), event.versions)
        return event


class ComparesNothing(MemoryStore):
    """Stores what may be compared without a look."""

    def _fill(self, fill, now_ms):
        return self._store(fill, now_ms) if fill.lease_ms else super()._fill(fill, now_ms)


class StandsStill(MemoryStore):
    """Has a clock that does not go, so that nothing lapses."""

    def perform(self, command):
        return self.answer(command, self.clock(), 1_000_000)


class KeepsForEver(MemoryStore):
    """Forgets nothing by itself."""

    def _keep(self, key, cell, expires_ms):
        super()._keep(key, cell, 2**60)


class ServesTheStale(MemoryStore):
    """Takes no notice of soft expiries."""

    def _store(self, fill, now_ms):
        return super()._store(type(fill)(fill.key, fill.grant, fill.hard_ttl_ms, 0, fill.body), now_ms)


class RenewsNothing(MemoryStore):
    """Says that it has renewed what it has left alone."""

    def _renew(self, lease, lease_ms, now_ms):
        return self._leased(lease, now_ms) is not None


class HasNoPrimitives(MemoryStore):
    """Was written before they were."""

    def perform(self, command):
        if isinstance(command, TakeLock | FreeLock | SwapCell | ClaimCell | TouchCell | InspectCell):
            raise NotImplementedError(type(command).__name__)
        return super().perform(command)


class ClaimsWhatIsThere(MemoryStore):
    """Takes a key for a writer without a look at what is there."""

    def _claim(self, claim, now_ms):
        return self._hold(claim.key, claim.nonce, claim.hold_ms, now_ms)


class SwapsAnyVersion(MemoryStore):
    """Replaces whatever value is there."""

    def _swap(self, swap, now_ms):
        cell = self._look(swap.key, now_ms)
        version = cell.filled_by if isinstance(cell, Cell) else swap.version
        named = (swap.nonce, swap.hard_ttl_ms, swap.soft_ttl_ms, swap.body, swap.timeout_s, swap.fill_id)
        return super()._swap(SwapCell(swap.key, version, *named), now_ms)


class SwapsTheTagsAway(MemoryStore):
    """Stores the body as it was given, which is without tags."""

    def _swap(self, swap, now_ms):
        version = super()._swap(swap, now_ms)
        if version is not None:
            cell = Cell(Kind.VALUE, NO_GRANT, 0, 0, version, swap.body)
            self._keep(swap.key, cell, self._expires_ms(swap.key))
        return version


class TouchesNothing(MemoryStore):
    """Says that a value lives longer, and does nothing."""

    def _touch(self, touch, now_ms):
        cell = self._look(touch.key, now_ms)
        return isinstance(cell, Cell) and cell.filled_by == touch.version


class TouchesForEver(MemoryStore):
    """Takes no notice of the longest life."""

    def _touch(self, touch, now_ms):
        fields = (touch.key, touch.version, touch.ttl_ms, 2**40, touch.nonce, touch.timeout_s)
        return super()._touch(TouchCell(*fields), now_ms)


class LocksForAnybody(MemoryStore):
    """Gives a lock without a look at who holds it."""

    def _take(self, take, now_ms):
        self._drop(take.key)
        return super()._take(take, now_ms)


class FreesForAnybody(MemoryStore):
    """Frees a lock without a look at whose it is."""

    def _free(self, lock, now_ms):
        cell = self._look(lock.key, now_ms)
        if cell is not None:
            super()._free(type(lock)(lock.key, cell.grant), now_ms)


class ForgetsTokens(MemoryStore):
    """Drops a lock that is given back, and has a clock that goes back."""

    def _free(self, lock, now_ms):
        self._drop(lock.key)

    def _grant(self, nonce, now_ms):
        self.issued_us += 1
        return make_grant(nonce, 2**40 - self.issued_us)


class MixesBatchesUp(MemoryStore):
    """Answers the keys of a batch in an order of its own."""

    def perform(self, command):
        event = super().perform(command)
        if hasattr(event, "answers"):
            event = type(event)(event.now_s, event.answers[::-1][1:] + event.answers[-1:], event.versions)
        return event


@pytest.mark.parametrize(
    ("store", "test", "says"),
    [
        (FillsForAnybody, "test_a_fill_under_anothers_grant_is_refused_s5", "FILL must look whose grant"),
        (
            IssuesTheSameGrantAgain,
            "test_a_late_duplicate_is_given_a_new_grant_s3",
            "must never be issued again",
        ),
        (
            AcceptsEveryFill,
            "test_a_fill_after_an_invalidation_is_refused_s1",
            "loaded before an invalidation",
        ),
        (ComparesNothing, "test_a_fill_that_may_compare_is_judged_like_any_other_s1", "that compares has"),
        (StandsStill, "test_a_value_is_gone_at_the_end_of_its_life", "outlives its hard time to live"),
        (StandsStill, "test_a_value_past_its_soft_life_is_stale_and_kept", "past its soft time to live"),
        (StandsStill, "test_a_lease_lapses_l3", "a lease does not lapse"),
        (StandsStill, "test_the_lease_of_a_refresh_lapses_l3", "the lease of a refresh does not lapse"),
        (StandsStill, "test_a_hold_lapses_l3", "a hold does not lapse"),
        (StandsStill, "test_a_lock_lapses_l3", "a lock does not lapse"),
        (KeepsForEver, "test_a_value_is_gone_at_the_end_of_its_life", "outlives its hard time to live"),
        (KeepsForEver, "test_a_hold_lapses_l3", "a hold does not lapse"),
        (ServesTheStale, "test_a_value_past_its_soft_life_is_stale_and_kept", "is never refreshed"),
        (RenewsNothing, "test_a_renewed_lease_lasts_longer_l2", "a renewal makes no lease last"),
        (RenewsNothing, "test_a_renewed_lock_lasts_longer", "a renewal does not make a lock last"),
        (MixesBatchesUp, "test_a_batch_of_leases_is_answered_in_the_order_of_its_keys_l2", "in the order"),
        (
            HasNoPrimitives,
            "test_a_look_at_a_key_that_is_not_there_finds_nothing",
            r"raised .* for InspectCell",
        ),
        (HasNoPrimitives, "test_a_claim_of_a_free_key_is_a_hold", r"raised .* for ClaimCell"),
        (HasNoPrimitives, "test_a_swap_replaces_the_version_that_was_seen", r"raised .* for SwapCell"),
        (HasNoPrimitives, "test_a_touch_lets_a_fresh_value_live_longer", r"raised .* for TouchCell"),
        (
            HasNoPrimitives,
            "test_a_lock_has_one_holder",
            r"raised .* for TakeLock: every command gets",
        ),
        (
            ClaimsWhatIsThere,
            "test_a_claim_finds_a_value_and_leaves_it_alone",
            "the second replaces the first",
        ),
        (
            ClaimsWhatIsThere,
            "test_a_claim_of_a_key_that_another_writer_holds_is_told_so",
            "two add a value to one key at once",
        ),
        (SwapsAnyVersion, "test_a_swap_of_another_version_is_refused", "must look at the version"),
        (SwapsTheTagsAway, "test_a_swap_replaces_the_version_that_was_seen", "loses the tags"),
        (TouchesNothing, "test_a_touch_lets_a_fresh_value_live_longer", "does not let a value live for"),
        (TouchesForEver, "test_a_touch_lets_nothing_live_longer_than_it_may", "past its longest life"),
        (LocksForAnybody, "test_a_lock_has_one_holder", "two hold one lock at once"),
        (FreesForAnybody, "test_a_stranger_frees_no_lock_s5", "somebody who does not hold it"),
        (FreesForAnybody, "test_who_held_a_lock_before_frees_and_renews_it_no_more_s5", "who held it before"),
        (ForgetsTokens, "test_a_lock_given_back_is_free_and_its_next_token_is_higher", "is no higher"),
    ],
)
def test_a_store_that_breaks_a_rule_is_told_which(store, test, says):
    with pytest.raises(AssertionError, match=says):
        getattr(on(store), test)()


def test_every_command_is_asked_for_but_those_of_queues():
    asked = set()

    class Writes(MemoryStore):
        def perform(self, command):
            asked.add(type(command))
            return super().perform(command)

    for rule in RULES:
        getattr(on(Writes), rule)()
    assert asked >= {*get_args(StoreCommand)} - {*get_args(QueueCommand)}


class TestAnEventLoopWhoseBackendRaises:
    """What a backend for event loops raises is told like what one for threads does."""

    def test_it_is_told_which_command(self):
        class Raising(AnyioMemoryBackend):
            async def answer(self, command):
                raise NotImplementedError

        class Broken(AnyioBackendConformance):
            def make_backend(self):
                return Raising(memory())

        suite = Broken()
        try:
            with pytest.raises(AssertionError, match=r"raised NotImplementedError.* for Ping: every command"):
                suite.test_it_answers()
        finally:
            suite.teardown_method()

    def test_a_backend_that_cannot_be_made_is_told_and_leaves_no_loop(self):
        suite = AnyioBackendConformance()
        with pytest.raises(NotImplementedError, match="say in make_backend"):
            suite.test_it_answers()
        suite.teardown_method()
        assert suite._loop is None


@pytest.mark.parametrize(
    ("failure", "says"),
    [(FailureKind.OTHER, None), (FailureKind.UNAVAILABLE, "says that it does not serve")],
)
def test_a_store_declines_queues_and_does_not_say_that_it_is_out(failure, says):
    class KeepsNoQueues(MemoryStore):
        def _queued(self, command, now_s, now_ms):
            return StoreFailed(now_s, failure)

    with pytest.raises(AssertionError, match=says) if says else nullcontext():
        on(KeepsNoQueues).test_a_store_without_queues_says_so()


def test_who_does_not_say_how_a_backend_is_made_is_told_so():
    with pytest.raises(NotImplementedError, match="say in make_backend"):
        SyncBackendConformance().test_it_answers()
