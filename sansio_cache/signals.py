"""Signals: whose exception is it that arrives in the middle of our own code?

CPython runs the handlers of signals between two bytecodes of the main thread, and inside calls that wait.
What a handler raises, a job's time limit for example, comes out of whatever was running just then: out of
`recv`, out of a decoder, out of a `try` of ours. It may be of any class, `TimeoutError` too. It is the
program's own and goes on to the program, whatever is made of other exceptions there.

A traceback tells. CPython calls a handler with the number of the signal and the frame that was interrupted;
no other function is given the frame that stands right above it in the traceback. A handler that has put
something else in the place of that frame is known by being that of the number which it was given, or of any
signal where it has deleted what it was given. Who handles which, the runtime is asked: the core asks nobody
outside. The code alone does not tell: a decorator may have wrapped a loader as well.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from types import CodeType, FrameType, TracebackType
from typing import Final, cast

Handlers = Callable[[Iterable[int] | None], frozenset[CodeType]]
"""Gives the code that is called as signals of some numbers come, or of any. A number may be that of none."""

_VARARGS: Final = inspect.CO_VARARGS
_known: list[Handlers] = []


def ask_for_handlers(handlers: Handlers) -> None:
    """Have a function say, whenever it is asked, which code is called as signals come."""
    _known.append(handlers)


def let_through(error: BaseException) -> None:
    """Raise what a signal handler has raised, where an error is that, or was made of it.

    To be called first wherever an exception is caught that is none of the program's: in the `except` block.

    Args:
        error: What was caught.

    Raises:
        BaseException: What the handler has raised.
    """
    if _passes_handler(error.__traceback__):
        raise error
    found = error.__context__
    if found is None:  # as mostly
        return
    outside = _callers(sys._getframe(1))  # noqa: SLF001
    seen: set[int] = set()
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        traceback = found.__traceback__
        if traceback is not None and traceback.tb_frame in outside:
            return  # our caller is handling it, and calls us meanwhile: it has nothing to do with this one
        if _passes_handler(traceback):
            raise found
        # A layer below may have made one of its own of it: redis-py does of a TimeoutError.
        found = found.__context__


def _callers(frame: FrameType) -> set[FrameType]:
    """The frames that wait for this one."""
    frames: set[FrameType] = set()
    caller = frame.f_back
    while caller is not None:
        frames.add(caller)
        caller = caller.f_back
    return frames


def _passes_handler(traceback: TracebackType | None) -> bool:
    """Whether an exception came out of a signal handler."""
    interrupted: FrameType | None = None
    while traceback is not None:
        frame = traceback.tb_frame
        if interrupted is not None and _is_handler(frame, interrupted):
            return True
        interrupted = frame
        traceback = traceback.tb_next
    return False


def _is_handler(frame: FrameType, interrupted: FrameType) -> bool:
    """Whether a function was called with the frame that it interrupts, or as the handler of its signal.

    Asked of every frame that something of ours has failed in: nobody is asked where no argument is a number.
    """
    code, found = frame.f_code, frame.f_locals
    count = code.co_argcount
    given: list[object] = [found[name] for name in code.co_varnames[:count] if name in found]
    is_deleted = len(given) < count
    if code.co_flags & _VARARGS:
        rest = found.get(code.co_varnames[count + code.co_kwonlyargcount])
        given += rest if type(rest) is tuple else ()
    if any(each is interrupted for each in given):
        return True
    # By type: what a program passes may be a proxy, which raises when it is asked for its class.
    numbers = cast("list[int]", [each for each in given if issubclass(type(each), int)])
    if not (numbers or is_deleted):
        return False
    return any(code in handlers(None if is_deleted else numbers) for handlers in _known)
