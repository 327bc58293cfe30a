"""The board: what the writer, all readers and the display see at once, in memory that processes share.

Every cell has one writer and is one aligned word, so it needs no lock.
"""

from __future__ import annotations

from multiprocessing import get_context


class Board:
    """Completed versions, progress, and the sign to stop."""

    def __init__(self, *, shops: int, readers: int) -> None:
        context = get_context("spawn")
        self._stopped = context.RawValue("q", 0)
        self._completed = context.RawArray("q", shops)
        self._asked = context.RawArray("q", readers)

    def stop(self) -> None:
        """Tell all readers to end."""
        self._stopped.value = 1

    @property
    def is_stopped(self) -> bool:
        """Whether readers are to end."""
        return bool(self._stopped.value)

    def complete(self, shop: int, version: int) -> None:
        """Publish that the write of this version is complete: no read that begins now may miss it."""
        self._completed[shop] = version

    def completed(self, shop: int) -> int:
        """The last version that was published for a shop."""
        return int(self._completed[shop])

    def note_asked(self, reader: int, requests: int) -> None:
        """Say how many requests a reader has made in this phase."""
        self._asked[reader] = requests

    def forget_asked(self) -> None:
        """Begin another phase."""
        for reader in range(len(self._asked)):
            self._asked[reader] = 0

    @property
    def asked(self) -> int:
        """How many requests all readers have made in this phase."""
        return sum(self._asked)
