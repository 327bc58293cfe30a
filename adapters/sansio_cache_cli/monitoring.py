"""Monitoring: reads MONITOR, has it followed by `following.py`, and shows what has happened.

The server keeps what is not read, without a limit: so a thread of its own does nothing but read, and what
comes in faster than it can be shown is dropped, and counted.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections import Counter, deque
from typing import Final

from sansio_cache.keys import QUEUE_MARKER
from sansio_cache.patterns import glob_match
from sansio_cache.url import read_url
from sansio_cache_cli.failures import OK, CommandError
from sansio_cache_cli.following import Follower
from sansio_cache_cli.happenings import Happening, What
from sansio_cache_cli.monitored import Monitored, parse_line
from sansio_cache_cli.output import Screen, print_json
from sansio_cache_cli.server import Server, is_no_string
from sansio_cache_cli.words import printable, text_of

_MOST_LINES: Final = 50_000
_BATCH: Final = 500
_PAUSE_S: Final = 0.02
_LOOK_S: Final = 0.1
_WARNING: Final = (
    "sansio-cache: MONITOR has the server send every command of every client here, which may halve what it "
    "can do; it ends after {seconds:g} s, or with Ctrl-C"
)
_STYLES: Final = {
    What.HIT: "green",
    What.NOTHING: "green",
    What.STALE: "yellow",
    What.MISS: "red",
    What.GRANT: "cyan",
    What.FILL: "blue",
    What.FILL_REFUSED: "bold red",
    What.LEASE_LOST: "bold red",
    What.INVALIDATION: "magenta",
    What.HOLD: "magenta",
}
_WIDTH: Final = 13
_QUEUE: Final = QUEUE_MARKER.encode()


def monitor(options: argparse.Namespace) -> int:
    """Show what is done in a namespace until the time is up; returns the exit status."""
    with (
        Server(options.url, options.namespace, options.timeout) as watched,
        Server(options.url, options.namespace, options.timeout) as asked,
    ):
        shown = _Shown(options, str(watched.config.keys.glob(options.pattern)).encode())
        server_ms = asked.clock_ms()
        beside = Screen(stderr=True)
        beside.say(_WARNING.format(seconds=options.seconds))
        watched.asked((b"MONITOR",), "monitor")
        began_s = time.monotonic()
        stream = _Stream(watched, options.namespace)
        database = read_url(options.url).database
        follower = Follower(options.namespace, asks=not options.no_questions, database=database)
        try:
            while time.monotonic() < began_s + options.seconds and not shown.is_enough:
                _follow(stream, follower, asked)
                shown.show(follower.happened(server_ms + int((time.monotonic() - began_s) * 1000)))
        except KeyboardInterrupt:
            pass  # that is how one ends it
        finally:
            stream.stop()
        follower.settle()
        shown.show(follower.happened())
        shown.sum_up(beside, stream.dropped)
    return OK


def _follow(stream: _Stream, follower: Follower, asked: Server) -> None:
    """Feed what has come, and put the questions that follow from it."""
    commands, were_lost = stream.take(_BATCH)
    if were_lost:
        follower.settle()
        follower.forget()
    for command in commands:
        follower.feed(command)
    if not commands:
        follower.settle()
        time.sleep(_PAUSE_S)
    questions = follower.questions()
    if not questions:
        return
    replies = asked.ask((b"TIME",), *(each for key in questions for each in follower.question(key)))
    now_ms = asked.clock_ms_of(replies[0])
    for key, raw, left_ms in zip(questions, replies[1::2], replies[2::2], strict=True):
        if isinstance(left_ms, int) and (not isinstance(raw, Exception) or is_no_string(raw)):
            follower.know(key, None if isinstance(raw, Exception) else bytes(raw), left_ms, now_ms)


class _Stream:
    """The lines of MONITOR that concern a namespace, read by a thread of its own."""

    def __init__(self, server: Server, namespace: str) -> None:
        self.dropped = 0
        self._server = server
        self._needle = f'"{namespace}:'.encode()
        self._lines: deque[bytes] = deque()
        self._lost = False
        self._failure: CommandError | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._read, name="monitor", daemon=True)
        self._thread.start()

    def take(self, most: int) -> tuple[list[Monitored], bool]:
        """Commands in order, and whether some were lost before them.

        Raises:
            CommandError: The server sends no more.
        """
        if self._failure is not None and not self._lines:
            raise self._failure
        lost, self._lost = self._lost, False
        lines = [self._lines.popleft() for _ in range(min(most, len(self._lines)))]
        return [command for command in map(parse_line, lines) if command is not None], lost

    def stop(self) -> None:
        """Read no more."""
        self._is_over.set()
        self._thread.join()

    def _read(self) -> None:
        try:
            while not self._is_over.is_set():
                for line in self._server.receive(time.monotonic() + _LOOK_S):
                    self._put(line)
        except CommandError as error:
            self._failure = error

    def _put(self, line: object) -> None:
        if not isinstance(line, bytes) or not (self._needle in line or b'"flush' in line[:120].lower()):
            return
        if len(self._lines) >= _MOST_LINES:
            self._lines.clear()
            self._lost = True
            self.dropped += _MOST_LINES
        self._lines.append(line)


class _Shown:
    """What is shown, and counted."""

    def __init__(self, options: argparse.Namespace, pattern: bytes) -> None:
        self._screen = Screen()
        self._options = options
        self._pattern = pattern
        self._counts: Counter[What] = Counter()

    @property
    def is_enough(self) -> bool:
        """Whether as much was shown as was asked for."""
        return self._options.most is not None and self._counts.total() >= self._options.most

    def show(self, happened: list[Happening]) -> None:
        """Show what has happened, where it was asked for."""
        for each in happened:
            key = each.key.encode(errors="surrogateescape")
            is_internal = key.partition(b":")[2].startswith(b"%")
            is_aside = each.what is What.TAG or key.partition(b":")[2].startswith(_QUEUE)
            if self.is_enough or (is_internal and is_aside and not self._options.internal):
                continue
            if (is_internal and self._options.internal) or glob_match(self._pattern, key):
                self._show(each)

    def _show(self, each: Happening) -> None:
        assert each.what is not None, "what is not known yet is not given out"
        self._counts[each.what] += 1
        key, detail = text_of(each.key), text_of(each.detail)
        if self._options.json:
            told = {"at_s": each.at_ms / 1000, "what": each.what, "key": key, "client": each.client}
            print_json(told | {"detail": detail})
            return
        at_s, ms = divmod(each.at_ms, 1000)
        self._screen.say(
            (f"{time.strftime('%H:%M:%S', time.localtime(at_s))}.{ms:03} ", "dim"),
            (f"{each.what:<{_WIDTH}} ", _STYLES.get(each.what, "")),
            printable(key),
            (f"  {printable(detail)}" if detail else "", "dim"),
            (f"  {printable(each.client)}", "dim"),
        )

    def sum_up(self, beside: Screen, dropped: int) -> None:
        """Say how much was shown of what, and what was not."""
        sums = ", ".join(f"{count:,} {what}" for what, count in self._counts.most_common()) or "nothing"
        beside.say(f"sansio-cache: {sums}")
        if dropped:
            beside.say(
                f"sansio-cache: {dropped:,} commands came faster than they could be shown, and are left out"
            )
