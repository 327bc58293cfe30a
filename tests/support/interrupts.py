"""An interrupt between any two bytecodes, as Ctrl-C may strike."""

from __future__ import annotations

import contextvars
import dis
import functools
import gc
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, Self

import pytest

import sansio_cache
import sansio_cache_redis
import sansio_cache_runtime

HAS_OPCODE_EVENTS: Final = sys.version_info[:2] == (3, 11)
"""From Python 3.12 on, they reach frames that did not ask for them: a test that strikes ends the run."""


class Struck(BaseException):
    """The interrupt."""


def strike(number: int, call: Callable[[], Any]) -> bool:
    """Call, and raise `Struck` before the bytecode of this number. False where the call was over by then."""
    if not HAS_OPCODE_EVENTS:
        pytest.skip("there is no telling between which bytecodes to strike")
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename == functools.__file__:
            # Python 3.11 has one lock for all cached properties. No signal strikes between taking it and
            # entering the block that gives it back; this would, and the threads of later tests would hang.
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            count += 1
            if count == number:
                raise Struck
        return trace

    before = sys.gettrace()
    gc.disable()  # or its callbacks are struck, and nobody hears of that
    sys.settrace(trace)
    try:
        call()
    except Struck:
        return True
    finally:
        sys.settrace(before)
        gc.enable()
    return False


PACKAGES: Final = (sansio_cache, sansio_cache_runtime, sansio_cache_redis)
LIBRARY: Final = tuple(str(Path(package.__file__).parent) for package in PACKAGES)
# Called when an object is collected, where Python swallows whatever is raised.
COLLECTING: Final = {"_weakrefset.py", "weakref.py"}


@functools.cache
def points_of(code: CodeType) -> frozenset[int]:
    """The offsets of the instructions of a function before which a signal is looked for.

    CPython raises at the call, and a trace function only at what comes after it. Where that has another
    handler, as behind the last call of a `with` block that returns, raising there would be another thing.
    """
    handlers = dis._parse_exception_table(code)  # type: ignore[attr-defined]

    def handler_of(offset: int) -> list[int]:
        return [each.target for each in handlers if each.start <= offset < each.end]

    points: set[int] = set()
    before: dis.Instruction | None = None
    for each in dis.get_instructions(code):
        is_called = before is not None and before.opname.startswith("CALL")
        if before and is_called and handler_of(before.offset) == handler_of(each.offset):
            points.add(each.offset)
        if each.opname.startswith("JUMP_BACKWARD"):
            points.add(each.offset)
        before = each
    return frozenset(points)


def raising(error: type[BaseException]) -> Callable[[], object]:
    """A handler that raises."""

    def handle() -> object:
        raise error

    return handle


interrupt: Final = raising(KeyboardInterrupt)
"""What the handler of Ctrl-C does."""


class Interrupter:
    """Does something at the `at`-th point inside the library where a signal may strike.

    Args:
        at: Which one, from 1.
        handler: What is called there; by default it raises KeyboardInterrupt.
    """

    def __init__(self, at: int, handler: Callable[[], object] = interrupt) -> None:
        self.left = at
        self._handler = handler
        self.stack: list[traceback.FrameSummary] = []
        self._returned: FrameType | None = None
        self._before: Any = None

    def __enter__(self) -> Self:
        gc.disable()
        self._before = sys.gettrace()  # what measures coverage
        sys.settrace(self._call)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.settrace(self._before)
        gc.enable()

    @property
    def has_struck(self) -> bool:
        """Whether the operation was long enough."""
        return bool(self.stack)

    @property
    def where(self) -> list[str]:
        """The functions of the library that were running, and the line."""
        return [f"{Path(frame.filename).name}:{frame.name}:{frame.lineno}" for frame in self.stack]

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        is_inside = frame.f_code.co_filename.startswith(LIBRARY)
        caller = frame.f_back
        is_called = caller is not None and caller.f_code.co_filename.startswith(LIBRARY)
        if is_inside or (is_called and Path(frame.f_code.co_filename).name not in COLLECTING):
            self._point(frame)
        if not is_inside:
            return None
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode" and frame.f_lasti in points_of(frame.f_code):
            # After a function of the library itself, nobody looks: it has points of its own.
            if self._returned is not frame:
                self._point(frame)
            self._returned = None
        elif event == "return":
            self._returned = frame.f_back
        return self._step

    def _point(self, frame: FrameType) -> None:
        self.left -= 1
        if self.left == 0:
            sys.settrace(None)
            found = traceback.StackSummary.extract(traceback.walk_stack(frame), lookup_lines=False)
            found.reverse()
            self.stack = [each for each in found if each.filename.startswith(LIBRARY)]
            self._handler()


def within(seconds: float, call: Callable[[], object]) -> BaseException | None:
    """Call in a thread of its own, in this context; what it raised, or that it hangs, None if all is well."""
    raised: list[BaseException | None] = [TimeoutError("it hangs")]

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised[0] = error
        else:
            raised[0] = None

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    thread.start()
    thread.join(seconds)
    return raised[0]
