"""The store of a world: the shipped memory store, asked once for each request in each state.

A state is what the store keeps, as a value. To perform a request, it is planted into a store whose clock
stands still and whose next microsecond is chosen so that a new grant is one that nobody can name.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from exploring.configuration import CODEC, FAR_MS, KEY, LAPSED_MS, LEASE_MS, NOW_MS, NOW_S, Configuration
from exploring.invariants import Invariant
from exploring.naming import FIRST_US, replace
from sansio_cache.cell import NO_GRANT, Cell, Kind, is_granted_to
from sansio_cache.commands import FillCells, ReleaseLeases, RenewLeases, StoreCommand
from sansio_cache.entry import BODY_HEADER_BYTES
from sansio_cache.events import CellsFilled, FillResult, HoldsTaken, LeaseGranted, StoreEvent
from sansio_cache.memory_store import Kept

Stored = tuple[tuple[str, Kept], ...]
"""What a store keeps, by key."""

EMPTY: Final[Stored] = ()


@attrs.frozen
class Ran:
    """What a request came to."""

    stored: Stored
    event: StoreEvent
    issued: tuple[bytes, ...]
    filled: tuple[bytes, ...]
    broken: tuple[Invariant, str] | None


def perform(configuration: Configuration, stored: Stored, command: StoreCommand, label: int) -> Ran:
    """Perform a request; a grant that it issues has this label."""
    store = configuration.store(clock=lambda: NOW_S)
    for key, kept in stored:
        store.plant(key, kept.cell, kept.expires_ms)
    store._last_us = FIRST_US + label - 1
    event = store.perform(command)
    after = tuple(sorted((key, _clipped(kept)) for key, kept in store.dump().items()))
    return Ran(
        after,
        event,
        _issued(stored, event),
        _filled(command, event),
        _judged(cell_of(stored), cell_of(after), command, event),
    )


def cell_of(stored: Stored) -> Cell | None:
    """The cell of the one key."""
    for key, kept in stored:
        if key == KEY:
            assert isinstance(kept.cell, Cell)
            return kept.cell
    return None


def version_of(stored: Stored) -> int | None:
    """The version in the cell, if it holds a value."""
    cell = cell_of(stored)
    if cell is None or cell.kind != Kind.VALUE:
        return None
    version: int = CODEC.decode(cell.body[BODY_HEADER_BYTES:])
    return version


def is_leased(stored: Stored) -> bool:
    """Whether anybody holds a lease, or the key as a writer."""
    cell = cell_of(stored)
    return cell is not None and cell.grant != NO_GRANT


def without_key(stored: Stored) -> Stored:
    """An eviction, or a DEL by any program."""
    return tuple((key, kept) for key, kept in stored if key != KEY)


def after_jump(stored: Stored) -> Stored:
    """The clock jumps past leases, holds and soft expiries: what has expired is gone."""
    return tuple((key, _lapsed(kept)) for key, kept in stored if kept.expires_ms == FAR_MS)


def _lapsed(kept: Kept) -> Kept:
    cell = kept.cell
    assert isinstance(cell, Cell)
    lease_ms = LAPSED_MS if 0 < cell.lease_deadline_ms < FAR_MS else cell.lease_deadline_ms
    return replace(
        kept, cell=replace(cell, lease_deadline_ms=lease_ms, soft_ms=LAPSED_MS if cell.soft_ms else 0)
    )


def after_lapse(stored: Stored) -> Stored:
    """The lease's deadline passes, but the cell is still there."""
    return tuple(
        (key, replace(kept, cell=replace(kept.cell, lease_deadline_ms=LAPSED_MS)))
        if isinstance(kept.cell, Cell) and kept.cell.lease_deadline_ms
        else (key, kept)
        for key, kept in stored
    )


def _clipped(kept: Kept) -> Kept:
    """The far future is one moment: no jump of the clock ever comes near it."""
    assert NOW_MS < kept.expires_ms <= NOW_MS + LEASE_MS or kept.expires_ms == FAR_MS
    return kept


def _issued(before: Stored, event: StoreEvent) -> tuple[bytes, ...]:
    grants: tuple[bytes, ...] = ()
    if isinstance(event, LeaseGranted):
        grants = (event.grant,)
    elif isinstance(event, HoldsTaken):
        grants = event.grants
    held: set[Any] = {getattr(kept.cell, "grant", None) for _, kept in before}
    return tuple(grant for grant in grants if grant not in held)


def _filled(command: StoreCommand, event: StoreEvent) -> tuple[bytes, ...]:
    if not isinstance(command, FillCells) or not isinstance(event, CellsFilled):
        return ()
    pairs = zip(command.fills, event.results, strict=True)
    return tuple(fill.grant for fill, result in pairs if result is FillResult.STORED)


def _judged(
    before: Cell | None, after: Cell | None, command: StoreCommand, event: StoreEvent
) -> tuple[Invariant, str] | None:
    """What one request may do to a cell: S2, S5, S13."""
    if before == after:
        return None
    if isinstance(command, FillCells) and (before is None or before.grant != command.fills[0].grant):
        return Invariant.S2, "a fill changed a cell that does not hold its grant"
    if isinstance(command, ReleaseLeases | RenewLeases):
        claim = command.leases[0].claim
        if before is None or not is_granted_to(before.grant, claim):
            return Invariant.S5, f"a {type(command).__name__} changed a cell that is not its claimant's"
    if isinstance(command, ReleaseLeases) and _has_lost_value(before, after):
        return Invariant.S13, "a release removed a value"
    return None


def _has_lost_value(before: Cell | None, after: Cell | None) -> bool:
    if before is None or before.kind != Kind.VALUE:
        return False
    return after is None or after.body != before.body
