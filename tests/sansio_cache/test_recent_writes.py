"""Recent writes: what is told again to a store that may not have heard of it."""

from hypothesis import given
from hypothesis import strategies as st

from sansio_cache.keys import KeyBuilder
from sansio_cache.operations.delete_pattern import PatternRequest
from sansio_cache.recent_writes import MOST_PATTERNS, RecentWrites
from support.machines import TIMEOUTS

KEYS = KeyBuilder("shop")


def pattern(glob, started_s=0.0):
    return PatternRequest(KEYS, glob, 500, TIMEOUTS, started_s)


def test_keys_are_remembered_for_a_while_the_newest_last():
    recent = RecentWrites()
    recent.add(["a", "b"], 0.0)
    recent.add(["a"], 30.0)
    assert recent.keys(59.0) == ["b", "a"]
    assert recent.newest(1) == ["a"]
    assert recent.keys(60.0) == ["a"]
    assert recent.is_any(89.0)
    assert not recent.is_any(90.0)
    assert recent.keys(90.0) == []
    assert len(recent) == 0


def test_the_oldest_go_first_where_there_are_too_many_and_that_is_known():
    recent = RecentWrites(limit=2)
    assert not recent.has_overflowed(0.0)
    recent.add(["a", "b"], 0.0)
    recent.add(["c"], 70.0)
    assert not recent.has_overflowed(70.0), "its time was over"
    recent.add(["d"], 80.0)
    assert not recent.has_overflowed(80.0)
    recent.add(["e"], 90.0)
    assert recent.keys(90.0) == ["d", "e"]
    assert recent.has_overflowed(149.0)
    assert not recent.has_overflowed(150.0)


def test_patterns_are_remembered_from_their_end_on():
    recent = RecentWrites()
    recent.add_pattern(pattern("shop:a:*"), 0.0)
    recent.add_pattern(pattern("shop:b:*"), 0.0)
    recent.renew_pattern("shop:a:*", 50.0)
    recent.renew_pattern("shop:unknown:*", 50.0)
    assert [each.pattern for each in recent.patterns(59.0)] == ["shop:b:*", "shop:a:*"]
    assert [each.pattern for each in recent.patterns(60.0)] == ["shop:a:*"]
    assert len(recent) == 1


def test_too_many_patterns_are_not_all_remembered():
    recent = RecentWrites()
    for number in range(MOST_PATTERNS + 1):
        recent.add_pattern(pattern(f"shop:{number}:*"), 1.0)
    assert len(recent.patterns(1.0)) == MOST_PATTERNS
    assert recent.has_overflowed(1.0)


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.floats(0, 30))), st.integers(1, 5))
def test_it_knows_of_all_that_it_does_not_say_it_has_forgotten(writes, limit):
    recent, latest, now_s = RecentWrites(limit=limit), {}, 0.0
    for key, pause_s in writes:
        now_s += pause_s
        recent.add([key], now_s)
        latest[key] = now_s
    wanted = {key for key, written_s in latest.items() if written_s > now_s - 60.0}
    assert len(recent) <= limit
    assert recent.has_overflowed(now_s) or set(recent.keys(now_s)) == wanted
