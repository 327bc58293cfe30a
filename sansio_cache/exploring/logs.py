"""A log of reads and writes of any cache, judged as a regular register: which read was given what is too old.

`History` wants versions that are numbered in the order of commits, and the moment when the store knew. A log
of another cache, or of a whole program, has values and times only: when each call began, and when it ended.

Of two writes of a key one came *after* the other where it began when the other had ended. A read may give the
value of a write if no other write came after that one and had ended before the read began; and if the write
had begun before the read ended. (Lamport, "On Interprocess Communication", 1986, for one writer; for many, as
here, it is the weakest reading: overlapping writes have no order.) What was there at first counts as a write
that ended before everything.

Values must tell the writes apart: where two writes of a key store the same value, a read of it is judged by
the one that suits it best.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Hashable, Iterable, Mapping

import attrs

from sansio_cache.errors import ConfigurationError
from sansio_cache.exploring.refusing import check_time


@attrs.frozen
class LoggedWrite:
    """A write: the key has this value from some moment between the begin and the end of the call.

    Args:
        key: Of what.
        value: What was written; None where it was removed.
        began_s: When the call began, on a clock that all of the log has in common.
        ended_s: When it had returned; infinite where it never did.
        by: By whom, for the message.
    """

    key: str
    value: Hashable
    began_s: float
    ended_s: float = math.inf
    by: str = "somebody"

    def __attrs_post_init__(self) -> None:
        _check_times(self)


@attrs.frozen
class LoggedRead:
    """A read, and what it gave: see `LoggedWrite`."""

    key: str
    value: Hashable
    began_s: float
    ended_s: float
    by: str = "somebody"

    def __attrs_post_init__(self) -> None:
        _check_times(self)


def _check_times(call: LoggedRead | LoggedWrite) -> None:
    check_time("began_s", call.began_s)
    check_time("ended_s", call.ended_s)
    if call.ended_s < call.began_s:
        raise ConfigurationError(
            f"a {type(call).__name__} ends before it begins: from {call.began_s} to {call.ended_s} s; give "
            "the times of one clock that never goes back, such as time.monotonic()"
        )


@attrs.frozen
class StaleRead:
    """A read that was given what it must not be given, and why.

    `newer` is the write that had come after, and ended before the read began; None where nobody had ever
    written the value, or only after the read had ended.
    """

    read: LoggedRead
    newer: LoggedWrite | None

    def __str__(self) -> str:
        read, newer = self.read, self.newer
        what = f"{read.by} read {read.key!r} from {read.began_s:.6f} to {read.ended_s:.6f} s"
        if newer is None:
            return f"{what}: {read.value!r}, which nobody had begun to write by then"
        wrote = f"{newer.by} had written {newer.value!r} from {newer.began_s:.6f} to {newer.ended_s:.6f} s"
        return f"{what}: {read.value!r}, though {wrote}"


def find_stale_reads(
    log: Iterable[LoggedRead | LoggedWrite], initial: Mapping[str, Hashable] | None = None
) -> list[StaleRead]:
    """Find the reads of a log that no order of its writes explains, in the order in which they began.

    Args:
        log: The calls of all processes, in any order, with times of one clock.
        initial: What the keys held at first; None for those that are not named.

    Raises:
        ConfigurationError: Something of the log is no such call.
    """
    if isinstance(log, LoggedRead | LoggedWrite) or not isinstance(log, Iterable):
        raise ConfigurationError(
            f"a log is a list, or another iterable, of LoggedRead and LoggedWrite; got {log!r:.80}"
        )
    reads: list[LoggedRead] = []
    writes: dict[str, list[LoggedWrite]] = {}
    for each in log:
        if isinstance(each, LoggedRead):
            reads.append(each)
        elif isinstance(each, LoggedWrite):
            writes.setdefault(each.key, []).append(each)
        else:
            raise ConfigurationError(f"a log is of LoggedRead and LoggedWrite; got {each!r:.80}")
    first = initial or {}
    keys = {read.key for read in reads}
    registers = {key: _Register(first.get(key), writes.get(key, [])) for key in keys}
    found = (registers[read.key].judge(read) for read in sorted(reads, key=_began))
    return [stale for stale in found if stale is not None]


def _began(call: LoggedRead | LoggedWrite) -> float:
    return call.began_s


def _ended(call: LoggedWrite) -> float:
    return call.ended_s


class _Register:
    """The writes of one key."""

    def __init__(self, initial: Hashable, writes: list[LoggedWrite]) -> None:
        by_end = sorted(writes, key=_ended)
        self._ends = [each.ended_s for each in by_end]
        # Of the writes that had ended by then, the one that began last.
        self._last: list[LoggedWrite] = []
        for each in by_end:
            is_later = not self._last or each.began_s >= self._last[-1].began_s
            self._last.append(each if is_later else self._last[-1])
        self._of: dict[Hashable, list[LoggedWrite]] = {}
        for each in writes:
            self._of.setdefault(each.value, []).append(each)
        self._of.setdefault(initial, []).append(LoggedWrite("", initial, -math.inf, -math.inf))

    def judge(self, read: LoggedRead) -> StaleRead | None:
        """What is wrong with a read, if anything is."""
        sources = [each for each in self._of.get(read.value, ()) if each.began_s <= read.ended_s]
        if not sources:
            return StaleRead(read, None)
        place = bisect_left(self._ends, read.began_s)
        newer = self._last[place - 1] if place else None
        if newer is None or any(each.ended_s >= newer.began_s for each in sources):
            return None
        return StaleRead(read, newer)
