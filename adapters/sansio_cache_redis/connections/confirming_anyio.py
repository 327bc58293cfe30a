"""Confirming, for the tasks of an event loop, in threads of its own. See `confirming.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any, Final

import anyio
import anyio.to_thread
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache.signals import let_through
from sansio_cache_redis.calls import Args
from sansio_cache_redis.connections.confirming import ConfirmedCall, Confirming, Replies
from sansio_cache_redis.connections.multiplexed import Caller, R, Read
from sansio_cache_redis.errors import as_failure
from sansio_cache_redis.reading import answered

_MOST_THREADS: Final = 64
"""How many threads of an event loop wait at once: as many calls go out together then, at most."""


class LoopConfirming:
    """The connection for writes that are to be confirmed, for any number of tasks of one event loop.

    Args:
        make_connection: Makes a blocking connection of redis-py that is not open yet.
    """

    def __init__(self, make_connection: Callable[[], Any]) -> None:
        self._confirming = Confirming(make_connection)
        self._threads: anyio.CapacityLimiter | None = None
        self.reset = self._confirming.reset
        self.close = self._confirming.close

    @property
    def count(self) -> int:
        """How many connections are open."""
        return self._confirming.count

    async def ask(
        self, commands: Sequence[Args], timeout_s: float, read: Read[R], caller: Caller | None = None
    ) -> R:
        """Send commands together, the last of which is WAIT; gives back what `read` makes of the replies.

        What was not sent when `caller` waits no more is not sent then.
        """
        is_wanted = None if caller is None else lambda: not caller.done()
        ask = partial(self._replies, is_wanted=is_wanted)
        return await answered(ask, commands, timeout_s, read)

    async def _replies(
        self, commands: Sequence[Args], timeout_s: float, is_wanted: Callable[[], bool] | None
    ) -> Replies:
        if self._threads is None:  # of its own: loaders may hold all of the usual ones
            self._threads = anyio.CapacityLimiter(_MOST_THREADS)
        call = ConfirmedCall(commands, monotonic() + timeout_s, is_wanted=is_wanted)
        perform = partial(self._confirming.perform, call)
        try:
            with anyio.move_on_after(timeout_s):
                return await anyio.to_thread.run_sync(perform, abandon_on_cancel=True, limiter=self._threads)
        except Exception as error:  # noqa: BLE001 - whatever it is, it comes in the place of the replies
            let_through(error)
            return as_failure(error)
        finally:  # a thread that nobody waits for sends it no more, and ends
            call.is_unwanted = True
            call.turn.set()
        return RedisTimeoutError("replicas were waited for on behalf of others for too long")
