"""What an import loads: a program pays for it each time it begins.

Time is not asserted here: which modules are loaded, and what their classes are made with, is.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from typing import Final

import attrs
import pytest
from msgspec import Struct

import sansio_cache
from sansio_cache import operations

FEATURES: Final = {
    "pydantic",
    "sansio_cache.exploring",
    "sansio_cache.inspection",
    "sansio_cache.measures",
    "sansio_cache.operations.batching",
    "sansio_cache.operations.consume",
    "sansio_cache.operations.in_hand",
    "sansio_cache.operations.leave",
    "sansio_cache.operations.queue",
    "sansio_cache.strategies",
    "sansio_cache_runtime.entity",
    "sansio_cache_runtime.queue_plan",
    "sansio_cache_runtime.writer_calls",
}
"""What only programs need that use it: entities with their strategies and queues, inspection, exporters."""

OF_THE_CORE: Final = {
    *("cell", "config", "errors", "frozen", "keys", "loader", "patterns", "policy", "roundtrip", "rows"),
    *("schema", "signals", "signing", "tags", "ttl", "url"),
    *("codecs", "codecs.compressed", "codecs.json", "codecs.python", "codecs.raw", "codecs.value_codec"),
}
"""What every cache is configured with."""


def loaded_by(program):
    """The modules that are there when a program of its own has run."""
    source = f"{program}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_the_core_loads_what_a_cache_is_configured_with_and_nothing_else():
    own = {name for name in loaded_by("import sansio_cache") if name.startswith("sansio_cache.")}
    assert own == {f"sansio_cache.{name}" for name in OF_THE_CORE}


@pytest.mark.parametrize(("colour", "other"), [("sync", "anyio"), ("anyio", "sync")])
def test_a_cache_loads_no_feature_that_a_program_may_not_use_and_nothing_of_the_other_colour(colour, other):
    others = {f"sansio_cache_redis.{other}", *(f"sansio_cache_runtime.{other}.{name}" for name in MIRRORED)}
    assert loaded_by(f"import sansio_cache_redis.{colour}") & (FEATURES | others) == set()


MIRRORED: Final = ("cache", "driver", "entity", "queue", "primitives")


def test_a_feature_is_loaded_by_the_first_call_that_needs_it():
    program = """
from sansio_cache_redis.sync import Cache
with Cache.from_url("memory://", namespace="shop") as cache:
    cache.entity("user", dict, loader=lambda id: {"id": id}).get_or_load(7)
"""
    assert "sansio_cache_runtime.sync.entity" in loaded_by(program)


def test_every_name_of_the_core_can_be_imported():
    assert set(dir(sansio_cache)) == set(sansio_cache.__all__)
    for name in sansio_cache.__all__:
        assert getattr(sansio_cache, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Cache'"):
        _ = sansio_cache.Cache


def classes_of_machines():
    """All classes that the modules of operations define."""
    for found in pkgutil.iter_modules(operations.__path__, f"{operations.__name__}."):
        module = importlib.import_module(found.name)
        for cls in vars(module).values():
            if inspect.isclass(cls) and cls.__module__ == module.__name__:
                yield cls


def test_what_machines_make_is_a_struct():
    classes = list(classes_of_machines())
    assert [cls for cls in classes if attrs.has(cls)] == []
    assert sum(issubclass(cls, Struct) for cls in classes) > 100
