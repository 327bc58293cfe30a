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

import attrs
import pytest

from sansio_cache import Policy
from sansio_cache.errors import CacheClosedError, CacheConnectionError, CacheError, RecursiveLoadError
from sansio_cache.events import FailureKind
from sansio_cache_redis.sync import Cache
from sansio_cache_runtime.process import is_inside, process_lock
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
        # Under the lock of the process the store is not asked.
        assert set(cache.stats().errors) <= {FailureKind.EXHAUSTED}
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
        # Under the lock of the process the store is not asked.
        assert set(cache.stats().errors) <= {FailureKind.EXHAUSTED}
        assert list(left_in(cache)) == []


@pytest.fixture(params=["memory", "by URL", "on a client"])
def two_caches(request, fresh_server, namespace):
    """Two of one store, of which none has called the cache when it is under the lock."""
    patient = {"operation_timeout_s": GIVE_UP_S, "attempt_timeout_s": GIVE_UP_S}
    with ExitStack() as stack:
        found = []
        for _ in range(2):
            if request.param == "on a client":
                client = stack.enter_context(connect(fresh_server.url, socket_timeout=GIVE_UP_S))
                cache = Cache.from_client(client, namespace=namespace)
            elif request.param == "memory":
                cache = found[0] if found else Cache.from_url("memory://", namespace=namespace)
            else:
                cache = Cache.from_url(fresh_server.url, namespace=namespace, **patient)
            found.append(cache if cache in found else stack.enter_context(cache))
        yield found


def under_the_lock(act):
    """Do what a finaliser does that has struck a thread in the middle of a change, where nobody goes on."""
    raised = []

    def run():
        with process_lock():
            try:
                act()
            except BaseException as error:
                raised.append(error)

    assert within(GIVE_UP_S, run) is None
    return raised


def test_what_is_invalidated_under_the_lock_is_gone_for_this_process_at_once_and_told_soon(two_caches):
    cache, other = two_caches
    cache.set_many({"a": 1, "b": 2, "n": 100})
    cache.set("tagged", 3, tags=["tag"])

    def act():
        assert cache.invalidate("a", "n", tags=["tag"]).remembered == 3

    def act_and_read():
        act()
        found.extend([cache.get("a"), cache.get_many(["a"]), cache.lookup("a").value])
        found.append(cache.get_or_load("tagged", lambda: 4, tags=["tag"]))

    found = []
    assert under_the_lock(act_and_read) == []
    assert found == [None, {}, None, 4]
    assert under_the_lock(act) == []
    with suppress(CacheConnectionError):  # it is not to be trusted until the store was told
        assert cache.update("n", lambda value: (value or 0) + 1) == 1
    # Nobody calls, and the store is told.
    wait_until(lambda: not cache._coordinator.pending_invalidations)
    assert (other.get("a"), other.get("b")) == (None, 2)


def have_started_by(cache, start):
    """Have the threads that see to what was left started by this; gives what has started them."""
    inside = cache._driver._inside
    before = inside._hooks.start_thread
    inside._hooks = attrs.evolve(inside._hooks, start_thread=start)
    return before


def no_thread(job, name):
    """There is none to be had."""
    return False


@pytest.mark.parametrize("listens", ["nobody", "one who takes his time"])
def test_closing_tells_what_was_left_under_the_lock(fresh_server, namespace, listens):
    cache = Cache.from_url(fresh_server.url, namespace=namespace)
    cache.set("a", 1)
    is_told, is_over = threading.Event(), threading.Event()
    if listens == "nobody":
        have_started_by(cache, no_thread)
    else:
        cache.subscribe(lambda _: (is_told.set(), is_over.wait(GIVE_UP_S)))
    assert under_the_lock(lambda: cache.invalidate("a")) == []
    if listens != "nobody":
        assert is_told.wait(GIVE_UP_S)
    closing = threading.Thread(target=cache.close)
    closing.start()
    is_over.set()
    closing.join(GIVE_UP_S)
    with Cache.from_url(fresh_server.url, namespace=namespace) as other:
        assert other.get("a") is None


def test_where_there_was_no_thread_the_next_has_one_tell(fresh_server, namespace):
    with Cache.from_url(fresh_server.url, namespace=namespace) as cache:
        inside = cache._driver._inside
        cache.set_many({"a": 1, "b": 2})
        started = have_started_by(cache, no_thread)
        assert under_the_lock(lambda: cache.invalidate("a")) == []

        def start(job, name):
            """One that runs before the one who starts it goes on."""
            begun = started(job, name)
            wait_until(lambda: not inside._is_begun)
            return begun

        have_started_by(cache, start)
        cache._coordinator.leave_word([f"{namespace}:b"])
        inside._begin()
        assert not inside._is_begun
        wait_until(lambda: not cache._coordinator.pending_invalidations)
        with Cache.from_url(fresh_server.url, namespace=namespace) as other:
            assert other.get_many(["a", "b"]) == {}


def test_many_words_cost_no_more_each(fresh_server, namespace):
    """By what is done, and not by how long that takes: each key is put down in one step."""
    with Cache.from_url(fresh_server.url, namespace=namespace) as cache:
        have_started_by(cache, no_thread)
        calls = Counter()

        def count(frame, event, _):
            calls[event] += event == "call"

        def act():
            sys.setprofile(count)
            try:
                for number in range(200):
                    cache.invalidate(f"k{number}")
                    calls[number] = calls["call"]
            finally:
                sys.setprofile(None)

        assert under_the_lock(act) == []
        first, last = calls[20] - calls[10], calls[199] - calls[189]
        assert last <= first + 20


def test_a_lock_that_ends_under_the_lock_of_the_process_is_given_back(two_caches):
    cache, other = two_caches
    held = cache.lock("l", 600)
    held.__enter__()
    assert under_the_lock(lambda: held.__exit__(None, None, None)) == []
    assert within(GIVE_UP_S, lambda: other.lock("l", 5).__enter__()) is None


@pytest.mark.parametrize("fault", ["freeze", "kill"])
def test_nobody_waits_for_a_server_under_the_lock(two_caches, fresh_server, fault):
    """One run of the collector may call many finalisers, while all other callers wait."""
    cache, _ = two_caches
    cache.set("there", 1)
    getattr(fresh_server, fault)()

    def act():
        for number in range(10):
            cache.invalidate(f"gone{number}")
            assert cache.get("there") is None
            assert cache.get_or_load("there", lambda: 2) == 2
            assert not cache.set("there", 3)

    began_s = time.monotonic()
    assert under_the_lock(act) == []
    assert time.monotonic() - began_s < GIVE_UP_S / 2, "none has waited for the whole of its time"
    if fault == "freeze":
        fresh_server.thaw()
    else:
        fresh_server.restart()
    wait_until(lambda: cache.wait_ready(1.0) is None and not cache._coordinator.pending_invalidations)


def test_nobody_waits_for_another_thread_under_the_lock(two_caches):
    """Who holds a key, or has the turn, needs the lock to go on."""
    cache, _ = two_caches
    is_held, is_over = threading.Event(), threading.Event()
    cache.set("n", 1)

    def change(value):
        is_held.set()
        is_over.wait(GIVE_UP_S)
        return value

    def hold():
        with cache.lock("l", 5), cache.mutate("k"):
            cache.update("n", change)

    holder = threading.Thread(target=hold)
    holder.start()
    assert is_held.wait(GIVE_UP_S)
    acts = [
        lambda: cache.add("k", 1),
        lambda: cache.incr("n"),
        lambda: cache.lock("l", 5).__enter__(),
        lambda: cache.wait_ready(GIVE_UP_S),
    ]
    began_s = time.monotonic()
    for act in acts:
        (error,) = under_the_lock(act)
        assert isinstance(error, CacheError), error
    assert time.monotonic() - began_s < GIVE_UP_S / 2
    is_over.set()
    holder.join(GIVE_UP_S)


def test_nobody_is_told_of_anything_under_the_lock(two_caches):
    """A subscriber, or a handler of logs, may have a lock of its own, and who holds that needs ours."""
    cache, _ = two_caches
    held = []
    cache.subscribe(lambda _: held.append(is_inside(process_lock())))
    under_the_lock(lambda: (cache.invalidate("a"), cache.get("a"), cache.get_or_load("b", lambda: 1)))
    wait_until(lambda: held)
    assert not any(held)


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
        # Under the lock of the process the store is not asked.
        assert set(cache.stats().errors) <= {FailureKind.EXHAUSTED}
        assert not cache._coordinator.is_out
        assert within(GIVE_UP_S, lambda: load(cache, "afterwards")) is None
        assert list(left_in(cache)) == []
