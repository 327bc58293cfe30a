"""Making a cache fail, whatever its store, to test what a program does then.

    with failing(cache, StoreFault.REFUSED):
        assert client.get("/users/1").status_code == 200

And caches that do nothing at all, for code that wants one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from sansio_cache.commands import DeleteKeys, Ping, StoreCommand, keys_and_tags
from sansio_cache.errors import ConfigurationError
from sansio_cache.events import FailureKind, StoreEvent, StoreFailed
from sansio_cache.keys import ONE_PART
from sansio_cache_redis import anyio as anyio_colour
from sansio_cache_redis import sync
from sansio_cache_testing.faults import StoreFault
from sansio_cache_testing.steps import stored_by

_KINDS: Final = {
    StoreFault.REQUEST_LOST: FailureKind.TIMEOUT,
    StoreFault.REPLY_LOST: FailureKind.TIMEOUT,
    StoreFault.REFUSED: FailureKind.CONNECTION,
}
_CAN: Final = (*_KINDS, StoreFault.EVICTED)
"""What can be done to a store that is not the world's. What comes late comes late in a world only."""
_ABLE: Final = ", ".join(each.name for each in _CAN)


class Failing:
    """Counts how often a store was made to fail.

    Args:
        fault: What befalls each command.
    """

    def __init__(self, fault: StoreFault) -> None:
        self.fault = fault
        self.fired = 0
        self.is_over = False
        """Who has taken the function that fails from another by then goes on with it, and with the store."""

    def is_asked(self) -> bool:
        """Whether the store hears of a command at all."""
        return self.fault in (StoreFault.REPLY_LOST, StoreFault.EVICTED)

    def answer(self, event: StoreEvent | None, now_s: float, part: str) -> StoreEvent:
        """What the cache is told instead."""
        if self.fault is StoreFault.EVICTED:
            assert event is not None
            return event
        self.fired += 1
        return StoreFailed(now_s, _KINDS[self.fault], part)

    def evicts(self, command: StoreCommand, event: StoreEvent) -> DeleteKeys | None:
        """What removes again what a command has stored."""
        keys = stored_by(command, event) if self.fault is StoreFault.EVICTED else ()
        self.fired += bool(keys)
        return DeleteKeys(keys, 1.0) if keys else None


@contextmanager
def failing(cache: sync.Cache | anyio_colour.Cache, fault: StoreFault) -> Iterator[Failing]:
    """Have each command to a cache's store fail while the block runs.

    The cache then does what it does in an outage: loaders run, writes are counted as lost, invalidations are
    remembered; after the block it finds by itself that the store is there again.

    Args:
        cache: Any cache, of threads or of event loops.
        fault: REFUSED: the store cannot be reached. REQUEST_LOST: it does not answer. REPLY_LOST: it does
            what it is asked, and does not answer. EVICTED: it stores nothing for long.

    Raises:
        ConfigurationError: It is no cache, no fault, or a fault for worlds only.
    """
    if not isinstance(fault, StoreFault):
        raise ConfigurationError(
            f"failing() takes a fault, as in failing(cache, StoreFault.REFUSED): one of {_ABLE}; got "
            f"{fault!r:.80}"
        )
    if fault not in _CAN:
        raise ConfigurationError(
            f"failing() takes {_ABLE}; {fault} needs a World: check_interleavings(scenario, faults=[{fault}])"
        )
    state = Failing(fault)
    if isinstance(cache, sync.Cache):
        undo = _replace_sync(cache, state)
    elif isinstance(cache, anyio_colour.Cache):
        undo = _replace_anyio(cache, state)
    else:
        raise ConfigurationError(f"failing() takes a cache; got {type(cache).__name__}")
    try:
        yield state
    finally:
        state.is_over = True
        undo()


def _replace_sync(cache: Any, state: Failing) -> Callable[[], object]:
    clock = cache._requests.clock  # noqa: SLF001 - the kit is of this library
    undone: list[Callable[[], object]] = []

    def replace(backend: Any) -> Any:
        perform = backend.perform

        def fail(command: StoreCommand) -> StoreEvent:
            if state.is_over:
                return perform(command)  # type: ignore[no-any-return]  # as all backends do
            event = perform(command) if state.is_asked() else None
            if event is not None and (removal := state.evicts(command, event)) is not None:
                perform(removal)
            return state.answer(event, clock(), _part_of(command, backend))

        undone.extend((_put(backend, "perform", fail), _replace_beyond(backend, replace)))
        return backend

    replace(cache._backend)  # noqa: SLF001
    return lambda: [undo() for undo in reversed(undone)]


def _replace_anyio(cache: Any, state: Failing) -> Callable[[], object]:
    bindings, clock = cache._bindings, cache._requests.clock  # noqa: SLF001 - the kit is of this library
    undone: list[Callable[[], object]] = []

    def replace(backend: Any) -> Any:
        answer = backend.answer

        async def fail(command: StoreCommand) -> StoreEvent:
            if state.is_over:
                return await answer(command)  # type: ignore[no-any-return]  # as all backends do
            event = await answer(command) if state.is_asked() else None
            if event is not None and (removal := state.evicts(command, event)) is not None:
                await answer(removal)
            return state.answer(event, clock(), _part_of(command, backend))

        undone.extend((_put(backend, "answer", fail), _replace_beyond(backend, replace)))
        return backend

    for binding in list(bindings._bindings.values()):  # noqa: SLF001
        replace(binding.backend)
    make = bindings._make_backend  # noqa: SLF001
    undone.append(_put(bindings, "_make_backend", lambda: replace(make())))
    return lambda: [undo() for undo in reversed(undone)]


def _replace_beyond(backend: Any, replace: Callable[[Any], Any]) -> Callable[[], object]:
    """Have the cluster fail as well that a server turns out to be in."""
    make_cluster = getattr(backend, "make_cluster", None)
    if make_cluster is None:
        return lambda: None
    return _put(backend, "make_cluster", lambda: replace(make_cluster()))


def _put(target: Any, name: str, function: Any) -> Callable[[], object]:
    """Put a function in the place of a method; the function given back undoes that.

    Where another stands there by then, as the server has turned out to be in a cluster, that stays.
    """
    mine = vars(target).get(name)
    setattr(target, name, function)

    def undo() -> None:
        if vars(target).get(name) is not function:
            return
        if mine is None:
            delattr(target, name)
        else:
            setattr(target, name, mine)

    return undo


def _part_of(command: StoreCommand, backend: Any) -> str:
    """The part of the store that fails with a command: that of its first key, if it names one."""
    if isinstance(command, Ping):
        return command.part
    keys, tags = keys_and_tags(command)
    first = next(iter((*keys, *tags)), None)
    return ONE_PART if first is None else str(backend.part_of(first))


def null_cache(namespace: str = "null", **options: Any) -> sync.Cache:
    """A cache for threads that does nothing: every read is a miss, every load runs, nothing is stored.

    `lock`, `add` and `incr` raise `CacheConnectionError`, as nobody can say whose something is.

    Args:
        namespace: The first part of every key.
        options: The fields of `CacheConfig`.
    """
    return sync.Cache.from_url("memory://", namespace=namespace, enabled=False, **options)


def async_null_cache(namespace: str = "null", **options: Any) -> anyio_colour.Cache:
    """A cache for event loops that does nothing: every read is a miss, every load runs, nothing is stored.

    `lock`, `add` and `incr` raise `CacheConnectionError`, as nobody can say whose something is.

    Args:
        namespace: The first part of every key.
        options: The fields of `CacheConfig`.
    """
    return anyio_colour.Cache.from_url("memory://", namespace=namespace, enabled=False, **options)
