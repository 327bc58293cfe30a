"""Totality: every state answers every event with a step, or refuses it by design; and B4.

All states that the machines can reach with a set of representative events are explored breadth first.
Counters that only grow (pauses taken, keys deleted) are capped, so that the exploration closes; each event
comes in early and late, so that budgets, waits and leases run out as well as last.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import deque
from functools import cache
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sansio_cache import commands, events, notices, operations
from sansio_cache import step as steps
from sansio_cache.budget import StoreTimeouts
from sansio_cache.cell import FOREIGN, make_grant
from sansio_cache.codec import codec_for
from sansio_cache.commands import Lease, Renewal
from sansio_cache.entry import MissReason, Servable, variant_key
from sansio_cache.errors import ProtocolError
from sansio_cache.events import (
    Appended,
    CellInspected,
    CellRead,
    CellsExpired,
    CellsFilled,
    CellsRead,
    CellSwapped,
    CellTouched,
    Computed,
    ComputeFailed,
    EntriesAppended,
    EntriesFound,
    EntriesSettled,
    EntriesTaken,
    FailureKind,
    FillResult,
    ForeignFound,
    FreshFound,
    HoldsTaken,
    Interrupted,
    KeysDeleted,
    KeysFound,
    LeaseDenied,
    LeaseGranted,
    LeasesAnswered,
    LeasesReleased,
    LeasesRenewed,
    LoadErrorShared,
    LoadLed,
    LoadNotShared,
    LoadShared,
    Ponged,
    QueueAttended,
    QueueMeasured,
    SharingTimedOut,
    StoreFailed,
    TagsRead,
    ValueFound,
    Woke,
    WriterFound,
)
from sansio_cache.keys import KeyBuilder
from sansio_cache.loader import Absent, Fresh
from sansio_cache.notices import OperationName
from sansio_cache.operations.add import AddRequest, add
from sansio_cache.operations.batch import LoadManyRequest
from sansio_cache.operations.batching import Failing, Holding
from sansio_cache.operations.consume import Consumer, ConsumeRequest, consume
from sansio_cache.operations.delete_pattern import PatternRequest, delete_pattern
from sansio_cache.operations.enqueue import EnqueueRequest, QueuedItem, ReplayRequest, enqueue, replay
from sansio_cache.operations.get import ReadRequest, get
from sansio_cache.operations.get_many import ReadManyRequest, get_many
from sansio_cache.operations.get_or_load import get_or_load
from sansio_cache.operations.invalidate import InvalidateRequest, invalidate, void
from sansio_cache.operations.load_many import load_many
from sansio_cache.operations.lock import LockRequest, free, keep, take
from sansio_cache.operations.lookup import Longer, LookRequest, look
from sansio_cache.operations.mutate import EndRequest, MutateRequest, begin, end
from sansio_cache.operations.queue import AgreeRequest, agree, ask
from sansio_cache.operations.readiness import ReadinessPinging, wait_ready
from sansio_cache.operations.recovery import RecoveryRequest, recover, rest, tell
from sansio_cache.operations.refresh import refresh
from sansio_cache.operations.renewal import renew
from sansio_cache.operations.scan import nothing_found, scan
from sansio_cache.operations.second_look import Doubt, look_again
from sansio_cache.operations.set_many import Item, SetRequest, set_many
from sansio_cache.operations.swap import SwapRequest, swap
from sansio_cache.operations.update import UpdateRequest, update
from sansio_cache.operations.watching import WatchAsking, watch
from sansio_cache.queues import QueueEntry, TurnEnd, root_of
from sansio_cache.step import OVER, ManyHeld, Step
from support.machines import (
    GRANT,
    INTS,
    KEY,
    NONCE,
    SIGNED,
    TEXTS,
    THEIRS,
    TIMEOUTS,
    absent_cell,
    load_request,
    value_cell,
)

OTHER = "shop:user:2"
KEYS = ("shop:a", "shop:b", "shop:c")
ITEMS = tuple(Item(key, INTS, b"7", 60_000, 0) for key in KEYS)
ERROR = RuntimeError("database")
TAGS, TAG_KEYS = ("t:a",), ("shop:%t:a",)
V1, V2 = make_grant(b"tag-----", 1), make_grant(b"tag-----", 2)
FRESH, STALE = value_cell(7), value_cell(6, soft_ms=1)
TEXT = value_cell("a", codec=TEXTS)
TAGGED, STALE_TAGGED = (value_cell(7, versions=(("t:a", V1),), soft_ms=soft_ms) for soft_ms in (0, 1))
VARIANT = value_cell(7, variant_key(KEY, INTS.fingerprint), versions=(("", THEIRS),))
FOUND = Servable(6, False, STALE)
AT_ONCE = {"stale_for_s": 60}
WAITING = {"stale_for_s": 60, "on_wait_timeout": "stale"}
RAISING = {"on_wait_timeout": "raise", "on_read_error": "raise"}


def many(keys=(KEY, OTHER), chunk=2, **changes):
    """A get-or-load of many keys."""
    names = tuple(key.removeprefix("shop:") for key in keys)
    return LoadManyRequest(keys, names, chunk, load_request(**changes))


def beginnings():
    """The first step of every machine, made anew each time (B4)."""
    yield get(ReadRequest(KEY, INTS, TIMEOUTS, 0.0))
    yield get(ReadRequest(KEY, INTS, TIMEOUTS, 0.0, raises=True))
    yield get(ReadRequest(KEY, INTS, TIMEOUTS, 0.0), skip=MissReason.DISABLED)
    yield get_many(ReadManyRequest((KEY, OTHER), INTS, 2, TIMEOUTS, 0.0))
    yield get_many(ReadManyRequest((KEY, OTHER), INTS, 2, TIMEOUTS, 0.0, raises=True))
    yield get_or_load(load_request())
    yield get_or_load(load_request(**AT_ONCE, refresh_at=0.5))
    yield get_or_load(load_request(**WAITING))
    yield get_or_load(load_request(**RAISING))
    yield get_or_load(load_request(tags=TAGS))
    yield get_or_load(load_request(), skip=MissReason.STORE_ERROR)
    yield get_or_load(load_request(**RAISING), skip=MissReason.STORE_ERROR)
    yield get_or_load(load_request(), skip=MissReason.DISABLED)
    yield refresh(load_request(**AT_ONCE), FOUND, 0.0)
    yield load_many(many())
    yield load_many(many((KEY,), **WAITING))
    yield load_many(many((KEY,), **AT_ONCE, tags=TAGS))
    yield load_many(many((KEY,), **RAISING))
    yield load_many(many(chunk=1), skip=MissReason.BYPASSED)
    yield set_many(SetRequest(OperationName.SET, ITEMS, NONCE, 5_000, 2, TIMEOUTS, 0.0))
    yield set_many(SetRequest(OperationName.SET, ITEMS, NONCE, 5_000, 2, TIMEOUTS, 0.0, TAGS))
    yield invalidate(InvalidateRequest(OperationName.INVALIDATE, KEYS, 2, TIMEOUTS, 0.0))
    yield invalidate(InvalidateRequest(OperationName.EXPIRE, KEYS, 2, TIMEOUTS, 0.0, soft=True))
    yield void(KEYS, TIMEOUTS, 0.0)
    yield begin(MutateRequest(KEYS[:2], NONCE, 5_000, 60.0, TIMEOUTS, 0.0))
    yield end(EndRequest(KEYS[:2], (GRANT, GRANT), ITEMS[:1], TIMEOUTS, 0.0, TAG_KEYS))
    yield delete_pattern(PatternRequest(KeyBuilder("shop"), "shop:*", 500, TIMEOUTS, 0.0))
    yield recover(RecoveryRequest("", KEYS, TIMEOUTS), 0.05)
    yield rest(2.0)
    yield tell(RecoveryRequest("", KEYS[:1], TIMEOUTS), 0.0)
    yield watch(("",), 0.25, 0.1)
    yield set_many(
        SetRequest(OperationName.SET, ITEMS, NONCE, 5_000, 2, TIMEOUTS, 0.0), skip=MissReason.STORE_ERROR
    )
    yield end(EndRequest(KEYS[:2], None, ITEMS[:1], TIMEOUTS, 0.0, TAG_KEYS), skip=MissReason.STORE_ERROR)
    yield look_again(Doubt(KEY, THEIRS.hex()), 0.25)
    yield wait_ready(5.0, 0.0)
    yield from primitives()
    yield from queues()
    yield renew(Renewal((Lease("shop:a", GRANT), Lease("shop:b", GRANT)), 5_000, 60.0, 0.1, 5 / 3))


def primitives():
    """The first steps of those that concern one entry, or a lock."""
    longer = Longer(1_000, 60_000, NONCE)
    for codec in (INTS, None):
        for raises in (False, True):
            look_up = LookRequest(KEY, codec, TIMEOUTS, 0.0, raises=raises, longer=longer if raises else None)
            yield look(look_up)
            yield look(look_up, skip=MissReason.STORE_ERROR)
    yield invalidate(InvalidateRequest(OperationName.INVALIDATE, (KEY,), 2, TIMEOUTS, 0.0, looks=True))
    item = Item(KEY, INTS, b"7", 60_000, 0)
    for tags in ((), TAGS):
        yield add(AddRequest(item, NONCE, 1, 5_000, 30.0, TIMEOUTS, 0.0, tags))
    for amount in (None, 1):
        yield update(UpdateRequest(KEY, INTS, 0, 0, NONCE, 1, 30.0, TIMEOUTS, 0.0, amount))
    yield update(UpdateRequest(KEY, TEXTS, 0, 0, NONCE, 1, 30.0, TIMEOUTS, 0.0, 1))
    yield swap(SwapRequest(item, V1, NONCE, TIMEOUTS, 0.0))
    signed = Item(KEY, SIGNED, b"7", 60_000, 0)
    yield add(AddRequest(signed, NONCE, 1, 5_000, 30.0, TIMEOUTS, 0.0))
    yield swap(SwapRequest(signed, THEIRS, NONCE, TIMEOUTS, 0.0))
    yield update(UpdateRequest(KEY, SIGNED, 0, 0, NONCE, 1, 30.0, TIMEOUTS, 0.0, 1))
    for skip in (MissReason.STORE_ERROR, MissReason.BYPASSED):
        yield add(AddRequest(item, NONCE, 1, 5_000, 30.0, TIMEOUTS, 0.0), skip=skip)
        yield swap(SwapRequest(item, V1, NONCE, TIMEOUTS, 0.0), skip=skip)
        yield update(UpdateRequest(KEY, INTS, 0, 0, NONCE, 1, 30.0, TIMEOUTS, 0.0, 1), skip=skip)
        yield take(LockRequest("shop:%l:a", NONCE, 1, 5_000, 30.0, TIMEOUTS, 0.0), skip=skip)
    yield take(LockRequest("shop:%l:a", NONCE, 1, 5_000, 30.0, TIMEOUTS, 0.0))
    yield keep(Lease("shop:%l:a", GRANT), 5_000, TIMEOUTS, 0.0)
    yield free(Lease("shop:%l:a", GRANT), TIMEOUTS, 0.0)
    yield scan(PatternRequest(KeyBuilder("shop"), "shop:*", 500, TIMEOUTS, 0.0), 0)
    yield nothing_found()


ROOT = root_of("shop:", "orders", 0)
BODY, BODY_3 = value_cell(7).body, value_cell(7, "shop:user:3").body


def queues():
    """The first steps of those that concern a queue."""
    for count in (1, 2):
        items = tuple(QueuedItem(key, BODY) for key in KEYS[:count])
        request = EnqueueRequest(ROOT, items, TAG_KEYS, NONCE, 1, 5_000, 9, 1, 30.0, TIMEOUTS, 0.0)
        yield enqueue(request)
    yield enqueue(request, skip=MissReason.STORE_ERROR)
    yield replay(ReplayRequest(ROOT, 1, KEY, TAG_KEYS, NONCE, TIMEOUTS, 0.0))
    yield ask(commands.PeekEntries(ROOT, (KEY,), 1.0), TIMEOUTS, 0.0)
    yield ask(commands.ReadLetters(ROOT, 0, 9, 1.0), TIMEOUTS, 0.0)
    yield ask(commands.DropLetters(ROOT, (1,), 1.0), TIMEOUTS, 0.0)
    yield agree(AgreeRequest("shop:", "orders", 2, TIMEOUTS, 0.0))
    failing = Failing(2, 0.1, 0.1)
    request = ConsumeRequest(
        "shop:", "orders", 1, INTS, NONCE, 1, 5_000, 9, 10**6, 0.2, failing, StoreTimeouts(attempts=2), 0.0
    )
    yield consume(request)
    too_many = Holding(0, GRANT), Holding(1, GRANT)
    yield Consumer(request, too_many, attends_s=50.0).go_on(0.0)


def entries_at(now_s):
    """What may be answered about a queue."""
    entry = QueueEntry(5, KEY, BODY, TAG_KEYS, 1)
    yield EntriesAppended(now_s, ())
    yield from (EntriesAppended(now_s, (token,)) for token in (5, 0, -1))
    yield from (EntriesAppended(now_s, tokens) for tokens in ((5, 6), (5, 0), (0, 0)))
    yield from (EntriesAppended(now_s, (), 2, how) for how in (Appended.FULL, Appended.PARTED))
    yield from (EntriesFound(now_s, (found,)) for found in (None, entry))
    unreadable = QueueEntry(6, OTHER, b"?", (), 1)
    for entries in (
        (),
        (entry,),
        (unreadable,),
        (QueueEntry(9, KEY, BODY, (), 9),),  # it has ended consumers
        (entry, QueueEntry(7, OTHER, BODY), QueueEntry(8, KEY, BODY)),
    ):
        yield EntriesTaken(now_s, entries, 3)
    yield EntriesTaken(now_s, (), is_ours=False)
    yield from (EntriesSettled(now_s, is_ours) for is_ours in (True, False))
    yield from (QueueAttended(now_s, members) for members in (0, 2))
    yield from (QueueMeasured(now_s, backlog, 0, 0, 2, 1) for backlog in (0, 1))
    yield from (QueueMeasured(now_s, backlog, 0, 0, 3, 1) for backlog in (0, 1))
    yield from (Computed(now_s, TurnEnd({KEY: 9}, is_over=is_over)) for is_over in (False, True))


def replies_at(now_s, versions=()):
    """What one lease request may be answered."""
    yield from (LeaseGranted(now_s, GRANT, stale, 1_000, versions) for stale in (None, STALE, TEXT))
    yield from (LeaseDenied(now_s, 50, stale, 1_000, versions) for stale in (None, STALE, TEXT))
    yield from (FreshFound(now_s, cell, 1_000, versions) for cell in (FRESH, TEXT, TAGGED, VARIANT))
    yield WriterFound(now_s, 50)
    yield ForeignFound(now_s)


def events_at(now_s):
    """One event or more of every class."""
    stored, refused = FillResult.STORED, FillResult.REFUSED
    cells = (None, FOREIGN, FRESH, STALE, TEXT, TAGGED, STALE_TAGGED, VARIANT, absent_cell())
    yield from (CellRead(now_s, cell, 1_000) for cell in cells)
    yield from (CellRead(now_s, cell, 1_000, (V1,)) for cell in (None, TAGGED))
    yield CellsRead(now_s, (), None)
    yield from (CellsRead(now_s, (cell,), 1_000) for cell in cells)
    yield from (CellsRead(now_s, (cell,), 1_000, (V1,)) for cell in (None, TAGGED))
    yield from (CellsRead(now_s, (cell, None), 1_000) for cell in (STALE, TEXT, TAGGED))
    yield from (TagsRead(now_s, versions, 1_000) for versions in ((), (V1,), (V2,)))
    yield from replies_at(now_s)
    yield from (LeaseGranted(now_s, GRANT, None, 1_000, (V1,)), LeaseDenied(now_s, 50, STALE, 1_000, (V1,)))
    replies = tuple(replies_at(now_s))
    yield LeasesAnswered(now_s, ())
    yield from (LeasesAnswered(now_s, (reply,), versions) for reply in replies for versions in ((), (V1,)))
    yield from (LeasesAnswered(now_s, pair) for pair in ((replies[0],) * 2, (replies[1], replies[4])))
    yield from (CellsFilled(now_s, results) for results in ((), (stored,), (refused,), (stored, refused)))
    yield from (CellsFilled(now_s, (stored,), (version,)) for version in (V1, V2))
    yield from (LeasesRenewed(now_s, renewed) for renewed in ((True,), (False,), (True, False), (False,) * 2))
    yield LeasesReleased(now_s)
    yield from (HoldsTaken(now_s, (GRANT,) * count, ()) for count in (0, 1, 2))
    yield from (HoldsTaken(now_s, (GRANT,) * count, (V1,)) for count in (1, 2))
    yield CellsExpired(now_s, 1)
    inspected = (*cells, absent_cell(soft_ms=1), value_cell(7, codec=SIGNED))
    yield from (CellInspected(now_s, cell, 500, 1_000) for cell in inspected)
    yield ValueFound(now_s)
    yield from (CellSwapped(now_s, version) for version in (None, V1))
    yield from (CellTouched(now_s, touched) for touched in (False, True))
    yield KeysDeleted(now_s, 1)
    yield from (KeysDeleted(now_s, count, existed) for count, existed in ((0, False), (1, True)))
    yield from (KeysFound(now_s, cursor, keys) for cursor in (0, 9) for keys in ((), KEYS[:1], (KEY,)))
    yield Ponged(now_s)
    yield from entries_at(now_s)
    yield Computed(now_s, 7)
    yield Computed(now_s, "unstorable as an int")
    yield from (Computed(now_s, given) for given in (Fresh(7, ttl=5), Fresh(7, ttl=0), Absent()))
    yield Computed(now_s, {"user:1": 7, "user:2": Absent(), "unasked": 1})
    yield Computed(now_s, {"user:1": "unstorable as an int"})
    yield Computed(now_s, {"user:1": Fresh(7, ttl=0)})
    yield ComputeFailed(now_s, ERROR)
    yield LoadLed(now_s, 1)
    yield from (LoadShared(now_s, payload, 7) for payload in (None, b"7", b"corrupt"))
    yield LoadErrorShared(now_s, ERROR)
    yield LoadNotShared(now_s)
    yield from (SharingTimedOut(now_s, 1, is_circle=is_circle) for is_circle in (False, True))
    yield from (Woke(now_s, is_circle) for is_circle in (False, True))
    yield from (StoreFailed(now_s, kind) for kind in (FailureKind.TIMEOUT, FailureKind.OTHER))
    yield Interrupted(now_s)


TELLS_TIME = EntriesSettled | LeaseDenied | LoadNotShared | SharingTimedOut | StoreFailed | Woke
"""Events by which a budget, a wait or a lease may be found to have run out."""
EVENTS = (*events_at(0.0), *(event for event in events_at(100.0) if isinstance(event, TELLS_TIME)))
COUNTERS = {"turns", "turn", "matched", "deleted"}
PARTS = {
    "acquiring",
    "pausing",
    "tally",
    "batch",
    "acquisition",
    "fills",
    "reading",
    "origin",
    "claiming",
    "taking",
    "left",
}


def capped_consumer(consumer):
    """The same of what a consumer has in hand: the events here deliver the same entries again and again."""
    holdings, stranded = (
        tuple(
            replace(each, taken=0, works=True, parked=tuple(map(capped_unit, each.parked[:1])))
            for each in some[:2]
        )
        for some in (consumer.holdings, consumer.stranded)
    )
    changes = {
        "holdings": holdings,
        "stranded": stranded,
        "asides": tuple(map(capped_aside, consumer.asides)),
    }
    attends_s = 50.0 if consumer.attends_s > 0 else 0.0
    return replace(consumer, **changes, failures=0, attends_s=attends_s, members=1, is_busy=False)


def capped_aside(aside):
    due_s, removes_s = (50.0 * (each > 0) for each in (aside.due_s, aside.removes_s))
    kept = tuple(map(capped_group, aside.kept[:1]))
    return replace(
        aside, failures=min(aside.failures, 1), due_s=due_s, kept=kept, refusals=0, removes_s=removes_s
    )


def capped_group(group):
    return tuple(replace(done, verdicts=done.verdicts[-1:]) for done in group[:1])


def capped_unit(unit):
    pieces = tuple(replace(piece, older=(), failed=min(piece.failed, 1)) for piece in unit.pieces[:2])
    return replace(unit, pieces=pieces, attempts=min(unit.attempts, 2), due_s=float(unit.due_s > 0) * 1e9)


def capped(state):
    """The state with counters that have no bound at their cap; behaviour past it is the same."""
    changes = {}
    caps = ("consumer", capped_consumer), ("unit", capped_unit), ("group", capped_group)
    for name, cap in caps:
        if name in state.__struct_fields__:
            changes[name] = cap(getattr(state, name))
    for name in state.__struct_fields__:
        if name in COUNTERS:
            changes[name] = min(getattr(state, name), 2)
        elif name in PARTS and not isinstance(getattr(state, name), tuple):
            changes[name] = capped(getattr(state, name))
    return steps.evolve(state, **changes) if changes else state


def machines_beside(step):
    """The renewals and refreshes that a step hands over."""
    yield from step.spawn
    for place in (step.command, step.outcome):
        renewal = getattr(place, "renewal", None)
        if renewal is not None:
            yield renew(renewal)


@cache
def explored():
    """All reachable steps, the states among them, and which of them took which event for which command."""
    waiting = deque(beginnings())
    seen_states, seen_steps, answered = set(), [], set()
    while waiting:
        step = waiting.popleft()
        seen_steps.append(step)
        waiting.extend(machines_beside(step))
        state = capped(step.state)
        if state in seen_states:
            continue
        seen_states.add(state)
        for event in EVENTS:
            try:
                waiting.append(state.receive(event))
            except ProtocolError:
                continue
            answered.add((type(state), type(step.command), type(event)))
    return seen_states, seen_steps, answered


def union(alias):
    """The classes of a union of unions."""
    return set(get_args(alias))


def state_classes():
    """Every class of the machines' modules that receives events."""
    names = [found.name for found in pkgutil.iter_modules(operations.__path__, operations.__name__ + ".")]
    return {
        thing
        for name in names
        for thing in vars(importlib.import_module(name)).values()
        if isinstance(thing, type) and hasattr(thing, "receive") and thing.__module__ == name
    }


def test_the_representative_events_are_of_every_class():
    assert {type(event) for event in EVENTS} == union(events.Event)


def test_every_state_of_every_machine_is_reached():
    states, _, _ = explored()
    assert {type(state) for state in states} == state_classes() | {steps.Over}
    assert len(states) > 100


def test_a_state_gives_a_step_or_a_protocol_error_and_nothing_else():
    # `explored` lets every other exception through.
    _, reached, _ = explored()
    for step in reached:
        assert isinstance(step, Step)
        assert (step.command is None) != (step.outcome is None)
        # Who is interrupted before he has heard of a lock that he has got gives it back.
        may_go_on = step.command is not None or isinstance(step.outcome, steps.Locked)
        assert (step.state == OVER) is not may_go_on


def test_what_is_over_refuses_everything():
    for event in EVENTS:
        with pytest.raises(ProtocolError):
            OVER.receive(event)


def test_every_state_but_the_last_can_be_interrupted_and_then_ends_without_further_ado():
    """Rule (c): cleaning up is bounded, whatever the store says."""
    states, _, _ = explored()
    for state in states - {OVER}:
        step = state.receive(Interrupted(0.0))
        asked = 0
        while step.command is not None:
            assert isinstance(
                step.command,
                commands.ReleaseLeases | commands.FreeLock | commands.DeleteKeys | commands.ExpireCells,
            )
            step = step.state.receive(StoreFailed(0.0, FailureKind.TIMEOUT))
            asked += 1
        assert asked <= 2 * TIMEOUTS.attempts
        assert not isinstance(step.outcome, steps.Loaded)


def test_every_command_is_asked_every_event_taken_every_outcome_come_to_and_every_notice_given():
    _, reached, answered = explored()
    assert {type(step.command) for step in reached} - {type(None)} == union(commands.Command)
    assert {event for _, _, event in answered} == union(events.Event)
    assert {type(step.outcome) for step in reached} - {type(None)} == union(steps.Outcome) - {steps.ManyFound}
    # A refresh is skipped by the driver, which knows how many are under way; it tells of beginnings as well,
    # of each command, and of another store that a connection has met.
    of_drivers = {notices.RefreshSkipped, notices.Began, notices.StoreAsked, notices.StoreChanged}
    given = union(notices.Notice) - of_drivers
    assert {type(notice) for step in reached for notice in step.notices} == given


ANSWERS = {
    commands.ReadCell: events.ReadAnswer,
    commands.ReadCells: events.ReadManyAnswer,
    commands.ReadTags: events.ReadTagsAnswer,
    commands.InspectCell: events.InspectAnswer,
    commands.ClaimCell: events.ClaimAnswer,
    commands.SwapCell: events.SwapAnswer,
    commands.TouchCell: events.TouchAnswer,
    commands.TakeLock: events.LockAnswer,
    commands.FreeLock: events.ReleaseAnswer,
    commands.AcquireLease: events.AcquireAnswer,
    commands.AcquireLeases: events.AcquireManyAnswer,
    commands.FillCells: events.FillAnswer,
    commands.RenewLeases: events.RenewAnswer,
    commands.ReleaseLeases: events.ReleaseAnswer,
    commands.HoldCells: events.HoldAnswer,
    commands.ExpireCells: events.ExpireAnswer,
    commands.DeleteKeys: events.DeleteAnswer,
    commands.ScanKeys: events.ScanAnswer,
    commands.Ping: events.PingAnswer,
    commands.AppendEntries: events.AppendAnswer,
    commands.ReplayLetter: events.AppendAnswer,
    commands.PeekEntries: events.FindAnswer,
    commands.ReadLetters: events.FindAnswer,
    commands.DropLetters: events.DeleteAnswer,
    commands.TakeEntries: events.TakeAnswer,
    commands.SettleEntries: events.SettleAnswer,
    commands.AttendQueue: events.AttendAnswer,
    commands.MeasureQueue: events.MeasureAnswer,
    commands.Compute: events.ComputeAnswer,
    commands.ComputeMany: events.ComputeAnswer,
    commands.ShareLoad: events.ShareAnswer,
    commands.Sleep: events.SleepAnswer,
}


def test_a_state_takes_exactly_the_events_that_answer_its_command():
    _, reached, answered = explored()
    taken = {}
    for state, command, event in answered:
        taken.setdefault((state, command), set()).add(event)
    assert set(ANSWERS) == union(commands.Command)
    for step in reached:
        if step.command is not None:
            command = type(step.command)
            assert taken[type(step.state), command] == union(ANSWERS[command])


OF_PARTS = notices.StoreErrored | notices.StoreGaveUp | notices.StoreAnswered


@pytest.mark.parametrize("kind", [FailureKind.TIMEOUT, FailureKind.OTHER])
@pytest.mark.parametrize("now_s", [0.0, 100.0])
def test_a_failure_is_told_with_the_part_of_the_store_where_it_was(kind, now_s):
    """By every state that asks the store, whether a try is left or not."""
    states, _, answered = explored()
    asking = {state for state, _, event in answered if event is StoreFailed}
    silent = set()
    for state in states:
        if type(state) in asking:
            step = state.receive(StoreFailed(now_s, kind, "b"))
            told = [each for each in step.notices if isinstance(each, OF_PARTS)]
            assert {(each.kind, each.part) for each in told} <= {(kind, "b")}
            if not told:
                silent.add(type(state))
    assert silent == {ReadinessPinging, WatchAsking}  # one waits for just that to be over; one only looks


def test_states_can_be_hashed_compared_and_shown():
    states, _, _ = explored()
    assert len({repr(state) for state in states}) == len(states)
    again, _, _ = explored.__wrapped__()
    assert again == states


@pytest.mark.parametrize("value", [[1, 2], {"a": 1}])
def test_a_state_can_be_hashed_whatever_was_stored_or_loaded(value):
    untyped = codec_for(None, 1_000)
    stale = value_cell(value, codec=untyped, soft_ms=1)
    tagged = value_cell(value, codec=untyped, versions=(("t:a", V1),))
    loading = load_request(codec=untyped, **WAITING)
    many_ = LoadManyRequest((KEY, OTHER), ("a", "b"), 2, loading)
    led, granted = LoadLed(0.0, 1), LeaseGranted(0.0, GRANT, stale, 1_000)
    scripts = [
        (get_or_load(loading), [CellRead(0.0, stale, 1_000), led, granted, Computed(0.0, value)]),
        (
            get_or_load(loading),
            [CellRead(0.0, stale, 1_000), led, LeaseDenied(0.0, 50, stale, 1_000), Woke(0.0)],
        ),
        (get_or_load(loading), [CellRead(0.0, tagged, 1_000)]),
        (refresh(loading, Servable(value, False, stale), 0.0), [led, granted, ComputeFailed(0.0, ERROR)]),
        (get_many(ReadManyRequest((KEY,), untyped, 2, TIMEOUTS, 0.0)), [CellsRead(0.0, (tagged,), 1_000)]),
        (load_many(many_), [CellsRead(0.0, (tagged, None), 1_000)]),
        (
            load_many(many_),
            [
                CellsRead(0.0, (stale, None), 1_000),
                LeasesAnswered(0.0, (granted, LeaseDenied(0.0, 50, None, 1_000))),
                Computed(0.0, {"a": value}),
                CellsFilled(0.0, (FillResult.STORED,)),
            ],
        ),
    ]
    for step, script in scripts:
        reached = {step.state}
        for event in script:
            step = step.state.receive(event)
            reached.add(step.state)
        assert len(reached) == len(script) + 1


def walk(step, choices):
    """The steps that a list of choices among the accepted events leads through."""
    taken = [step]
    for choice in choices:
        accepted = []
        for event in EVENTS:
            try:
                accepted.append(step.state.receive(event))
            except ProtocolError:
                continue
        if not accepted:
            break
        step = accepted[choice % len(accepted)]
        taken.append(step)
    return taken


@settings(deadline=None, max_examples=60)
@given(st.integers(0, len(list(beginnings())) - 1), st.lists(st.integers(0, 100), max_size=8))
def test_the_same_events_give_the_same_steps_byte_for_byte(number, choices):
    """B4."""
    first = walk(list(beginnings())[number], choices)
    second = walk(list(beginnings())[number], choices)
    assert list(map(without_outcome, first)) == list(map(without_outcome, second))
    assert repr(first) == repr(second)


def without_outcome(step):
    """A step but for its outcome: there may be an error in it, and no two errors are equal."""
    return replace(step, outcome=None)


def test_no_step_changes_the_state_that_it_came_from():
    states, _, _ = explored()
    for state in states:
        before = repr(state)
        for event in EVENTS:
            try:
                state.receive(event)
            except ProtocolError:
                continue
        assert repr(state) == before


def test_a_mutations_holds_are_renewed_by_a_machine_of_its_own():
    _, reached, _ = explored()
    held = [step.outcome for step in reached if isinstance(step.outcome, ManyHeld) and step.outcome.grants]
    assert held
    assert all(each.renewal is not None and renew(each.renewal).command is not None for each in held)


def test_theirs_is_another_grant_than_ours():
    # The representatives are only worth something if refusing one value is told from holding another.
    assert THEIRS != GRANT
