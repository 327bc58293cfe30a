"""The keeper: it renews while there is something to renew, and is not there when there is not."""

import threading

from sansio_cache import Policy
from sansio_cache.commands import Lease, Renewal, RenewLeases
from sansio_cache.events import LeasesRenewed
from sansio_cache_redis.sync import Cache
from sansio_cache_runtime.sync import lease_renewer as module
from sansio_cache_runtime.sync.lease_renewer import LeaseRenewer
from support.faulty import GIVE_UP_S, LateCondition
from support.servers import wait_until


class Kept:
    """A keeper, and what it has renewed, at a time that stands still."""

    def __init__(self):
        self.renewed = []
        self.lease_renewer = LeaseRenewer(lambda: 0.0, self._perform, lambda step: None)

    def _perform(self, step):
        assert isinstance(step.command, RenewLeases)
        self.renewed.append(step.command.leases[0].key)
        # Not ours any more, which ends the renewal: else it would be due again at once.
        return LeasesRenewed(0.0, (False,))

    def keeping(self, key):
        """Renew the lease of a key at once."""
        return self.lease_renewer.keeping(Renewal((Lease(key, b"grant"),), 0, 60.0, 0.1, 0.0))


def test_the_thread_ends_when_it_has_nothing_to_do_and_another_begins_later(monkeypatch, namespace):
    """Else each cache that has ever loaded something would keep one, and that thread the cache."""
    monkeypatch.setattr(module, "_IDLE_S", 0.01)
    with Cache.from_url("memory://", namespace=namespace, policy=Policy(lease_s=0.15)) as cache:
        lease_renewer = cache._driver._lease_renewer
        threads = []
        for turn in range(3):
            renewals = []
            perform = lease_renewer._perform

            def counted(step, renewals=renewals, perform=perform):
                event = perform(step)
                renewals.append(event)
                return event

            lease_renewer._perform = counted

            def load(renewals=renewals):
                threads.append(lease_renewer._thread)
                wait_until(lambda: renewals)
                return 1

            assert cache.get_or_load(f"k{turn}", load) == 1
            wait_until(lambda: not threads[-1].is_alive())
            assert lease_renewer._thread is None
        assert len(set(threads)) == 3


def test_a_renewal_that_comes_at_the_very_end_of_an_idle_wait_is_not_lost():
    kept = Kept()
    late = kept.lease_renewer._changed = LateCondition(kept.lease_renewer._lock)
    with kept.keeping("a"):
        wait_until(lambda: kept.renewed == ["a"])
    assert late.is_waiting.wait(GIVE_UP_S)
    first = kept.lease_renewer._thread

    with kept.keeping("b"):
        late.is_over.set()
        wait_until(lambda: kept.renewed == ["a", "b"])

    first.join(GIVE_UP_S)
    assert not first.is_alive()
    assert kept.lease_renewer._thread is None


def test_a_thread_that_ends_late_does_not_disown_the_next_one(monkeypatch):
    """Else the load after that one would start a third."""
    monkeypatch.setattr(module, "_IDLE_S", 0.01)
    kept = Kept()
    has_ended, may_go = threading.Event(), threading.Event()
    following = kept.lease_renewer._next

    def slow():
        found = following()
        if found is None and not has_ended.is_set():
            has_ended.set()
            assert may_go.wait(GIVE_UP_S)
        return found

    kept.lease_renewer._next = slow
    with kept.keeping("a"):
        first = kept.lease_renewer._thread
        wait_until(lambda: kept.renewed == ["a"])
    assert has_ended.wait(GIVE_UP_S)
    monkeypatch.setattr(module, "_IDLE_S", 600.0)
    with kept.keeping("b"):
        second = kept.lease_renewer._thread
        assert second is not first
        may_go.set()
        first.join(GIVE_UP_S)
        assert kept.lease_renewer._thread is second
    kept.lease_renewer.close()
    second.join(GIVE_UP_S)
    assert not second.is_alive()
