"""Blocks: context managers made of generators, which let everything through that is raised in them.

What is raised in a block of the user's goes on as it is, the same object with the same traceback, whatever
its class. `contextlib` gives an exception its traceback back by an assignment. One that refuses to be changed
(a frozen dataclass or attrs class, or one with a `__setattr__` of its own) is replaced there by an error
about that, and what has happened is lost.

No generator here ends an exception. One may raise another in its place.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Never, ParamSpec, TypeVar

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
T = TypeVar("T")
G = TypeVar("G")

_OVER: Final[Any] = object()


def block(function: Callable[P, Generator[T]]) -> Callable[P, Block[T]]:
    """Make context managers of a generator function that yields once."""

    @wraps(function)
    def begin(*args: P.args, **kwargs: P.kwargs) -> Block[T]:
        return Block(lambda: function(*args, **kwargs))

    return begin


def async_block(function: Callable[P, AsyncGenerator[T]]) -> Callable[P, AsyncBlock[T]]:
    """The same of an asynchronous one."""

    @wraps(function)
    def begin(*args: P.args, **kwargs: P.kwargs) -> AsyncBlock[T]:
        return AsyncBlock(lambda: function(*args, **kwargs))

    return begin


class _Made(Generic[G]):
    """A generator, and what makes another of its kind."""

    _with: ClassVar[str] = "with"

    def __init__(self, make: Callable[[], G]) -> None:
        self._make = make
        self._generator = make()

    if not TYPE_CHECKING:  # to type checkers there is no more than is written here

        def __getattr__(self, name: str) -> Never:
            raise AttributeError(
                f"this is a block that has not begun, and has no {name!r}: use it as in "
                f"`{self._with} … as m:`, and ask m for that",
                name=name,
                obj=self,
            )

    def _begun(self, given: Any) -> Any:
        if given is _OVER:
            raise RuntimeError("the block is over: make another with another call")
        return given

    def _let_through(
        self, raised: BaseException, error: BaseException, traceback: TracebackType | None
    ) -> bool:
        """Whether what comes out of the generator is what was raised in the block: then it is as it was."""
        # A generator may not raise what ends generators: Python wraps it.
        is_wrapped = isinstance(error, StopIteration | StopAsyncIteration) and raised.__cause__ is error
        if raised is not error and not is_wrapped:
            return False
        BaseException.with_traceback(error, traceback)  # no assignment, which it could refuse
        return True


class Block(_Made[Generator[T]], AbstractContextManager[T]):
    """A context manager, to be used once; as a decorator of functions, for each of their calls."""

    def __enter__(self) -> T:
        value: T = self._begun(next(self._generator, _OVER))
        return value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            next(self._generator, None)
            return
        try:
            self._generator.throw(error)
        except BaseException as raised:
            if not self._let_through(raised, error, traceback):
                raise

    def __call__(self, function: Callable[Q, R]) -> Callable[Q, R]:
        """The function, in such a block."""

        @wraps(function)
        def call(*args: Q.args, **kwargs: Q.kwargs) -> R:
            with Block(self._make):
                return function(*args, **kwargs)

        return call


class AsyncBlock(_Made[AsyncGenerator[T]], AbstractAsyncContextManager[T]):
    """An asynchronous context manager, to be used once; as a decorator, for each call."""

    _with = "async with"

    async def __aenter__(self) -> T:
        value: T = self._begun(await anext(self._generator, _OVER))
        return value

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            await anext(self._generator, None)
            return
        try:
            await self._generator.athrow(error)
        except BaseException as raised:
            if not self._let_through(raised, error, traceback):
                raise

    def __call__(self, function: Callable[Q, Awaitable[R]]) -> Callable[Q, Awaitable[R]]:
        """The function, in such a block."""

        @wraps(function)
        async def call(*args: Q.args, **kwargs: Q.kwargs) -> R:
            async with AsyncBlock(self._make):
                return await function(*args, **kwargs)

        return call
