"""The process: its one lock, and the mark by which a child knows itself."""

import mmap
import threading

import pytest

from sansio_cache_runtime import process


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
