"""Output: what goes to the terminal, or to a program.

Names of keys and values are others' texts, and a terminal must not take them for commands to itself: they go
through `printable` before they come here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

_WIDE: Final = 500
BAR: Final = 40
"""How many characters the longest bar has."""


def print_json(value: Any) -> None:
    """Print a value as one line of JSON, at once."""
    sys.stdout.write(msgspec.json.encode(value, enc_hook=str).decode() + "\n")
    sys.stdout.flush()


class Output(Console):
    """A console of Rich that leaves it to whoever prints what to do where nobody reads any further."""

    def on_broken_pipe(self) -> None:
        """Raise it; Rich would end the program, as one that has failed."""
        raise BrokenPipeError


class Screen(Output):
    """What is printed to. Nothing in a text is taken for markup, or coloured by itself."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def say(self, *parts: str | Text | tuple[str, str]) -> None:
        """Print a line: texts, or pairs of a text and its style. Only a terminal breaks it."""
        self.print(Text.assemble(*parts), soft_wrap=not self.is_terminal)

    def rows(self, rows: Table | Group) -> None:
        """Print a table, or several; where there is no terminal, as wide as it is."""
        if self.is_terminal:
            self.print(rows)
        else:
            wide = Output(file=self.file, width=_WIDE, highlight=False, markup=False, emoji=False)
            wide.print(rows)


def table(*columns: str, numbers: Iterable[str] = ()) -> Table:
    """An empty table; the columns named in `numbers` are set flush right."""
    right = set(numbers)
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", no_wrap=name in right)
    return made


def bar(count: int, most: int, width: int = BAR) -> Text:
    """A bar with its number."""
    length = max(round(count * width / most), 1) if count else 0
    return Text("█" * length, style="cyan").append(f" {count:,}" if count else "", style="default")
