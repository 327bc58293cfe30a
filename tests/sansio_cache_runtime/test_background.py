"""Background work: started and ended in one place, for threads and for event loops."""

import _thread
import contextlib
import contextvars
import subprocess
import sys
import threading

import anyio
import anyio.lowlevel
import pytest

from sansio_cache.errors import CacheClosedError
from sansio_cache_runtime.anyio.background import AsyncioBackground, TrioBackground
from sansio_cache_runtime.anyio.workers import Workers
from sansio_cache_runtime.process import process_lock
from sansio_cache_runtime.subscribers import Subscribers
from sansio_cache_runtime.sync import background as module
from sansio_cache_runtime.sync.background import Background, guarded
from support.faulty import GIVE_UP_S, eventually
from support.servers import wait_until


class Job:
    """A job that waits until it may end."""

    def __init__(self, error=None):
        self.began = threading.Event()
        self.may_end = threading.Event()
        self.thread = None
        self._error = error

    def __call__(self):
        self.thread = threading.current_thread()
        self.began.set()
        assert self.may_end.wait(GIVE_UP_S)
        if self._error is not None:
            raise self._error

    def end(self):
        self.may_end.set()
        self.thread.join(GIVE_UP_S)
        assert not self.thread.is_alive()


# Threads.


def test_a_job_runs_on_a_daemon_of_its_own_under_a_name_that_says_what_for():
    background, job = Background(), Job()
    assert background.start(job, "sansio-cache-listener")
    assert job.began.wait(GIVE_UP_S)
    assert job.thread.name == "sansio-cache-listener"
    assert job.thread.daemon, "a program that never closes its cache would not end"
    assert job.thread is not threading.current_thread()
    job.end()


def test_once_stopped_it_starts_no_more():
    background = Background()
    background.stop()
    assert not background.start(pytest.fail, "x")
    assert not background.start(pytest.fail, "x", is_waited_for=True)
    assert not background._waited_for


@pytest.mark.parametrize("is_waited_for", [False, True])
def test_where_the_system_has_no_thread_it_says_so_and_waits_for_none(is_waited_for, monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    background = Background()
    with monkeypatch.context() as patched:
        patched.setattr(_thread, "start_new_thread", refuse)
        assert not background.start(pytest.fail, "x", is_waited_for=is_waited_for)
    assert not background._waited_for
    background.drain()

    job = Job()
    assert background.start(job, "x"), "the next one may find one"
    assert job.began.wait(GIVE_UP_S)
    job.end()


def test_where_the_system_has_one_last_thread_the_job_runs_on_that(monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    background, ran = Background(), threading.Event()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert background.start(ran.set, "x", is_waited_for=True)
        assert ran.wait(GIVE_UP_S)
        background.drain()
    assert not background._waited_for


def test_as_the_interpreter_ends_it_starts_no_more():
    script = """
import atexit
late = []
atexit.register(lambda: print(*late))  # called last
from sansio_cache_runtime.sync.background import Background
background = Background()
atexit.register(lambda: late.append(background.start(print, "x")))  # the program's own
del atexit
import threading
class AtTheEnd:
    def __del__(self): print(background.start(print, "x"))
at_the_end = AtTheEnd()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    assert done.stdout.split()[-1] == "False"


def test_it_waits_for_those_that_are_to_be_waited_for_and_for_no_others(monkeypatch):
    monkeypatch.setattr(module, "_DRAIN_S", GIVE_UP_S)
    background, waited, other = Background(), Job(), Job()
    assert background.start(waited, "x", is_waited_for=True)
    assert background.start(other, "y")
    for job in (waited, other):
        assert job.began.wait(GIVE_UP_S)
    assert list(background._waited_for.values()) == [waited.thread.ident]
    threading.Timer(0.05, waited.may_end.set).start()

    background.drain()

    waited.thread.join(GIVE_UP_S)
    assert other.thread.is_alive()
    assert not background._waited_for
    other.end()


def test_what_finds_its_own_thread_in_a_change_waits_for_no_thread(monkeypatch):
    """Whoever is waited for may need what the thread that closes was interrupted in."""
    monkeypatch.setattr(module, "_DRAIN_S", GIVE_UP_S)
    background, job = Background(), Job()
    assert background.start(job, "x", is_waited_for=True)
    assert job.began.wait(GIVE_UP_S)
    with process_lock():
        background.drain()
    assert job.thread.is_alive()
    job.end()


def test_it_waits_a_little_only(monkeypatch):
    monkeypatch.setattr(module, "_DRAIN_S", 0.01)
    background, jobs = Background(), [Job(), Job()]
    for job in jobs:
        assert background.start(job, "x", is_waited_for=True)
        assert job.began.wait(GIVE_UP_S)
    background.drain()
    assert all(job.thread.is_alive() for job in jobs)
    for job in jobs:
        job.end()


def test_a_thread_that_closes_the_cache_does_not_wait_for_itself():
    background = Background()
    drained = threading.Event()

    def close():
        background.drain()
        drained.set()

    assert background.start(close, "x", is_waited_for=True)
    assert drained.wait(GIVE_UP_S)


@pytest.mark.parametrize("error", [ValueError("mine"), CacheClosedError("closed"), SystemExit()])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_a_job_raises_takes_nothing_down_and_is_logged_unless_the_cache_was_closed(error, caplog):
    background, job = Background(), Job(error)
    assert background.start(job, "x", is_waited_for=True)
    assert job.began.wait(GIVE_UP_S)
    job.end()
    assert not background._waited_for
    logged = ["background work of the cache failed"] if isinstance(error, ValueError) else []
    assert [record.getMessage() for record in caplog.records] == logged


def test_background_work_is_in_nobody_s_explanation():
    subscribers = Subscribers("n")

    def explained():
        with subscribers.explain() as explanation:
            contextvars.copy_context().run(guarded, lambda: subscribers.tell(["a notice"]))
        return explanation.notices

    assert explained() == []


# Event loops.

BACKGROUNDS = {"asyncio": AsyncioBackground, "trio": TrioBackground}
on_both_loops = pytest.mark.parametrize("loop", BACKGROUNDS)


@on_both_loops
def test_a_task_is_cancelled_by_what_start_gives_back(loop):
    async def main():
        background = BACKGROUNDS[loop]()
        ended = []

        async def job():
            try:
                await anyio.sleep_forever()
            finally:
                ended.append(1)

        cancel = background.start(job)
        await anyio.sleep(0.01)
        assert not ended
        cancel()
        await eventually(lambda: ended)
        cancel()  # once more does no harm

    anyio.run(main, backend=loop)


@on_both_loops
def test_the_end_cancels_all_tasks_and_waits_for_them(loop):
    async def main():
        background = BACKGROUNDS[loop]()
        background.guard(anyio.lowlevel.checkpoint)
        began, ended = [], []

        async def job():
            began.append(1)
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.02)
                ended.append(1)

        for _ in range(3):
            background.start(job)
        await eventually(lambda: len(began) == 3)
        await background.end()
        assert len(ended) == 3
        await background.end()
        assert not background.is_over()
        return background

    background = anyio.run(main, backend=loop)
    assert background.is_over()
    background.call(pytest.fail)  # there is nobody who would


@on_both_loops
def test_a_task_may_ask_for_the_end_itself(loop):
    """A loader that closes the cache, in a refresh."""

    async def main():
        background = BACKGROUNDS[loop]()
        ended = []

        async def job():
            with contextlib.suppress(BaseException) if loop == "trio" else contextlib.nullcontext():
                with anyio.move_on_after(0.1):
                    await background.end()
            ended.append(1)

        background.start(job)
        await eventually(lambda: ended)

    anyio.run(main, backend=loop)


@on_both_loops
def test_other_threads_have_a_function_called_in_the_loop(loop):
    async def main():
        background = BACKGROUNDS[loop]()
        threads = []
        await anyio.to_thread.run_sync(background.call, lambda: threads.append(threading.current_thread()))
        await eventually(lambda: threads)
        assert threads == [threading.current_thread()]

    anyio.run(main, backend=loop)


@on_both_loops
@pytest.mark.parametrize("error", [ValueError("mine"), CacheClosedError("closed")])
def test_what_a_task_raises_is_logged_unless_the_cache_was_closed(loop, error, caplog):
    async def main():
        background = BACKGROUNDS[loop]()
        began = []

        async def job():
            began.append(1)
            raise error

        background.start(job)
        await eventually(lambda: began)
        await background.end()

    anyio.run(main, backend=loop)
    logged = ["a background task of the cache failed"] if isinstance(error, ValueError) else []
    assert [each.getMessage() for each in caplog.records if each.name == "sansio_cache"] == logged


@on_both_loops
def test_a_loader_that_would_end_the_program_does_not_from_the_background(loop, caplog):
    async def main():
        background = BACKGROUNDS[loop]()
        ended = anyio.Event()

        async def job():
            raise SystemExit("no database")

        background.start(job, ended.set)
        await ended.wait()
        await background.end()

    anyio.run(main, backend=loop)
    assert "a background task of the cache failed" in [each.getMessage() for each in caplog.records]


@on_both_loops
def test_also_the_end_of_a_task_that_never_began_is_told(loop):
    """A program may cancel all tasks of its loop."""

    async def main():
        background = BACKGROUNDS[loop]()
        ended = anyio.Event()

        async def job():
            await anyio.sleep_forever()

        cancel = background.start(job, ended.set)
        cancel()
        with anyio.fail_after(GIVE_UP_S):
            await ended.wait()
        await background.end()

    anyio.run(main, backend=loop)


@on_both_loops
def test_past_a_bound_an_event_loop_takes_no_refresh(loop):
    async def main():
        workers = Workers(BACKGROUNDS[loop](), most_running=2)
        may_end = anyio.Event()
        ended = []

        async def job():
            await may_end.wait()
            ended.append(1)
            raise LookupError("also one that fails has had its turn")

        assert [workers.submit(job, int) for _ in range(3)] == [True, True, False]
        may_end.set()
        await eventually(lambda: not workers.running)
        assert len(ended) == 2
        assert workers.submit(job, int)
        await eventually(lambda: len(ended) == 3)

    anyio.run(main, backend=loop)


def test_a_thread_ends_when_its_job_has():
    background, job = Background(), Job()
    assert background.start(job, "x", is_waited_for=True)
    assert job.began.wait(GIVE_UP_S)
    job.end()
    wait_until(lambda: job.thread not in threading.enumerate())
