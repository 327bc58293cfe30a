"""Loaders: what a caller passes, how it is called, and what it must not ask for.

A loader takes nothing, or a `LoadContext`; a loader of many keys takes the list of those that it is to load.

The keys that are being loaded are known in the present context, of threads and tasks alike; a loader's own
tasks and worker threads inherit it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextvars import ContextVar
from copy import deepcopy
from functools import partial
from inspect import (
    CO_COROUTINE,
    CO_VARARGS,
    Parameter,
    isawaitable,
    iscoroutine,
    iscoroutinefunction,
    signature,
)
from types import FunctionType, MethodType
from typing import Any, Final

from msgspec import Struct

from sansio_cache.commands import Compute, ComputeMany, Renewal
from sansio_cache.errors import ConfigurationError, RecursiveLoadError
from sansio_cache.events import LoadErrorShared, LoadNotShared, LoadShared, ShareAnswer
from sansio_cache.loader import LoadContext
from sansio_cache.signals import let_through
from sansio_cache.step import Step
from sansio_cache_runtime.blocks import block
from sansio_cache_runtime.context import set_safely
from sansio_cache_runtime.shared_errors import SharedError


def is_coroutine_function(loader: Any) -> bool:
    """Whether calling it gives a coroutine: a coroutine function, or an object whose call is one.

    Some of its arguments may be bound already, be it as those of a partial, or as the object of a method.
    """
    while isinstance(loader, partial):
        loader = loader.func
    return iscoroutinefunction(loader) or iscoroutinefunction(getattr(loader, "__call__", None))  # noqa: B004


def refuse_uncallable(loader: Any, what: str = "loader") -> None:
    """Refuse what is no function, such as a coroutine that was already called for.

    Args:
        loader: What was given.
        what: The name of the argument.

    Raises:
        ConfigurationError: It cannot be called.
    """
    if not callable(loader):
        kind = loader.__class__.__name__
        hint = (
            "pass the function, not its result"
            if hasattr(loader, "__await__")
            else "pass the function itself, and not what it gives; a value that is there is stored by set()"
        )
        if hasattr(loader, "close") and hasattr(loader, "__await__"):
            loader.close()  # a coroutine that will never be awaited
        raise ConfigurationError(f"{what} is a function; got {kind}: {hint}")


def refuse_coroutine_function(loader: Any, what: str = "loader") -> None:
    """Refuse a loader, or another function, that the blocking cache cannot call.

    Raises:
        ConfigurationError: It is a coroutine function.
    """
    # Looked up by hand where it can be, as this is a good part of a hit.
    code = loader.__code__ if type(loader) is FunctionType else None
    if code.co_flags & CO_COROUTINE if code is not None else is_coroutine_function(loader):
        raise ConfigurationError(
            f"the {what} is a coroutine function: use sansio_cache_redis.anyio.Cache, or pass a plain "
            "function"
        )


def refuse_for_threads(loader: Any, what: str = "loader") -> None:
    """Refuse what is no function for the blocking cache.

    Raises:
        ConfigurationError: It cannot be called, or is a coroutine function.
    """
    refuse_uncallable(loader, what)
    refuse_coroutine_function(loader, what)


def bind(loader: Callable[..., Any], args: tuple[Any, ...]) -> Callable[..., Any]:
    """A loader with the arguments that its caller gives it. They come first, as with `functools.partial`.

    Raises:
        ConfigurationError: It cannot be called.
    """
    refuse_uncallable(loader)
    return partial(loader, *args)


def takes_context(loader: Callable[..., Any]) -> bool:
    """Whether a loader wants to be told what it loads.

    The only parameter that it cannot do without is called `context`, or declared as a `LoadContext`. Any
    other was forgotten, as the id of `database.user`; Python's own error says so when it is called without.
    """
    is_bound = isinstance(loader, MethodType)
    function = loader.__func__ if isinstance(loader, MethodType) else loader
    if isinstance(function, FunctionType) and not function.__code__.co_flags & CO_VARARGS:
        code = function.__code__
        required = code.co_argcount - is_bound - len(function.__defaults__ or ())
        if required != 1:
            return False
        name = code.co_varnames[is_bound]
        return _is_context(name, function.__annotations__.get(name))
    try:
        parameters = signature(loader).parameters.values()
    except (TypeError, ValueError) as error:  # built in, and does not say
        let_through(error)
        return False
    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    required_ones = [
        each for each in parameters if each.kind in positional and each.default is Parameter.empty
    ]
    return len(required_ones) == 1 and _is_context(required_ones[0].name, required_ones[0].annotation)


def _is_context(name: str, annotation: Any) -> bool:
    return name == "context" or annotation in (LoadContext, LoadContext.__name__)


def call_blocking(loader: Callable[[], Any], what: str = "loader") -> Any:
    """Call a loader, or another function, that is to give its value at once.

    Raises:
        ConfigurationError: It gives something to be awaited.
    """
    value = loader()
    if isawaitable(value):
        if iscoroutine(value):
            value.close()
        raise ConfigurationError(
            f"the {what} returned an awaitable: use sansio_cache_redis.anyio.Cache, or pass a function that "
            "returns the value"
        )
    return value


def own_copy(event: ShareAnswer, arrival: int) -> ShareAnswer:
    """What is a follower's own of what has no payload: an error, or a copy of a value that cannot be stored.

    Where a value cannot be copied, the follower loads for itself.
    """
    if isinstance(event, LoadErrorShared) and isinstance(event.shared, SharedError):
        return LoadErrorShared(event.now_s, event.shared.own())
    if not isinstance(event, LoadShared) or event.payload is not None:
        return event
    try:
        return LoadShared(event.now_s, None, deepcopy(event.value))
    except Exception as error:  # noqa: BLE001 - whatever a class of the user's does when it is copied
        let_through(error)
        return LoadNotShared(event.now_s, arrival)


def bound(loader: Callable[..., Any], command: Compute | ComputeMany) -> Callable[[], Any]:
    """The loader with what it is to be told."""
    if isinstance(command, ComputeMany):
        return partial(loader, list(command.names))
    if isinstance(loader, FunctionType):
        code = loader.__code__
        if not code.co_argcount and not code.co_flags & CO_VARARGS:  # as most do: it takes nothing
            return loader
    if takes_context(loader):
        return partial(loader, LoadContext(command.name or command.key, command.previous))
    return loader


# Recursion: a loader that asks for the key it is loading would wait for itself.


class Running(Struct, eq=False):
    """A loader that runs, or a writer's block: what is being loaded, and the leases kept meanwhile."""

    owner: object = None
    """The coordinator of the cache, which its drivers share."""
    keys: frozenset[str] = frozenset()
    """In full: those that a loader must not ask the cache for, as it would wait for itself."""
    renewal: Renewal | None = None
    is_over: bool = False
    step: Step | None = None
    """Where the renewal's machine is, for threads; None before it has begun."""
    cancel: Callable[[], object] = int
    """Ends the renewal's task, in an event loop."""

    @property
    def command(self) -> object:
        """What the renewal's machine waits for."""
        return None if self.step is None else self.step.command


_marks: Final[ContextVar[tuple[Running, ...]]] = ContextVar("sansio_cache_loads", default=())
"""The loaders that a context is inside of. The mark of one that is over stays until the next, and counts for
nothing, as do those in tasks that it has left behind."""


def mark(load: Running) -> None:
    """Mark keys as being loaded in this context, until the load is over."""
    set_safely(_marks, (*_around(), load))


def _around() -> Sequence[Running]:
    around = []
    for load in _marks.get():  # each miss asks, mostly with the mark of the one before it
        if not load.is_over:
            around.append(load)  # noqa: PERF401 - a comprehension costs more than one or two of them
    return around


_is_telling: Final[ContextVar[bool]] = ContextVar("sansio_cache_is_telling", default=False)


@block
def telling() -> Generator[None]:
    """Mark that functions of the user's are being told something."""
    before = _is_telling.get()
    try:
        set_safely(_is_telling, True)
        yield
    finally:
        set_safely(_is_telling, before)


def is_inside_callback() -> bool:
    """Whether a loader of the user's, or a subscriber, is what calls."""
    return _is_telling.get() or bool(_around())


def forget_loads() -> None:
    """For background work, which no load waits for: its context was copied from that of a caller."""
    set_safely(_marks, ())
    set_safely(_is_telling, False)


def keys_around() -> frozenset[str]:
    """The keys, of any caches, whose loaders this is called from."""
    around = _around()
    return frozenset[str]().union(*[load.keys for load in around]) if around else frozenset()


def refuse_recursion(owner: object, *keys: str) -> None:
    """Refuse to load keys from inside their own loader.

    Raises:
        RecursiveLoadError: One of the keys is being loaded in this context.
    """
    for load in _around():
        if load.owner is owner and not load.keys.isdisjoint(keys):
            key = next(key for key in keys if key in load.keys)
            raise RecursiveLoadError(
                f"the loader of {key!r} asks the cache for that very key, and would wait for itself: "
                "let it read the database, or use another key"
            )
