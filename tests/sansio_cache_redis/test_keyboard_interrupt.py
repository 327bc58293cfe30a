"""Ctrl-C wherever it can strike in the synchronous cache (L7).

CPython looks for signals when a Python function is entered, after a call of a C function has returned, and
where a loop jumps back: nowhere else. A trace function raises KeyboardInterrupt at the n-th of these points
that an operation comes by inside the library, for n = 1, 2, 3, … until the operation is shorter than that.
What the library calls outside of itself is one point on its way in and one on its way out. Afterwards no
lease or hold is left, nothing is in the way of the next call, and no connection is out of step.
"""

import contextvars
import gc
import threading
import warnings
from collections import Counter
from contextlib import closing

import pytest

from sansio_cache import Policy
from sansio_cache.commands import DeleteKeys, ExpireCells, FillCells
from sansio_cache_redis.connections import wires
from sansio_cache_redis.sync import Cache
from sansio_cache_runtime import loaders
from sansio_cache_runtime.process import is_inside
from support.interrupts import HAS_OPCODE_EVENTS, Interrupter, raising, within
from support.runtimes import PATIENT, MemoryRaw, ServerRaw, is_free
from support.servers import connect, wait_until
from support.stores import Wrapping

pytestmark = pytest.mark.skipif(
    not HAS_OPCODE_EVENTS, reason="there is no telling between which bytecodes to strike"
)

MOST_RUNS = 450


class TimeLimitError(TimeoutError):
    """What the handler of a job queue's time limit raises: to a connection it looks like a failure."""


# Of any other class than the first, fewer: what differs is only whether somebody takes it for his own.
RAISED = {KeyboardInterrupt: MOST_RUNS, TimeLimitError: MOST_RUNS // 6}
GIVE_UP_S = 20.0  # bounds failures only

# Whoever follows a load that nobody leads any more shall not make the test wait.
IMPATIENT = Policy(wait_s=0.2, lease_s=30)


def load(cache, key):
    assert cache.get_or_load(key, lambda: f"loaded {key}") == f"loaded {key}"


def load_that_fails(cache, key):
    def fail():
        raise LookupError(key)

    with pytest.raises(LookupError):
        cache.get_or_load(key, fail)


def store(cache, key):
    assert cache.set(key, f"loaded {key}")


def mutate(cache, key):
    with cache.mutate(key) as mutation:
        mutation.set(key, f"loaded {key}")


def invalidate(cache, key):
    assert cache.invalidate(key).done <= 1


def load_with_a_tag(cache, key):
    assert cache.get_or_load(key, lambda: f"loaded {key}", tags=[key]) == f"loaded {key}"


def store_with_a_tag(cache, key):
    assert cache.set(key, f"loaded {key}", tags=[key])


def invalidate_a_tag(cache, key):
    assert cache.invalidate(tags=[key]).done == 1


def invalidate_after_a_block(cache, key):
    with cache.invalidating(key, tags=[key]):
        pass


def expire(cache, key):
    assert cache.expire(key).done == 1


def load_many(cache, key):
    found = cache.get_or_load_many([key, f"{key}+"], lambda keys: {each: f"loaded {each}" for each in keys})
    assert found == {key: f"loaded {key}", f"{key}+": f"loaded {key}+"}


def load_many_with_a_tag_in_part(cache, key):
    found = cache.get_or_load_many([key, f"{key}+"], lambda keys: {key: f"loaded {key}"}, tags=[key])
    assert found == {key: f"loaded {key}"}


def read_a_stale_value(cache, key):
    """The caller has it at once, and a refresh is handed to the workers."""
    policy = Policy(stale_for_s=600, lease_s=30, wait_s=0.2)
    assert cache.get_or_load(key, lambda: f"loaded {key}", policy=policy) in ("old", f"loaded {key}")


OPERATIONS = [
    load,
    load_that_fails,
    store,
    mutate,
    invalidate,
    load_with_a_tag,
    store_with_a_tag,
    invalidate_a_tag,
    invalidate_after_a_block,
    expire,
    load_many,
    load_many_with_a_tag_in_part,
    read_a_stale_value,
]
INVALIDATING = {invalidate, invalidate_a_tag, invalidate_after_a_block, expire}


def points_in(cache, operation):
    """How many points there are to strike at."""
    prepare(cache, operation, "counted")
    with Interrupter(10**9) as counter:
        operation(cache, "counted")
    return 10**9 - counter.left


class Under:
    """A cache, a look at its store behind its back, and another cache where this one is beyond use."""

    def __init__(self, url, namespace, client):
        self.url = url
        self.namespace = namespace
        self.client = client
        self.cache = None
        self.renew()

    def renew(self):
        """Begin again with a new cache."""
        if self.cache is not None:
            within(GIVE_UP_S, self.cache.close)
        self.cache = Cache.from_url(self.url, namespace=self.namespace, policy=IMPATIENT, **PATIENT)
        self.cache.wait_ready()
        self.raw = (
            MemoryRaw(self.namespace, self.cache._backend.memory)
            if self.client is None
            else ServerRaw(self.namespace, self.client)
        )


@pytest.fixture(params=["memory", "server"])
def under(request, namespace):
    if request.param == "memory":
        made = Under("memory://", namespace, None)
        yield made
    else:
        url = request.getfixturevalue("redis_url")
        with closing(connect(url)) as client:
            made = Under(url, namespace, client)
            yield made
    made.renew()
    made.cache.close()


def in_clean_up(interrupter):
    """Whether what gives back was interrupted itself; then a lease, or a connection, is left to lapse."""
    return any(
        frame.name == "_give_back" or "mutation.end(" in (frame.line or "") for frame in interrupter.stack
    )


def is_prepared(operation):
    """Whether it begins with an entry that is there."""
    return operation in INVALIDATING or operation is read_a_stale_value


def prepare(cache, operation, key):
    """What an operation begins with."""
    if is_prepared(operation):
        cache.set(key, "old", tags=[key] if operation in INVALIDATING else ())
    if operation is read_a_stale_value:
        cache.expire(key)


def left_in(driver):
    """What a driver still holds."""
    if is_inside(driver._lock):
        yield "the lock is held"
    loads = driver._coordinator.single_flight.snapshot()
    if loads.loads or loads.current:
        yield "a load is left"
    if loads.led or any(each.followers for _, each in loads.loads):
        yield "a ticket is left"
    if any(part.recovering is not None for part in driver._coordinator.snapshot().parts):
        yield "a recovery is left"
    if driver._endings:
        yield "an ending is left"
    if driver._watches:
        yield "a watch is left"
    if any(not kept.is_over for _, _, kept in driver._lease_renewer._due):
        yield "a renewal is left"


def driver_marks(cache):
    """The loads that this context still takes to be running."""
    return [load for load in loaders._marks.get() if not load.is_over] or cache._driver._held


def problems_after(under, operation, key, interrupter):
    """What is wrong after an interrupt."""
    cache, raw = under.cache, under.raw
    names = [frame.name for frame in interrupter.stack]
    is_excused = in_clean_up(interrupter)
    if under.client is not None and not is_excused:
        connections = cache._backend.connections
        try:
            wait_until(lambda: all(lane.is_free() for lane in connections._lanes))
            assert not is_inside(connections._lock)
        except TimeoutError:
            yield "a connection is never given back"
            return
    if operation is read_a_stale_value:
        try:
            wait_until(lambda: not len(cache._driver._coordinator.single_flight))
        except TimeoutError:
            yield "the refresh never ended"
            return
    for each in (key, f"{key}+"):
        if not is_free(raw.cell(each)):
            if not is_excused:
                yield "a lease is left"
            raw.delete(each)
    # What is interrupted before it has begun has not happened.
    if operation in INVALIDATING and "_perform" in names and cache.get(key) is not None:
        yield "the invalidation was forgotten"
    yield from left_in(cache._driver)
    if is_inside(cache._driver._lock) or len(cache._coordinator.single_flight):
        return

    if driver_marks(cache):
        yield "a key counts as being loaded"

    def call():
        after = cache.get_or_load(key, lambda: f"loaded {key}")
        assert after == f"loaded {key}" or (is_prepared(operation) and after == "old")
        assert cache.get(key) == after

    if (error := within(GIVE_UP_S, call)) is not None:
        yield f"the next call: {type(error).__name__} {str(error)[:60]}"
    if cache.stats().errors and not is_excused:
        yield "the next call finds the store failing"


@pytest.fixture
def spins(monkeypatch):
    """How a wire spins: one look, or none, so that an operation takes about as many steps each time."""
    monkeypatch.setattr(wires, "_SPIN_S", 0.0)
    monkeypatch.setattr(wires, "_FIRST_SPIN_S", 0.0)
    monkeypatch.setattr(wires, "_MOST_SLEEPS", 0)
    return lambda may_spin: monkeypatch.setattr(wires, "_PROCESSORS", 2 if may_spin else 1)


@pytest.mark.parametrize("error", RAISED, ids=lambda error: error.__name__)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_an_interrupt_at_any_point_leaves_nothing_behind(under, operation, error, spins):
    spins(operation in (load, store))
    operation(under.cache, "first")
    count = points_in(under.cache, operation)
    step = max(1, count // RAISED[error])
    found = Counter()
    struck = excused = 0
    for at in range(1, count + 1, step):
        key = f"k{at}"
        prepare(under.cache, operation, key)
        interrupter = Interrupter(at, raising(error))
        try:
            with interrupter:
                operation(under.cache, key)
        except error:
            pass
        else:
            # An interrupt while garbage is collected, or the operation was shorter this time.
            assert not interrupter.has_struck, f"swallowed: {interrupter.where}"
        if not interrupter.has_struck:
            continue
        struck += 1
        excused += in_clean_up(interrupter)
        problems = list(problems_after(under, operation, key, interrupter))
        if problems or in_clean_up(interrupter):
            under.renew()
            operation(under.cache, "first")
        where = " < ".join(reversed(interrupter.where[-3:]))
        found.update((problem, where) for problem in problems)
    assert struck >= min(count, RAISED[error]) * 0.7  # what was counted may have started a thread as well
    assert excused < struck / 2, "nearly all of it is clean-up: what is left to test?"
    assert found == Counter()


class Together:
    """Two callers of one key: one leads, on whichever thread, and the other follows it.

    The loader is held up until the follower waits. What waits here looks at the cache from a thread that no
    interrupter watches.
    """

    def __init__(self, cache, key):
        self.cache = cache
        self.key = key
        self.may_end = threading.Event()
        self.is_led = threading.Event()
        self.loads = 0
        self._threads = []

    def load(self):
        self.loads += 1
        self.is_led.set()
        if self.loads == 1:
            assert self.may_end.wait(20)
        return "loaded"

    def beside(self, call):
        """Have something run on another thread."""
        thread = threading.Thread(target=contextvars.Context().run, args=(call,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def call(self):
        assert self.cache.get_or_load(self.key, self.load) == "loaded"

    def end_when_followed(self):
        """Let the loader end when somebody follows."""
        flight = self.cache._coordinator.single_flight
        wait_until(lambda: flight.waiting or self.may_end.is_set(), timeout_s=20)
        self.may_end.set()

    def are_over(self, timeout_s):
        """Whether all of them have ended, in time."""
        for thread in self._threads:
            thread.join(timeout_s)
        return not any(thread.is_alive() for thread in self._threads)


class Leading(Together):
    """The leader is interrupted."""

    def run(self):
        def load():
            if not self.loads:
                self.beside(self.call)
                self.beside(self.end_when_followed)
            return self.load()

        assert self.cache.get_or_load(self.key, load) == "loaded"


class Followed(Together):
    """The follower is interrupted."""

    def prepare(self):
        self.beside(self.call)
        assert self.is_led.wait(20)
        self.beside(self.end_when_followed)

    def run(self):
        self.call()


@pytest.mark.parametrize("kind", [Leading, Followed])
def test_an_interrupted_caller_keeps_nobody_waiting_and_leaves_nothing(kind, namespace):
    found = Counter()
    struck = 0
    # Who is not woken would wait for much longer than the test does.
    patient = Policy(wait_s=60, lease_s=60)
    with Cache.from_url("memory://", namespace=namespace, policy=patient) as cache:
        while True:
            both = kind(cache, f"k{struck}")
            if isinstance(both, Followed):
                both.prepare()
            interrupter = Interrupter(struck + 1)
            try:
                with interrupter:
                    both.run()
            except KeyboardInterrupt:
                pass
            both.may_end.set()
            if not both.are_over(10):
                found["the other one waits", interrupter.where[-1]] += 1
            found.update((problem, *interrupter.where[-1:]) for problem in left_in(cache._driver))
            if not interrupter.has_struck:
                break
            struck += 1
    assert struck > 50
    assert found == Counter()


def test_an_interrupt_while_it_connects_leaves_a_cache_that_connects(redis_url, namespace, spins):
    """Also where it strikes before the thread that is to connect has been started."""
    spins(may_spin=False)
    with Cache.from_url(redis_url, namespace=namespace) as cache:
        assert cache.set("k", "stored")
    found = Counter()
    struck = 0
    while True:
        with Cache.from_url(redis_url, namespace=namespace, **PATIENT) as cache:
            interrupter = Interrupter(struck + 1)
            try:
                with interrupter:
                    cache.get("k")
            except KeyboardInterrupt:
                pass
            if not interrupter.has_struck:
                break
            struck += 1
            try:
                wait_until(lambda cache=cache: cache.get("k") == "stored")
            except TimeoutError:
                found[" < ".join(reversed(interrupter.where[-3:]))] += 1
            if cache._backend.connections.count > 1:
                found[f"another connection: {interrupter.where[-1]}"] += 1
    assert struck > 50
    assert found == Counter()


# Python swallows what strikes in the `__del__` of a connection, and says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_while_it_is_closed_leaves_no_connection(redis_url, namespace, spins):
    """What the interrupt has kept from being closed is closed with the cache that is dropped."""
    spins(may_spin=False)
    struck = 0
    with closing(connect(redis_url)) as client:
        before = len(client.client_list())
        while True:
            cache = Cache.from_url(redis_url, namespace=namespace, **PATIENT)
            cache.get("k")
            listener = cache._backend.listener
            listener.watch("k", int)  # its thread keeps it
            wait_until(lambda listener=listener: listener.is_live)
            interrupter = Interrupter(3 * struck + 1)
            try:
                with interrupter:
                    cache.close()
            except KeyboardInterrupt:
                pass
            has_struck = interrupter.has_struck
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                del cache, listener, interrupter  # which keeps a frame
                gc.collect()
            wait_until(lambda: len(client.client_list()) <= before)
            if not has_struck:
                break
            struck += 1
    assert struck > 15


class InterruptedStore(Wrapping):
    """A store in which Ctrl-C strikes the next so many times."""

    def __init__(self, store, times, only):
        self._store = store
        self.left = times
        self._only = only

    def perform(self, command):
        if self.left and isinstance(command, self._only):
            self.left -= 1
            raise KeyboardInterrupt
        return self._store.perform(command)


def end_a_mutation(cache, key):
    with cache.mutate(key):
        pass


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    "operation", [*sorted(INVALIDATING, key=lambda each: each.__name__), end_a_mutation, mutate]
)
def test_an_invalidation_that_is_interrupted_twice_is_remembered(operation, times, namespace):
    """Fault 28: the second Ctrl-C comes while what the first has cut short is being put in order."""
    with Cache.from_url("memory://", namespace=namespace) as cache:
        cache.set("k", "old", tags=["k"])
        store = InterruptedStore(cache._driver._backend, times, (DeleteKeys, ExpireCells, FillCells))
        cache._driver._backend = store
        with pytest.raises(KeyboardInterrupt):
            operation(cache, "k")
        assert store.left == 0
        assert cache.get("k", "none") == "none" or operation is expire
        wait_until(lambda: not cache._coordinator.pending_invalidations)
        assert cache.get_or_load("k", lambda: "new") == "new"
