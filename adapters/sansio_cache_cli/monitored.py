"""Lines of MONITOR: what a client, or a script, has had the server do. No I/O here.

One is `1732600000.123456 [0 127.0.0.1:50412] "GET" "shop:user:1"`; of what a script calls, `[0 lua]`. The
number is that of the database. Bytes that are not printable are escaped (https://redis.io/docs/latest/commands/monitor).
"""

from __future__ import annotations

import re
from typing import Final

import attrs

_LINE: Final = re.compile(rb"(\d+\.\d+) \[(\d{1,18}) (.*?)\] (\".*\")", re.DOTALL)
_WORD: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE: Final = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_NAMED: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}
_SCRIPT: Final = b"lua"
_MOST_DIGITS: Final = 18


@attrs.frozen
class Monitored:
    """A command that the server has run.

    Attributes:
        at_ms: When, in milliseconds of the server's clock.
        client: Its address; empty for what a script calls.
        name: Of the command, in capital letters.
        args: What follows it.
        database: The number of the one that it was run in.
    """

    at_ms: int
    client: str
    name: str
    args: tuple[bytes, ...]
    database: int = 0

    @property
    def is_of_script(self) -> bool:
        """Whether a script calls it."""
        return not self.client


def whole_number(text: bytes) -> int | None:
    """A number that an argument is; None where it is none that a server takes."""
    return int(text) if text.isdigit() and len(text) <= _MOST_DIGITS else None


def parse_line(line: bytes) -> Monitored | None:
    """Read a line; None where it is none."""
    found = _LINE.fullmatch(line)
    if found is None:
        return None
    at_s, database, client, rest = found.groups()
    name, *args = map(_unescaped, _WORD.findall(rest))
    return Monitored(
        int(float(at_s) * 1000),
        "" if client == _SCRIPT else client.decode(errors="replace"),
        name.decode(errors="replace").upper(),
        tuple(args),
        int(database),
    )


def _unescaped(word: bytes) -> bytes:
    return _ESCAPE.sub(_escaped, word) if b"\\" in word else word


def _escaped(found: re.Match[bytes]) -> bytes:
    what = found[1]
    return bytes.fromhex(what[1:].decode()) if len(what) > 1 else _NAMED.get(what, what)
