"""Replies: what is read out of what a server answers. A reply of the wrong shape answers another command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs
from redis.exceptions import InvalidResponse, NoPermissionError

from sansio_cache.cell import FOREIGN, Cell, Foreign, above_floor, grant_us, parse_cell
from sansio_cache.commands import Capture
from sansio_cache.events import Stored, cell_of
from sansio_cache.signals import let_through
from sansio_cache.tags import NO_VERSION, VERSION_BYTES

ARRAY: Final = (list, tuple)


class WireError(Exception):
    """A reply that no server gives to the command: it belongs to another one."""


@attrs.define
class ServerClock:
    """The server's clock, as the local monotonic one plus an offset learned from replies.

    It decides freshness only. A jump of either clock moves freshness, never correctness (B6).

    The newest reply counts. Its time is from before it came in, so the clock is late by no more than it was
    on its way: what has a soft expiry may count as fresh for so much longer. The largest offset of all would
    be nearer in between, and would for ever be that of a server whose clock has been set back since.
    """

    offset_ms: int | None = None
    floor_us: int = attrs.field(default=0, init=False)
    """What was issued before this counts as gone, in microseconds of the server's clock: see `facts.py`."""

    def learn(self, server_us: int, now_s: float) -> int:
        """Take the server's time from a reply that came in at `now_s`; returns it in milliseconds."""
        server_ms = server_us // 1000
        self.offset_ms = server_ms - int(now_s * 1000)
        return server_ms

    def now_ms(self, now_s: float) -> int | None:
        """The server's time in milliseconds, None where it is not known yet."""
        return None if self.offset_ms is None else int(now_s * 1000) + self.offset_ms


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


def captured_from(
    replies: Sequence[Any], capture: Capture, clock: ServerClock, now_s: float
) -> tuple[bytes, ...]:
    """The versions of the tags that were captured, each with the server's clock."""
    if len(replies) != len(capture.tags):
        raise WireError
    if not replies:  # as mostly
        return ()
    statuses_from(replies, clock, now_s)
    versions = tuple(version_from(reply[2]) for reply in replies)
    if NO_VERSION in versions:
        raise WireError
    return versions


def version_from(raw: Any, floor_us: int = 0) -> bytes:
    """A tag's version; none where the key is not there, or is something else, or too old to be trusted."""
    if raw is None or isinstance(raw, Exception):
        return NO_VERSION
    if isinstance(raw, bytes):
        return raw if len(raw) == VERSION_BYTES and grant_us(raw) >= floor_us else NO_VERSION
    raise WireError


def statuses_from(replies: Sequence[Any], clock: ServerClock, now_s: float) -> list[int]:
    """What scripts answered, each with the server's clock: the statuses."""
    statuses = []
    for reply in replies:
        if not (isinstance(reply, ARRAY) and isinstance(reply[0], int) and isinstance(reply[1], int)):
            raise WireError
        clock.learn(reply[1], now_s)
        statuses.append(reply[0])
    return statuses


def stored_from(raw: Any, floor_us: int = 0) -> Stored:
    """What a key holds, by the reply to a read, as far as it can be trusted."""
    if raw is None or isinstance(raw, bytes):
        if floor_us and raw is not None:
            cell = parse_cell(raw)
            return above_floor(cell, floor_us) if isinstance(cell, Cell) else cell
        return raw
    if isinstance(raw, Exception):  # WRONGTYPE: the key is no string; or it is too large
        return FOREIGN
    raise WireError


def cell_from(raw: Any, floor_us: int = 0) -> Cell | Foreign | None:
    """The cell in the reply to a read, as far as it can be trusted."""
    return cell_of(stored_from(raw, floor_us))


def value_from(raw: Any) -> Cell:
    """The cell that a script says that there is."""
    cell = cell_from(raw)
    if not isinstance(cell, Cell):
        raise WireError
    return cell


def grant_from(raw: Any, nonce: bytes) -> bytes:
    """A grant that was issued for this very nonce (S9)."""
    if isinstance(raw, bytes) and raw.startswith(nonce):
        return raw
    raise WireError


def integer_from(raw: Any) -> int:
    """A number."""
    if isinstance(raw, int):
        return raw
    raise WireError


def items_from(raw: Any, length: int | None = None) -> Sequence[Any]:
    """An array, of so many items where that is known."""
    if isinstance(raw, ARRAY) and length in (None, len(raw)):
        return raw
    raise WireError


def text_from(raw: Any) -> str | None:
    """The name of a key; None where it is not UTF-8, and so none of ours."""
    try:
        return bytes(raw).decode()
    except UnicodeDecodeError:
        return None
