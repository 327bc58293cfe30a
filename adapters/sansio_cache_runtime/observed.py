"""Observed: a backend that tells subscribers of each command. Of both colours.

It is in the place of a backend only while somebody wants to be told: nobody else pays for looks at the clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sansio_cache.commands import ReadCell, StoreCommand, keys_and_tags
from sansio_cache.events import StoreEvent, StoreFailed
from sansio_cache.notices import StoreAsked
from sansio_cache_runtime.subscribers import Subscribers


class Observed:
    """Is the backend that it wraps, but that its commands are told of.

    Args:
        beneath: The backend.
        subscribers: Whom to tell.
        clock: Monotonic, in seconds.
    """

    def __init__(self, beneath: Any, subscribers: Subscribers, clock: Callable[[], float]) -> None:
        self.beneath = beneath
        self._clock = clock
        self._tell = subscribers.tell_command
        self._part_of: Callable[[str], str] = beneath.part_of
        self._words: Callable[[StoreCommand], tuple[str, ...]] = getattr(beneath, "words_of", _no_words)
        self._address: tuple[str, str, int, str] = getattr(beneath, "address", ("", "", 0, ""))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.beneath, name)

    def perform(self, command: StoreCommand) -> StoreEvent:
        """Do what is asked, for threads."""
        began_s = self._clock()
        event: StoreEvent = self.beneath.perform(command)
        self._over(command, event, self._clock() - began_s)
        return event

    async def answer(self, command: StoreCommand) -> StoreEvent:
        """Do what is asked, for an event loop."""
        began_s = self._clock()
        event: StoreEvent = await self.beneath.answer(command)
        self._over(command, event, self._clock() - began_s)
        return event

    def _over(self, command: StoreCommand, event: StoreEvent, took_s: float) -> None:
        failure = None
        if isinstance(event, StoreFailed):
            failure, part = event.kind, event.part
        else:
            keys = (command.key,) if isinstance(command, ReadCell) else keys_and_tags(command)[0]
            part = self._part_of(keys[0] if keys else "")
        words = self._words(command)
        self._tell(StoreAsked(type(command).__name__, words, took_s, part, failure, *self._address))


def _no_words(command: StoreCommand) -> tuple[str, ...]:  # noqa: ARG001
    return ()
