"""A cluster, as one process knows it: who owns which slot, where a command goes, and whom to ask. No I/O.

    unknown --a node's map--> known --MOVED, a node that fails--> wanted anew --a node's map--> known

*Whom to ask.* A key goes to the owner of its slot. MOVED is believed at once, for that slot, and the whole
map is wanted anew; ASK concerns one key, whose next attempt goes to the node that it names, behind ASKING.
Neither is a failure of the store: nothing was done, and the command is asked again.

*The map* is fetched by one, however many want it, and no more often than every `LEAST_PAUSE_S`: nodes take
turns, those last that have failed. Where none of them has one to give, what is known stays: redirections
correct it slot by slot. While a node that owns slots fails, the map is looked at again and again: a replica
may have taken over. One that has opened a connection, or has not failed any more for some seconds, is not
watched any longer.

*Who takes over.* Before a key goes to another node than before, that is told: what is known of the old node
may have to be known of the new one, which may lack what the old one has acknowledged. A node whose slots are
all gone has failed, or has agreed to be replaced; so those who have them now are its heirs. A node that MOVED
names, and that had no slot until then, is taken for an heir as well: the map knows more, and comes later.

*Parts.* What fails alone is a node, with all slots that it owns. Slots without an owner are a part of their
own, and so is everything while nothing is known.

Threads call this at once. Each method leaves it in order at every moment, without a lock: what two of them do
at the same time is what one after the other would have done.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

import attrs

from sansio_cache.keys import ONE_PART
from sansio_cache.url import AddressMap
from sansio_cache_redis.topology.slots import (
    NOBODY,
    SLOTS,
    MapError,
    moved_to,
    read_slots,
    slot_of,
)

NO_OWNER: Final = "slots without an owner"
"""The part of keys whose slots nobody owns."""
LEAST_PAUSE_S: Final = 0.1
"""How long after a map was fetched, or could not be, another is."""
WATCH_PAUSE_S: Final = 0.2
"""How often the map is looked at while a node fails that owns slots, in seconds."""
LONG_WATCH_PAUSE_S: Final = 1.0
"""The same after `LONG_S` of that."""
LONG_S: Final = 30.0
FAILING_S: Final = 10.0
"""A node that has not failed any more for so long is not watched: while it is out, it is asked more often."""
_ASKING_S: Final = 0.3
"""How long a key that was answered with ASK is looked for where that said. It stays there while its slot
moves, as the node that gives the slot up takes no new keys; and once it has moved it is the other's."""
_MOST_ASKED: Final = 10_000

Moves = frozenset[tuple[str, str]]
"""From which nodes to which others slots, or keys, have moved."""


def _is_told(_: Moves, __: frozenset[str]) -> None:
    """Nobody asks to be told."""


@attrs.define(eq=False)
class Cluster:
    """What is known of a cluster.

    Args:
        seeds: The addresses that the user has named.
        address_map: Gives the address under which a node can be reached, of that which it has for others.
    """

    seeds: Sequence[str]
    address_map: AddressMap | None = None
    owners: list[str] = attrs.field(factory=lambda: [NOBODY] * SLOTS, init=False)
    """The address of the owner of each slot."""
    nodes: frozenset[str] = attrs.field(default=frozenset(), init=False)
    """The owners, once each."""
    only: str = attrs.field(default="", init=False)
    """The owner, where one has all slots: then it does not matter which slot a key is in."""
    is_known: bool = attrs.field(default=False, init=False)
    """Whether any node has given a map yet."""
    is_single: bool = attrs.field(default=False, init=False)
    """Whether it is no cluster, but one server."""
    asking: dict[str, tuple[str, float]] = attrs.field(factory=dict, init=False)
    """By key, where its next attempt goes behind ASKING, and until when that holds.

    Empty soon after the last ASK, as each key that is looked for in it is slower then."""
    _asking_until_s: float = attrs.field(default=0.0, init=False)
    changes: int = attrs.field(default=0, init=False)
    """Another number each time that owners have changed."""
    _numbers: Iterator[int] = attrs.field(factory=partial(itertools.count, 1), init=False)
    failing: dict[str, float] = attrs.field(factory=dict, init=False)
    """By the address of a node that fails, when it has failed last, on the monotonic clock."""
    _watched_s: float | None = attrs.field(default=None, init=False)
    """Since when it has been looked whether another takes over; None where nobody looks."""
    on_move: Callable[[Moves, frozenset[str]], object] = attrs.field(default=_is_told, init=False)
    """Told before any key goes to another node than before: between which nodes, and which of them are heirs.

    The parts of keys are by then what they will be."""
    _last: list[str] = attrs.field(factory=lambda: [NOBODY] * SLOTS, init=False)
    """The latest owner of each slot, also of those that have none just now."""
    _coming: dict[int, Mapping[int, str]] = attrs.field(factory=dict, init=False)
    """What is being told: the owners that some slots will have, by a number of that telling."""
    _is_wanted: bool = attrs.field(default=True, init=False)
    _tried_s: float = attrs.field(default=-LEAST_PAUSE_S, init=False)
    _turn: int = attrs.field(default=0, init=False)

    # Where keys go.

    def owner(self, key: str) -> str:
        """The address of the owner of a key's slot; `NOBODY` where there is none, or nothing is known."""
        return self.owners[slot_of(key)]

    def part_of(self, key: str) -> str:
        """The part that a key is in: what fails alone."""
        if not self.is_known:
            return ONE_PART
        coming = tuple(self._coming.values())
        if self.only and not coming:
            return self.only
        slot = slot_of(key)
        owner = next((each[slot] for each in reversed(coming) if slot in each), self.owners[slot])
        return owner or NO_OWNER

    def asked_at(self, key: str, now_s: float) -> str | None:
        """Where a key goes behind ASKING; None where it goes to its owner."""
        if now_s > self._asking_until_s:
            self.asking = {}  # so that nothing is looked up here any more
            return None
        found = self.asking.get(key)
        return None if found is None or found[1] < now_s else found[0]

    def slots_of(self, address: str) -> list[int]:
        """The slots that a node owns."""
        return [slot for slot, owner in enumerate(self.owners) if owner == address]

    # What commands have met.

    def moved(self, slot: int, host: str, port: int, asked: str, key: str | None = None) -> None:
        """A node has answered that another owns the slot, that of a key."""
        self.redirected([(slot, host, port, key)], (), asked)

    def redirected(
        self,
        moved: Iterable[tuple[int, str, int, str | None]],
        disowned: Iterable[str],
        asked: str,
    ) -> None:
        """A node has answered what it does not own, of all that it was asked at once.

        Args:
            moved: Slots that another node owns: the slot, host and port of that, and the key in question.
            disowned: Keys whose slots nobody owns.
            asked: The node.
        """
        self._is_wanted = True
        named: dict[int, str] = {}
        for slot, host, port, key in moved:
            if key is not None:
                self.asking.pop(key, None)
            try:
                owner = moved_to(host, port, asked, self.address_map)
            except MapError:
                continue
            if 0 <= slot < SLOTS:
                named[slot] = owner
        known = dict.fromkeys(map(slot_of, disowned), NOBODY) | named
        owners = self.owners
        changed = {slot: owner for slot, owner in known.items() if owners[slot] != owner}
        self._change(changed, frozenset(named.values()))

    def ask(self, key: str, host: str, port: int, asked: str, now_s: float) -> None:
        """A node has answered that a key is at another while its slot moves."""
        try:
            target = moved_to(host, port, asked, self.address_map)
        except MapError:
            return
        self.on_move(frozenset({(asked, target)}), frozenset())
        if len(self.asking) >= _MOST_ASKED:
            self.asking = {}  # whoever asks for one of them is told again
        self._asking_until_s = now_s + _ASKING_S
        self.asking[key] = (target, self._asking_until_s)

    def failed(self, address: str, now_s: float) -> None:
        """A node does not serve: another may own its slots by now, or soon."""
        self.failing[address] = now_s
        self._is_wanted = True

    def answered(self, address: str) -> None:
        """A node serves again."""
        self.failing.pop(address, None)

    def want(self) -> None:
        """The map may be out of date."""
        self._is_wanted = True

    # The map.

    @property
    def is_wanted(self) -> bool:
        """Whether a map is to be fetched: what is known may be wrong, or soon."""
        return self._is_wanted or not self.is_known or self._is_watching

    @property
    def _is_watching(self) -> bool:
        """Whether a node fails that owns slots, or slots have no owner."""
        return any(address in self.nodes for address in tuple(self.failing)) or NOBODY in self.nodes

    def pause_s(self, now_s: float) -> float:
        """How long to wait before a map is fetched; only where one is wanted."""
        pause_s = LEAST_PAUSE_S
        if self.is_known and not self._is_wanted:
            since_s = now_s if self._watched_s is None else self._watched_s
            pause_s = WATCH_PAUSE_S if now_s - since_s < LONG_S else LONG_WATCH_PAUSE_S
        return max(self._tried_s + pause_s - now_s, 0.0)

    def candidates(self, now_s: float) -> list[str]:
        """Whom to ask for the map, one after the other: those last that fail."""
        self._tried_s = now_s
        self._is_wanted = False
        for address, failed_s in tuple(self.failing.items()):
            if now_s - failed_s > FAILING_S:
                self.failing.pop(address, None)
        self._watched_s = (self._watched_s or now_s) if self._is_watching else None
        known = sorted(self.nodes - {NOBODY})
        self._turn += 1
        turn = self._turn % len(known) if known else 0
        everybody = dict.fromkeys((*known[turn:], *known[:turn], *self.seeds))
        failing = self.failing
        return sorted(everybody, key=failing.__contains__)

    def take(self, reply: object, asked: str) -> None:
        """Take in what a node has answered to CLUSTER SLOTS.

        Raises:
            MapError: It is no map of the slots, or none of them has an owner: another node is to be asked.
        """
        owners = read_slots(reply, asked, self.address_map)
        if not any(owners):
            raise MapError("no slot has an owner")
        self.is_single = False
        self._take(owners)
        self.is_known = True

    def take_single(self, asked: str) -> None:
        """A node has answered that it is no cluster: then it has all keys, as it will say if that changes."""
        self.is_single = True
        self._take([asked] * SLOTS)
        self.is_known = True

    def _take(self, owners: list[str]) -> None:
        """A node has said who owns each slot."""
        both = enumerate(zip(self.owners, owners, strict=True))
        self._change({slot: now for slot, (before, now) in both if before != now})
        for address in tuple(self.failing):
            if address not in self.nodes and address not in self.seeds:
                self.failing.pop(address, None)

    def _change(self, changed: Mapping[int, str], by_moved: frozenset[str] = frozenset()) -> None:
        """Some slots have other owners than before, some of which a MOVED has named."""
        if not changed:
            return
        try:
            self._tell(changed, by_moved)
            owners = self._with(changed)  # another thread may have changed others meanwhile
            nodes = frozenset(owners)
            self.only = ""
            self.owners = owners
            self.nodes = nodes
            self.only = owners[0] if len(nodes) == 1 else ""
        finally:
            self.changes = next(self._numbers)  # last: who finds another one finds the owners there

    def _with(self, changed: Mapping[int, str]) -> list[str]:
        """The owners, but for those of some slots."""
        owners = list(self.owners)
        for slot, owner in changed.items():
            owners[slot] = owner
        return owners

    def _tell(self, changed: Mapping[int, str], by_moved: frozenset[str]) -> None:
        """Say what moves, if anything does."""
        last, latest = self._last, list(self._last)
        for slot, owner in changed.items():
            latest[slot] = owner or last[slot]
        self._last = latest
        pairs = {(last[slot], owner) for slot, owner in changed.items()}
        moves = frozenset((old, new) for old, new in pairs if old != new and NOBODY not in (old, new))
        if not moves:
            return
        nodes = frozenset(self._with(changed))
        first = by_moved - self.nodes
        heirs = frozenset(new for old, new in moves if old not in nodes or new in first)
        number = id(changed)
        self._coming[number] = changed
        try:
            self.on_move(moves, heirs)
        finally:
            self._coming.pop(number, None)
