"""The simulator: what ships keeps its promises among all faults, and wrong protocols are caught.

`SANSIO_CACHE_SIMULATE` says how many operations are simulated, if not a few; each seed is printed.
"""

from __future__ import annotations

import gc
import random
import sys
from types import SimpleNamespace

import attrs
import pytest
from msgspec import structs

from explorations import queued
from explorations.mistakes import EternalLease
from explorations.simulated import CAUGHT_SOON, EXPLORED_ONLY, PARTS, TAKES_LONGER, TOLD_LATE, caught
from sansio_cache.cell import Cell, Foreign, Kind, make_grant
from sansio_cache.commands import (
    AcquireLease,
    Capture,
    ClaimCell,
    Compute,
    Fill,
    FillCells,
    FreeLock,
    HoldCells,
    Lease,
    Mode,
    Ping,
    ReleaseLeases,
    ScanKeys,
    SwapCell,
    TakeLock,
    keys_and_tags,
)
from sansio_cache.coordinator import Coordinator, renewing
from sansio_cache.events import EntriesFound, ForeignFound
from sansio_cache.exploring.configuration import CODEC
from sansio_cache.exploring.history import Read
from sansio_cache.exploring.invariants import Invariant
from sansio_cache.exploring.simulating import (
    FAULTS,
    NO_FAULTS,
    SHIPPED,
    Liveness,
    SimulatedFault,
    Simulation,
    queueing,
    simulate,
)
from sansio_cache.exploring.simulating.accidents import DECK
from sansio_cache.exploring.simulating.blocks import Holding
from sansio_cache.exploring.simulating.callers import judge_count
from sansio_cache.exploring.simulating.calling import CallerBase
from sansio_cache.exploring.simulating.loaders import RowLoader
from sansio_cache.exploring.simulating.oracle import Oracle, Told, Violated
from sansio_cache.exploring.simulating.probing import Process, version_of
from sansio_cache.exploring.simulating.queueing import (
    MORTAL,
    Applying,
    Consuming,
    QueueChecks,
    Queueing,
    Writing,
)
from sansio_cache.exploring.simulating.rows import COUNTER, LOCK_KEY, ROWS, TAGGED
from sansio_cache.exploring.simulating.simulation import World
from sansio_cache.exploring.simulating.timeline import Timeline
from sansio_cache.memory_store import MemoryStore
from sansio_cache.queues import QueuedWrite, QueueEntry, Turn
from sansio_cache.step import Abandoned, Missing, QueueAnswered, Value
from support.nightly import IS_NIGHTLY, SIMULATE, many

OPERATIONS = many(36_000, SIMULATE)
A_SEED = 18_000
"""So many that each accident has its turn several times: some strike only where they end in time."""
OF_EVERY_RUN = (1, 2)
LETTERS = {"replay a letter", "drop a letter"}


@pytest.fixture
def untraced():
    """What measures coverage looks away, and the collector of garbage: there is none in cycles."""
    trace = sys.gettrace()
    sys.settrace(None)
    gc.disable()
    yield
    gc.enable()
    sys.settrace(trace)


@pytest.mark.parametrize("seed", range(1, 1 + max(OPERATIONS // A_SEED, 1)))
def test_what_ships_keeps_its_promises_whatever_goes_wrong(seed, untraced):
    """S1 to S7, S13, L1 to L7, B2, under all faults that the simulator knows, each of which has struck."""
    found = simulate(Simulation(operations=A_SEED), lambda: random.Random(seed))

    print(f"seed {seed}:\n{found}")
    assert found.broken is None, f"seed {seed}:\n{found}"
    assert found.count >= A_SEED
    assert set(found.fired) == set(SimulatedFault)
    assert len(found.operations) >= 30
    done = set(found.operations)
    assert {"enqueue", "consume", "get_or_load of what is queued"} <= done
    assert done & LETTERS
    if seed in OF_EVERY_RUN:  # letters are rare: of hundreds of seeds, some have none that is replayed
        assert done >= LETTERS


def test_a_run_is_named_by_its_seed():
    runs = [
        simulate(Simulation(operations=150, must_fire=False), lambda seed=seed: random.Random(seed))
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_without_faults_nothing_is_lost_and_no_fault_strikes():
    simulation = Simulation(operations=700, operations_a_round=350, rates=NO_FAULTS, must_fire=False)
    found = simulate(simulation, lambda: random.Random(3))
    assert (found.broken, found.rounds) == (None, 2)
    assert str(found).startswith(f"{found.count} operations, ")
    assert set(found.fired) <= {
        SimulatedFault.LEASE_LAPSED,
        SimulatedFault.VARIANT,
        SimulatedFault.WAKE_UP_LOST,
    }


def test_a_fault_that_never_struck_fails_the_run():
    found = simulate(Simulation(operations=150, rates=NO_FAULTS), lambda: random.Random(3))
    assert found.broken is Liveness.FIRED
    assert SimulatedFault.REQUEST_LOST.value in found.seen
    assert "24 wake-up lost" not in found.seen


def test_of_a_token_that_was_issued_anew_the_database_takes_the_new_write_for_the_lost_one():
    """As the page of write-behind says; where nothing was lost meanwhile, no token is issued twice."""
    world = World(Simulation(), random.Random(1))
    ledger, key = world.ledger, "n:queued:0"
    for version in (1, 2):
        ledger.begin(version)
    assert [ledger.apply(key, version, 7) for version in (1, 2)] == [0, 7]
    assert ledger.mistaken == set()

    ledger.lose()
    ledger.begin(3)
    ledger.acknowledge(key, 3, 7)
    assert ledger.apply(key, 3, 7) == 7
    assert ledger.mistaken == {3}
    ledger.check(world.server)


@pytest.mark.parametrize("name", queued.MISTAKES)
def test_a_mistake_of_queues_is_caught(name, untraced):
    """S8: the negative controls of writes that are queued."""
    found = queued.caught(name, seeds=12)
    assert found is not None
    assert found.key.startswith("n:queued:" if found.broken is not Liveness.QUEUED else "n:")


@pytest.mark.parametrize("name", CAUGHT_SOON)
def test_a_wrong_protocol_is_caught(name):
    """The negative controls: mistakes that the explorer finds are found here, too."""
    assert caught(name, seeds=16) is not None


def test_what_is_broken_is_told_with_what_happened_to_the_key_before():
    found = caught("7 a fill without owner check", seeds=1)
    text = str(found)
    assert found.key
    assert found.story
    assert "FillCells" in text
    assert found.broken.value in text


NIGHTLY = pytest.mark.skipif(not IS_NIGHTLY, reason="for the night")


@NIGHTLY
@pytest.mark.parametrize("name", TAKES_LONGER)
def test_a_wrong_protocol_that_takes_a_rare_order_is_caught(name, untraced):
    found = caught(name, seeds=400, operations=6_000, a_round=3_000)
    assert found is not None
    print(found.count, found.broken)


def test_every_known_mistake_is_tried():
    assert {*CAUGHT_SOON, *TAKES_LONGER, *EXPLORED_ONLY, TOLD_LATE} == set(PARTS)
    assert len(CAUGHT_SOON) >= 50
    assert len(EXPLORED_ONLY) <= 14


def test_accidents_may_follow_each_other_closely():
    rates = attrs.evolve(FAULTS, accident_pause_s=0.02, cancelled=0.3, hung=0.02)
    simulation = Simulation(operations=3_000, rates=rates, must_fire=False)
    found = simulate(simulation, lambda: random.Random(11))
    assert found.broken is None, str(found)
    assert {*DECK, SimulatedFault.FAILOVER, SimulatedFault.HUNG} <= set(found.fired)


class Careless(Coordinator):
    """It never tells the store what that has missed."""

    def begin_recovery(self, *args, **kwargs):
        return None

    def begin_neglected(self, *args, **kwargs):
        return None


def broken_by(seed=1, operations=300, **changes):
    machines = attrs.evolve(SHIPPED, **changes)
    simulation = Simulation(operations=operations, machines=machines, must_fire=False)
    return simulate(simulation, lambda: random.Random(seed)).broken


def test_a_store_that_is_never_told_of_what_it_has_missed_is_found():
    assert broken_by(coordinator=Careless, operations=60) in (Liveness.TOLD, Invariant.S1_READ)
    assert {broken_by(seed, coordinator=Careless, operations=40) for seed in range(8)} >= {Liveness.TOLD}


def test_a_lease_that_is_renewed_for_ever_is_found(monkeypatch):
    def for_ever(renewal, now_s):
        return renewing(structs.replace(renewal, until_s=now_s + 1e9), now_s)

    monkeypatch.setattr("sansio_cache.exploring.simulating.client.renewing", for_ever)
    assert broken_by(operations=40) is Liveness.RENEWED


def test_a_read_that_gives_something_else_than_the_last_commit_is_found(monkeypatch):
    monkeypatch.setattr("sansio_cache.exploring.simulating.probing.version_of", lambda _: -1)
    assert broken_by(operations=40) is Liveness.LAST


def test_what_is_no_value_has_no_version():
    assert (version_of(Missing()), version_of(Value(None)), version_of(Value("7"))) == (None, 0, 7)


def test_a_call_that_never_ends_is_found(monkeypatch):
    monkeypatch.setattr("sansio_cache.exploring.simulating.simulation.LONGEST_CALL_S", 0.0)
    assert broken_by(operations=40) is Liveness.ENDS


def test_a_world_in_which_nobody_does_anything_is_found(monkeypatch):
    monkeypatch.setattr("sansio_cache.exploring.simulating.simulation.LONGEST_ROUND_S", 5.0)
    found = simulate(Simulation(operations=10, clients=0), lambda: random.Random(1))
    assert found.broken is Liveness.ENDS


def test_a_lease_that_is_left_when_all_is_over_is_found():
    found = {broken_by(seed, store=EternalLease, operations=200) for seed in range(6)}
    assert Liveness.EMPTY in found


# Its parts.


def test_of_what_is_due_at_once_the_first_comes_first():
    timeline, done = Timeline(), []
    for name in "abc":
        timeline.after(1.0, lambda name=name: done.append(name))
    assert not timeline.run(lambda: False, 2.0)
    assert done == ["a", "b", "c"]
    assert timeline.now_s == 1_002.0


def test_a_request_that_is_due_in_the_past_happens_now():
    timeline = Timeline()
    timeline.at(1.0, lambda: None)
    assert not timeline.run(lambda: False, 1.0)
    assert timeline.now_s == 1_001.0


class TestTheOracle:
    def told(self, version, returned_s, completed_s):
        return Told("p", version, returned_s, completed_s)

    def test_a_read_that_is_too_old_is_found(self):
        oracle = Oracle()
        oracle.note("k", self.told(1, 1.0, 1.0))
        oracle.judge(Read("q", "k", 0, 1.0))
        with pytest.raises(Violated) as caught_error:
            oracle.judge(Read("q", "k", 0, 1.1))
        assert caught_error.value.invariant is Invariant.S1_READ

    def test_a_process_knows_what_it_has_written_before_the_store_does(self):
        oracle = Oracle()
        oracle.note("k", told := self.told(1, 1.0, None))
        oracle.judge(Read("q", "k", 0, 2.0))
        with pytest.raises(Violated) as caught_error:
            oracle.judge(Read("p", "k", 0, 2.0))
        assert caught_error.value.invariant is Invariant.S1_PENDING
        oracle.complete("k", told, 3.0)
        with pytest.raises(Violated):
            oracle.judge(Read("q", "k", 0, 3.1))
        oracle.forget("p")

    def test_what_a_failover_has_lost_may_show_until_its_time_is_over(self):
        oracle = Oracle()
        oracle.note("k", self.told(1, 1.0, 1.0))
        oracle.note("k", self.told(2, 2.0, 2.0))
        oracle.note("k", self.told(3, 2.5, None))
        oracle.roll_back(1.5, 9.0)
        oracle.judge(Read("q", "k", 1, 5.0))
        with pytest.raises(Violated):
            oracle.judge(Read("q", "k", 0, 5.0))
        with pytest.raises(Violated):
            oracle.judge(Read("p", "k", 2, 5.0))
        with pytest.raises(Violated):
            oracle.judge(Read("q", "k", 1, 9.1))

    def test_old_writes_are_forgotten(self):
        oracle = Oracle()
        for number in range(1, 1_000):
            oracle.note("k", self.told(number, float(number), float(number)))
        oracle.roll_back(990.5, 2_000.0)
        with pytest.raises(Violated):
            oracle.judge(Read("q", "k", 989, 1_500.0))

    def test_what_was_made_stale_is_forgotten_where_the_clock_goes_back(self):
        oracle = Oracle()
        oracle.note("k~", self.told(1, 1.0, 1.0))
        oracle.forget_staleness()
        oracle.judge(Read("p", "k~", 0, 2.0))


@pytest.fixture
def world():
    simulation = Simulation(clients=1, callers=1, rates=NO_FAULTS, queueing=None, must_fire=False)
    world = World(simulation, random.Random(1))
    world.shared.is_ending = True
    return world


@pytest.fixture
def queues():
    """The checks of queues, in a world in which nobody does anything."""
    world = World(Simulation(clients=1, callers=1, rates=NO_FAULTS), random.Random(1))
    world.shared.is_ending = True
    process = Process(world.clients[0], world.callers[0].calls, 1)
    return QueueChecks(world.shared, world.network, [process], ledger=world.ledger)


def test_a_reader_of_what_is_queued_that_is_given_something_else_is_found(queues, monkeypatch):
    queues.check()
    monkeypatch.setattr(queueing, "expected", lambda *_: 7)
    with pytest.raises(Violated, match="and 7 is the last"):
        queues.check()


def test_a_reader_of_what_is_queued_that_is_given_nothing_is_found(queues, monkeypatch):
    monkeypatch.setattr(Timeline, "run", lambda *_: False)
    with pytest.raises(Violated, match="is not read in time"):
        queues.check()


def test_a_write_that_is_nowhere_is_found(queues):
    queues.ledger.acknowledge("n:mortal", 1, 1)
    with pytest.raises(Violated, match="version 1 with token 1 is nowhere"):
        queues.check()


def test_the_lease_of_a_dead_consumer_ends_where_the_clock_went_back():
    world = World(Simulation(rates=NO_FAULTS), random.Random(1))
    world.server.behind_s = 3_600.0
    world._calm_down()
    assert world.server.behind_s == 0.0
    assert world.server.ahead_s == 3_600.0


def test_an_older_write_over_a_newer_one_is_found(queues):
    for version in (1, 2, 3):
        queues.ledger.begin(version)
    assert queues.ledger.apply("n:mortal", 2, 5) == 0
    assert queues.ledger.apply("n:mortal", 1, 4) == 5, "the token is lower"
    with pytest.raises(Violated, match="version 1 with token 6 is written over"):
        queues.ledger.apply("n:mortal", 1, 6)
    queues.ledger.lose()
    assert queues.ledger.apply("n:mortal", 1, 6) == 0, "what the server had lost is back"
    queues.ledger.acknowledge("n:mortal", 3, 7)
    queues.ledger.begin(2)
    with pytest.raises(Violated, match=r"acknowledged \[3\]"):
        queues.ledger.apply("n:mortal", 2, 8)


def test_a_writer_that_hangs_goes_on_once_the_faults_stop(queues):
    shared = queues.shared
    shared.rates = attrs.evolve(NO_FAULTS, hung=4.0)
    [process] = queues.processes
    consuming = Consuming(
        shared, process.client, process.calls, False, ledger=queues.ledger, queue=MORTAL, queueing=Queueing()
    )
    running = SimpleNamespace(client=process.client, turn=0, is_over=False)
    command = Compute("", None, Turn((QueuedWrite("n:mortal", 1, 5),)))
    Applying(consuming).begin(running, command)
    assert shared.fired[SimulatedFault.HUNG] == 1
    assert len(shared.hung) == 1


def test_an_attempt_that_was_cancelled_writes_nothing(queues):
    [process] = queues.processes
    consuming = Consuming(
        queues.shared,
        process.client,
        process.calls,
        False,
        ledger=queues.ledger,
        queue=MORTAL,
        queueing=Queueing(),
    )
    running = SimpleNamespace(client=process.client, turn=1, is_over=False)
    Applying(consuming)._apply(running, 0, Turn((QueuedWrite("n:mortal", 1, 5),)), 0.1)
    assert queues.ledger._applied == {}


@pytest.mark.parametrize("is_superseded", [False, True])
def test_a_letter_that_is_found_is_queued_anew_or_dropped(is_superseded, monkeypatch):
    world = World(Simulation(clients=1, callers=1, rates=NO_FAULTS), random.Random(1))
    world.shared.is_ending = True
    writing = next(each for each in world.callers if isinstance(each, Writing))
    done = []
    monkeypatch.setattr(Writing, "done", lambda _, name: done.append(name))
    key, token = MORTAL.rows[0].key, 7
    letter = QueueEntry(token, key, b"", (), 1, 3, "refused", is_superseded)
    for _ in range(30):
        writing._see_to(SimpleNamespace(), QueueAnswered(EntriesFound(0.0, (letter,))))
    assert world.timeline.run(lambda: len(done) == 30, 5.0)
    assert set(done) <= {"drop a letter", "replay a letter"}
    assert ("replay a letter" in done) is not is_superseded
    assert "drop a letter" in done
    assert world.ledger._dropped == {key: token}


def test_a_deletion_by_pattern_that_a_failover_overtakes_counts_when_what_was_lost_is_told_again(world):
    """Its page is of the old server, and the new one may have more. Seed 206 has found it."""
    [client], [caller] = world.clients, world.callers
    caller.delete_pattern()
    running = next(iter(client.running.values()))
    assert world.timeline.run(lambda: isinstance(running.step.command, ScanKeys), 1.0)
    world.server.fall_back()
    assert world.timeline.run(lambda: caller.is_idle, 1.0)
    key = TAGGED[0].key
    until_s = world.server.lost_until_s
    assert until_s > world.timeline.now_s
    world.oracle.judge(Read("another", key, 0, until_s - 0.1))
    with pytest.raises(Violated):
        world.oracle.judge(Read("another", key, 0, until_s + 0.1))


def loading(world, *, until):
    """A load, as far as a command of this kind."""
    [client], [caller] = world.clients, world.callers
    loader = RowLoader(world.shared, caller.calls, slow_s=60.0)
    caller.calls.now_s = client.now_s
    running = client.start(caller.calls.load(ROWS[0], CODEC), loader=loader)
    assert world.timeline.run(lambda: isinstance(running.step.command, until), 1.0)
    return client, running


def test_a_cancelled_operation_that_cannot_give_back_what_it_holds_in_time_ends(world):
    client, running = loading(world, until=Compute)
    client.interrupt(running)
    client.interrupt(running)
    client.cut_short(running)
    assert running.is_over
    assert not client.running
    client.cut_short(running)


def test_an_answer_that_nobody_waits_for_is_dropped(world):
    client, running = loading(world, until=AcquireLease)
    turn = running.turn
    client.interrupt(running)
    client.answer(running, turn, ForeignFound(client.now_s))
    world.timeline.run(lambda: running.is_over, 1.0)
    client.answer(running, running.turn, ForeignFound(client.now_s))
    assert running.step.outcome == Abandoned()


def test_what_a_server_may_lose_or_be_given(world):
    server = world.server
    server.perform(TakeLock(LOCK_KEY, b"nonce--1", 300, 1.0))
    server.lock_lost_s = 0.0
    while LOCK_KEY in server.store.dump():
        server.evict()
    assert server.lock_lost_s == world.timeline.now_s
    cells = set()
    for _ in range(20):
        server.plant_foreign("n:a")
        cells.add(type(server.store.dump()["n:a"].cell))
    assert cells == {Cell, Foreign}
    world.timeline.run(lambda: False, 1.0)
    server.jump(5.0)
    assert server.store.dump() == {}


def test_what_was_lost_shows_for_longer_where_the_clock_goes_back(world):
    server = world.server
    server.fall_back()
    until_s = server.lost_until_s
    server.jump(-100.0)
    assert (server.lost_until_s, server.behind_s) == (until_s + 100.0, 100.0)


def test_a_fill_and_a_swap_that_break_the_rules_are_found(world):
    server = world.server
    granted = server.perform(AcquireLease("n:a", b"nonce--1", 500, bytes(16), Mode.KEEP, 1.0))
    item = world.callers[0].calls.item(COUNTER, CODEC, 5)
    fill = structs.replace(item, key="n:a").under(granted.grant)
    server.perform(FillCells((fill,), 1.0))
    server.store = MemoryStore(clock=server.clock)
    server.store.plant("n:a", Cell(Kind.EMPTY, granted.grant, 2**40), 2**40)
    with pytest.raises(Violated, match="a second fill under one grant"):
        server.perform(FillCells((fill,), 1.0))
    held = server.perform(ClaimCell(COUNTER.key, b"nonce--2", 500, 1.0))
    server.perform(FillCells((item.under(held.grants[0]),), 1.0))
    swap = SwapCell(COUNTER.key, held.grants[0], b"nonce--3", 0, 0, item.under(bytes(16)).body, 1.0)
    with pytest.raises(Violated, match="it was at 5, and is at 5"):
        server.perform(swap)


def test_what_an_operation_was_about_to_do_is_not_done_once_it_was_cancelled(world):
    client, running = loading(world, until=Compute)
    client.go_on(running, running.turn - 1)
    assert isinstance(running.step.command, Compute)


def test_a_caller_has_to_say_what_it_does(world):
    [caller] = world.callers
    with pytest.raises(NotImplementedError):
        CallerBase(world.shared, caller.client, caller.calls, is_text=False).next()


def test_two_who_hold_the_lock_are_found(world):
    [caller], server = world.callers, world.server
    server.lock_lost_s, world.shared.lock_taken_s = 0.0, 1.0
    world.shared.lock_until_s = world.timeline.now_s + 1.0
    lock = Holding(caller, Lease(LOCK_KEY, make_grant(b"nonce--1", 7)), 300, caller.client.now_s)
    with pytest.raises(Violated, match="two hold the lock"):
        lock.begin()
    world.shared.lock_until_s, world.shared.lock_token = 0.0, 7
    with pytest.raises(Violated, match="token 7 after 7"):
        lock.begin()


def test_a_lock_that_was_given_back_is_renewed_no_more(world):
    [caller] = world.callers
    lock = Holding(caller, Lease(LOCK_KEY, make_grant(b"nonce--1", 7)), 300, caller.client.now_s)
    lock.begin()
    asked = []
    world.network.heard = asked.append
    lock.free()
    lock.keep()
    assert [type(each) for each in asked] == [FreeLock]


@pytest.mark.parametrize(
    ("times", "is_certain", "is_right"),
    [(1, True, True), (0, False, True), (0, True, False), (2, False, False)],
)
def test_who_is_counted_once_was_counted_once(times, is_certain, is_right):
    if is_right:
        judge_count(times, is_certain=is_certain)
    else:
        with pytest.raises(Violated):
            judge_count(times, is_certain=is_certain)


def keys_of(command):
    """All that it names, tags behind the rest."""
    keys, tags = keys_and_tags(command)
    return (*keys, *tags)


def test_the_keys_of_a_command_are_those_that_it_may_change():
    capture = Capture(("n:%t:a",), 1)
    acquire = AcquireLease("k", b"nonce--1", 1, bytes(16), Mode.KEEP, 1.0, capture)
    assert tuple(keys_of(acquire)) == ("k", "n:%t:a")
    assert tuple(keys_of(HoldCells(("k", "l"), b"nonce--1", 1, 1.0))) == ("k", "l")
    assert tuple(keys_of(FillCells((Fill("k", bytes(16), 1, 0, b""),), 1.0))) == ("k",)
    lease = Lease("k", bytes(16))
    assert tuple(keys_of(ReleaseLeases((lease,), 1.0))) == ("k",)
    assert tuple(keys_of(FreeLock(lease, 1.0))) == ("k",)
    assert tuple(keys_of(Ping(1.0))) == ()
