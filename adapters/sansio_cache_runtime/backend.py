"""Backends: what a store needs to be driven.

A backend answers store commands, tells who watches a key that it has changed, and says how the store is.
There is one protocol for each colour, the same in both but for `await`. The memory store has a backend and
Redis has one; `docs/howto/write-a-backend` writes another. A backend may wrap another.

The contract:

- Every command gets exactly one event, and a failure is an event: `StoreFailed`, which names the part of the
  store that it comes from. Nothing is raised but what interrupts the caller.
- A command takes at most its `timeout_s`, connecting included. A backend never retries: the core does.
- A backend is made where it is used: by one process, and one event loop. After a fork another one is made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from sansio_cache.commands import StoreCommand
from sansio_cache.events import StoreEvent
from sansio_cache.health import Health
from sansio_cache.keys import ONE_PART


class Listener(Protocol):
    """Tells waiters that a key has changed. For both colours: it may call from any thread."""

    def hears(self, key: str) -> bool:
        """Whether changes of a key are heard at the moment. Where not, waiters had better look themselves."""
        ...

    def watch(self, key: str, wake: Callable[[], object]) -> int:
        """Call `wake` whenever the key changes, and when it begins or ceases to be heard.

        Returns:
            A number for `unwatch`.
        """
        ...

    def unwatch(self, key: str, number: int) -> None:
        """Stop watching."""
        ...

    def close(self, *, wait: bool) -> None:
        """End; with `wait`, not before its thread has."""
        ...


class OnePart:
    """What backends have in common that are one part, without connections and without a listener."""

    listener: Listener | None = None

    def part_of(self, key: str) -> str:  # noqa: ARG002
        """All keys are in one part."""
        return ONE_PART

    def suspect(self, part: str) -> None:
        """There is no connection that could be at fault."""

    def trust(self, part: str) -> None:
        """Nor one to be used again."""

    def distrust(self, part: str) -> None:
        """There is no connection that could be at fault."""


class SyncBackend(Protocol):
    """A store for threads. Any number of them call it at once."""

    @property
    def listener(self) -> Listener | None:
        """Tells waiters of changes; None where they have to look for themselves."""
        ...

    def part_of(self, key: str) -> str:
        """The part of the store that a key is in: what can fail alone."""
        ...

    def perform(self, command: StoreCommand) -> StoreEvent:
        """Do what is asked; a failure is an event."""
        ...

    def suspect(self, part: str) -> None:
        """A reply may have belonged to another key: set the connections to the part aside.

        What is asked next goes over others. `trust` or `distrust` will follow.
        """
        ...

    def trust(self, part: str) -> None:
        """It did not: what `suspect` has set aside may be used again."""
        ...

    def distrust(self, part: str) -> None:
        """A reply belonged to another key: close the connections to the part."""
        ...

    def health(self) -> Health:
        """How the store is. Never raises for the store."""
        ...

    def close(self) -> None:
        """Close what is open, for good."""
        ...


class AnyioBackend(Protocol):
    """A store for the tasks of one event loop, of asyncio or trio."""

    @property
    def listener(self) -> Listener | None:
        """Tells waiters of changes; None where they have to look for themselves."""
        ...

    def part_of(self, key: str) -> str:
        """The part of the store that a key is in: what can fail alone."""
        ...

    def answer(self, command: StoreCommand) -> Awaitable[StoreEvent]:
        """Do what is asked; a failure is an event.

        It is awaited once and at once. It need be no coroutine: a future whose result is the event saves the
        price of one.
        """
        ...

    def suspect(self, part: str) -> None:
        """A reply may have belonged to another key: set the connections to the part aside.

        What is asked next goes over others. `trust` or `distrust` will follow.
        """
        ...

    def trust(self, part: str) -> None:
        """It did not: what `suspect` has set aside may be used again."""
        ...

    def distrust(self, part: str) -> None:
        """A reply belonged to another key: close the connections to the part."""
        ...

    async def health(self) -> Health:
        """How the store is. Never raises for the store."""
        ...

    async def aclose(self) -> None:
        """Close what is open, for good."""
        ...
