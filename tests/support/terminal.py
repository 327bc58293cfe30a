"""A terminal that tests drive: a program on a pty, and what stands on its screen."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Final, Self

import pyte

from support.nightly import for_programs

GIVE_UP_S: Final = 60.0
_BYTES: Final = 65_536


class Terminal:
    """A program of this project on a terminal of its own; a context manager that ends it.

    Args:
        arguments: Of `python -m sansio_cache_cli`.
        columns: How wide it is.
        lines: How high it is.
        env: More of the environment.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        columns: int = 100,
        lines: int = 60,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.written = b""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        here = for_programs(os.environ)
        environment = {name: value for name, value in here.items() if name not in ("COLUMNS", "LINES")}
        environment |= {"TERM": "xterm-256color", "LANG": "C.UTF-8", **(env or {})}
        # Where these tests run in the background of a shell, Ctrl-C is ignored, and a child inherits that.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sansio_cache_cli", *arguments],
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env=environment,
                start_new_session=True,
                preexec_fn=_take_terminal,
            )
        finally:
            signal.signal(signal.SIGINT, before)
            os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    @property
    def text(self) -> str:
        """What stands on the screen, without what is empty at the ends of lines and of the screen."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def type(self, keys: str) -> None:
        """Type on it."""
        os.write(self._master, keys.encode())

    def wait_for(self, condition: Callable[[str], object]) -> str:
        """Read until the screen is as wanted; returns its text."""
        until_s = time.monotonic() + GIVE_UP_S
        while not condition(self.text):
            assert self._read(until_s), f"it ended, or took too long:\n{self.text}"
        return self.text

    def end(self) -> int:
        """Read until the program has ended; returns its exit status."""
        until_s = time.monotonic() + GIVE_UP_S
        while self._read(until_s):
            pass
        return self._process.wait(GIVE_UP_S)

    def _read(self, until_s: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(until_s - time.monotonic(), 0))
        if not ready:
            return False
        try:
            data = os.read(self._master, _BYTES)
        except OSError:  # EIO: nobody has the other end any more
            return False
        self.written += data
        self._stream.feed(data)
        return bool(data)


def _take_terminal() -> None:
    """In the child: its standard input becomes the terminal that sends it Ctrl-C."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def shown(arguments: Sequence[str], *, columns: int = 100, lines: int = 60) -> tuple[int, str]:
    """Run a program to its end; returns its exit status, and what stands on the screen."""
    with Terminal(arguments, columns=columns, lines=lines) as terminal:
        status = terminal.end()
        return status, terminal.text
