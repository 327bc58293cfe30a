"""Sampling: a look at many keys of a namespace, with no more than the cache itself may do at the server.

SCAN finds keys in no order that has to do with their names or ages, so the first are a fair sample.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Final

import attrs

from sansio_cache.inspection import Inspection, inspect
from sansio_cache.keys import KeyBuilder
from sansio_cache_cli.failures import CommandError
from sansio_cache_cli.server import Server, is_no_string
from sansio_cache_cli.words import printable
from sansio_cache_redis.calls import Args

HEAD_BYTES: Final = 512
"""So much of each key is read: the header, and mostly all of the tags."""
_GONE_MS: Final = -2
_NO_TTL_MS: Final = -1
_MARKER: Final = slice(0, 3)
_MOST_NAMESPACES: Final = 8
_MOST_FOREIGN_KEYS: Final = 20_000


@attrs.frozen(kw_only=True)
class Sample:
    """What was found in a namespace.

    Attributes:
        entries: The keys that are not the cache's own records, as they were when they were looked at.
        persistent: The names of those keys that have no time to live, of all that were gone through.
        internal: How many records of the cache itself were found, by marker, such as `%t:` for tags.
        internal_persistent: How many of them have no time to live, as queues of writes have none.
        count: How many keys were gone through, without the cache's own records.
        is_whole: Whether that is the whole namespace.
    """

    entries: tuple[Inspection, ...]
    persistent: tuple[str, ...]
    internal: Counter[str]
    internal_persistent: int
    count: int
    is_whole: bool


def take_sample(
    server: Server, pattern: str, limit: int, seconds: float, *, needs_ages: bool = True
) -> Sample:
    """Look at the first keys that match a full pattern; of the others, only whether they have a time to live.

    Args:
        server: Where they are.
        pattern: A full Redis glob.
        limit: How many keys to look at, at most.
        seconds: How long to go through keys, at most.
        needs_ages: As in `look_at`.

    Raises:
        CommandError: The server does not answer, or refuses to say.
    """
    until_s = time.monotonic() + seconds
    is_internal = server.config.keys.is_internal
    entries: dict[str, Inspection] = {}  # SCAN may find a key twice
    persistent: dict[str, None] = {}
    internal: Counter[str] = Counter()
    count = internal_persistent = 0
    is_whole = True
    for page in server.scan(pattern):
        names = [key.decode(errors="replace") for key in page]
        internal.update(name.partition(":")[2][_MARKER] for name in names if is_internal(name))
        pairs = list(zip(page, names, strict=True))
        own = [key for key, name in pairs if not is_internal(name)]
        records = [key for key, name in pairs if is_internal(name)]
        internal_persistent += len(without_ttl(server, records))
        count += len(own)
        if len(entries) < limit:
            found = look_at(server, own, needs_ages=needs_ages)
            entries.update((each.key, each) for each in found[: limit - len(entries)])
            persistent.update((each.key, None) for each in found if each.left_ms is None)
        else:
            persistent.update((name, None) for name in without_ttl(server, own))
        if time.monotonic() > until_s:
            is_whole = False
            break
    return Sample(
        entries=tuple(entries.values()),
        persistent=tuple(persistent),
        internal=internal,
        internal_persistent=internal_persistent,
        count=max(count, len(entries)),
        is_whole=is_whole,
    )


def take_samples(servers: list[Server], pattern: str, limit: int, seconds: float) -> Sample:
    """Look at the keys of several servers, of each its share.

    Raises:
        CommandError: One does not answer, or refuses to say.
    """
    count = len(servers)
    samples = [take_sample(each, pattern, -(-limit // count), seconds / count) for each in servers]
    return Sample(
        entries=tuple(entry for each in samples for entry in each.entries),
        persistent=tuple(name for each in samples for name in each.persistent),
        internal=sum((each.internal for each in samples), Counter[str]()),
        internal_persistent=sum(each.internal_persistent for each in samples),
        count=sum(each.count for each in samples),
        is_whole=all(each.is_whole for each in samples),
    )


def without_ttl(server: Server, keys: list[bytes]) -> list[str]:
    """The names of those keys that have no time to live, as far as the user may ask."""
    if not keys:
        return []
    replies = server.ask(*((b"PTTL", key) for key in keys))
    return [
        key.decode(errors="replace") for key, reply in zip(keys, replies, strict=True) if reply == _NO_TTL_MS
    ]


def look_at(server: Server, keys: list[bytes], *, needs_ages: bool = True) -> list[Inspection]:
    """Look at keys at once; those that are gone are left out.

    Args:
        server: Where they are.
        keys: Their full names.
        needs_ages: Whether a server that does not tell the time is a failure. Otherwise it is not known then
            how old values are, and how long they stay fresh.

    Raises:
        CommandError: The server does not answer, or refuses to say.
    """
    if not keys:
        return []
    commands: list[Args] = [(b"TIME",)]
    for key in keys:
        commands += [(b"GETRANGE", key, b"0", b"%d" % (HEAD_BYTES - 1)), (b"PTTL", key)]
    clock, *replies = server.ask(*commands)
    is_timed = needs_ages or not isinstance(clock, Exception)
    server_ms = server.clock_ms_of(clock) if is_timed else 0
    found = []
    for key, raw, left_ms in zip(keys, replies[::2], replies[1::2], strict=True):
        if isinstance(left_ms, Exception):
            raise server.refusal("PTTL", left_ms, "a look at keys")
        if left_ms == _GONE_MS:
            continue
        if isinstance(raw, Exception) and not is_no_string(raw):
            raise server.refusal("GETRANGE", raw, "a look at keys")
        head = b"" if isinstance(raw, Exception) else bytes(raw)  # it is no string: a foreign key
        each = inspect(
            key.decode(errors="replace"),
            head,
            left_ms=left_ms,
            server_ms=server_ms,
            size_bytes=len(head) + (len(head) == HEAD_BYTES),
        )
        found.append(each if is_timed else attrs.evolve(each, age_ms=None, fresh_for_ms=None, life_ms=None))
    return found


def nothing_matches(namespace: str, pattern: str) -> CommandError:
    """The line for a pattern that no key of a namespace matches."""
    return CommandError(
        f"no key of the namespace {namespace!r} matches {printable(pattern)!r}: a pattern is a Redis glob "
        "inside the namespace, such as 'user:*'"
    )


def no_such_namespace(servers: list[Server], namespace: str, pattern: str = "*") -> CommandError:
    """The line for a namespace without keys that match, with the namespaces that there are."""
    found: Counter[str] = Counter()
    keys, entries = KeyBuilder(namespace), 0
    for server in servers:
        for page in server.scan("*"):
            found.update(key.partition(b":")[0].decode(errors="replace") for key in page if b":" in key)
            own = [text for key in page if (text := key.decode(errors="replace")).startswith(keys.root)]
            entries += sum(not keys.is_internal(text) for text in own)
            if found.total() >= _MOST_FOREIGN_KEYS:
                break
    places = ", ".join(server.where.place for server in servers)
    if entries:
        return nothing_matches(namespace, pattern)
    if found.pop(namespace, 0):
        return CommandError(
            f"no entry of the namespace {namespace!r} is at {places}, but only records of the cache itself, "
            "such as versions of tags"
        )
    names = ", ".join(f"{name} ({count:,})" for name, count in found.most_common(_MOST_NAMESPACES))
    others = f"there are keys of {names}" if names else "the database is empty, or another one is meant"
    return CommandError(f"no key of the namespace {namespace!r} is at {places}: {others}")
