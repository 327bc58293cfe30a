"""What the backends of a cluster share: its nodes, where a command goes, and what follows from a failure.

Each node is a backend of its own, with its connections, its clock and what it understands. A command about
one key goes to the owner of its slot as it is: a hit knows of the cluster only that. What concerns several
nodes is scattered and gathered. Where a node answers that a key is elsewhere, that is learned here, and the
core asks again; `Cluster` says where.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any, Final, Generic, Protocol, TypeVar

from msgspec import Struct
from redis.exceptions import AskError, ClusterDownError, MovedError

from sansio_cache.commands import DeleteKeys, Ping, ReadCells, ScanKeys, StoreCommand
from sansio_cache.config import CacheConfig
from sansio_cache.events import FailureKind, KeysFound, Ponged, StoreEvent, StoreFailed
from sansio_cache.health import Health
from sansio_cache.keys import ONE_PART
from sansio_cache_redis.calls import EVALSHA, Args, wake_channel
from sansio_cache_redis.connections.cluster_settings import ClusterSettings
from sansio_cache_redis.connections.opener import StartThread
from sansio_cache_redis.dialect import Dialect
from sansio_cache_redis.errors import classify
from sansio_cache_redis.facts import CLUSTER, Facts
from sansio_cache_redis.listening import Listener as WakeListener
from sansio_cache_redis.listening_cluster import ClusterListener, ShardListener
from sansio_cache_redis.reading import OnFailure
from sansio_cache_redis.reasons import Where, reason_of
from sansio_cache_redis.topology.cluster import NO_OWNER, Cluster, Moves
from sansio_cache_redis.topology.keeper import MapKeeper
from sansio_cache_redis.topology.scatter import Piece, gather, scatter, scatter_reads
from sansio_cache_redis.topology.slots import NOBODY, SLOTS, MapError, slot_of
from sansio_cache_redis.wire import encode, words_of
from sansio_cache_runtime.backend import Listener
from sansio_cache_runtime.process import process_lock
from sansio_cache_runtime.sync.event import ThreadEvent

_MOST_PROBED: Final = 200_000
"""How many names are tried for a key in one of a node's slots: one slot of all takes 16,384 in the middle."""
_TOLD_IN_S: Final = 0.5
"""How long keys wait at most with going to an heir until that is known, in seconds: a loop may have ended."""
BEHIND_ASKING: Final = "?"
"""What the address of a node begins with that is to be asked behind ASKING."""
_TURNED: Final = ("perform", "answer", "suspect", "trust", "distrust", "end_threads", "health", "listener")
"""What a backend of one server leaves to that of the cluster."""
_CURSORS: Final = 1 << 64
"""Cursors of nodes are below this; which node is being scanned stands above it."""
_MOST_NODES: Final = 1 << 16
"""Places of nodes are below this; which nodes are being scanned stands above it."""
_MOST_SCANNED: Final = 64
"""So many sets of nodes are known that scans began with."""


class NodeBackend(Protocol):
    """The backend of one node, as far as it matters to both colours."""

    @property
    def open_connections(self) -> int:
        """How many connections are open."""
        ...

    def suspect(self, part: str) -> None:
        """Set its connections aside."""
        ...

    def trust(self, part: str) -> None:
        """Use them again."""
        ...

    def distrust(self, part: str) -> None:
        """Close them."""
        ...


N = TypeVar("N", bound=NodeBackend)
K = TypeVar("K", bound="ClusterBase[Any]")


class NodeSettings(Struct, frozen=True):
    """What the backend of a node is made of.

    Attributes:
        address: Where it is.
        dialect: What it understands; its clock.
        on_failure: To be told of what fails there.
        where: Where it is, for messages.
    """

    address: str
    dialect: Dialect
    on_failure: OnFailure
    where: Where


def _is_never(_: str) -> bool:
    return False


class ClusterBase(Generic[N]):
    """The part of a backend of a cluster that neither waits nor does I/O.

    Args:
        config: Of the cache.
        settings: How the cluster is reached.
        make_node: Makes the backend of a node.
        start_thread: Starts the threads that fetch the map and that listen.
        clock: The local monotonic clock, in seconds.
        reach: Has something done where connections may be closed: in the event loop, where there is one.
    """

    def __init__(
        self,
        config: CacheConfig,
        settings: ClusterSettings,
        make_node: Callable[[NodeSettings], N],
        start_thread: StartThread,
        clock: Callable[[], float],
        reach: Callable[[Callable[[], object]], object],
    ) -> None:
        self._reach = reach
        self.place = settings.where.place
        """Where the cluster is, for messages."""
        self.address = settings.where.address
        """The same for those who are told of commands."""
        self.is_out: Callable[[str], bool] = _is_never
        """Whether a part is known not to serve. A cache says so; then nobody waits for it."""
        self.cluster = cluster = Cluster(settings.seeds, settings.address_map)
        """What is known of it."""
        self._config = config
        self._make_node = make_node
        self._clock = clock
        self._where = settings.where
        self._nodes: dict[str, N] = {}
        self._dialects: dict[str, Dialect] = {}
        self._scanned: dict[int, list[str]] = {}
        """The nodes that scans go through, by the number of that set."""
        self._floors_us: dict[str, int] = {}
        """By the address of a node, what it has got of floors with slots of others."""
        self._lock = process_lock()
        self._told: Callable[[str, bool], object] = _is_told
        cluster.on_move = self._is_moving

        def connecting(address: str) -> Any:
            return settings.blocking(address)()

        self.keeper = MapKeeper(cluster, connecting, start_thread, self._has_changed)
        self.listener: Listener | None = ClusterListener(
            cluster,
            ShardListener(cluster, connecting, start_thread, self.keeper.look),
            WakeListener(
                lambda: connecting(cluster.only or cluster.seeds[0]), config.namespace, start_thread
            ),
        )
        """Tells waiters of changes."""

    @property
    def open_connections(self) -> int:
        """How many connections are open, to all nodes together."""
        return sum(node.open_connections for node in tuple(self._nodes.values()))

    @property
    def parts(self) -> Sequence[str]:
        """The parts of the store: the nodes that own slots."""
        return self._owners() or (ONE_PART,)

    def words_of(self, command: StoreCommand) -> tuple[str, ...]:
        """What the nodes are asked for a command: one word for each, as if there were one node."""
        dialect = next(iter(tuple(self._dialects.values())), None)
        if dialect is None:
            dialect = Dialect(clock=self._clock, is_cluster=True, channel_of=self._channel_of)
        return words_of(command, dialect)

    def part_of(self, key: str) -> str:
        """The part of the store that a key is in: the node that owns its slot."""
        return self.cluster.part_of(key)

    def tell_openings(self, told: Callable[[str, bool], object]) -> None:
        """Have a function called when a connection to a node has opened, and when another node has its slots.

        Args:
            told: It is given the part, and whether another store answers for that than before.
        """
        self._told = told

    def _met(self, address: str, is_another: bool) -> None:
        self.cluster.answered(address)
        self._told(address, is_another)

    def suspect(self, part: str) -> None:
        """A reply may have belonged to another key: ask on fresh connections next."""
        if (node := self._nodes.get(part)) is not None:
            node.suspect(ONE_PART)

    def trust(self, part: str) -> None:
        """It did not."""
        if (node := self._nodes.get(part)) is not None:
            node.trust(ONE_PART)

    def distrust(self, part: str) -> None:
        """A reply belonged to another key: close the connections to the node. Of `ONE_PART`, to all."""
        for address, node in tuple(self._nodes.items()):
            if part in (ONE_PART, address):
                node.distrust(ONE_PART)

    def end_threads(self) -> None:
        """End what runs on threads of its own, where the event loop that would close all is over."""
        self.keeper.close()

    def _channel_of(self, key: str) -> bytes:
        """The channel on which those are told who wait for a key: one of its slot, where there are slots."""
        return wake_channel(key) if self.cluster.is_single else key.encode()

    # Where commands go.

    def node(self, address: str) -> N:
        """The backend of a node."""
        node = self._nodes.get(address)
        if node is not None:
            return node
        dialect = Dialect(
            clock=self._clock,
            is_cluster=True,
            owns=self._owning(address),
            channel_of=self._channel_of,
            clock_skew_s=self._config.redis.clock_skew_s,
        )
        dialect.on_met = partial(self._met, address)
        where = Where(address, self._where.is_tls)
        # Outside of the lock: it may load modules.
        made = self._make_node(NodeSettings(address, dialect, self._failed_at(address), where))
        with self._lock:
            if address not in self._nodes:  # of two that were made at once, the first one serves
                self._dialects[address] = dialect
                dialect.raise_floor(self._floors_us.get(address, 0))
                self._nodes[address] = made
            return self._nodes[address]

    def _owning(self, address: str) -> Callable[[str], bool]:
        return lambda key: self.cluster.owner(key) == address

    def _owners(self) -> list[str]:
        """The addresses of the nodes that own slots."""
        return sorted(self.cluster.nodes - {NOBODY})

    def _pieces(self, command: StoreCommand) -> list[Piece] | StoreEvent:
        """What each node is asked of a command; or the answer, where nobody has to be asked."""
        now_s = self._clock()
        if isinstance(command, Ping):
            return self._probe(command, now_s)
        if isinstance(command, ScanKeys):
            return self._page(command, now_s)
        if self.cluster.asking:
            return scatter(command, self._address_of)
        if type(command) is ReadCells and not command.tags:
            return scatter_reads(command, self.cluster.owners)
        return scatter(command, self.cluster.owner)

    def _unasked(self, piece: Piece) -> StoreFailed | None:
        """What a node answers that is not asked: there is none, or it is known not to serve."""
        command, address = piece.command, piece.address.removeprefix(BEHIND_ASKING)
        if address == NOBODY:
            self.keeper.look()
            reason = f"no node of the cluster of {self.place} serves the slots of some keys"
            return StoreFailed(self._clock(), FailureKind.UNAVAILABLE, NO_OWNER, reason)
        is_asked = isinstance(command, Ping) or (isinstance(command, DeleteKeys) and command.insists)
        if is_asked or not self.is_out(address):
            return None
        reason = f"{address} does not serve, and is not asked until it does"
        return StoreFailed(self._clock(), FailureKind.UNAVAILABLE, address, reason)

    def _address_of(self, key: str) -> str:
        """The node that has a key: behind ASKING where it begins with that."""
        elsewhere = self.cluster.asked_at(key, self._clock())
        return self.cluster.owner(key) if elsewhere is None else f"{BEHIND_ASKING}{elsewhere}"

    def _probe(self, command: Ping, now_s: float) -> list[Piece] | StoreEvent:
        """What finds out whether a part serves. One that is no more has nothing left that could fail."""
        cluster, part = self.cluster, command.part
        if part == NO_OWNER:
            cluster.want()
            self.keeper.look()
            if NOBODY in cluster.nodes:
                return StoreFailed(now_s, FailureKind.UNAVAILABLE, part)
            return Ponged(now_s)
        if part == ONE_PART:
            return Ponged(now_s)  # the map is known by now
        if part not in cluster.nodes:
            cluster.answered(part)
            return Ponged(now_s)
        dialect = self._dialects[self._known(part)]
        if not dialect.probe:
            dialect.probe = self._probe_of(part)
        return [Piece(part, command, (), ())]

    def _known(self, address: str) -> str:
        self.node(address)
        return address

    def _probe_of(self, address: str) -> bytes:
        """A key of the namespace that is in one of a node's slots, and that nothing is stored under."""
        owners = self.cluster.owners
        for number in range(_MOST_PROBED):
            key = f"{self._config.namespace}:%t:probe:{number}"
            if owners[slot_of(key)] == address:
                return key.encode()
        return b""

    def _has_changed(self) -> None:
        """There is a new map: what was in a node's slots may be elsewhere. On the keeper's thread."""
        for dialect in tuple(self._dialects.values()):
            dialect.probe = b""
        for address, node in tuple(self._nodes.items()):
            if address not in self.cluster.nodes:
                self._reach(partial(node.distrust, ONE_PART))  # it will not be asked again, or is asked anew

    def _is_moving(self, moves: Moves, heirs: frozenset[str]) -> None:
        """Keys are about to go to other nodes than before. On the keeper's thread, or a caller's.

        What a node has got from a snapshot moves with its slots, and does not get younger: so does its floor.
        An heir may not have heard of all that was written to the node before it.
        """
        for old, new in moves:
            before = self._dialects.get(old)
            floor_us = max(self._floors_us.get(old, 0), before.floor_us if before is not None else 0)
            if floor_us > self._floors_us.get(new, 0):
                self._floors_us[new] = floor_us  # of a node that is still to be made as well
                if (after := self._dialects.get(new)) is not None:
                    after.raise_floor(floor_us)
        for address in sorted(heirs):
            is_told = ThreadEvent()
            self._reach(partial(self._tell_of_heir, address, is_told))
            is_told.wait(_TOLD_IN_S)

    def _tell_of_heir(self, address: str, is_told: ThreadEvent) -> None:
        try:
            self._told(address, True)
        finally:
            is_told.set()

    def _page(self, command: ScanKeys, now_s: float) -> list[Piece] | StoreEvent:
        """The node whose keys are scanned now: one after the other of those that there were at the beginning.

        What a node had that is not one of the owners any more has not been scanned, or not all of it.
        """
        above, cursor = divmod(command.cursor, _CURSORS)
        number, place = divmod(above, _MOST_NODES)
        if not command.cursor:
            number = self._number_of(self._owners())
        nodes = self._scanned.get(number)
        if nodes is None:
            reason = "the nodes of the cluster have changed too often since the scan began"
            return StoreFailed(now_s, FailureKind.UNAVAILABLE, ONE_PART, reason)
        if place >= len(nodes):
            return KeysFound(now_s, 0, ())
        address = nodes[place]
        page = ScanKeys(command.pattern, cursor, command.count, command.timeout_s)
        piece = Piece(address, page, (number, place, len(nodes)), ())
        if address in self.cluster.nodes:
            return [piece]
        reason = f"{address} has no slots any more, and others have what was to be scanned there"
        return _page_of(piece, StoreFailed(now_s, FailureKind.UNAVAILABLE, address, reason))

    def _number_of(self, nodes: list[str]) -> int:
        """The number of a set of nodes: that of the last one, where it is the same."""
        with self._lock:
            last = max(self._scanned, default=0)
            if self._scanned.get(last) != nodes:
                last += 1
                self._scanned[last] = nodes
                self._scanned.pop(last - _MOST_SCANNED, None)
            return last

    def _gathered(
        self, command: StoreCommand, pieces: Sequence[Piece], events: Sequence[StoreEvent]
    ) -> StoreEvent:
        """The answer to a command, from those of the nodes."""
        if isinstance(command, ScanKeys):
            return _page_of(pieces[0], events[0])
        if isinstance(command, Ping) and isinstance(events[0], Ponged):
            self.cluster.answered(command.part)
        return events[0] if len(pieces) == 1 else gather(command, pieces, events)

    # Health.

    def _health_unknown(self) -> Health:
        """How the cluster is, where no node has said who owns which slot."""
        failure = self._unknown()
        return Health(ok=False, problems=(f"the cluster cannot be asked: {failure.reason}",))

    def _healths(self, healths: Mapping[str, Health]) -> Health:
        """How the cluster is, by how its nodes are."""
        each = list(healths.values())
        problems = [f"{address}: {said}" for address, one in healths.items() for said in one.problems]
        if NOBODY in self.cluster.nodes:
            count = len(self.cluster.slots_of(NOBODY))
            problems.append(f"{count} of {SLOTS} slots have no owner: keys in them are not cached")
        limits = [one.maxmemory_bytes for one in each if one.maxmemory_bytes is not None]
        server = next((one.server for one in each if one.server), "")
        return Health(
            ok=not problems,
            problems=tuple(problems),
            warnings=tuple(dict.fromkeys(said for one in each for said in one.warnings)),
            server=f"{server}, a cluster of {len(each)} nodes that own slots" if server else "",
            latency_s=max((one.latency_s for one in each), default=0.0),
            maxmemory_bytes=None if len(limits) < len(each) else (0 if 0 in limits else sum(limits)),
            durability=_together({address: one.durability for address, one in healths.items()}),
            eviction_policy=next((one.eviction_policy for one in each if one.eviction_policy), ""),
        )

    # What commands have met.

    def _unknown(self) -> StoreFailed:
        """No node has said who owns which slot."""
        failure = self.keeper.failure
        self.keeper.look()
        if failure is None:
            reason = f"no node of {self.place} has said in time which node has which keys"
            return StoreFailed(self._clock(), FailureKind.TIMEOUT, ONE_PART, reason)
        address, error = failure
        if isinstance(error, MapError):
            reason = f"what {address} says of who owns which slot cannot be used: {error}"
            return StoreFailed(self._clock(), FailureKind.UNAVAILABLE, ONE_PART, reason)
        kind = classify(error)
        reason, cause = reason_of(error, Where(address, self._where.is_tls))
        return StoreFailed(
            self._clock(), kind if kind.is_outage else FailureKind.UNAVAILABLE, ONE_PART, reason, cause
        )

    def _failed_at(self, address: str) -> OnFailure:
        def failed(event: StoreFailed, command: StoreCommand | None, replies: Sequence[Any]) -> None:
            cluster = self.cluster
            if event.kind is FailureKind.MOVED:
                commands = () if command is None else encode(command, self._dialects[address])
                moved, disowned = [], []
                for place, reply in enumerate(replies):
                    key = key_in(commands[place]) if place < len(commands) else None
                    if isinstance(reply, MovedError):
                        moved.append((reply.slot_id, reply.host, reply.port, key))
                    elif isinstance(reply, AskError) and key is not None:
                        cluster.ask(key, reply.host, reply.port, address, self._clock())
                    elif isinstance(reply, ClusterDownError) and key is not None:
                        disowned.append(key)
                cluster.redirected(moved, disowned, address)
            elif event.kind.is_outage or event.kind is FailureKind.READ_ONLY:
                cluster.failed(address, monotonic())
            else:
                return
            self.keeper.look()

        return failed


class MayBecomeCluster(Generic[K]):
    """What the backends of one server share, by a plain URL, that may turn out to be a node of a cluster.

    As a connection to it opens it says so, and else by its first answer to what is elsewhere. From then on
    all that is asked goes to the cluster. Its own connections stay open until the end, and are not used.
    """

    beyond: K | None = None
    """The backend of the cluster, once there is one."""
    is_out: Callable[[str], bool] = staticmethod(_is_never)
    """As `ClusterBase` has it."""
    make_cluster: Callable[[], K] | None = None
    """Makes it; None where what is known of this server does not do for one."""

    @property
    def parts(self) -> Sequence[str]:
        """The parts of the store."""
        return (ONE_PART,) if self.beyond is None else self.beyond.parts

    def part_of(self, key: str) -> str:
        """The part of the store that a key is in."""
        return ONE_PART if self.beyond is None else self.beyond.part_of(key)

    def on_failure(self, event: StoreFailed, *_: object) -> None:
        """Something has failed at the server: that a key is elsewhere is what nodes of a cluster say only."""
        if event.kind is FailureKind.MOVED:
            self._meet_cluster()

    def on_facts(self, facts: Facts) -> None:
        """The server has said what it is."""
        if facts.mode == CLUSTER:
            self._meet_cluster()

    def _meet_cluster(self) -> None:
        if self.beyond is None and self.make_cluster is not None:
            listener: Listener | None = getattr(self, "listener", None)
            if listener is not None:
                listener.close(wait=False)  # who waits polls, and the next one hears of his key's slot
            cluster = self.make_cluster()  # which opens nothing yet: of two that are made, one is used
            cluster.is_out = lambda part: self.is_out(part)
            if (told := getattr(self, "told", None)) is not None:
                cluster.tell_openings(told)
            with process_lock():
                if self.beyond is None:
                    self.beyond = cluster
            if self.beyond is not cluster:
                return
            for name in _TURNED:  # of its own, and not by a look at `beyond`: every hit comes here
                if hasattr(cluster, name):
                    self.__dict__[name] = getattr(cluster, name)


def _page_of(piece: Piece, event: StoreEvent) -> StoreEvent:
    """The page of a scan that a node has answered: its cursor says which node that was."""
    number, place, count = piece.keys
    above = number * _MOST_NODES + place
    following = (above + 1) * _CURSORS if place + 1 < count else 0
    if isinstance(event, KeysFound):
        cursor = event.cursor + above * _CURSORS if event.cursor else following
        return KeysFound(event.now_s, cursor, event.keys)
    if isinstance(event, StoreFailed) and count > 1:  # the other nodes have theirs
        return KeysFound(event.now_s, following, (), (event,))
    return event


def key_in(args: Args) -> str:
    """The key that a Redis command names."""
    at = 3 if args[0] in (EVALSHA, b"EVAL") else 1
    return args[at].decode(errors="replace") if len(args) > at else ""


def _together(by_address: Mapping[str, str]) -> str:
    """What is said of each node: once, where that is the same."""
    said = set(by_address.values())
    if len(said) == 1:
        return said.pop()
    return " ".join(f"{address}: {each}" for address, each in by_address.items() if each)


def _is_told(_: str, __: bool) -> None:
    """Nobody asks to be told."""
