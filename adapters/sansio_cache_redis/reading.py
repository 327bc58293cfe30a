"""Reading: what came back from a server becomes an event, or what has to be sent once more before that.

No I/O here. Replies are decoded by the wire module; here is what follows from those that are errors.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any, Final, Generic, TypeVar

from msgspec import Struct
from redis.exceptions import NoScriptError

from sansio_cache.commands import AcquireLeases, AppendEntries, FillCells, ReadCell, ReadCells, StoreCommand
from sansio_cache.events import CellRead, FailureKind, StoreEvent, StoreFailed
from sansio_cache.keys import ONE_PART
from sansio_cache.signals import let_through
from sansio_cache.tags import VERSION_BYTES
from sansio_cache_redis.calls import TIME, Args
from sansio_cache_redis.dialect import Dialect
from sansio_cache_redis.errors import TooLargeError, classify
from sansio_cache_redis.reasons import Where, reason_of
from sansio_cache_redis.wire import (
    acquire_many,
    as_eval,
    decode,
    encode,
    in_chunks,
    is_unknown_option,
    read_one,
)

E = TypeVar("E")
OnFailure = Callable[[StoreFailed, StoreCommand | None, Sequence[Any]], object]
"""Who is told of a failure, with the command, where that is known, and the replies, where there are any."""


def unknown_scripts(replies: Sequence[Any]) -> list[int]:
    """The places of the commands to send again, as the server does not know their scripts."""
    return [place for place, reply in enumerate(replies) if isinstance(reply, NoScriptError)]


FIRST_REPLICA_S: Final = 0.1
LONGEST_REPLICA_S: Final = 5.0
"""After a replica's refusal the connections are closed, as another may lead to the new primary. Where it does
not, they stay open for so long, in seconds, and then for twice as long: what can be read there is read."""


class Again(Struct, Generic[E], frozen=True):
    """What is read where some of the commands have to be sent once more, in another form.

    Args:
        commands: What to send.
        read: Reads what comes back of them.
    """

    commands: Sequence[Args]
    read: Callable[[list[Any] | BaseException], E]


async def answered(
    ask: Callable[[Sequence[Args], float], Awaitable[list[Any] | BaseException]],
    commands: Sequence[Args],
    timeout_s: float,
    read: Callable[[list[Any] | BaseException], E | Again[E]],
) -> E:
    """What is read of the replies. What has to be sent once more has what is left of the time."""
    until_s = monotonic() + timeout_s
    answer = read(await ask(commands, timeout_s))
    if isinstance(answer, Again):
        return answer.read(await ask(answer.commands, max(until_s - monotonic(), 0.0)))
    return answer


ASKING: Final[Args] = (b"ASKING",)


def behind_asking(commands: Sequence[Args]) -> list[Args]:
    """Commands to a node that takes a slot over, each of which has to be allowed by itself.

    Scripts go as texts: the node may not know them, and a second time would have to be allowed as well.
    """
    return [each for args in commands for each in (ASKING, as_eval(args))]


def reading_behind_asking(
    read: Callable[[list[Any] | BaseException], StoreEvent | Again[StoreEvent]],
) -> Callable[[list[Any] | BaseException], StoreEvent | Again[StoreEvent]]:
    """Reads the replies to such commands as `read` does those to the commands themselves."""

    def read_on(replies: list[Any] | BaseException) -> StoreEvent | Again[StoreEvent]:
        answer = read(replies if isinstance(replies, BaseException) else replies[1::2])
        if not isinstance(answer, Again):
            return answer
        rest: Any = reading_behind_asking(answer.read)
        return Again(behind_asking(answer.commands), rest)

    return read_on


def _are_versions(replies: tuple[Any, ...]) -> bool:
    # No generator: one that is dropped before its end runs once more, and an interrupt in that is lost.
    for each in replies:  # noqa: SIM110
        if type(each) is not bytes or len(each) != VERSION_BYTES:
            return False
    return True


class EventReader:
    """Makes events of what came back from a server, or of the failure in its place.

    Args:
        clock: The local monotonic clock, in seconds.
        dialect: What the server understands, and its clock, as far as they are known.
        distrust: Closes the connections; called where a reply says that they had better be.
        where: Where the server is, for messages.
        part: Which part of the store it is.
        on_failure: Told of each failure, with the command and the replies, where there are any.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        dialect: Dialect,
        distrust: Callable[[], object],
        where: Where,
        part: str = ONE_PART,
        on_failure: OnFailure | None = None,
    ) -> None:
        self._where = where
        self._part = part
        self._on_failure = on_failure
        self._clock = clock
        self._dialect = dialect
        self._distrust = distrust
        self._replica_due_s = -LONGEST_REPLICA_S
        self._replica_pause_s = FIRST_REPLICA_S

    def read(
        self, command: StoreCommand, replies: list[Any] | BaseException, floor_us: int | None = None
    ) -> StoreEvent | Again[StoreEvent]:
        """The event that replies amount to; or what to send once more, before there is one. Never raises.

        Args:
            command: What was asked.
            replies: What came back.
            floor_us: What the server was told is too old, where the command was made for that. As a
                connection opens it may turn out to be more: then it is to be asked again.
        """
        if isinstance(replies, BaseException):
            return self.failure(replies)
        now_s = self._clock()
        if isinstance(command, ReadCell) and type(raw := replies[0]) in self._dialect.plain:
            # A hit is nothing but this: what `decode` says, without a call of it.
            versions = tuple(replies[1:]) if command.tags else ()
            if not versions or _are_versions(versions):
                offset_ms = self._dialect.offset_ms
                server_ms = None if offset_ms is None else int(now_s * 1000) + offset_ms
                return CellRead(now_s, raw, server_ms, versions)
        if floor_us is not None and floor_us != self._dialect.floor_us:
            return StoreFailed(now_s, FailureKind.RESET)
        try:
            event = decode(command, replies, self._dialect, now_s)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not leave the caller waiting for ever
            let_through(error)
            return StoreFailed(now_s, FailureKind.OTHER)
        if isinstance(event, StoreFailed):
            if NoScriptError in map(type, replies):
                return self._with_texts(command, replies)
            if isinstance(command, ReadCells) and TooLargeError in map(type, replies):
                return self._one_by_one(command, replies)
            if isinstance(command, AcquireLeases) and TooLargeError in map(type, replies):
                return self._acquire_one_by_one(command, replies)
            if isinstance(command, FillCells) and any(map(is_unknown_option, replies[: len(command.fills)])):
                return self._without_comparing(command)
            if event.kind is FailureKind.MISPAIRED or (
                event.kind is FailureKind.READ_ONLY and self._may_look_for_primary(now_s)
            ):
                self._distrust()
            return self._told(self._with_reason(event, replies), command, replies)
        return event

    def _told(self, failed: StoreFailed, command: StoreCommand | None, replies: Sequence[Any]) -> StoreFailed:
        if self._on_failure is not None:
            self._on_failure(failed, command, replies)
        return failed

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
            return StoreFailed(event.now_s, event.kind, self._part)
        return StoreFailed(event.now_s, event.kind, self._part, *reason_of(error, self._where))

    def failure(self, error: BaseException) -> StoreFailed:
        """The event of a failure."""
        reason, cause = reason_of(error, self._where)
        return self._told(StoreFailed(self._clock(), classify(error), self._part, reason, cause), None, ())

    def _again(
        self, command: StoreCommand, commands: Sequence[Args], whole: Callable[[list[Any]], list[Any]]
    ) -> Again[StoreEvent]:
        """Send commands once more, and read all of it: `whole` puts what came then in its places."""
        floor_us = self._dialect.floor_us

        def read(answers: list[Any] | BaseException) -> StoreEvent:
            if isinstance(answers, BaseException):
                return self.failure(answers)
            if NoScriptError in map(type, answers):  # no server says so of a text
                return StoreFailed(self._clock(), FailureKind.OTHER)
            event = self.read(command, whole(answers), floor_us)
            assert not isinstance(event, Again)
            return event

        return Again(commands, read)

    def _one_by_one(self, command: ReadCells, replies: list[Any]) -> Again[StoreEvent]:
        """Read the cells of a chunk one by one, where one of them is too large: the others are there."""
        chunks = [place for place, reply in enumerate(replies) if isinstance(reply, TooLargeError)]
        chunk = command.chunk
        keys = [command.keys[place * chunk : (place + 1) * chunk] for place in chunks]

        def whole(answers: list[Any]) -> list[Any]:
            rest = iter(answers)
            for place, part in zip(chunks, keys, strict=True):
                replies[place] = [next(rest) for _ in part]
            return replies

        return self._again(command, [read_one(key) for part in keys for key in part], whole)

    def _acquire_one_by_one(self, command: AcquireLeases, replies: list[Any]) -> Again[StoreEvent]:
        """Ask for the leases of a chunk one by one, where a value is too large: the others are there.

        Those that were granted are granted again, as the nonce is the same.
        """
        first = len(command.capture.tags)
        chunks = list(in_chunks(command.lease_requests, self._dialect))
        large = [place for place in range(len(chunks)) if isinstance(replies[first + place], TooLargeError)]
        requests = [each for place in large for each in chunks[place]]

        def whole(answers: list[Any]) -> list[Any]:
            time, *rest = answers
            for place in large:
                count = len(chunks[place])
                replies[first + place], rest = _joined(time, rest[:count]), rest[count:]
            return replies

        # With their texts: what is asked for once more is not asked for a third time.
        floor = self._dialect.floor
        acquires = (acquire_many((each,), command.nonce, command.lease_ms, floor) for each in requests)
        return self._again(command, [TIME, *map(as_eval, acquires)], whole)

    def _by_script(self, command: FillCells) -> list[Args]:
        """The fills by script."""
        return encode(command, self._dialect.without_comparing())

    def _without_comparing(self, command: FillCells) -> Again[StoreEvent]:
        """Fill by script, as the server has turned out not to compare. The next fill asks it again."""
        self._dialect.forget()
        return self._again(command, [as_eval(each) for each in self._by_script(command)], list)

    def _with_texts(self, command: StoreCommand, replies: list[Any]) -> Again[StoreEvent]:
        """Send those scripts as texts that the server does not know."""
        if isinstance(command, AppendEntries):  # the replicas were asked before there was anything
            return self._again(command, [as_eval(each) for each in encode(command, self._dialect)], list)
        unknown = unknown_scripts(replies)
        if isinstance(command, FillCells):
            commands: Sequence[Args] = self._by_script(command)
        else:
            commands = encode(command, self._dialect)

        def whole(answers: list[Any]) -> list[Any]:
            for place, answer in zip(unknown, answers, strict=True):
                replies[place] = answer
            return replies

        return self._again(command, [as_eval(commands[place]) for place in unknown], whole)


def _joined(time: Any, replies: list[Any]) -> Any:
    """What a script would have answered about several keys, from the answers about each, and from the time.

    That is an error where there is one but for values that are too large; nothing where an answer is none.
    """
    answers = []
    for reply in (time, *replies):
        if isinstance(reply, Exception) and not isinstance(reply, TooLargeError):
            return reply
        answers.append(reply[2] if isinstance(reply, list | tuple) and len(reply) == 3 else reply)
    try:
        seconds, microseconds = time
        answers[0] = int(seconds) * 1_000_000 + int(microseconds)
    except (TypeError, ValueError) as error:
        let_through(error)
        return None
    return [b"A", *answers]
