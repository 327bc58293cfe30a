"""The workers: no job is lost, and no job takes a thread with it."""

import threading

from sansio_cache_runtime.sync import workers as module
from sansio_cache_runtime.sync.workers import Workers
from support.faulty import GIVE_UP_S, LateCondition
from support.servers import wait_until


def test_a_job_that_ends_its_thread_does_not_use_it_up(caplog):
    """A loader that calls sys.exit(), say: without its thread the jobs after it would never run."""
    workers = Workers(most_threads=2)
    has_run = threading.Event()
    errors = [SystemExit, KeyboardInterrupt, GeneratorExit, ValueError, SystemExit]
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
    assert not workers._threads


def test_a_job_that_comes_at_the_very_end_of_an_idle_wait_is_not_lost():
    workers = Workers()
    late = workers._changed = LateCondition(workers._lock)
    ran = []
    done = threading.Event()
    assert workers.submit(lambda: ran.append(1))
    assert late.is_waiting.wait(GIVE_UP_S)

    assert workers.submit(lambda: (ran.append(2), done.set()))
    assert len(workers._threads) == 1, "one is idle"
    late.is_over.set()

    assert done.wait(GIVE_UP_S)
    assert ran == [1, 2]
    workers.close()


def test_threads_that_have_nothing_to_do_end_and_others_are_started_later(monkeypatch):
    monkeypatch.setattr(module, "_IDLE_S", 0.01)
    workers = Workers()
    for _ in range(3):
        found = []
        assert workers.submit(lambda found=found: found.append(threading.current_thread()))
        wait_until(lambda found=found: found and not found[0].is_alive())
        assert not workers._threads
    workers.close()
