"""The wire: semantic commands to Redis commands, and replies to events. No I/O here.

`encode` gives the Redis commands of one semantic command; all of them go out together, and `decode` turns
their replies into one event. Error replies are values: the core decides what follows. Scripts go out as
EVALSHA; where the server does not know one (it was restarted, flushed, failed over, or has evicted it:
faults 6 and 7) that command, and only that, is sent again as EVAL.

A value is stored without a script where the server can compare (`SET key value IFEQ cell`: Valkey 8.1,
Redis 8.4; https://valkey.io/commands/set). The cell that the grant has left follows from the grant, and is
not read first. Whether the server can is asked together with the first fill after a connection was opened, by
a command that is refused in either case: the server behind an address may be another one from then on. One
that does not know the option says so, nothing is done, and that fill goes through the script. So do fills of
a key whose writers overtake each other: what has changed the script decides, and a comparison would be one
more round trip.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

from redis.exceptions import NoPermissionError, ResponseError

from sansio_cache.cell import (
    HEADER,
    MAGIC,
    NO_GRANT,
    Kind,
    format_cell,
    grant_us,
    issued_cell,
)
from sansio_cache.commands import (
    AcquireLease,
    AcquireLeases,
    AppendEntries,
    ClaimCell,
    DeleteKeys,
    ExpireCells,
    Fill,
    FillCells,
    FreeLock,
    HoldCells,
    InspectCell,
    LeaseRequest,
    Mode,
    Ping,
    ReadCell,
    ReadCells,
    ReadTags,
    ReleaseLeases,
    RenewLeases,
    ScanKeys,
    StoreCommand,
    SwapCell,
    TakeLock,
    TouchCell,
)
from sansio_cache.events import (
    AcquireReply,
    CellRead,
    CellsExpired,
    CellsFilled,
    CellsRead,
    FailureKind,
    FillResult,
    ForeignFound,
    FreshFound,
    HoldsTaken,
    KeysFound,
    LeaseDenied,
    LeaseGranted,
    LeasesAnswered,
    LeasesReleased,
    LeasesRenewed,
    Ponged,
    StoreEvent,
    StoreFailed,
    TagsRead,
    WriterFound,
)
from sansio_cache.signals import let_through
from sansio_cache_redis.calls import (
    EVALSHA,
    TIME,
    Args,
    capture_calls,
    number,
    script_call,
    telling,
)
from sansio_cache_redis.dialect import Dialect
from sansio_cache_redis.errors import TooLargeError, classify
from sansio_cache_redis.primitive_scripts import PRIMITIVES
from sansio_cache_redis.primitive_wire import (
    decode_primitive,
    encode_primitive,
    encode_removal,
    removals,
    removed_from,
)
from sansio_cache_redis.queue_scripts import QUEUES
from sansio_cache_redis.queue_wire import decode_queue, encode_queue
from sansio_cache_redis.replies import (
    ARRAY,
    ServerClock,
    WireError,
    captured_from,
    grant_from,
    integer_from,
    items_from,
    statuses_from,
    stored_from,
    text_from,
    value_from,
    version_from,
)
from sansio_cache_redis.scripts import (
    ACQUIRE,
    ALL,
    EXPIRE,
    FILL,
    HOLD,
    MOST_KEYS,
    RELEASE,
    RENEW,
    Script,
)

T = TypeVar("T")

_BY_SHA: Final = {script.sha: script for script in (*ALL, *PRIMITIVES, *QUEUES)}


_MOST_BESIDES_BYTES: Final = 4 * 2**20
"""A cell may carry 255 tags of up to 16,000 bytes each."""
_LARGE_BYTES: Final = 16_384
"""A value that is larger goes with the script's text, which is next to nothing beside it. With the digest it
would have to be sent twice where the server does not know that."""
_MODES: Final = {mode: mode.value.encode() for mode in Mode}


def longest_cell_bytes(max_value_bytes: int) -> int:
    """How long a cell may be whose value may be so long: with all of its tags."""
    return max_value_bytes + _MOST_BESIDES_BYTES


def _call_many(script: Script, keys: Sequence[str], *args: bytes) -> Args:
    return (EVALSHA, script.sha, number(len(keys)), *[key.encode() for key in keys], *args)


def in_chunks(parts: tuple[T, ...], dialect: Dialect) -> Iterator[tuple[T, ...]]:
    """As many as a script may take at once, so that it does not keep the server for long."""
    most = 1 if dialect.is_cluster else MOST_KEYS
    if len(parts) <= most:
        return iter((parts,)) if parts else iter(())
    return (parts[first : first + most] for first in range(0, len(parts), most))


def read_one(key: str) -> Args:
    """The command that reads a key."""
    return (b"GET", key.encode())


def acquire_many(requests: tuple[LeaseRequest, ...], nonce: bytes, lease_ms: int, floor: bytes) -> Args:
    """The command that asks for some leases at once: no more than go into a script."""
    refused = (argument for each in requests for argument in (each.seen, _MODES[each.mode]))
    return _call_many(ACQUIRE, [each.key for each in requests], nonce, number(lease_ms), floor, *refused)


def _fills(command: FillCells, dialect: Dialect) -> list[Args]:
    """One command for each fill; behind them messages about those that were compared, or the question."""
    fills, tags = command.fills, map(read_one, command.tags)
    compares, contended = dialect.compares, dialect.contended
    compared: list[str] = []
    commands: list[Args] = []
    for fill in fills:
        key, ttl = fill.key.encode(), number(fill.hard_ttl_ms)
        soft_ms = dialect.soft_ms(fill)
        cell = HEADER.pack(MAGIC, Kind.VALUE, NO_GRANT, 0, soft_ms, fill.grant) + fill.body
        may_compare = compares and fill.lease_ms and fill.key not in contended
        if may_compare and grant_us(fill.grant) >= dialect.floor_us:
            left = format_cell(issued_cell(fill.kind, fill.grant, fill.lease_ms))
            commands.append((b"SET", key, cell, b"IFEQ", left, b"PX", ttl))
            compared.append(fill.key)
            continue
        args = (b"1", key, fill.grant, cell, ttl, dialect.channel_of(fill.key), dialect.floor)
        is_large = len(cell) > _LARGE_BYTES
        commands.append((b"EVAL", FILL.source, *args) if is_large else (EVALSHA, FILL.sha, *args))
    if compared:
        commands += telling(compared, dialect.channel_of)
    elif compares is None:
        commands.append((b"SET", fills[0].key.encode(), b"", b"IFEQ", b"", b"PX", b"0"))
    # The tags after the fills: whoever shares the value is to know that they still held then.
    return [*commands, *tags]


def encode(command: StoreCommand, dialect: Dialect) -> list[Args]:  # noqa: C901 - one case a command
    """The Redis commands that a semantic command stands for, to a server that understands this."""
    if isinstance(command, ReadCell):  # nearly always: a pattern takes three times as long to match
        read = (b"GET", command.key.encode())
        return [read, *map(read_one, command.tags)] if command.tags else [read]
    floor = dialect.floor
    match command:
        case ReadCells(keys=keys, tags=tags) if dialect.is_cluster:
            return [*map(read_one, keys), *map(read_one, tags)]
        case ReadCells(keys=keys, chunk=chunk, tags=tags):
            parts = (keys[first : first + chunk] for first in range(0, len(keys), chunk))
            return [*((b"MGET", *(key.encode() for key in part)) for part in parts), *map(read_one, tags)]
        case ReadTags(tags=tags):
            return [*map(read_one, tags)]
        case AcquireLease(key=key, nonce=nonce, lease_ms=lease_ms, seen=seen, mode=mode):
            acquire = script_call(ACQUIRE, key, nonce, number(lease_ms), floor, seen, _MODES[mode])
            if not command.capture.tags:
                return [acquire]
            return [*capture_calls(command.capture, nonce, floor), acquire]
        case AcquireLeases(lease_requests=lease_requests, nonce=nonce, lease_ms=lease_ms, capture=capture):
            some = in_chunks(lease_requests, dialect)
            acquires = (acquire_many(chunk, nonce, lease_ms, floor) for chunk in some)
            return [*capture_calls(capture, nonce, floor), *acquires]
        case FillCells():
            return _fills(command, dialect)
        case RenewLeases(leases=leases, lease_ms=lease_ms):
            return [script_call(RENEW, each.key, each.lease_id, number(lease_ms), floor) for each in leases]
        case ReleaseLeases(leases=leases):
            return [
                script_call(RELEASE, each.key, each.lease_id, dialect.channel_of(each.key)) for each in leases
            ]
        case HoldCells(keys=keys, nonce=nonce, hold_ms=hold_ms, capture=capture):
            chunks = in_chunks(keys, dialect)
            holds = [_call_many(HOLD, chunk, nonce, number(hold_ms), floor) for chunk in chunks]
            return [*capture_calls(capture, nonce, floor), *holds] if capture.tags else holds
        case ExpireCells(keys=keys):
            return [script_call(EXPIRE, key, dialect.channel_of(key)) for key in keys]
        case InspectCell() | ClaimCell() | SwapCell() | TouchCell() | TakeLock() | FreeLock():
            return encode_primitive(command, floor, dialect.channel_of)
        case DeleteKeys():
            return encode_removal(command, dialect.channel_of, one_by_one=dialect.is_cluster)
        case ScanKeys(pattern=pattern, cursor=cursor, count=count):
            return [(b"SCAN", number(cursor), b"MATCH", pattern.encode(), b"COUNT", number(count))]
        case Ping() if dialect.probe:
            # Of a cluster that is down, a node answers everything but what is about keys.
            return [TIME, (b"GET", dialect.probe)]
        case Ping():
            # TIME is answered by servers that serve nothing else (LOADING, MASTERDOWN); PING is not.
            return [TIME, (b"PING",)]
        case _:
            return encode_queue(command)


_READ: Final = ("GET",)


def words_of(command: StoreCommand, dialect: Dialect) -> tuple[str, ...]:
    """What a server is asked for a command: the first word of each of its Redis commands."""
    if isinstance(command, ReadCell) and not command.tags:  # as mostly
        return _READ
    return tuple(args[0].decode() for args in encode(command, dialect))


def as_eval(args: Args) -> Args:
    """A command with a script's digest, with its text instead; another one as it is."""
    return (b"EVAL", _BY_SHA[args[1]].source, *args[2:]) if args[0] == EVALSHA else args


def decode(command: StoreCommand, replies: Sequence[Any], dialect: Dialect, now_s: float) -> StoreEvent:
    """The event that a command's replies amount to. Never raises (S12).

    One error among the replies makes the whole command fail: all of them may be repeated.
    """
    try:
        if isinstance(command, FillCells):
            replies = _without_extra(command, replies, dialect)
        asked = replies
        if isinstance(
            command, DeleteKeys
        ):  # that nobody could be told is no failure, nor that it did not look
            asked = removals(command, replies, one_by_one=dialect.is_cluster)
        elif isinstance(command, AppendEntries):  # it is queued, whatever the replicas
            asked = replies[:1]
        for reply in asked:
            if isinstance(reply, Exception) and not _is_harmless(command, reply, dialect):
                return StoreFailed(now_s, classify(reply))
        return _decode(command, replies, dialect, now_s)
    except (WireError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        let_through(error)
        # A reply of the wrong shape answers another command, or comes from no Redis.
        return StoreFailed(now_s, FailureKind.MISPAIRED)


def _decode(  # noqa: C901 - one case a command
    command: StoreCommand, replies: Sequence[Any], clock: Dialect, now_s: float
) -> StoreEvent:
    match command:
        case ReadCell():
            floor_us = clock.floor_us
            versions = tuple(version_from(reply, floor_us) for reply in replies[1:])
            return CellRead(now_s, stored_from(replies[0], floor_us), clock.now_ms(now_s), versions)
        case ReadCells(tags=tags):
            parts, versions = _and_versions(replies, len(tags), clock.floor_us)
            parts = (parts,) if clock.is_cluster else parts
            floor_us = clock.floor_us
            plain = clock.plain
            stored = [
                each if type(each) in plain else stored_from(each, floor_us)
                for part in parts
                for each in items_from(part)
            ]
            if len(stored) != len(command.keys):
                raise WireError
            return CellsRead(now_s, tuple(stored), clock.now_ms(now_s), versions)
        case ReadTags():
            versions = tuple(version_from(reply, clock.floor_us) for reply in replies)
            return TagsRead(now_s, versions, clock.now_ms(now_s))
        case AcquireLease(nonce=nonce, capture=capture):
            alone = len(replies) == 1 and not capture.tags  # as mostly
            versions = () if alone else captured_from(replies[:-1], capture, clock, now_s)
            if isinstance(replies[-1], TooLargeError):  # a value that this process does not read
                return ForeignFound(now_s)
            server_ms, answer = _answered(replies[-1], 1, clock, now_s)
            return _acquired(nonce, answer, versions, server_ms, now_s)
        case AcquireLeases(lease_requests=requests, nonce=nonce, capture=capture):
            count = len(capture.tags)
            versions = captured_from(replies[:count], capture, clock, now_s)
            answers: list[AcquireReply] = []
            for reply, chunk in zip(replies[count:], in_chunks(requests, clock), strict=True):
                server_ms, *each = _answered(reply, len(chunk), clock, now_s)
                answers += (_acquired(nonce, answer, (), server_ms, now_s) for answer in each)
            return LeasesAnswered(now_s, tuple(answers), versions)
        case FillCells(fills=fills, tags=tags):
            results, versions = _and_versions(replies, len(tags), clock.floor_us)
            if len(results) != len(fills):
                raise WireError
            filled = tuple(map(_filled, fills, results))
            if clock.contended or FillResult.CHANGED in filled:
                clock.contended.learn(zip([each.key for each in fills], filled, strict=True))
            return CellsFilled(now_s, filled, versions)
        case RenewLeases():
            return LeasesRenewed(now_s, tuple(map(bool, statuses_from(replies, clock, now_s))))
        case ReleaseLeases():
            for reply in replies:
                integer_from(*items_from(reply, 1))
            return LeasesReleased(now_s)
        case HoldCells(keys=keys, nonce=nonce, capture=capture):
            count = len(capture.tags)
            versions = captured_from(replies[:count], capture, clock, now_s)
            grants: list[bytes] = []
            for reply, part in zip(replies[count:], in_chunks(keys, clock), strict=True):
                _, *each = _timed(reply, len(part), clock, now_s)
                grants += (grant_from(grant, nonce) for grant in each)
            return HoldsTaken(now_s, tuple(grants), versions)
        case ExpireCells():
            return CellsExpired(now_s, sum(statuses_from(replies, clock, now_s)))
        case InspectCell() | ClaimCell() | SwapCell() | TouchCell() | TakeLock() | FreeLock():
            return decode_primitive(command, replies, clock, now_s)
        case DeleteKeys():
            return removed_from(command, replies, now_s, one_by_one=clock.is_cluster)
        case ScanKeys():
            cursor, keys = items_from(replies[0], 2)
            # A name that is not UTF-8 is not one of ours.
            names = (text_from(key) for key in items_from(keys))
            return KeysFound(now_s, int(cursor), tuple(name for name in names if name is not None))
        case Ping():
            if not isinstance(replies[0], Exception):
                seconds, microseconds = items_from(replies[0], 2)
                clock.learn(int(seconds) * 1_000_000 + int(microseconds), now_s)
            return Ponged(now_s)
        case _:
            return decode_queue(command, replies, clock, now_s)


def _acquired(
    nonce: bytes, reply: Any, versions: tuple[bytes, ...], server_ms: int, now_s: float
) -> AcquireReply:
    if isinstance(reply, TooLargeError):  # a value that this process does not read
        return ForeignFound(now_s)
    if isinstance(reply, bytes):
        return LeaseGranted(now_s, grant_from(reply, nonce), None, server_ms, versions)
    if not isinstance(reply, ARRAY):
        raise WireError
    match reply[0]:
        case b"R":
            return LeaseGranted(now_s, grant_from(reply[1], nonce), value_from(reply[2]), server_ms, versions)
        case b"H":
            return FreshFound(now_s, value_from(reply[1]), server_ms, versions)
        case b"S":
            return LeaseDenied(now_s, integer_from(reply[1]), value_from(reply[2]), server_ms, versions)
        case b"W":
            return LeaseDenied(now_s, integer_from(reply[1]), None, server_ms, versions)
        case b"T":
            return WriterFound(now_s, integer_from(reply[1]))
        case b"X":
            return ForeignFound(now_s)
        case _:
            raise WireError


def _timed(reply: Any, count: int, clock: ServerClock, now_s: float) -> list[Any]:
    """The answer of a script that tells the time: that in milliseconds, and so many others."""
    server_us, *answers = items_from(reply, count + 1)
    return [clock.learn(integer_from(server_us), now_s), *answers]


def _answered(reply: Any, count: int, clock: ServerClock, now_s: float) -> list[Any]:
    """The answer of an acquire about so many keys: the time in milliseconds, and what is said of each."""
    if not isinstance(reply, ARRAY) or reply[0] != b"A":
        raise WireError
    return _timed(reply[1:], count, clock, now_s)


def _filled(fill: Fill, reply: Any) -> FillResult:
    """What became of a fill: by script an array, by comparing a text or nothing."""
    if isinstance(reply, ARRAY):
        return FillResult(*reply)
    if not fill.lease_ms:  # it was not compared
        raise WireError
    if reply == b"OK" or reply is True:  # as a client of redis-py's has it
        return FillResult.STORED
    if reply is None or isinstance(reply, Exception):  # that is WRONGTYPE: the key is no string
        return FillResult.CHANGED
    raise WireError


def _without_extra(command: FillCells, replies: Sequence[Any], dialect: Dialect) -> Sequence[Any]:
    """The replies to fills and to reads of tags; learn from that to the question."""
    count = len(command.fills)
    first_tag = len(replies) - len(command.tags)
    if first_tag < count:
        raise WireError
    extra = replies[count] if first_tag > count else None
    replies = (*replies[:count], *replies[first_tag:])
    if dialect.compares is None and isinstance(extra, Exception):
        if "invalid expire" in str(extra):
            dialect.compares = True
        elif is_unknown_option(extra):
            dialect.compares = False
    return replies


def is_unknown_option(reply: Any) -> bool:
    """Whether a server does not know an option."""
    return (
        isinstance(reply, ResponseError) and classify(reply) is FailureKind.OTHER and "syntax" in str(reply)
    )


def _and_versions(
    replies: Sequence[Any], tags: int, floor_us: int
) -> tuple[Sequence[Any], tuple[bytes, ...]]:
    """Replies, parted from those to the reads of tags behind them."""
    if not tags:
        return replies, ()
    return replies[:-tags], tuple(version_from(reply, floor_us) for reply in replies[-tags:])


def _is_harmless(command: StoreCommand, error: Exception, dialect: Dialect) -> bool:
    """A key that is no string is foreign, and so is a giant; a server that forbids the probe does serve."""
    if isinstance(error, TooLargeError):
        many = AcquireLeases if dialect.is_cluster else (ReadCells, AcquireLeases)
        return not isinstance(command, many)
    return str(error).startswith("WRONGTYPE") or (
        isinstance(command, Ping) and isinstance(error, NoPermissionError)
    )
