"""The store of a world: the shipped memory store, asked once for each request in each state.

A state is what the store keeps, as a value. To perform a request, it is planted into a store whose clock
stands still and whose next microsecond is chosen so that a new id is one that nobody can name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import attrs

from sansio_cache.cell import NO_GRANT, Cell, Foreign, Kind, Tag, grant_us, is_granted_to
from sansio_cache.commands import (
    AcquireLease,
    AcquireLeases,
    ClaimCell,
    FillCells,
    HoldCells,
    ReleaseLeases,
    RenewLeases,
    StoreCommand,
    SwapCell,
    TouchCell,
)
from sansio_cache.entry import MissReason, Unservable, seal, variant_key, weigh
from sansio_cache.events import CellsFilled, CellSwapped, FillResult, StoreEvent
from sansio_cache.exploring.configuration import (
    FAR_MS,
    FIRST_US,
    FORGED,
    FORGED_VERSION,
    FORGERS,
    HARD_TTL_MS,
    KEY,
    LAPSED_MS,
    LEASE_MS,
    NEAR_MS,
    NOW_MS,
    NOW_S,
    TAG,
    TAG_KEY,
    Act,
    Configuration,
    Fault,
)
from sansio_cache.exploring.invariants import Invariant
from sansio_cache.exploring.naming import FINGERPRINT, payload_of, replace, tags_of
from sansio_cache.memory_store import Kept

Stored = tuple[tuple[str, Kept], ...]
"""What a store keeps, by key."""

_SAVED: Final = "saved "
"""What the key begins with under which the snapshot of a cell is kept, beside the store's own."""
Issuing = AcquireLease | AcquireLeases | HoldCells | ClaimCell | SwapCell
"""What the store issues ids for."""


@attrs.frozen
class Ran:
    """What a request came to."""

    stored: Stored
    event: StoreEvent
    issued: tuple[bytes, ...]
    filled: tuple[bytes, ...]
    broken: tuple[Invariant, str] | None


class Served(NamedTuple):
    """What a reader would be served that began now."""

    place: int
    version: int
    is_fresh: bool
    is_tagged: bool


def perform(configuration: Configuration, stored: Stored, command: StoreCommand, label: int) -> Ran:
    """Perform a request; the first id that it issues has this label."""
    issued_us = FIRST_US + label - 1
    store = configuration.store(clock=lambda: NOW_S, issued_us=issued_us, compares=configuration.compares)
    for key, kept in stored:
        store.plant(key, kept.cell, kept.expires_ms)
    event = store.perform(command)
    after = tuple(sorted((key, _clipped(kept)) for key, kept in store.dump().items()))
    return Ran(
        after,
        event,
        issued_ids(stored, command, event),
        filled_ids(stored, command, event),
        judged_request(dict(stored), store.dump(), command),
    )


def served(stored: Stored, act: Act) -> Served | None:
    """What a reader would be served, by the rules of `tags.py` and `entry.py`.

    One who names the tag is not served more than one who does not: less, where the entry has no tag.
    """
    cells = dict(stored)
    key = act.keys[0]
    cell = _value(cells, key)
    if cell is None or not _is_believed(cell, key, act):
        return None
    variant_of = None
    if cell.body[FINGERPRINT] != act.codec.fingerprint:
        if cell.soft_ms and cell.soft_ms <= NOW_MS:
            return None
        variant_of = cell.filled_by
        cell = _value(cells, variant_key(key, act.codec.fingerprint))
        if cell is None or cell.body[FINGERPRINT] != act.codec.fingerprint:
            return None
    is_tagged = False
    for _, name, version in tags_of(cell.body):
        if name:
            is_tagged = True
            kept = cells.get(TAG_KEY)
            current: bytes | None = kept.cell.version if kept and isinstance(kept.cell, Tag) else None
            assert name == TAG
        else:
            current = variant_of
        if version != current:
            return None
    loaded = int(payload_of(cell.body).strip(b'"') or 0)  # that there is nothing is version 0
    return Served(act.places[0], loaded, not 0 < cell.soft_ms <= NOW_MS, is_tagged)


def _is_believed(cell: Cell, key: str, act: Act) -> bool:
    """Whether somebody has signed it who knows a key, where that is asked for."""
    verdict = weigh(cell, key, NOW_MS, (), act.codec.signer) if act.is_signed else None
    return not (isinstance(verdict, Unservable) and verdict.reason is MissReason.SIGNATURE)


def _value(cells: dict[str, Kept], key: str) -> Cell | None:
    kept = cells.get(key)
    if kept is None or not isinstance(kept.cell, Cell) or kept.cell.kind != Kind.VALUE:
        return None
    return kept.cell


def own(stored: Stored) -> Stored:
    """What the store holds itself: not its snapshot."""
    return tuple((key, kept) for key, kept in stored if not key.startswith(_SAVED))


def after_save(stored: Stored) -> Stored:
    """A snapshot is taken, which replaces one of before."""
    now = own(stored)
    return tuple(sorted((*now, *((f"{_SAVED}{key}", kept) for key, kept in now))))


def after_restart(configuration: Configuration, stored: Stored) -> Stored:
    """The store comes back as its snapshot has it, as far as that can be trusted; or empty, without one."""
    saved = ((key.removeprefix(_SAVED), kept) for key, kept in stored if key.startswith(_SAVED))
    return _left(configuration, saved, Fault.RESTART)


def after_promotion(configuration: Configuration, stored: Stored) -> Stored:
    """A replica takes over that has all that the store has: as far as that can be trusted."""
    return _left(configuration, own(stored), Fault.PROMOTION)


def _left(configuration: Configuration, cells: Iterable[tuple[str, Kept]], fault: Fault) -> Stored:
    """Cells without what counts as gone after a fault."""
    floor_us = configuration.floor_us(fault)
    found = ((key, configuration.trusted(kept.cell, floor_us), kept) for key, kept in cells)
    return tuple((key, replace(kept, cell=cell)) for key, cell, kept in found if cell is not None)


def is_leased(stored: Stored) -> bool:
    """Whether anybody holds a lease, or a key as a writer."""
    return any(isinstance(kept.cell, Cell) and kept.cell.grant != NO_GRANT for _, kept in own(stored))


def outlived(stored: Stored) -> bool:
    """Whether a cell expires before the lease in it does."""
    return any(
        isinstance(kept.cell, Cell) and kept.cell.lease_deadline_ms > kept.expires_ms for _, kept in stored
    )


def without(stored: Stored, gone: str) -> Stored:
    """An eviction, or a DEL by any program."""
    return tuple((key, kept) for key, kept in stored if key != gone)


def forged(stored: Stored) -> Stored:
    """Somebody who knows no key puts an entry in the place of the first one."""
    body = seal(KEY, FORGED, FORGED.encode(FORGED_VERSION).payload, 0.0, (), FORGERS, HARD_TTL_MS)
    entry = Kept(Cell(Kind.VALUE, filled_by=FORGERS, body=body), FAR_MS)
    return tuple(sorted({**dict(stored), KEY: entry}.items()))


def after_jump(stored: Stored) -> Stored:
    """The clock jumps past leases, holds and soft expiries: what has expired is gone."""
    return tuple((key, _moved(kept, FAR_MS)) for key, kept in stored if kept.expires_ms == FAR_MS)


def after_half(stored: Stored) -> Stored:
    """Half a lease passes: what had only half of one left is over."""
    return tuple((key, _moved(kept, NEAR_MS + 1)) for key, kept in stored if kept.expires_ms != NEAR_MS)


def _moved(kept: Kept, until_ms: int) -> Kept:
    """The clock moves on: what is before `until_ms` has passed, what is a lease away is half of one away."""

    def moved(time_ms: int) -> int:
        if 0 < time_ms < until_ms:
            return LAPSED_MS
        return NEAR_MS if time_ms == NOW_MS + LEASE_MS else time_ms

    cell = kept.cell
    expires_ms = moved(kept.expires_ms)
    if not isinstance(cell, Cell):
        return replace(kept, expires_ms=expires_ms)
    times = {"lease_deadline_ms": moved(cell.lease_deadline_ms), "soft_ms": moved(cell.soft_ms)}
    return Kept(replace(cell, **times), expires_ms)


def after_lapse(stored: Stored) -> Stored:
    """The deadlines of leases pass, but the cells are still there."""
    return tuple(
        (key, replace(kept, cell=replace(kept.cell, lease_deadline_ms=LAPSED_MS)))
        if isinstance(kept.cell, Cell) and kept.cell.lease_deadline_ms
        else (key, kept)
        for key, kept in stored
    )


def _clipped(kept: Kept) -> Kept:
    """The far future is one moment, as no jump of the clock ever comes near it; so is the past."""
    assert kept.expires_ms in (NEAR_MS, NOW_MS + LEASE_MS) or kept.expires_ms >= FAR_MS
    cell = kept.cell
    if isinstance(cell, Cell) and 0 < cell.soft_ms <= NOW_MS:
        cell = replace(cell, soft_ms=LAPSED_MS)
    if isinstance(cell, Cell) and cell.soft_ms > FAR_MS:
        cell = replace(cell, soft_ms=FAR_MS)
    return Kept(cell, min(kept.expires_ms, FAR_MS))


def issued_ids(before: Stored, command: StoreCommand, event: StoreEvent) -> tuple[bytes, ...]:
    """The ids that were issued, and were not there before."""
    if not isinstance(command, Issuing) or (isinstance(command, SwapCell) and command.fill_id):
        return ()
    held = frozenset(_named(before))
    if isinstance(command, SwapCell):
        held |= filled_by(before)  # which a repeated swap is told again
    ids = [getattr(event, "grant", NO_GRANT), *getattr(event, "grants", ()), *getattr(event, "versions", ())]
    ids.append(getattr(event, "version", None) or NO_GRANT)
    ids += (getattr(answer, "grant", NO_GRANT) for answer in getattr(event, "answers", ()))
    return tuple(each for each in ids if each != NO_GRANT and each not in held)


def filled_by(stored: Stored) -> frozenset[bytes]:
    """The ids of values: a swap compares them, and a retry knows its own."""
    return frozenset(kept.cell.filled_by for _, kept in stored if isinstance(kept.cell, Cell))


def _named(stored: Stored) -> list[bytes]:
    """The ids that stand in the store by their own right: not those that an entry was stored with."""
    cells = (kept.cell for _, kept in stored)
    return [
        cell.version if isinstance(cell, Tag) else cell.grant
        for cell in cells
        if not isinstance(cell, Foreign)
    ]


def filled_ids(before: Stored, command: StoreCommand, event: StoreEvent) -> tuple[bytes, ...]:
    """The grants under which something was stored; for a signed value that was swapped, the id it brought."""
    if isinstance(command, SwapCell) and isinstance(event, CellSwapped):
        is_new = event.version == command.fill_id and command.fill_id not in filled_by(before)
        return (command.fill_id,) if is_new else ()
    if not isinstance(command, FillCells) or not isinstance(event, CellsFilled):
        return ()
    pairs = zip(command.fills, event.results, strict=True)
    return tuple(fill.grant for fill, result in pairs if result is FillResult.STORED)


def judged_request(
    before: dict[str, Kept], after: dict[str, Kept], command: StoreCommand
) -> tuple[Invariant, str] | None:
    """What one request may do to cells: S2, S5, S13."""
    name = type(command).__name__
    if isinstance(command, FillCells):
        for fill in command.fills:
            old = before.get(fill.key)
            grant = old.cell.grant if old is not None and isinstance(old.cell, Cell) else None
            if old != after.get(fill.key) and grant != fill.grant:
                return Invariant.S2, "a fill changed a cell that does not hold its grant"
    if isinstance(command, TouchCell):
        old, new = before.get(command.key), after.get(command.key)
        if old != new and old is not None and isinstance(old.cell, Cell) and old.cell.kind != Kind.VALUE:
            return Invariant.BLOCKED, "a touch changed a cell without a value"
        if old != new and new is not None and new.expires_ms > _longest_ms(new.cell, command):
            return Invariant.TOO_LONG, f"until {new.expires_ms} ms"
    if isinstance(command, ReleaseLeases | RenewLeases):
        for lease in command.leases:
            old, new = before.get(lease.key), after.get(lease.key)
            if old == new:
                continue
            if (
                old is None
                or not isinstance(old.cell, Cell)
                or not is_granted_to(old.cell.grant, lease.lease_id)
            ):
                return Invariant.S5, f"a {name} changed a cell that is not its owner's"
            if isinstance(command, ReleaseLeases) and _has_lost_value(old.cell, new):
                return Invariant.S13, "a release removed a value"
    return None


def _longest_ms(cell: Any, touch: TouchCell) -> int:
    """Until when an entry may live, however often it is touched."""
    return grant_us(cell.filled_by) // 1000 + touch.max_life_ms


def _has_lost_value(before: Cell, after: Kept | None) -> bool:
    if before.kind != Kind.VALUE:
        return False
    cell: Any = None if after is None else after.cell
    return cell is None or cell.body != before.body
