"""The wire: semantic commands to Redis commands, and replies to events. No I/O here.

`encode` gives the Redis commands of one semantic command; all of them go out together, and `decode` turns
their replies into one event. Error replies are values: the core decides what follows. Scripts go out as
EVALSHA; where the server does not know one (it was restarted, flushed, failed over, or has evicted it:
faults 6 and 7) that command, and only that, is sent again as EVAL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar, assert_never

import attrs
from redis.exceptions import InvalidResponse, NoPermissionError, NoScriptError

from sansio_cache.commands import (
    AcquireLease,
    AcquireLeases,
    ClaimCell,
    DeleteKeys,
    ExpireCells,
    Fill,
    FillCells,
    FreeLock,
    HoldCells,
    InspectCell,
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
from sansio_cache.keys import ONE_PART
from sansio_cache.signals import let_through
from sansio_cache.tags import VERSION_BYTES
from sansio_cache_redis.calls import Args, capture_calls, number, script_call, wake_channel
from sansio_cache_redis.errors import TooLargeError, classify
from sansio_cache_redis.primitive_scripts import PRIMITIVES
from sansio_cache_redis.primitive_wire import (
    decode_primitive,
    encode_primitive,
    encode_removal,
    removed_from,
)
from sansio_cache_redis.reasons import Where, reason_of
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
from sansio_cache_redis.scripts import ACQUIRE, ALL, EXPIRE, FILL, HOLD, RELEASE, RENEW

E = TypeVar("E")

_BY_SHA: Final = {script.sha: script for script in (*ALL, *PRIMITIVES)}


TIME: Final[Args] = (b"TIME",)
_MOST_BESIDES_BYTES: Final = 4 * 2**20
"""A cell may carry 255 tags of up to 16,000 bytes each."""
_PLAIN: Final = (bytes, type(None))


def longest_cell_bytes(max_value_bytes: int) -> int:
    """How long a cell may be whose value may be so long: with all of its tags."""
    return max_value_bytes + _MOST_BESIDES_BYTES


def tell_time(reply: Any, on_time: Callable[[int], object]) -> None:
    """Tell the server's time in microseconds, from the reply to TIME; an error reply is raised.

    Where TIME is forbidden the connection is good all the same; what has a soft expiry counts as expired.
    """
    if isinstance(reply, NoPermissionError):
        return
    if isinstance(reply, Exception):
        raise reply
    try:
        seconds, microseconds = items_from(reply, 2)
        server_us = int(seconds) * 1_000_000 + int(microseconds)
    except (WireError, TypeError, ValueError) as error:
        let_through(error)
        raise InvalidResponse("TIME does not give the time") from None
    on_time(server_us)


def _get(key: str) -> Args:
    return (b"GET", key.encode())


def _fill(fill: Fill) -> Args:
    key, ttls = fill.key, (number(fill.hard_ttl_ms), number(fill.soft_ttl_ms))
    return script_call(FILL, key, fill.grant, *ttls, fill.body, wake_channel(key))


def encode(command: StoreCommand) -> list[Args]:  # noqa: C901 - one case a command
    """The Redis commands that a semantic command stands for."""
    if isinstance(command, ReadCell):  # nearly always: a pattern takes three times as long to match
        read = (b"GET", command.key.encode())
        return [read, *map(_get, command.tags)] if command.tags else [read]
    match command:
        case ReadCells(keys=keys, chunk=chunk, tags=tags):
            chunks = (keys[first : first + chunk] for first in range(0, len(keys), chunk))
            return [*((b"MGET", *(key.encode() for key in part)) for part in chunks), *map(_get, tags)]
        case ReadTags(tags=tags):
            return [*map(_get, tags)]
        case AcquireLease(key=key, nonce=nonce, lease_ms=lease_ms, seen=seen, mode=mode):
            acquire = script_call(ACQUIRE, key, nonce, number(lease_ms), seen, mode.value.encode())
            return [*capture_calls(command.capture, nonce), acquire] if command.capture.tags else [acquire]
        case AcquireLeases(lease_requests=lease_requests, nonce=nonce, lease_ms=lease_ms, capture=capture):
            acquires = (
                script_call(ACQUIRE, each.key, nonce, number(lease_ms), each.seen, each.mode.value.encode())
                for each in lease_requests
            )
            return [*capture_calls(capture, nonce), *acquires]
        case FillCells(fills=fills, tags=tags):
            # The tags after the fills: whoever shares the value is to know that they still held then.
            return [*map(_fill, fills), *map(_get, tags)]
        case RenewLeases(leases=leases, lease_ms=lease_ms):
            return [script_call(RENEW, each.key, each.lease_id, number(lease_ms)) for each in leases]
        case ReleaseLeases(leases=leases):
            return [script_call(RELEASE, each.key, each.lease_id, wake_channel(each.key)) for each in leases]
        case HoldCells(keys=keys, nonce=nonce, hold_ms=hold_ms, capture=capture):
            return [
                *capture_calls(capture, nonce),
                *(script_call(HOLD, key, nonce, number(hold_ms)) for key in keys),
            ]
        case ExpireCells(keys=keys):
            return [script_call(EXPIRE, key, wake_channel(key)) for key in keys]
        case InspectCell() | ClaimCell() | SwapCell() | TouchCell() | TakeLock() | FreeLock():
            return encode_primitive(command)
        case DeleteKeys():
            return encode_removal(command)
        case ScanKeys(pattern=pattern, cursor=cursor, count=count):
            return [(b"SCAN", number(cursor), b"MATCH", pattern.encode(), b"COUNT", number(count))]
        case Ping():
            # TIME is answered by servers that serve nothing else (LOADING, MASTERDOWN); PING is not.
            return [TIME, (b"PING",)]
        case _:
            assert_never(command)


def as_eval(args: Args) -> Args:
    """A command with a script's digest, with its text instead."""
    return (b"EVAL", _BY_SHA[args[1]].source, *args[2:])


def unknown_scripts(replies: Sequence[Any]) -> list[int]:
    """The places of the commands to send again, as the server does not know their scripts."""
    return [place for place, reply in enumerate(replies) if isinstance(reply, NoScriptError)]


FIRST_REPLICA_S: Final = 0.1
LONGEST_REPLICA_S: Final = 5.0
"""After a replica's refusal the connections are closed, as another may lead to the new primary. Where it does
not, they stay open for so long, in seconds, and then for twice as long: what can be read there is read."""


@attrs.frozen
class Again(Generic[E]):
    """What is read where some of the commands have to be sent once more, in another form.

    Args:
        commands: What to send.
        read: Reads what comes back of them.
    """

    commands: Sequence[Args]
    read: Callable[[list[Any] | BaseException], E]


class EventReader:
    """Makes events of what came back from a server, or of the failure in its place.

    Args:
        clock: The local monotonic clock, in seconds.
        server_clock: The server's, as far as it is known.
        distrust: Closes the connections; called where a reply says that they had better be.
        where: Where the server is, for messages.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        server_clock: ServerClock,
        distrust: Callable[[], object],
        where: Where,
    ) -> None:
        self._where = where
        self._clock = clock
        self._server_clock = server_clock
        self._distrust = distrust
        self._replica_due_s = -LONGEST_REPLICA_S
        self._replica_pause_s = FIRST_REPLICA_S

    def read(
        self, command: StoreCommand, replies: list[Any] | BaseException
    ) -> StoreEvent | Again[StoreEvent]:
        """The event that replies amount to; or what to send once more, before there is one. Never raises."""
        if isinstance(replies, BaseException):
            return self.failure(replies)
        now_s = self._clock()
        if isinstance(command, ReadCell) and type(raw := replies[0]) in _PLAIN:
            # A hit is nothing but this: what `decode` says, without a call of it.
            versions = tuple(replies[1:]) if command.tags else ()
            if not versions or all(type(each) is bytes and len(each) == VERSION_BYTES for each in versions):
                offset_ms = self._server_clock.offset_ms
                server_ms = None if offset_ms is None else int(now_s * 1000) + offset_ms
                return CellRead(now_s, raw, server_ms, versions)
        try:
            event = decode(command, replies, self._server_clock, now_s)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not leave the caller waiting for ever
            let_through(error)
            return StoreFailed(now_s, FailureKind.OTHER)
        if isinstance(event, StoreFailed):
            if NoScriptError in map(type, replies):
                return self._with_texts(command, replies)
            if isinstance(command, ReadCells) and TooLargeError in map(type, replies):
                return self._one_by_one(command, replies)
            if event.kind is FailureKind.MISPAIRED or (
                event.kind is FailureKind.READ_ONLY and self._may_look_for_primary(now_s)
            ):
                self._distrust()
            return self._with_reason(event, replies)
        return event

    def _may_look_for_primary(self, now_s: float) -> bool:
        """Whether it is time to look for another connection; the next time is later then."""
        if now_s < self._replica_due_s:
            return False
        is_new = now_s >= self._replica_due_s + LONGEST_REPLICA_S
        pause_s = FIRST_REPLICA_S if is_new else min(2 * self._replica_pause_s, LONGEST_REPLICA_S)
        self._replica_pause_s, self._replica_due_s = pause_s, now_s + pause_s
        return True

    def _with_reason(self, event: StoreFailed, replies: list[Any]) -> StoreFailed:
        """Say why: the first error reply, where it is one that has made the command fail."""
        error = next((each for each in replies if isinstance(each, Exception)), None)
        if error is None or classify(error) is not event.kind:
            return event
        return StoreFailed(event.now_s, event.kind, event.part, *reason_of(error, self._where))

    def failure(self, error: BaseException) -> StoreFailed:
        """The event of a failure."""
        return StoreFailed(self._clock(), classify(error), ONE_PART, *reason_of(error, self._where))

    def _one_by_one(self, command: ReadCells, replies: list[Any]) -> Again[StoreEvent]:
        """Read the cells of a chunk one by one, where one of them is too large: the others are there."""
        chunks = [place for place, reply in enumerate(replies) if isinstance(reply, TooLargeError)]
        chunk = command.chunk
        keys = [command.keys[place * chunk : (place + 1) * chunk] for place in chunks]

        def read(answers: list[Any] | BaseException) -> StoreEvent:
            if isinstance(answers, BaseException):
                return self.failure(answers)
            rest = iter(answers)
            for place, part in zip(chunks, keys, strict=True):
                replies[place] = [next(rest) for _ in part]
            event = self.read(command, replies)
            assert not isinstance(event, Again)
            return event

        return Again([_get(key) for part in keys for key in part], read)

    def _with_texts(self, command: StoreCommand, replies: list[Any]) -> Again[StoreEvent]:
        """Send those scripts as texts that the server does not know."""
        commands, unknown = encode(command), unknown_scripts(replies)

        def read(answers: list[Any] | BaseException) -> StoreEvent:
            if isinstance(answers, BaseException):
                return self.failure(answers)
            if NoScriptError in map(type, answers):  # no server says so of a text
                return StoreFailed(self._clock(), FailureKind.OTHER)
            for place, answer in zip(unknown, answers, strict=True):
                replies[place] = answer
            event = self.read(command, replies)
            assert not isinstance(event, Again)
            return event

        return Again([as_eval(commands[place]) for place in unknown], read)


def decode(command: StoreCommand, replies: Sequence[Any], clock: ServerClock, now_s: float) -> StoreEvent:
    """The event that a command's replies amount to. Never raises (S12).

    One error among the replies makes the whole command fail: all of them may be repeated.
    """
    try:
        asked = replies
        if isinstance(
            command, DeleteKeys
        ):  # that nobody could be told is no failure, nor that it did not look
            asked = replies[command.looks : command.looks + 1]
        for reply in asked:
            if isinstance(reply, Exception) and not _is_harmless(command, reply):
                return StoreFailed(now_s, classify(reply))
        return _decode(command, replies, clock, now_s)
    except (WireError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        let_through(error)
        # A reply of the wrong shape answers another command, or comes from no Redis.
        return StoreFailed(now_s, FailureKind.MISPAIRED)


def _decode(  # noqa: C901 - one case a command
    command: StoreCommand, replies: Sequence[Any], clock: ServerClock, now_s: float
) -> StoreEvent:
    match command:
        case ReadCell():
            versions = tuple(map(version_from, replies[1:]))
            return CellRead(now_s, stored_from(replies[0]), clock.now_ms(now_s), versions)
        case ReadCells(tags=tags):
            parts, versions = _and_versions(replies, len(tags))
            stored = [
                each if type(each) in _PLAIN else stored_from(each)
                for part in parts
                for each in items_from(part)
            ]
            if len(stored) != len(command.keys):
                raise WireError
            return CellsRead(now_s, tuple(stored), clock.now_ms(now_s), versions)
        case ReadTags():
            return TagsRead(now_s, tuple(map(version_from, replies)), clock.now_ms(now_s))
        case AcquireLease(nonce=nonce, capture=capture):
            is_plain = len(replies) == 1 and not capture.tags
            versions = () if is_plain else captured_from(replies[:-1], capture, clock, now_s)
            return _acquired(nonce, replies[-1], versions, clock, now_s)
        case AcquireLeases(nonce=nonce, capture=capture):
            count = len(capture.tags)
            versions = captured_from(replies[:count], capture, clock, now_s)
            answers = tuple(_acquired(nonce, reply, (), clock, now_s) for reply in replies[count:])
            return LeasesAnswered(now_s, answers, versions)
        case FillCells(tags=tags):
            fills, versions = _and_versions(replies, len(tags))
            return CellsFilled(now_s, tuple(map(FillResult, statuses_from(fills, clock, now_s))), versions)
        case RenewLeases():
            return LeasesRenewed(now_s, tuple(map(bool, statuses_from(replies, clock, now_s))))
        case ReleaseLeases():
            statuses_from(replies, clock, now_s)
            return LeasesReleased(now_s)
        case HoldCells(nonce=nonce, capture=capture):
            count = len(capture.tags)
            versions = captured_from(replies[:count], capture, clock, now_s)
            statuses_from(replies[count:], clock, now_s)
            grants = tuple(grant_from(reply[2], nonce) for reply in replies[count:])
            return HoldsTaken(now_s, grants, versions)
        case ExpireCells():
            return CellsExpired(now_s, sum(statuses_from(replies, clock, now_s)))
        case InspectCell() | ClaimCell() | SwapCell() | TouchCell() | TakeLock() | FreeLock():
            return decode_primitive(command, replies, clock, now_s)
        case DeleteKeys():
            return removed_from(command, replies, now_s)
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
            assert_never(command)


def _acquired(
    nonce: bytes, reply: Any, versions: tuple[bytes, ...], clock: ServerClock, now_s: float
) -> AcquireReply:
    if isinstance(reply, TooLargeError):  # a value that this process does not read
        return ForeignFound(now_s)
    if not (isinstance(reply, ARRAY) and isinstance(reply[1], int)):
        raise WireError
    server_ms = clock.learn(reply[1], now_s)
    match reply[0]:
        case b"L":
            return LeaseGranted(now_s, grant_from(reply[2], nonce), None, server_ms, versions)
        case b"R":
            return LeaseGranted(now_s, grant_from(reply[2], nonce), value_from(reply[3]), server_ms, versions)
        case b"H":
            return FreshFound(now_s, value_from(reply[2]), server_ms, versions)
        case b"S":
            return LeaseDenied(now_s, integer_from(reply[2]), value_from(reply[3]), server_ms, versions)
        case b"W":
            return LeaseDenied(now_s, integer_from(reply[2]), None, server_ms, versions)
        case b"T":
            return WriterFound(now_s, integer_from(reply[2]))
        case b"X":
            return ForeignFound(now_s)
        case _:
            raise WireError


def _and_versions(replies: Sequence[Any], tags: int) -> tuple[Sequence[Any], tuple[bytes, ...]]:
    """Replies, parted from those to the reads of tags behind them."""
    if not tags:
        return replies, ()
    return replies[:-tags], tuple(map(version_from, replies[-tags:]))


def _is_harmless(command: StoreCommand, error: Exception) -> bool:
    """A key that is no string is foreign, and so is a giant; a server that forbids the probe does serve."""
    if isinstance(error, TooLargeError):
        return not isinstance(command, ReadCells)
    return str(error).startswith("WRONGTYPE") or (
        isinstance(command, Ping) and isinstance(error, NoPermissionError)
    )
