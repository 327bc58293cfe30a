"""Tracebacks for the log: classes and frames, and no texts of exceptions that are not the cache's own.

A program's exceptions may quote what it was working on: a row, an address, a URL with a password. They are
the program's to log. Who looks for the cause of what failed in the background needs to know where it was, and
of what class.
"""

from __future__ import annotations

from typing import Final

_MOST_CAUSES: Final = 8


class Telling(Exception):  # noqa: N818 - what it is told by is named as errors are
    """An error of the cache's own, whose text has nothing of the program's but keys and numbers."""


def textless(error: BaseException, most: int = _MOST_CAUSES) -> Exception:
    """What to log as `exc_info` in the place of an exception: its class and frames, and its causes'."""
    kind = type(error)
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    text = (str(error),) if isinstance(error, Telling) else ()
    stand_in: Exception = type(kind.__name__, (Exception,), names)(*text)
    stand_in.__traceback__ = error.__traceback__
    if most and error.__cause__ is not None:
        stand_in.__cause__ = textless(error.__cause__, most - 1)
    elif most and error.__context__ is not None and not error.__suppress_context__:
        stand_in.__context__ = textless(error.__context__, most - 1)
    return stand_in
