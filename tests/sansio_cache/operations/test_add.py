"""Add, event by event; what callers see is in `test_primitives.py`."""

from sansio_cache.commands import ClaimCell, FillCells, InspectCell, Lease, ReleaseLeases, Sleep
from sansio_cache.entry import MissReason
from sansio_cache.events import (
    CellInspected,
    CellsFilled,
    FailureKind,
    FillResult,
    HoldsTaken,
    Interrupted,
    LeasesReleased,
    StoreFailed,
    ValueFound,
    Woke,
    WriterFound,
)
from sansio_cache.operations.add import AddRequest, add
from sansio_cache.operations.set_many import Item
from sansio_cache.step import Abandoned, Added, Refused, TookTooLong, Unavailable, Unknown
from support.machines import GRANT, INTS, KEY, NONCE, SIGNED, THEIRS, TIMEOUTS, Script, value_cell

HELD = HoldsTaken(0.0, (GRANT,))


def adding(wait_s=30.0, codec=INTS):
    item = Item(KEY, codec, b"7", 60_000, 0)
    return Script(add(AddRequest(item, NONCE, 1, 5_000, wait_s, TIMEOUTS, 0.0)))


def test_a_value_goes_into_the_hold_that_was_given_for_it():
    script = adding()
    assert isinstance(script.command, ClaimCell)
    script.give(HELD)
    assert isinstance(script.command, FillCells)
    assert script.command.fills[0].grant == GRANT
    assert script.give(CellsFilled(0.0, (FillResult.ALREADY_STORED,))).outcome == Added(True)


def test_who_has_waited_for_long_enough_asks_no_more():
    script = adding().give(WriterFound(0.0, 5_000))
    assert isinstance(script.command, Sleep)
    script.give(Woke(31.0), WriterFound(31.0, 5_000))
    assert script.outcome == TookTooLong(31.0)


def test_a_value_that_nobody_has_signed_is_none():
    script = adding(codec=SIGNED).give(ValueFound(0.0))
    assert isinstance(script.command, InspectCell)
    script.give(CellInspected(0.0, value_cell(7), 500, 1_000))
    assert script.command == ClaimCell(KEY, NONCE, 5_000, TIMEOUTS.operation_s, refused=THEIRS)
    script.give(ValueFound(0.0), CellInspected(0.0, None, 0, 1_000))
    assert script.command == ClaimCell(KEY, NONCE, 5_000, TIMEOUTS.operation_s)
    script.give(ValueFound(0.0), CellInspected(0.0, value_cell(7, codec=SIGNED), 500, 1_000))
    assert script.outcome == Added(False)


def test_who_meets_one_forged_value_after_the_other_gives_up():
    script = adding(codec=SIGNED).give(ValueFound(31.0), CellInspected(31.0, value_cell(7), 500, 1_000))
    assert script.outcome == TookTooLong(31.0)


def test_a_fill_that_is_refused_for_want_of_memory_gives_the_hold_back():
    script = adding().give(HELD, StoreFailed(0.0, FailureKind.OUT_OF_MEMORY))
    assert script.command == ReleaseLeases((Lease(KEY, GRANT),), TIMEOUTS.operation_s)
    assert script.give(LeasesReleased(0.0)).outcome == Unavailable(FailureKind.OUT_OF_MEMORY)


def test_a_refusal_after_a_lost_answer_does_not_say_that_nothing_was_done():
    lost, refused = StoreFailed(0.0, FailureKind.TIMEOUT), StoreFailed(0.0, FailureKind.OUT_OF_MEMORY)
    assert adding().give(HELD, lost, refused).outcome == Unknown(FailureKind.OUT_OF_MEMORY)
    assert adding().give(HELD, lost, CellsFilled(0.0, (FillResult.REFUSED,))).outcome == Unknown(None)


def test_one_that_is_interrupted_gives_back_the_hold_and_leaves_a_value():
    asking = adding().give(Interrupted(0.0))
    assert asking.command == ReleaseLeases((Lease(KEY, NONCE),), TIMEOUTS.operation_s)
    assert asking.give(LeasesReleased(0.0)).outcome == Abandoned()
    filling = adding().give(HELD, Interrupted(0.0))
    assert filling.command == ReleaseLeases((Lease(KEY, GRANT),), TIMEOUTS.operation_s)


def test_nothing_is_asked_where_nothing_could_be_said_for_certain():
    item = Item(KEY, INTS, b"7", 60_000, 0)
    request = AddRequest(item, NONCE, 1, 5_000, 30.0, TIMEOUTS, 0.0)
    assert add(request, skip=MissReason.BYPASSED).outcome == Refused(MissReason.BYPASSED)
