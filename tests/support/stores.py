"""What the tests put in a store's place."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from sansio_cache.commands import ReadCell, StoreCommand
from sansio_cache.events import StoreFailed
from sansio_cache_redis.wire import classify


class InOnePiece:
    """Answers a read where it is asked, so that `perform` sees that as well."""

    def ask(self, command: ReadCell) -> Awaitable[Any]:
        performing: Awaitable[Any] = self.perform(command)  # type: ignore[attr-defined]
        return performing

    def answer(self, command: ReadCell, event: Any) -> Any:
        return event


class Passing:
    """Passes commands on, reads in both their parts, as the driver asks for them; and says so."""

    _store: Any
    asking: Callable[[Any], None]
    """This is asked."""
    answered: Callable[[Any, Any], None]
    """That was the answer."""

    async def perform(self, command: StoreCommand) -> Any:
        self.asking(command)
        event = await self._store.perform(command)
        self.answered(command, event)
        return event

    async def ask(self, command: ReadCell) -> Any:
        self.asking(command)
        try:
            return await self._store.ask(command)
        except Exception as error:
            self.answered(command, StoreFailed(time.monotonic(), classify(error)))
            raise

    def answer(self, command: ReadCell, replies: Any) -> Any:
        event = self._store.answer(command, replies)
        self.answered(command, event)
        return event
