"""Loads in steps: what a leader says on its way, and what may come of it."""

from __future__ import annotations

from sansio_cache.commands import AcquireLease, Compute, Fill, FillCells, Mode, ShareLoad
from sansio_cache.step import OVER, Loaded, Outcome, Raised, Step
from support.machines import GRANT, KEY, NONCE

SCHEMA = bytes(8)
ACCEPTED = Loaded(7, b"7", accepted=True)
REFUSED = Loaded(7, b"7", accepted=False)
RAISED = Raised(RuntimeError("database"))


def share(
    key: str = KEY,
    *,
    schema: bytes = SCHEMA,
    displaced: int | None = None,
    arrival: int = 0,
    now_s: float = 0.0,
) -> ShareLoad:
    """A request to share the load of a key."""
    return ShareLoad(key, schema, displaced, 30.0, arrival, now_s=now_s)


def acquiring(load_id: int) -> Step:
    """Its leader asks for the lease."""
    return Step(OVER, AcquireLease(KEY, NONCE, 5_000, bytes(16), Mode.KEEP, 0.1), load_id=load_id)


def computing(load_id: int) -> Step:
    """The loader begins."""
    return Step(OVER, Compute(KEY, None), load_id=load_id)


def filling(load_id: int) -> Step:
    """The value is sent to the store."""
    return Step(OVER, FillCells((Fill(KEY, GRANT, 1, 0, b""),), 0.1), load_id=load_id)


def over(load_id: int | None, outcome: Outcome, rests_until_s: float = 0.0) -> Step:
    """It has ended."""
    return Step(OVER, None, outcome, load_id=load_id, rests_until_s=rests_until_s)
