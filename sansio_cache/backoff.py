"""Back-off: how long a waiter sleeps before it looks again, and who connects before another connection.

Geometric with jitter, from 5 ms to 100 ms, and never past the time that the holder's lease has left. How
many pauses there will be is not known when an operation begins, so it is given one random seed, and the
draws come from a small deterministic sequence: the same operation always waits the same.
"""

from __future__ import annotations

from typing import Final

import attrs

from sansio_cache.commands import Sleep, Watch

FIRST_PAUSE_S: Final = 0.005
LONGEST_PAUSE_S: Final = 0.1
FALL_BACK_S: Final = 1.0
LONGEST_CONTENDED_S: Final = 2.0
_MARGIN_S: Final = 0.0005
"""Half a millisecond past the lease's deadline, which the store knows in whole milliseconds."""
FIRST_CONNECT_PAUSE_S: Final = 0.01
LONGEST_CONNECT_PAUSE_S: Final = 0.2
"""Shorter than a caller waits: who comes in the pause still finds out whether the server is back."""
LASTING_S: Final = 1.0
"""A connection that was lost sooner was not worth much."""
PATIENCE_S: Final = 1.0
"""Where one takes longer to open, another is tried beside it; where both do, a third after twice as long."""
_MASK: Final = 2**64 - 1


def draw_at(seed: int, turn: int) -> float:
    """A number in [0, 1) from splitmix64 (Steele, Lea, Flood 2014)."""
    state = (seed + (turn + 1) * 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((state ^ (state >> 31)) >> 11) / 2**53


def watched_pause_s(seed: int, turn: int, left_s: float) -> float:
    """The seconds to sleep at most for one who will be told, in case the message is lost (L4)."""
    longest = FALL_BACK_S * (0.75 + draw_at(seed, turn) / 4)
    return min(longest, max(left_s, 0.0) + _MARGIN_S)


def watching(
    keys: tuple[str, ...], load_id: int | bytes, seed: int, turn: int, left_s: float, longest_s: float
) -> Sleep:
    """The sleep of one who waits for others on the given turn (from 0): told, or polling where nobody tells.

    Args:
        keys: What is watched.
        load_id: Who waits, as `Watch` has it.
        seed: By which waiters do not look together.
        turn: How often was waited before.
        left_s: What the holder's lease has to run.
        longest_s: How long is waited at most.
    """
    longest = min(watched_pause_s(seed, turn, left_s), longest_s)
    return Sleep(min(pause_s(seed, turn, left_s), longest_s), Watch(keys, load_id, longest))


def pause_s(seed: int, turn: int, left_s: float) -> float:
    """The seconds to sleep on the given turn (from 0), when the holder's lease has `left_s` to run."""
    longest = min(FIRST_PAUSE_S * 2.0 ** min(turn, 20), LONGEST_PAUSE_S)
    pause: float = longest * (0.5 + draw_at(seed, turn) / 2)
    return min(pause, max(left_s, 0.0) + _MARGIN_S)


def contended_pause_s(seed: int, turn: int) -> float:
    """The seconds to sleep on the given turn (from 0) for one whom another has overtaken.

    Anything up to twice as long each time: of a crowd whose members all look at once, one comes through. With
    pauses of 100 ms at most, 200 of 500 tasks at one counter had not come through in 30 s.
    """
    return draw_at(seed, turn) * min(FIRST_PAUSE_S * 2.0 ** min(turn, 20), LONGEST_CONTENDED_S)


def connect_pause_s(losses: int, draw: float) -> float:
    """The seconds to wait before another connection, after so many (from 0) that were of no use before.

    `draw` is a number in [0, 1): not all processes come back at once.
    """
    longest = min(FIRST_CONNECT_PAUSE_S * 2.0 ** min(losses, 20), LONGEST_CONNECT_PAUSE_S)
    return longest * (0.5 + draw / 2)


@attrs.define
class Connecting:
    """When the next connection to a server may be opened: what its connections have come to so far."""

    _losses: int = attrs.field(default=0, init=False)
    """How many in a row could not be opened, or did not last."""
    _next_s: float = attrs.field(default=0.0, init=False)

    def pause_s(self, now_s: float) -> float:
        """How long to wait before one is opened, in seconds."""
        return max(self._next_s - now_s, 0.0)

    def failed(self, now_s: float, draw: float) -> None:
        """One could not be opened, or has not lasted. `draw` is as in `connect_pause_s`."""
        self._next_s = now_s + connect_pause_s(self._losses, draw)
        self._losses += 1

    def closed(self, opened_s: float, now_s: float, draw: float) -> None:
        """One was lost, or closed, that was opened at `opened_s`."""
        if now_s - opened_s < LASTING_S:
            self.failed(now_s, draw)
        else:
            self._losses = 0

    @staticmethod
    def is_worth_waiting_for(begun_s: float, under_way: int, now_s: float) -> bool:
        """Whether no other is begun beside the last of those under way, which was begun at `begun_s`."""
        return now_s - begun_s < PATIENCE_S * 2.0 ** (under_way - 1)
