"""Schedules: all orders up to a bound, each once, and each a text that repeats it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sansio_cache.exploring.schedules import (
    Enumeration,
    NotReplayedError,
    Schedule,
    read_schedule,
    write_schedule,
)


def run(schedule, programs):
    """Interleave programs of so many steps each; the order in which they went."""
    left = list(programs)
    current, order = None, ""
    while any(left):
        able = [place for place, steps in enumerate(left) if steps]
        goes_on = current in able
        if goes_on:
            able.remove(current)
            able.insert(0, current)
        taken = schedule.choose(len(able), is_free=not goes_on) if len(able) > 1 else 0
        current = able[taken]
        left[current] -= 1
        order += str(current)
    return order


def orders(most_switches, programs):
    enumeration = Enumeration(most_switches, most_free=sum(programs))
    found = [run(schedule, programs) for schedule in enumeration]
    assert enumeration.is_complete
    assert enumeration.runs == len(found)
    return found


def test_without_switches_each_program_runs_to_its_end():
    assert sorted(orders(0, [2, 2])) == ["0011", "1100"]


def test_one_switch_interrupts_one_program_once():
    assert sorted(orders(1, [2, 2])) == ["0011", "0110", "1001", "1100"]


@pytest.mark.parametrize("programs", [[2, 2], [1, 3], [2, 2, 1]])
def test_with_enough_switches_every_order_is_run_once(programs):
    found = orders(sum(programs), programs)
    total = 1
    left = sum(programs)
    for steps in programs:  # a multinomial coefficient
        for step in range(steps):
            total = total * left // (step + 1)
            left -= 1
    assert len(found) == len(set(found)) == total


def test_choices_that_are_free_are_bounded_as_well():
    assert len([run(schedule, [1] * 3) for schedule in Enumeration(0, most_free=0)]) == 1
    assert len([run(schedule, [1] * 3) for schedule in Enumeration(0, most_free=1)]) == 4
    assert len([run(schedule, [1] * 3) for schedule in Enumeration(0)]) == 6


def test_a_schedule_is_repeated_by_its_text():
    for schedule in Enumeration(2):
        order = run(schedule, [2, 3])
        assert run(Schedule(read_schedule(schedule.written)), [2, 3]) == order


@given(st.lists(st.integers(0, 3), max_size=20))
def test_a_text_reads_as_what_was_written_but_for_what_goes_on_as_before(choices):
    text = write_schedule(tuple(choices))
    again = read_schedule(text)
    assert write_schedule(again) == text
    assert again == tuple(choices[: len(again)])
    assert not any(choices[len(again) :])


@pytest.mark.parametrize("text", ["x", "3", "3:1 2:1", "3:1 3:2", "-1:1"])
def test_a_text_that_is_no_schedule_is_refused(text):
    with pytest.raises(ValueError, match="a schedule is like"):
        read_schedule(text)


def test_a_program_that_is_another_than_before_is_told_apart():
    with pytest.raises(NotReplayedError, match="choice 0 was option 5, and there are 2"):
        run(Schedule((5,)), [1, 1])


def test_a_program_that_meets_fewer_choices_than_before_is_told_apart():
    schedule = Schedule((0, 0, 1))
    run(schedule, [1, 1])
    with pytest.raises(NotReplayedError, match="there were 3 choices, and 1 now"):
        schedule.check_followed()
    whole = Schedule((1,))
    run(whole, [1, 1])
    whole.check_followed()
