"""Announced lengths: how long a value will be that has only begun to come in. Pure.

A reply says how long its values are before they come. The parser tells nobody: it keeps all of it until the
last byte is there, and the memory is gone. So what belongs to replies that are not yet whole is kept beside
it, as long as that is little; where it becomes more, it is looked through for what it announces, and what
comes after it as it comes. Replies that come in whole, as nearly all do, cost nothing here.
"""

from __future__ import annotations

from typing import Final

BULK_BYTES: Final = 131072
"""A reply of more than this is large: others should not have to wait for it."""
_LONGEST_LINE: Final = 65536
"""What has a line of text longer than that is no Redis."""
_VALUES: Final = (b"$", b"=", b"!")
"""What is followed by as many bytes as it says."""


class AnnouncedLengths:
    """Follows the replies of one connection by the lengths that they announce.

    Args:
        longest_bytes: How long a single value may be.
    """

    def __init__(self, longest_bytes: int) -> None:
        self._longest_bytes = longest_bytes
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._is_scanning = False
        self._line = b""
        """The beginning of a line whose end has not come."""
        self._skip_bytes = 0
        """What is still to come of the value that was announced last, its line end included."""

    def begin(self) -> None:
        """What comes next begins a reply: what has come before is whole."""
        self._kept = []
        self._kept_bytes = self._skip_bytes = 0
        self._is_scanning = False
        self._line = b""

    def is_too_long(self, data: bytes | bytearray | memoryview) -> bool:
        """Take in what has come since `begin` and is not whole; whether a value in it is too long."""
        self._kept_bytes += len(data)
        if not self._is_scanning:
            self._kept.append(bytes(data))
            if self._kept_bytes <= BULK_BYTES:
                return False
            self._is_scanning = True
            kept, self._kept = b"".join(self._kept), []
            return self._scan(kept)
        return self._scan(bytes(data))

    def _scan(self, data: bytes) -> bool:
        position = 0
        while True:
            skipped_bytes = min(self._skip_bytes, len(data) - position)
            self._skip_bytes -= skipped_bytes
            position += skipped_bytes
            if position >= len(data):
                return False
            end = data.find(b"\n", position)
            if end < 0:
                self._line += data[position:]
                return len(self._line) > _LONGEST_LINE
            line, self._line = self._line + data[position : end + 1], b""
            position = end + 1
            if line.startswith(_VALUES):
                length = _number(line[1:])
                if length > self._longest_bytes:
                    return True
                self._skip_bytes = length + 2 if length >= 0 else 0


def _number(text: bytes) -> int:
    """What a line announces; nothing where it is no number, which the parser will complain of."""
    try:
        return int(text)
    except ValueError:
        return -1
