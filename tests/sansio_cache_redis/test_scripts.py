"""The Lua texts do what the memory store does in Python, step by step.

One random sequence of semantic commands runs against both; each pair of events, and at the end everything
that is stored, must be the same but for the clocks: the microseconds in grants, and times that are compared
within seconds while all times that matter lie minutes apart.
"""

import time
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from sansio_cache.cell import (
    FOREIGN,
    NO_GRANT,
    Cell,
    Foreign,
    Kind,
    Tag,
    format_cell,
    issued_cell,
    make_grant,
    parse_cell,
)
from sansio_cache.codec import codec_for
from sansio_cache.commands import (
    NO_TAGS,
    AcquireLease,
    AcquireLeases,
    Capture,
    ClaimCell,
    DeleteKeys,
    ExpireCells,
    Fill,
    FillCells,
    FreeLock,
    HoldCells,
    InspectCell,
    Lease,
    LeaseRequest,
    Mode,
    Ping,
    ReadCell,
    ReadCells,
    ReadTags,
    ReleaseLeases,
    RenewLeases,
    ScanKeys,
    SwapCell,
    TakeLock,
    TouchCell,
)
from sansio_cache.config import CacheConfig
from sansio_cache.entry import seal
from sansio_cache.events import (
    CellInspected,
    CellRead,
    CellsExpired,
    CellsFilled,
    CellsRead,
    CellSwapped,
    CellTouched,
    FailureKind,
    FillResult,
    ForeignFound,
    FreshFound,
    HoldsTaken,
    KeysDeleted,
    KeysFound,
    LeaseDenied,
    LeaseGranted,
    LeasesAnswered,
    LeasesRenewed,
    StoreFailed,
    TagsRead,
    WriterFound,
)
from sansio_cache.memory_store import MemoryStore
from sansio_cache_redis.backend.sync import make_backend
from sansio_cache_redis.dialect import ContendedKeys
from sansio_cache_redis.scripts import ALL, CAPTURE
from sansio_cache_runtime.sync.background import Background
from support.nightly import EXAMPLES, many
from support.servers import Server, can_compare

pytestmark = pytest.mark.servers

KEYS = ("ns:a", "ns:b", "ns:ü")
TAGS = ("ns:%t:x", "ns:%t:ü")
NONCES = (b"nonce-00", b"nonce-11", b"nonce-22")
TTLS_MS = (300_000, 1_200_000)
INTS = codec_for(int, 1_000)
SEALED = seal("ns:a", INTS, b"8", 0.25)
TAGGED = seal("ns:a", INTS, b"7", 0.0, (("t:x", b"v" * 16), ("t:ü" * 100, b"w" * 16)))
LONG_TAG = seal("ns:a", INTS, b"7", 0.0, (("t" * 300, b"w" * 16),))
NOTHING = seal("ns:a", INTS, None, 0.0)
BODIES = (b"", b"body", b"\0\xff" * 40, SEALED, TAGGED, NOTHING, TAGGED[:-4], TAGGED[:60])
TIMEOUT_S = 10.0
# How far apart the two stores' clocks may be when a time is compared.
TOLERANCE_MS = 120_000


class Pair:
    """A memory store and a server that are asked the same.

    Where the server can compare, so does the memory store: what a fill by comparing finds is the same, too.
    In a fleet that is mixed, every other command is a program's that uses scripts only.
    """

    def __init__(self, client, *, is_mixed=False):
        self.client = client
        self.is_mixed = is_mixed
        self.asked = 0
        self.can_compare = can_compare(client)
        self.memory = MemoryStore(time.monotonic, compares=self.can_compare)
        config = CacheConfig(namespace="ns")
        self.server = make_backend(config, client, time.monotonic, Background().start)
        # Grants by the order in which they were issued: of memory, of the server.
        self.grants = []
        # The server's version of a tag for each of memory's, and the other way round.
        self.versions = {b"": b""}, {b"": b""}
        # A hold's answer says what time it is there; the first fill asks whether the server can compare.
        self.server.perform(HoldCells(("ns:a",), b"first---", 1_000, TIMEOUT_S))
        self.server.perform(FillCells((Fill("ns:a", NO_GRANT, 1, 0, b""),), TIMEOUT_S))
        client.flushall()

    def clocks(self):
        """The time of both stores, in milliseconds."""
        seconds, microseconds = self.client.time()
        return int(self.memory.clock() * 1000), seconds * 1000 + microseconds // 1000

    def ask(self, make):
        """Ask both, and compare. `make` gets 0 for memory, 1 for the server."""
        self.asked += 1
        compares = self.can_compare and not (self.is_mixed and self.asked % 2)
        self.memory.compares = self.server._dialect.compares = compares
        self.server._dialect.contended = ContendedKeys()  # memory compares at any key
        events = self.memory.perform(make(0)), self.server.perform(make(1))
        clocks = self.clocks()
        said = [seen(event, now_ms) for event, now_ms in zip(events, clocks, strict=True)]
        assert same(said[0], said[1]), f"{make(0)}\nmemory: {events[0]}\nserver: {events[1]}"
        for mine, theirs in zip(granted(events[0]), granted(events[1]), strict=True):
            if (mine, theirs) not in self.grants:
                self.grants.append((mine, theirs))
        versions = [getattr(event, "versions", ()) for event in events]
        for mine, theirs in zip(*versions, strict=True):
            # The same version again on one side is the same again on the other (S7).
            assert self.versions[0].setdefault(mine, theirs) == theirs
            assert self.versions[1].setdefault(theirs, mine) == mine
        return events[0]

    def plant(self, key, kind, nonce, lease_ms, soft_ms, filled_by, body):
        """Put a cell into both, whose times are relative to each clock; None is something foreign."""
        mine, server = self.clocks()
        if kind is None:
            self.memory.plant(key, FOREIGN, mine + TTLS_MS[0])
            self.client.delete(key)
            self.client.rpush(key, b"a list")
            self.client.pexpire(key, TTLS_MS[0])
            return
        for now_ms, place in ((mine, 0), (server, 1)):
            cell = Cell(
                kind=kind,
                grant=NO_GRANT if nonce is None else make_grant(nonce, 7),
                lease_deadline_ms=0 if nonce is None else now_ms + lease_ms,
                soft_ms=now_ms + soft_ms if soft_ms else 0,
                filled_by=NO_GRANT if filled_by is None else make_grant(filled_by, 7),
                body=body if kind is Kind.VALUE else b"",
            )
            if place == 0:
                self.memory.plant(key, cell, now_ms + TTLS_MS[0])
            else:
                self.client.set(key, format_cell(cell), px=TTLS_MS[0])
        for known in (nonce, filled_by):
            if known is not None and (make_grant(known, 7),) * 2 not in self.grants:
                self.grants.append((make_grant(known, 7),) * 2)

    def grant(self, number, place):
        """A grant that was issued before, by its number; or one that never was."""
        known = [*self.grants, (make_grant(b"unknown-", 1),) * 2]
        return known[number % len(known)][place]

    def raise_floor(self):
        """Let both trust nothing any more that was issued so far."""
        seconds, microseconds = self.client.time()
        self.server._dialect.raise_floor(seconds * 1_000_000 + microseconds + 1)
        floor_us = max(int(self.memory.clock() * 1_000_000), self.memory.issued_us) + 1
        self.memory.floor_us = self.memory.issued_us = floor_us

    def compare_all(self):
        """Compare everything that is stored."""
        mine, server = self.clocks()
        kept = {
            key: (seen(each.cell, mine), each.expires_ms - mine)
            for key, each in self.memory.dump().items()
            if each.expires_ms > mine
        }
        there = {}
        for name in self.client.keys("*"):
            raw = FOREIGN if self.client.type(name) == b"list" else parsed(self.client.get(name))
            there[name.decode()] = (seen(raw, server), self.client.pttl(name))
        assert same(kept, there)


def parsed(raw):
    """What a string is: a cell, or the version of a tag."""
    return Tag(raw) if len(raw) == 16 else parse_cell(raw)


def granted(event):
    """The grants that an event issues, or shows."""
    if isinstance(event, HoldsTaken):
        return event.grants
    if isinstance(event, LeasesAnswered):
        return tuple(grant for answer in event.answers for grant in granted(answer))
    if isinstance(event, CellSwapped):
        return () if event.version is None else (event.version,)
    return (event.grant,) if isinstance(event, LeaseGranted) else ()


def seen(what, now_ms):  # noqa: C901 - one case for each kind of event
    """An event or a cell as plain values: grants by nonce, times relative to the store's clock."""
    match what:
        case None | Foreign():
            return repr(what)
        case Cell():
            return (
                Kind(what.kind).name,
                what.grant[:8],
                what.lease_deadline_ms - now_ms if what.lease_deadline_ms else None,
                what.soft_ms - now_ms if what.soft_ms else None,
                what.filled_by[:8],
                what.body,
            )
        case Tag(version=version):
            return ("tag", version[:8])
        case CellRead():
            return (seen(what.cell, now_ms), nonces_of(what))
        case CellsRead():
            return ([seen(cell, now_ms) for cell in what.cells], nonces_of(what))
        case TagsRead():
            return ("tags", nonces_of(what))
        case LeaseGranted():
            stale = seen(what.stale, now_ms)
            return ("granted", what.grant[:8], stale, what.server_ms - now_ms, nonces_of(what))
        case LeaseDenied():
            stale = seen(what.stale, now_ms)
            return ("denied", what.left_ms, stale, what.server_ms - now_ms, nonces_of(what))
        case FreshFound():
            return ("fresh", seen(what.cell, now_ms), what.server_ms - now_ms, nonces_of(what))
        case WriterFound():
            return ("writer", what.left_ms)
        case LeasesAnswered():
            return ("answered", [seen(answer, now_ms) for answer in what.answers], nonces_of(what))
        case HoldsTaken():
            return ("held", [grant[:8] for grant in what.grants], nonces_of(what))
        case KeysFound():
            return ("found", sorted(what.keys))
        case CellsFilled():
            return ("filled", [result.name for result in what.results], nonces_of(what))
        case CellsExpired(count=count):
            return ("expired", str(count))
        case LeasesRenewed():
            return ("renewed", what.renewed)
        case CellInspected():
            return ("inspected", seen(what.cell, now_ms), what.left_ms, what.server_ms - now_ms)
        case CellSwapped(version=version):
            return ("swapped", version and version[:8])
        case CellTouched():
            return ("touched", what.touched)
        case KeysDeleted():
            return ("deleted", str(what.count), what.existed)
        case _:
            return (type(what).__name__, str(getattr(what, "count", "")), getattr(what, "kind", None))


def nonces_of(event):
    """Whose captures have issued the versions of an event; empty for a tag that has none."""
    return [version[:8] for version in event.versions]


def same(mine, theirs):
    """Whether two things are equal, numbers within the tolerance of the clocks."""
    if type(mine) is type(theirs) is int:
        return abs(mine - theirs) <= TOLERANCE_MS
    if isinstance(mine, dict):
        return mine.keys() == theirs.keys() and all(same(mine[key], theirs[key]) for key in mine)
    if isinstance(mine, list | tuple):
        return len(mine) == len(theirs) and all(map(same, mine, theirs))
    return mine == theirs


keys = st.sampled_from(KEYS)
nonces = st.sampled_from(NONCES)
ttls = st.sampled_from(TTLS_MS)
numbers = st.integers(0, 5)
some_keys = st.lists(keys, min_size=1, max_size=3, unique=True)
tags = st.lists(st.sampled_from(TAGS), max_size=2, unique=True)

STEPS = st.one_of(
    st.tuples(st.just("read"), keys, tags),
    st.tuples(st.just("read many"), some_keys, st.integers(1, 3), tags),
    st.tuples(
        st.just("read tags"),
        st.lists(st.sampled_from((*TAGS, *KEYS)), min_size=1, max_size=3, unique=True),
    ),
    st.tuples(st.just("acquire"), keys, nonces, ttls, numbers | st.none(), st.sampled_from(Mode), tags),
    st.tuples(st.just("acquire"), keys, nonces, ttls, st.none(), st.just(Mode.KEEP), tags),
    st.tuples(
        st.just("acquire many"),
        some_keys,
        nonces,
        ttls,
        st.lists(st.tuples(numbers | st.none(), st.sampled_from(Mode)), min_size=3, max_size=3),
        tags,
    ),
    st.tuples(
        st.just("fill"),
        some_keys,
        numbers,
        ttls,
        st.sampled_from((0, 600_000)),
        st.sampled_from(BODIES),
        tags,
        st.sampled_from((Kind.EMPTY, Kind.HOLD)),
        st.sampled_from((0, *TTLS_MS)),
    ),
    st.tuples(st.just("renew"), some_keys, numbers, ttls, st.booleans()),
    st.tuples(st.just("release"), some_keys, numbers, st.booleans()),
    st.tuples(st.just("hold"), some_keys, nonces, ttls, tags),
    st.tuples(st.just("inspect"), keys),
    st.tuples(st.just("look and delete"), keys),
    st.tuples(st.just("claim"), keys, nonces, ttls, tags),
    st.tuples(st.just("claim instead"), keys, nonces, ttls, numbers),
    st.tuples(
        st.sampled_from(("swap", "swap under an id")),
        keys,
        numbers,
        nonces,
        st.sampled_from((-1, 0, *TTLS_MS)),
        st.sampled_from((0, 600_000)),
    ),
    st.tuples(st.just("touch"), keys, numbers, ttls, ttls, tags),
    st.tuples(st.just("take"), keys, nonces, ttls),
    st.tuples(st.just("free"), keys, numbers, st.booleans()),
    st.tuples(st.just("expire"), some_keys),
    st.tuples(st.just("delete"), some_keys),
    st.tuples(st.just("delete"), st.lists(st.sampled_from((*TAGS, *KEYS)), min_size=1, unique=True)),
    st.tuples(st.just("tag is foreign"), st.sampled_from(TAGS)),
    st.tuples(st.just("scan"), st.sampled_from(("*", "ns:*", "ns:[ab]", "ns:%t:*", "nothing"))),
    st.tuples(st.just("ping")),
    st.tuples(
        st.just("plant"),
        keys,
        st.sampled_from((None, *Kind)),
        nonces | st.none(),
        st.sampled_from((-600_000, 600_000)),
        st.sampled_from((0, -600_000, 600_000)),
        nonces | st.none(),
        st.sampled_from(BODIES),
    ),
    st.tuples(st.just("forget scripts")),
    st.tuples(st.just("start from a snapshot")),
)


def capturing(tags, ttl_ms):
    return Capture(tuple(tags), ttl_ms) if tags else NO_TAGS


def seen_by(pair, number, place):
    return NO_GRANT if number is None else pair.grant(number, place)


def take(pair, step):  # noqa: C901 - one case for each kind of step
    """One step of a sequence, against both stores."""
    match step:
        case ("read", key, tags):
            pair.ask(lambda _: ReadCell(key, TIMEOUT_S, tuple(tags)))
        case ("read many", some, chunk, tags):
            # MGET cannot tell what is no string from what is not there.
            if not any(isinstance(pair.memory.dump().get(key), Foreign) for key in some):
                strings = [key for key in some if pair.client.type(key) != b"list"]
                if strings:
                    pair.ask(lambda _: ReadCells(tuple(strings), chunk, TIMEOUT_S, tuple(tags)))
        case ("read tags", some):
            pair.ask(lambda _: ReadTags(tuple(some), TIMEOUT_S))
        case ("acquire", key, nonce, lease_ms, number, mode, tags):
            pair.ask(
                lambda place: AcquireLease(
                    key,
                    nonce,
                    lease_ms,
                    seen_by(pair, number, place),
                    mode,
                    TIMEOUT_S,
                    capturing(tags, lease_ms),
                )
            )
        case ("acquire many", some, nonce, lease_ms, refused, tags):
            pair.ask(
                lambda place: AcquireLeases(
                    tuple(
                        LeaseRequest(key, seen_by(pair, number, place), mode)
                        for key, (number, mode) in zip(some, refused, strict=False)
                    ),
                    nonce,
                    lease_ms,
                    TIMEOUT_S,
                    capturing(tags, lease_ms),
                )
            )
        case ("fill", some, number, ttl_ms, soft_ms, body, tags, *lease):
            pair.ask(
                lambda place: FillCells(
                    tuple(
                        Fill(key, pair.grant(number, place), ttl_ms, soft_ms, body, *lease) for key in some
                    ),
                    TIMEOUT_S,
                    tuple(tags),
                )
            )
        case ("renew", some, number, lease_ms, by_nonce):
            pair.ask(
                lambda place: RenewLeases(
                    tuple(Lease(key, lease_of(pair, number, place, by_nonce)) for key in some),
                    lease_ms,
                    TIMEOUT_S,
                )
            )
        case ("release", some, number, by_nonce):
            pair.ask(
                lambda place: ReleaseLeases(
                    tuple(Lease(key, lease_of(pair, number, place, by_nonce)) for key in some), TIMEOUT_S
                )
            )
        case ("hold", some, nonce, hold_ms, tags):
            pair.ask(
                lambda _: HoldCells(tuple(some), nonce, hold_ms, TIMEOUT_S, capturing(tags, 2 * hold_ms))
            )
        case ("inspect", key):
            pair.ask(lambda _: InspectCell(key, TIMEOUT_S))
        case ("look and delete", key):
            pair.ask(lambda _: DeleteKeys((key,), TIMEOUT_S, looks=True))
        case ("claim", key, nonce, hold_ms, tags):
            pair.ask(lambda _: ClaimCell(key, nonce, hold_ms, TIMEOUT_S, capturing(tags, 2 * hold_ms)))
        case ("claim instead", key, nonce, hold_ms, number):
            pair.ask(
                lambda place: ClaimCell(key, nonce, hold_ms, TIMEOUT_S, refused=pair.grant(number, place))
            )
        case (("swap" | "swap under an id") as how, key, number, nonce, hard_ms, soft_ms):
            fill_id = b"" if how == "swap" else make_grant(nonce, 5)
            ttls_ms = (hard_ms, soft_ms)
            pair.ask(
                lambda place: SwapCell(
                    key, pair.grant(number, place), nonce, *ttls_ms, SEALED, TIMEOUT_S, fill_id
                )
            )
        case ("touch", key, number, ttl_ms, life_ms, tags):
            pair.ask(
                lambda place: TouchCell(
                    key,
                    pair.grant(number, place),
                    ttl_ms,
                    life_ms,
                    NONCES[0],
                    TIMEOUT_S,
                    capturing(tags, 2 * ttl_ms),
                )
            )
        case ("take", key, nonce, lease_ms):
            pair.ask(lambda _: TakeLock(key, nonce, lease_ms, TIMEOUT_S))
        case ("free", key, number, by_nonce):
            pair.ask(lambda place: FreeLock(Lease(key, lease_of(pair, number, place, by_nonce)), TIMEOUT_S))
        case ("expire", some):
            pair.ask(lambda _: ExpireCells(tuple(some), TIMEOUT_S))
        case ("tag is foreign", tag):
            pair.plant(tag, None, None, 0, 0, None, b"")
        case ("delete", some):
            pair.ask(lambda _: DeleteKeys(tuple(some), TIMEOUT_S))
        case ("scan", pattern):
            pair.ask(lambda _: ScanKeys(pattern, 0, 1000, TIMEOUT_S))
        case ("ping",):
            pair.ask(lambda _: Ping(TIMEOUT_S))
        case ("plant", *cell):
            pair.plant(*cell)
        case ("forget scripts",):
            pair.client.script_flush()
        case ("start from a snapshot",):
            pair.raise_floor()
        case _:
            raise AssertionError(step)


def lease_of(pair, number, place, by_nonce):
    grant = pair.grant(number, place)
    return grant[:8] if by_nonce else grant


@pytest.fixture(scope="module")
def client():
    with Server.start() as server, closing(server.client()) as client:
        yield client


@settings(max_examples=many(250, EXAMPLES), deadline=None, print_blob=True)
@given(steps=st.lists(STEPS, min_size=1, max_size=25), is_mixed=st.booleans())
def test_a_sequence_of_commands_has_the_same_answers_in_memory_and_on_the_server(client, steps, is_mixed):
    """S2 to S5, for every script: the simulator's store and the real one are the same machine.

    Also where some of those who ask store by comparing, and others by script.
    """
    pair = Pair(client, is_mixed=is_mixed)
    for step in steps:
        take(pair, step)
    pair.compare_all()


GRANTED = ("acquire", "ns:a", NONCES[0], 300_000, None, Mode.KEEP, [])

# One sequence for each branch of each script, so that none depends on luck.
BRANCHES = {
    "look: nothing there": [("inspect", "ns:a"), ("look and delete", "ns:a")],
    "look: foreign": [
        ("plant", "ns:a", None, None, 0, 0, None, b""),
        ("inspect", "ns:a"),
        ("look and delete", "ns:a"),
    ],
    "look: a value": [
        ("plant", "ns:a", Kind.VALUE, None, 0, 600_000, NONCES[1], TAGGED),
        ("inspect", "ns:a"),
        ("look and delete", "ns:a"),
    ],
    "look: known to be nothing": [
        ("plant", "ns:a", Kind.VALUE, None, 0, 0, NONCES[1], NOTHING),
        ("look and delete", "ns:a"),
    ],
    "look: a lease": [GRANTED, ("inspect", "ns:a"), ("look and delete", "ns:a")],
    "claim: nothing there, and again": [("claim", "ns:a", NONCES[0], 300_000, ["ns:%t:x"])] * 2,
    "claim: a lease, which goes": [
        ("acquire", "ns:a", NONCES[1], 300_000, None, Mode.KEEP, []),
        ("claim", "ns:a", NONCES[0], 300_000, []),
        ("fill", ["ns:a"], 1, 300_000, 0, SEALED, []),
    ],
    "claim: a value, also a stale one": [
        ("plant", "ns:a", Kind.VALUE, None, 0, -600_000, NONCES[1], SEALED),
        ("claim", "ns:a", NONCES[0], 300_000, []),
    ],
    "claim: a value that says nothing": [
        ("plant", "ns:a", Kind.VALUE, None, 0, 0, NONCES[1], b""),
        ("claim", "ns:a", NONCES[0], 300_000, []),
    ],
    "claim: known to be nothing": [
        ("plant", "ns:a", Kind.VALUE, None, 0, 0, NONCES[1], NOTHING),
        ("claim", "ns:a", NONCES[0], 300_000, []),
    ],
    "claim: another writer": [
        ("hold", ["ns:a"], NONCES[1], 300_000, []),
        ("claim", "ns:a", NONCES[0], 300_000, []),
    ],
    "claim: another writer's hold that is over": [
        ("plant", "ns:a", Kind.HOLD, NONCES[1], -600_000, 0, None, b""),
        ("claim", "ns:a", NONCES[0], 300_000, []),
    ],
    "claim: foreign": [
        ("plant", "ns:a", None, None, 0, 0, None, b""),
        ("claim", "ns:a", NONCES[0], 300_000, []),
    ],
    "swap: the value, then again, then by one who is late": [
        ("plant", "ns:a", Kind.VALUE, NONCES[2], 600_000, 600_000, NONCES[1], TAGGED),
        ("swap", "ns:a", 1, NONCES[0], 1_200_000, 600_000),
        ("swap", "ns:a", 1, NONCES[0], 1_200_000, 600_000),
        ("swap", "ns:a", 1, NONCES[1], 1_200_000, 0),
    ],
    "swap: what it had left to live": [
        ("plant", "ns:a", Kind.VALUE, None, 0, 600_000, NONCES[1], SEALED),
        ("swap", "ns:a", 0, NONCES[0], 0, 0),
    ],
    "swap: nothing takes the place of a value, and that once": [
        ("plant", "ns:a", Kind.VALUE, None, 0, 600_000, NONCES[1], SEALED),
        ("swap", "ns:a", 0, NONCES[0], -1, 0),
        ("swap", "ns:a", 0, NONCES[0], -1, 0),
        ("plant", "ns:b", Kind.VALUE, None, 0, -600_000, NONCES[1], SEALED),
        ("swap", "ns:b", 1, NONCES[0], -1, 0),
    ],
    "swap: under an id that is known before": [
        ("plant", "ns:a", Kind.VALUE, None, 0, 600_000, NONCES[1], TAGGED),
        ("swap under an id", "ns:a", 0, NONCES[0], 0, 0),
        ("swap under an id", "ns:a", 0, NONCES[0], 0, 0),
    ],
    "claim: instead of a value that is refused, and of no other": [
        ("plant", "ns:a", Kind.VALUE, None, 0, 0, NONCES[1], SEALED),
        ("plant", "ns:b", Kind.VALUE, None, 0, 0, NONCES[2], SEALED),
        ("claim instead", "ns:a", NONCES[0], 300_000, 1),
        ("claim instead", "ns:a", NONCES[0], 300_000, 0),
    ],
    "swap: without a soft expiry": [
        ("plant", "ns:a", Kind.VALUE, None, 0, 600_000, NONCES[1], SEALED),
        ("swap", "ns:a", 0, NONCES[0], 1_200_000, 0),
    ],
    "swap: a stale value": [
        ("plant", "ns:a", Kind.VALUE, None, 0, -600_000, NONCES[1], SEALED),
        ("swap", "ns:a", 0, NONCES[0], 1_200_000, 0),
    ],
    "swap: known to be nothing": [
        ("plant", "ns:a", Kind.VALUE, None, 0, 0, NONCES[1], NOTHING),
        ("swap", "ns:a", 0, NONCES[0], 1_200_000, 0),
    ],
    "swap: a value whose tags are cut off": [
        ("plant", "ns:a", Kind.VALUE, None, 0, 0, NONCES[1], TAGGED[:60]),
        ("swap", "ns:a", 0, NONCES[0], 1_200_000, 0),
    ],
    "swap: a value whose tags are cut off in a name": [
        ("plant", "ns:a", Kind.VALUE, None, 0, 0, NONCES[1], TAGGED[:-4]),
        ("swap", "ns:a", 0, NONCES[0], 1_200_000, 0),
    ],
    "swap: a value of a tag with a long name": [
        ("plant", "ns:a", Kind.VALUE, None, 0, 0, NONCES[1], LONG_TAG),
        ("swap", "ns:a", 0, NONCES[0], 1_200_000, 0),
    ],
    "swap: a hold, a lease, nothing, foreign": [
        ("hold", ["ns:a"], NONCES[1], 300_000, []),
        ("swap", "ns:a", 0, NONCES[0], 1_200_000, 0),
        ("acquire", "ns:b", NONCES[1], 300_000, None, Mode.KEEP, []),
        ("swap", "ns:b", 1, NONCES[0], 1_200_000, 0),
        ("swap", "ns:ü", 1, NONCES[0], 1_200_000, 0),
        ("plant", "ns:ü", None, None, 0, 0, None, b""),
        ("swap", "ns:ü", 1, NONCES[0], 1_200_000, 0),
    ],
    "touch: longer, as long as it may live": [
        GRANTED,
        ("fill", ["ns:a"], 0, 300_000, 0, SEALED, []),
        ("touch", "ns:a", 0, 1_200_000, 1_200_000, ["ns:%t:x"]),
        ("touch", "ns:a", 0, 300_000, 1_200_000, []),
    ],
    "touch: hard and soft": [
        GRANTED,
        ("fill", ["ns:a"], 0, 1_200_000, 600_000, SEALED, []),
        ("touch", "ns:a", 0, 1_200_000, 2 * 1_200_000, []),
    ],
    "touch: not past its longest life": [
        GRANTED,
        ("fill", ["ns:a"], 0, 300_000, 0, SEALED, []),
        ("touch", "ns:a", 0, 1_200_000, 300_000, []),
    ],
    "touch: what it is not": [
        ("plant", "ns:a", Kind.VALUE, None, 0, -600_000, NONCES[1], SEALED),
        ("touch", "ns:a", 0, 1_200_000, 1_200_000, []),
        ("hold", ["ns:b"], NONCES[1], 300_000, []),
        ("touch", "ns:b", 1, 1_200_000, 1_200_000, []),
        ("plant", "ns:ü", Kind.VALUE, None, 0, 0, NONCES[1], NOTHING),
        ("touch", "ns:ü", 0, 1_200_000, 1_200_000, []),
        ("plant", "ns:ü", None, None, 0, 0, None, b""),
        ("touch", "ns:ü", 0, 1_200_000, 1_200_000, []),
    ],
    "lock: taken, again, by another, given back, by another": [
        ("take", "ns:a", NONCES[0], 300_000),
        ("take", "ns:a", NONCES[0], 1_200_000),
        ("take", "ns:a", NONCES[1], 300_000),
        ("renew", ["ns:a"], 0, 300_000, False),
        ("free", "ns:a", 0, False),
        ("free", "ns:a", 0, False),
        ("take", "ns:a", NONCES[1], 300_000),
    ],
    "lock: lapsed, and foreign": [
        ("plant", "ns:a", Kind.HOLD, NONCES[1], -600_000, 0, None, b""),
        ("take", "ns:a", NONCES[0], 300_000),
        ("free", "ns:a", 0, True),
        ("plant", "ns:b", None, None, 0, 0, None, b""),
        ("take", "ns:b", NONCES[0], 300_000),
    ],
    "acquire: no key": [("acquire", "ns:a", NONCES[0], 300_000, None, Mode.KEEP, [])],
    "acquire: foreign": [("plant", "ns:a", None, None, 0, 0, None, b""), GRANTED],
    "acquire: held by a writer": [("hold", ["ns:a"], NONCES[1], 300_000, []), GRANTED],
    "acquire: fresh": [("plant", "ns:a", Kind.VALUE, None, 0, 0, NONCES[1], b"v"), GRANTED],
    "acquire: fresh to its soft expiry": [
        ("plant", "ns:a", Kind.VALUE, None, 0, 600_000, NONCES[1], b"v"),
        GRANTED,
    ],
    "acquire: past its soft expiry": [
        ("plant", "ns:a", Kind.VALUE, None, 0, -600_000, NONCES[1], b"v"),
        GRANTED,
    ],
    "acquire: past its soft expiry, to be dropped": [
        ("plant", "ns:a", Kind.VALUE, None, 0, -600_000, NONCES[1], b"v"),
        ("acquire", "ns:a", NONCES[0], 300_000, None, Mode.DROP, []),
    ],
    "acquire: a fresh value that the reader refuses": [
        ("plant", "ns:a", Kind.VALUE, None, 0, 0, NONCES[1], b"v"),
        ("acquire", "ns:a", NONCES[0], 300_000, 0, Mode.DROP, []),
    ],
    "acquire: my own retry": [GRANTED, GRANTED],
    "acquire: my own retry, with a stale value": [
        ("plant", "ns:a", Kind.VALUE, None, 0, -600_000, NONCES[1], b"v"),
        GRANTED,
        GRANTED,
    ],
    "acquire: denied": [GRANTED, ("acquire", "ns:a", NONCES[1], 300_000, None, Mode.KEEP, [])],
    "acquire: denied, with a stale value": [
        ("plant", "ns:a", Kind.VALUE, NONCES[2], 600_000, -600_000, NONCES[1], b"v"),
        GRANTED,
    ],
    "acquire: denied, without the stale value that is to be dropped": [
        ("plant", "ns:a", Kind.VALUE, NONCES[2], 600_000, -600_000, NONCES[1], b"v"),
        ("acquire", "ns:a", NONCES[0], 300_000, 1, Mode.DROP, []),
    ],
    "acquire: the holder's lease is over": [
        ("plant", "ns:a", Kind.EMPTY, NONCES[2], -600_000, 0, None, b""),
        GRANTED,
    ],
    "acquire: the lease outlives the stale value": [
        ("plant", "ns:a", Kind.VALUE, None, 0, -600_000, NONCES[1], b"v"),
        ("acquire", "ns:a", NONCES[0], 1_200_000, None, Mode.KEEP, []),
    ],
    "fill: mine, then again": [
        GRANTED,
        ("fill", ["ns:a"], 0, 300_000, 0, b"v", []),
        ("fill", ["ns:a"], 0, 300_000, 0, b"v", []),
    ],
    "fill: with a soft expiry": [GRANTED, ("fill", ["ns:a"], 0, 1_200_000, 600_000, b"v", [])],
    "fill: no cell": [GRANTED, ("delete", ["ns:a"]), ("fill", ["ns:a"], 0, 300_000, 0, b"v", [])],
    "fill: foreign": [
        GRANTED,
        ("plant", "ns:a", None, None, 0, 0, None, b""),
        ("fill", ["ns:a"], 0, 300_000, 0, b"v", []),
    ],
    "fill: another's": [
        GRANTED,
        ("hold", ["ns:a"], NONCES[1], 300_000, []),
        ("fill", ["ns:a"], 0, 300_000, 0, b"v", []),
    ],
    "fill: a lease as it was granted, then again": [
        GRANTED,
        ("fill", ["ns:a"], 0, 300_000, 0, b"v", [], Kind.EMPTY, 300_000),
        ("fill", ["ns:a"], 0, 300_000, 0, b"w", [], Kind.EMPTY, 300_000),
        ("fill", ["ns:a"], 0, 300_000, 0, b"w", []),
    ],
    "fill: a hold as it was granted, with a soft expiry": [
        ("hold", ["ns:a"], NONCES[0], 300_000, []),
        ("fill", ["ns:a"], 0, 1_200_000, 600_000, b"v", list(TAGS), Kind.HOLD, 300_000),
    ],
    "fill: a lease that was renewed meanwhile": [
        GRANTED,
        ("renew", ["ns:a"], 0, 1_200_000, False),
        ("fill", ["ns:a"], 0, 300_000, 0, b"v", [], Kind.EMPTY, 300_000),
        ("fill", ["ns:a"], 0, 300_000, 0, b"v", []),
    ],
    "fill: a lease that was voided meanwhile": [
        GRANTED,
        ("delete", ["ns:a"]),
        ("fill", ["ns:a"], 0, 300_000, 0, b"v", [], Kind.EMPTY, 300_000),
        ("fill", ["ns:a"], 0, 300_000, 0, b"v", []),
    ],
    "fill: a lease in the place of which there is something foreign": [
        GRANTED,
        ("plant", "ns:a", None, None, 0, 0, None, b""),
        ("fill", ["ns:a"], 0, 300_000, 0, b"v", [], Kind.EMPTY, 300_000),
    ],
    "fill: a lease that is another's by now": [
        GRANTED,
        ("hold", ["ns:a"], NONCES[1], 300_000, []),
        ("fill", ["ns:a"], 0, 300_000, 0, b"v", [], Kind.EMPTY, 300_000),
        ("fill", ["ns:a"], 0, 300_000, 0, b"v", [], Kind.HOLD, 300_000),
    ],
    "fill: a batch of which some have changed": [
        ("hold", ["ns:a"], NONCES[0], 300_000, []),
        ("fill", ["ns:b", "ns:a", "ns:ü"], 0, 300_000, 0, b"v", ["ns:%t:x"], Kind.HOLD, 300_000),
    ],
    "fill: a refresh, whose value is beneath the lease": [
        ("plant", "ns:a", Kind.VALUE, None, 0, -600_000, NONCES[1], b"v"),
        GRANTED,
        ("fill", ["ns:a"], 1, 300_000, 0, b"new", [], Kind.EMPTY, 300_000),
        ("fill", ["ns:a"], 1, 300_000, 0, b"new", []),
    ],
    "renew: mine, and longer than the key": [GRANTED, ("renew", ["ns:a", "ns:b"], 0, 1_200_000, False)],
    "renew: shorter than the key lives": [
        ("plant", "ns:a", Kind.VALUE, NONCES[0], 600_000, -600_000, NONCES[1], b"v"),
        ("renew", ["ns:a"], 0, 1_200, False),
    ],
    "release: of an empty cell": [GRANTED, ("release", ["ns:a"], 0, False)],
    "release: by nonce": [GRANTED, ("release", ["ns:a"], 0, True)],
    "release: of a stale value": [
        ("plant", "ns:a", Kind.VALUE, NONCES[0], 600_000, -600_000, NONCES[1], b"v"),
        ("release", ["ns:a"], 0, False),
    ],
    "release: not mine": [GRANTED, ("release", ["ns:a", "ns:b"], 5, False)],
    "release: of a hold": [("hold", ["ns:a"], NONCES[0], 300_000, []), ("release", ["ns:a"], 0, False)],
    "release: foreign": [("plant", "ns:a", None, None, 0, 0, None, b""), ("release", ["ns:a"], 0, False)],
    "hold: overrides a lease, a value and a foreign key": [
        GRANTED,
        ("plant", "ns:b", Kind.VALUE, None, 0, 0, NONCES[1], b"v"),
        ("plant", "ns:ü", None, None, 0, 0, None, b""),
        ("hold", list(KEYS), NONCES[1], 300_000, []),
    ],
    "hold: my own retry": [
        ("hold", ["ns:a"], NONCES[0], 300_000, []),
        ("hold", ["ns:a"], NONCES[0], 1_200_000, []),
    ],
    "hold: again, where another has taken the second": [
        ("hold", list(KEYS), NONCES[0], 300_000, []),
        ("hold", ["ns:b"], NONCES[1], 300_000, []),
        ("hold", list(KEYS), NONCES[0], 1_200_000, []),
    ],
    "hold: again, where another has taken the first": [
        ("hold", list(KEYS), NONCES[0], 300_000, []),
        ("hold", ["ns:a"], NONCES[1], 300_000, []),
        ("hold", list(KEYS), NONCES[0], 1_200_000, []),
    ],
    "hold: my own lease is no hold": [GRANTED, ("hold", ["ns:a"], NONCES[0], 300_000, [])],
    "expire: no key": [("expire", ["ns:a"])],
    "expire: foreign": [("plant", "ns:a", None, None, 0, 0, None, b""), ("expire", ["ns:a"])],
    "expire: held by a writer": [("hold", ["ns:a"], NONCES[1], 300_000, []), ("expire", ["ns:a"])],
    "expire: a load that has no value yet": [
        GRANTED,
        ("expire", ["ns:a"]),
        ("fill", ["ns:a"], 0, 300_000, 0, b"v", []),
    ],
    "expire: fresh for as long as it lives": [
        ("plant", "ns:a", Kind.VALUE, None, 0, 0, NONCES[1], b"v"),
        ("expire", ["ns:a"]),
        GRANTED,
    ],
    "expire: fresh to its soft expiry": [
        ("plant", "ns:a", Kind.VALUE, None, 0, 600_000, NONCES[1], b"v"),
        ("expire", ["ns:a"]),
    ],
    "expire: past its soft expiry, which stays": [
        ("plant", "ns:a", Kind.VALUE, None, 0, -600_000, NONCES[1], b"v"),
        ("expire", ["ns:a"]),
    ],
    "expire: with a refresh under way, which is voided": [
        ("plant", "ns:a", Kind.VALUE, None, 0, -600_000, NONCES[1], b"v"),
        GRANTED,
        ("expire", ["ns:a"]),
        ("fill", ["ns:a"], 1, 300_000, 0, b"new", []),
    ],
    "capture: issued with a lease, then the same again": [
        ("acquire", "ns:a", NONCES[0], 300_000, None, Mode.KEEP, list(TAGS)),
        ("acquire", "ns:b", NONCES[1], 300_000, None, Mode.KEEP, list(TAGS)),
        ("fill", ["ns:a", "ns:b"], 0, 300_000, 0, b"v", list(TAGS)),
    ],
    "capture: lives longer than before, never shorter": [
        ("hold", ["ns:a"], NONCES[0], 600_000, ["ns:%t:x"]),
        ("hold", ["ns:a"], NONCES[0], 300_000, ["ns:%t:x"]),
        ("hold", ["ns:a"], NONCES[0], 1_200_000, ["ns:%t:x"]),
    ],
    "capture: a tag that was invalidated has another version": [
        ("hold", ["ns:a"], NONCES[0], 300_000, ["ns:%t:x"]),
        ("delete", ["ns:%t:x"]),
        ("read", "ns:a", list(TAGS)),
        ("hold", ["ns:a"], NONCES[0], 300_000, ["ns:%t:x"]),
    ],
    "capture: of a key that is no tag's": [
        ("tag is foreign", "ns:%t:x"),
        ("read tags", list(TAGS)),
        ("read", "ns:a", list(TAGS)),
        ("hold", ["ns:a"], NONCES[0], 300_000, ["ns:%t:x"]),
    ],
    "capture: with claims of which some are denied": [
        GRANTED,
        (
            "acquire many",
            list(KEYS),
            NONCES[1],
            300_000,
            [(None, Mode.KEEP), (0, Mode.DROP), (None, Mode.KEEP)],
            list(TAGS),
        ),
    ],
    "a tag's key is foreign to a reader of cells": [
        ("hold", ["ns:a"], NONCES[0], 300_000, list(TAGS)),
        ("read", "ns:%t:x", ["ns:%t:x"]),
        ("acquire", "ns:%t:x", NONCES[1], 300_000, None, Mode.KEEP, []),
    ],
    "a fill among tags that have changed meanwhile": [
        ("acquire", "ns:a", NONCES[0], 300_000, None, Mode.KEEP, list(TAGS)),
        ("delete", ["ns:%t:ü"]),
        ("fill", ["ns:a"], 0, 300_000, 0, b"v", list(TAGS)),
    ],
}


@pytest.mark.parametrize("steps", BRANCHES.values(), ids=BRANCHES)
def test_a_branch_of_a_script_does_the_same_as_the_memory_store(client, steps):
    pair = Pair(client)
    for step in steps:
        take(pair, step)
        pair.compare_all()


def test_a_script_that_the_server_has_forgotten_is_sent_with_its_text(client):
    """Faults 6 and 7: never an error, once each."""
    pair = Pair(client)
    client.script_flush()
    client.config_resetstat()

    event = pair.server.perform(HoldCells(KEYS, NONCES[0], 300_000, TIMEOUT_S))
    again = pair.server.perform(HoldCells(KEYS, NONCES[0], 300_000, TIMEOUT_S))

    assert event.grants == again.grants
    calls = {name: each["calls"] for name, each in client.info("commandstats").items()}
    assert (calls["cmdstat_evalsha"], calls["cmdstat_eval"]) == (2, 1)


def test_whether_the_server_compares_is_found_out_with_the_first_fill(client):
    pair = Pair(client)
    server = make_backend(CacheConfig(namespace="ns"), client, time.monotonic, Background().start)
    assert server._dialect.compares is None
    for name in ("ns:a", "ns:b"):
        [grant] = server.perform(HoldCells((name,), NONCES[0], 300_000, TIMEOUT_S)).grants
        client.config_resetstat()
        fill = Fill(name, grant, 300_000, 0, b"v", Kind.HOLD, 300_000)
        assert server.perform(FillCells((fill,), TIMEOUT_S)).results == (FillResult.STORED,)
        assert server._dialect.compares is pair.can_compare
        assert parse_cell(client.get(name)).body == b"v"
    is_script = "cmdstat_evalsha" in client.info("commandstats")
    assert is_script is not pair.can_compare


def test_a_server_that_compares_no_more_is_met_in_the_middle_and_nothing_fails(client):
    """As after a failover to an older one: the option is refused, and the script does it."""
    pair = Pair(client)
    pair.server.perform(Ping(TIMEOUT_S))
    held = pair.server.perform(HoldCells(KEYS, NONCES[0], 300_000, TIMEOUT_S))
    fills = tuple(
        Fill(key, grant, 300_000, 0, b"v", Kind.HOLD, 300_000)
        for key, grant in zip(KEYS, held.grants, strict=True)
    )
    execute = pair.server.connections.execute
    refused = []

    def older(commands, timeout_s):
        replies = execute([args for args in commands if b"IFEQ" not in args], timeout_s)
        rest = iter(replies)
        refused.extend(args for args in commands if b"IFEQ" in args)
        return [ResponseError("syntax error") if b"IFEQ" in args else next(rest) for args in commands]

    pair.server._dialect.compares = True
    pair.server.connections.execute = older
    filled = pair.server.perform(FillCells(fills, TIMEOUT_S))

    assert len(refused) == len(KEYS)
    assert filled.results == (FillResult.STORED,) * len(KEYS)
    assert pair.server._dialect.compares is None
    again = pair.server.perform(FillCells(fills, TIMEOUT_S))
    assert again.results == (FillResult.ALREADY_STORED,) * len(KEYS)
    assert pair.server._dialect.compares is False


def test_the_keys_of_one_script_have_grants_of_their_own(client):
    """S3: the moment and the nonce are the same for all of them."""
    pair = Pair(client)
    keys = tuple(f"ns:{number}" for number in range(250))
    requests = tuple(LeaseRequest(key, NO_GRANT, Mode.KEEP) for key in keys)
    held = pair.server.perform(HoldCells(keys, NONCES[0], 300_000, TIMEOUT_S)).grants
    client.delete(*keys)
    acquired = pair.server.perform(AcquireLeases(requests, NONCES[0], 300_000, TIMEOUT_S)).answers

    grants = {*held, *(answer.grant for answer in acquired)}
    assert len(grants) == 2 * len(keys)
    for key, answer in zip(keys, acquired, strict=True):
        left = format_cell(issued_cell(Kind.EMPTY, answer.grant, 300_000))
        assert client.get(key) == left, "all of it follows from the grant"


def test_a_batch_of_holds_looks_at_one_key_and_at_all_where_it_is_sent_again(client):
    """A look is a fifth of what a hold costs the server."""
    pair = Pair(client)
    command = HoldCells(tuple(f"ns:{number}" for number in range(100)), NONCES[0], 300_000, TIMEOUT_S)
    looked, grants = [], []
    for _ in range(2):
        client.config_resetstat()
        grants.append(pair.server.perform(command).grants)
        looked.append(client.info("commandstats")["cmdstat_getrange"]["calls"])
    assert looked == [1, 100]
    assert grants[0] == grants[1]


def test_a_batch_whose_script_the_server_ends_in_the_middle_fails_and_gives_back_what_it_took(client):
    """Fault 13: a key that cannot be written ends the script; what came before it is released by nonce."""
    pair = Pair(client)
    requests = tuple(LeaseRequest(key, NO_GRANT, Mode.KEEP) for key in KEYS)
    command = AcquireLeases(requests, NONCES[0], 300_000, TIMEOUT_S)
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 1)
    try:
        assert pair.server.perform(command).kind is FailureKind.OUT_OF_MEMORY
        leases = tuple(Lease(key, NONCES[0]) for key in KEYS)
        assert not isinstance(pair.server.perform(ReleaseLeases(leases, TIMEOUT_S)), StoreFailed)
    finally:
        client.config_set("maxmemory", 0)
    assert not client.exists(*KEYS)


def test_a_late_duplicate_of_an_acquire_gets_a_grant_of_its_own(client):
    """S3, fault 3: the old fill is refused."""
    pair = Pair(client)
    command = AcquireLease("ns:a", NONCES[0], 300_000, NO_GRANT, Mode.KEEP, TIMEOUT_S)
    for store in (pair.memory, pair.server):
        first = store.perform(command)
        assert store.perform(command).grant == first.grant, "a retry gets the same grant"
        store.perform(DeleteKeys(("ns:a",), TIMEOUT_S))
        late = store.perform(command)
        assert late.grant != first.grant
        filled = store.perform(FillCells((Fill("ns:a", first.grant, 300_000, 0, b"old"),), TIMEOUT_S))
        assert filled.results == (FillResult.REFUSED,)


def test_a_thousand_grants_differ(client):
    """S3."""
    pair = Pair(client)
    for store in (pair.memory, pair.server):
        grants = set()
        for _ in range(1000):
            event = store.perform(HoldCells(("ns:a",), NONCES[0], 300_000, TIMEOUT_S))
            grants.update(event.grants)
            store.perform(DeleteKeys(("ns:a",), TIMEOUT_S))
        assert len(grants) == 1000


def test_readers_are_told_of_a_foreign_key(client):
    pair = Pair(client)
    client.set("ns:a", b"another program's")
    command = AcquireLease("ns:a", NONCES[0], 300_000, NO_GRANT, Mode.DROP, TIMEOUT_S)

    assert isinstance(pair.server.perform(command), ForeignFound)
    assert client.get("ns:a") == b"another program's"


# Tags, on the server alone.


def test_a_script_that_the_server_has_forgotten_is_sent_again_in_the_middle_of_a_batch(client):
    """Faults 6 and 7: only what it does not know, and nothing is done twice."""
    pair = Pair(client)
    client.script_flush()
    client.script_load(CAPTURE.text)
    client.config_resetstat()
    lease_requests = tuple(LeaseRequest(key, NO_GRANT, Mode.KEEP) for key in KEYS)
    command = AcquireLeases(lease_requests, NONCES[0], 300_000, TIMEOUT_S, Capture(TAGS, 600_000))

    event = pair.server.perform(command)

    assert [type(answer) for answer in event.answers] == [LeaseGranted] * len(KEYS)
    assert event.versions == tuple(client.get(tag) for tag in TAGS)
    calls = {name: each["calls"] for name, each in client.info("commandstats").items()}
    assert (calls["cmdstat_evalsha"], calls["cmdstat_eval"]) == (len(TAGS) + 1, 1)
    assert pair.server.perform(command).answers[0].grant == event.answers[0].grant


@pytest.mark.parametrize("known", range(len(ALL)), ids=[script.name for script in ALL])
def test_whichever_single_script_the_server_still_knows_a_batch_of_several_works(client, known):
    """Faults 6 and 7."""
    pair = Pair(client)
    client.script_flush()
    client.script_load(ALL[known].text)

    held = pair.server.perform(HoldCells(KEYS, NONCES[0], 300_000, TIMEOUT_S, Capture(TAGS, 600_000)))
    fills = tuple(Fill(key, grant, 300_000, 0, b"v") for key, grant in zip(KEYS, held.grants, strict=True))
    filled = pair.server.perform(FillCells(fills, TIMEOUT_S, TAGS))

    assert filled.results == (FillResult.STORED,) * len(KEYS)
    assert filled.versions == held.versions
    assert len(set(held.versions)) == len(TAGS)


def test_a_late_duplicate_of_a_capture_never_brings_a_version_back(client):
    """S7, fault 3: a version is the server's, so the same nonce never makes the same one twice."""
    pair = Pair(client)
    command = AcquireLease("ns:a", NONCES[0], 300_000, NO_GRANT, Mode.KEEP, TIMEOUT_S, Capture(TAGS, 600_000))
    for store in (pair.memory, pair.server):
        first = store.perform(command)
        assert store.perform(command).versions == first.versions, "a retry gets the same versions"
        store.perform(DeleteKeys(TAGS, TIMEOUT_S))
        late = store.perform(command)
        assert not set(late.versions) & set(first.versions)


def test_tags_whose_versions_cannot_be_issued_fail_the_whole_command(client):
    """Fault 13: without a version nothing may be stored; one that is there is read all the same."""
    pair = Pair(client)
    known = pair.server.perform(
        HoldCells(("ns:b",), NONCES[1], 300_000, TIMEOUT_S, Capture(TAGS[:1], 600_000))
    )
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 1)
    try:
        command = AcquireLease(
            "ns:a", NONCES[0], 300_000, NO_GRANT, Mode.KEEP, TIMEOUT_S, Capture(TAGS, 600_000)
        )
        assert pair.server.perform(command).kind is FailureKind.OUT_OF_MEMORY
        assert isinstance(pair.server.perform(command), StoreFailed)
        assert pair.server.perform(ReadTags(TAGS, TIMEOUT_S)).versions == (known.versions[0], b"")
        assert pair.server.perform(DeleteKeys(TAGS, TIMEOUT_S)).count == 1
    finally:
        client.config_set("maxmemory", 0)
    assert not client.exists("ns:a", *TAGS)
