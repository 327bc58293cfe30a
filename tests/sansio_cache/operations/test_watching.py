"""Watching: a look at some parts of the store after a pause, whatever they answer."""

import pytest

from sansio_cache.commands import Ping, Sleep
from sansio_cache.errors import ProtocolError
from sansio_cache.events import FailureKind, Interrupted, LoadLed, Ponged, StoreFailed, Woke
from sansio_cache.operations.watching import watch
from sansio_cache.step import Abandoned, Completed
from support.machines import Script


def watching(*parts):
    return Script(watch(parts, 0.25, 0.1))


def test_each_part_is_looked_at_whatever_the_one_before_has_answered():
    script = watching("x", "y")
    assert script.command == Sleep(0.25)
    script.give(Woke(1.0))
    assert script.command == Ping(0.1, "x")
    script.give(StoreFailed(1.0, FailureKind.CONNECTION, "x"))
    assert script.command == Ping(0.1, "y")
    script.give(Ponged(1.0))
    assert script.outcome == Completed()
    assert script.notices == []


def test_without_parts_some_time_passes():
    assert watching().give(Woke(1.0)).outcome == Completed()


@pytest.mark.parametrize("events", [(), (Woke(1.0),)])
def test_an_interrupted_look_is_given_up(events):
    assert watching("x").give(*events, Interrupted(1.0)).outcome == Abandoned()


@pytest.mark.parametrize("events", [(), (Woke(1.0),)])
def test_another_event_is_refused(events):
    with pytest.raises(ProtocolError):
        watching("x").give(*events, LoadLed(1.0, 0))
