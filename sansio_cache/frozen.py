"""A mapping that nobody can change, and that can be pickled: `MappingProxyType` cannot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

K = TypeVar("K")
V_co = TypeVar("V_co", covariant=True)


class FrozenMapping(Mapping[K, V_co]):
    """A copy of a mapping, to be read only."""

    __slots__ = ("_given",)

    def __init__(self, given: Mapping[K, V_co]) -> None:
        self._given = dict(given)

    def __getitem__(self, key: K) -> V_co:
        return self._given[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)

    def __repr__(self) -> str:
        return repr(self._given)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._given,)
