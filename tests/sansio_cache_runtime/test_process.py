"""The process: its one lock, and the mark by which a child knows itself."""

import mmap
import os
import signal
import threading

import pytest

from sansio_cache_runtime import process
from support.servers import wait_until


@pytest.mark.parametrize("has_pages", [True, False])
def test_a_mark_says_whose_it_is_with_and_without_pages_that_the_system_wipes(has_pages, monkeypatch):
    if not has_pages:
        monkeypatch.setattr(mmap, "mmap", lambda *_, **__: (_ for _ in ()).throw(OSError))
    mark = process.make_mark()
    assert mark[0]
    if isinstance(mark, process.ByNumber):
        monkeypatch.setattr(process.os, "getpid", lambda: -1)
        assert not mark[0]
        mark[0] = 1
        assert mark[0]


def test_who_holds_the_lock_is_inside_and_others_are_not():
    lock = process.process_lock()
    assert not process.is_inside(lock)
    with lock:
        found = [process.is_inside(lock)]
        thread = threading.Thread(target=lambda: found.append(process.is_inside(lock)))
        thread.start()
        thread.join()
    assert found == [True, False]


def test_a_child_begins_anew_once(monkeypatch):
    begun = []
    monkeypatch.setattr(process, "_beginnings", [lambda: begun.append(process.process_lock())])
    before = process.process_lock()
    process.begin_in_child()
    assert begun == []
    process.MARK[0] = 0
    process.begin_in_child()
    process.begin_in_child()
    [lock] = begun
    assert lock is process.process_lock() is not before


def test_a_handler_may_call_a_cache_while_a_child_begins_anew(monkeypatch):
    begun = []

    def interrupted():
        begun.append("first")
        if len(begun) == 1:
            process.begin_in_child()  # as the handler's call does

    monkeypatch.setattr(process, "_beginnings", [interrupted, lambda: begun.append("second")])
    process.MARK[0] = 0
    beginning = threading.Thread(target=process.begin_in_child, daemon=True)
    beginning.start()
    beginning.join(20)
    assert not beginning.is_alive()
    assert begun == ["first", "first", "second"]
    assert process.MARK[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_child_begins_anew_though_a_thread_that_is_not_there_was_about_to():
    taken, is_over = threading.Event(), threading.Event()

    def hold():
        with process._beginning:
            taken.set()
            is_over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    child = os.fork()
    if not child:
        os._exit(0 if process.MARK[0] else 1)
    statuses = []

    def has_ended():
        number, status = os.waitpid(child, os.WNOHANG)
        statuses.extend([status] * (number == child))
        return statuses

    try:
        wait_until(has_ended)
    finally:
        is_over.set()
        thread.join()
        if not statuses:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert statuses == [0]
