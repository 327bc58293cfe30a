"""Scatter: a command about several keys, as commands to the nodes that have them; and one answer of theirs.

Each node is asked for its own keys and tags only, all at the same time. That needs no order between nodes:
every version of a tag that a read compares is read after that read has begun, every version that is stored is
captured before the loader begins, and those that are read again after a fill are read after nobody may join
the load any more. Whatever came before one of these is known to it, on whichever node it was.

No I/O here. A node that has failed is a value; what an answer without it is worth is decided by `gather`.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar, cast

from msgspec import Struct
from msgspec.structs import replace
from redis.crc import key_slot

from sansio_cache.cell import GRANT_BYTES, NONCE_BYTES, UNREACHED
from sansio_cache.commands import (
    CAPTURING,
    OF_KEYS,
    AcquireLease,
    AcquireLeases,
    Capture,
    ClaimCell,
    DeleteKeys,
    ExpireCells,
    FillCells,
    HoldCells,
    ReadCell,
    ReadCells,
    ReadTags,
    ReleaseLeases,
    RenewLeases,
    StoreCommand,
    TouchCell,
    keys_and_tags,
)
from sansio_cache.events import (
    CellsExpired,
    CellsFilled,
    CellsRead,
    FillResult,
    ForeignFound,
    HoldsTaken,
    KeysDeleted,
    LeasesAnswered,
    LeasesRenewed,
    StoreEvent,
    StoreFailed,
    TagsRead,
)
from sansio_cache_redis.topology.slots import SLOTS

T = TypeVar("T")

Captures = AcquireLease | AcquireLeases | HoldCells | ClaimCell | TouchCell


class Piece(Struct, frozen=True):
    """What one node is asked of a command.

    Attributes:
        address: The node.
        command: What it is asked.
        keys: Which keys of the command those are, by their places in it.
        tags: The same of its tags.
    """

    address: str
    command: StoreCommand
    keys: tuple[int, ...]
    tags: tuple[int, ...]


def scatter(command: StoreCommand, address_of: Callable[[str], str]) -> list[Piece]:
    """What each node is asked of a command. One piece is the command itself.

    Args:
        command: Not one about the store as a whole: no scan, and no probe.
        address_of: Gives the node that has a key.
    """
    keys, tags = keys_and_tags(command)
    found: dict[str, tuple[list[int], list[int]]] = {}
    for place, key in enumerate(keys):
        found.setdefault(address_of(key), ([], []))[0].append(place)
    for place, tag in enumerate(tags):
        found.setdefault(address_of(tag), ([], []))[1].append(place)
    if len(found) == 1:
        [address] = found
        return [Piece(address, command, tuple(range(len(keys))), tuple(range(len(tags))))]
    return [
        Piece(address, _part(command, its_keys, [tags[each] for each in its_tags]), *map(tuple, its))
        for address, its in found.items()
        for its_keys, its_tags in (its,)
    ]


def scatter_reads(command: ReadCells, owners: Sequence[str]) -> list[Piece]:
    """The same of a batch that is read without tags, by the owners of slots, in one pass.

    Args:
        command: The batch.
        owners: The node that owns each slot.
    """
    keys = command.keys
    found: dict[str, list[int]] = {}
    for place, key in enumerate(keys):
        raw = key.encode()  # as `slot_of` does: calls of it would take as long as all the rest
        address = owners[key_slot(raw) if b"{" in raw else crc_hqx(raw, 0) % SLOTS]
        places = found.get(address)
        if places is None:
            found[address] = [place]
        else:
            places.append(place)
    if len(found) == 1:
        [address] = found
        return [Piece(address, command, tuple(range(len(keys))), ())]
    return [
        Piece(
            address,
            ReadCells(tuple([keys[each] for each in its]), command.chunk, command.timeout_s),
            tuple(its),
            (),
        )
        for address, its in found.items()
    ]


def _part(command: StoreCommand, keys: Sequence[int], tags: Iterable[str]) -> StoreCommand:
    """A command about some of its keys and tags."""
    named = tuple(tags)
    if isinstance(command, ReadTags) or (not keys and isinstance(command, ReadCell | ReadCells | FillCells)):
        return ReadTags(named, command.timeout_s)
    changes: dict[str, Any] = {}
    if isinstance(command, ReadCell | ReadCells | FillCells):
        changes["tags"] = named
    elif isinstance(command, CAPTURING):
        capture = Capture(named, command.capture.ttl_ms)
        if not keys:
            return HoldCells((), command.nonce, 0, command.timeout_s, capture)
        changes["capture"] = capture
    if isinstance(command, OF_KEYS):
        changes["keys"] = tuple(command.keys[each] for each in keys)
    elif isinstance(command, AcquireLeases):
        changes["lease_requests"] = tuple(command.lease_requests[each] for each in keys)
    elif isinstance(command, FillCells):
        changes["fills"] = tuple(command.fills[each] for each in keys)
    elif isinstance(command, RenewLeases | ReleaseLeases):
        changes["leases"] = tuple(command.leases[each] for each in keys)
    return replace(command, **changes)


_SPLIT: Final = (
    ReadCells,
    AcquireLeases,
    FillCells,
    HoldCells,
    RenewLeases,
    ReleaseLeases,
    ExpireCells,
    DeleteKeys,
)
"""What is worth something without some of the nodes. All others are about one key, or about tags alone."""


def gather(command: StoreCommand, pieces: Sequence[Piece], events: Sequence[StoreEvent]) -> StoreEvent:
    """The answer to a command, from those to its pieces.

    Nothing is known where all nodes have failed, or one that has a tag: every key depends on all tags.
    """
    failures = tuple(event for event in events if isinstance(event, StoreFailed))
    if type(command) is ReadCells and not (failures or command.tags):  # nearly always
        read = _placed(
            len(command.keys),
            [(piece.keys, event.stored) for piece, event in zip(pieces, cast("Any", events), strict=True)],
        )
        return CellsRead(max(event.now_s for event in events), read, _latest(events), ())
    if failures:
        lost = [piece for piece, event in zip(pieces, events, strict=True) if isinstance(event, StoreFailed)]
        is_worthless = len(failures) == len(events) or any(piece.tags for piece in lost)
        if is_worthless or not isinstance(command, _SPLIT):
            return failures[0]
    keys, tags = keys_and_tags(command)
    both = [
        (piece, event)
        for piece, event in zip(pieces, events, strict=True)
        if not isinstance(event, StoreFailed)
    ]
    # An answer that makes no use of versions has none.
    versions = _placed(len(tags), ((piece.tags, getattr(event, "versions", ())) for piece, event in both))
    answered = [(piece.keys, cast("Any", event)) for piece, event in both if piece.keys]
    now_s = max(event.now_s for event in events)
    reached = frozenset(place for places, _ in answered for place in places)
    missed = tuple(place for place in range(len(keys)) if place not in reached) if failures else ()

    def each(name: str, otherwise: Any = None) -> tuple[Any, ...]:
        return _placed(len(keys), ((places, getattr(event, name)) for places, event in answered), otherwise)

    if isinstance(command, ReadTags):
        return TagsRead(now_s, versions, _latest(events))
    if isinstance(command, ReadCells):
        server_ms = _latest(event for _, event in answered)
        return CellsRead(now_s, each("stored", UNREACHED), server_ms, versions, failures)
    if isinstance(command, AcquireLeases):
        return LeasesAnswered(now_s, each("answers", ForeignFound(now_s)), versions, failures)
    if isinstance(command, FillCells):
        return CellsFilled(now_s, each("results", FillResult.UNKNOWN), versions, failures)
    if isinstance(command, RenewLeases):
        return LeasesRenewed(now_s, each("renewed", otherwise=True))  # as far as is known
    if isinstance(command, HoldCells):
        # No store has issued this at any time.
        none = command.nonce + bytes(GRANT_BYTES - NONCE_BYTES)
        return HoldsTaken(now_s, each("grants", none), versions, missed, failures)
    left = tuple(keys[place] for place in missed)
    if isinstance(command, ExpireCells):
        return CellsExpired(now_s, sum(event.count for _, event in answered), left, failures)
    if isinstance(command, DeleteKeys):
        return KeysDeleted(now_s, sum(event.count for _, event in answered), None, left, failures)
    _, only = answered[0]  # of one key; or what all have answered alike
    changes: dict[str, Any] = {"now_s": now_s}
    if hasattr(only, "versions"):
        changes["versions"] = versions
    answer: StoreEvent = replace(only, **changes)
    return answer


def _placed(
    count: int, some: Iterable[tuple[Sequence[int], Sequence[T]]], otherwise: Any = None
) -> tuple[T, ...]:
    """What came in pieces, each in its place."""
    found: list[Any] = [otherwise] * count
    for places, values in some:
        for place, value in zip(places, values, strict=bool(values)):
            found[place] = value
    return tuple(found)


def _latest(events: Iterable[Any]) -> int | None:
    """The latest of the nodes' clocks, in milliseconds: by none of them is a value fresh that is stale."""
    times = [event.server_ms for event in events]
    return None if None in times else max(times, default=None)
