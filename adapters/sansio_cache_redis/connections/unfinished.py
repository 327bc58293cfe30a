"""Unfinished replies: how long a value will be that has only begun to come in. Pure.

A reply says how long its values are before they come. The parser tells nobody: it keeps all of it until the
last byte is there, and the memory is gone. It does tell how many bytes it holds, which are the last ones that
it was given. What it has consumed it throws away, but for some: so what it holds begins at a value, or just
behind the byte that says of what kind one is, and only the last value in it is not whole. A look at the
beginning of these bytes therefore finds what is announced, whatever came before, and costs nothing where
replies come in whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

BULK_BYTES: Final = 131072
"""A reply of more than this is large: others should not have to wait for it."""
_KEPT_BYTES: Final = 1024
"""So much of what it has consumed the parser may keep."""
_LOOKED_AT_BYTES: Final = 4096
"""More than the parser keeps of what it has consumed (1 KiB), and the line after that takes."""
_LONGEST_LINE_BYTES: Final = 65536
"""What has a line of text longer than that is no Redis."""
_VALUES: Final = b"$=!"
_LINES: Final = b"*+-:_#,(%~>|"
_KINDS: Final = _VALUES + _LINES


class UnfinishedReply:
    """Finds values that are too long, in what comes in on one connection.

    Args:
        held_bytes: Tells how many bytes the parser holds.
        longest_bytes: How long a value may be.
    """

    def __init__(self, held_bytes: Callable[[], int], longest_bytes: int) -> None:
        self._held_bytes = held_bytes
        self._longest_bytes = longest_bytes
        self._head = b""
        """The beginning of what the parser holds, where it was too little to tell."""
        self._is_known = False
        """Whether the value that is coming in was looked at when it began."""

    def begin(self) -> None:
        """Everything has come in whole: what comes next begins a reply."""
        self._head = b""
        self._is_known = False

    def is_too_long(self, data: bytes | memoryview) -> bool:
        """Whether the value is too long that what was read last, and given to the parser, breaks off in."""
        begin = len(data) - self._held_bytes()
        if begin > 0:
            seen, start = bytes(data[begin - 1 : begin + _LOOKED_AT_BYTES]), 1
        elif begin == 0:
            seen, start = bytes(data[:_LOOKED_AT_BYTES]), 0
        elif self._is_known:
            return False
        else:  # what it holds besides was consumed before
            seen = self._head + bytes(data)
            start = max(len(seen) - len(data) + begin, 0)
        if start and seen[start - 1 : start] != b"\n":  # the kind of the value was consumed
            start -= 1
        self._head = seen[start : start + _LOOKED_AT_BYTES]
        length = announced_bytes(self._head)
        if length is None and self._head[:1] not in _KINDS:
            # The kind was consumed with what came in whole before: that of a value, or of a line.
            length = announced_bytes(b"$" + self._head) or announced_bytes(b"+" + self._head)
        # After a shorter one the parser does not throw away what it has consumed.
        self._is_known = length is not None and length >= _KEPT_BYTES
        if length is None:
            return self._held_bytes() > _LONGEST_LINE_BYTES
        return length > self._longest_bytes


def announced_bytes(held: bytes) -> int | None:
    """How long the value will be that these bytes break off in; None where they do not say yet."""
    place = 0
    while True:
        end = held.find(b"\r\n", place)
        kind = held[place : place + 1]
        if end < 0 or not kind:
            return None
        place_after = end + 2
        if kind in _VALUES:
            try:
                length = int(held[place + 1 : end])
            except ValueError:  # the parser will complain of it
                return None
            if length >= 0:
                place_after += length + 2
            if place_after > len(held):
                return length
        elif kind not in _LINES:
            return None
        place = place_after
