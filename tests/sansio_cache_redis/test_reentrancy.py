"""Calls from signal handlers and finalisers, which find their own thread in the middle of another call (L7).

The handler runs at the n-th point of an operation at which CPython would run one, for n over all of them.
Neither of the two waits for the other, both get what they asked for, and nothing is left.
"""

import gc
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress

import pytest

from sansio_cache import Policy
from sansio_cache.errors import CacheClosedError, RecursiveLoadError
from sansio_cache_redis.sync import Cache
from sansio_cache_runtime.process import process_lock
from support.interrupts import HAS_OPCODE_EVENTS, Interrupter, within
from support.runtimes import PATIENT
from support.servers import connect, wait_until

at_every_point = pytest.mark.skipif(
    not HAS_OPCODE_EVENTS, reason="there is no telling between which bytecodes to strike"
)

GIVE_UP_S = 20.0  # bounds failures only
MOST_RUNS = 60
PATIENTLY = Policy(wait_s=60, lease_s=60)  # who would wait for its own thread would wait for that long


def load(cache, key):
    assert cache.get_or_load(key, lambda: f"loaded {key}") == f"loaded {key}"


def store(cache, key):
    cache.set(key, f"loaded {key}")


def read(cache, key):
    assert cache.get(key) in (None, f"loaded {key}")


def invalidate(cache, key):
    cache.invalidate(key, tags=[key])


def load_many(cache, key):
    found = cache.get_or_load_many([key, f"{key}+"], lambda keys: {each: f"loaded {each}" for each in keys})
    assert found == {key: f"loaded {key}", f"{key}+": f"loaded {key}+"}


def read_a_stale_value(cache, key):
    policy = Policy(stale_for_s=600, lease_s=30, wait_s=60)
    assert cache.get_or_load(key, lambda: f"loaded {key}", policy=policy) == f"loaded {key}"


def handle(cache, key):
    """What a handler may do."""
    cache.invalidate("of another", tags=["tag"])
    assert cache.get_or_load(f"{key}!", lambda: 1, tags=["tag"]) == 1
    cache.set(f"{key}?", 2)
    assert cache.get(f"{key}?", 2) == 2
    cache.stats()


def handle_the_same(cache, key):
    """It may also need what its own thread is at."""
    handle(cache, key)
    with suppress(RecursiveLoadError):  # inside the loader
        assert cache.get_or_load(key, lambda: f"loaded {key}") == f"loaded {key}"
    cache.invalidate(key)


OPERATIONS = {
    load: handle_the_same,
    store: handle,
    read: handle_the_same,
    invalidate: handle,
    load_many: handle,
    read_a_stale_value: handle,
}


@pytest.fixture(params=["memory", "server"])
def url(request):
    return "memory://" if request.param == "memory" else request.getfixturevalue("redis_url")


def points_in(cache, operation):
    with Interrupter(10**9) as counter:
        operation(cache, "counted")
    return 10**9 - counter.left


def prepare(cache, operation, key):
    if operation is read_a_stale_value:
        store(cache, key)
        cache.expire(key)


def left_in(cache):
    driver = cache._driver
    loads = driver._coordinator.single_flight.snapshot()
    if loads.loads or loads.current or loads.led:
        yield "a load is left"
    if driver._endings or driver._leaders or driver._watches or driver._unheeded:
        yield "something is left in the driver"


@at_every_point
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.__name__)
def test_a_handler_calls_the_cache_wherever_its_own_thread_is(url, operation, namespace):
    found = Counter()
    struck = 0
    with Cache.from_url(url, namespace=namespace, policy=PATIENTLY, **PATIENT) as cache:
        cache.wait_ready()
        prepare(cache, operation, "counted")
        count = points_in(cache, operation)
        for at in range(1, count + 1, max(1, count // MOST_RUNS)):
            key = f"k{at}"
            prepare(cache, operation, key)
            raised = []

            def handler(key=key, raised=raised):
                try:
                    OPERATIONS[operation](cache, key)
                except BaseException:
                    raised.append(sys.exc_info()[1])

            interrupter = Interrupter(at, handler)

            def run(key=key, interrupter=interrupter):
                with interrupter:
                    operation(cache, key)

            error = within(GIVE_UP_S, run)
            where = " < ".join(reversed(interrupter.where[-3:]))
            for each in filter(None, [error, *raised]):
                found[f"{type(each).__name__} {str(each)[:60]}", where] += 1
            if isinstance(error, TimeoutError):
                break
            if not interrupter.has_struck:
                continue
            struck += 1
            if operation is read_a_stale_value:
                wait_until(lambda: not len(cache._coordinator.single_flight))
            found.update((problem, where) for problem in left_in(cache))
            fresh = within(GIVE_UP_S, lambda key=key: load(cache, key))
            if fresh is not None:
                found[f"the next call: {fresh!r}"[:80], where] += 1
                break
        assert dict(cache.stats().errors) == {}
    assert found == Counter()
    assert struck >= min(count, MOST_RUNS) * 0.4  # the one that was counted may have spun for longer


@at_every_point
def test_a_handler_closes_the_cache_wherever_its_own_thread_is(url, namespace):
    """SIGTERM does."""
    found = Counter()
    at = 1
    while True:
        cache = Cache.from_url(url, namespace=namespace, policy=PATIENTLY, **PATIENT)
        cache.wait_ready()
        interrupter = Interrupter(at, cache.close)

        def run(cache=cache, interrupter=interrupter, key=f"k{at}"):
            with interrupter:
                load(cache, key)

        error = within(GIVE_UP_S, run)
        if not interrupter.has_struck:
            cache.close()
            break
        if not isinstance(error, CacheClosedError | None):
            found[repr(error)[:80], " < ".join(reversed(interrupter.where[-3:]))] += 1
        at += 11
    assert at > 100
    assert found == Counter()


class Cyclic:
    """Ended by the collector, wherever that runs."""

    def __init__(self, at_end):
        self.me = self
        self.at_end = at_end

    def __del__(self):
        self.at_end()


def test_finalisers_call_the_cache_wherever_the_collector_runs(url, namespace):
    """Also inside the interpreter's own functions: a context variable that is set, say."""
    raised = []
    with Cache.from_url(url, namespace=namespace, policy=PATIENTLY, **PATIENT) as cache:
        cache.wait_ready()

        def at_end():
            try:
                cache.invalidate("gone")
                cache.get_or_load("kept", lambda: 1)
                cache.set("kept", 2)
            except BaseException:
                raised.append(sys.exc_info()[1])

        def work(name):
            for count in range(300):
                Cyclic(at_end)
                load(cache, f"{name}{count}")
                cache.get(f"{name}{count}")

        before = gc.get_threshold()
        gc.set_threshold(20)
        try:
            threads = [threading.Thread(target=work, args=(name,), daemon=True) for name in "ab"]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(GIVE_UP_S)
            assert not any(thread.is_alive() for thread in threads)
        finally:
            gc.set_threshold(*before)
            gc.collect()
        assert raised == []
        assert dict(cache.stats().errors) == {}
        assert list(left_in(cache)) == []


@pytest.mark.parametrize("kind", ["by URL", "on a client"])
def test_who_holds_the_lock_of_the_process_lets_nobody_wait_for_the_server(fresh_server, namespace, kind):
    """One run of the collector may call many finalisers, in the middle of what all others wait for."""
    timeout_s = 20.0
    patient = {"operation_timeout_s": timeout_s, "attempt_timeout_s": timeout_s}

    def finalisers(cache):
        with process_lock():
            for number in range(10):
                cache.invalidate(f"gone{number}")
                assert cache.get("there") is None
                assert cache.get_or_load("there", lambda: 2) == 2

    with ExitStack() as stack:
        if kind == "by URL":
            cache = Cache.from_url(fresh_server.url, namespace=namespace, **patient)
        else:
            client = stack.enter_context(connect(fresh_server.url, socket_timeout=timeout_s))
            cache = Cache.from_client(client, namespace=namespace)
        stack.enter_context(cache)
        cache.wait_ready()
        for number in range(10):
            cache.set(f"gone{number}", number)
        cache.set("there", 1)
        fresh_server.freeze()
        began_s = time.monotonic()
        assert within(3 * timeout_s, lambda: finalisers(cache)) is None
        assert time.monotonic() - began_s < timeout_s, "none has waited for the whole of its time"
        fresh_server.thaw()
        assert cache.get("there") == 1, "it was no outage"
        wait_until(lambda: not cache._coordinator.pending_invalidations)
        assert [cache.get(f"gone{number}") for number in range(10)] == [None] * 10


class TimeLimitError(TimeoutError):
    """What a job queue's time limit raises."""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no such timer")
def test_no_alarm_is_lost_and_none_is_taken_for_a_failure(url, namespace):
    fired = caught = 0

    def exceed(*_):
        nonlocal fired
        fired += 1
        raise TimeLimitError

    with Cache.from_url(url, namespace=namespace, policy=PATIENTLY, **PATIENT) as cache:
        cache.wait_ready()
        cache.set("there", 1)
        before = signal.signal(signal.SIGALRM, exceed)
        gc.disable()  # what strikes in a finaliser, Python itself swallows
        trace = sys.gettrace()
        sys.settrace(None)  # what measures coverage takes a lock, which a strike in it would leave taken
        try:
            for count in range(300):
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.00005 + count % 37 * 0.00002)
                    while fired == count:
                        cache.get("there")
                        cache.get_or_load(f"k{count}", lambda count=count: count)
                except TimeLimitError:
                    caught += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            sys.settrace(trace)
            gc.enable()
        assert caught == fired == 300
        assert dict(cache.stats().errors) == {}
        assert not cache._coordinator.is_out
        assert within(GIVE_UP_S, lambda: load(cache, "afterwards")) is None
        assert list(left_in(cache)) == []
