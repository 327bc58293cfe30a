"""What a backend has to do, as tests: subclass one of these classes, and say how a store is made.

    class TestMyBackend(SyncBackendConformance):
        def make_backend(self):
            return MyBackend(path)

Each test is about one rule of the protocol, and says which, as a backend that breaks it serves what is stale
or keeps others waiting. The numbers are those of the invariants in `docs/reference/invariants`. Every test
has a new backend.

The rules are in `entry_rules`; those of the primitives (look, add, swap, touch, lock) in `primitive_rules`.
"""

from __future__ import annotations

from contextlib import ExitStack

from anyio.from_thread import BlockingPortal, start_blocking_portal

from sansio_cache.commands import StoreCommand
from sansio_cache.events import StoreEvent
from sansio_cache_runtime.backend import AnyioBackend, SyncBackend
from sansio_cache_testing.backend_asking import raising_nothing
from sansio_cache_testing.entry_rules import EntryRules
from sansio_cache_testing.primitive_rules import PrimitiveRules


class SyncBackendConformance(EntryRules, PrimitiveRules):
    """The rules for a backend for threads. Override `make_backend`.

    Every command is asked for, but for those of queues. A store may decline these by `StoreFailed`, as
    `StoreRules` does without a `Partition`; of one that has queues the tests only see that it answers when it
    is asked what is in one. They do not see, either, whether a command is one step for everybody else and
    takes no longer than its `timeout_s`, how long a tag is kept, what a store in several parts answers when
    one of them fails, and whether a listener tells.

    Attributes:
        patience_s: How long a test waits for what has to lapse, in seconds. It bounds only a failure.
    """

    _backend: SyncBackend | None = None

    def make_backend(self) -> SyncBackend:
        """A backend on an empty store."""
        raise NotImplementedError("say in make_backend how the backend is made, on a store that is empty")

    def perform(self, command: StoreCommand) -> StoreEvent:
        """Have the backend do what is asked."""
        if self._backend is None:
            self._backend = self.make_backend()
        with raising_nothing(command):
            return self._backend.perform(command)

    def teardown_method(self) -> None:
        """Close it."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None


class AnyioBackendConformance(EntryRules, PrimitiveRules):
    """The rules for a backend for event loops. Override `make_backend`, and `runtime` for trio.

    They are those of `SyncBackendConformance`, and leave out the same.
    """

    runtime: str = "asyncio"

    def make_backend(self) -> AnyioBackend:
        """A backend on an empty store; it is called in the event loop."""
        raise NotImplementedError("say in make_backend how the backend is made, on a store that is empty")

    _loop: ExitStack | None = None
    """An event loop in which the backend lives for as long as the test does."""
    _portal: BlockingPortal
    _backend: AnyioBackend | None = None

    def perform(self, command: StoreCommand) -> StoreEvent:
        """Have the backend do what is asked."""
        if self._loop is None:
            self._loop = ExitStack()
            self._portal = self._loop.enter_context(start_blocking_portal(self.runtime))
            self._backend = self._portal.call(self._make)
        assert self._backend is not None, "it is made with the loop"
        return self._portal.call(self._answer, self._backend, command)

    async def _make(self) -> AnyioBackend:
        return self.make_backend()

    async def _answer(self, backend: AnyioBackend, command: StoreCommand) -> StoreEvent:
        with raising_nothing(command):
            return await backend.answer(command)

    def teardown_method(self) -> None:
        """Close it, and the loop."""
        if self._loop is not None:
            if self._backend is not None:
                self._portal.call(self._backend.aclose)
                self._backend = None
            self._loop.close()
            self._loop = None
