"""Configurations: who takes part, what may go wrong, and which machines take part.

A variant (see `variants.py`) is a configuration with one part of the protocol replaced by a wrong one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

import attrs

from sansio_cache.budget import StoreTimeouts
from sansio_cache.cell import NONCE_BYTES, Cell, Foreign, Kind, Tag, above_floor, grant_us
from sansio_cache.codec import Codec, codec_for
from sansio_cache.coordinator import Coordinator
from sansio_cache.entry import MissReason, seal
from sansio_cache.errors import ConfigurationError
from sansio_cache.exploring.glancing import Kinds, glancing
from sansio_cache.exploring.invariants import ALL, Invariant
from sansio_cache.exploring.refusing import check_amount, check_whole
from sansio_cache.glance import NO_NAMED_TAGS, named_tags
from sansio_cache.loader import Fresh
from sansio_cache.memory_store import Kept, MemoryStore
from sansio_cache.notices import OperationName
from sansio_cache.operations.add import AddRequest, add
from sansio_cache.operations.batch import LoadManyRequest
from sansio_cache.operations.get import ReadRequest, get
from sansio_cache.operations.get_or_load import get_or_load
from sansio_cache.operations.invalidate import InvalidateRequest, invalidate
from sansio_cache.operations.load_many import load_many
from sansio_cache.operations.loading import RANDOM_BYTES, LoadRequest
from sansio_cache.operations.lookup import Longer, LookRequest, look
from sansio_cache.operations.mutate import EndRequest, MutateRequest, begin, end
from sansio_cache.operations.set_many import Item, SetRequest, set_many
from sansio_cache.operations.update import UpdateRequest, update
from sansio_cache.policy import Policy
from sansio_cache.signing import Signer
from sansio_cache.step import Step
from sansio_cache.strategies import Strategy, stores_writes
from sansio_cache.tags import tag_key
from sansio_cache.ttl import NO_JITTER

KEYS: Final = ("n:a", "n:b")
"""The keys; most configurations have one."""
KEY: Final = KEYS[0]
TAG: Final = "t:x"
"""A tag as entries name it. The generation of an entity is the same with another letter."""
TAG_KEY: Final = tag_key(KEY, TAG)
CODEC: Final[Codec[Any]] = codec_for(int, 64)
TEXT: Final[Codec[Any]] = codec_for(str, 64)
"""What another version of the program stores the same as."""
LEASE_S: Final = 1.0
LEASE_MS: Final = 1_000
SOFT_TTL_MS: Final = LEASE_MS
"""A soft expiry as long as a lease: one jump of the clock passes both."""
HARD_TTL_MS: Final = 10**7
MAX_LIFE_MS: Final = 2 * HARD_TTL_MS
"""How long an entry may live in all: who touches one asks for more."""
WAIT_S: Final = 30.0
SIGNED: Final[Codec[Any]] = codec_for(
    int, 64, signer=Signer((b"a key of the program's own",), MAX_LIFE_MS, 0)
)
"""The same where entries are signed."""
FORGED: Final[Codec[Any]] = attrs.evolve(SIGNED, signer=Signer((b"a key of a forger's own",), MAX_LIFE_MS, 0))
"""As somebody stores it who may write to the store, and knows no key."""
FORGED_VERSION: Final = 50
FORGERS: Final = b"a forger" + bytes(8)
TIMEOUTS: Final = StoreTimeouts(attempts=2)

NOW_S: Final = 1_000.0
"""The one clock, of drivers and of the store, which stands still: times in the cell move instead."""
NOW_MS: Final = 1_000_000
FIRST_US: Final = 10**9
"""The store's microsecond before the first that it issues."""
LAPSED_MS: Final = NOW_MS - 1
NEAR_MS: Final = NOW_MS + LEASE_MS // 2
"""Half a lease from now."""
FAR_MS: Final = NOW_MS + HARD_TTL_MS

LONG_AGO: Final = b"long ago" + bytes(8)
"""The id of what was stored, or issued, long before."""


class _Known(Policy):
    """A policy that is compared by its identity, as there are few and they are compared often."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


def _policy(**parts: Any) -> Policy:
    return _Known(jitter=NO_JITTER, lease_s=LEASE_S, max_lease_s=60.0, wait_s=WAIT_S, **parts)


_SOFT: Final = {"ttl": SOFT_TTL_MS / 1000, "stale_for_s": (HARD_TTL_MS - SOFT_TTL_MS) / 1000}

PLAIN: Final = _policy(ttl=HARD_TTL_MS / 1000, negative_ttl=HARD_TTL_MS / 1000)
"""Values are served while they are fresh, and that is for long."""
STALE_AT_ONCE: Final = _policy(**_SOFT)
"""Stale values are served at once, and refreshed in the background."""
STALE_AT_LAST: Final = _policy(**_SOFT, on_wait_timeout="stale")
"""Stale values are served where there is nothing better."""
EARLY: Final = _policy(ttl=HARD_TTL_MS / 1000, refresh_at=0.05)
"""Values of long ago are refreshed although they are fresh; new ones are not."""
ALWAYS_EARLY: Final = _policy(ttl=HARD_TTL_MS / 1000, xfetch_beta=999.0)
"""Every value is refreshed that is read: the draw is the lowest, and loads take a second."""


class Deed(Enum):
    """What a worker may do, from beginning to end."""

    LOAD = "get_or_load"
    LOAD_MANY = "get_or_load_many"
    GET = "get"
    INVALIDATE = "commit, then invalidate"
    EXPIRE = "commit, then expire"
    SET = "commit, then set"
    ADD = "commit, then add"
    COUNT = "incr"
    UPDATE = "update by what the database holds"
    TOUCH = "touch"
    MUTATE = "mutate without a value"
    MUTATE_AND_SET = "mutate with a value"
    WRITE = "write, as a strategy says"

    __hash__ = object.__hash__


_OPERATIONS: Final = {
    Deed.GET: OperationName.GET,
    Deed.LOAD: OperationName.GET_OR_LOAD,
    Deed.LOAD_MANY: OperationName.GET_OR_LOAD_MANY,
}


@attrs.frozen(eq=False)
class Act:
    """One thing that a worker does. Each is made once, and compared by its identity.

    Args:
        deed: What it does.
        places: Of which keys, in this order.
        tagged: Whether it names the tag: an entry that it stores depends on it; a write invalidates it.
        is_text: Whether it is done by the other version of the program.
        is_signed: Whether the program signs what it stores, and believes only what is signed.
        is_without_store: Whether it does not ask the store, as the breaker is open.
        is_outlived: Whether what its loader returns has nothing left to live.
        strategy: How it writes, where it writes as an entity does.
        begins_with_none: Whether version 0 of the database is that there is nothing: its loader returns None.
        inner: What its loader asks the cache for, before it looks at the database.
    """

    deed: Deed
    places: tuple[int, ...] = (0,)
    tagged: bool = False
    is_text: bool = False
    is_signed: bool = False
    is_without_store: bool = False
    is_outlived: bool = False
    strategy: Strategy | None = None
    begins_with_none: bool = False
    inner: Act | None = None

    @property
    def is_mutation(self) -> bool:
        """Whether it holds its keys while the database commits."""
        return self.deed in (Deed.MUTATE, Deed.MUTATE_AND_SET, Deed.WRITE)

    @property
    def has_value(self) -> bool:
        """Whether what it commits in a mutation is stored."""
        is_stored = self.strategy is not None and stores_writes(self.strategy)
        return is_stored or self.deed is Deed.MUTATE_AND_SET

    @property
    def is_read(self) -> bool:
        """Whether it returns a value to be judged."""
        return self.deed in (Deed.LOAD, Deed.LOAD_MANY, Deed.GET, Deed.UPDATE, Deed.TOUCH)

    @property
    def may_refresh(self) -> bool:
        """Whether it may begin a refresh in the background."""
        return self.deed is Deed.LOAD

    @property
    def heeds_tag(self) -> bool:
        """Whether what it returns must hold as to the tag. `get` finds it in the entry."""
        return self.tagged or self.deed is Deed.GET

    @property
    def invalidates_tag(self) -> bool:
        """Whether it is a write of what the tag stands for, too."""
        return self.tagged and not self.is_read and self.deed is not Deed.SET

    @property
    def keys(self) -> tuple[str, ...]:
        """The full keys."""
        return tuple(KEYS[place] for place in self.places)

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags, by name."""
        return (TAG,) if self.tagged else ()

    @property
    def tag_keys(self) -> tuple[str, ...]:
        """The tags, by key."""
        return (TAG_KEY,) if self.tagged else ()

    @property
    def codec(self) -> Codec[Any]:
        """How values are stored."""
        if self.is_signed:
            return SIGNED
        return TEXT if self.is_text else CODEC

    def value(self, version: int) -> Any:
        """A version of the database as the program knows it."""
        return str(version) if self.is_text else version

    def loaded(self, version: int) -> Any:
        """The same as a loader returns it."""
        if self.begins_with_none and version == 0:
            return None
        return Fresh(self.value(version), ttl=0) if self.is_outlived else self.value(version)


class Fault(Enum):
    """What may go wrong, with its number in RELIABILITY.md section 2 where it has one."""

    REQUEST_LOST = "1 request lost"
    REPLY_LOST = "2 reply lost"
    DUPLICATE = "3 delayed duplicate"
    EXPIRY = "8 lease expires"
    LAPSE = "8 lease deadline passes, cell stays"
    AGE = "8 half a lease passes"
    CRASH = "10 crash"
    FORGERY = "32 an entry that nobody has signed who knows a key"
    GONE = "6, 12 a key is gone: restart, eviction, DEL"
    SAVED = "42 a snapshot of the store is taken"
    RESTART = "42 the store is started anew, with its snapshot"
    PROMOTION = "16 a replica takes over that has heard of everything, and has loaded a snapshot once"
    INTERRUPTION = "28 interruption"
    RAISING = "loader raises"
    SHARING_TIMEOUT = "sharing times out"
    IMPATIENCE = "waiting runs out of patience"

    # That of `Enum` is computed in Python from the name, and this one is asked for in every move.
    __hash__ = object.__hash__


UNLIMITED: Final = 99
"""A budget that is never spent."""

AFTER_ALL_US: Final = FIRST_US + 10**6
"""The store's microsecond after all that it issues."""


def floor_after(fault: Fault) -> int:
    """What counts as gone after a fault, as it was issued before: all, after a restart with a snapshot."""
    return AFTER_ALL_US if fault is Fault.RESTART else 0


def trusted(cell: Cell | Foreign | Tag, floor_us: int) -> Cell | Foreign | Tag | None:
    """What is left of what a store has kept, where all counts as gone that was issued before a moment."""
    if isinstance(cell, Cell):
        return above_floor(cell, floor_us)
    return None if isinstance(cell, Tag) and grant_us(cell.version) < floor_us else cell


Program = tuple[Act, ...]


class Start(Enum):
    """What the store holds in the beginning."""

    NOTHING = "The keys do not exist."
    FRESH = "Each cell holds version 0."
    STALE = "Each cell holds version 0, which is stale."
    ENDING = "Each cell holds version 0, and has less to live than a lease lasts."


WARM: Final = (Start.NOTHING, Start.FRESH)


@attrs.frozen(kw_only=True)
class Configuration:
    """Who takes part, and what may go wrong.

    Args:
        name: For the table of results.
        processes: For each process the programs of its workers; a program is a row of acts.
        faults: How often each fault may strike, `UNLIMITED` where it costs nothing.
        starts: What the store may hold in the beginning.
        policy: How entries are kept and loaded.
        chunk: How many keys of a batch go into one command.
        load_s: How long loads say that they took.
        renewals: Run the renewal machines.
        probes: Whether the breaker stays open until a probe, which is a move, has been answered.
        compares: Whether the store fills by comparing first, as a server does that can.
        sets_race: Whether others commit between a set's call and its hold, against what `set` asks for.
        most_owners: How many callers may be told that they have added an entry.
        loads: How often the loader runs for a key in all, where that is certain (L2).
        most_loads: How often it runs at most.
        all_end: Whether it is certain that from every world all workers can come to an end (L1).
        invariants: What is checked.
        floor_us: What was issued before it counts as gone after a restart, or a promotion; or a wrong floor.
        trusted: What is left of a cell of before, by that floor; or a wrong rule.
        is_reduced: Whether worlds are renamed, pruned and taken modulo symmetry.
        is_eager: Whether what nobody can observe happens at once.
        store: The store, or a wrong one.
        coordinator: Makes what decides for one process, or a wrong one.
        request: What a get-or-load is asked for, or a wrong one.
        load, load_batch, remove, store_values, store_new, count, begin_mutation, end_mutation: Begin an
            operation, or a wrong one.
        glances: How reads look before their machines do, or a wrong way; None where they do not.

    Raises:
        ConfigurationError: A number, or a fault, is none that can be explored.
    """

    name: str
    processes: tuple[tuple[Program, ...], ...]
    faults: Mapping[Fault, int] = attrs.field(factory=dict)
    starts: tuple[Start, ...] = (Start.NOTHING,)
    policy: Policy = PLAIN
    chunk: int = 100
    load_s: float = 0.0
    renewals: bool = False
    probes: bool = False
    compares: bool = False
    sets_race: bool = False
    most_owners: int | None = None
    loads: int | None = None
    most_loads: int | None = None
    all_end: bool = False
    invariants: frozenset[Invariant] = ALL
    floor_us: Callable[[Fault], int] = floor_after
    trusted: Callable[[Cell | Foreign | Tag, int], Cell | Foreign | Tag | None] = trusted
    is_reduced: bool = True
    is_eager: bool = True
    store: type[MemoryStore] = MemoryStore
    coordinator: Callable[[], Coordinator] = Coordinator
    request: type[LoadRequest] = LoadRequest
    load: Callable[..., Step] = get_or_load
    load_batch: Callable[..., Step] = load_many
    remove: Callable[..., Step] = invalidate
    store_values: Callable[..., Step] = set_many
    begin_mutation: Callable[..., Step] = begin
    store_new: Callable[..., Step] = add
    count: Callable[..., Step] = update
    end_mutation: Callable[..., Step] = end
    glances: Kinds | None = None

    def __attrs_post_init__(self) -> None:
        check_whole("chunk", self.chunk, 1)
        check_amount("load_s", self.load_s)
        for name in ("most_owners", "loads", "most_loads"):
            if (bound := getattr(self, name)) is not None:
                check_whole(name, bound, 0)
        is_mapping = isinstance(self.faults, Mapping)
        for fault, budget in self.faults.items() if is_mapping else [(self.faults, 0)]:
            if not isinstance(fault, Fault):
                raise ConfigurationError(
                    "faults maps each Fault to how often it may strike, as in faults={Fault.GONE: 1}; got "
                    f"{fault!r:.80}"
                )
            check_whole(f"faults[{fault}]", budget, 0)

    @property
    def acts(self) -> tuple[Act, ...]:
        """All acts of all workers, each once."""
        programs = (program for process in self.processes for program in process)
        acts = [act for program in programs for act in program]
        inner = [act.inner for act in acts if act.inner is not None]
        return tuple(dict.fromkeys((*acts, *inner)))

    @property
    def places(self) -> range:
        """The keys that take part."""
        return range(1 + max(place for act in self.acts for place in (*act.places, 0)))

    @property
    def expires(self) -> bool:
        """Whether there are soft expiries, which allow for values older than the floor."""
        return any(act.deed is Deed.EXPIRE for act in self.acts)

    # The requests of operations.

    def read(
        self,
        act: Act,
        nonce: bytes,
        skip: MissReason | None,
        bypassed: frozenset[str],
        *,
        may_glance: bool = False,
    ) -> Step:
        """The first step of a read; it looks first where it may."""
        operation = _OPERATIONS.get(act.deed)
        if self.glances is None or operation is None or not may_glance:
            return self._read(act, nonce, skip, bypassed)
        if act.may_refresh and self.policy.refreshes_early:
            return self._read(act, nonce, skip, bypassed)
        tags = named_tags(act.tags, act.tag_keys) if act.tagged else NO_NAMED_TAGS
        begun = self._read(act, nonce, None, bypassed)
        return glancing(self.glances, operation, act.codec, tags, self.policy, begun, NOW_S)

    def _read(self, act: Act, nonce: bytes, skip: MissReason | None, bypassed: frozenset[str]) -> Step:
        if act.deed is Deed.TOUCH:
            longer = Longer(2 * MAX_LIFE_MS, MAX_LIFE_MS, nonce)
            looking = LookRequest(
                act.keys[0], act.codec, TIMEOUTS, NOW_S, OperationName.TOUCH, bypassed=bypassed, longer=longer
            )
            return look(looking, skip=skip)
        if act.deed is Deed.UPDATE:
            return update(self._update(act, nonce, None, bypassed), skip=skip)
        if act.deed is Deed.GET:
            return get(ReadRequest(act.keys[0], act.codec, TIMEOUTS, NOW_S, False, bypassed), skip=skip)
        request = self.request(
            name=act.keys[0],
            codec=act.codec,
            policy=self.policy,
            random_bytes=nonce + bytes(RANDOM_BYTES - NONCE_BYTES),
            timeouts=TIMEOUTS,
            started_s=NOW_S,
            tags=act.tags,
            bypassed=bypassed,
        )
        if act.deed is Deed.LOAD_MANY:
            return self.load_batch(LoadManyRequest(act.keys, act.keys, self.chunk, request), skip=skip)
        return self.load(request, skip=skip)

    def item(self, act: Act, version: int) -> Item:
        """A version of the database as a value to store."""
        payload = act.codec.encode(act.value(version)).payload
        return Item(act.keys[0], act.codec, payload, *self.policy.expiry_ms(0.0))

    def set(self, act: Act, nonce: bytes, version: int, skip: MissReason | None) -> Step:
        """The first step of a set."""
        items = (self.item(act, version),)
        request = SetRequest(OperationName.SET, items, nonce, LEASE_MS, 100, TIMEOUTS, NOW_S, act.tags)
        return self.store_values(request, skip=skip)

    def begin(self, act: Act, nonce: bytes, skip: MissReason | None) -> Step:
        """The first step of a mutation."""
        request = MutateRequest(act.keys, nonce, LEASE_MS, 60.0, TIMEOUTS, NOW_S)
        return self.begin_mutation(request, skip=skip)

    def add(self, act: Act, nonce: bytes, version: int, skip: MissReason | None) -> Step:
        """The first step of an add."""
        item = self.item(act, version)
        request = AddRequest(item, nonce, 0, LEASE_MS, WAIT_S, TIMEOUTS, NOW_S, act.tags)
        return self.store_new(request, skip=skip)

    def incr(self, act: Act, nonce: bytes, skip: MissReason | None) -> Step:
        """The first step of counting up."""
        return self.count(self._update(act, nonce, 1, frozenset()), skip=skip)

    def _update(self, act: Act, nonce: bytes, amount: int | None, bypassed: frozenset[str]) -> UpdateRequest:
        key, codec = act.keys[0], act.codec
        return UpdateRequest(
            key, codec, *self.policy.expiry_ms(0.0), nonce, 0, WAIT_S, TIMEOUTS, NOW_S, amount, bypassed
        )

    def end(
        self, act: Act, grants: tuple[bytes, ...] | None, items: tuple[Item, ...], skip: MissReason | None
    ) -> Step:
        """The first step of a mutation's end."""
        request = EndRequest(act.keys, grants, items, TIMEOUTS, NOW_S, act.tag_keys, hold_ms=LEASE_MS)
        return self.end_mutation(request, skip=skip)

    def stored(self, start: Start) -> tuple[tuple[str, Kept], ...]:
        """What a store holds in the beginning."""
        if start is Start.NOTHING:
            return ()
        is_tagged = any(act.tagged and act.is_read for act in self.acts)
        versions = ((TAG, LONG_AGO),) if is_tagged else ()
        _, soft_ttl_ms = self.policy.expiry_ms(0.0)
        soft_ms = NOW_MS + soft_ttl_ms if soft_ttl_ms else 0
        if start is Start.STALE:
            soft_ms = LAPSED_MS
        until_ms = NEAR_MS if start is Start.ENDING else FAR_MS
        codec = SIGNED if any(act.is_signed for act in self.acts) else CODEC
        kept = {}
        for place in self.places:
            key = KEYS[place]
            body = seal(key, codec, codec.encode(0).payload, self.load_s, versions, LONG_AGO, HARD_TTL_MS)
            kept[key] = Kept(Cell(Kind.VALUE, soft_ms=soft_ms, filled_by=LONG_AGO, body=body), until_ms)
        if is_tagged:
            kept[TAG_KEY] = Kept(Tag(LONG_AGO), FAR_MS)
        return tuple(sorted(kept.items()))


def removal(act: Act) -> InvalidateRequest:
    """What an invalidation, or a soft expiry, asks for."""
    is_soft = act.deed is Deed.EXPIRE
    operation = OperationName.EXPIRE if is_soft else OperationName.INVALIDATE
    keys = (*act.keys, *act.tag_keys)
    return InvalidateRequest(operation, keys, 100, TIMEOUTS, NOW_S, is_soft)
