"""The workers: no job is lost, and no job takes a thread with it."""

import threading

import pytest

from sansio_cache.errors import CacheClosedError
from sansio_cache_runtime.sync import workers as module
from sansio_cache_runtime.sync.background import Background
from sansio_cache_runtime.sync.workers import Workers
from support.faulty import GIVE_UP_S, LateCondition
from support.servers import wait_until

pytestmark = pytest.mark.timing


def test_a_job_that_ends_its_thread_does_not_use_it_up(caplog):
    """A loader that calls sys.exit(), say: without its thread the jobs after it would never run."""
    workers = Workers(Background(), most_threads=2)
    has_run = threading.Event()
    errors = [SystemExit, KeyboardInterrupt, GeneratorExit, SystemExit]
    for error in errors:

        def end(error=error):
            raise error

        assert workers.submit(end)
    assert workers.submit(has_run.set)

    assert has_run.wait(GIVE_UP_S)
    wait_until(lambda: len(caplog.records) == len(errors))
    assert {record.getMessage() for record in caplog.records} == {
        "a background refresh of the cache was ended"
    }
    workers.close()
    wait_until(lambda: not workers._threads)


def test_what_a_job_raises_is_logged(caplog):
    workers = Workers(Background())

    def fail():
        raise ValueError("a loader's")

    assert workers.submit(fail)
    wait_until(lambda: caplog.records)
    assert [record.getMessage() for record in caplog.records] == ["background work of the cache failed"]
    workers.close()


def test_a_job_that_comes_at_the_very_end_of_an_idle_wait_is_not_lost():
    workers = Workers(Background())
    late = workers._changed = LateCondition(workers._lock)
    ran = []
    done = threading.Event()
    assert workers.submit(lambda: ran.append(1))
    assert late.is_waiting.wait(GIVE_UP_S)

    assert workers.submit(lambda: (ran.append(2), done.set()))
    assert workers._threads == 1, "one is idle"
    late.is_over.set()

    assert done.wait(GIVE_UP_S)
    assert ran == [1, 2]
    workers.close()


def test_threads_that_have_nothing_to_do_end_and_others_are_started_later(monkeypatch):
    monkeypatch.setattr(module, "_IDLE_S", 0.01)
    workers = Workers(Background())
    for _ in range(3):
        found = []
        assert workers.submit(lambda found=found: found.append(threading.current_thread()))
        wait_until(lambda found=found: found and not found[0].is_alive())
        assert workers._threads == workers._idle == 0
    workers.close()


def test_jobs_that_are_waiting_when_the_cache_is_closed_are_dropped_without_a_word(caplog):
    """They would ask a cache that is closed: nobody is to read of that in the log."""
    background = Background()
    workers = Workers(background, most_threads=1)
    began, may_go = threading.Event(), threading.Event()
    ended = []

    def hold():
        began.set()
        assert may_go.wait(GIVE_UP_S)

    def ask():
        ended.append(1)
        raise CacheClosedError("the cache is closed")

    assert workers.submit(hold)
    assert began.wait(GIVE_UP_S)
    for _ in range(3):
        assert workers.submit(ask)
    background.stop()
    workers.close()
    assert not workers.submit(ask)
    may_go.set()

    background.drain()
    wait_until(lambda: not workers._threads)
    assert len(ended) == 3, "each has given back what it had taken"
    assert not caplog.records


def test_past_a_bound_no_job_is_taken():
    workers = Workers(Background(), most_threads=1, most_waiting=2)
    began, may_go = threading.Event(), threading.Event()
    ran = []

    def hold():
        began.set()
        assert may_go.wait(GIVE_UP_S)

    assert workers.submit(hold)
    assert began.wait(GIVE_UP_S)
    assert [workers.submit(lambda: ran.append(1)) for _ in range(3)] == [True, True, False]
    assert not workers.has_room()
    may_go.set()
    wait_until(lambda: len(ran) == 2)
    assert workers.has_room()
    workers.close()


@pytest.mark.parametrize("running", [0, 1])
def test_where_there_is_no_thread_to_be_had_a_job_waits_for_those_that_run(running):
    class Scarce(Background):
        left = running

        def start(self, job, name, *, is_waited_for=False):
            self.left -= 1
            return self.left >= 0 and super().start(job, name, is_waited_for=is_waited_for)

    workers = Workers(Scarce())
    began, may_go, done = threading.Event(), threading.Event(), threading.Event()

    def hold():
        began.set()
        assert may_go.wait(GIVE_UP_S)

    assert workers.submit(hold) == bool(running)
    assert workers._threads == running
    if running:
        assert began.wait(GIVE_UP_S)
        assert workers.submit(done.set)
        assert workers._threads == 1
        may_go.set()
        assert done.wait(GIVE_UP_S)
    workers.close()


def test_an_interrupt_as_a_thread_is_made_uses_none_up(monkeypatch):
    workers = Workers(Background(), most_threads=1)

    def strike(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(workers._background, "start", strike)
        with pytest.raises(KeyboardInterrupt):
            workers.submit(pytest.fail)
    has_run = threading.Event()
    assert workers.submit(has_run.set)
    assert has_run.wait(GIVE_UP_S)
    workers.close()
