"""What is called: one operation of a contender, as calls by number."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.contenders import Contender, Peer
from benchmarks.loads import Call, Operation

_generation = itertools.count()


def get(keys: Sequence[str]) -> Operation:
    """A hit, on one key after the other."""

    def operation(peer: Peer) -> Call:
        read, count = peer.get, len(keys)
        return lambda number: read(keys[number % count])

    return operation


def put(keys: Sequence[str], values: Sequence[Any]) -> Operation:
    """A write, on one key after the other."""

    def operation(peer: Peer) -> Call:
        write, count = peer.set, len(keys)
        return lambda number: write(keys[number % count], values[number % count])

    return operation


def get_many(keys: Sequence[str]) -> Operation:
    """All of them at once."""
    asked = list(keys)

    def operation(peer: Peer) -> Call | None:
        read = peer.get_many
        return None if read is None else lambda _: read(asked)

    return operation


def hit_or_load(keys: Sequence[str], loader: Callable[[], Any], **options: Any) -> Operation:
    """get_or_load of what is there; with options of the library's, if any are given."""

    def operation(peer: Peer) -> Call:
        load, count = peer.get_or_load, len(keys)
        if options:
            return lambda number: load(keys[number % count], loader, **options)
        return lambda number: load(keys[number % count], loader)

    return operation


def hits_or_load(keys: Sequence[str], missing: int, loader: Callable[[list[str]], Any]) -> Operation:
    """get_or_load_many of some that are there, and so many, new ones in each call, that are not."""
    there = list(keys)[: len(keys) - missing]

    def operation(peer: Peer) -> Call | None:
        load = peer.get_or_load_many
        if load is None:
            return None
        sample = next(_generation)
        return lambda number: load([*there, *(f"miss:{sample}:{number}:{n}" for n in range(missing))], loader)

    return operation


def miss(loader: Callable[[], Any], *, guarded: bool) -> Operation:
    """get_or_load of what is not there: a new key for each call."""

    def operation(peer: Peer) -> Call | None:
        load = peer.guarded if guarded else peer.get_or_load
        if load is None:
            return None
        sample = next(_generation)
        return lambda number: load(f"miss:{sample}:{number}", loader)

    return operation


def load_together(loader: Callable[[], Any]) -> Operation:
    """get_or_load of one key that is not there, by all callers."""

    def operation(peer: Peer) -> Call:
        load = peer.guarded or peer.get_or_load
        key = f"together:{next(_generation)}"
        return lambda _: load(key, loader)

    return operation


def delete_pattern(pattern: str) -> Operation:
    """All keys that match."""

    def operation(peer: Peer) -> Call | None:
        delete = peer.delete_pattern
        return None if delete is None else lambda _: delete(pattern)

    return operation


def many_loader_of(contender: Contender, value: Any) -> Callable[[list[str]], Any]:
    """A loader of many keys that has the value at hand."""
    if contender.runtime == "threads":
        return lambda keys: dict.fromkeys(keys, value)

    async def load(keys: list[str]) -> Any:
        return dict.fromkeys(keys, value)

    return load


def loader_of(contender: Contender, value: Any) -> Callable[[], Any]:
    """A loader that has the value at hand."""
    if contender.runtime == "threads":
        return lambda: value

    async def load() -> Any:
        return value

    return load
