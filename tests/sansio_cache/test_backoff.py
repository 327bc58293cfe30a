"""Back-off: geometric, jittered, deterministic, and never past the lease."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sansio_cache.backoff import (
    FALL_BACK_S,
    FIRST_PAUSE_S,
    LASTING_S,
    LONGEST_CONNECT_PAUSE_S,
    LONGEST_CONTENDED_S,
    LONGEST_PAUSE_S,
    PATIENCE_S,
    Connecting,
    connect_pause_s,
    contended_pause_s,
    pause_s,
    watched_pause_s,
)

seeds = st.integers(0, 2**64 - 1)
turns = st.integers(0, 10_000)
lefts_s = st.floats(-1, 1_000)


@settings(deadline=None)
@given(seeds, turns)
def test_a_pause_lies_between_half_and_all_of_a_doubling_step(seed, turn):
    step = min(FIRST_PAUSE_S * 2 ** min(turn, 20), LONGEST_PAUSE_S)
    assert step / 2 <= pause_s(seed, turn, 1_000.0) <= step


@settings(deadline=None)
@given(seeds, turns, lefts_s)
def test_no_pause_goes_more_than_half_a_millisecond_past_the_lease(seed, turn, left_s):
    assert 0 < pause_s(seed, turn, left_s) <= max(left_s, 0) + 0.0005


@settings(deadline=None)
@given(seeds, turns, lefts_s)
def test_the_same_operation_always_waits_the_same(seed, turn, left_s):
    """B4."""
    assert pause_s(seed, turn, left_s) == pause_s(seed, turn, left_s)


@settings(deadline=None)
@given(seeds, turns, lefts_s)
def test_who_is_told_falls_back_within_a_second_and_not_past_the_lease(seed, turn, left_s):
    """L4."""
    pause = watched_pause_s(seed, turn, left_s)
    assert 0 < pause <= min(FALL_BACK_S, max(left_s, 0) + 0.0005)
    if left_s > FALL_BACK_S:
        assert pause >= 0.75 * FALL_BACK_S


def test_waiters_with_other_seeds_do_not_wake_together():
    assert len({pause_s(seed, 3, 1_000.0) for seed in range(1_000)}) == 1_000


def test_the_sequence_is_splitmix64s():
    # The first outputs of the reference implementation for the seed 0.
    for turn, word in enumerate([0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]):
        share = (word >> 11) / 2**53
        step = FIRST_PAUSE_S * 2**turn
        assert pause_s(0, turn, 1_000.0) == step * (0.5 + share / 2)


def test_the_pauses_before_a_connection_double_from_10_ms_to_a_fifth_of_a_second():
    pauses = [connect_pause_s(losses, 0.999999) for losses in range(8)]
    assert [round(pause, 3) for pause in pauses] == [0.01, 0.02, 0.04, 0.08, 0.16, 0.2, 0.2, 0.2]


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1, exclude_max=True))
def test_a_pause_before_a_connection_is_at_least_half_as_long(losses, draw):
    """Jitter, so that not all processes come back at once."""
    longest = connect_pause_s(losses, 1.0)
    assert longest / 2 <= connect_pause_s(losses, draw) <= longest <= LONGEST_CONNECT_PAUSE_S


# Connections.


def test_before_the_first_connection_there_is_no_pause():
    assert Connecting().pause_s(0.0) == 0.0


def test_each_that_fails_or_does_not_last_is_followed_by_a_longer_pause():
    connecting = Connecting()
    pauses = []
    for number in range(12):
        if number % 2:
            connecting.failed(5.0, 0.999999)
        else:
            connecting.closed(5.0 - LASTING_S / 2, 5.0, 0.999999)
        pauses.append(connecting.pause_s(5.0))
    assert pauses == sorted(pauses)
    assert pauses[0] == pytest.approx(0.01, rel=1e-3)
    assert pauses[-1] == pytest.approx(LONGEST_CONNECT_PAUSE_S, rel=1e-3)
    assert connecting.pause_s(5.1) == pytest.approx(pauses[-1] - 0.1)
    assert connecting.pause_s(6.0) == 0.0


def test_one_that_has_lasted_ends_the_row():
    connecting = Connecting()
    for _ in range(5):
        connecting.failed(5.0, 0.5)
    connecting.closed(5.0, 5.0 + LASTING_S, 0.5)
    connecting.failed(10.0, 0.999999)
    assert connecting.pause_s(10.0) == pytest.approx(0.01, rel=1e-3)


def test_another_begins_beside_one_that_takes_too_long_and_a_third_after_twice_as_long():
    connecting = Connecting()
    assert connecting.is_worth_waiting_for(5.0, 1, 5.0 + 0.9 * PATIENCE_S)
    assert not connecting.is_worth_waiting_for(5.0, 1, 5.0 + PATIENCE_S)
    assert connecting.is_worth_waiting_for(5.0, 2, 5.0 + 1.9 * PATIENCE_S)
    assert not connecting.is_worth_waiting_for(5.0, 2, 5.0 + 2 * PATIENCE_S)


@pytest.mark.parametrize("turn", [0, 3, 10, 100])
def test_who_was_overtaken_pauses_for_anything_up_to_twice_as_long_each_time(turn):
    longest_s = min(FIRST_PAUSE_S * 2.0 ** min(turn, 20), LONGEST_CONTENDED_S)
    pauses = [contended_pause_s(seed, turn) for seed in range(200)]

    assert 0 <= min(pauses) < longest_s / 4
    assert longest_s / 2 < max(pauses) <= longest_s
