"""Context variables, set where a finaliser may set one in the middle of it.

`ContextVar.set` makes objects, which may call the collector, which may run a finaliser; where that sets a
variable of the same context, CPython 3.11 frees the map that the outer call is reading, and the process dies.
A copy of the context keeps the map alive for so long. Whoever sets one in between has set it back before the
outer call goes on, so nothing is lost.
"""

from __future__ import annotations

from contextvars import ContextVar, copy_context
from typing import TypeVar

T = TypeVar("T")


def set_safely(variable: ContextVar[T], value: T) -> None:
    """Set a context variable of the running context."""
    kept = copy_context()
    variable.set(value)
    del kept


# The interpreter keeps contexts that are over for the next copies, which then call no collector themselves.
_kept = [copy_context() for _ in range(64)]
del _kept
