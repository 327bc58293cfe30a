"""The checker of histories, against what it says by definition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sansio_cache.exploring import History, Invariant, Read, Violation, Write
from sansio_cache.exploring.history import Floor


def write(version, *, returned_s=1.0, completed_s=1.0, process="p", key="k"):
    return Write(process, key, version, returned_s, completed_s)


def read(version, *, began_s, process="q", key="k"):
    return Read(process, key, version, began_s)


def judged(*writes, of):
    history = History()
    for each in writes:
        history.note(each)
    found = history.judge(of)
    assert (history.writes, history.reads) == (len(writes), 1)
    return found


def test_a_read_that_begins_after_a_write_is_complete_may_not_be_older():
    found = judged(write(2), of=read(1, began_s=2.0))
    assert found == Violation(read(1, began_s=2.0), 2, Invariant.S1_READ)
    assert str(found) == (
        "S1 a read returned a version older than its floor: q read k at 2.000000 s, version 1, floor 2"
    )


def test_a_read_that_overlaps_a_write_may_return_what_was_before_or_after():
    for version in (1, 2):
        assert judged(write(2, completed_s=3.0), of=read(version, began_s=2.0)) is None
        assert judged(write(2), of=read(version, began_s=1.0)) is None


def test_a_write_whose_completion_nobody_knows_binds_only_its_own_process():
    pending = write(2, completed_s=None)
    assert judged(pending, of=read(1, began_s=9.0)) is None
    found = judged(pending, of=read(1, began_s=9.0, process="p"))
    assert found is not None
    assert found.invariant is Invariant.S1_PENDING
    assert judged(pending, of=read(1, began_s=0.5, process="p")) is None
    assert judged(pending, of=read(2, began_s=9.0, process="p")) is None


def test_a_write_is_complete_no_sooner_than_its_call_has_returned():
    assert judged(write(2, returned_s=3.0, completed_s=1.0), of=read(1, began_s=2.0)) is None


def test_another_key_is_another_register():
    assert judged(write(2, key="other"), of=read(1, began_s=2.0)) is None


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), max_size=8), st.integers(-1, 7))
def test_the_floor_is_the_newest_version_that_was_complete_before(raised, now_s):
    floor = Floor()
    for version, at_s in raised:
        floor.raise_to(version, at_s)
    assert floor.before(now_s) == max((version for version, at_s in raised if at_s < now_s), default=0)


def test_a_floor_keeps_no_more_than_its_steps():
    floor = Floor()
    for version in range(100):
        floor.raise_to(version, 5.0)
        floor.raise_to(version, 9.0)
    assert len(floor._times_s) == 1
