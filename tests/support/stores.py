"""What the tests put in a backend's place: another that wraps it."""

from typing import Any

from sansio_cache.commands import StoreCommand


class Wrapping:
    """Is the backend that it wraps, but for what it does itself."""

    _store: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class Recording(Wrapping):
    """Says what is asked, and what the answer was. For both colours."""

    def asking(self, command: StoreCommand) -> None:
        """This is asked."""
        raise NotImplementedError

    def answered(self, command: StoreCommand, event: Any) -> None:
        """That was the answer."""
        raise NotImplementedError

    def perform(self, command: StoreCommand) -> Any:
        self.asking(command)
        event = self._store.perform(command)
        self.answered(command, event)
        return event

    async def answer(self, command: StoreCommand) -> Any:
        self.asking(command)
        event = await self._store.answer(command)
        self.answered(command, event)
        return event
