"""Refresh: load a value anew in the background, while readers are served the one that is there.

    RefreshSharing   --this process refreshes it already--> done
       | lead
    RefreshAcquiring --somebody else does, or has--> done
       | granted: the value stays readable
    LoadComputing, LoadFilling, LoadReleasing: see `loading.py`

A reader that finds a value stale, or soon to be, has its answer at once and spawns this. The lease sees to it
that of all processes exactly one refreshes, and single flight that of all readers in a process one asks for
the lease. Nobody waits here: whoever is not the one ends at once. So that not every reader asks again while
another process is at it, or while the loader fails, the load rests for some time (`Step.rests_until_s`).

Refreshes are loads of their own: a caller that finds nothing to serve does not wait for one, but for its
fill.
"""

from __future__ import annotations

from typing import assert_never

from msgspec import Struct

from sansio_cache.budget import Budget
from sansio_cache.cell import Cell
from sansio_cache.commands import Mode, ShareLoad
from sansio_cache.entry import Servable, Unservable, examine
from sansio_cache.events import (
    AcquireAnswer,
    Event,
    ForeignFound,
    FreshFound,
    Interrupted,
    LeaseDenied,
    LeaseGranted,
    LoadErrorShared,
    LoadLed,
    LoadNotShared,
    LoadShared,
    ShareAnswer,
    SharingTimedOut,
    StoreFailed,
    WriterFound,
)
from sansio_cache.notices import Notice, RefreshStarted
from sansio_cache.operations.loading import Finding, LoadRequest, compute, release
from sansio_cache.step import Abandoned, AsksStore, Completed, Step, ended, evolve, gave_up, unexpected
from sansio_cache.tags import Versions


def refresh(request: LoadRequest, found: Servable, now_s: float) -> Step:
    """Begin to refresh the value that a reader has found. It keeps its tags, whether he names them or not."""
    tags = request.tags_with_those_of(found.cell)
    schema = request.codec.fingerprint + b"refresh"
    state = RefreshSharing(evolve(request, in_background=True, tags=tags), found)
    return Step(state, ShareLoad(request.key, schema, None, 0.0, now_s=now_s))


class RefreshSharing(Struct, frozen=True):
    """Waits to hear whether this process refreshes the key already.

    Next: RefreshAcquiring | done
    """

    request: LoadRequest
    found: Servable

    def receive(self, event: Event) -> Step:
        """Ask for the lease, or leave it to whoever is at it."""
        if not isinstance(event, ShareAnswer):
            raise unexpected(self, event)
        match event:
            case LoadLed(now_s=now_s, load_id=load_id):
                budget = self.request.budget(now_s)
                return RefreshAcquiring(self.request, load_id, self.found, budget).ask()
            case LoadShared() | LoadErrorShared() | LoadNotShared() | SharingTimedOut():
                return ended(Completed())
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


class RefreshAcquiring(AsksStore, Struct, frozen=True):
    """Waits for the lease; the value stays readable.

    Next: RefreshAcquiring | LoadComputing | LoadReleasing | done
    """

    request: LoadRequest
    load_id: int
    found: Servable
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        seen = self.found.cell.filled_by
        command = self.request.acquire(seen, Mode.KEEP, self.budget.timeout_s)
        return Step(self, command, notices=notices, load_id=self.load_id)

    def receive(self, event: Event) -> Step:
        """Load, or leave it to whoever is at it."""
        if not isinstance(event, AcquireAnswer):
            raise unexpected(self, event)
        request, load_id = self.request, self.load_id
        match event:
            case LeaseGranted(now_s=now_s, grant=grant, stale=stale, server_ms=server_ms, versions=versions):
                is_early = server_ms < self.found.cell.soft_ms
                started = RefreshStarted(request.name, is_early)
                captured = request.versions(versions)
                finding = Finding(previous=self._still_there(stale, captured, server_ms))
                is_empty = stale is None
                return compute(request, load_id, grant, captured, finding, now_s, started, is_empty=is_empty)
            case LeaseDenied(now_s=now_s, left_ms=left_ms):
                rest_s = min(left_ms / 1000, request.policy.retry_after_s)
                return evolve(ended(Completed(), load_id=load_id), rests_until_s=now_s + rest_s)
            case FreshFound() | WriterFound() | ForeignFound():
                return ended(Completed(), load_id=load_id)
            case StoreFailed():
                return self.retry(event) or ended(Completed(), *gave_up(event), load_id=load_id)
            case Interrupted(now_s=now_s):
                return release(request, load_id, request.nonce, Abandoned(), now_s)
            case _:
                assert_never(event)

    def _still_there(self, cell: Cell | None, captured: Versions, server_ms: int) -> Cell | None:
        """What the loader is told that it replaces: nothing that was invalidated since it was read (S1)."""
        request = self.request
        if cell is None or cell.filled_by != self.found.cell.filled_by:
            return None
        verdict = examine(cell, request.key, request.codec, server_ms, captured)
        return None if isinstance(verdict, Unservable) else cell
