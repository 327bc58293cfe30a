"""The moves: all that may happen next in a world, faults included.

`Moves.of(world)` gives every move with the world after it (not yet in canonical form) and the invariant
that it broke, if any.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from sansio_cache.exploring.configuration import UNLIMITED, Configuration, Deed, Fault
from sansio_cache.exploring.invariants import Invariant
from sansio_cache.exploring.judging import Broken
from sansio_cache.exploring.process import Process, Worker, pending
from sansio_cache.exploring.running import thawed
from sansio_cache.exploring.storing import Served
from sansio_cache.exploring.tables import Action, Ran, Tables, Turned
from sansio_cache.exploring.world import MAY_LEAVE_LEASE, WRITER_DIED, Past, World


class Move(NamedTuple):
    """One move: whose it is, what it is, and the fault in it, if any."""

    process: int
    worker: int
    action: Action
    fault: Fault | None = None
    detail: str | int | None = None


Next = tuple[Move, World, Broken | None]

EMPTIED: Final = Invariant.KEPT, "it was up to date"
"""What is wrong with a promotion after which less is there."""


class Moves:
    """The moves of one configuration."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.tables = Tables(configuration)
        # What is not asked is not remembered, so that worlds which differ only in that are one.
        is_leak_judged = Invariant.LEAK in configuration.invariants
        self._flags = WRITER_DIED | (MAY_LEAVE_LEASE if is_leak_judged else 0)
        self._counts_loads = configuration.loads is not None or configuration.most_loads is not None
        self._has_counters = any(act.deed is Deed.COUNT for act in configuration.acts)
        self._counts_won = self._has_counters or configuration.most_owners is not None
        self._has_tag_writers = any(act.invalidates_tag for act in configuration.acts)
        self._has_soft_writers = configuration.expires
        self._kinds = tuple(configuration.faults)
        self._place = {kind: place for place, kind in enumerate(self._kinds)}
        self._interruption = self._place.get(Fault.INTERRUPTION)
        self._duplicate = self._place.get(Fault.DUPLICATE)

    # Worlds.

    def roots(self) -> list[tuple[str, World]]:
        """The worlds in which it begins, each with a line that tells it."""
        configuration, names = self.configuration, self.tables.names
        processes = []
        for programs, numbers in zip(configuration.processes, self.tables.numbers, strict=True):
            workers = tuple(Worker(program) for program in programs)
            process = Process(workers, configuration.coordinator().snapshot())
            running = thawed(process, configuration, numbers, may_interrupt=True)
            for i in range(len(workers)):
                running.ready(i)
            processes.append(names.processes.number(running.turn().process))
        budgets = tuple(configuration.faults[kind] for kind in self._kinds)
        past = names.pasts.number(Past())
        nothing = (0,) * len(configuration.places)
        world = World(tuple(processes), 0, past, nothing, (*nothing, 0, 0), budgets, 0, 0)
        return [
            (start.value, world._replace(store=names.stores.number(configuration.stored(start))))
            for start in configuration.starts
        ]

    def canonical(self, world: World) -> World:
        """The world that stands for all that are like this one."""
        duplicates = self._duplicate is not None and world.budgets[self._duplicate] > 0
        return self.tables.names.canonical(world, has_duplicates=duplicates)

    def broken_in(self, world: World) -> Broken | None:
        """The invariant that does not hold in a world."""
        wanted = self.configuration.invariants
        facts = self.tables.facts(world.store)
        endings = [self.tables.ending(process) for process in world.processes]
        are_writers_done = not world.flags & WRITER_DIED and all(each.writers_are_done for each in endings)
        for found in facts.served:
            for broken in self._served_wrongly(world, found, are_writers_done=are_writers_done):
                if broken[0] in wanted:
                    return broken
        most = self.configuration.most_owners
        if most is not None and world.won > most and Invariant.OWNERS in wanted:
            return Invariant.OWNERS, f"{world.won} of them"
        if facts.is_outlived and Invariant.OUTLIVED in wanted:
            return Invariant.OUTLIVED, "the cell expires first"
        most = self.configuration.most_loads
        if most is not None and world.loads > most and Invariant.LOADS in wanted:
            return Invariant.LOADS, f"{world.loads} times instead of {most} at most"
        if not all(ending.has_ended for ending in endings):
            return None
        if facts.is_leased and not world.flags & MAY_LEAVE_LEASE and Invariant.LEAK in wanted:
            return Invariant.LEAK, "the cell is leased"
        loads = self.configuration.loads
        if loads is not None and world.loads != loads and Invariant.LOADS in wanted:
            return Invariant.LOADS, f"{world.loads} times instead of {loads}"
        return None

    def _served_wrongly(
        self, world: World, found: Served, *, are_writers_done: bool
    ) -> Iterator[tuple[Invariant, str]]:
        """S1, S6 and S7 of what a reader would be served that began now."""
        version, floor = found.version, world.floor
        if self._has_counters and version < world.won:
            yield Invariant.EXACT, f"it is at {version}, after {world.won} that were acknowledged"
        if self._has_counters and version > world.version[found.place]:
            yield Invariant.EXACT, f"it is at {version}, and {world.version[found.place]} were begun"
        if version < floor[found.place]:
            yield Invariant.S1_CELL, f"version {version}, floor {floor[found.place]}"
        if found.is_fresh and version < floor[-1]:
            yield Invariant.S1_CELL, f"version {version} is fresh, expired before {floor[-1]}"
        if found.is_tagged and version < floor[-2]:
            yield Invariant.S7_CELL, f"version {version}, floor of the tag {floor[-2]}"
        # An entry does not depend on a tag that it does not have; and what is stale may be older.
        is_bound = found.is_tagged or not self._has_tag_writers
        is_bound &= found.is_fresh or not self._has_soft_writers
        last = world.version[found.place]
        if are_writers_done and is_bound and version != last:
            yield Invariant.S6, f"version {version}, last commit {last}"

    def has_ended(self, world: World) -> bool:
        """Whether all workers have come to an end."""
        return all(self.tables.ending(process).has_ended for process in world.processes)

    # Moves.

    def of(self, world: World) -> list[Next]:
        """Every move, the world after it, and what it broke."""
        out: list[Next] = []
        for p, process in enumerate(world.processes):
            for i, action, detail in self.tables.menu(process):
                if action is Action.BEGIN:
                    turned = self._turn(world, p, process, i, "begin", world.floor)
                    begun = turned.process
                    if not self.configuration.is_eager:
                        out.append(self._after(Move(p, i, action), world, turned))
                        continue
                    # A read begins in the moment of its first move: later is stricter.
                    for j, first, more in self.tables.menu(begun):
                        if j == i:
                            self._worker(out, world, p, begun, i, first, more)
                else:
                    self._worker(out, world, p, process, i, action, detail)
            self._crash(out, world, p, process)
        self._duplicates(out, world)
        self._accidents(out, world)
        return out

    def _worker(
        self, out: list[Next], world: World, p: int, process: int, i: int, action: Action, detail: Any
    ) -> None:
        move = Move(p, i, action)
        if action is Action.REQUEST:
            self._request(out, world, p, process, i, detail)
            return
        if action is Action.RENEW:
            ran = self.tables.run(world, world.processes, detail)
            turned = self._turn(world, p, process, i, "renewed", ran.event)
            out.append(self._after(move, world, turned, ran=ran, request=detail))
            return
        if action is Action.LOOK:
            self._look(out, world, p, process, i, detail)
        elif action is Action.COMMIT:
            self._commit(out, world, p, process, i)
        elif action is Action.END_REST:
            out.append(self._after(move, world, self._turn(world, p, process, i, "end rest", detail)))
            return
        elif action is Action.TIME_OUT:
            budgets = self._spent(world, Fault.SHARING_TIMEOUT)
            if budgets is not None:
                turned = self._turn(world, p, process, i, "time out", None)
                move = Move(p, i, action, Fault.SHARING_TIMEOUT)
                out.append(self._after(move, world, turned, budgets=budgets))
        else:
            turned = self._turn(world, p, process, i, action.name, None)
            out.append(self._after(move, world, turned))
        self._interruption_of(out, world, p, process, i)
        if action is Action.JOIN:
            self._interruption_of(out, world, p, process, i, what="interrupt joining")

    def _commit(self, out: list[Next], world: World, p: int, process: int, i: int) -> None:
        """The database takes a new version of what an act writes."""
        # Who sets a value must not have read it before others have written: `set` asks for that.
        are_set = any(self.tables.ending(each).is_setting for each in world.processes)
        if are_set and not self.configuration.sets_race:
            return
        act = self.tables.names.processes.objects[process].workers[i].acts[0]
        newest = max(world.version) + 1
        places = self.configuration.places if act.invalidates_tag else act.places
        version = tuple(newest if place in places else old for place, old in enumerate(world.version))
        turned = self._turn(world, p, process, i, "commit", newest)
        out.append(self._after(Move(p, i, Action.COMMIT), world, turned, version=version))

    def _look(self, out: list[Next], world: World, p: int, process: int, i: int, what: str) -> None:
        """The loader looks at the database, or raises."""
        loads = 0
        if self._counts_loads:
            worker = self.tables.names.processes.objects[process].workers[i]
            loads = world.loads + len(getattr(pending(worker), "names", (0,)))
        # What a counter has counted is known to those who were told, and nowhere else.
        seen = (world.won,) * len(world.version) if self._has_counters else world.version
        turned = self._turn(world, p, process, i, what, seen)
        out.append(self._after(Move(p, i, Action.LOOK), world, turned, loads=loads))
        budgets = self._spent(world, Fault.RAISING)
        if budgets is not None:
            turned = self._turn(world, p, process, i, "raise", None)
            move = Move(p, i, Action.LOOK, Fault.RAISING)
            out.append(self._after(move, world, turned, budgets=budgets, loads=loads))

    def _request(self, out: list[Next], world: World, p: int, process: int, i: int, request: int) -> None:
        """A request is performed and answered; or its way there, or the way back, is lost."""
        action = Action.REQUEST
        processes = (*world.processes[:p], process, *world.processes[p + 1 :])
        ran = self.tables.run(world, processes, request)
        turned = self._turn(world, p, process, i, "answer", ran.event)
        out.append(self._after(Move(p, i, action), world, turned, ran=ran, request=request))
        has_effect = self.tables.has_effect(request)
        budgets = self._spent(world, Fault.REQUEST_LOST)
        if budgets is not None:
            turned = self._turn(world, p, process, i, "answer", self.tables.timed_out)
            move = Move(p, i, action, Fault.REQUEST_LOST)
            out.append(self._after(move, world, turned, budgets=budgets, request=request))
        budgets = self._spent(world, Fault.REPLY_LOST)
        if budgets is not None and has_effect:
            turned = self._turn(world, p, process, i, "answer", self.tables.timed_out)
            move = Move(p, i, action, Fault.REPLY_LOST)
            out.append(self._after(move, world, turned, ran=ran, budgets=budgets, request=request))
        budgets = self._spent(world, Fault.IMPATIENCE)
        if budgets is not None and ran.denied is not None:
            turned = self._turn(world, p, process, i, "answer", ran.denied)
            move = Move(p, i, action, Fault.IMPATIENCE)
            out.append(self._after(move, world, turned, ran=ran, budgets=budgets, request=request))
        self._interruption_of(out, world, p, process, i, request)
        if has_effect:
            self._interruption_of(out, world, p, process, i, request, ran)

    def _interruption_of(
        self,
        out: list[Next],
        world: World,
        p: int,
        process: int,
        i: int,
        request: int | None = None,
        ran: Ran | None = None,
        what: str = "interrupt",
    ) -> None:
        """A worker is interrupted; its request, if it was asking, is performed if `ran` says so."""
        budgets = self._spent(world, Fault.INTERRUPTION)
        if budgets is None or not self.tables.may_be_interrupted(process, i):
            return
        turned = self._turn(world, p, process, i, what, None)
        action = Action.WORLD if request is None else Action.REQUEST
        if what == "interrupt joining":
            action = Action.JOIN
        move = Move(p, i, action, Fault.INTERRUPTION, "performed" if ran is not None else None)
        out.append(self._after(move, world, turned, ran=ran, budgets=budgets, request=request))

    def _crash(self, out: list[Next], world: World, p: int, process: int) -> None:
        budgets = self._spent(world, Fault.CRASH)
        if budgets is None or self.tables.ending(process).has_ended:
            return
        turned = self._turn(world, p, process, 0, "crash", None)
        out.append(self._after(Move(p, 0, Action.WORLD, Fault.CRASH), world, turned, budgets=budgets))

    def _duplicates(self, out: list[Next], world: World) -> None:
        """An earlier request arrives once more; its answer goes nowhere."""
        budgets = self._spent(world, Fault.DUPLICATE)
        if budgets is None:
            return
        past: Past = self.tables.names.pasts.objects[world.past]
        for request in sorted(self.tables.commands.number(each) for each in past.requests):
            ran = self.tables.run(world, world.processes, request)
            turned = Turned(world.processes[0], flags=MAY_LEAVE_LEASE if ran.issued else 0)
            move = Move(0, 0, Action.WORLD, Fault.DUPLICATE, request)
            out.append(self._after(move, world, turned, ran=ran, budgets=budgets))

    def _accidents(self, out: list[Next], world: World) -> None:
        """What happens to the store by itself."""
        facts = self.tables.facts(world.store)
        turned = Turned(world.processes[0])
        accidents: list[tuple[Fault, int | None, str | None]] = [
            *((Fault.GONE, store, key) for key, store in facts.gone),
            (Fault.EXPIRY, facts.jumped, None),
            (Fault.LAPSE, facts.lapsed, None),
            (Fault.AGE, facts.aged, None),
            (Fault.SAVED, facts.saved, None),
            (Fault.RESTART, facts.restarted, None),
            (Fault.PROMOTION, facts.promoted, None),
            (Fault.FORGERY, facts.forged, None),
        ]
        for fault, store, key in accidents:
            budgets = self._spent(world, fault)
            if budgets is not None and store is not None:
                move = Move(0, 0, Action.WORLD, fault, key)
                ran = Ran(store, broken=EMPTIED if fault is Fault.PROMOTION and facts.is_emptied else None)
                out.append(self._after(move, world, turned, ran=ran, budgets=budgets))

    # What they are made of.

    def _turn(self, world: World, p: int, process: int, i: int, what: str, detail: Any) -> Turned:
        may_interrupt = self._interruption is not None and world.budgets[self._interruption] > 0
        return self.tables.turn(p, process, i, what, detail, may_interrupt)

    def _after(
        self,
        move: Move,
        world: World,
        turned: Turned,
        *,
        ran: Ran | None = None,
        request: int | None = None,
        budgets: tuple[int, ...] | None = None,
        version: tuple[int, ...] | None = None,
        loads: int | None = None,
    ) -> Next:
        p = move.process
        processes = world.processes
        if turned.process != processes[p]:
            processes = (*processes[:p], turned.process, *processes[p + 1 :])
        store, past, broken = world.store, world.past, turned.broken
        filled: tuple[bytes, ...] = ()
        if ran is not None:
            store, filled = ran.store, ran.filled
            broken = broken or self._judged(world, ran)
        sent: tuple[int, ...] = ()
        if self._duplicate is not None:
            sent = turned.late if request is None else (request, *turned.late)
        if sent or filled:
            past = self.tables.later(past, sent, filled)
        after = World(
            processes,
            store,
            past,
            world.version if version is None else version,
            tuple(map(max, world.floor, turned.completed)) if turned.completed else world.floor,
            world.budgets if budgets is None else budgets,
            (world.flags | turned.flags) & self._flags,
            world.loads if loads is None else loads,
            world.won + turned.won if self._counts_won else 0,
        )
        return move, after, broken

    def _judged(self, world: World, ran: Ran) -> Broken | None:
        """S2 to S5, where a request shows that they do not hold."""
        wanted = self.configuration.invariants
        if ran.broken is not None and ran.broken[0] in wanted:
            return ran.broken
        if ran.filled and Invariant.S2 in wanted:
            past: Past = self.tables.names.pasts.objects[world.past]
            if not past.filled.isdisjoint(ran.filled):
                return Invariant.S2, "a second fill under one grant"
        if ran.issued and Invariant.S3 in wanted:
            for interner, number in self.tables.parts(world, world.processes):
                if not interner.grants[number].isdisjoint(ran.issued):
                    return Invariant.S3, "a grant with the id of another"
        return None

    def _spent(self, world: World, fault: Fault) -> tuple[int, ...] | None:
        """The budgets after one more of a fault, None where they do not allow it."""
        place = self._place.get(fault)
        if place is None:
            return None
        budgets = world.budgets
        left = budgets[place]
        if left == UNLIMITED:
            return budgets
        return (*budgets[:place], left - 1, *budgets[place + 1 :]) if left else None
