"""What the tests put in a store's place."""

import time
from collections.abc import Awaitable
from typing import Any

from sansio_cache.commands import ReadCell
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
    """Passes reads on in both their parts, as the driver asks for them, and says so."""

    _store: Any

    def asking(self, command: Any) -> None:
        """This is asked."""
        raise NotImplementedError

    def answered(self, command: Any, event: Any) -> None:
        """That was the answer."""
        raise NotImplementedError

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
