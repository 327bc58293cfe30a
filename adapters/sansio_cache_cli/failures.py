"""What ends a subcommand: a line for a person, and a status for a script."""

from __future__ import annotations

from typing import Final

OK: Final = 0
FOUND: Final = 1
"""Something was found that should not be, or the server cannot be asked."""
MISUSED: Final = 2
"""The command cannot be run as it was given."""
INTERRUPTED: Final = 130


class CommandError(Exception):
    """A subcommand cannot go on. Its text is the line that is printed: what is wrong, and what to do.

    Args:
        line: Without a full stop. No password, and no value.
        status: The exit status.
    """

    def __init__(self, line: str, status: int = FOUND) -> None:
        super().__init__(line)
        self.status = status


class NotPermittedError(CommandError):
    """The user of the URL may not run a command.

    Args:
        line: As of any other.
        name: Of the command, in capital letters.
    """

    def __init__(self, line: str, name: str) -> None:
        super().__init__(line)
        self.name = name
