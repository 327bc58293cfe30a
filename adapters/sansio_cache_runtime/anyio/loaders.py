"""How a loader is called under an event loop.

A coroutine function is called in the loop. A plain function may block, so it is called on a thread; but one
whose call gives something to be awaited, such as `lambda: fetch(1)`, is at home in the loop, and may need it:
`asyncio.gather` and `asyncio.create_task` find none on a thread. That cannot be told from outside. So it is
called in the loop where its code names one of asyncio's functions that need the running loop; and, once its
call gave something to be awaited, ever after. Where it has failed on a thread for want of a loop, it is
called once more in the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from inspect import CO_COROUTINE, isawaitable, unwrap
from types import CodeType, FunctionType, MethodType
from typing import Any, Final, TypeVar
from weakref import WeakSet

import anyio

from sansio_cache_runtime.anyio.threads import PLACE, run_on_thread, waiting_for_the_cache
from sansio_cache_runtime.loaders import is_coroutine_function

K = TypeVar("K")

_NEED_THE_LOOP: Final = (
    asyncio.create_task,
    asyncio.ensure_future,
    asyncio.gather,
    asyncio.get_running_loop,
    asyncio.shield,
)
_NAMES: Final = frozenset(each.__name__ for each in _NEED_THE_LOOP)
_MAKERS: Final = (asyncio.AbstractEventLoop, asyncio.TaskGroup)
_MADE: Final = frozenset({"create_task", "create_future", "run_in_executor"})
_COMPLAINTS: Final = (
    "no running event loop",
    "There is no current event loop",
    "must be called from async context",
    "unknown async library",
    "Not currently running",
)
"""What asyncio, trio, sniffio and anyio say to a thread that has no loop."""

_give_awaitables: Final[WeakSet[CodeType]] = WeakSet()


async def call_loader(loader: Callable[[], Any]) -> Any:
    """What a loader gives: called in the loop, or, where it may block, on a thread."""
    if PLACE.get() is None and isinstance(loader, FunctionType) and loader.__code__.co_flags & CO_COROUTINE:
        return await loader()  # as mostly: a coroutine function, which no thread waits for
    with waiting_for_the_cache():
        value = loader() if _belongs_in_the_loop(loader) else await _call_on_thread(loader)
        return await value if isawaitable(value) else value


async def load_each(calls: Mapping[K, Callable[[], Any]]) -> dict[K, Any]:
    """What each of some loaders gives. They run at once, and the first that fails ends the others."""
    values: dict[K, Any] = {}
    failures: list[BaseException] = []

    async def one(name: K, call: Callable[[], Any]) -> None:
        try:
            values[name] = await call_loader(call)
        except Exception as error:  # noqa: BLE001 - the function's own: the first one goes to the caller
            failures.append(error)
            tasks.cancel_scope.cancel()
        except asyncio.CancelledError as error:
            if not tasks.cancel_scope.cancel_called:  # of what it waits for: the group takes it for its own
                failures.append(error)
            raise

    async with anyio.create_task_group() as tasks:
        for name, call in calls.items():
            tasks.start_soon(one, name, call)
    if failures:
        raise failures[0]
    return values


async def _call_on_thread(loader: Callable[[], Any]) -> Any:
    try:
        value = await run_on_thread(loader)
    except RuntimeError as error:
        if not any(each in str(error) for each in _COMPLAINTS):
            raise
        value = loader()
    if isawaitable(value) and (code := _code_of(loader)) is not None:
        _give_awaitables.add(code)
    return value


def _belongs_in_the_loop(loader: Callable[..., Any]) -> bool:
    if is_coroutine_function(loader):
        return True
    while isinstance(loader, partial):
        loader = loader.func
    if isinstance(getattr(loader, "__self__", None), _MAKERS) or _is_one_that_needs_it(loader):
        return True
    function = _function_of(loader)
    return function is not None and (_code_of(function) in _give_awaitables or _names_the_loop(function))


def _function_of(loader: Any) -> FunctionType | None:
    """The function that runs when a loader is called: behind partials, methods and `__call__`."""
    while isinstance(loader, partial):
        loader = loader.func
    if not isinstance(loader, FunctionType | MethodType):
        loader = getattr(type(loader), "__call__", None)  # noqa: B004
    if isinstance(loader, MethodType):
        loader = loader.__func__
    return loader if isinstance(loader, FunctionType) else None


def _code_of(loader: Any) -> CodeType | None:
    """What is remembered of a loader. Not a decorator's: it may serve functions of both kinds."""
    function = _function_of(loader)
    wrapped = None if function is None else _function_of(unwrap(function))
    return None if wrapped is None else wrapped.__code__


def _names_the_loop(function: FunctionType) -> bool:
    """Whether the code names a function of asyncio that needs the running loop."""
    names = set(function.__code__.co_names)
    for each in _named_by(function):
        if _is_one_that_needs_it(each) or (each is asyncio and names & _NAMES):
            return True
        if isinstance(each, _MAKERS) and names & _MADE:
            return True
    return False


def _is_one_that_needs_it(function: Any) -> bool:
    return any(function is each for each in _NEED_THE_LOOP)  # by identity: it may be anything


def _named_by(function: FunctionType) -> Iterator[Any]:
    for name in function.__code__.co_names:
        yield function.__globals__.get(name)
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # it is empty yet
            continue
