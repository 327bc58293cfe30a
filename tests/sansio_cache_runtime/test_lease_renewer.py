"""The lease renewer: it renews while there is something to renew, and is not there when there is not."""

import gc
import sys
import threading
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from weakref import ref

import anyio
import pytest

from sansio_cache import Policy
from sansio_cache.commands import Lease, Renewal, RenewLeases
from sansio_cache.events import FailureKind, LeasesRenewed, StoreFailed
from sansio_cache.notices import LeaseLost, StoreErrored
from sansio_cache_redis import anyio as anyio_colour
from sansio_cache_redis.sync import Cache
from sansio_cache_runtime.anyio.lease_renewer import LeaseRenewer as TimerRenewer
from sansio_cache_runtime.loaders import Running
from sansio_cache_runtime.sync import lease_renewer as module
from sansio_cache_runtime.sync.background import Background
from sansio_cache_runtime.sync.event import ThreadCondition
from sansio_cache_runtime.sync.lease_renewer import LeaseRenewer
from support.faulty import GIVE_UP_S, LateCondition
from support.servers import wait_until

pytestmark = pytest.mark.timing


class CountedBackground(Background):
    """Remembers the threads that it has started."""

    def __init__(self):
        super().__init__()
        self.threads = []
        self.left = 100

    def start(self, job, name, *, is_waited_for=False):
        self.left -= 1
        if self.left < 0:
            return False

        def run():
            self.threads.append(threading.current_thread())
            job()

        return super().start(run, name, is_waited_for=is_waited_for)

    def are_gone(self, count):
        """Whether so many threads have been there, and none is any more."""
        return len(self.threads) == count and not any(each.is_alive() for each in self.threads)


@contextmanager
def keeping(lease_renewer, renewal):
    """Keep leases for as long as a block runs, as a driver does."""
    kept = Running(renewal=renewal)
    try:
        lease_renewer.keep(kept)
        yield
    finally:
        lease_renewer.end(kept)


class Renewed:
    """A renewer, and what it has renewed, at a time that stands still."""

    def __init__(self, note=lambda notices: None):
        self.renewed = []
        self.background = CountedBackground()
        self.lease_renewer = LeaseRenewer(lambda: 0.0, self.background, self._perform, note)

    def _perform(self, command):
        assert isinstance(command, RenewLeases)
        self.renewed.append(command.leases[0].key)
        # Not ours any more, which ends the renewal: else it would be due again at once.
        return LeasesRenewed(0.0, (False,))

    def keeping(self, key, lease_ms=0):
        """Renew the lease of a key, at once where it lasts for no time."""
        renewal = Renewal((Lease(key, b"grant"),), lease_ms, 60.0, 0.1, lease_ms / 3000)
        return keeping(self.lease_renewer, renewal)


def test_the_thread_ends_when_it_has_nothing_to_do_and_another_begins_later(monkeypatch, namespace):
    """Else each cache that has ever loaded something would keep one, and that thread the cache."""
    monkeypatch.setattr(module, "_IDLE_S", 0.01)
    with Cache.from_url("memory://", namespace=namespace, policy=Policy(lease_s=0.15)) as cache:
        lease_renewer = cache._driver._lease_renewer
        background = lease_renewer._background = CountedBackground()
        perform = lease_renewer._perform
        for turn in range(3):
            renewals = []

            def counted(command, renewals=renewals):
                event = perform(command)
                renewals.append(event)
                return event

            lease_renewer._perform = counted

            def load(renewals=renewals):
                wait_until(lambda: renewals)
                return 1

            assert cache.get_or_load(f"k{turn}", load) == 1
            wait_until(lambda turn=turn: background.are_gone(turn + 1))
            assert not lease_renewer._is_running


def test_a_renewal_that_comes_at_the_very_end_of_an_idle_wait_is_not_lost():
    kept = Renewed()
    late = kept.lease_renewer._changed = LateCondition(kept.lease_renewer._lock)
    with kept.keeping("a"):
        wait_until(lambda: kept.renewed == ["a"])
    assert late.is_waiting.wait(GIVE_UP_S)

    with kept.keeping("b"):
        late.is_over.set()
        wait_until(lambda: kept.renewed == ["a", "b"])

    wait_until(lambda: kept.background.are_gone(1))
    assert not kept.lease_renewer._is_running


def test_a_thread_that_ends_late_does_not_disown_the_next_one(monkeypatch):
    """Else the load after that one would start a third."""
    monkeypatch.setattr(module, "_IDLE_S", 0.01)
    kept = Renewed()
    has_ended, may_go = threading.Event(), threading.Event()
    following = kept.lease_renewer._next

    def slow():
        found = following()
        if not found and not has_ended.is_set():
            has_ended.set()
            assert may_go.wait(GIVE_UP_S)
        return found

    kept.lease_renewer._next = slow
    with kept.keeping("a"):
        wait_until(lambda: kept.renewed == ["a"])
    assert has_ended.wait(GIVE_UP_S)
    monkeypatch.setattr(module, "_IDLE_S", 600.0)
    with kept.keeping("b"):
        wait_until(lambda: kept.renewed == ["a", "b"])
        first, second = kept.background.threads
        may_go.set()
        first.join(GIVE_UP_S)
        assert kept.lease_renewer._is_running
    with kept.keeping("c"):
        wait_until(lambda: kept.renewed == ["a", "b", "c"])
    kept.lease_renewer.close()
    second.join(GIVE_UP_S)
    assert kept.background.are_gone(2)
    assert not kept.lease_renewer._is_running


def test_where_there_is_no_thread_to_be_had_the_next_load_tries_again():
    kept = Renewed()
    kept.background.left = 0
    with kept.keeping("a"):
        assert not kept.lease_renewer._is_running
    kept.background.left = 1
    with kept.keeping("b"):
        wait_until(lambda: "b" in kept.renewed)
    assert kept.renewed == ["b"], "the first one's load is over"
    kept.lease_renewer.close()
    wait_until(lambda: kept.background.are_gone(1))


def test_a_thread_that_a_subscriber_has_ended_is_replaced(caplog):
    def note(notices):
        if notices and kept.renewed == ["a"]:
            raise RuntimeError("a subscriber's")

    kept = Renewed(note)
    with kept.keeping("a"):
        wait_until(lambda: kept.background.are_gone(1))
        assert not kept.lease_renewer._is_running
    assert [record.getMessage() for record in caplog.records] == ["background work of the cache failed"]
    with kept.keeping("b"):
        wait_until(lambda: kept.renewed == ["a", "b"])
    kept.lease_renewer.close()
    wait_until(lambda: kept.background.are_gone(2))


def test_an_earlier_renewal_wakes_the_thread_that_waits_for_a_later_one():
    kept = Renewed()
    with kept.keeping("later", lease_ms=600_000):
        wait_until(lambda: kept.background.threads)
        with kept.keeping("sooner"):
            wait_until(lambda: kept.renewed == ["sooner"])
    kept.lease_renewer.close()
    wait_until(lambda: kept.background.are_gone(1))


def test_a_load_that_is_interrupted_as_its_renewal_begins_is_not_renewed():
    kept = Renewed()
    keep = kept.lease_renewer.keep

    def interrupt(each):
        keep(each)
        raise KeyboardInterrupt

    kept.lease_renewer.keep = interrupt
    with pytest.raises(KeyboardInterrupt), kept.keeping("a", lease_ms=600_000):
        pass
    assert [each.is_over for _, _, each in kept.lease_renewer._due] == [True]
    kept.lease_renewer.close()


def test_loads_one_after_the_other_do_not_wake_the_thread():
    """It sleeps until the first of their leases is a third over, and none of them is any more by then."""
    kept, woken = Renewed(), []

    class Counted(ThreadCondition):
        def notify(self):
            woken.append(1)
            super().notify()

    kept.lease_renewer._changed = Counted(kept.lease_renewer._lock)
    with kept.keeping("first", lease_ms=600_000):
        wait_until(lambda: kept.lease_renewer._wakes_s > 0)
    for number in range(200):
        with kept.keeping(f"k{number}", lease_ms=600_000):
            pass
    assert not woken
    with kept.keeping("sooner", lease_ms=60):
        assert woken
    kept.lease_renewer.close()
    wait_until(lambda: kept.background.are_gone(1))


class Together:
    """A renewer whose thread the test plays, and what the store was asked."""

    def __init__(self, answer):
        self.asked = []
        self.noted = []
        self.now_s = 0.0
        self._answer = answer
        background = CountedBackground()
        background.left = 0
        self.lease_renewer = LeaseRenewer(
            lambda: self.now_s, background, self._perform, lambda notices: self.noted.extend(notices)
        )

    def _perform(self, command):
        self.asked.append([lease.key for lease in command.leases])
        return self._answer(command)

    def keep(self, stack, *keys, lease_ms=3_000):
        renewal = Renewal(
            tuple(Lease(key, b"grant") for key in keys), lease_ms, 9_999.0, 0.1, lease_ms / 3000
        )
        stack.enter_context(keeping(self.lease_renewer, renewal))

    def go_on(self, now_s):
        """Do once what the thread does when it wakes up."""
        self.now_s = now_s
        self.lease_renewer._renew(self.lease_renewer._next())


def ours(command):
    return LeasesRenewed(0.0, tuple(lease.key != "lost" for lease in command.leases))


def test_all_leases_that_are_due_are_renewed_in_one_batch():
    """One after the other, many of them would be too late where each round trip takes long."""
    made = Together(ours)
    with ExitStack() as stack:
        made.keep(stack, "a")
        made.keep(stack, "b", "lost", "c")
        made.keep(stack, "lost")
        made.keep(stack, "later", lease_ms=6_000)
        made.go_on(1.5)
        assert made.asked == [["a", "b", "lost", "c", "lost"]]
        assert made.noted == [LeaseLost("lost"), LeaseLost("lost")]
        made.go_on(3.0)
        assert made.asked[1:] == [["later"], ["a", "b", "c"]], "what lasts otherwise is asked for by itself"


def test_where_a_batch_is_refused_each_is_renewed_by_itself():
    """One key that may not be written is nobody else's trouble."""

    def answer(command):
        if any(lease.key == "forbidden" for lease in command.leases):
            return StoreFailed(0.0, FailureKind.PERMISSION)
        return ours(command)

    made = Together(answer)
    with ExitStack() as stack:
        for key in ("a", "forbidden", "b"):
            made.keep(stack, key)
        made.go_on(1.0)
        assert made.asked == [["a", "forbidden", "b"], ["a"], ["forbidden"], ["b"]]
        assert [type(notice) for notice in made.noted] == [StoreErrored]


def test_where_the_store_is_out_a_batch_is_not_repeated():
    made = Together(lambda command: StoreFailed(0.0, FailureKind.TIMEOUT))
    with ExitStack() as stack:
        for key in "abc":
            made.keep(stack, key)
        made.go_on(1.0)
        assert made.asked == [["a", "b", "c"]]
        made.go_on(2.0)
        assert len(made.asked) == 2


def test_what_is_over_is_not_kept_until_it_would_be_due():
    """A lease of an hour is due after twenty minutes, and there may be many loads until then."""
    made = Together(ours)
    with ExitStack() as stack:
        made.keep(stack, "long", lease_ms=3_600_000)
        for number in range(5_000):
            with ExitStack() as load:
                made.keep(load, f"k{number}", lease_ms=3_600_000)
        assert len(made.lease_renewer._due) < 200
        made.go_on(1_300.0)
        assert made.asked == [["long"]]


# In an event loop.


class Timed:
    """A renewer for an event loop whose timers and tasks the test plays."""

    def __init__(self):
        self.now_s = 0.0
        self.timers = []
        self.tasks = []
        self.renewed = []
        self.is_caller = ContextVar("is_caller", default=False)
        self.lease_renewer = TimerRenewer(lambda: self.now_s, self, self._run)

    def start_after(self, delay_s, wake):
        assert not self.is_caller.get(), "a timer that serves all is in no caller's context"
        timer = (self.now_s + delay_s, wake)
        self.timers.append(timer)
        return lambda: timer in self.timers and self.timers.remove(timer)

    def start(self, job):
        self.tasks.append(job)
        return lambda: self.tasks.remove(job)

    async def _run(self, step):
        self.renewed.append(step.command.leases[0].key)

    def keeping(self, key, lease_ms=3_000):
        renewal = Renewal((Lease(key, b"grant"),), lease_ms, 60.0, 0.1, lease_ms / 3000)
        return keeping(self.lease_renewer, renewal)

    def go_on(self, now_s):
        """Fire the timers that are due."""
        self.now_s = now_s
        for timer in [each for each in self.timers if each[0] <= now_s]:
            self.timers.remove(timer)
            timer[1]()


def test_all_loads_of_an_event_loop_have_one_timer_and_none_has_a_task_before_it_fires():
    made = Timed()
    made.is_caller.set(True)
    with ExitStack() as stack:
        for number in range(1_000):
            with made.keeping(f"k{number}"):
                made.now_s += 0.0001
        stack.enter_context(made.keeping("long"))
        stack.enter_context(made.keeping("longer", lease_ms=9_000))
        assert len(made.timers) == 1
        assert not made.tasks
        made.go_on(1.0)  # due by the first load, which is over
        assert not made.tasks
        made.go_on(1.2)
        [job] = made.tasks
        with pytest.raises(StopIteration):
            job().send(None)
        assert made.renewed == ["long"], "only now, and only what still runs"
        assert [due_s for due_s, _ in made.timers] == [pytest.approx(3.1)]
    assert not made.tasks, "it has ended with its load"
    made.go_on(3.2)
    assert not made.tasks
    assert not made.timers


def test_a_lease_that_is_due_sooner_sets_the_timer_of_an_event_loop_anew():
    made = Timed()
    with made.keeping("later", lease_ms=600_000), made.keeping("sooner"):
        assert [due_s for due_s, _ in made.timers] == [1.0]
        made.go_on(1.0)
        assert [due_s for due_s, _ in made.timers] == [200.0]
        assert len(made.tasks) == 1
    made.lease_renewer.close()
    assert not made.timers


def test_a_renewer_that_is_dropped_does_not_live_as_long_as_its_timer():
    made = Timed()
    with made.keeping("k", lease_ms=3_600_000):
        pass
    [(_, wake)] = made.timers
    alive = ref(made.lease_renewer)
    del made.lease_renewer
    gc.collect()
    assert alive() is None
    wake()


# What loads leave behind.

LONG_LEASE = Policy(lease_s=3600, max_lease_s=3600)


def blocks():
    """How many pieces of memory the interpreter has given out."""
    gc.collect()
    return sys.getallocatedblocks()


def grown_on_threads():
    with Cache.from_url("memory://", namespace="n", policy=LONG_LEASE) as cache:

        def load_some(count):
            for number in range(count):
                cache.invalidate(key := f"k{number % 10}")
                cache.get_or_load(key, lambda: 1)
            return blocks()

        before = load_some(200)
        return load_some(1_500) - before


async def grown_in_a_loop():
    async def one():
        return 1

    async with anyio_colour.Cache.from_url("memory://", namespace="n", policy=LONG_LEASE) as cache:

        async def load_some(count):
            for number in range(count):
                await cache.invalidate(key := f"k{number % 10}")
                await cache.get_or_load(key, one)
            return blocks()

        before = await load_some(200)
        return await load_some(1_500) - before


@pytest.mark.parametrize(
    "grown",
    [
        grown_on_threads,
        partial(anyio.run, grown_in_a_loop, backend="asyncio"),
        partial(anyio.run, grown_in_a_loop, backend="trio"),
    ],
    ids=["threads", "asyncio", "trio"],
)
def test_loads_that_are_over_leave_nothing_that_grows(grown):
    """Leases of an hour are due after twenty minutes: none of these loads waits for that."""
    assert grown() < 1_000, "less than one piece a load; a renewal that is kept has several"
