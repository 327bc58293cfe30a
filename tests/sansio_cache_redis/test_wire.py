"""The wire: what a semantic command is on the wire, and what its replies amount to."""

import errno
import itertools
import signal
import socket

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from redis import exceptions as errors
from redis._parsers import BaseParser

from sansio_cache.cell import FOREIGN, NO_GRANT, Cell, Kind, format_cell
from sansio_cache.commands import (
    AcquireLease,
    AcquireLeases,
    Append,
    AppendEntries,
    Capture,
    DeleteKeys,
    ExpireCells,
    Fill,
    FillCells,
    HoldCells,
    Lease,
    LeaseRequest,
    Mode,
    Ping,
    ReadCell,
    ReadCells,
    ReadTags,
    ReleaseLeases,
    RenewLeases,
    ReplayLetter,
    ScanKeys,
)
from sansio_cache.events import (
    CellRead,
    CellsExpired,
    CellsFilled,
    CellsRead,
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
    LeasesReleased,
    LeasesRenewed,
    Ponged,
    StoreFailed,
    TagsRead,
    WriterFound,
)
from sansio_cache.tags import VERSION_BYTES
from sansio_cache_redis.calls import EVALSHA, about, keys_of, wake_channel
from sansio_cache_redis.dialect import Dialect
from sansio_cache_redis.errors import (
    OverloadedError,
    OwnResetError,
    TooLargeError,
    as_opening_failure,
    classify,
    fresh,
)
from sansio_cache_redis.reading import LONGEST_REPLICA_S, EventReader, unknown_scripts
from sansio_cache_redis.reasons import Where
from sansio_cache_redis.replies import ServerClock, tell_time
from sansio_cache_redis.scripts import (
    ACQUIRE,
    ALL,
    CAPTURE,
    EXPIRE,
    FILL,
    HOLD,
    MOST_KEYS,
    RELEASE,
    RENEW,
    WHEN_FULL,
)
from sansio_cache_redis.wire import (
    as_eval,
    decode,
    encode,
)

pytestmark = pytest.mark.servers

NONCE = b"nonce-88"
GRANT = NONCE + b"\0\0\0\0\0\0\0\1"
US = 1_700_000_000_123_456
MS = US // 1000
NOW_S = 7.5

VALUE = Cell(kind=Kind.VALUE, filled_by=GRANT, soft_ms=5, body=b"a body")
RAW = format_cell(VALUE)

GIANT = TooLargeError("the value is larger than a value may be")
WRONG_TYPE = errors.ResponseError("WRONGTYPE Operation")
DENIED = errors.NoPermissionError("no publish")
SYNTAX = errors.ResponseError("syntax error")
KNOWN = errors.ResponseError("invalid expire time in 'set' command")

READ = ReadCell("ns:k", 0.1)
READ_MANY = ReadCells(("ns:a", "ns:ü"), 500, 0.1)
TAKE = AcquireLease("ns:k", NONCE, 5000, NO_GRANT, Mode.KEEP, 0.1)
CLAIMS = (LeaseRequest("ns:a", NO_GRANT, Mode.KEEP), LeaseRequest("ns:b", GRANT, Mode.DROP))
TAKE_MANY = AcquireLeases(CLAIMS, NONCE, 5000, 0.1)
STORE = FillCells((Fill("ns:a", GRANT, 1000, 0, b"x"), Fill("ns:b", GRANT, 2000, 500, b"y")), 0.1)
EXTEND = RenewLeases((Lease("ns:a", GRANT), Lease("ns:b", NONCE)), 5000, 0.1)
GIVE_BACK = ReleaseLeases((Lease("ns:a", GRANT), Lease("ns:b", NONCE)), 0.1)
KEEP_OUT = HoldCells(("ns:a", "ns:b"), NONCE, 5000, 0.1)
EXPIRED = ExpireCells(("ns:a", "ns:b"), 0.1)
REMOVE = DeleteKeys(("ns:a", "ns:b"), 0.1)
LOOK = ScanKeys("ns:*", 17, 500, 0.1)
PING = Ping(0.1)

# The same with two tags, whose versions come along.
TAGS = ("ns:%t:x", "ns:%t:ü")
V1 = NONCE + b"\0\0\0\0\0\0\0\2"
V2 = b"another-" + b"\0\0\0\0\0\0\0\3"
CAPTURED = Capture(TAGS, 9000)
READ_T = ReadCell("ns:k", 0.1, TAGS)
READ_MANY_T = ReadCells(("ns:a", "ns:b", "ns:c"), 2, 0.1, TAGS)
READ_TAGS = ReadTags(TAGS, 0.1)
TAKE_T = AcquireLease("ns:k", NONCE, 5000, NO_GRANT, Mode.DROP, 0.1, CAPTURED)
TAKE_MANY_T = AcquireLeases(CLAIMS, NONCE, 5000, 0.1, CAPTURED)
STORE_T = FillCells((Fill("ns:a", GRANT, 1000, 0, b"x"),), 0.1, TAGS)
COMPARE = FillCells(tuple(structs.replace(each, lease_ms=5000) for each in STORE.fills), 0.1)
COMPARE_T = FillCells(COMPARE.fills[:1], 0.1, TAGS)
APPEND = AppendEntries("ns:%w:{q:0}", (Append("ns:a", GRANT, b"x"), Append("ns:b", GRANT, b"y")), 9, 1, 0.1)
AGAIN = ReplayLetter("ns:%w:{q:0}", 1, "ns:a", GRANT[:8], 0.1)
KEEP_OUT_T = HoldCells(("ns:a",), NONCE, 5000, 0.1, CAPTURED)

COMMANDS = [
    READ,
    READ_MANY,
    READ_TAGS,
    TAKE,
    TAKE_MANY,
    STORE,
    EXTEND,
    GIVE_BACK,
    KEEP_OUT,
    EXPIRED,
    REMOVE,
    LOOK,
    PING,
    READ_T,
    READ_MANY_T,
    TAKE_T,
    TAKE_MANY_T,
    STORE_T,
    KEEP_OUT_T,
]
GET_TAGS = [(b"GET", b"ns:%t:x"), (b"GET", "ns:%t:ü".encode())]
CAPTURE_TAGS = [
    (b"EVALSHA", CAPTURE.sha, b"1", b"ns:%t:x", NONCE, b"9000"),
    (b"EVALSHA", CAPTURE.sha, b"1", "ns:%t:ü".encode(), NONCE, b"9000"),
]
TAKE_BOTH = [
    (
        *(b"EVALSHA", ACQUIRE.sha, b"2", b"ns:a", b"ns:b", NONCE, b"5000", b"0"),
        *(NO_GRANT, b"keep", GRANT, b"drop"),
    )
]
# Where the server's clock is not known, the grant says when it was issued: here, at 0 ms.
SOON_STALE = format_cell(Cell(Kind.VALUE, soft_ms=500, filled_by=GRANT, body=b"y"))
STORED = format_cell(Cell(Kind.VALUE, filled_by=GRANT, body=b"x"))


def name_of(value):
    return type(value).__name__


def decoded(command, *replies):
    return decode(command, list(replies), speaking(), NOW_S)


def speaking(*, compares=False, offset_ms=None):
    """What is known of a server."""
    return Dialect(offset_ms, clock=lambda: NOW_S, compares=compares)


@pytest.mark.parametrize("command", COMMANDS, ids=name_of)
def test_arguments_are_bytes(command):
    """A number that hiredis packs ends the process where a signal comes meanwhile: its `repr` then fails."""
    assert {type(argument) for args in encode(command, speaking()) for argument in args} == {bytes}


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        (READ, [(b"GET", b"ns:k")]),
        (READ_MANY, [(b"MGET", b"ns:a", "ns:ü".encode())]),
        (READ_TAGS, GET_TAGS),
        (READ_T, [(b"GET", b"ns:k"), *GET_TAGS]),
        (READ_MANY_T, [(b"MGET", b"ns:a", b"ns:b"), (b"MGET", b"ns:c"), *GET_TAGS]),
        (TAKE, [(b"EVALSHA", ACQUIRE.sha, b"1", b"ns:k", NONCE, b"5000", b"0", NO_GRANT, b"keep")]),
        # Versions are captured before the grant: whatever is granted is younger than they are (S7).
        (
            TAKE_T,
            [
                *CAPTURE_TAGS,
                (b"EVALSHA", ACQUIRE.sha, b"1", b"ns:k", NONCE, b"5000", b"0", NO_GRANT, b"drop"),
            ],
        ),
        (TAKE_MANY, TAKE_BOTH),
        (TAKE_MANY_T, [*CAPTURE_TAGS, *TAKE_BOTH]),
        # And read again after the fill: nobody shares a value whose tags had changed by then.
        (
            STORE_T,
            [(b"EVALSHA", FILL.sha, b"1", b"ns:a", GRANT, STORED, b"1000", b"ns:%wake", b"0"), *GET_TAGS],
        ),
        (KEEP_OUT_T, [*CAPTURE_TAGS, (b"EVALSHA", HOLD.sha, b"1", b"ns:a", NONCE, b"5000")]),
        (
            EXPIRED,
            [
                (b"EVALSHA", EXPIRE.sha, b"1", b"ns:a", b"ns:%wake"),
                (b"EVALSHA", EXPIRE.sha, b"1", b"ns:b", b"ns:%wake"),
            ],
        ),
        (
            STORE,
            [
                (b"EVALSHA", FILL.sha, b"1", b"ns:a", GRANT, STORED, b"1000", b"ns:%wake", b"0"),
                (b"EVALSHA", FILL.sha, b"1", b"ns:b", GRANT, SOON_STALE, b"2000", b"ns:%wake"),
            ],
        ),
        (
            EXTEND,
            [
                (b"EVALSHA", RENEW.sha, b"1", b"ns:a", GRANT, b"5000"),
                (b"EVALSHA", RENEW.sha, b"1", b"ns:b", NONCE, b"5000"),
            ],
        ),
        (
            GIVE_BACK,
            [
                (b"EVALSHA", RELEASE.sha, b"1", b"ns:a", GRANT),
                (b"EVALSHA", RELEASE.sha, b"1", b"ns:b", NONCE),
            ],
        ),
        (
            KEEP_OUT,
            [(b"EVALSHA", HOLD.sha, b"2", b"ns:a", b"ns:b", NONCE, b"5000")],
        ),
        (REMOVE, [(b"UNLINK", b"ns:a", b"ns:b")]),
        (LOOK, [(b"SCAN", b"17", b"MATCH", b"ns:*", b"COUNT", b"500")]),
        (PING, [(b"TIME",)]),
    ],
    ids=name_of,
)
def test_a_command_is_encoded(command, wanted):
    """What does the work; the wake-ups that go along with it are tested with them."""
    encoded = encode(command, speaking())

    assert [each[: len(one)] for each, one in zip(encoded, wanted, strict=False)] == wanted
    assert {each[0] for each in encoded[len(wanted) :]} <= {b"PUBLISH", b"PING"}


# A store that compares.

COMPARED = FillCells(
    (
        Fill("ns:a", GRANT, 1000, 0, b"x", Kind.EMPTY, 5000),
        Fill("ns:b", GRANT, 2000, 500, b"y", Kind.HOLD, 6000),
        Fill("ns:c", GRANT, 1000, 0, b"x"),
    ),
    0.1,
    TAGS[:1],
)
LEFT = [
    format_cell(Cell(kind, GRANT, lease_ms)) for kind, lease_ms in ((Kind.EMPTY, 5000), (Kind.HOLD, 6000))
]


def test_where_the_server_compares_a_value_is_stored_where_the_cell_is_as_the_grant_has_left_it():
    stale = format_cell(Cell(Kind.VALUE, soft_ms=MS + 500, filled_by=GRANT, body=b"y"))
    by_script = (b"EVALSHA", FILL.sha, b"1", b"ns:c", GRANT, STORED, b"1000", b"ns:%wake", b"0")

    encoded = encode(COMPARED, speaking(compares=True, offset_ms=MS - int(NOW_S * 1000)))

    told = encoded.pop(3)
    assert encoded == [
        (b"SET", b"ns:a", STORED, b"IFEQ", LEFT[0], b"PX", b"1000"),
        (b"SET", b"ns:b", stale, b"IFEQ", LEFT[1], b"PX", b"2000"),
        by_script,
        GET_TAGS[0],
    ]
    assert told[:2] == (b"PUBLISH", b"ns:%wake"), "one message about those that a script says nothing about"
    assert keys_of(told[2]) == [b"ns:a", b"ns:b"]


def in_cluster(*, compares=False):
    """What is known of a node of a cluster: each key has a channel of its own."""
    return Dialect(None, clock=lambda: NOW_S, compares=compares, is_cluster=True, channel_of=str.encode)


def test_in_a_cluster_those_who_wait_are_told_on_a_channel_of_the_keys_slot():
    tells = [(each.encode(), each.encode()) for each in ("ns:a", "ns:b")]
    assert encode(STORE, in_cluster())[0][6:] == (b"1000", b"ns:a", b"0"), "the script publishes there"
    assert [args[-1] for args in encode(GIVE_BACK, in_cluster())] == [b"ns:a", b"ns:b"]
    assert [args[-1] for args in encode(EXPIRED, in_cluster())] == [b"ns:a", b"ns:b"]
    assert encode(REMOVE, in_cluster())[2:] == [(b"SPUBLISH", *each) for each in tells]

    encoded = encode(COMPARED, in_cluster(compares=True))
    assert encoded[3:] == [*((b"SPUBLISH", *each) for each in tells), GET_TAGS[0]]
    answered = decode(COMPARED, [b"OK", b"OK", [1], 1, 0, V1], in_cluster(compares=True), NOW_S)
    assert answered.results == (FillResult.STORED,) * 3
    assert answered.versions == (V1,)


@pytest.mark.parametrize("channel_of", [wake_channel, str.encode])
def test_nobody_waits_for_a_tag(channel_of):
    dialect = attrs.evolve(speaking(), channel_of=channel_of)
    assert encode(DeleteKeys(TAGS[:1], 0.1), dialect) == [(b"UNLINK", TAGS[0].encode())]
    *_, told = encode(DeleteKeys(("ns:a", *TAGS), 0.1), dialect)
    assert told[1:] == (channel_of("ns:a"), b"ns:a")


def test_too_few_replies_to_fills_and_tags_are_those_to_another_command():
    command = FillCells(STORE.fills[:1], 0.1, TAGS[:1])
    assert decode(command, [V1], speaking(), NOW_S).kind is FailureKind.MISPAIRED


def test_whether_the_server_compares_is_asked_with_the_first_fill():
    dialect = speaking(compares=None)
    first = encode(STORE_T, dialect)

    assert first == [
        (b"EVALSHA", FILL.sha, b"1", b"ns:a", GRANT, STORED, b"1000", b"ns:%wake", b"0"),
        (b"SET", b"ns:a", b"", b"IFEQ", b"", b"PX", b"0"),
        *GET_TAGS,
    ]
    assert decode(STORE_T, [[1], KNOWN, V1, V2], dialect, NOW_S).versions == (V1, V2)
    assert dialect.compares is True
    dialect.greet([[b"%d" % (US // 10**6), b"%d" % (US % 10**6)], None, None, None])
    assert dialect.compares is None, "the server may be another one"
    assert dialect.now_ms(NOW_S) == MS
    decode(STORE_T, [[1], SYNTAX, V1, V2], dialect, NOW_S)
    assert dialect.compares is False
    assert encode(STORE_T, dialect)[0][:2] == (b"EVALSHA", FILL.sha)


@pytest.mark.parametrize("line", ["READONLY x", "OOM x", "NOPERM x", "LOADING x", "MISCONF x"])
def test_a_server_that_cannot_say_now_whether_it_compares_is_asked_again(line):
    dialect = speaking(compares=None)
    decode(STORE_T, [[1], BaseParser.parse_error(line), V1, V2], dialect, NOW_S)
    assert dialect.compares is None


def test_a_server_that_turns_out_not_to_compare_gets_scripts_and_is_asked_again():
    dialect = speaking(compares=True)
    reader = EventReader(lambda: NOW_S, dialect, lambda: pytest.fail("nothing is wrong"), Where("a test"))

    again = reader.read(COMPARED, [SYNTAX, SYNTAX, [1], 0, V1])

    fills, tags = again.commands[:3], again.commands[3:]
    assert [each[:2] for each in fills] == [(b"EVAL", FILL.source)] * 3
    assert tags == GET_TAGS[:1]
    assert dialect.compares is None
    stored, there = FillResult.STORED, FillResult.ALREADY_STORED
    assert again.read([[1], [1], [2], V2]) == CellsFilled(NOW_S, (stored, stored, there), (V2,))
    assert again.read(errors.ConnectionError("lost")).kind is FailureKind.CONNECTION
    assert encode(STORE, dialect)[-1][3] == b"IFEQ"


@pytest.mark.parametrize("compares", [None, False])
def test_a_large_value_goes_with_the_text_of_the_script(compares):
    """Faults 6 and 7: it would be sent twice where the server does not know the digest."""
    fills = tuple(Fill("ns:a", GRANT, 1000, 0, bytes(count)) for count in (1_000, 16_384))
    small, large, *_ = encode(FillCells(fills, 0.1), speaking(compares=compares))
    assert (small[:2], large[:2]) == ((b"EVALSHA", FILL.sha), (b"EVAL", FILL.source))


def test_a_fill_that_the_server_has_forgotten_is_sent_again_with_its_text():
    """Faults 6 and 7."""
    dialect = speaking(compares=True)
    reader = EventReader(lambda: NOW_S, dialect, lambda: pytest.fail("nothing is wrong"), Where("a test"))
    unknown = BaseParser.parse_error("NOSCRIPT No matching script. Please use EVAL.")

    again = reader.read(COMPARED, [b"OK", None, unknown, 0, V1])

    assert [each[:4] for each in again.commands] == [(b"EVAL", FILL.source, b"1", b"ns:c")]
    results = (FillResult.STORED, FillResult.CHANGED, FillResult.STORED)
    assert again.read([[1]]) == CellsFilled(NOW_S, results, (V1,))


def by_comparing(dialect, key="ns:k"):
    """Whether a fill of a key compares."""
    fill = Fill(key, GRANT, 1000, 0, b"x", Kind.HOLD, 6000)
    return encode(FillCells((fill,), 0.1), dialect)[0][3] == b"IFEQ"


def filled(dialect, *replies, key="ns:k", lease_ms=6000):
    """The server's replies to fills of a key, one after the other."""
    for reply in replies:
        fill = Fill(key, GRANT, 1000, 0, b"x", Kind.HOLD, lease_ms)
        assert isinstance(decode(FillCells((fill,), 0.1), [reply], dialect, NOW_S), CellsFilled)


def test_where_writers_overtake_each_other_the_script_decides_without_a_comparison():
    dialect = speaking(compares=True)
    filled(dialect, b"OK")
    assert by_comparing(dialect)

    filled(dialect, None)
    filled(dialect, [0], lease_ms=0)
    assert not by_comparing(dialect), "it would be a round trip more, for nothing"
    assert by_comparing(dialect, "ns:other")

    for _ in range(7):
        filled(dialect, [1])
    filled(dialect, [0])
    for _ in range(7):
        filled(dialect, [1], [0])
    assert not by_comparing(dialect), "some of them overtake each other still"


@pytest.mark.parametrize("accepted", [[1], [2]])
def test_a_key_whose_writers_let_each_other_be_is_compared_again(accepted):
    dialect = speaking(compares=True)
    filled(dialect, None, *[accepted] * 7)
    assert not by_comparing(dialect)
    filled(dialect, accepted)
    assert by_comparing(dialect)


def test_of_contended_keys_few_are_remembered():
    dialect = speaking(compares=True)
    for number in range(10_000):
        filled(dialect, None, key=f"ns:{number}")
    contended = [number for number in range(10_000) if not by_comparing(dialect, f"ns:{number}")]
    assert 1 <= len(contended) <= 64
    assert contended[-1] == 9_999
    filled(dialect, None, key="ns:9999")
    assert not by_comparing(dialect, f"ns:{contended[0]}"), "one of them once more forgets no other"


@pytest.mark.parametrize("keys", [[b"ns:a"], [b"ns:a", b"ns:\xc3\xbc"], [b"ns:%s:1:a"] * 3])
def test_a_message_names_one_key_or_several(keys):
    assert keys_of(about(keys)) == keys


@pytest.mark.parametrize("message", [b"%*", b"%*\xff", b"%*\xc4\x05ns:a"])
def test_a_message_of_nonsense_is_about_no_key(message):
    assert keys_of(message) == []


# Many keys at once.

MANY = tuple(f"ns:{number}" for number in range(2 * MOST_KEYS + 1))


def test_a_script_takes_no_more_keys_than_do_not_keep_the_server_for_long():
    requests = tuple(LeaseRequest(key, NO_GRANT, Mode.KEEP) for key in MANY)
    for command in (HoldCells(MANY, NONCE, 5000, 0.1), AcquireLeases(requests, NONCE, 5000, 0.1)):
        encoded = encode(command, speaking())

        assert [int(each[2]) for each in encoded] == [MOST_KEYS, MOST_KEYS, 1]
        assert (
            b"".join(key for each in encoded for key in each[3 : 3 + int(each[2])]) == "".join(MANY).encode()
        )
        begin = [b"A", US] if isinstance(command, AcquireLeases) else [US]
        replies = [[*begin, *(GRANT for _ in range(int(each[2])))] for each in encoded]
        event = decoded(command, *replies)
        grants = getattr(event, "grants", None) or tuple(each.grant for each in event.answers)
        assert grants == (GRANT,) * len(MANY)


def test_the_leases_beside_a_value_that_is_too_large_are_asked_for_one_by_one():
    dialect = speaking()
    reader = EventReader(lambda: NOW_S, dialect, lambda: pytest.fail("nothing is wrong"), Where("a test"))
    requests = tuple(LeaseRequest(key, NO_GRANT, Mode.KEEP) for key in MANY[: MOST_KEYS + 2])
    command = AcquireLeases(requests, NONCE, 5000, 0.1, Capture(TAGS[:1], 9000))

    again = reader.read(command, [[1, US, V1], [b"A", US, *(GRANT for _ in range(MOST_KEYS))], GIANT])

    assert [each[2:4] for each in again.commands[1:]] == [(b"1", b"ns:100"), (b"1", b"ns:101")]
    assert all(each[:2] == (b"EVAL", ACQUIRE.source) for each in again.commands[1:])
    time = [b"1700000000", b"123456"]
    event = again.read([time, [b"A", US, [b"W", 40]], GIANT])
    assert event.answers[-2:] == (LeaseDenied(NOW_S, 40, None, MS), ForeignFound(NOW_S))
    assert len(event.answers) == MOST_KEYS + 2
    assert again.read([time, GIANT, BaseParser.parse_error("OOM x")]).kind is FailureKind.OUT_OF_MEMORY
    assert again.read(errors.ConnectionError("lost")).kind is FailureKind.CONNECTION


def test_of_leases_asked_for_one_by_one_no_nonsense_is_taken():
    resets = []
    reader = EventReader(lambda: NOW_S, speaking(), lambda: resets.append(1), Where("a test"))
    again = reader.read(TAKE_MANY, [GIANT])
    assert again.read([b"nonsense", GIANT, GIANT]).kind is FailureKind.MISPAIRED
    assert reader.read(TAKE_MANY, [GIANT]).read([[b"1", b"2"], 5, GIANT]).kind is FailureKind.MISPAIRED
    assert resets == [1, 1]


@pytest.mark.parametrize(
    ("command", "replies", "event"),
    [
        (READ, [None], CellRead(NOW_S, None, None)),
        (READ, [RAW], CellRead(NOW_S, RAW, None)),
        (READ, [b"garbage"], CellRead(NOW_S, b"garbage", None)),
        (READ, [errors.ResponseError("WRONGTYPE Operation")], CellRead(NOW_S, FOREIGN, None)),
        (READ_MANY, [[None, RAW]], CellsRead(NOW_S, (None, RAW), None)),
        (READ_T, [RAW, V1, V2], CellRead(NOW_S, RAW, None, (V1, V2))),
        (READ_T, [None, None, b"not a version"], CellRead(NOW_S, None, None, (b"", b""))),
        (READ_T, [RAW, errors.ResponseError("WRONGTYPE x"), V2], CellRead(NOW_S, RAW, None, (b"", V2))),
        (
            READ_MANY_T,
            [[RAW, None], [b"garbage"], None, V2],
            CellsRead(NOW_S, (RAW, None, b"garbage"), None, (b"", V2)),
        ),
        (READ_TAGS, [V1, None], TagsRead(NOW_S, (V1, b""), None)),
        (READ_TAGS, [errors.ResponseError("WRONGTYPE x"), RAW], TagsRead(NOW_S, (b"", b""), None)),
        (
            TAKE_T,
            [[1, US, V1], [1, US, V2], [b"A", US, [b"R", GRANT, RAW]]],
            LeaseGranted(NOW_S, GRANT, VALUE, MS, (V1, V2)),
        ),
        (TAKE_T, [[1, US, V1], [1, US, V2], [b"A", US, [b"H", RAW]]], FreshFound(NOW_S, VALUE, MS, (V1, V2))),
        (
            TAKE_T,
            [[1, US, V1], [1, US, V2], [b"A", US, [b"W", 40]]],
            LeaseDenied(NOW_S, 40, None, MS, (V1, V2)),
        ),
        (TAKE_T, [[1, US, V1], [1, US, V2], [b"A", US, [b"T", 40]]], WriterFound(NOW_S, 40)),
        (
            TAKE_MANY,
            [[b"A", US, GRANT, [b"W", 40]]],
            LeasesAnswered(NOW_S, (LeaseGranted(NOW_S, GRANT, None, MS), LeaseDenied(NOW_S, 40, None, MS))),
        ),
        (
            TAKE_MANY_T,
            [[1, US, V1], [1, US, V2], [b"A", US, [b"X"], [b"S", 40, RAW]]],
            LeasesAnswered(NOW_S, (ForeignFound(NOW_S), LeaseDenied(NOW_S, 40, VALUE, MS)), (V1, V2)),
        ),
        (STORE_T, [[1], V1, None], CellsFilled(NOW_S, (FillResult.STORED,), (V1, b""))),
        (KEEP_OUT_T, [[1, US, V1], [1, US, V2], [US, GRANT]], HoldsTaken(NOW_S, (GRANT,), (V1, V2))),
        (EXPIRED, [[1, US], [0, US]], CellsExpired(NOW_S, 1)),
        (TAKE, [[b"A", US, GRANT]], LeaseGranted(NOW_S, GRANT, None, MS)),
        (TAKE, [[b"A", US, [b"R", GRANT, RAW]]], LeaseGranted(NOW_S, GRANT, VALUE, MS)),
        (TAKE, [[b"A", US, [b"H", RAW]]], FreshFound(NOW_S, VALUE, MS)),
        (TAKE, [[b"A", US, [b"S", 40, RAW]]], LeaseDenied(NOW_S, 40, VALUE, MS)),
        (TAKE, [[b"A", US, [b"W", 40]]], LeaseDenied(NOW_S, 40, None, MS)),
        (TAKE, [[b"A", US, [b"T", 40]]], WriterFound(NOW_S, 40)),
        (TAKE, [[b"A", US, [b"X"]]], ForeignFound(NOW_S)),
        (STORE, [[1], [0]], CellsFilled(NOW_S, (FillResult.STORED, FillResult.REFUSED))),
        (STORE, [[2], [1]], CellsFilled(NOW_S, (FillResult.ALREADY_STORED, FillResult.STORED))),
        # By comparing. A client of redis-py's says True where the server says OK.
        (COMPARE, [b"OK", None, 0], CellsFilled(NOW_S, (FillResult.STORED, FillResult.CHANGED))),
        (COMPARE, [[1], True, 0], CellsFilled(NOW_S, (FillResult.STORED, FillResult.STORED))),
        (COMPARE, [b"OK", b"OK", DENIED], CellsFilled(NOW_S, (FillResult.STORED, FillResult.STORED))),
        (COMPARE, [WRONG_TYPE, b"OK", 2], CellsFilled(NOW_S, (FillResult.CHANGED, FillResult.STORED))),
        (COMPARE_T, [b"OK", 1, V1, None], CellsFilled(NOW_S, (FillResult.STORED,), (V1, b""))),
        # Behind fills by script, what the server says to the question of whether it compares.
        (STORE_T, [[0], SYNTAX, V1, V2], CellsFilled(NOW_S, (FillResult.REFUSED,), (V1, V2))),
        (EXTEND, [[1, US], [0, US]], LeasesRenewed(NOW_S, (True, False))),
        (GIVE_BACK, [[1], [0]], LeasesReleased(NOW_S)),
        (KEEP_OUT, [[US, GRANT, GRANT]], HoldsTaken(NOW_S, (GRANT, GRANT))),
        (REMOVE, [2], KeysDeleted(NOW_S, 2)),
        (LOOK, [[b"0", [b"ns:a", b"\xff", "ns:ü".encode()]]], KeysFound(NOW_S, 0, ("ns:a", "ns:ü"))),
        (LOOK, [[b"17", []]], KeysFound(NOW_S, 17, ())),
        (PING, [[b"1700000000", b"123456"]], Ponged(NOW_S)),
    ],
    ids=name_of,
)
def test_replies_are_decoded(command, replies, event):
    assert decoded(command, *replies) == event


@pytest.mark.parametrize(
    ("command", "reply"),
    [(TAKE, [b"A", US, [b"X"]]), (PING, [b"1700000000", b"123456"])],
    ids=name_of,
)
def test_the_servers_clock_is_learned_from_replies(command, reply):
    """B6: an offset to the monotonic clock, so that a jump of the local wall clock changes nothing."""
    clock = speaking()
    assert clock.now_ms(NOW_S) is None

    decode(command, [reply], clock, NOW_S)

    assert clock.now_ms(NOW_S) == MS
    assert clock.now_ms(NOW_S + 2) == MS + 2000
    assert decode(READ, [None], clock, NOW_S + 2).server_ms == MS + 2000


@pytest.mark.parametrize(
    ("command", "replies"),
    [
        (READ, [5]),
        (READ, [[RAW]]),
        (READ_MANY, [RAW]),
        (READ_MANY, [[RAW]]),
        (READ_MANY, [[RAW, RAW, RAW]]),
        (TAKE, [RAW]),
        (TAKE, [None]),
        (TAKE, [[]]),
        (TAKE, [[b"A", US]]),
        (TAKE, [[b"A", US, b"another nonce.."]]),
        (TAKE, [[b"A", b"not a number", GRANT]]),
        (TAKE, [[US, GRANT]]),
        (TAKE, [[b"B", US, GRANT]]),
        (TAKE, [[b"A", US, [b"H", None]]]),
        (TAKE, [[b"A", US, [b"H", b"garbage"]]]),
        (TAKE, [[b"A", US, [b"?"]]]),
        (TAKE, [[1, US]]),
        (READ_T, [RAW, 1, V2]),
        (READ_T, [RAW, [1, US, V1], V2]),
        (READ_TAGS, [V1, [1, US]]),
        (READ_MANY_T, [[RAW, None, None, None], [None], V1, V2]),
        (READ_MANY_T, [V1, V2, [RAW, None], [None]]),
        (TAKE_T, [[1, US, V1], [1, US, None], [b"A", US, GRANT]]),
        (TAKE_T, [[1, US, V1], [1, US, b"short"], [b"A", US, GRANT]]),
        (TAKE_T, [[1, US, V1], [1, US], [b"A", US, GRANT]]),
        (TAKE_T, [[b"A", US, GRANT], [1, US, V1], [1, US, V2]]),
        (TAKE_T, [[1, US, V1], V2, [b"A", US, GRANT]]),
        (TAKE_MANY, [[b"A", US, GRANT, b"8 others" + bytes(8)]]),
        (TAKE_MANY, [[b"A", US, GRANT]]),
        (TAKE_MANY, [[b"A", US, GRANT, GRANT, GRANT]]),
        (TAKE_MANY, [[b"A", US, GRANT, 1]]),
        (TAKE_MANY, [[1, US]]),
        (TAKE_MANY, [RAW]),
        (TAKE_MANY_T, [[b"A", US, GRANT, GRANT], [1, US, V1], [1, US, V2]]),
        (STORE_T, [V1, V2, [1]]),
        (STORE_T, [[1], V1, [1]]),
        (STORE_T, [V1, V2, [1], 0]),
        (KEEP_OUT_T, [[US, GRANT], [1, US, V1], [1, US, V2]]),
        (EXPIRED, [[b"1", US], [1, US]]),
        (EXPIRED, [1, 0]),
        (STORE, [[7], [1]]),
        (STORE, [[1, US], [1, US]]),
        (COMPARE, [b"QUEUED", b"OK", 0]),
        (APPEND, [[1, US, 0, [b"1"]]]),
        (AGAIN, [[1, US, 0, []]]),
        (AGAIN, [[3, US, 0, []]]),
        (STORE, [None, [1]]),
        (STORE, [b"OK", [1]]),
        (STORE, [WRONG_TYPE, [1]]),
        (STORE, [1, 1]),
        (KEEP_OUT, [[US, 1, 1]]),
        (KEEP_OUT, [[US, GRANT]]),
        (KEEP_OUT, [[US, b"8 others" + bytes(8), GRANT]]),
        (REMOVE, [b"OK"]),
        (LOOK, [[b"0"]]),
        (LOOK, [[b"x", []]]),
        (LOOK, [[b"0", RAW]]),
        (PING, [b"PONG"]),
    ],
    ids=name_of,
)
def test_a_reply_to_another_command_is_refused(command, replies):
    """S9, fault 29."""
    assert decoded(command, *replies) == StoreFailed(NOW_S, FailureKind.MISPAIRED)


REPLIES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.binary(max_size=80)
    | st.text(max_size=5)
    | st.sampled_from([GRANT, NONCE, RAW, US, b"OK", b"R", b"H", b"S", b"W", b"T", b"X", b"0"])
    | st.sampled_from(["ERR x", "WRONGTYPE x", "NOSCRIPT x", "", "OOM x"]).map(errors.ResponseError),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.booleans() | st.integers(0, 3) | st.binary(max_size=2), inner, max_size=3)
        | st.frozensets(st.integers() | st.binary(max_size=3), max_size=3)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("command", COMMANDS, ids=name_of)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_reply_whatsoever_raises(command, data):
    """S12: for arbitrary replies there is one event, and it answers the command."""
    count = len(encode(command, speaking()))
    replies = data.draw(st.lists(REPLIES, min_size=count, max_size=count))

    event = decode(command, replies, speaking(), NOW_S)

    assert event.now_s == NOW_S
    if not isinstance(event, StoreFailed):
        answers = {
            ReadCell: CellRead,
            ReadCells: CellsRead,
            ReadTags: TagsRead,
            AcquireLeases: LeasesAnswered,
            ExpireCells: CellsExpired,
            AcquireLease: LeaseGranted | LeaseDenied | FreshFound | WriterFound | ForeignFound,
            FillCells: CellsFilled,
            RenewLeases: LeasesRenewed,
            ReleaseLeases: LeasesReleased,
            HoldCells: HoldsTaken,
            DeleteKeys: KeysDeleted,
            ScanKeys: KeysFound,
            Ping: Ponged,
        }
        assert isinstance(event, answers[type(command)])
        tags = getattr(command, "tags", ()) or getattr(getattr(command, "capture", None), "tags", ())
        if not isinstance(command, ReadTags) and not isinstance(event, WriterFound | ForeignFound):
            assert len(getattr(event, "versions", ())) == len(tags), "one version for each tag"


SOUND = {
    "GET": RAW,
    "MGET": [RAW, None],
    "acquire": [b"A", US, [b"W", 40]],
    "fill": [1],
    "status": [1, US],
    "capture": [1, US, V1],
    "version": V1,
    "UNLINK": 1,
    "SCAN": [b"0", [b"ns:a"]],
}


@pytest.mark.parametrize(
    ("command", "mine"),
    [(READ, "GET"), (READ_MANY, "MGET"), (TAKE, "acquire"), (REMOVE, "UNLINK"), (LOOK, "SCAN")],
    ids=name_of,
)
def test_a_swapped_reply_never_passes_for_another_kind_of_answer(command, mine):
    """S9: but for a GET, whose cell carries a check of its key, only the own kind of reply is taken."""
    for other, reply in SOUND.items():
        event = decoded(command, reply)
        if (mine, other) == ("GET", "version"):
            assert event.cell == FOREIGN, "it is a string, and no cell"
        else:
            assert isinstance(event, StoreFailed) == (other != mine), other


@pytest.mark.parametrize(
    ("command", "own", "mine"),
    [
        (READ_T, (RAW, V1, V2), {1: "GET version", 2: "GET version"}),
        (TAKE_T, ([1, US, V1], [1, US, V2], [b"A", US, GRANT]), {0: "capture", 1: "capture", 2: "acquire"}),
        (TAKE_MANY, ([b"A", US, GRANT, [b"W", 40]],), {0: ""}),
        (STORE_T, ([1], V1, V2), {0: "fill", 1: "GET version", 2: "GET version"}),
        (KEEP_OUT_T, ([1, US, V1], [1, US, V2], [US, GRANT]), {0: "capture", 1: "capture"}),
        (EXPIRED, ([1, US], [0, US]), {0: "status capture", 1: "status capture"}),
        (EXTEND, ([1, US], [0, US]), {0: "status capture", 1: "status capture"}),
        (GIVE_BACK, ([1], [0]), {0: "fill", 1: "fill"}),
    ],
    ids=name_of,
)
def test_a_swapped_reply_among_several_never_passes_for_another_kind_of_answer(command, own, mine):
    """S9: what is a string passes for a version; a cell is none, so that its entry is a miss."""
    assert not isinstance(decoded(command, *own), StoreFailed)
    for place, kinds in mine.items():
        for other, reply in SOUND.items():
            replies = [*own]
            replies[place] = reply
            event = decoded(command, *replies)
            assert isinstance(event, StoreFailed) == (other not in kinds.split()), (place, other)
            if kinds.startswith("GET") and other == "GET":
                assert b"" in event.versions


# Errors.


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("LOADING Redis is loading the dataset in memory", FailureKind.UNAVAILABLE),
        ("BUSY Redis is busy running a script.", FailureKind.UNAVAILABLE),
        ("MASTERDOWN Link with MASTER is down", FailureKind.UNAVAILABLE),
        ("CLUSTERDOWN The cluster is down", FailureKind.UNAVAILABLE),
        ("UNBLOCKED force unblock from blocking operation", FailureKind.CONNECTION),
        ("NOAUTH Authentication required.", FailureKind.AUTHENTICATION),
        ("WRONGPASS invalid username-password pair", FailureKind.AUTHENTICATION),
        ("NOPERM User x has no permissions to run the 'evalsha' command", FailureKind.PERMISSION),
        ("READONLY You can't write against a read only replica.", FailureKind.READ_ONLY),
        ("OOM command not allowed when used memory > 'maxmemory'.", FailureKind.OUT_OF_MEMORY),
        (
            "OOM command not allowed when used memory > 'maxmemory'. script: 1f, on @user_script:9.",
            FailureKind.OUT_OF_MEMORY,
        ),
        ("MISCONF Redis is configured to save RDB snapshots", FailureKind.WRITES_REFUSED),
        ("NOREPLICAS Not enough good replicas to write.", FailureKind.WRITES_REFUSED),
        ("ERR unknown command", FailureKind.OTHER),
        ("", FailureKind.OTHER),
    ],
    ids=lambda value: value.partition(" ")[0] if isinstance(value, str) else "",
)
def test_an_error_of_the_server_is_told_by_its_first_word(line, kind):
    """As redis-py makes it of the line that the server sent."""
    error = BaseParser.parse_error(line)

    assert classify(error) is kind
    assert decoded(READ, error) == StoreFailed(NOW_S, kind)
    assert decoded(STORE, [1], error) == StoreFailed(NOW_S, kind), "one error makes all of it fail"
    # Also where it is a tag's, and everything else went well: what is not known of a tag is not guessed.
    assert decoded(READ_T, RAW, V1, error) == StoreFailed(NOW_S, kind)
    assert decoded(TAKE_T, [1, US, V1], error, [b"A", US, GRANT]) == StoreFailed(NOW_S, kind)
    assert decoded(STORE_T, [1], V1, error) == StoreFailed(NOW_S, kind)


def while_handling(first, second):
    """An error that was raised while another was handled, as redis-py raises its own."""
    try:
        try:
            raise first
        except OSError:
            raise second  # noqa: B904 - as redis-py does
    except errors.RedisError as error:
        return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.TimeoutError("no reply"), FailureKind.TIMEOUT),
        (TimeoutError(), FailureKind.TIMEOUT),
        (socket.timeout(), FailureKind.TIMEOUT),  # noqa: UP041 - as a library may write it
        (errors.ConnectionError("refused"), FailureKind.CONNECTION),
        (errors.MaxConnectionsError("too many"), FailureKind.EXHAUSTED),
        (BaseParser.parse_error("ERR max number of clients reached"), FailureKind.CONNECTION),
        (OSError(errno.EMFILE, "too many open files"), FailureKind.EXHAUSTED),
        (OSError(errno.EADDRNOTAVAIL, "no port left"), FailureKind.EXHAUSTED),
        (while_handling(OSError(errno.ENFILE, "too many"), errors.ConnectionError()), FailureKind.EXHAUSTED),
        (while_handling(ConnectionResetError(), errors.ConnectionError()), FailureKind.CONNECTION),
        (RuntimeError("can't start new thread"), FailureKind.EXHAUSTED),
        (RuntimeError("a bug"), FailureKind.OTHER),
        (MemoryError(), FailureKind.EXHAUSTED),
        (OverloadedError("too much"), FailureKind.OVERLOADED),
        (OwnResetError("closed"), FailureKind.RESET),
        (ConnectionRefusedError(), FailureKind.CONNECTION),
        (BrokenPipeError(), FailureKind.CONNECTION),
        (socket.gaierror(-2, "unknown host"), FailureKind.CONNECTION),
        (EOFError(), FailureKind.CONNECTION),
        (errors.InvalidResponse("protocol"), FailureKind.OTHER),
        (errors.ResponseError("ERR x"), FailureKind.OTHER),
        (errors.AuthenticationError("no"), FailureKind.AUTHENTICATION),
        (errors.BusyLoadingError("x"), FailureKind.UNAVAILABLE),
        (ValueError("a bug"), FailureKind.OTHER),
    ],
    ids=name_of,
)
def test_an_error_of_the_connection_has_a_kind(error, kind):
    assert classify(error) is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.ResponseError("DB index is out of range"), FailureKind.HANDSHAKE),
        (errors.NoPermissionError("no select"), FailureKind.HANDSHAKE),
        (errors.InvalidResponse("HTTP/1.1 400 Bad Request"), FailureKind.HANDSHAKE),
        (errors.AuthenticationError("no"), FailureKind.AUTHENTICATION),
        (errors.ConnectionError("refused"), FailureKind.CONNECTION),
        (errors.BusyLoadingError("x"), FailureKind.UNAVAILABLE),
        (OSError(errno.EMFILE, "too many open files"), FailureKind.EXHAUSTED),
        (RuntimeError("can't start new thread"), FailureKind.EXHAUSTED),
        (ValueError("nonsense"), FailureKind.CONNECTION),
    ],
    ids=name_of,
)
def test_whatever_keeps_a_connection_from_opening_is_an_outage_but_for_what_this_process_lacks(error, kind):
    failure = as_opening_failure(error)
    assert classify(failure) is kind
    assert kind.is_outage or kind is FailureKind.EXHAUSTED
    # Each caller has a copy, which says the same.
    assert classify(fresh(failure)) is kind
    assert fresh(failure).__cause__ is failure.__cause__


# Scripts that the server does not know.


def test_only_what_the_server_does_not_know_is_sent_again_with_its_text():
    """Faults 6 and 7."""
    unknown = BaseParser.parse_error("NOSCRIPT No matching script. Please use EVAL.")
    encoded = encode(STORE, speaking())

    assert unknown_scripts([[1], unknown, None, unknown]) == [1, 3]
    again = as_eval(encoded[1])
    assert again == (b"EVAL", FILL.text.encode(), *encoded[1][2:])


@pytest.mark.parametrize("command", [TAKE_T, TAKE_MANY_T, STORE_T, KEEP_OUT_T], ids=name_of)
def test_a_command_of_several_scripts_and_reads_is_seen_to_use_scripts(command):
    """Faults 6 and 7: each of its scripts, and no read, can be sent again with its text."""
    encoded = encode(command, speaking())

    assert encoded[0][0] is EVALSHA, "the drivers look at the first of them"
    for each in encoded:
        if each[0] == b"EVALSHA":
            assert as_eval(each)[0] == b"EVAL"
        else:
            assert each[0] == b"GET"


# Values that are too large to be read.


@pytest.mark.parametrize(
    ("command", "replies", "event"),
    [
        (ReadCell("n:k", 1.0), [GIANT], CellRead(NOW_S, FOREIGN, None)),
        (
            ReadCell("n:k", 1.0, ("n:%t:t",)),
            [GIANT, b"t" * VERSION_BYTES],
            CellRead(NOW_S, FOREIGN, None, (b"t" * VERSION_BYTES,)),
        ),
        (
            AcquireLease("n:k", b"n" * 8, 1000, NO_GRANT, Mode.KEEP, 1.0),
            [GIANT],
            ForeignFound(NOW_S),
        ),
    ],
    ids=["read", "read with a tag", "acquire"],
)
def test_a_value_that_is_too_large_is_foreign(command, replies, event):
    """It is a counted miss; its loader runs, and nothing is stored in its place."""
    assert decode(command, replies, speaking(), NOW_S) == event


def test_the_cells_beside_one_that_is_too_large_are_read_one_by_one():
    reader = EventReader(
        lambda: NOW_S, speaking(), lambda: pytest.fail("nothing is out of step"), Where("a test")
    )
    keys = tuple(f"n:k{number}" for number in range(5))
    command = ReadCells(keys, 2, 1.0, ("n:%t:t",))
    version = b"t" * VERSION_BYTES

    again = reader.read(command, [[None, None], GIANT, [None], version])

    assert again.commands == [(b"GET", b"n:k2"), (b"GET", b"n:k3")]
    event = again.read([None, GIANT])
    assert event == CellsRead(NOW_S, (None, None, None, FOREIGN, None), None, (version,))
    failed = again.read(errors.ConnectionError("lost"))
    assert (failed.now_s, failed.kind) == (NOW_S, FailureKind.CONNECTION)


def test_every_script_has_a_digest_of_its_own():
    assert len({script.sha for script in ALL}) == len(ALL) == 7
    assert all(len(script.sha) == 40 for script in ALL)


@pytest.mark.parametrize("script", ALL, ids=lambda script: script.name)
def test_the_digest_is_the_servers_own(redis_client, script):
    assert redis_client.script_load(script.text).encode() == script.sha


@pytest.mark.parametrize("script", ALL, ids=lambda script: script.name)
def test_a_script_takes_data_from_its_arguments_alone_and_no_memory_to_begin(script):
    """Fault 13: with a shebang that does not allow it, none would run while the server is out of memory."""
    assert not script.text.removeprefix(WHEN_FULL).lstrip().startswith("#!")
    assert "KEYS[2]" not in script.text
    assert "error_reply" not in script.text


def test_after_a_replica_s_refusal_others_are_looked_for_with_growing_pauses():
    """Fault 16: hundreds of connections a second would be opened otherwise."""
    resets = []
    now_s = 100.0
    reader = EventReader(lambda: now_s, speaking(), lambda: resets.append(now_s), Where("a test"))
    refused = BaseParser.parse_error("READONLY You can't write against a read only replica.")

    def refuse_for(span_s):
        nonlocal now_s
        until_s = now_s + span_s
        while now_s < until_s:
            assert reader.read(STORE, [refused, refused]).kind is FailureKind.READ_ONLY
            now_s += 0.01

    refuse_for(60.0)
    pauses = [later - earlier for earlier, later in itertools.pairwise(resets)]
    assert pauses[:6] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2], abs=0.03)
    assert all(pause <= LONGEST_REPLICA_S + 0.02 for pause in pauses)
    now_s += 3 * LONGEST_REPLICA_S
    resets.clear()
    refuse_for(1.0)
    assert len(resets) >= 3, "another failover is met at once"


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there is no such signal")
@pytest.mark.parametrize("kind", [TypeError, ValueError])
def test_what_a_handler_raises_while_the_time_is_read_is_no_bad_reply(kind):
    class Seconds:
        def __int__(self):
            signal.raise_signal(signal.SIGUSR1)
            return 1

    def exceed(signum, frame):
        raise kind("of the job")

    before = signal.signal(signal.SIGUSR1, exceed)
    try:
        with pytest.raises(kind, match="of the job"):
            tell_time([Seconds(), b"0"], bool)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_the_clock_of_the_server_is_what_the_newest_reply_says_also_where_it_was_set_back():
    """B6: a reply is late by as long as it was on its way, and no later one has to make up for it."""
    clock = ServerClock()
    assert clock.now_ms(1.0) is None
    clock.learn(2_000_000_000, 1.0)
    assert clock.now_ms(1.5) == 2_000_500
    clock.learn(2_000_900_000, 2.0)  # it was asked at the server, and came in 0.1 s later
    assert clock.now_ms(2.0) == 2_000_900
    clock.learn(1_000_000_000, 3.0)
    assert clock.now_ms(4.0) == 1_001_000
