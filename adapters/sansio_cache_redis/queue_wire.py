"""The wire of queues: their commands to scripts, and replies to events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, assert_never

import msgspec

from sansio_cache.commands import (
    AppendEntries,
    AttendQueue,
    DropLetters,
    MeasureQueue,
    PeekEntries,
    QueueCommand,
    ReadLetters,
    ReplayLetter,
    SettleEntries,
    TakeEntries,
)
from sansio_cache.events import (
    Appended,
    EntriesAppended,
    EntriesFound,
    EntriesSettled,
    EntriesTaken,
    KeysDeleted,
    QueueAttended,
    QueueMeasured,
    StoreEvent,
)
from sansio_cache.queues import CRASHES, QueueEntry, hold_of, lease_of, stream_of
from sansio_cache_redis.calls import EVALSHA, WAIT, Args, number
from sansio_cache_redis.queue_scripts import (
    APPEND,
    ATTEND,
    DROP,
    LETTERS,
    MEASURE,
    PEEK,
    REPLAY,
    SETTLE,
    TAKE,
)
from sansio_cache_redis.replies import ServerClock, WireError, integer_from, items_from, statuses_from
from sansio_cache_redis.scripts import Script

_HOW: Final = {1: Appended.TAKEN, 2: Appended.PARTED, 3: Appended.FULL}


def encode_queue(command: QueueCommand) -> list[Args]:
    """The Redis commands of a command about a queue."""
    root = command.root
    match command:
        case AppendEntries(appends=appends, most=most, partitions=partitions):
            holds = [hold_of(root, each.key) for each in appends]
            args = [
                part
                for each in appends
                for part in (each.key.encode(), each.grant, each.body, _packed(each.tags))
            ]
            keys = [*_keys(root, "stream", "pending", "dead"), *holds]
            append = _call(APPEND, keys, number(most), number(partitions), *args)
            if not command.replicas:
                return [append]
            return [append, (WAIT, number(command.replicas), number(command.wait_ms))]
        case PeekEntries(keys=names, partitions=partitions):
            peeked = (number(partitions), *(name.encode() for name in names))
            return [_call(PEEK, _keys(root, "stream", "pending"), *peeked)]
        case TakeEntries(grant=grant, after=after, count=count, most_bytes=most_bytes, is_again=is_again):
            limits = (number(each) for each in (after, count, most_bytes, CRASHES, not is_again))
            return [_call(TAKE, [lease_of(root), stream_of(root)], grant, *limits)]
        case SettleEntries(grant=grant, verdicts=verdicts):
            told = [
                part
                for each in verdicts
                for part in (
                    number(each.token),
                    each.key.encode(),
                    each.reason.encode(),
                    number(each.found),
                )
            ]
            keys = _keys(root, "lease", "stream", "pending", "letters", "dead")
            return [_call(SETTLE, keys, grant, *told)]
        case AttendQueue(member=member, ttl_ms=ttl_ms):
            return [_call(ATTEND, _keys(root, "members"), member, number(ttl_ms))]
        case MeasureQueue(partitions=partitions):
            return [_call(MEASURE, _keys(root, "stream", "pending", "letters"), number(partitions))]
        case ReadLetters(after=after, count=count):
            return [_call(LETTERS, _keys(root, "letters", "dead"), number(after), number(count))]
        case ReplayLetter(letter=letter, key=key, nonce=nonce, partitions=partitions):
            keys = _keys(root, "stream", "pending", "letters", "dead")
            return [_call(REPLAY, keys, number(letter), key.encode(), nonce, number(partitions))]
        case DropLetters(letters=letters):
            return [_call(DROP, _keys(root, "letters", "dead"), *map(number, letters))]
        case _:
            assert_never(command)


def decode_queue(
    command: QueueCommand, replies: Sequence[Any], clock: ServerClock, now_s: float
) -> StoreEvent:
    """The event of a command about a queue."""
    reply = replies[0]
    (status,) = statuses_from((reply,), clock, now_s)
    match command:
        case AppendEntries() | ReplayLetter():
            backlog, how = integer_from(reply[2]), _HOW[status]
            replicas = _confirmed(replies[1:])
            tokens = tuple(map(int, items_from(reply[3]))) if how is Appended.TAKEN else ()
            count = len(command.appends) if isinstance(command, AppendEntries) else 1
            may_refuse = how is Appended.PARTED or isinstance(command, AppendEntries)
            if (how is Appended.TAKEN or not may_refuse) and len(tokens) != count:
                raise WireError
            return EntriesAppended(now_s, tokens, backlog, how, replicas)
        case PeekEntries() if _HOW[status] is Appended.PARTED:
            return EntriesFound(now_s, (), integer_from(reply[2]))
        case PeekEntries(keys=keys):
            found = items_from(reply[2], len(keys))
            return EntriesFound(now_s, tuple(_entry(each) if each else None for each in found))
        case TakeEntries():
            if not status:
                return EntriesTaken(now_s, (), is_ours=False)
            taken = tuple(_entry(each, deliveries=integer_from(each[2])) for each in items_from(reply[3]))
            backlog, oldest = integer_from(reply[2]), int(reply[4])
            return EntriesTaken(now_s, taken, backlog, oldest=oldest, server_ms=reply[1] // 1000)
        case SettleEntries():
            return EntriesSettled(now_s, status == 1)
        case AttendQueue():
            return QueueAttended(now_s, integer_from(reply[2]))
        case MeasureQueue():
            backlog, oldest, letters, partitions = reply[2:]
            counts = integer_from(backlog), int(oldest), integer_from(letters), integer_from(partitions)
            return QueueMeasured(now_s, *counts, reply[1] // 1000)
        case ReadLetters():
            return EntriesFound(now_s, tuple(map(_letter, items_from(reply[2]))))
        case DropLetters():
            return KeysDeleted(now_s, integer_from(reply[2]))
        case _:
            assert_never(command)


def _confirmed(replies: Sequence[Any]) -> int:
    """How many replicas have it, by the reply to WAIT. Where that is refused, nobody knows of any."""
    return next((each for each in replies if type(each) is int), 0)


def _keys(root: str, *names: str) -> list[str]:
    return [f"{root}:{name}" for name in names]


def _call(script: Script, keys: Sequence[str], *args: bytes) -> Args:
    return (EVALSHA, script.sha, number(len(keys)), *(key.encode() for key in keys), *args)


def _packed(tags: tuple[str, ...]) -> bytes:
    return msgspec.msgpack.encode(tags) if tags else b""


def _entry(raw: Any, *, deliveries: int = 0) -> QueueEntry:
    """An entry as a stream has it: its id, and its fields with their names."""
    fields = raw[1]
    tags = msgspec.msgpack.decode(fields[5], type=tuple[str, ...]) if fields[5] else ()
    token = int(bytes(raw[0]).partition(b"-")[0])
    return QueueEntry(token, bytes(fields[1]).decode(), bytes(fields[3]), tags, deliveries)


def _letter(raw: Any) -> QueueEntry:
    """A letter: its number is the id in its stream, and its token is a field."""
    entry = _entry(raw)
    return msgspec.structs.replace(
        entry,
        letter=entry.token,
        token=int(raw[1][7]),
        reason=bytes(raw[1][9]).decode(),
        is_superseded=raw[2] == 1,
    )
