"""One server: every key goes to the same connections, which fail together.

Sentinel and cluster will stand beside it, with the same three questions: where does a key go, what part
is that, and which connections belong to a part.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from sansio_cache.keys import ONE_PART


class _Resettable(Protocol):
    def reset(self) -> None: ...


C = TypeVar("C", bound=_Resettable)


class SingleServer(Generic[C]):
    """A primary that stands for itself, or whatever a client of the user's is connected to."""

    def __init__(self, connections: C) -> None:
        self.connections = connections
        """Where every key goes."""

    def part_of(self, key: str) -> str:  # noqa: ARG002
        """The part that a key is in."""
        return ONE_PART

    def reset(self, part: str) -> None:  # noqa: ARG002
        """Close the connections to a part; others are opened when they are needed."""
        self.connections.reset()

    def set_aside(self, part: str) -> None:  # noqa: ARG002
        """Ask nothing on the open connections to a part until `take_back`.

        Where they cannot be set aside, they are closed.
        """
        getattr(self.connections, "set_aside", self.connections.reset)()

    def take_back(self, part: str) -> None:  # noqa: ARG002
        """Those that were set aside may be used again."""
        getattr(self.connections, "take_back", int)()
