"""Large values: which of them go over a connection of their own, and which are not asked for just now."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Final

from sansio_cache_redis.calls import EVALSHA, READS, Args
from sansio_cache_redis.connections.unfinished import BULK_BYTES
from sansio_cache_redis.errors import OverloadedError

REST_S: Final = 1.0
"""How long a value is not asked for that did not come in time."""
_MOST_KEYS: Final = 128


class LargeValues:
    """The keys of values that were found to be large."""

    def __init__(self) -> None:
        self.keys: dict[bytes, float] = {}
        """The latest last, with when each may be asked for again, on the monotonic clock."""

    def remember(self, args: Args, from_s: float = 0.0) -> None:
        """The reply to a command is large. One of many keys says nothing of any of them.

        Args:
            args: The command.
            from_s: When the value may be asked for again.
        """
        is_script_of_one = args[0] == EVALSHA and args[2] == b"1"
        for key in args[1:2] if args[0] == b"GET" else args[3:4] if is_script_of_one else ():
            self.keys.pop(key, None)
            self.keys[key] = from_s
        if len(self.keys) > _MOST_KEYS:
            self.keys.pop(next(iter(self.keys)), None)

    def knows(self, commands: Sequence[Args]) -> bool:
        """Whether commands ask for something large, as far as is known."""
        return bool(self.keys) and not all(self.keys.keys().isdisjoint(args) for args in commands)

    def are_large(self, commands: Sequence[Args]) -> bool:
        """Whether commands carry something large, or ask for it, as far as is known.

        Keys are not counted: where the first reads, nothing that follows carries much besides.
        """
        if commands[0][0] not in READS:
            size_bytes = sum(map(len, chain.from_iterable(commands)))
            if size_bytes > BULK_BYTES:
                return True
        return self.knows(commands)

    def refuse_resting(self, commands: Sequence[Args], now_s: float) -> None:
        """Refuse to read a value that did not come in time lately.

        Raises:
            OverloadedError: It is one.
        """
        args = commands[0]
        if args[0] == b"GET" and self.keys.get(args[1], 0.0) > now_s:
            raise OverloadedError("the value does not come in time")
