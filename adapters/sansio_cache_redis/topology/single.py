"""One server: every key goes to the same connections, which fail together.

A cluster (`cluster.py`) has an answer of its own to the same three questions: where does a key go, what part
is that, and which connections belong to a part.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from sansio_cache.keys import ONE_PART


class _Resettable(Protocol):
    def reset(self) -> None: ...


class _Closable(Protocol):
    def warnings(self) -> tuple[str, ...]: ...

    def close(self, *, wait: bool) -> None: ...


C = TypeVar("C", bound=_Resettable)


class SingleServer(Generic[C]):
    """One primary, found in whatever way, or whatever a client of the user's is connected to.

    Args:
        connections: Where every key goes.
        way: How the primary is found; None where that is a client's affair.
    """

    def __init__(self, connections: C, way: _Closable | None = None) -> None:
        self.connections = connections
        self._way = way

    def part_of(self, key: str) -> str:  # noqa: ARG002
        """The part that a key is in."""
        return ONE_PART

    def reset(self, part: str) -> None:  # noqa: ARG002
        """Close the connections to a part; others are opened when they are needed."""
        self.connections.reset()

    def move(self) -> None:
        """The primary is another one: close the connections, and open one to it, whoever needs it."""
        getattr(self.connections, "move", self.connections.reset)()

    def warnings(self) -> tuple[str, ...]:
        """What will hurt about the way to it, a sentence each."""
        return () if self._way is None else self._way.warnings()

    def close(self, *, wait: bool) -> None:
        """End what runs to find the primary."""
        if self._way is not None:
            self._way.close(wait=wait)

    def set_aside(self, part: str) -> None:  # noqa: ARG002
        """Ask nothing on the open connections to a part until `take_back`.

        Where they cannot be set aside, they are closed.
        """
        getattr(self.connections, "set_aside", self.connections.reset)()

    def take_back(self, part: str) -> None:  # noqa: ARG002
        """Those that were set aside may be used again."""
        getattr(self.connections, "take_back", int)()
