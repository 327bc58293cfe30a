"""The recorder: it counts all of it, tells, and logs once; and nothing that calls it back hangs."""

import logging
import threading

import pytest

from sansio_cache.changes import (
    Distrusted,
    InvalidationsForgotten,
    OutageBegan,
    OutageEnded,
    RefusalBegan,
    StoreReplaced,
    Suspected,
    Trusted,
)
from sansio_cache.entry import MissReason
from sansio_cache.events import FailureKind
from sansio_cache.notices import (
    Ended,
    Hit,
    Missed,
    OperationName,
    StoreErrored,
    StoreGaveUp,
    Unasked,
    Unstorable,
)
from sansio_cache.stats import CacheStats, EntityStats, StatsFold
from sansio_cache_redis import anyio as anyio_package
from sansio_cache_redis.sync import Cache
from sansio_cache_runtime import process
from sansio_cache_runtime import recorder as module
from sansio_cache_runtime.recorder import Recorder
from support.faulty import GIVE_UP_S

HIT = (Hit("n:k"), Ended(OperationName.GET, 0.001))
CHANGES = {
    OutageBegan("", FailureKind.CONNECTION): (logging.WARNING, "the store does not serve (connection)"),
    OutageEnded("", 1.25): (logging.WARNING, "the store serves again after 1.2 s"),
    RefusalBegan("", FailureKind.PERMISSION): (logging.WARNING, "the store refuses (permission)"),
    RefusalBegan("", FailureKind.OVERLOADED): (
        logging.WARNING,
        "some calls had to do without the store (overloaded)",
    ),
    InvalidationsForgotten("", 10_000): (logging.ERROR, "more than 10000 invalidations wait for the store"),
}
WARNED = {
    "unstorable": Unstorable("k", "set"),
    "unasked": Unasked(2),
}


class Handler(logging.Handler):
    """Calls a function for each record."""

    def __init__(self, call):
        super().__init__()
        self._call = call

    def handle(self, record):
        """Without the lock of a handler: a thread that hangs in here would hold it as Python ends."""
        self.emit(record)

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


def finished(call):
    """Whether a call comes to its end, on a thread of its own."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(GIVE_UP_S)
    return not thread.is_alive()


# What it counts.


@pytest.mark.parametrize("count", [1, module._MOST_UNCOUNTED, module._MOST_UNCOUNTED + 1, 1000])
def test_the_statistics_are_complete_whenever_somebody_asks(count):
    recorder = Recorder("n")
    for number in range(1, count + 1):
        recorder.note(HIT)
        if number % 37 == 0:
            assert recorder.snapshot().redis_hits == number

    assert recorder.snapshot().redis_hits == count
    assert recorder.snapshot().redis_hits == count, "asking changes nothing"


def test_not_more_than_some_notices_wait_to_be_counted():
    recorder = Recorder("n")
    waiting = []
    for _ in range(500):
        recorder.note(HIT)
        waiting.append(len(recorder._uncounted))

    assert max(waiting) == module._MOST_UNCOUNTED
    assert min(waiting) == 0


def test_what_threads_note_at_the_same_time_is_counted_once_each():
    recorder = Recorder("n")
    barrier = threading.Barrier(8)

    def note():
        barrier.wait(GIVE_UP_S)
        for number in range(500):
            recorder.note(HIT)
            if number % 50 == 0:
                assert recorder.snapshot().redis_hits > 0

    threads = [threading.Thread(target=note) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert recorder.snapshot().redis_hits == 4000
    assert not recorder._uncounted


@pytest.mark.parametrize("times", [1, module._MOST_UNCOUNTED + 5])
def test_a_call_out_of_the_middle_of_counting_waits_for_nothing_and_is_counted(times, monkeypatch):
    """A finaliser, or a signal handler, that uses the cache: its own thread is counting, and would wait."""
    recorder = Recorder("n")
    interrupting = [times]
    seen = []
    record = StatsFold.record

    def interrupted(fold, notices):
        if interrupting:
            for _ in range(interrupting.pop()):
                recorder.note(HIT)
            seen.append(recorder.snapshot().redis_hits)
        record(fold, notices)

    monkeypatch.setattr(StatsFold, "record", interrupted)
    recorder.note(HIT)

    assert finished(recorder.snapshot), "it waits for itself"
    assert seen == [0], "what is being counted is not there yet"
    assert recorder.snapshot().redis_hits == 1 + times


@pytest.mark.parametrize("left", [0, 3])
def test_counting_that_is_interrupted_is_taken_up_again(left, monkeypatch):
    """Ctrl-C in the middle of it: what was being counted may be lost, what waits is not."""
    recorder = Recorder("n")
    for _ in range(1 + left):
        recorder.note(HIT)
    record = StatsFold.record

    def interrupt(fold, notices):
        monkeypatch.setattr(StatsFold, "record", record)
        raise KeyboardInterrupt

    monkeypatch.setattr(StatsFold, "record", interrupt)
    with pytest.raises(KeyboardInterrupt):
        recorder.snapshot()

    recorder.note(HIT)
    assert recorder.snapshot().redis_hits == left + 1


def test_a_lock_that_another_thread_held_at_the_fork_is_not_waited_for():
    recorder = Recorder("n")
    recorder.note(HIT)
    held, may_go = threading.Event(), threading.Event()

    def hold(lock=recorder._counting):
        with lock:
            held.set()
            may_go.wait(GIVE_UP_S)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(GIVE_UP_S)
    try:
        process.MARK[0] = 0  # as the system has it in a child
        process.begin_in_child()
        recorder.after_fork()
        assert finished(recorder.snapshot)
        assert recorder.snapshot() == CacheStats()
    finally:
        may_go.set()
        thread.join()


def test_a_process_that_was_forked_while_another_thread_counted_counts_in_the_child():
    recorder = Recorder("n")
    recorder.note(HIT)
    recorder._is_counting = True  # by a thread of the parent, which is not there in the child
    recorder.after_fork()
    recorder.note(HIT)

    assert recorder.snapshot().redis_hits == 1


def test_hits_at_the_first_look_that_were_not_counted_yet_are_the_parents():
    with Cache.from_url("memory://", namespace="shop") as cache:
        cache.set("a", 1)
        cache.get("a")  # counted when somebody asks
        cache._recorder.after_fork()
        assert cache.stats() == CacheStats()


@pytest.mark.parametrize("cls", [Cache, anyio_package.Cache])
def test_a_declared_entity_is_in_the_statistics_from_the_start(cls):
    cache = cls.from_url("memory://", namespace="shop")
    cache.entity("user", dict)
    cache.entity("user page", dict)
    assert cache.stats() == CacheStats(entities={"user": EntityStats(), "user%20page": EntityStats()})


def test_the_statistics_of_a_forked_process_begin_at_zero():
    """What was counted and what was still to be counted is the parent's, who says so."""
    recorder = Recorder("n")
    recorder.note(HIT)
    recorder.snapshot()
    recorder.note(HIT)
    recorder.after_fork()

    assert recorder.snapshot() == CacheStats()


def test_a_thread_that_counts_does_not_trip_up_one_that_asks():
    """The counters of an operation come into being with its first call."""
    recorder = Recorder("n")
    counting = []

    def count_another():
        for _ in range(module._MOST_UNCOUNTED + 1):
            recorder.note((Ended(OperationName.SET, 0.001),))

    class Interrupted(dict):
        """Another thread has its turn between two of the items."""

        def items(self):
            for each in super().items():
                if not counting:
                    counting.append(threading.Thread(target=count_another))
                    counting[0].start()
                    counting[0].join(0.2)  # it waits for us
                yield each

    recorder.note(HIT)
    recorder.snapshot()
    recorder._fold._latency = Interrupted(recorder._fold._latency)

    assert len(recorder.snapshot().latency) == 1
    counting[0].join()
    assert len(recorder.snapshot().latency) == 2


def test_only_a_plain_hit_says_no_more_than_that():
    recorder = Recorder("n")
    assert not recorder.note(HIT)
    assert recorder.note(HIT[:1])
    assert recorder.note((Missed("n:k", MissReason.ABSENT), HIT[1]))
    assert recorder.note((*HIT[:1], StoreErrored(FailureKind.TIMEOUT), *HIT[1:]))


def test_a_subscriber_hears_a_hit_as_well():
    recorder = Recorder("n")
    heard = []
    recorder.subscribers.subscribe(heard.append)
    recorder.note(HIT)
    assert heard == list(HIT)


# What it logs.


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: type(change).__name__)
def test_what_the_coordinator_has_found_is_logged(change, caplog):
    Recorder("n").log(change)

    level, text = CHANGES[change]
    [record] = caplog.records
    assert record.levelno == level
    assert record.getMessage().startswith(f"cache n: {text}")


def test_connections_that_are_not_trusted_are_warned_of_once(caplog):
    recorder = Recorder("n")
    recorder.know_place("h:6379")
    for _ in range(3):
        recorder.log(Suspected(""))
        recorder.log(Trusted(""))
        recorder.log(Distrusted(""))
    [record] = caplog.records
    assert record.getMessage().startswith("cache n: a reply of the store at h:6379 belonged to another key")


def test_the_log_names_the_place_of_the_store_and_the_reason(caplog):
    recorder = Recorder("n")
    recorder.know_place("h:6379")
    recorder.log(OutageBegan("", FailureKind.CONNECTION, "h:6379 refuses connections"))
    recorder.log(OutageEnded("", 2.0))
    recorder.log(RefusalBegan("", FailureKind.PERMISSION, "h:6379 does not permit it"))
    recorder.log(RefusalBegan("", FailureKind.EXHAUSTED, "no descriptor is left"))
    recorder.log(InvalidationsForgotten("", 5))
    messages = [record.getMessage() for record in caplog.records]
    assert all(" at h:6379" in message for message in messages)
    assert "does not serve (connection: h:6379 refuses connections); loaders run" in messages[0]
    assert "refuses (permission: h:6379 does not permit it)" in messages[2]
    assert "(exhausted: no descriptor is left)" in messages[3]


def test_the_log_names_the_part_of_a_store_that_has_several(caplog):
    recorder = Recorder("n")
    recorder.know_place("h:1, i:2")
    recorder.log(OutageBegan("i:2", FailureKind.CONNECTION))
    recorder.log(StoreReplaced("i:2", 3, 0.5))
    recorder.log(OutageBegan("slots without an owner", FailureKind.UNAVAILABLE))
    said = [record.getMessage().partition("cache n: the store ")[2] for record in caplog.records]
    assert [each.partition(" does not")[0].partition(" is another")[0] for each in said] == [
        "at i:2",
        "at i:2",
        "at h:1, i:2 (slots without an owner)",
    ]


def test_notices_of_failures_are_the_coordinator_s_to_judge(caplog):
    Recorder("n").note((StoreErrored(FailureKind.CONNECTION), StoreGaveUp(FailureKind.CONNECTION)))
    assert not caplog.records


@pytest.mark.parametrize("what", WARNED)
def test_a_notice_of_what_the_program_should_mend_is_warned_of_once(what, caplog):
    recorder = Recorder("n")
    for _ in range(3):
        recorder.note((WARNED[what],))
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("cache n: ")


def failing(text):
    """What a loader of the program's raises."""
    try:
        try:
            raise KeyError(text)
        except KeyError as error:
            raise LookupError(text) from error
    except LookupError as error:
        return error


def test_a_refresh_that_failed_is_logged_with_its_key_and_its_frames_and_without_its_text(caplog):
    """The text is the program's, and may hold a row of its database."""
    recorder = Recorder("n")
    recorder.refresh_failed("n:user:1", failing("s3cret"), 10.0)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "failed with LookupError, of the key n:user:1; what is there" in record.getMessage()
    shown = logging.Formatter().format(record)
    assert "Traceback (most recent call last)" in shown
    assert f'File "{__file__}", line' in shown
    assert "in failing" in shown
    assert shown.index("KeyError") < shown.index("The above exception was the direct cause")
    assert "s3cret" not in shown


def test_refreshes_that_fail_alike_are_logged_once_a_minute(caplog):
    recorder = Recorder("n")
    for now_s in (10.0, 11.0, 69.9, 70.0, 70.1):
        recorder.refresh_failed("n:k", LookupError(), now_s)
        recorder.refresh_failed("n:k", OSError(), now_s)
    assert len(caplog.records) == 4


def test_a_writer_that_fails_is_logged_with_its_frames_once_a_minute_for_each_queue_and_class(caplog):
    recorder = Recorder("n")
    for now_s in (10.0, 11.0, 70.0):
        recorder.writer_failed("user", 3, failing("s3cret"), now_s)
        recorder.writer_failed("order", 1, OSError(), now_s)
    recorder.refresh_failed("n:k", LookupError(), 12.0)
    assert len(caplog.records) == 5
    first = caplog.records[0]
    assert "the writer of the queue user failed with LookupError, for 3 keys: they are" in first.getMessage()
    shown = logging.Formatter().format(first)
    assert "in failing" in shown
    assert "s3cret" not in shown


def test_classes_of_errors_do_not_pile_up(caplog):
    recorder = Recorder("n")
    for number in range(1000):
        recorder.refresh_failed("n:k", type(f"Error{number}", (Exception,), {})(), 0.0)
    assert len(recorder._log_rests) <= 100


def test_there_is_an_end_to_warnings(caplog):
    recorder = Recorder("n")
    for number in range(200):
        recorder.note((Unstorable("k", "str", f"value[{number}]"),))
    assert len(caplog.records) == module._MOST_WARNINGS


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: type(change).__name__)
def test_what_fails_while_the_cache_is_being_closed_is_no_news(change, caplog):
    recorder = Recorder("n")
    recorder.close()
    recorder.log(change)
    recorder.note((WARNED["unasked"],))
    assert not caplog.records


@pytest.mark.parametrize("what", WARNED)
def test_nothing_is_logged_under_its_lock(what, handled):
    recorder = Recorder("n")
    found = []

    handled(lambda _: found.append(finished(recorder.snapshot)))  # asked by another thread
    recorder.note((WARNED[what],))
    assert found == [True]


def test_a_handler_of_the_log_may_call_the_cache(handled, namespace):
    """One that sends what is logged through a program which caches, say."""
    heard, results = [], []

    def call():
        with Cache.from_url("memory://", namespace=namespace) as cache:

            def emit(message):
                cache.health()
                heard.append((message, cache.stats().errors, cache.get("k:one")))
                assert cache.get_or_load("k:other", lambda: {1, 2}) == {1, 2}

            handled(emit)
            results.append(cache.get_or_load("k:one", lambda: {1}))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(GIVE_UP_S)

    assert not thread.is_alive(), "it waits for itself"
    assert results == [{1}]
    assert len(heard) == 1, "what is wrong is warned of once"


def test_what_threads_log_at_the_same_time_is_logged_once_each(handled):
    recorder = Recorder("n")
    messages = []
    handled(messages.append)
    barrier = threading.Barrier(8)

    def note(thread):
        barrier.wait(GIVE_UP_S)
        for number in range(10):
            recorder.note((Unstorable("k", "str", f"value[{thread}][{number}]"),))

    threads = [threading.Thread(target=note, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(messages) == len(set(messages)) == 80
