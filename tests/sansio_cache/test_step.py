"""Steps: the last state, the error for a broken contract, and retries."""

from __future__ import annotations

import pytest

from sansio_cache.commands import ReadCell
from sansio_cache.errors import ProtocolError
from sansio_cache.events import FailureKind, Interrupted, StoreFailed, Woke
from sansio_cache.notices import StoreAnswered, StoreErrored
from sansio_cache.operations.get import GetReading, ReadRequest
from sansio_cache.step import OVER, AsksStore, Missing, Step, ended, unexpected
from support.machines import INTS, KEY, TIMEOUTS


def test_an_operation_that_is_over_can_be_answered_no_more():
    with pytest.raises(ProtocolError, match="Interrupted does not answer the command that Over waits for"):
        OVER.receive(Interrupted(0.0))


def test_the_last_step_has_an_outcome_and_no_command():
    assert ended(Missing(), StoreAnswered(), load_id=3) == Step(
        OVER, None, Missing(), notices=(StoreAnswered(),), load_id=3
    )


def test_the_error_for_a_broken_contract_names_both_sides_and_the_contract():
    reading = GetReading(ReadRequest(KEY, INTS, TIMEOUTS, 0.0), TIMEOUTS.from_now(0.0))
    assert str(unexpected(reading, Woke(0.0))) == (
        "Woke does not answer the command that GetReading waits for: a driver must give back exactly one "
        "event for every command, or Interrupted"
    )


def test_a_retry_is_the_same_command_with_what_is_left_of_the_budget():
    reading = GetReading(ReadRequest(KEY, INTS, TIMEOUTS, 0.0), TIMEOUTS.from_now(0.0))
    step = reading.retry(StoreFailed(0.1875, FailureKind.TIMEOUT))
    assert step.command == ReadCell(KEY, 0.0625)
    assert step.notices == (StoreErrored(FailureKind.TIMEOUT),)
    assert step.state != reading
    assert reading.retry(StoreFailed(0.25, FailureKind.TIMEOUT)) is None


def test_what_states_have_in_common_is_not_a_state_itself():
    with pytest.raises(NotImplementedError):
        AsksStore().ask()
