"""The world: all there is at one moment, as a small tuple of numbers, and its canonical form.

Processes, stores and pasts are interned objects; `Names` puts a world into canonical form, as the package's
docstring explains: what nobody can claim by a nonce has none, what can have no effect is forgotten, ids are
labelled in the order in which they are met, and of all worlds that differ only by who is who, the least
stands for all.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import attrs

from sansio_cache.cell import NO_GRANT, NONCE_BYTES
from sansio_cache.commands import FillCells, ReleaseLeases, RenewLeases, StoreCommand, SwapCell
from sansio_cache.exploring.configuration import Configuration, Deed
from sansio_cache.exploring.naming import NAMELESS, Interner, grant_of, rewrite
from sansio_cache.exploring.process import Floor, Process, renamed_tickets
from sansio_cache.exploring.storing import Stored, filled_by
from sansio_cache.memory_store import MemoryStore

MAY_LEAVE_LEASE: Final = 1
"""Something has happened that may leave a lease behind until it lapses."""
WRITER_DIED: Final = 2
"""A writer died between its commit and its invalidation (S1f)."""


class World(NamedTuple):
    """All there is. The first three are numbers of interned objects."""

    processes: tuple[int, ...]
    store: int
    past: int
    version: tuple[int, ...]
    """For each key the newest version that was committed of it."""
    floor: Floor
    """The newest versions whose writes are complete."""
    budgets: tuple[int, ...]
    flags: int
    loads: int
    """How often a loader has looked; not counted where it does not matter."""
    won: int = 0
    """How many were told that they have added an entry, or counted one up."""


@attrs.frozen
class Past:
    """What has happened and still matters: requests that may arrive again, and grants that were filled."""

    requests: frozenset[StoreCommand] = frozenset()
    filled: frozenset[bytes] = frozenset()


@attrs.frozen
class _Swap:
    """A symmetry: for each process the place it is taken from, and the order of its workers there."""

    number: int
    sources: tuple[tuple[int, tuple[int, ...]], ...]
    nonces: dict[bytes, bytes]

    def name(self, name: bytes) -> bytes:
        """The name in the swapped world."""
        prefix = self.nonces.get(name[: NONCE_BYTES - 1])
        return name if prefix is None else prefix + name[NONCE_BYTES - 1 :]


class Names:
    """Canonical forms of the worlds of one configuration."""

    def __init__(self, configuration: Configuration, numbers: tuple[tuple[int, ...], ...]) -> None:
        self.processes = Interner()
        self.stores = Interner()
        self.pasts = Interner()
        self._may_prune = configuration.is_reduced and configuration.store is MemoryStore
        self._is_reduced = configuration.is_reduced
        self._names_values = any(act.deed in (Deed.COUNT, Deed.UPDATE) for act in configuration.acts)
        self._swaps = tuple(_swaps(configuration, numbers)) if configuration.is_reduced else ()
        self._swapped: dict[tuple[int, int, int], int] = {}
        self._named: dict[Any, tuple[tuple[int, ...], int, int]] = {}
        self._tidy_pasts: dict[tuple[int, bool, int], int] = {}

    def canonical(self, world: World, *, has_duplicates: bool) -> World:
        """The world that stands for all that are like this one."""
        key = (world.processes, world.store, world.past, has_duplicates)
        named = self._named.get(key)
        if named is None:
            named = self._named[key] = self._name(*key)
        processes, store, past = named
        return World(processes, store, past, *world[3:])

    def _name(
        self, processes: tuple[int, ...], store: int, past: int, has_duplicates: bool
    ) -> tuple[tuple[int, ...], int, int]:
        past = self._tidy_past(past, store, has_duplicates=has_duplicates)
        past = self._forget_filled(processes, store, past)
        if not self._is_reduced:
            return processes, store, past
        best = self._relabelled(processes, store, past)
        for swap in self._swaps:
            other = self._relabelled(*self._swap(swap, processes, store, past))
            best = min(best, other)
        return best

    def _tidy_past(self, past: int, store: int, *, has_duplicates: bool) -> int:
        """Forget requests that will not, or could not, be performed again to any effect."""
        key = (past, has_duplicates, store if self._may_prune and has_duplicates else -1)
        tidy = self._tidy_pasts.get(key)
        if tidy is None:
            old: Past = self.pasts.objects[past]
            requests = old.requests if has_duplicates else frozenset()
            if self._may_prune:
                held = _held(self.stores.objects[store])
                requests = frozenset(each for each in requests if not _is_spent(each, held))
            tidy = self._tidy_pasts[key] = self.pasts.number(Past(requests, old.filled))
        return tidy

    def _forget_filled(self, processes: tuple[int, ...], store: int, past: int) -> int:
        """Forget which grants were filled, where nobody can name them any more."""
        old: Past = self.pasts.objects[past]
        if not old.filled:
            return past
        named = frozenset().union(*(self.processes.grants[each] for each in processes))
        named |= self.stores.grants[store]
        for request in old.requests:
            if isinstance(request, FillCells):
                named |= {fill.grant for fill in request.fills}
            elif isinstance(request, SwapCell):
                named |= {request.fill_id}
        filled = old.filled & named
        return past if filled == old.filled else self.pasts.number(Past(old.requests, filled))

    def _swap(
        self, swap: _Swap, processes: tuple[int, ...], store: int, past: int
    ) -> tuple[tuple[int, ...], int, int]:
        swapped = []
        for place, (source, order) in enumerate(swap.sources):
            key = (processes[source], swap.number, place)
            number = self._swapped.get(key)
            if number is None:
                old: Process = self.processes.objects[processes[source]]
                background = old.workers[len(order) :]
                workers = (*(old.workers[each] for each in order), *background)
                tickets = {there: here for here, there in enumerate(order)}
                coordinator = renamed_tickets(old.coordinator, tickets)
                new = Process(rewrite(workers, swap.name), coordinator)
                number = self._swapped[key] = self.processes.number(new)
            swapped.append(number)
        return (
            tuple(swapped),
            self.stores.renamed(store, swap.number, swap.name),
            self.pasts.renamed(past, swap.number, swap.name),
        )

    def _relabelled(
        self, processes: tuple[int, ...], store: int, past: int
    ) -> tuple[tuple[int, ...], int, int]:
        """Label ids in the order in which they are met, those without a nonce of their own apart."""
        others = [(self.processes, each) for each in processes]
        others.append((self.pasts, past))
        claimable = self._claimable(others, store)
        labels: dict[bytes, int] = {}
        new_names: dict[bytes, bytes] = {}
        # What the past mentions, the others mention too: so its order, which depends on names, is none.
        for interner, number in (*others[:-1], (self.stores, store), others[-1]):
            grants = interner.grants[number]
            if not grants:
                continue
            for name in interner.mentioned[number]:
                if name in grants and name not in new_names:
                    nonce = name[:NONCE_BYTES] if name in claimable else NAMELESS
                    labels[nonce] = labels.get(nonce, 0) + 1
                    new_names[name] = grant_of(nonce, labels[nonce])
        changed = {old: new for old, new in new_names.items() if old != new}
        if not changed:
            return processes, store, past
        return (
            tuple(self.processes.relabelled(each, changed) for each in processes),
            self.stores.relabelled(store, changed),
            self.pasts.relabelled(past, changed),
        )

    def _held_or_named(self, stored: Stored) -> frozenset[Any]:
        """What somebody may claim by a nonce: leases and holds, and where there are swaps, values."""
        return _held(stored) | filled_by(stored) if self._names_values else _held(stored)

    def _claimable(self, others: list[tuple[Interner, int]], store: int) -> set[bytes]:
        """The ids that are held and that somebody may claim by their nonce. All else are but compared."""
        return {
            name
            for name in self._held_or_named(self.stores.objects[store])
            if any(name[:NONCE_BYTES] in interner.nonces[number] for interner, number in others)
        }


def _held(stored: Stored) -> frozenset[Any]:
    return frozenset(getattr(kept.cell, "grant", NO_GRANT) for _, kept in stored)


def _is_spent(request: StoreCommand, held: frozenset[Any]) -> bool:
    """Whether it names a grant that the store does not hold, and so never will again."""
    lease_requests: tuple[bytes, ...] = ()
    if isinstance(request, FillCells):
        lease_requests = tuple(fill.grant for fill in request.fills)
    elif isinstance(request, ReleaseLeases | RenewLeases):
        lease_requests = tuple(
            lease.lease_id for lease in request.leases if len(lease.lease_id) > NONCE_BYTES
        )
    return bool(lease_requests) and held.isdisjoint(lease_requests)


def _swaps(configuration: Configuration, numbers: tuple[tuple[int, ...], ...]) -> Iterator[_Swap]:
    """All symmetries but the identity."""
    shapes = configuration.processes
    places = range(len(shapes))
    count = 0
    for sources in itertools.permutations(places):
        if any(shapes[place] != shapes[source] for place, source in zip(places, sources, strict=True)):
            continue
        orders = [
            [
                order
                for order in itertools.permutations(range(len(shape)))
                if all(shape[here] == shape[there] for here, there in enumerate(order))
            ]
            for shape in shapes
        ]
        for chosen in itertools.product(*orders):
            nonces = {}
            for place, (source, order) in enumerate(zip(sources, chosen, strict=True)):
                for here, there in enumerate(order):
                    old, new = numbers[source][there], numbers[place][here]
                    if old != new:
                        nonces[b"worker%1d" % old] = b"worker%1d" % new
            if nonces:
                yield _Swap(count, tuple(zip(sources, chosen, strict=True)), nonces)
                count += 1
