"""What is outside of a world: real sleeps, connections and threads, refused in the functions of a program.

While a world runs, `time.sleep`, `socket.socket.connect` and `threading.Thread.start` look who calls them. Of
a participant of a world they refuse, and name its line. Everybody else in the process gets what he asked for.
What was bound by its name before, as by `from time import sleep`, is not seen.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import attrs

from sansio_cache_testing.scheduling import WorldError
from sansio_cache_testing.steps import line_of_the_program, package_of

_OURS: Final = __name__.partition(".")[0]


@attrs.frozen
class _Refused:
    """A function that is refused to participants."""

    owner: Any
    name: str
    what: str
    instead: str


_REFUSED: Final = (
    _Refused(time, "sleep", "sleeps in real time", "world.pass_time(seconds)"),
    _Refused(socket.socket, "connect", "connects a socket", "a double of what is outside"),
    _Refused(threading.Thread, "start", "starts a thread", "world.start(function)"),
)
_lock: Final = threading.Lock()
_running: Final[list[Callable[[], bool]]] = []
"""Of each world that runs, whether a participant of it is what calls."""
_undo: Final[list[Callable[[], object]]] = []


@contextmanager
def outside_refused(is_participant: Callable[[], bool]) -> Iterator[None]:
    """Refuse what is outside to participants, while the block runs.

    Args:
        is_participant: Whether a function of the program is what calls.
    """
    with _lock:
        if not _running:
            _undo.extend(_put_in_place(each) for each in _REFUSED)
        _running.append(is_participant)
    try:
        yield
    finally:
        with _lock:
            _running.remove(is_participant)
            while _undo and not _running:
                _undo.pop()()


def _put_in_place(refused: _Refused) -> Callable[[], object]:
    """Put what refuses in place; gives what takes it away."""
    owner, name = refused.owner, refused.name
    original = getattr(owner, name)
    is_inherited = name not in vars(owner)

    def look(*args: Any, **kwargs: Any) -> Any:
        is_ours = package_of(sys._getframe(1)) == _OURS  # noqa: SLF001 - who calls
        if not is_ours and any(is_participant() for is_participant in tuple(_running)):
            place = line_of_the_program()
            where = "the program" if place is None else f"{place}: it"
            raise WorldError(f"{where} {refused.what}, which a world cannot schedule: use {refused.instead}")
        return original(*args, **kwargs)

    setattr(owner, name, look)
    return (lambda: delattr(owner, name)) if is_inherited else (lambda: setattr(owner, name, original))
