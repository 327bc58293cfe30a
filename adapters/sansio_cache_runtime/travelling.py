"""Travelling: a cache goes into another process, or into a copy, as its configuration and nothing else.

What it has open stays: connections, threads, loads under way, statistics. So a copy shares nothing with the
original that closing one would take from the other.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from sansio_cache.errors import ConfigurationError
from sansio_cache.signals import let_through

if TYPE_CHECKING:
    from sansio_cache_runtime.entity import EntityPlan


def check_travels(what: str, *parts: object) -> None:
    """Refuse what cannot be pickled, and say what to do about it.

    Raises:
        ConfigurationError: Something of it cannot.
    """
    try:
        pickle.dumps(parts)
    except Exception as error:
        let_through(error)
        raise ConfigurationError(
            f"{what} cannot be pickled or copied with the options that it was given: {error}. Functions and "
            "classes among them have to be found by name, at the top level of a module"
        ) from error


def entity_again(plan: EntityPlan, cache: Any) -> tuple[Any, ...]:
    """How an entity is made again, for pickle: from its cache."""
    said = plan.said
    check_travels(f"the entity {plan.name!r}", said)
    return _entity, (cache, said)


def _entity(cache: Any, said: dict[str, Any]) -> Any:
    return cache.entity(**said)
