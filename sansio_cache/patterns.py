r"""Redis globs: quoting text for them, and matching them as the server does.

Theory of operation
-------------------
The memory store answers ``SCAN … MATCH`` without a server, so `glob_match` has to agree with the
server on *every* input, ill-formed ones included. The language, as ``stringmatchlen`` of current
Redis and Valkey reads it, bytewise:

- ``*`` any run of bytes, ``?`` any byte, ``\x`` the byte x; a backslash at the very end stands for
  itself.
- ``[…]`` one byte out of a set, ``[^…]`` one byte not in it; ``!`` and a leading ``]`` are nothing
  special (``[]`` is the empty set). Inside, ``\x`` is the byte x, ``a-z`` a range, its ends in
  either order. A range wants a byte after its ``-``, be it the ``]``. A bracket that is not closed
  reaches to the end of the pattern.
- Ends of ranges compare as C's ``char``, on x86 a signed one: 0xff comes before 0x00. Only ranges
  with one end beyond ASCII show it. (A server on Linux for ARM has unsigned ones.)
- Against an empty text only the empty pattern matches, not even ``*``. (KEYS and SCAN never ask for
  ``*`` alone: they take it as no pattern at all.)
- More than 1,000 separate stars before the last part match nothing: the server's guard for its
  stack (CVE-2024-31228).

A pattern is translated once to a regular expression. Backtracking over many stars is what made old
servers hang (CVE-2022-36021). The cure is the server's as well: if the text between two stars was
found, a later place for it cannot help what follows. An atomic group says just that, so the time is
bounded by pattern length times text length.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_SPECIAL: Final = re.compile(r"[*?\[\]^\-\\]")

_MAX_STARS: Final = 1_000

_STAR, _ANY, _OPEN, _CLOSE, _CARET, _DASH, _BACKSLASH = b"*?[]^-\\"


def escape_glob(text: str) -> str:
    r"""Return the glob of this one text: a backslash before each of ``* ? [ ] ^ - \``."""
    return _SPECIAL.sub(r"\\\g<0>", text)


def glob_match(pattern: bytes, text: bytes) -> bool:
    """Say whether a Redis glob matches a text, as the server does (case-sensitive).

    Args:
        pattern: A glob. There are no invalid ones.
        text: A key, channel or the like.
    """
    if not text:
        return not pattern
    return _compiled(pattern).fullmatch(text) is not None


@lru_cache(maxsize=64)  # a scan asks for one pattern and many keys
def _compiled(pattern: bytes) -> re.Pattern[bytes]:
    """Translate a glob to a regular expression for non-empty texts."""
    parts = [b""]  # what stands between the stars; stars in a row count as one
    at = 0
    while at < len(pattern):
        byte = pattern[at]
        at += 1
        if byte == _STAR:
            if parts[-1] or len(parts) == 1:
                parts.append(b"")
        elif byte == _ANY:
            parts[-1] += b"."
        elif byte == _OPEN:
            accepted, at = _bracket(pattern, at)
            parts[-1] += accepted
        else:
            if byte == _BACKSLASH and at < len(pattern):
                byte = pattern[at]
                at += 1
            parts[-1] += _hex(byte)
    head, *rest = parts
    if not rest:
        return re.compile(head, re.DOTALL)
    *middle, tail = rest
    if len(middle) + bool(tail) > _MAX_STARS:
        return re.compile(b"(?!)")
    found = b"".join(b"(?>.*?%s)" % part for part in middle)
    return re.compile(head + found + b".*" + tail, re.DOTALL)


def _bracket(pattern: bytes, at: int) -> tuple[bytes, int]:
    """Read a set of bytes.

    Args:
        pattern: The whole glob.
        at: Where the set begins, after its bracket.

    Returns:
        The regular expression for one byte of the set, and where the pattern goes on.
    """
    end = len(pattern)
    negated = at < end and pattern[at] == _CARET
    at += negated
    accepted: set[int] = set()
    while at < end and pattern[at] != _CLOSE:
        left = end - at
        if pattern[at] == _BACKSLASH and left >= 2:
            accepted.add(pattern[at + 1])
            at += 2
        elif left >= 3 and pattern[at + 1] == _DASH:
            first, last = sorted((_signed(pattern[at]), _signed(pattern[at + 2])))
            accepted.update(number & 0xFF for number in range(first, last + 1))
            at += 3
        else:
            accepted.add(pattern[at])
            at += 1
    if negated:
        accepted = set(range(256)) - accepted
    listed = b"".join(_hex(byte) for byte in sorted(accepted))
    return b"[%s]" % listed if listed else b"(?!)", at + 1


def _signed(byte: int) -> int:
    """Return a byte as C's signed char."""
    return (byte ^ 0x80) - 0x80


def _hex(byte: int) -> bytes:
    r"""Return the byte as ``\xNN``, which is that byte in every place of a regular expression."""
    return b"\\x%02x" % byte
