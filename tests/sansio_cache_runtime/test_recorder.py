"""The ledger: what it logs, it logs when it has let go of everything."""

import logging
import threading

import pytest

from sansio_cache import CacheConfig
from sansio_cache.events import FailureKind
from sansio_cache.notices import (
    InvalidationFailed,
    RefreshFailed,
    StoreAnswered,
    StoreErrored,
    StoreGaveUp,
    Unasked,
    Unstorable,
)
from sansio_cache_redis.sync import Cache
from sansio_cache_runtime.recorder import Recorder
from support.faulty import GIVE_UP_S

LOGGED = {
    "outage": (StoreErrored(FailureKind.CONNECTION), StoreGaveUp(FailureKind.CONNECTION)),
    "refusal": (StoreErrored(FailureKind.PERMISSION), StoreGaveUp(FailureKind.PERMISSION)),
    "unstorable": (Unstorable("k", "set"),),
    "refresh": (RefreshFailed("k", "LookupError"),),
    "unasked": (Unasked(2),),
    "forgotten": (InvalidationFailed(tuple(f"k{number}" for number in range(10_001))),),
}


class Handler(logging.Handler):
    """Calls a function for each record."""

    def __init__(self, call):
        super().__init__()
        self._call = call

    def createLock(self):  # noqa: N802 - a thread that hangs in here would hold it as Python ends
        self.lock = None

    def emit(self, record):
        self._call(record.getMessage())


@pytest.fixture
def handled():
    """Adds a handler to the log of the caches."""
    logger = logging.getLogger("sansio_cache")
    handlers = []

    def add(call):
        handlers.append(Handler(call))
        logger.addHandler(handlers[-1])

    yield add
    for handler in handlers:
        logger.removeHandler(handler)


@pytest.mark.parametrize("what", LOGGED)
def test_nothing_is_logged_under_its_lock(what, handled):
    recorder = Recorder(CacheConfig(namespace="n"))
    found = []
    handled(lambda message: found.append((recorder._lock.locked(), message)))

    recorder.note(LOGGED[what])

    assert [is_locked for is_locked, _ in found] == [False]
    assert found[0][1].startswith("cache n: ")


def test_an_outage_and_its_end_are_logged_in_their_order(handled):
    recorder = Recorder(CacheConfig(namespace="n"))
    messages = []
    handled(messages.append)
    recorder.note(LOGGED["outage"])
    recorder.note((StoreAnswered(),))
    assert ["does not serve" in messages[0], "serves again" in messages[1]] == [True, True]
    assert len(messages) == 2


def test_a_handler_of_the_log_may_call_the_cache(handled, namespace):
    """One that sends what is logged through a program which caches, say."""
    heard, results = [], []

    def call():
        with Cache.from_url("memory://", namespace=namespace) as cache:

            def emit(message):
                cache.health()
                heard.append((message, cache.stats().errors, cache.get("k")))
                assert cache.get_or_load("other", lambda: {1, 2}) == {1, 2}

            handled(emit)
            results.append(cache.get_or_load("k", lambda: {1}))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(GIVE_UP_S)

    assert not thread.is_alive(), "it waits for itself"
    assert results == [{1}]
    assert len(heard) == 1, "the class is warned of once"


def test_what_threads_log_at_the_same_time_is_logged_once_each(handled):
    recorder = Recorder(CacheConfig(namespace="n"))
    messages = []
    handled(messages.append)
    barrier = threading.Barrier(8)

    def note(thread):
        barrier.wait(GIVE_UP_S)
        for number in range(10):
            recorder.note((Unstorable("k", f"Class{thread}x{number}"),))

    threads = [threading.Thread(target=note, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(messages) == len(set(messages)) == 80
