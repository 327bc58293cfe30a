"""Write-behind for threads: the queue of an entity, and what consumes it.

Mirrors `anyio/queue.py`.
"""

from __future__ import annotations

import builtins
import logging
import time
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final, Generic, TypeVar

from sansio_cache.errors import CacheClosedError, CacheError, CacheTimeoutError
from sansio_cache.keys import Key
from sansio_cache.loader import LoadContext
from sansio_cache.queues import QueuedWrite, Turn, TurnEnd
from sansio_cache.step import Outcome
from sansio_cache_runtime.blocks import block
from sansio_cache_runtime.loaders import call_blocking
from sansio_cache_runtime.queue_plan import (
    Backlog,
    Letter,
    QueuePlan,
    check_agreed,
    check_store,
    dropped,
    queued,
    replayed,
)
from sansio_cache_runtime.results import WriteResult
from sansio_cache_runtime.sync.event import ThreadEvent
from sansio_cache_runtime.writer_calls import Ahead, failed_try

T = TypeVar("T")
H = TypeVar("H")

KeyOf = Callable[[Any], Key]
"""Gives the key of an id."""

logger: Final = logging.getLogger("sansio_cache")
_LOOK_S: Final = 0.05
"""How often who waits for a queue looks at it, in seconds."""


class Queue(Generic[T]):
    """The queue of an entity that writes behind: `Entity.queue`."""

    def __init__(self, plan: QueuePlan, cache: Any, run: Callable[..., Outcome]) -> None:
        """Use `Cache.entity`, with `strategy=WriteBehind()`."""
        self._plan = plan
        self._cache = cache
        self._run = run
        self._is_open = False
        self._may_look = False

    def __repr__(self) -> str:
        return f"<queue {self._plan.name!r} of {self._cache!r}>"

    # What it holds.

    def backlog(self) -> Backlog:
        """How much is queued, and how many dead letters there are.

        Raises:
            ConfigurationError: The queue has another number of partitions, and writes in them.
            CacheConnectionError: The store does not serve.
        """
        self._agreed()
        return self._plan.measured([self._run(step) for step in self._plan.measure()])

    def drain(
        self, timeout_s: float | None = None, *, progress: Callable[[Backlog], object] | None = None
    ) -> Backlog:
        """Wait until nothing is queued. Consumers have to run, here or elsewhere.

        Args:
            timeout_s: How long, in seconds; None for as long as it takes.
            progress: Called with what is left, every time that is looked at.

        Returns:
            What is left: nothing, unless the time was over.

        Raises:
            ConfigurationError: As `backlog`.
            CacheConnectionError: The store does not serve.
        """
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            backlog = self.backlog()
            if progress is not None:
                progress(backlog)
            if backlog.queued == 0 or (until_s is not None and time.monotonic() >= until_s):
                return backlog
            self._pause()

    def letters(self) -> list[Letter[T]]:
        """The dead letters, oldest first in each partition.

        Raises:
            ConfigurationError: The queue has another number of partitions, and writes in them.
            CacheConnectionError: The store does not serve.
        """
        self._agreed()
        found: list[Letter[T]] = []
        for place in range(self._plan.strategy.partitions):
            after = -1
            while after:
                answer = self._run(self._plan.letters(place, max(after, 0)))
                page, after = self._plan.page(place, answer)
                found += page
        return found

    def replay(self, letter: Letter[T]) -> bool:
        """Queue a dead letter anew.

        Returns:
            Whether it was: not where a later write of its key was queued since, or where it is gone.

        Raises:
            CacheConnectionError: The store does not serve.
            UnknownOutcomeError: An answer of the store was lost.
        """
        return replayed(self._run(self._plan.replay(letter)))

    def drop(self, *letters: Letter[T]) -> int:
        """Forget dead letters; how many.

        Raises:
            CacheConnectionError: The store does not serve.
        """
        return dropped([self._run(step) for step in self._plan.drop(letters)])

    # Consuming.

    @block
    def consumer(self, *, workers: int = 1, drain_s: float = 10.0) -> Generator[Queue[T]]:
        """Consume the queue on threads of the cache's own while the block runs.

            with users.queue.consumer():
                serve()

        At the end, what is queued is waited for, for a while; then the consumers end, and what is left is
        logged. It is not lost: another consumer applies it.

        Args:
            workers: How many threads. Each has partitions of its own, so more than there are help nothing.
            drain_s: How long to wait for what is queued, in seconds; 0 does not.

        Raises:
            ConfigurationError: The server may evict what is queued; or the queue has another number of
                partitions, and writes in them.
            CacheConnectionError: The store does not serve.
        """
        self.open()
        stop = ThreadEvent()
        ends = []
        try:
            for _ in range(workers):
                has_ended = ThreadEvent()
                job = partial(self._consume, stop, has_ended)
                background = self._cache._in_background()  # noqa: SLF001 - of this package
                if background.start(job, "sansio-cache-consumer", is_waited_for=True):
                    ends.append(has_ended)
            yield self
            if drain_s:
                self._drain_at_end(drain_s)
        finally:
            stop.set()
            for has_ended in ends:
                has_ended.wait(drain_s + self._plan.strategy.lease_s)

    def run(self, stop: ThreadEvent) -> None:
        """Consume the queue in this thread until `stop` is set.

        Raises:
            ConfigurationError: As `consumer`.
            CacheConnectionError: The store does not serve at the beginning.
        """
        self.open()
        self._run(self._plan.consume(), self._turns(stop))

    def _consume(self, stop: ThreadEvent, has_ended: ThreadEvent) -> None:
        try:
            self._run(self._plan.consume(), self._turns(stop))
        finally:
            has_ended.set()

    def _turns(self, stop: ThreadEvent) -> Callable[[LoadContext], TurnEnd]:
        """What is called in a loader's place, with what a consumer is to do next."""
        ahead = Ahead()

        def turn(context: LoadContext) -> TurnEnd:
            wanted: Turn = context.previous
            if wanted.writes:
                end = self._apply(wanted.writes, ahead)
            else:
                end = TurnEnd()
                stop.wait(wanted.rest_s)
            is_over = stop.is_set() or self._cache._is_closed  # noqa: SLF001 - of this package
            return TurnEnd(end.found, is_over, end.failed)

        return turn

    def _apply(self, writes: tuple[QueuedWrite, ...], ahead: Ahead) -> TurnEnd:
        try:
            turn = self._plan.write.turn(writes)
            returned = [
                call_blocking(partial(function, *arguments, **named), "writer")
                for function, arguments, named in turn.calls
            ]
            return TurnEnd(ahead.found(turn, returned))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - it is logged
            failure = failed_try(error)
            self._plan.tell_failure(self._cache._recorder, len(writes), failure)  # noqa: SLF001
            return TurnEnd(failed=type(failure).__name__)

    def _drain_at_end(self, drain_s: float) -> None:
        try:
            left = self.drain(drain_s)
        except CacheClosedError:
            return
        except CacheError as error:
            logger.warning("the queue %s could not be drained: %s", self._plan.name, error)
            return
        if left.queued:
            logger.warning("the queue %s still holds %d writes", self._plan.name, left.queued)

    # For entities.

    def open(self) -> None:
        """Make sure that the store can keep the queue, and agree on the partitions. Once is enough.

        Raises:
            ConfigurationError: It cannot, or the queue has another number of them, and writes in them.
            CacheConnectionError: The store does not serve.
        """
        if self._is_open:
            return
        check_store(self._plan, self._cache.health())
        check_agreed(self._plan.name, self._run(self._plan.agree()))
        self._is_open = self._may_look = True

    def write(self, values: Mapping[Key, Any], tags: Iterable[str]) -> WriteResult:
        """Queue values by their keys."""
        steps = self._plan.enqueue(values, tags)
        self.open()
        answers = [(keys, self._run(step)) for keys, step in steps]
        return queued(answers, self._plan.strategy.durability)

    def look_first(self, key_of: KeyOf, load: Callable[..., Any], *args: Any) -> Any:
        """What is queued for the id that comes last; else what its loader gives."""
        key = key_of(args[-1])
        waiting = self.peek((key,))
        return waiting[key] if key in waiting else call_blocking(partial(load, *args))

    def look_first_many(self, key_of: KeyOf, load: Callable[..., Any], *args: Any) -> Any:
        """The same of the ids that come last."""
        *before, ids = args
        keys = {each: key_of(each) for each in ids}
        waiting = self.peek(keys.values())
        found = {each: waiting[key] for each, key in keys.items() if key in waiting}
        rest = [each for each in ids if each not in found]
        loaded = call_blocking(partial(load, *before, rest)) if rest else {}
        return {**loaded, **found} if isinstance(loaded, Mapping) else loaded

    def peek(self, keys: Iterable[Key]) -> dict[str, Any]:
        """The queued values of those keys that have one."""
        found: dict[str, Any] = {}
        if not self._agreed():
            return found
        for some, step in self._plan.peek(keys):
            found |= self._plan.peeked(some, self._run(step))
        return found

    def _agreed(self) -> bool:
        """Whether the partitions are agreed on, as once is enough; not where the store is silent."""
        if not self._may_look:
            self._may_look = self._plan.may_look(self._run(self._plan.agree_first()))
        return self._may_look

    def settle(self, keys: Collection[Key], until_s: float | None = None) -> None:
        """Wait until nothing is queued for some keys; until `until_s` on the clock of this process at most.

        Raises:
            CacheTimeoutError: Something still is.
        """
        until_s = self._until_s() if until_s is None else until_s
        while self.peek(keys):
            if time.monotonic() >= until_s:
                raise self._too_late()
            self._pause()

    def _too_late(self) -> CacheTimeoutError:
        return CacheTimeoutError(
            f"writes of the queue {self._plan.name!r} wait for the same keys: this one is to be done after "
            "them, and they were not applied in time"
        )

    def _until_s(self) -> float:
        return time.monotonic() + self._plan.strategy.wait_s

    @block
    def after(self, keys: builtins.list[Key], make: Callable[[], AbstractContextManager[H]]) -> Generator[H]:
        """A block that is made, and begins, when nothing is queued for some keys."""
        self.settle(keys)
        with make() as held:
            yield held

    @block
    def holding(self, keys: Collection[Key], make: Callable[[], AbstractContextManager[H]]) -> Generator[H]:
        """A block that holds some keys, for which nothing is queued as it begins; it may be made anew.

        What is looked up under the holds is what counts. A write that is queued after that removes the keys
        before it is acknowledged, and the holds with them: so no value is stored over it.
        """
        until_s = self._until_s()
        while True:
            self.settle(keys, until_s)
            with make() as held:
                if not self.peek(keys):
                    yield held
                    return
            if time.monotonic() >= until_s:
                raise self._too_late()

    def _pause(self) -> None:
        time.sleep(_LOOK_S)
