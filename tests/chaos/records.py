"""What a worker writes down, and how it is read: one JSON array a line, one file a process.

A line is one write to a file that is opened for appending, so a process that is killed leaves whole lines.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

READ = "r"  # key, version, when it began
WRITTEN = "w"  # key, version, when it had returned, when it was complete (None: not known)
TOLD = "t"  # when: all that had returned before is complete
WRONG = "x"  # what a caller saw that nobody may see
HUNG = "h"  # the call that does not end, the stacks
COUNTS = "n"  # what was counted so far
LEFT = "q"  # what is there while nobody calls
ENDED = "e"  # what is left after the cache was closed


class Log:
    """Where one process writes down what it sees."""

    def __init__(self, path: str) -> None:
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def add(self, *parts: Any) -> None:
        """Write one line."""
        os.write(self.file, msgspec.json.encode(parts) + b"\n")


class Tail:
    """Reads a log as far as it goes, again and again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def more(self) -> list[list[Any]]:
        """The lines that have been added."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._at)
            found = file.read()
        end = found.rfind(b"\n") + 1
        self._at += end
        return [msgspec.json.decode(line) for line in found[:end].splitlines()]


class Phase:
    """What all processes do now: one byte of a file that all have mapped."""

    RUN, QUIET, STOP = b"rqs"

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes([self.RUN]))
        self._path = path

    def set(self, phase: int) -> None:
        """Begin a phase. The file is never empty: who has it mapped would be ended by the kernel."""
        with self._path.open("r+b") as file:
            file.write(bytes([phase]))
