"""The rules for backends: ours and a third party's keep them, and one that breaks a rule is told which."""

import pytest

from sansio_cache import CacheConfig
from sansio_cache.cell import NO_GRANT, Kind
from sansio_cache.config import RedisConfig
from sansio_cache.events import CellsFilled, FillResult
from sansio_cache.memory_store import MemoryStore
from sansio_cache_runtime.anyio.memory import AnyioMemoryBackend
from sansio_cache_runtime.memory import SharedMemory, SyncMemoryBackend
from sansio_cache_testing.conformance import AnyioBackendConformance, SyncBackendConformance
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


# Negative controls: stores that break one rule each.


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
    ],
)
def test_a_store_that_breaks_a_rule_is_told_which(store, test, says):
    class Broken(SyncBackendConformance):
        def make_backend(self):
            shared = memory()
            shared.store = store(shared.clock)
            return SyncMemoryBackend(shared)

    with pytest.raises(AssertionError, match=says):
        getattr(Broken(), test)()


def test_who_does_not_say_how_a_backend_is_made_is_told_so():
    with pytest.raises(NotImplementedError, match="say in make_backend"):
        SyncBackendConformance().test_it_answers()
