"""The wire of the primitives: look, add, swap, touch, lock, and the removal that says what was there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, assert_never

from sansio_cache.cell import FOREIGN, parse_cell
from sansio_cache.commands import (
    ClaimCell,
    DeleteKeys,
    FreeLock,
    InspectCell,
    SwapCell,
    TakeLock,
    TouchCell,
)
from sansio_cache.events import (
    CellInspected,
    CellSwapped,
    CellTouched,
    ForeignFound,
    HoldsTaken,
    KeysDeleted,
    LeasesReleased,
    StoreEvent,
    ValueFound,
    WriterFound,
)
from sansio_cache.store_rules import LOOKED_AT_BYTES, had_value
from sansio_cache.tags import is_tag_key
from sansio_cache_redis.calls import Args, capture_calls, number, script_call, telling
from sansio_cache_redis.errors import TooLargeError
from sansio_cache_redis.primitive_scripts import CLAIM, INSPECT, LOCK, SWAP, TOUCH, UNLOCK
from sansio_cache_redis.replies import (
    ServerClock,
    captured_from,
    cell_from,
    grant_from,
    integer_from,
    statuses_from,
)

Primitive = InspectCell | ClaimCell | SwapCell | TouchCell | TakeLock | FreeLock

_LOOKED_AT: Final = number(LOOKED_AT_BYTES - 1)


def encode_primitive(command: Primitive, floor: bytes, channel_of: Callable[[str], bytes]) -> list[Args]:
    """The Redis commands of a primitive.

    Args:
        command: What is asked for.
        floor: What is too old, as an argument.
        channel_of: Gives the channel on which those are told who wait for a key.
    """
    match command:
        case InspectCell(key=key):
            return [script_call(INSPECT, key)]
        case ClaimCell(key=key, nonce=nonce, hold_ms=hold_ms, capture=capture):
            claim = script_call(CLAIM, key, nonce, number(hold_ms), command.refused, floor)
            return [*capture_calls(capture, nonce, floor), claim]
        case SwapCell(key=key, version=version, nonce=nonce, body=body):
            ttls = (number(command.hard_ttl_ms), number(command.soft_ttl_ms))
            args = (version, nonce, *ttls, body, channel_of(key), command.fill_id, floor)
            return [script_call(SWAP, key, *args)]
        case TouchCell(key=key, version=version, ttl_ms=ttl_ms, max_life_ms=max_life_ms, capture=capture):
            touch = script_call(TOUCH, key, version, number(ttl_ms), number(max_life_ms), floor)
            return [*capture_calls(capture, command.nonce, floor), touch]
        case TakeLock(key=key, nonce=nonce, lease_ms=lease_ms):
            return [script_call(LOCK, key, nonce, number(lease_ms))]
        case FreeLock(lock=lock):
            return [script_call(UNLOCK, lock.key, lock.lease_id, channel_of(lock.key))]
        case _:
            assert_never(command)


def decode_primitive(
    command: Primitive, replies: Sequence[Any], clock: ServerClock, now_s: float
) -> StoreEvent:
    """The event of a primitive: the last reply is its script's, those before are of its tags."""
    reply = replies[-1]
    if isinstance(command, InspectCell) and isinstance(reply, TooLargeError):
        return CellInspected(now_s, FOREIGN, 0, clock.now_ms(now_s) or 0)
    versions: tuple[bytes, ...] = ()
    if isinstance(command, ClaimCell | TouchCell):
        versions = captured_from(replies[:-1], command.capture, clock, now_s)
    (status,) = statuses_from((reply,), clock, now_s)
    match command:
        case InspectCell():
            cell = cell_from(reply[2], clock.floor_us) if status == 1 else (FOREIGN if status else None)
            left_ms = integer_from(reply[3]) if status == 1 and cell is not None else 0
            return CellInspected(now_s, cell, left_ms, reply[1] // 1000)
        case ClaimCell(nonce=nonce) | TakeLock(nonce=nonce):
            if status == 1:
                return HoldsTaken(now_s, (grant_from(reply[2], nonce),), versions)
            if status == 2:
                return WriterFound(now_s, integer_from(reply[2]))
            return ValueFound(now_s) if isinstance(command, ClaimCell) else ForeignFound(now_s)
        case SwapCell(nonce=nonce):
            return CellSwapped(now_s, grant_from(reply[2], nonce) if status else None)
        case TouchCell():
            return CellTouched(now_s, status == 1)
        case FreeLock():
            return LeasesReleased(now_s)
        case _:
            assert_never(command)


def encode_removal(
    command: DeleteKeys, channel_of: Callable[[str], bytes], *, one_by_one: bool = False
) -> list[Args]:
    """The Redis commands of a removal, and of the look before it.

    Args:
        command: What is asked for.
        channel_of: Gives the channel on which those are told who wait for a key.
        one_by_one: Whether each command may name one key.
    """
    keys = command.keys
    look = [(b"GETRANGE", keys[0].encode(), b"0", _LOOKED_AT)] if command.looks else []
    names = tuple(key.encode() for key in keys)
    unlinks = [(b"UNLINK", name) for name in names] if one_by_one else [(b"UNLINK", *names)]
    # Those who wait for a load that this has voided; nobody waits for a tag. Where a channel is that of many
    # keys, one message is about them all.
    watched = [key for key in keys if not is_tag_key(key)]
    return [*look, *unlinks, *telling(watched, channel_of, any_key=True)]


def removals(command: DeleteKeys, replies: Sequence[Any], *, one_by_one: bool) -> Sequence[Any]:
    """The replies to a removal: without that to the look before it, and to the message behind it."""
    first = int(command.looks)
    return replies[first : first + (len(command.keys) if one_by_one else 1)]


def removed_from(
    command: DeleteKeys, replies: Sequence[Any], now_s: float, *, one_by_one: bool = False
) -> KeysDeleted:
    """The event of a removal."""
    count = sum(map(integer_from, removals(command, replies, one_by_one=one_by_one)))
    return KeysDeleted(now_s, count, _existed(replies[0], count) if command.looks else None)


def _existed(looked: Any, count: int) -> bool | None:
    """Whether a value went, by what was there and how many keys went; None where that is unclear."""
    if count == 0:
        return False
    return had_value(parse_cell(looked)) if isinstance(looked, bytes) and looked else None
