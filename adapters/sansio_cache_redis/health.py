"""Health: what the cache needs of its server, what is missing, and what will hurt.

Every command of the protocol is tried once, on a key of the cache's own namespace that no built key can be.
What the server refuses is named, with the feature that does not work without it. How the server is set up is
read from INFO, which needs no permission to see its configuration; what works there, and yet will hurt, is
a warning. What it can lose of queued writes is told in sentences.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from redis.exceptions import NoScriptError, RedisError

from sansio_cache.backoff import LONGEST_PAUSE_S
from sansio_cache.cell import NO_GRANT
from sansio_cache.config import RedisConfig
from sansio_cache.health import Health
from sansio_cache.signals import let_through
from sansio_cache_redis.calls import TIME, Args, number, telling, wake_channel
from sansio_cache_redis.facts import info_fields, text
from sansio_cache_redis.reasons import said
from sansio_cache_redis.replies import tell_time
from sansio_cache_redis.scripts import ACQUIRE, RELEASE, RENEW

OLDEST_SERVER: Final = (7, 0)
LEAST_VALUES: Final = 16
"""How many values of the largest size a server's memory should hold: one then evicts a small part at most."""
OPENING_S: Final = 3.0
"""How long the first answer may take, in seconds: of a server that is far away connections do not last, and
there is a pause before the next."""
PROBES_S: Final = 1.0
"""How long the answers to all the probes may take after that, in seconds."""
_LEASE_MS: Final = 1000
_MOST_TRIES: Final = 200_000
"""How many keys are tried for one of a node's: a slot of all takes 16,384 in the middle."""
_FSYNC: Final[Args] = (b"CONFIG", b"GET", b"appendfsync")
_SCRIPTS: Final = "scripts, which leases need"
_WAKING: Final = "waking those who wait"
_US: Final = 1_000_000


def probes(
    namespace: str,
    owns: Callable[[str], bool] | None = None,
    channel_of: Callable[[str], bytes] = wake_channel,
) -> list[tuple[str, Args]]:
    """What to ask the server: what each probe is for, and the command.

    Args:
        namespace: Of the cache.
        owns: Whether a key is one of this server's, where there are others.
        channel_of: Gives the channel on which those are told who wait for a key.
    """
    nonce = os.urandom(8)  # two callers at once must not meet each other's lease
    name = f"{namespace}:%t:health:{nonce.hex()}"
    for _ in range(_MOST_TRIES if owns is not None and not owns(name) else 0):
        nonce = os.urandom(8)
        name = f"{namespace}:%t:health:{nonce.hex()}"
        if owns is not None and owns(name):
            break
    key = name.encode()
    return [
        ("reading", (b"GET", key)),
        ("reading many keys", (b"MGET", key)),
        ("the server's clock", TIME),
        (_SCRIPTS, (b"EVAL", ACQUIRE.source, b"1", key, nonce, number(_LEASE_MS), b"0", NO_GRANT, b"keep")),
        # To more than it has, so that every command of the script runs.
        (_SCRIPTS, (b"EVAL", RENEW.source, b"1", key, nonce, number(2 * _LEASE_MS), b"0")),
        (_SCRIPTS, (b"EVALSHA", RELEASE.sha, b"1", key, nonce)),
        (_SCRIPTS, (b"EVAL", RELEASE.source, b"1", key, nonce)),
        ("invalidation", (b"UNLINK", key)),
        ("deletion by pattern", (b"SCAN", b"0", b"MATCH", key, b"COUNT", b"1")),
        *((_WAKING, args) for args in telling([name], channel_of)),  # nobody waits for this key
        # One section at a time: a server that is too old to know better takes no more, and is to say so.
        ("the server's version", (b"INFO", b"server")),
        ("the server's memory", (b"INFO", b"memory")),
        ("the server's role", (b"INFO", b"replication")),
        ("what the server writes to its disk", (b"INFO", b"persistence")),
    ]


def further_probes(replies: Sequence[Any]) -> list[tuple[str, Args]]:
    """What to ask after that, in the same form: what only a server that writes a log is asked.

    INFO does not tell how often that goes to the disk, and the configuration may be refused.

    Args:
        replies: Those to the probes.
    """
    has_log = any(info_fields(reply).get("aof_enabled") == "1" for reply in replies[-1:])
    return [("how durable its log is", _FSYNC)] if has_log else []


def judge(
    asked: Sequence[tuple[str, Args]], replies: Sequence[Any], max_value_bytes: int, floor_us: int = 0
) -> Health:
    """What the replies to the probes say about the server. What only the cache knows is to be added.

    Args:
        asked: The probes.
        replies: A reply to each, error replies as values.
        max_value_bytes: The largest value that the cache stores.
        floor_us: What was issued before this counts as gone: see `facts.py`.
    """
    problems: list[str] = []
    warnings: list[str] = []
    facts: dict[str, str] = {}
    has_lease = not any(
        args[:2] == (b"EVAL", ACQUIRE.source) and isinstance(reply, Exception)
        for (_, args), reply in zip(asked, replies, strict=True)
    )
    for (purpose, args), reply in zip(asked, replies, strict=True):
        if args[0] == b"INFO":
            facts.update(info_fields(reply))
            if isinstance(reply, Exception):  # nothing that is stored or read depends on it
                warnings.append(_without_info(reply))
        elif purpose == _WAKING:
            if isinstance(reply, Exception):  # waiters look again by themselves
                warnings.append(_without_waking(args[0].decode(), reply))
        elif args == _FSYNC:
            facts.update(_setting(reply))
        elif isinstance(reply, Exception) and not isinstance(reply, NoScriptError):
            name = args[0].decode()
            problems.append(f"{name} is refused ({said(reply)}): {purpose} will not work")
        elif args == TIME and not _is_time(reply):
            problems.append(f"TIME does not give the time: {purpose} will not work")
        elif args == TIME:
            problems += _before_floor(reply, floor_us)
        elif has_lease and args[:2] == (b"EVAL", RENEW.source) and _begins_with_none(reply):
            problems.append("GETRANGE is refused inside scripts: nothing will be stored")
    server, version = _version(facts)
    if version is not None and version < OLDEST_SERVER:
        oldest = ".".join(map(str, OLDEST_SERVER))
        problems.append(f"{server} is too old: version {oldest} or later is needed")
    limit = facts.get("maxmemory", "")
    maxmemory_bytes = int(limit) if limit.isdecimal() else None
    policy = facts.get("maxmemory_policy", "")
    return Health(
        ok=not problems,
        problems=tuple(dict.fromkeys(problems)),
        warnings=(
            *dict.fromkeys(warnings),
            *_of_replicas(facts),
            *_warnings(maxmemory_bytes, policy, max_value_bytes),
        ),
        server=server,
        maxmemory_bytes=maxmemory_bytes,
        eviction_policy=policy,
        durability=" ".join(_durability(facts)),
    )


class Trips:
    """How long the round trips of one connection take; the first may include that it was opened.

    Args:
        now_s: The local monotonic clock as the first begins, in seconds.
    """

    def __init__(self, now_s: float) -> None:
        self._since_s = now_s
        self.shortest_s = math.inf
        """The shortest, in seconds: a moment in which the machine was busy says nothing of the way."""

    def ended(self, now_s: float) -> None:
        """A trip has ended, and the next one begins."""
        self.shortest_s = min(self.shortest_s, now_s - self._since_s)
        self._since_s = now_s


def too_far(latency_s: float, config: RedisConfig) -> Iterator[str]:
    """The warning of a server that is too far away for the time-outs."""
    if latency_s < config.silence_s:
        return
    setting = "operation_timeout_s" if config.attempt_timeout_s is None else "attempt_timeout_s"
    least_s = math.ceil(5 * latency_s * 10) / 10 if config.attempt_timeout_s is None else 2 * latency_s
    yield (
        f"a round trip to the server takes {latency_s * 1000:.0f} ms, and no more than "
        f"{config.silence_s * 1000:.0f} ms are waited for an answer: loaders run, and nothing is read or "
        f"stored. Raise {setting}, to {least_s:.1f} s or more"
    )


def _begins_with_none(reply: Any) -> bool:
    return isinstance(reply, list) and not any(reply[:1])


def _is_time(reply: Any) -> bool:
    try:
        tell_time(reply, bool)
    except RedisError:
        return False
    return True


def _without_info(error: Exception) -> str:
    return (
        f"INFO is refused ({said(error)}): it is not known which version the server is, how its memory is "
        "set up, and when another server answers, or this one was started from a snapshot. What a failover "
        "has lost is not told again, and what a snapshot brings back is served. Allow the user +info"
    )


def _without_waking(command: str, error: Exception) -> str:
    return (
        f"{command} is refused ({said(error)}): who waits for another process's load is not told when it has "
        f"ended, and looks again every {LONGEST_PAUSE_S * 1000:.0f} ms"
    )


def _before_floor(reply: Any, floor_us: int) -> Iterator[str]:
    """The problem of a server whose clock says that it is earlier than its start from a snapshot."""
    found: list[int] = []
    tell_time(reply, found.append)
    left_s = math.ceil((floor_us - found[0]) / _US)
    if left_s > 0:
        yield (
            f"the server was started from a snapshot, and for {left_s} s from now on by its clock nothing is "
            "stored and nothing of before is read: what was removed since the snapshot must not come back. "
            "Where that is longer than clock_skew_s and a few seconds, its clock was put back: set it right"
        )


def _of_replicas(facts: Mapping[str, str]) -> Iterator[str]:
    """What will hurt in a failover; a server tells `min_slaves_good_slaves` where it counts them."""
    if facts.get("role") == "slave":
        yield (
            "the server is a replica, where no lease can be taken, so loaders run and nothing is stored: "
            "connect to its primary"
        )
    if facts.get("connected_slaves", "0") not in ("0", "") and "min_slaves_good_slaves" not in facts:
        yield (
            "the server has replicas and takes writes without them (min-replicas-to-write is 0): where it is "
            "cut off it goes on, and what it acknowledges then is lost in the failover. Set it to 1, with "
            "min-replicas-max-lag 10"
        )


def _setting(reply: Any) -> dict[str, str]:
    """A setting of the server, by its name: nothing where it is refused."""
    try:
        pairs = reply.items() if isinstance(reply, Mapping) else zip(reply[::2], reply[1::2], strict=True)
        return {text(name): text(value) for name, value in pairs}
    except (TypeError, ValueError) as error:
        let_through(error)
        return {}


_LOST: Final = {
    "always": "nothing is lost where its process ends or its machine loses power",
    "everysec": "nothing is lost where its process ends, and the last second where its machine loses power",
    "no": "nothing is lost where its process ends, and where its machine loses power what the system had not "
    "written yet, as a rule the last half minute",
    "": "nothing is lost where its process ends; what is where its machine loses power cannot be said, as "
    "CONFIG GET appendfsync is refused",
}
"""What of queued writes is lost, by how often the append-only file goes to the disk."""


def _durability(facts: Mapping[str, str]) -> Iterator[str]:
    """What of queued writes can be lost, a sentence each."""
    log, replicas = facts.get("aof_enabled"), facts.get("connected_slaves", "")
    if log == "1":
        fsync = facts.get("appendfsync", "")
        name = f"the append-only file is on (appendfsync {fsync})" if fsync else "the append-only file is on"
        yield f"{name.capitalize()}: {_LOST.get(fsync, _LOST[''])}."
    elif log == "0":
        yield (
            "The append-only file is off: where the server's process ends, all that is queued is lost, but "
            "for what a snapshot has."
        )
    elif replicas:
        yield "What is lost where the server's process ends cannot be said: INFO persistence is refused."
    if replicas == "0":
        yield "It has no replica: what is queued is lost with its disk."
    elif replicas.isdecimal():
        names = "1 replica, which receives" if replicas == "1" else f"{replicas} replicas, which receive"
        yield f"It has {names} writes a moment later: a failover loses what the new primary had not received."
        yield (
            "It takes no writes while too few of them follow (min-replicas-to-write), which bounds that."
            if "min_slaves_good_slaves" in facts
            else "Cut off from them it goes on, and a failover loses what it acknowledges then "
            "(min-replicas-to-write is 0)."
        )


def _warnings(maxmemory_bytes: int | None, policy: str, max_value_bytes: int) -> Iterator[str]:
    if maxmemory_bytes == 0:
        yield (
            "the server has no memory limit, and grows until the machine is out of memory: set maxmemory, "
            "and maxmemory-policy allkeys-lfu or allkeys-lru where it serves nothing but caches"
        )
    if maxmemory_bytes and policy == "noeviction":
        yield (
            "the eviction policy is noeviction: when the server is full it refuses writes, and loaders run "
            "without their values being stored: set maxmemory-policy allkeys-lfu or allkeys-lru where it "
            "serves nothing but caches"
        )
    if policy == "volatile-ttl":
        yield (
            "the eviction policy is volatile-ttl, which evicts leases before values, as they expire sooner: "
            "when the server is full, the same value is loaded again and again. Set maxmemory-policy "
            "allkeys-lfu or allkeys-lru, or volatile-lfu or volatile-lru where it has keys that must stay"
        )
    if maxmemory_bytes and maxmemory_bytes < LEAST_VALUES * max_value_bytes:
        yield (
            f"the server's memory limit of {maxmemory_bytes:,} bytes is less than {LEAST_VALUES} values of "
            f"max_value_bytes ({max_value_bytes:,}): one large value evicts much of what is there. Raise "
            "maxmemory, or lower max_value_bytes"
        )


def _version(facts: Mapping[str, str]) -> tuple[str, tuple[int, ...] | None]:
    # Valkey gives a redis_version for compatibility's sake; its own tells the truth.
    for field, name in (("valkey_version", "Valkey"), ("redis_version", "Redis")):
        if field in facts:
            numbers = facts[field].split(".")
            return f"{name} {facts[field]}", tuple(int(n) for n in numbers[:2] if n.isdecimal())
    return "", None
