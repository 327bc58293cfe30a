"""Mutants of a Lua text: one line struck out, or one thing in it changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import attrs

_CHANGES: Final = (
    (r"==", "~="),
    (r"~=", "=="),
    (r"<=", "<"),
    (r">=", ">"),
    (r"(?<![<>=~])<(?!=)", ">="),
    (r"(?<![<>=~'])>(?!=)", "<="),
    (r"\band\b", "or"),
    (r"\bor\b", "and"),
    (r"\bnot\b ", ""),
    (r"\btrue\b", "false"),
    (r"\bfalse\b", "true"),
    (r" \+ ", " - "),
)
"""What is looked for, and what is put in its place."""


@attrs.frozen
class Mutant:
    """A text that is another in one place.

    Args:
        script: Whose.
        line: Which line, from 1.
        before: What stood there.
        after: What stands there now; nothing where it was struck out.
        text: All of it.
    """

    script: str
    line: int
    before: str
    after: str
    text: str

    def __str__(self) -> str:
        return f"{self.script}:{self.line}: {self.before.strip()!r} -> {self.after.strip()!r}"


def mutants(script: str, text: str) -> Iterator[Mutant]:
    """All mutants of a text, in the order of its lines."""
    lines = text.split("\n")
    for place, line in enumerate(lines):
        if not line.strip() or line.strip() in ("else", "end") or line.strip().startswith("--"):
            continue
        changed = [""]
        for pattern, other in _CHANGES:
            changed += [
                line[: found.start()] + other + line[found.end() :] for found in re.finditer(pattern, line)
            ]
        for after in dict.fromkeys(changed):
            text = "\n".join((*lines[:place], after, *lines[place + 1 :]))
            yield Mutant(script, place + 1, line, after, text)
