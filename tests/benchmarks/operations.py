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


def hit_or_load(keys: Sequence[str], loader: Callable[[], Any]) -> Operation:
    """get_or_load of what is there."""

    def operation(peer: Peer) -> Call:
        load, count = peer.get_or_load, len(keys)
        return lambda number: load(keys[number % count], loader)

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


def loader_of(contender: Contender, value: Any) -> Callable[[], Any]:
    """A loader that has the value at hand."""
    if contender.runtime == "threads":
        return lambda: value

    async def load() -> Any:
        return value

    return load
