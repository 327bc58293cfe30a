"""What the tests put in a store's place."""

from collections.abc import Awaitable
from typing import Any

from sansio_cache.commands import ReadCell


class InOnePiece:
    """Answers a read where it is asked, so that `perform` sees that as well."""

    def ask(self, command: ReadCell) -> Awaitable[Any]:
        performing: Awaitable[Any] = self.perform(command)  # type: ignore[attr-defined]
        return performing

    def answer(self, command: ReadCell, event: Any) -> Any:
        return event
