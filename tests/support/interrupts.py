"""An interrupt between any two bytecodes, as Ctrl-C may strike."""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

import pytest

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
