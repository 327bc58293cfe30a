"""Triage: what an answer means for each key of a batch. `load_many.py` asks, and acts on it.

Functions of what is known, without states: a cell, a lease's answer or a loaded value comes in for each key,
and the keys come out in groups, with the values that are there and the notices that are due.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never

from msgspec import Struct
from msgspec.structs import replace

from sansio_cache.cell import NO_GRANT, Cell, Foreign, Kind
from sansio_cache.commands import Fill, Lease, Mode
from sansio_cache.entry import (
    MissReason,
    Servable,
    Unchecked,
    Unservable,
    Verdict,
    examine,
    is_fresh,
    seal,
    tags_of,
)
from sansio_cache.errors import SerializationError
from sansio_cache.events import (
    AcquireReply,
    ForeignFound,
    FreshFound,
    LeaseDenied,
    LeaseGranted,
    WriterFound,
)
from sansio_cache.loader import has_life, is_nothing
from sansio_cache.notices import Hit, Loaded, Missed, Notice, Outlived, Unasked, VariantStored
from sansio_cache.operations.batch import Batch, Fills, Want, Wants, held
from sansio_cache.operations.filling import encoded, unstorable
from sansio_cache.operations.loading import MOST_REFUSALS
from sansio_cache.operations.renewal import unrenewed_ms
from sansio_cache.step import Missing, Raised, Value
from sansio_cache.tags import Versions


class Cells(Struct, frozen=True):
    """What a read came to."""

    batch: Batch
    """The batch with the values that are there."""
    ready: Wants
    """Keys whose leases are to be asked for."""
    alone: Wants
    """Keys to be loaded without the store."""
    others: Wants
    """Keys of entries of another program version: their variants are to be read."""
    notices: tuple[Notice, ...]


def _is_tied_alike(batch: Batch, other: Cell) -> bool:
    """Whether the variant of another version's entry would have all of its tags.

    `get_or_load` ties it to those, too; a batch, whose keys all have the same, loads such a key by itself.
    """
    return set(batch.request.each.tags).issuperset(tags_of(other))


def triage_cells(
    batch: Batch,
    wants: Wants,
    cells: tuple[Cell | Foreign | None, ...],
    verdicts: tuple[Verdict, ...],
    server_ms: int | None,
    now_s: float,
) -> Cells:
    """Part keys by what their cells are worth."""
    each = batch.request.each
    values: dict[int, Value | Missing] = {}
    notices: list[Notice] = []
    ready: list[Want] = []
    alone: list[Want] = []
    others: list[Want] = []

    def missed(
        want: Want, reason: MissReason, seen: bytes = NO_GRANT, mode: Mode = Mode.KEEP, doubted: str = ""
    ) -> Want:
        if not want.counted:
            notices.append(Missed(batch.name(want), reason, doubted))
        return replace(want, seen=seen, mode=mode, counted=True)

    for want, cell, verdict in zip(wants, cells, verdicts, strict=True):
        if type(verdict) is Servable and verdict.fresh:  # nearly always
            values[want.place] = Missing() if verdict.is_absent else Value(verdict.value)
            if not want.counted:
                notices.append(Hit(batch.name(want)))
            if batch.turns:
                notices += batch.as_waited(want, now_s)
            continue
        match verdict:
            case Servable() as stale if each.may_serve(stale, server_ms):
                ready.append(replace(want, stale=stale))
            case Servable():
                ready.append(missed(want, MissReason.EXPIRED))
            case Unservable(reason=(MissReason.FOREIGN | MissReason.STORE_ERROR) as reason):
                alone.append(missed(want, reason))
            case Unservable(reason=MissReason.SCHEMA, seen=seen) if (
                not want.variant_of and isinstance(cell, Cell) and is_fresh(cell, server_ms)
            ):
                if _is_tied_alike(batch, cell):
                    others.append(replace(want, variant_of=seen))
                else:
                    alone.append(missed(want, MissReason.SCHEMA))
            case Unservable(reason=reason, seen=seen) | Unchecked(reason=reason, seen=seen):
                mode = Mode.KEEP if seen == NO_GRANT else Mode.DROP
                reason = MissReason.SCHEMA if want.variant_of else reason
                doubted = seen.hex() if reason is MissReason.KEY_CHECK else ""
                ready.append(missed(want, reason, seen, mode, doubted))
            case _:
                assert_never(verdict)
    return Cells(batch.with_values(values), tuple(ready), tuple(alone), tuple(others), tuple(notices))


class Answers(Struct, frozen=True):
    """What lease requests came to."""

    batch: Batch
    """The batch with the values that are there, and with the keys that others load."""
    granted: Wants
    """Keys to be loaded and stored."""
    alone: Wants
    """Keys to be loaded without the store."""
    again: Wants
    """Keys whose leases are to be asked for once more."""
    notices: tuple[Notice, ...]


def triage_answers(
    batch: Batch, wants: Wants, answers: tuple[AcquireReply, ...], versions: Versions, now_s: float
) -> Answers:
    """Part keys by what their lease requests were answered.

    `versions` are those of the tags that are named.
    """
    values: dict[int, Value | Missing] = {}
    notices: list[Notice] = []
    granted: list[Want] = []
    alone: list[Want] = []
    again: list[Want] = []
    waiting, left_ms = list(batch.waiting), batch.left_ms
    for want, answer in zip(wants, answers, strict=True):
        match answer:
            case LeaseGranted(grant=grant):
                kept = _with_stale(batch, want, answer.stale, answer.server_ms, versions)
                granted.append(replace(kept, grant=grant, replaces=answer.stale is not None))
                if want.variant_of:
                    notices.append(VariantStored(batch.name(want)))
            case LeaseDenied():
                kept = _with_stale(batch, want, answer.stale, answer.server_ms, versions)
                if kept.stale is not None and batch.request.each.policy.is_stale_served_at_once:
                    values[want.place] = Value(kept.stale.value)
                    notices += (*batch.as_stale(want), *batch.as_waited(want, now_s))
                else:
                    left_ms = min(left_ms, answer.left_ms) if waiting else answer.left_ms
                    waiting.append(kept)
            case FreshFound(cell=cell):
                verdict = _examine(batch, want, cell, answer.server_ms, versions)
                match verdict:
                    case Servable(value=value, is_absent=is_absent):
                        values[want.place] = Missing() if is_absent else Value(value)
                        notices += (*batch.as_miss(want), *batch.as_waited(want, now_s))
                    case Unchecked():  # it is read again, with its tags
                        waiting.append(want)
                    case Unservable(reason=MissReason.SCHEMA, seen=seen) if not want.variant_of:
                        if _is_tied_alike(batch, cell):
                            again.append(replace(want, variant_of=seen, seen=NO_GRANT, mode=Mode.KEEP))
                        else:
                            alone.append(want)
                    case Unservable(seen=seen) if want.refusals < MOST_REFUSALS:
                        refusals = want.refusals + 1
                        again.append(replace(want, seen=seen, mode=Mode.DROP, refusals=refusals))
                    case Unservable():
                        alone.append(want)
                    case _:
                        assert_never(verdict)
            case WriterFound() | ForeignFound():
                alone.append(want)
            case _:
                assert_never(answer)
    batch = replace(batch.with_values(values), waiting=tuple(waiting), left_ms=left_ms)
    return Answers(batch, tuple(granted), tuple(alone), tuple(again), tuple(notices))


def _examine(batch: Batch, want: Want, cell: Cell, server_ms: int, versions: Versions) -> Verdict:
    return examine(cell, batch.key(want), batch.request.each.codec, server_ms, want.tied(versions))


def _with_stale(batch: Batch, want: Want, stale: Cell | None, server_ms: int, versions: Versions) -> Want:
    """A key with the value that is in the way of its lease, where that may be served."""
    if stale is None:  # it has been invalidated, or its life is over
        return want if want.stale is None else replace(want, stale=None)
    verdict = _examine(batch, want, stale, server_ms, versions)
    match verdict:
        case Servable() if batch.request.each.may_serve(verdict, server_ms):
            return replace(want, stale=verdict)
        case Unchecked():  # what was read before has been checked
            return want
    return replace(want, stale=None)


class Values(Struct, frozen=True):
    """What a loader's mapping came to."""

    fills: Fills
    """What is to be stored, of the batch with the values."""
    notices: tuple[Notice, ...]


def triage_values(
    batch: Batch, wants: Wants, versions: Versions, given: Mapping[Any, Any], took_s: float
) -> Values:
    """Part keys by what the loader gave for them; `versions` are those of the tags before the load."""
    request = batch.request
    values: dict[int, Value | Missing] = {}
    notices: list[Notice] = []
    fills: list[Fill] = []
    unfilled: list[Lease] = []
    gone: list[str] = []
    refused: SerializationError | None = None
    asked = 0
    lease_ms = unrenewed_ms(request.each.policy.lease_ms, took_s)
    for want in wants:
        if not want.counted:
            notices += batch.as_miss(want)
        name = request.names[want.place]
        value, payload, is_storable = None, None, False
        if name in given:
            asked += 1
            notices.append(Loaded(request.keys[want.place], want.grant is not None, took_s))
            value, payload, refusal = encoded(request.each.codec, given[name])
            is_storable = refusal is None
            if refusal is not None:
                notices.append(unstorable(batch.name(want), value, refusal))
                refused = refused or (refusal.of(batch.name(want)) if request.each.codec.raises else None)
        is_value = name in given and not is_nothing(given[name])
        values[want.place] = Value(value) if is_value else Missing()
        if want.grant is None:
            continue
        key = batch.key(want)
        lives = has_life(given.get(name))
        if is_storable and not lives:
            notices.append(Outlived(batch.name(want)))
        if is_storable and not lives and want.replaces:
            gone.append(key)
        elif is_storable and lives:
            ttls_ms = request.each.expiry_ms(given[name], want.place)
            tied = want.tied(versions)
            body = seal(key, request.each.codec, payload, took_s, tied, want.grant, ttls_ms[0])
            left_ms = 0 if want.replaces else lease_ms
            fills.append(Fill(key, want.grant, *ttls_ms, body, Kind.EMPTY, left_ms))
        else:
            unfilled.append(Lease(key, want.grant))
    if len(given) > asked:
        notices.append(Unasked(len(given) - asked))
    found = batch.with_values(values)
    if refused is not None:
        return Values(Fills(found, (), held(batch, wants), (), Raised(refused)), tuple(notices))
    return Values(Fills(found, tuple(fills), tuple(unfilled), tuple(gone)), tuple(notices))
