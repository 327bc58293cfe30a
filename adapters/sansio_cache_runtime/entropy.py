"""Entropy: random numbers of the operating system, drawn in blocks.

Two that draw the same nonce would take each other's leases for their own. So they are the system's: a
generator in this process is copied with it. To ask the system for each takes a good part of a miss, so it is
asked for some at a time. What is kept must not be given out twice:

- *not to two threads*: a block is a list, and to take one off it is one step;
- *not to two processes*: a child of a fork has its parent's block, also where it was forked in C and nobody
  said so. So the mark of the process is looked at after each draw (see `process.py`), and what was drawn
  from another block than that of now is thrown away;
- *not to two copies of a machine* that go on from one snapshot, of which nothing in them says so. So the time
  is mixed into the bytes that are given out.
"""

from __future__ import annotations

import os
import struct
from time import time_ns
from typing import Final

from sansio_cache_runtime.process import MARK, at_begin_in_child, begin_in_child

_DRAW: Final = struct.Struct("<Q16s")
"""As long as what a load may need, the longest that is drawn often. The time goes into its first bytes."""
_DRAWS: Final = 128
"""How many are kept."""
_MANTISSA: Final = 2**53 - 1


class SystemEntropy:
    """Where a process has its random numbers from. Any number of threads may draw, and handlers."""

    def __init__(self) -> None:
        self._block: list[tuple[int, bytes]] = []

    def randbytes(self, length: int, /) -> bytes:
        """So many bytes."""
        if length > _DRAW.size:
            return os.urandom(length)
        first, rest = self._draw()
        return _DRAW.pack(first ^ time_ns(), rest)[:length]

    def random(self) -> float:
        """A number in [0, 1)."""
        return (self._draw()[0] & _MANTISSA) * 2.0**-53

    def begin_anew(self) -> None:
        """Give out no more of what was drawn: it is another process's."""
        self._block = []

    def _draw(self) -> tuple[int, bytes]:
        while True:
            block = self._block
            try:
                drawn = block.pop()
            except IndexError:
                # Where two threads do so at once, there is more of it.
                block += _DRAW.iter_unpack(os.urandom(_DRAWS * _DRAW.size))
                continue
            # In this order: who begins anew takes another block first, and sets the mark then.
            if MARK[0] and self._block is block:
                return drawn
            begin_in_child()


ENTROPY: Final = SystemEntropy()
at_begin_in_child(ENTROPY.begin_anew)
