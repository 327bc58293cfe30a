"""How long a machine that has more to do has kept this process waiting.

A test that says how long a call may take at most says it of a process that runs. Beside others it stands
still, for longer the busier the machine is: a thread that only sleeps, and notes how much later it wakes up,
knows for how long.
"""

import threading
import time
from typing import Self

_LOOK_S = 0.02
_LEAST_S = 1.5
"""Some threads are late even where that one is not: no wait that is this much longer is a fault."""


class Stalls:
    """Counts, while its block runs, for how long the process has stood still."""

    def __init__(self) -> None:
        self._is_over = threading.Event()
        self._late_s = 0.0
        self._asleep_since_s = time.monotonic()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    @property
    def allowed_s(self) -> float:
        """How much longer than it may something may have taken so far, in seconds."""
        return _LEAST_S + self._late_s + max(time.monotonic() - self._asleep_since_s - _LOOK_S, 0.0)

    def _watch(self) -> None:
        self._asleep_since_s = time.monotonic()
        while not self._is_over.wait(_LOOK_S):
            now_s = time.monotonic()
            self._late_s += max(now_s - self._asleep_since_s - _LOOK_S, 0.0)
            self._asleep_since_s = now_s
