"""Readiness: ask until the store serves, or until the time is up."""

from __future__ import annotations

import pytest

from sansio_cache.commands import Ping, Sleep
from sansio_cache.errors import ProtocolError
from sansio_cache.events import FailureKind, Interrupted, KeysDeleted, Ponged, StoreFailed, Woke
from sansio_cache.keys import ONE_PART
from sansio_cache.notices import StoreAnswered, StoreErrored, StoreGaveUp
from sansio_cache.operations.readiness import wait_ready
from sansio_cache.step import Abandoned, Completed, Unavailable, evolve
from support.machines import Script

DOWN = FailureKind.CONNECTION


def test_a_store_that_answers_is_ready_at_once():
    script = Script(wait_ready(10.0, 100.0))
    assert script.command == Ping(1.0)
    script.give(Ponged(100.1))
    assert script.outcome == Completed()
    assert script.notices == [StoreAnswered()]


def test_it_tries_again_after_pauses_that_double_up_to_2_s_and_finds_the_store_when_it_is_there():
    script = Script(wait_ready(1_000.0, 0.0))
    pauses = []
    for _ in range(8):
        assert script.command == Ping(1.0)
        script.give(StoreFailed(1.0, DOWN))
        assert isinstance(script.command, Sleep)
        pauses.append(script.command.duration_s)
        script.give(Woke(1.0))
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    script.give(Ponged(1.0))
    assert script.outcome == Completed()


def test_a_store_that_is_not_there_is_no_outage():
    """Who waits at the start of a program has not asked for anything yet."""
    script = Script(wait_ready(10.0, 0.0)).give(StoreFailed(0.0, DOWN), Woke(0.1), StoreFailed(10.0, DOWN))
    assert script.outcome == Unavailable(DOWN)
    assert not [each for each in script.notices if isinstance(each, StoreErrored | StoreGaveUp)]


@pytest.mark.parametrize("kind", [DOWN, FailureKind.PERMISSION])
def test_when_the_time_is_up_it_says_what_the_last_probe_met(kind):
    script = Script(wait_ready(5.0, 0.0)).give(StoreFailed(0.0, DOWN), Woke(4.97), StoreFailed(4.97, kind))
    assert script.outcome == Unavailable(kind)


def test_a_probe_that_the_end_cuts_off_does_not_hide_what_earlier_ones_have_met():
    cause = OSError("refused")
    refused = StoreFailed(0.0, DOWN, ONE_PART, "h:1 refuses connections", cause)
    late = StoreFailed(4.97, FailureKind.TIMEOUT, ONE_PART, "no connection to h:1 in time")
    script = Script(wait_ready(5.0, 0.0)).give(StoreFailed(0.0, FailureKind.HANDSHAKE), Woke(0.1), refused)
    script.give(Woke(1.0), evolve(late, now_s=2.0), Woke(3.0), late)
    assert script.outcome == Unavailable(DOWN, "h:1 refuses connections", cause)

    script = Script(wait_ready(5.0, 0.0)).give(late)
    assert script.outcome == Unavailable(FailureKind.TIMEOUT, "no connection to h:1 in time")


@pytest.mark.parametrize(
    ("limit_s", "now_s", "timeout_s"),
    [(5.0, 0.0, 1.0), (0.4, 0.0, 0.4), (0.0, 0.0, 0.001), (-1.0, 0.0, 0.001)],
)
def test_a_probe_takes_no_longer_than_there_is_time(limit_s, now_s, timeout_s):
    assert Script(wait_ready(limit_s, now_s)).command == Ping(timeout_s)


def test_the_last_pause_leaves_time_for_a_probe():
    script = Script(wait_ready(5.0, 0.0))
    for _ in range(6):
        script.give(StoreFailed(0.0, DOWN), Woke(0.0))
    script.give(StoreFailed(4.0, DOWN))
    assert script.command == Sleep(pytest.approx(0.95))
    script.give(Woke(4.95))
    assert script.command == Ping(pytest.approx(0.05))
    script.give(StoreFailed(5.0, DOWN))
    assert script.outcome == Unavailable(DOWN)


@pytest.mark.parametrize("events", [(), (StoreFailed(0.0, DOWN),)])
def test_interrupted_anywhere_it_ends(events):
    assert Script(wait_ready(10.0, 0.0)).give(*events, Interrupted(0.0)).outcome == Abandoned()


@pytest.mark.parametrize("events", [(), (StoreFailed(0.0, DOWN),)])
def test_an_answer_to_something_else_is_refused(events):
    script = Script(wait_ready(10.0, 0.0)).give(*events)
    with pytest.raises(ProtocolError):
        script.give(KeysDeleted(0.0, 1))
