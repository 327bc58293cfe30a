"""Fixtures for pytest, for who asks for them: `pytest_plugins = ["sansio_cache_testing.plugin"]`.

pytest has a fixture `cache` of its own; these have other names, and nobody gets them unasked.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sansio_cache_testing.caches import WorldCache
from sansio_cache_testing.world import World


@pytest.fixture
def cache_world() -> Iterator[World]:
    """A world of the test's own: caches, a database, and time that passes when the test says so."""
    world = World()
    yield world
    world.end()


@pytest.fixture
def fake_cache(cache_world: World) -> Iterator[WorldCache]:
    """A cache in memory, in the time of `cache_world`. It is for one thread: the world starts others."""
    with cache_world.cache() as cache:
        yield cache
