"""Waits: which loads of a process wait for which, so that none waits for itself.

A loader may ask the cache for another key. While it waits for that, its own load goes on, and so do those
that wait for it. Where the loader of the other key asks for the first one, neither ever ends: a circle. It
may be longer, and go through batches, which load several keys at once.

    the loader of `page` waits for `menu`, whose loader asks for `page`

A wait is written down with the keys that it is for, and with those whose loaders it is *inside* of. One that
is inside of none holds nobody up. A wait would close a circle where the keys that it is for lead, from wait
to wait, to one of those that it is inside of. Then it must not begin: the caller goes on by itself, which
breaks the circle. Since every wait is looked at as it begins, there never is a circle.

Keys are compared, and no types: it may be another load of the same key that is meant. Then a caller goes on
by itself who need not have. Waits for other processes are not seen; these end by their deadlines.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

Waiter = tuple[int, int]
"""The number of a coordinator, and a ticket of its."""
Waiting = tuple[Waiter, frozenset[str], frozenset[str]]
"""Who waits, the keys that it waits for, and those whose loaders it is inside of."""


@attrs.define
class Waits:
    """The waits of one process inside of loaders, in any of its caches. Empty when there are none (B2).

    The caches of a process may call it at once, under locks of their own.
    """

    waiting: dict[Waiter, tuple[frozenset[str], frozenset[str]]] = attrs.field(factory=dict, init=False)
    """By who waits: the keys that it waits for, and those whose loaders it is inside of."""

    def begin(self, waiter: Waiter, keys: Iterable[str], inside: frozenset[str]) -> bool:
        """Begin to wait for keys, inside of the loaders of others; False where that would never end."""
        if not inside:  # as mostly
            return True
        wanted = frozenset(keys)
        # First, so that of two who close a circle at once one at least sees the other.
        self.waiting[waiter] = wanted, inside
        if not self._leads_to(wanted, inside):
            return True
        self.end(waiter)
        return False

    def end(self, waiter: Waiter) -> None:
        """The operation waits no more. Once more does no harm."""
        self.waiting.pop(waiter, None)

    def forget(self, number: int) -> None:
        """Nobody of a coordinator's waits any more."""
        for waiter in tuple(self.waiting):
            if waiter[0] == number:
                self.end(waiter)

    def _leads_to(self, wanted: frozenset[str], inside: frozenset[str]) -> bool:
        """Whether waiting for some keys is waiting for the loader of one of the others, in the end."""
        todo, seen = set(wanted), set[str]()
        while todo:
            if not todo.isdisjoint(inside):
                return True
            seen |= todo
            held = todo
            todo = set()
            for keys, holding in tuple(self.waiting.values()):  # a signal handler may come in between
                if not held.isdisjoint(holding):
                    todo |= keys - seen
        return False

    def snapshot(self) -> tuple[Waiting, ...]:
        """All that it holds, as a value."""
        return tuple((waiter, *wait) for waiter, wait in sorted(self.waiting.items(), key=_waiter))

    def restore(self, snapshot: Iterable[Waiting]) -> None:
        """Become what a snapshot was made of."""
        self.waiting = {waiter: (keys, inside) for waiter, keys, inside in snapshot}


def _waiter(pair: tuple[Waiter, object]) -> Waiter:
    return pair[0]
