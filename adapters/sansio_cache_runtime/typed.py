"""Typed views: a cache with the type bound first. What both colours share of them."""

from __future__ import annotations

from typing import Any

from sansio_cache.keys import KeyBuilder
from sansio_cache.schema import name_of
from sansio_cache_runtime.travelling import check_travels


class TypedView:
    """What is said once: the cache, and what its values are.

    Args:
        cache: A cache of the view's own colour.
        type: What the values are.
    """

    def __init__(self, cache: Any, type: Any) -> None:
        self._cache = cache
        self._type = type

    def __repr__(self) -> str:
        return f"<{name_of(self._type)} in {self._cache!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """A view is made again from its cache, by pickle and by copy: see `Cache`."""
        check_travels(f"the view of {name_of(self._type)}", self._type)
        return _again, (self._cache, self._type)

    @property
    def key(self) -> KeyBuilder:
        """Builds keys and patterns in the cache's namespace."""
        keys: KeyBuilder = self._cache.key
        return keys


def _again(cache: Any, type: Any) -> Any:
    return cache.typed(type)
