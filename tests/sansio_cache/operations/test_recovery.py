"""Recovery: probe after a pause, then tell the store what it has missed; one refused key stops no other."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sansio_cache.commands import DeleteKeys, Ping, Sleep
from sansio_cache.errors import ProtocolError
from sansio_cache.events import FailureKind, Interrupted, KeysDeleted, LoadLed, Ponged, StoreFailed, Woke
from sansio_cache.notices import Invalidated, InvalidationRefused, StoreAnswered, StoreErrored
from sansio_cache.operations.recovery import RecoveryRequest, recover, recover_now, rest, tell
from sansio_cache.step import Abandoned, Completed, Recovered
from support.machines import TIMEOUTS, Script

KEYS = ("shop:a", "shop:b")
PERMISSION = FailureKind.PERMISSION


def request(keys=KEYS, part="", **limits):
    return RecoveryRequest(part, keys, TIMEOUTS, **limits)


def recovering(keys=KEYS, part=""):
    return Script(recover(request(keys, part), 0.05))


def test_a_store_that_answers_is_told_the_pending_keys():
    script = recovering()
    assert script.command == Sleep(0.05)
    script.give(Woke(1.0))
    assert script.command == Ping(0.25)
    script.give(Ponged(1.0))
    assert script.command == DeleteKeys(KEYS, 0.25, insists=True)
    script.give(KeysDeleted(1.0, 0))
    assert script.outcome == Recovered(KEYS)
    assert script.notices == [StoreAnswered(), Invalidated(KEYS)]


def test_without_pending_keys_an_answer_is_all_there_is_to_do():
    script = recovering(()).give(Woke(1.0), Ponged(1.0))
    assert script.outcome == Recovered()
    assert script.notices == [StoreAnswered()]


@pytest.mark.parametrize("events", [(Woke(1.0),), (Woke(1.0), Ponged(1.0))], ids=["probe", "removal"])
def test_a_failure_is_what_one_attempt_comes_to(events):
    script = recovering().give(*events, StoreFailed(1.0, FailureKind.CONNECTION))
    assert script.outcome == Recovered(failure=FailureKind.CONNECTION)
    assert script.notices[-1] == StoreErrored(FailureKind.CONNECTION)


def test_it_asks_one_part_of_the_store_and_says_which():
    script = recovering(part="node-2").give(Woke(1.0))
    assert script.command == Ping(0.25, "node-2")
    script.give(StoreFailed(1.0, FailureKind.CONNECTION, "node-2"))
    assert script.notices == [StoreErrored(FailureKind.CONNECTION, "node-2")]
    assert recovering((), "node-2").give(Woke(1.0), Ponged(1.0)).notices == [StoreAnswered("node-2")]


def test_a_caller_who_does_it_pauses_for_nothing_and_waits_no_longer_than_it_may():
    script = Script(recover_now(request(until_s=1.3), 1.0))
    assert script.command == Ping(0.25)
    script.give(Ponged(1.1))
    assert script.command == DeleteKeys(KEYS, pytest.approx(0.2), insists=True)
    script.give(StoreFailed(1.2, PERMISSION))
    assert script.command == DeleteKeys(KEYS[:1], pytest.approx(0.1), insists=True)
    script.give(KeysDeleted(1.3, 1))
    assert script.outcome == Recovered(KEYS[:1]), "the other stays pending"


def test_a_caller_whose_time_is_spent_by_the_probe_tells_nothing():
    script = Script(recover_now(request(until_s=1.25), 1.0)).give(Ponged(1.25))
    assert script.outcome == Recovered()
    assert script.notices == [StoreAnswered()]


def test_what_is_told_at_once_is_told_without_a_probe_and_says_that_the_store_serves():
    script = Script(tell(request(), 1.0))
    assert script.command == DeleteKeys(KEYS, 0.25, insists=True)
    script.give(KeysDeleted(1.0, 1))
    assert script.outcome == Recovered(KEYS)
    assert script.notices == [StoreAnswered(), Invalidated(KEYS)]


def test_what_is_told_at_once_and_in_vain_is_no_news():
    script = Script(tell(request(), 1.0)).give(StoreFailed(1.0, FailureKind.TIMEOUT))
    assert script.outcome == Recovered(failure=FailureKind.TIMEOUT)
    assert script.notices == [StoreErrored(FailureKind.TIMEOUT)]


def answered(script, refused, kind=PERMISSION):
    """How many commands it takes where a server refuses some keys, and a whole command with one of them."""
    count = 0
    while isinstance(script.command, DeleteKeys):
        count += 1
        keys = script.command.keys
        is_refused = not refused.isdisjoint(keys)
        script.give(StoreFailed(1.0, kind) if is_refused else KeysDeleted(1.0, len(keys)))
    return count


@settings(deadline=None)
@given(st.integers(1, 40), st.sets(st.integers(0, 39), max_size=5), st.sampled_from(["probed", "told"]))
def test_every_key_is_told_but_for_those_that_are_refused_by_themselves(count, places, how):
    keys = tuple(f"shop:{number}" for number in range(count))
    refused = {f"shop:{place}" for place in places if place < count}
    script = Script(tell(request(keys), 1.0))
    if how == "probed":
        script = recovering(keys).give(Woke(1.0), Ponged(1.0))
    answered(script, refused)
    assert set(script.outcome.refused) == refused
    assert set(script.outcome.told) == set(keys) - refused
    assert len(script.outcome.told) + len(script.outcome.refused) == count
    assert script.outcome.failure is None
    said = [notice for notice in script.notices if isinstance(notice, InvalidationRefused)]
    assert {notice.keys for notice in said} == {(key,) for key in refused}


def test_one_refused_key_among_many_costs_few_commands():
    keys = tuple(f"shop:{number}" for number in range(512))
    assert answered(Script(tell(request(keys), 1.0)), {"shop:77"}) <= 20


@pytest.mark.parametrize("kind", [FailureKind.READ_ONLY, FailureKind.WRITES_REFUSED, FailureKind.TIMEOUT])
def test_what_concerns_every_key_is_not_tried_key_by_key(kind):
    script = Script(tell(request(), 1.0))
    assert answered(script, set(KEYS), kind) == 1
    assert script.outcome == Recovered(failure=kind)


def test_what_was_told_before_a_failure_is_told():
    script = Script(tell(request(), 1.0)).give(StoreFailed(1.0, PERMISSION), KeysDeleted(1.0, 1))
    script.give(StoreFailed(1.0, FailureKind.CONNECTION))
    assert script.outcome == Recovered(KEYS[:1], (), FailureKind.CONNECTION)


def test_many_keys_are_told_in_chunks():
    keys = tuple(f"shop:{number}" for number in range(5))
    script = Script(tell(request(keys), 1.0, 2))
    told = []
    while isinstance(script.command, DeleteKeys):
        told.append(script.command.keys)
        script.give(KeysDeleted(1.0, 1))
    assert told == [keys[:2], keys[2:4], keys[4:]]
    assert script.outcome == Recovered(keys)


def test_while_nothing_is_due_nothing_is_asked():
    assert Script(rest(1.5)).command == Sleep(1.5)
    assert Script(rest(1.5)).give(Woke(1.0)).outcome == Completed()
    assert Script(rest(1.5)).give(Interrupted(1.0)).outcome == Abandoned()
    with pytest.raises(ProtocolError):
        Script(rest(1.5)).give(Ponged(1.0))


@pytest.mark.parametrize("events", [(), (Woke(1.0),), (Woke(1.0), Ponged(1.0))])
def test_interrupted_anywhere_it_ends_and_forgets_nothing(events):
    script = recovering().give(*events, Interrupted(1.0))
    assert script.outcome == Abandoned()
    assert not [notice for notice in script.notices if isinstance(notice, Invalidated)]


@pytest.mark.parametrize("events", [(), (Woke(1.0),), (Woke(1.0), Ponged(1.0))])
def test_what_answers_another_command_is_refused(events):
    script = recovering().give(*events)
    with pytest.raises(ProtocolError):
        script.give(LoadLed(1.0, 1))
