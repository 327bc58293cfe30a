"""The checker of logs: any cache's calls, with values and times; and it catches caches that are wrong."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sansio_cache.exploring.logs import LoggedRead, LoggedWrite, StaleRead, find_stale_reads


def write(value, began_s, ended_s=math.inf, key="k"):
    return LoggedWrite(key, value, began_s, ended_s, "a writer")


def read(value, began_s, ended_s=None, key="k"):
    return LoggedRead(key, value, began_s, began_s + 0.5 if ended_s is None else ended_s, "a reader")


def stale(*log, **initial):
    return [found.read.value for found in find_stale_reads(log, initial)]


def test_a_read_gives_what_was_written_last_or_is_being_written():
    assert stale(write(1, 1, 2), read(1, 3)) == []
    assert stale(write(1, 1, 2), read(0, 3), k=0) == [0]
    assert stale(write(1, 1, 4), read(0, 3), read(1, 3), k=0) == []
    assert stale(write(1, 1), read(0, 99), read(1, 99), k=0) == [], "it never returned"


def test_what_nobody_has_written_by_then_cannot_be_read():
    assert stale(read(1, 1)) == [1]
    assert stale(write(1, 5, 6), read(1, 1, 4)) == [1]
    assert stale(read(None, 1), write(1, 2, 3), read(None, 2.5), read(None, 4)) == [None]


def test_writes_that_overlap_have_no_order():
    overlapping = (write(1, 1, 4), write(2, 2, 3))
    assert stale(*overlapping, read(1, 5), read(2, 5), read(0, 5), k=0) == [0]
    assert stale(*overlapping, write(3, 4.5, 4.6), read(1, 5), read(2, 5), read(3, 5)) == [1, 2]


def test_a_value_that_is_written_twice_is_judged_by_what_suits_it_best():
    assert stale(write(1, 1, 2), write(2, 3, 4), write(1, 5, 6), read(1, 7)) == []


def test_keys_are_registers_of_their_own():
    assert stale(write(1, 1, 2, "a"), read(None, 3, key="b")) == []


def test_the_message_says_who_had_written_what():
    [found] = find_stale_reads([write(1, 1, 2), write(2, 3, 4), read(1, 5)])
    assert str(found) == (
        "a reader read 'k' from 5.000000 to 5.500000 s: 1, though a writer had written 2 from 3.000000 to "
        "4.000000 s"
    )
    assert found == StaleRead(read(1, 5), write(2, 3, 4))
    [found] = find_stale_reads([read(7, 5)])
    assert str(found).endswith(": 7, which nobody had begun to write by then")


TIMES = st.integers(0, 12)
CALLS = st.lists(
    st.tuples(st.booleans(), st.integers(0, 3), TIMES, st.integers(0, 5)), min_size=1, max_size=12
)


@given(CALLS)
def test_it_is_the_definition(calls):
    """Against the definition, word for word."""
    log = [
        (LoggedWrite if is_write else LoggedRead)("k", value, float(began), float(began + took))
        for is_write, value, began, took in calls
    ]
    writes = [
        LoggedWrite("k", 0, -math.inf, -math.inf),
        *(each for each in log if isinstance(each, LoggedWrite)),
    ]

    def is_right(given):
        return any(
            source.value == given.value
            and source.began_s <= given.ended_s
            and not any(source.ended_s < other.began_s and other.ended_s < given.began_s for other in writes)
            for source in writes
        )

    wrong = [each for each in log if isinstance(each, LoggedRead) and not is_right(each)]
    found = [each.read for each in find_stale_reads(log, {"k": 0})]
    assert sorted(map(repr, found)) == sorted(map(repr, wrong))


# Negative controls: caches as they are often written, with the order of steps in which they are wrong.


class Clock:
    now_s = 0.0

    def tick(self):
        self.now_s += 1.0
        return self.now_s


def aside(*, invalidates_first):
    """Cache-aside with a reader between the two steps of a writer."""
    clock, log, database, cache = Clock(), [], {"k": 1}, {}
    began_s = clock.tick()
    if invalidates_first:
        cache.pop("k", None)
    else:
        database["k"] = 2
    cache["k"] = seen = database["k"]
    log.append(read(seen, clock.tick(), clock.tick()))
    if invalidates_first:
        database["k"] = 2
    else:
        cache.pop("k", None)
    log.append(LoggedWrite("k", 2, began_s, clock.tick()))
    log.append(read(cache.get("k", database["k"]), clock.tick(), clock.tick()))
    return find_stale_reads(log, {"k": 1})


def test_invalidating_before_the_commit_is_caught_and_after_it_is_not():
    assert [found.read.value for found in aside(invalidates_first=True)] == [1]
    assert aside(invalidates_first=False) == []


@pytest.mark.parametrize("is_checked", [False, True])
def test_a_load_that_is_stored_after_an_invalidation_is_caught(is_checked):
    clock, log, database, cache, grants = Clock(), [], {"k": 1}, {}, {"k": 7}
    began_s = clock.tick()
    seen, grant = database["k"], grants["k"]
    write_began_s = clock.tick()
    database["k"] = 2
    grants.pop("k")
    cache.pop("k", None)
    log.append(LoggedWrite("k", 2, write_began_s, clock.tick()))
    if not is_checked or grants.get("k") == grant:
        cache["k"] = seen
    log.append(LoggedRead("k", seen, began_s, clock.tick()))
    log.append(LoggedRead("k", cache.get("k", database["k"]), clock.tick(), clock.tick()))
    assert bool(find_stale_reads(log, {"k": 1})) is not is_checked
