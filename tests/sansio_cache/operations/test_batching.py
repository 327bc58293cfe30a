"""What a consumer has in hand of a partition: what is joined, what is due, and how much there may be."""

from __future__ import annotations

import pytest

from sansio_cache.commands import Verdict
from sansio_cache.entry import seal
from sansio_cache.operations.batching import (
    MOST_PARKED,
    MOST_PARKED_BYTES,
    Due,
    Failing,
    Holding,
    Piece,
    Unit,
    coalesced,
)
from sansio_cache.queues import QueuedWrite, QueueEntry
from support.machines import INTS

FAILING = Failing(2, 0.1, 1.0)


def body(key: str, value: int) -> bytes:
    return seal(key, INTS, INTS.encode(value).payload, 0.0)


def piece(key: str, token: int = 1, value: int = 7, **named) -> Piece:
    return Piece(key, token, body(key, value), **named)


def unread(key: str, token: int = 1, **named) -> Piece:
    return Piece(key, token, b"of another type", **named)


def holding(*units: Unit) -> Holding:
    return Holding(0, b"grant", parked=units)


def due(held: Holding, now_s: float = 0.0, failing: Failing = FAILING) -> Due:
    return held.due(now_s, INTS, failing, 1)


# How much is in hand.


def test_where_too_many_keys_are_parked_nothing_more_is_taken():
    pieces = tuple(Piece(str(number), number, b"") for number in range(MOST_PARKED))
    assert holding(Unit(pieces[1:])).has_room
    assert not holding(Unit(pieces)).has_room


def test_where_too_much_is_parked_nothing_more_is_taken_and_one_write_always_fits():
    """While the database is away, two thousand large values would fill the process."""
    large = Piece("k", 1, bytes(MOST_PARKED_BYTES // 2))
    assert holding().has_room
    assert holding(Unit((large,))).has_room
    assert not holding(Unit((large,)), Unit((Piece("l", 2, large.body),))).has_room


# What is delivered of a key that is in hand.


@pytest.mark.parametrize("is_later_first", [False, True])
def test_the_higher_token_is_the_newer_write_whatever_was_delivered_first(is_later_first):
    new, old = piece("k", 9, 2, tags=("t",)), piece("k", 4, 1, tags=("u",))
    parked, delivered = (new, old) if is_later_first else (old, new)
    fresh, merged = holding(Unit((parked,), 1)).merged((delivered,))
    assert fresh == ()
    ((joined,),) = (unit.pieces for unit in merged.parked)
    assert (joined.token, joined.body, joined.older) == (9, new.body, (4,))
    assert set(joined.tags) == {"t", "u"}
    assert joined.verdicts(reason="dead") == (Verdict(4, "k"), Verdict(9, "k", "dead"))


def test_what_is_delivered_once_more_has_one_verdict():
    parked = piece("k", 9, 2, older=(4, 5), failed=1)
    _, merged = holding(Unit((parked,), 1)).merged((piece("k", 9, 2, older=(4,)),))
    ((joined,),) = (unit.pieces for unit in merged.parked)
    assert joined == parked
    assert [each.token for each in joined.verdicts()] == [4, 5, 9]


def test_entries_of_a_key_are_one_piece_with_the_newest_value():
    entries = (QueueEntry(token, "k", body("k", token), (f"t{token}",), 1) for token in (3, 5, 4))
    ((joined,), given_up) = coalesced(entries, None)
    assert (joined.token, joined.body, joined.older) == (5, body("k", 5), (3, 4))
    assert joined.tags == ("t3", "t5", "t4")
    assert given_up == ()


# What is due.


def test_what_is_due_is_decoded_and_what_is_not_due_stays():
    later, now = Unit((piece("a"),), 0, 5.0), Unit((piece("b", 2, 8),), 1, 0.0)
    found = due(holding(later, now))
    assert found == Due(holding(later), now, (QueuedWrite("b", 8, 2, 2),))
    assert due(holding(later)) == Due(holding(later))


def test_of_a_batch_what_can_be_read_is_tried_and_the_rest_is_parked_by_itself():
    found = due(holding(Unit((piece("a"), unread("b", 2), piece("c", 3)))))
    assert [each.key for each in found.writes] == ["a", "c"]
    assert found.unit == Unit((piece("a"), piece("c", 3)))
    assert found.unread == 1
    (parked,) = found.holding.parked
    assert parked.pieces == (unread("b", 2, failed=1),)
    assert parked.due_s > 0.0
    assert found.holding.works


def test_what_cannot_be_read_as_often_as_is_allowed_is_given_up_before_the_rest_is_tried():
    tried = Unit((unread("b", 2, failed=1, older=(1,)),), 1)
    rest = Unit((piece("c", 3),)), Unit((piece("d", 4),))
    found = due(holding(tried, *rest))
    assert (found.unit, found.unread, found.holding) == (None, 1, holding(*rest))
    verdicts = found.verdicts
    assert [each.token for each in verdicts] == [1, 2]
    assert "cannot be read" in verdicts[1].reason
    assert due(found.holding).unit == rest[0]
    alone = due(holding(tried))
    assert (alone.unit, alone.verdicts, alone.holding) == (None, verdicts, holding())


def test_without_a_limit_what_cannot_be_read_is_kept_for_one_who_can():
    held = holding(Unit((unread("b", 2, failed=9),), 9))
    found = due(held, failing=Failing(None, 0.1, 1.0))
    assert (found.given_up, found.unread) == ((), 1)
    assert len(found.holding.parked) == 1


def test_many_that_cannot_be_read_are_gone_through_at_once():
    units = tuple(Unit((unread(str(number), number),)) for number in range(MOST_PARKED))
    found = due(holding(*units))
    assert (found.unit, found.unread, len(found.holding.parked)) == (None, MOST_PARKED, MOST_PARKED)
