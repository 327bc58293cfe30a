"""Queues: what write-behind keeps in a store, and where.

A queue is a number of *partitions*. All that concerns one key is in the partition that the key's hash names.
The keys of a partition begin with its *root*, ``{namespace}:%w:{name:place}``, whose part in braces puts
them into one slot of a cluster::

    {root}:stream     the entries that are not settled yet, by token, with a consumer group
    {root}:pending    for each key the token of its newest entry, and the grant under which that was queued
    {root}:h:{key}    a writer's hold on a key: the grant under which it may append
    {root}:lease      the lease of the one consumer
    {root}:letters    the dead letters: writes that were given up
    {root}:dead       for each key of a letter the token of the newest, as long as no later write was queued
    {root}:members    the consumers of the whole queue, at place 0

A *token* is an entry's place in its partition, and the fencing token for the database: the server's clock in
microseconds when the entry was appended, or one more than the last token. A `BIGINT` holds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from zlib import crc32

from msgspec import Struct

MARKER: Final = "%w:"
"""What follows the namespace in the keys of queues. No built key has it."""
MOST_PARTITIONS: Final = 256
CRASHES: Final = 3
"""Entries that were delivered so often, and not settled, are delivered one by one: one of them may be what
ends the processes of consumers."""


class QueueEntry(Struct, frozen=True):
    """One write in a queue, or a dead letter of one."""

    token: int
    """Its place, and its fencing token."""
    key: str
    """The full key that is written."""
    body: bytes
    """The value, sealed as in a cell."""
    tags: tuple[str, ...] = ()
    """The keys of tags that go when it is applied."""
    deliveries: int = 0
    """How often it was delivered to a consumer, this time included."""
    letter: int = 0
    """The number of the letter that it is; 0 where it is none."""
    reason: str = ""
    """Why it was given up, of a letter."""
    is_superseded: bool = False
    """Whether a later write of the key was queued since, of a letter: it cannot be replayed."""


class QueuedWrite(Struct, frozen=True):
    """One write, as a queue's writer gets it: the newest of its key."""

    key: str
    """The full key."""
    value: Any
    """None where the thing is to be gone."""
    token: int
    """The fencing token: write only where the database has none, or a lower one, for the key, and keep it."""
    attempts: int = 1
    """How often it was tried by this consumer, this time included."""

    def __hash__(self) -> int:
        return hash((self.key, self.token, self.attempts))  # the value may be a list or a dict


class Turn(Struct, frozen=True):
    """What a consumer is to do next outside of the store: apply writes, or rest where there are none."""

    writes: tuple[QueuedWrite, ...] = ()
    rest_s: float = 0.0
    """How long there is nothing to do, in seconds."""


class TurnEnd(Struct, frozen=True):
    """What came of it."""

    found: Mapping[str, int] = {}
    """By full key the tokens that the database has now, as far as the writer says so."""
    is_over: bool = False
    """Whether the consumer is to end."""
    failed: str = ""
    """What the writer has raised, by the name of its class; empty where it has committed."""


def is_of_queue(key: str) -> bool:
    """Whether a key is one of those that queues are kept in."""
    return key.partition(":")[2].startswith(MARKER)


def root_of(namespace_root: str, name: str, place: int) -> str:
    """What the keys of a partition begin with."""
    return f"{namespace_root}{MARKER}{{{name}:{place}}}"


def partition_of(root: str) -> tuple[str, int]:
    """The name of the queue that a partition with this root is of, and its place there."""
    name, _, place = root.partition(MARKER)[2][1:-1].rpartition(":")
    return name, int(place)


def place_of(key: str, partitions: int) -> int:
    """The partition that a key is in, by its hash, which no run of Python changes."""
    return crc32(key.encode()) % partitions


def waited_s(token: int, server_ms: int) -> float:
    """How long the entry with a token has waited, in seconds by the store's clock; 0 without a token."""
    return max(server_ms / 1000 - token / 1e6, 0.0) if token else 0.0


def stream_of(root: str) -> str:
    """The key of a partition's stream."""
    return f"{root}:stream"


def lease_of(root: str) -> str:
    """The key of the lease of a partition's consumer."""
    return f"{root}:lease"


def hold_of(root: str, key: str) -> str:
    """The key of a writer's hold."""
    return f"{root}:h:{key}"
