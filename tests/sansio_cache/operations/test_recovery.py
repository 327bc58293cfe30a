"""Recovery: probe with growing pauses, then tell the store what it has missed."""

from __future__ import annotations

import pytest

from sansio_cache.commands import DeleteKeys, Ping, Sleep
from sansio_cache.errors import ProtocolError
from sansio_cache.events import FailureKind, Interrupted, KeysDeleted, LoadLed, Ponged, StoreFailed, Woke
from sansio_cache.notices import Invalidated, StoreAnswered, StoreErrored
from sansio_cache.operations.recovery import recover
from sansio_cache.step import Abandoned, Completed
from support.machines import TIMEOUTS, Script

KEYS = ("shop:a", "shop:b")


def test_a_store_that_answers_is_told_the_pending_keys():
    script = Script(recover(KEYS, TIMEOUTS))
    assert script.command == Sleep(0.05)
    script.give(Woke(1.0))
    assert script.command == Ping(0.25)
    script.give(Ponged(1.0))
    assert script.command == DeleteKeys(KEYS, 0.25)
    script.give(KeysDeleted(1.0, 0))
    assert script.outcome == Completed()
    assert script.notices == [StoreAnswered(), Invalidated(KEYS)]


def test_without_pending_keys_an_answer_is_all_there_is_to_do():
    script = Script(recover((), TIMEOUTS)).give(Woke(1.0), Ponged(1.0))
    assert script.outcome == Completed()
    assert script.notices == [StoreAnswered()]


def test_the_pause_doubles_from_50_ms_to_2_s_and_stays_there():
    script = Script(recover(KEYS, TIMEOUTS))
    pauses = []
    for _ in range(14):
        assert isinstance(script.command, Sleep)
        pauses.append(script.command.duration_s)
        script.give(Woke(1.0), StoreFailed(1.0, FailureKind.CONNECTION))
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, *(2.0,) * 8]
    assert script.notices == [StoreErrored(FailureKind.CONNECTION)] * 14


def test_a_removal_that_fails_pauses_for_longer_and_probes_again():
    script = Script(recover(KEYS, TIMEOUTS)).give(
        Woke(1.0), Ponged(1.0), StoreFailed(1.0, FailureKind.TIMEOUT)
    )
    assert script.command == Sleep(0.1)
    script.give(Woke(1.0), Ponged(1.0), KeysDeleted(1.0, 2))
    assert script.outcome == Completed()


def test_it_asks_one_part_of_the_store_and_says_which():
    script = Script(recover(KEYS, TIMEOUTS, "node-2")).give(Woke(1.0))
    assert script.command == Ping(0.25, "node-2")
    script.give(StoreFailed(1.0, FailureKind.CONNECTION, "node-2"))
    assert script.notices == [StoreErrored(FailureKind.CONNECTION, "node-2")]
    script.give(Woke(1.0), Ponged(1.0), StoreFailed(1.0, FailureKind.TIMEOUT, "node-2"))
    assert script.notices[1:] == [StoreAnswered("node-2"), StoreErrored(FailureKind.TIMEOUT, "node-2")]
    assert Script(recover((), TIMEOUTS, "node-2")).give(Woke(1.0), Ponged(1.0)).notices == [
        StoreAnswered("node-2")
    ]


@pytest.mark.parametrize("events", [(), (Woke(1.0),), (Woke(1.0), Ponged(1.0))])
def test_interrupted_anywhere_it_ends_and_forgets_nothing(events):
    script = Script(recover(KEYS, TIMEOUTS)).give(*events, Interrupted(1.0))
    assert script.outcome == Abandoned()
    assert not [notice for notice in script.notices if isinstance(notice, Invalidated)]


@pytest.mark.parametrize("events", [(), (Woke(1.0),), (Woke(1.0), Ponged(1.0))])
def test_what_answers_another_command_is_refused(events):
    script = Script(recover(KEYS, TIMEOUTS)).give(*events)
    with pytest.raises(ProtocolError):
        script.give(LoadLed(1.0, 1))
