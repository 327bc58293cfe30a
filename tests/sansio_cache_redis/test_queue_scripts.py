"""The Lua texts of queues do what the memory store does in Python, step by step.

One random sequence of commands runs against both. Tokens are compared by the order in which they were issued.
"""

import time
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from sansio_cache.commands import (
    Append,
    AppendEntries,
    AttendQueue,
    DropLetters,
    HoldCells,
    Lease,
    MeasureQueue,
    PeekEntries,
    ReadLetters,
    ReleaseLeases,
    ReplayLetter,
    SettleEntries,
    TakeEntries,
    TakeLock,
    Verdict,
)
from sansio_cache.config import CacheConfig
from sansio_cache.events import (
    EntriesAppended,
    HoldsTaken,
    StoreFailed,
)
from sansio_cache.memory_store import MemoryStore
from sansio_cache.queues import hold_of, lease_of, root_of
from sansio_cache_redis.backend.sync import make_backend
from sansio_cache_runtime.sync.background import Background
from support.nightly import EXAMPLES, many
from support.servers import Server, wait_until

pytestmark = pytest.mark.servers

ROOT = root_of("ns:", "orders", 0)
KEYS = ("ns:a", "ns:ü", "ns:{c}")
NONCES = (b"nonce-00", b"nonce-11")
TIMEOUT_S = 10.0
MOST = 4


class Pair:
    """A memory store and a server that are asked the same."""

    def __init__(self, client):
        client.flushall()
        self.client = client
        self.memory = MemoryStore(time.monotonic)
        self.server = make_backend(CacheConfig(namespace="ns"), client, time.monotonic, Background().start)
        self.holds = {}
        """By key and nonce, the grants of memory and of the server."""
        self.lease = (b"?" * 16,) * 2
        self.tokens = [(0, 0)]
        self.letters = [(0, 0)]
        self.given = 0
        """The number of the highest token that was given to somebody."""

    def ask(self, make):
        """Ask both, and compare. `make` gets 0 for memory, 1 for the server."""
        asked = make(0), make(1)
        events = self.memory.perform(asked[0]), self.server.perform(asked[1])
        assert not isinstance(events[1], StoreFailed), f"{asked[1]}: {events[1]}"
        said = [self.seen(event, place) for place, event in enumerate(events)]
        assert said[0] == said[1], f"{asked[0]}\nmemory: {events[0]}\nserver: {events[1]}"
        return events

    def seen(self, event, place):
        """An event without its clock, and with tokens by their numbers."""
        known = {each[place]: number for number, each in enumerate(self.tokens)}
        letters = {each[place]: number for number, each in enumerate(self.letters)}

        def told(part):
            match part:
                case Struct():
                    fields = {name: told(getattr(part, name)) for name in part.__struct_fields__}
                    for name, numbers in (("token", known), ("oldest", known), ("letter", letters)):
                        if name in fields:
                            fields[name] = numbers.get(fields[name], "new")
                    return {name: value for name, value in fields.items() if name not in IGNORED}
                case tuple():
                    return tuple(map(told, part))
            return part

        said = told(event)
        if isinstance(event, EntriesAppended):
            said["tokens"] = tuple(known.get(token, "new") if token >= 0 else -1 for token in event.tokens)
        return said

    def learn(self, mine, theirs):
        """Learn the tokens that both have issued."""
        for pair in zip(mine, theirs, strict=True):
            if pair not in self.tokens and min(pair) > 0:
                assert pair > self.tokens[-1], "tokens go up"
                assert pair[1] > self.tokens[-1][1]
                self.tokens.append(pair)

    def hold(self, key, nonce):
        events = self.ask(lambda _: HoldCells((hold_of(ROOT, key),), nonce, 60_000, TIMEOUT_S))
        self.holds[key, nonce] = tuple(event.grants[0] for event in events)

    def append(self, keys, nonce, most=MOST, partitions=2):
        unknown = (b"!" * 16,) * 2

        def make(place):
            appends = tuple(
                Append(key, self.holds.get((key, nonce), unknown)[place], key.encode() + nonce, ("ns:%t:t",))
                for key in keys
            )
            return AppendEntries(ROOT, appends, most, partitions, TIMEOUT_S)

        events = self.ask(make)
        self.learn(*(event.tokens for event in events))

    def take_lease(self, nonce):
        events = self.ask(lambda _: TakeLock(lease_of(ROOT), nonce, 600_000, TIMEOUT_S))
        if isinstance(events[0], HoldsTaken):
            self.lease = tuple(event.grants[0] for event in events)

    def take(self, after, count, most_bytes, is_again=False):
        """A consumer names what it was given: what nobody was given comes after that."""
        after = self.tokens[after % (self.given + 1)]
        limits = count, most_bytes, TIMEOUT_S, is_again
        events = self.ask(lambda place: TakeEntries(ROOT, self.lease[place], after[place], *limits))
        mine, theirs = ([each.deliveries for each in event.entries] for event in events)
        assert mine == theirs
        numbers = {pair[0]: number for number, pair in enumerate(self.tokens)}
        self.given = max((self.given, *(numbers[entry.token] for entry in events[0].entries)))

    def settle(self, verdicts):
        """A verdict names the key that its entry has; of what is gone, any."""
        entries = self.memory.queues[ROOT].entries if ROOT in self.memory.queues else {}

        def make(place):
            made = []
            for number, any_key, reason, found in verdicts:
                tokens = self.tokens[number % len(self.tokens)]
                token = tokens[place]
                key = entries[tokens[0]].key if tokens[0] in entries else any_key
                higher = self.tokens[-1][place] + found if found else 0
                made.append(Verdict(token, key, reason, higher))
            return SettleEntries(ROOT, self.lease[place], tuple(made), TIMEOUT_S)

        self.ask(make)
        self.look()

    def look(self):
        """See what there is now, and learn the numbers of letters, and tokens that were issued anew."""
        pages = tuple(
            store.perform(ReadLetters(ROOT, 0, 100, TIMEOUT_S)) for store in (self.memory, self.server)
        )
        for mine, theirs in zip(*(page.entries for page in pages), strict=True):
            if (mine.letter, theirs.letter) not in self.letters:
                self.letters.append((mine.letter, theirs.letter))
        found = tuple(
            store.perform(PeekEntries(ROOT, KEYS, TIMEOUT_S)) for store in (self.memory, self.server)
        )
        fresh = sorted(
            (mine.token, theirs.token)
            for mine, theirs in zip(*(each.entries for each in found), strict=True)
            if mine is not None and theirs is not None
        )
        for pair in fresh:
            if pair not in self.tokens:
                self.tokens.append(pair)
        self.ask(lambda _: PeekEntries(ROOT, KEYS, TIMEOUT_S))
        self.ask(lambda _: MeasureQueue(ROOT, TIMEOUT_S))
        self.ask(lambda place: ReadLetters(ROOT, self.letters[0][place], 10, TIMEOUT_S))

    def peek(self, partitions):
        self.ask(lambda _: PeekEntries(ROOT, KEYS, TIMEOUT_S, partitions))

    def replay(self, number, key, nonce, partitions=0):
        letter = self.letters[number % len(self.letters)]
        events = self.ask(lambda place: ReplayLetter(ROOT, letter[place], key, nonce, TIMEOUT_S, partitions))
        self.learn(*(tuple(token for token in event.tokens if token > 0) for event in events))

    def drop(self, numbers):
        letters = [self.letters[number % len(self.letters)] for number in numbers]
        self.ask(lambda place: DropLetters(ROOT, tuple(each[place] for each in letters), TIMEOUT_S))

    def run(self, steps):
        for name, *args in steps:
            getattr(self, name)(*args)
            self.look()
        self.compare_all()

    def compare_all(self):
        """Nothing is left on the server that memory does not keep."""
        kept = self.memory.queues[ROOT]
        names = self.client.hkeys(f"{ROOT}:pending")
        assert {name.decode() for name in names if name} == kept.pending.keys()
        assert {name.decode() for name in self.client.hkeys(f"{ROOT}:dead")} == kept.dead.keys()
        for name, entries in (("stream", kept.entries), ("letters", kept.letters)):
            assert self.client.xlen(f"{ROOT}:{name}") == len(entries)

    def attend(self, member, ttl_ms):
        self.ask(lambda _: AttendQueue(ROOT, member, ttl_ms, TIMEOUT_S))

    def agree(self, partitions):
        self.ask(lambda _: MeasureQueue(ROOT, TIMEOUT_S, partitions))

    def release(self):
        self.ask(lambda place: ReleaseLeases((Lease(lease_of(ROOT), self.lease[place]),), TIMEOUT_S))


IGNORED = {"now_s", "server_ms", "grants", "left_ms", "deliveries"}
"""Of a letter or a peek, the server does not say how often it was delivered; of what is taken it does."""

keys, nonces, numbers = st.sampled_from(KEYS), st.sampled_from(NONCES), st.integers(0, 8)
VERDICTS = st.tuples(
    numbers, keys, st.sampled_from(("", "", "the writer raised")), st.sampled_from((0, 0, 1_000))
)
STEPS = st.one_of(
    st.tuples(st.just("hold"), keys, nonces),
    st.tuples(st.just("append"), st.lists(keys, min_size=1, max_size=3, unique=True), nonces),
    st.tuples(st.just("take_lease"), nonces),
    st.tuples(st.just("take"), numbers, st.integers(1, 3), st.sampled_from((1, 10_000)), st.booleans()),
    st.tuples(st.just("settle"), st.lists(VERDICTS, min_size=1, max_size=3)),
    st.tuples(st.just("replay"), numbers, keys, nonces, st.sampled_from((0, 2, 3))),
    st.tuples(st.just("peek"), st.sampled_from((0, 2, 3))),
    st.tuples(st.just("drop"), st.lists(numbers, min_size=1, max_size=2)),
    st.tuples(st.just("attend"), nonces, st.sampled_from((0, 60_000))),
    st.tuples(st.just("agree"), st.sampled_from((0, 2, 3))),
    st.tuples(st.just("release")),
)


@pytest.fixture(scope="module")
def client():
    with Server.start() as server, closing(server.client()) as client:
        yield client


@settings(max_examples=many(120, EXAMPLES), deadline=None, print_blob=True)
@given(steps=st.lists(STEPS, min_size=1, max_size=25))
def test_a_sequence_of_commands_has_the_same_answers_in_memory_and_on_the_server(client, steps):
    """S8, for every script of a queue."""
    Pair(client).run(steps)


ONE = [("hold", "ns:a", NONCES[0]), ("append", ["ns:a"], NONCES[0])]
MANY = [("hold", "ns:a", NONCES[0]), ("append", ["ns:a"], NONCES[0], 100)] * 20
LEASED = [*ONE, ("take_lease", NONCES[0])]
DEAD = [*LEASED, ("take", 0, 10, 10_000), ("settle", [(1, "ns:a", "poison", 0)])]

# One sequence for each branch of each script, so that none depends on luck.
BRANCHES = {
    "append without a hold": [("append", ["ns:a"], NONCES[0])],
    "append once more under the same grant": [*ONE, ("append", ["ns:a"], NONCES[0])],
    "append under a hold that is another's": [
        ("hold", "ns:a", NONCES[0]),
        ("hold", "ns:a", NONCES[1]),
        ("append", ["ns:a"], NONCES[0]),
        ("append", ["ns:a"], NONCES[1]),
    ],
    "append to a full partition": [*ONE, ("hold", "ns:ü", NONCES[0]), ("append", ["ns:ü"], NONCES[0], 1)],
    "append to a queue with other partitions": [
        *ONE,
        ("hold", "ns:ü", NONCES[0]),
        ("append", ["ns:ü"], NONCES[0], MOST, 3),
        ("agree", 3),
    ],
    "append several": [*[("hold", key, NONCES[0]) for key in KEYS], ("append", list(KEYS), NONCES[0])],
    "take without the lease": [*ONE, ("take", 0, 10, 10_000)],
    "take, and take again": [*LEASED, ("take", 0, 10, 10_000), ("take", 0, 10, 10_000), ("take", 1, 9, 9)],
    "take what ends consumers by itself": [
        *LEASED,
        ("hold", "ns:ü", NONCES[0]),
        ("append", ["ns:ü"], NONCES[0]),
        *[("take", 0, 10, 10_000)] * 5,
    ],
    "take no more than there is room for, of what nobody has taken": [
        *MANY,
        ("take_lease", NONCES[0]),
        ("take", 0, 100, 1),
    ],
    "take no more than there is room for, of what somebody has taken": [
        *MANY,
        ("take_lease", NONCES[0]),
        ("take", 0, 100, 10_000),
        ("take", 0, 100, 1),
        ("take", 0, 18, 10_000),
    ],
    "take what fits to the byte, of some that are longer than others": [
        *MANY[:32],
        *[("hold", "ns:{c}", NONCES[0]), ("append", ["ns:{c}"], NONCES[0], 100)] * 4,
        ("take_lease", NONCES[0]),
        ("take", 0, 100, 16 * len(b"ns:a" + NONCES[0]) + 2 * len(b"ns:{c}" + NONCES[0])),
    ],
    "take what comes after an entry that was taken often, and settled": [
        *LEASED,
        *[("take", 0, 10, 10_000)] * 5,
        ("settle", [(1, "ns:a", "", 0)]),
        *[("hold", key, NONCES[0]) for key in KEYS],
        ("append", list(KEYS), NONCES[0]),
        ("take", 0, 10, 10_000),
    ],
    "settle without the lease": [
        *LEASED,
        ("take", 0, 10, 10_000),
        ("release",),
        ("settle", [(1, "ns:a", "", 0)]),
    ],
    "agree on other partitions while nothing is queued, and not while something is": [
        ("agree", 2),
        ("agree", 3),
        ("hold", "ns:a", NONCES[0]),
        ("append", ["ns:a"], NONCES[0], MOST, 3),
        ("agree", 2),
    ],
    "agree on other partitions while as many letters lie there as writes are queued": [
        *DEAD,
        ("hold", "ns:ü", NONCES[0]),
        ("append", ["ns:ü"], NONCES[0]),
        ("agree", 3),
    ],
    "settle, of two of one key": [
        *LEASED,
        ("hold", "ns:a", NONCES[1]),
        ("append", ["ns:a"], NONCES[1]),
        ("take", 0, 10, 10_000),
        ("settle", [(1, "ns:a", "", 0)]),
        ("settle", [(2, "ns:a", "", 0)]),
    ],
    "settle under the token of another's": [
        *LEASED,
        ("take", 0, 10, 10_000),
        (
            "settle",
            [(1, "ns:ü", "", 0), (1, "ns:ü", "the writer has failed", 0), (1, "ns:ü", "", 1_000_000_000)],
        ),
        ("take", 0, 10, 10_000),
        ("settle", [(1, "ns:a", "", 0)]),
    ],
    "settle what the database has a higher token for": [
        *LEASED,
        ("take", 0, 10, 10_000),
        ("settle", [(1, "ns:a", "", 1_000_000_000)]),
        ("take", 1, 10, 10_000),
        ("hold", "ns:ü", NONCES[0]),
        ("append", ["ns:ü"], NONCES[0]),
    ],
    "settle what is overtaken, and what the database has a higher token for": [
        *LEASED,
        ("hold", "ns:a", NONCES[1]),
        ("append", ["ns:a"], NONCES[1]),
        ("take", 0, 10, 10_000),
        ("settle", [(1, "ns:a", "", 1_000_000_000)]),
        ("settle", [(2, "ns:a", "", 0)]),
    ],
    "give up, and replay": [*DEAD, ("replay", 1, "ns:a", NONCES[0]), ("replay", 1, "ns:a", NONCES[0])],
    "give up, and drop": [*DEAD, ("drop", [1, 1]), ("replay", 1, "ns:a", NONCES[0])],
    "replay of a superseded letter": [
        *DEAD,
        ("hold", "ns:a", NONCES[0]),
        ("append", ["ns:a"], NONCES[0]),
        ("replay", 1, "ns:a", NONCES[1]),
        ("drop", [1]),
    ],
    "give up what a later write has overtaken": [
        *LEASED,
        ("hold", "ns:a", NONCES[1]),
        ("append", ["ns:a"], NONCES[1]),
        ("take", 0, 1, 10_000),
        ("settle", [(1, "ns:a", "poison", 0)]),
        ("replay", 1, "ns:a", NONCES[1]),
    ],
    "replay where there are other partitions": [
        *DEAD,
        ("replay", 1, "ns:a", NONCES[0], 3),
        ("replay", 1, "ns:a", NONCES[0], 2),
    ],
    "replay without knowing how many partitions there are": [*DEAD, ("replay", 1, "ns:a", NONCES[0], 0)],
    "replay where nobody has said how many partitions there are": [("replay", 0, "ns:a", NONCES[0], 2)],
    "agree on other partitions, and not while there are letters": [
        *DEAD,
        ("agree", 3),
        ("drop", [1]),
        ("agree", 3),
    ],
    "look where there are other partitions": [("peek", 3), *ONE, ("peek", 3), ("peek", 2), ("peek", 0)],
    "take again what was asked for, and count it once": [
        *LEASED,
        ("take", 0, 10, 10_000, True),
        ("hold", "ns:ü", NONCES[0]),
        ("append", ["ns:ü"], NONCES[0]),
        ("take", 0, 10, 10_000, True),
        ("take", 0, 10, 10_000),
        ("take", 0, 10, 10_000, True),
        ("take", 0, 10, 10_000),
        ("take", 0, 10, 10_000, True),
        ("settle", [(1, "ns:a", "", 0)]),
        ("take", 0, 10, 10_000, True),
    ],
    "attend": [("attend", NONCES[0], 60_000), ("attend", NONCES[1], 60_000), ("attend", NONCES[0], 0)],
}


@pytest.mark.parametrize("steps", [pytest.param(steps, id=name) for name, steps in BRANCHES.items()])
def test_a_branch_of_a_script_does_the_same_as_the_memory_store(client, steps):
    Pair(client).run(steps)


def test_how_often_an_entry_was_delivered_is_told_when_it_is_taken(client):
    pair = Pair(client)
    pair.run(LEASED)
    counts = [
        [
            store.perform(TakeEntries(ROOT, lease, 0, 10, 10_000, TIMEOUT_S)).entries[0].deliveries
            for _ in range(3)
        ]
        for store, lease in zip((pair.memory, pair.server), pair.lease, strict=True)
    ]
    assert counts == [[1, 2, 3]] * 2


def test_a_token_is_higher_than_the_last_also_where_the_clock_of_the_server_is_behind(client):
    pair = Pair(client)
    far = 2**52
    client.xadd(f"{ROOT}:stream", {"k": "ns:b", "v": b"", "t": b""}, id=f"{far}-0")
    pair.holds["ns:a", NONCES[0]] = (
        b"",
        pair.server.perform(HoldCells((hold_of(ROOT, "ns:a"),), NONCES[0], 60_000, TIMEOUT_S)).grants[0],
    )
    append = Append("ns:a", pair.holds["ns:a", NONCES[0]][1], b"body")
    appended = pair.server.perform(AppendEntries(ROOT, (append,), MOST, 2, TIMEOUT_S))
    assert appended.tokens == (far + 1,)


def test_what_is_appended_again_has_a_higher_token_than_the_database_has_seen(client):
    pair = Pair(client)
    pair.run([*LEASED, ("take", 0, 10, 10_000)])
    found = pair.tokens[-1][1] + 1_000_000_000
    verdict = Verdict(pair.tokens[-1][1], "ns:a", "", found)
    pair.server.perform(SettleEntries(ROOT, pair.lease[1], (verdict,), TIMEOUT_S))
    [again] = pair.server.perform(PeekEntries(ROOT, ("ns:a",), TIMEOUT_S)).entries
    assert again.token > found


def test_a_token_that_the_database_has_does_not_take_a_higher_one_back(client):
    """Of two, the lower one is told last, and there is no entry above either."""
    pair = Pair(client)
    steps = [step for key in KEYS[:2] for step in (("hold", key, NONCES[0]), ("append", [key], NONCES[0]))]
    pair.run([*steps, *steps, ("take_lease", NONCES[0]), ("take", 0, 10, 10_000)])
    for place, store in enumerate((pair.memory, pair.server)):
        highest = pair.tokens[-1][place] + 2_000_000_000
        verdicts = tuple(
            Verdict(pair.tokens[number][place], key, "", found)
            for number, key, found in ((1, KEYS[0], highest), (2, KEYS[1], highest - 1_000_000_000))
        )
        store.perform(SettleEntries(ROOT, pair.lease[place], verdicts, TIMEOUT_S))
        (grant,) = store.perform(HoldCells((hold_of(ROOT, "ns:{c}"),), NONCES[0], 60_000, TIMEOUT_S)).grants
        append = Append("ns:{c}", grant, b"body")
        assert store.perform(AppendEntries(ROOT, (append,), 9, 2, TIMEOUT_S)).tokens == (highest + 1,)


@pytest.mark.parametrize(("reason", "ahead"), [("", 0), ("it has failed", 0), ("", 1_000_000_000)])
def test_a_write_is_not_settled_under_the_key_of_another(client, reason, ahead):
    """A store that has lost its newest entries, and whose clock is behind, issues their tokens anew.

    Who had a lost one in hand settles it by its token: the write of another key has that now.
    """
    pair = Pair(client)
    pair.run([*LEASED, ("take", 0, 10, 10_000)])
    for place, store in enumerate((pair.memory, pair.server)):
        token = pair.tokens[-1][place]

        def queued(store=store):
            found = store.perform(PeekEntries(ROOT, ("ns:a",), TIMEOUT_S)).entries
            return [each and each.token for each in found]

        lost = Verdict(token, "ns:lost", reason, ahead and token + ahead)
        store.perform(SettleEntries(ROOT, pair.lease[place], (lost,), TIMEOUT_S))
        assert queued() == [token]
        assert store.perform(MeasureQueue(ROOT, TIMEOUT_S)).backlog == 1
        store.perform(SettleEntries(ROOT, pair.lease[place], (Verdict(token, "ns:a"),), TIMEOUT_S))
        assert queued() == [None]


def test_who_has_not_attended_for_long_is_not_counted(client):
    pair = Pair(client)
    assert pair.server.perform(AttendQueue(ROOT, b"gone", 1, TIMEOUT_S)).members == 1
    wait_until(lambda: client.zcount(f"{ROOT}:members", "-inf", client.time()[0] * 1000) == 1)
    assert pair.server.perform(AttendQueue(ROOT, b"here", 60_000, TIMEOUT_S)).members == 1


def test_the_keys_of_a_partition_are_in_one_slot_of_a_cluster(client):
    """All that a script names has the same part in braces, which comes before any that a key may have."""
    Pair(client).run([*DEAD, ("hold", "ns:{c}", NONCES[0]), ("append", ["ns:{c}"], NONCES[0])])
    names = [name.decode() for name in client.keys("ns:%w:*")]
    assert len(names) >= 4
    assert {name.partition("{")[2].partition("}")[0] for name in names} == {"orders:0"}
