"""The public names of all packages: each must have a docstring, and a place in the reference.

Sphinx is not imported here: the tests use this module too.
"""

import importlib
import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CACHES = ("sansio_cache_redis.sync.Cache", "sansio_cache_redis.anyio.Cache")
"""The classes that a program begins with. Their modules export nothing else that a user names."""


def packages() -> list[str]:
    """The core, and all packages beside it."""
    found = [path.parent.name for path in (ROOT / "adapters").glob("*/__init__.py")]
    return ["sansio_cache", *sorted(found)]


def exported() -> Iterator[str]:
    """The names that packages export, in full, and the caches."""
    for package in packages():
        yield from (f"{package}.{name}" for name in getattr(importlib.import_module(package), "__all__", ()))
    yield from CACHES


def found(name: str) -> Any:
    """What has this full name."""
    parts = name.split(".")
    for at in range(len(parts) - 1, 0, -1):
        try:
            thing: Any = importlib.import_module(".".join(parts[:at]))
        except ModuleNotFoundError:
            continue
        for part in parts[at:]:
            thing = getattr(thing, part)
        return thing
    raise LookupError(name)


def members(name: str) -> Iterator[str]:
    """The methods and properties of a class that this project wrote, in full."""
    cls = found(name)
    if not inspect.isclass(cls):
        return
    for member, _ in inspect.getmembers(cls):
        home = next((each for each in cls.__mro__ if member in vars(each)), cls)
        if member.startswith("_") or not home.__module__.startswith("sansio_cache"):
            continue
        value = inspect.getattr_static(cls, member)
        if isinstance(value, property | classmethod | staticmethod) or inspect.isfunction(value):
            yield f"{name}.{member}"


def undocumented(names: Iterable[str]) -> list[str]:
    """Those that have no docstring of their own."""
    missing = []
    for name in names:
        thing = found(name)
        inherited = inspect.isclass(thing) and "__doc__" not in vars(thing)
        is_value = not (inspect.isclass(thing) or callable(thing) or isinstance(thing, property))
        if not is_value and (inherited or not inspect.getdoc(thing)):
            missing.append(name)
    return missing


def without_a_place(names: Iterable[str], places: Iterable[str]) -> list[str]:
    """Those that the reference does not have, of these places in it, by this or by the name of their home."""
    known = set(places)
    return [name for name in names if name not in known and _at_home(name) not in known]


def _at_home(name: str) -> str | None:
    """The full name of something where it was defined."""
    thing = found(name)
    thing = thing.fget if isinstance(thing, property) else thing
    home, qualified = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    return f"{home}.{qualified}" if home and qualified else None
