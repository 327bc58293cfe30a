"""Verdicts: from what was found at a server to what is right and what is wrong with it. No I/O here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Final

import attrs

from sansio_cache.health import Health
from sansio_cache.keys import LOCK_MARKER, QUEUE_MARKER
from sansio_cache_cli.lives import Lives
from sansio_cache_cli.server_info import ServerInfo
from sansio_cache_cli.words import exact, size, span

_MOST_NAMES: Final = 5
_LEAST_TOGETHER: Final = 20
_TOGETHER_SHARE: Final = 0.05
_TIMES_EVEN: Final = 3
_ALL_EVICTING: Final = "allkeys-"
_EVICTING: Final = ("allkeys-", "volatile-")
_OF_EVICTION: Final = "the eviction policy is "
_WITHOUT_LIMIT: Final = "the server has no memory limit"
"""How those warnings of `health()` begin that speak of a server with nothing but caches."""


class Level(StrEnum):
    """How bad something is."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


@attrs.frozen
class Verdict:
    """What is to be said about one thing.

    Attributes:
        name: What it is about, in a word.
        level: How bad it is.
        said: What was found, in a sentence without a full stop.
        remedy: What to do about it; empty where there is nothing to be done.
    """

    name: str
    level: Level
    said: str
    remedy: str = ""


@attrs.frozen(kw_only=True)
class Wanted:
    """What is wanted of a server.

    Attributes:
        durable: Whether what is on it must stay.
        most_clock_offset_s: How far its clock may be off, in seconds.
        least_hit_rate: A lower share of hits is a problem, in percent.
    """

    durable: bool = False
    most_clock_offset_s: float = 1.0
    least_hit_rate: float = 0.0


@attrs.frozen(kw_only=True)
class ClockOffset:
    """How far the server's clock is ahead of this machine's, in seconds, give or take half a round trip."""

    offset_s: float
    uncertain_s: float


@attrs.frozen(kw_only=True)
class Facts:
    """What was found.

    Attributes:
        place: Where the server is.
        namespace: Whose keys were looked at.
        latency_s: How long a round trip took, in seconds, the shortest of some.
        health: What the cache's own probes say.
        may_wake: Whether the user may publish, and subscribe to, what wakes those who wait for a load.
        info: What the server says of itself, None where the user may not ask.
        clock: How far its clock is off, None where the user may not ask.
        lives: Of a sample of the keys; None where the user may not look.
        refused: The command that he may not run then.
        keys: How many keys were gone through.
        persistent: The names of those that have no time to live.
        is_whole: Whether these are all the keys of the namespace.
        internal: How many records of the cache itself were found, by marker.
        strangers: How many other keys of the database have no time to live.
        in_cluster: Whether the server is a node of a cluster.
        keys_elsewhere: How many keys of the namespace were gone through on its other nodes.
    """

    place: str
    namespace: str
    latency_s: float
    health: Health
    may_wake: bool
    info: ServerInfo | None
    clock: ClockOffset | None
    lives: Lives | None
    refused: str = ""
    keys: int = 0
    persistent: tuple[str, ...] = ()
    is_whole: bool = True
    internal: dict[str, int] = attrs.field(factory=dict)
    strangers: int = 0
    in_cluster: bool = False
    keys_elsewhere: int = 0


def verdicts(facts: Facts, wanted: Wanted) -> list[Verdict]:
    """What is right and what is wrong."""
    return [
        Verdict("ping", Level.OK, f"{facts.place} answers in {span(facts.latency_s)}"),
        *_permissions(facts),
        *_server(facts, wanted),
        *_memory(facts, wanted),
        *_durability(facts, wanted),
        *_hit_rate(facts, wanted),
        *_clock(facts, wanted),
        *_keys(facts),
    ]


def together(by_place: Mapping[str, Sequence[Verdict]]) -> list[Verdict]:
    """The verdicts about several servers as one list: what is the same of all is said once."""
    found: dict[Verdict, list[str]] = {}
    for place, each_found in by_place.items():
        for each in each_found:
            found.setdefault(each, []).append(place)
    return [
        each
        if len(places) == len(by_place) or places[0] in each.said
        else attrs.evolve(each, said=f"{', '.join(places)}: {each.said}")
        for each, places in found.items()
    ]


def worst(found: Sequence[Verdict]) -> Level:
    """How bad the worst is."""
    order = list(Level)
    return max((each.level for each in found), key=order.index, default=Level.OK)


def _permissions(facts: Facts) -> Iterator[Verdict]:
    if not facts.health.problems:
        yield Verdict("permissions", Level.OK, "the user of the URL may do all that the cache needs")
    for problem in facts.health.problems:
        yield Verdict(
            "permissions",
            Level.PROBLEM,
            problem,
            "grant what is missing; the page on security has the whole list",
        )
    if facts.may_wake:
        yield Verdict("wake-ups", Level.OK, "who waits for a load is told when it is there")
    else:
        needed = "+spublish +ssubscribe +sunsubscribe" if facts.in_cluster else "+publish +subscribe"
        yield Verdict(
            "wake-ups",
            Level.NOTE,
            "the user of the URL may not publish and subscribe: who waits for a load polls",
            f"ACL SETUSER <user> &{facts.namespace}:* {needed}",
        )


def _server(facts: Facts, wanted: Wanted) -> Iterator[Verdict]:
    info = facts.info
    if info is None:
        yield Verdict(
            "server",
            Level.NOTE,
            "the user of the URL may not ask INFO: version, memory, durability and hit rate are not known",
            "ACL SETUSER <user> +info, or check with the URL of another user",
        )
    else:
        up_s = info.number("uptime_in_seconds") or 0
        role = info.text("role").replace("slave", "replica").replace("master", "primary")
        yield Verdict("server", Level.OK, f"{facts.health.server}, {role}, up for {span(up_s)}")
    for warning in facts.health.warnings:
        said, _, remedy = warning.rpartition(": ")
        if wanted.durable and warning.startswith(_OF_EVICTION):
            continue  # that verdict says what is right where something must stay
        if wanted.durable and warning.startswith(_WITHOUT_LIMIT):
            remedy = "set maxmemory, with noeviction: a server that is full then refuses writes"
        yield Verdict("server", Level.WARNING, said or remedy, remedy if said else "")


def _memory(facts: Facts, wanted: Wanted) -> Iterator[Verdict]:
    info = facts.info
    if info is None:
        return
    limit = info.count("maxmemory")
    used = size(info.count("used_memory"))
    yield Verdict(
        "memory", Level.OK, f"{used} used of {size(limit) if limit else 'as much as the machine has'}"
    )
    policy = info.text("maxmemory_policy")
    evicted = info.count("evicted_keys")
    said = f"the policy is {policy}; {evicted:,} keys were evicted since the server started"
    queues, locks = facts.internal.get(QUEUE_MARKER, 0), facts.internal.get(LOCK_MARKER, 0)
    evicts, evicts_all = policy.startswith(_EVICTING), policy.startswith(_ALL_EVICTING)
    if evicts_all and wanted.durable:
        yield Verdict(
            "eviction",
            Level.PROBLEM,
            f"{said}: it may evict any key, and --durable was asked for",
            "CONFIG SET maxmemory-policy noeviction, or keep what must stay on a server of its own",
        )
    elif evicts and wanted.durable:
        yield Verdict(
            "eviction",
            Level.WARNING,
            f"{said}: what is queued stays, as it has no time to live; what has one may be evicted, as locks "
            "and sessions have",
            "CONFIG SET maxmemory-policy noeviction, where any of those must stay as well",
        )
    elif wanted.durable:
        yield Verdict("eviction", Level.OK, f"{said}: what is there stays, and a full server refuses writes")
    elif evicts_all and queues:
        yield Verdict(
            "eviction",
            Level.PROBLEM,
            f"{said}: it may evict any key, and there are {queues:,} records of queued writes",
            "CONFIG SET maxmemory-policy volatile-lfu or noeviction, or keep queues on a server of their own",
        )
    elif evicts_all and facts.strangers:
        yield Verdict(
            "eviction",
            Level.WARNING,
            f"{said}: it may evict any key, and {facts.strangers:,} keys of other programs have no time to "
            "live: they may be meant to stay",
            "CONFIG SET maxmemory-policy volatile-lfu, or give the cache a server of its own",
        )
    elif evicts and locks:
        yield Verdict(
            "eviction",
            Level.WARNING,
            f"{said}: it may evict locks, of which there are {locks:,}: then two may hold one",
            "keep locks on a server with noeviction, or check their tokens where it matters",
        )
    elif evicts:
        yield Verdict("eviction", Level.OK, f"{said}: right where the server has nothing but caches")
    else:
        yield Verdict("eviction", Level.OK, said)


def _durability(facts: Facts, wanted: Wanted) -> Iterator[Verdict]:
    info = facts.info
    if info is None:
        return
    has_aof = info.text("aof_enabled") == "1"
    saved_s = info.number("rdb_last_save_time")
    failed = [
        name
        for name, field in (
            ("snapshot", "rdb_last_bgsave_status"),
            ("append-only file", "aof_last_write_status"),
        )
        if info.text(field) == "err"
    ]
    said = f"the append-only file is {'on' if has_aof else 'off'}"
    if info.count("rdb_changes_since_last_save") and saved_s:
        said += f", {info.count('rdb_changes_since_last_save'):,} changes since the last snapshot"
    if failed:
        yield Verdict(
            "durability",
            Level.PROBLEM,
            f"the last {failed[0]} could not be written: the server may refuse writes (MISCONF)",
            "look at its log and its disk",
        )
    elif wanted.durable or facts.internal.get(QUEUE_MARKER):
        lost = facts.health.durability.rstrip(".") or said
        if has_aof:
            yield Verdict("durability", Level.OK, lost)
        else:
            level = Level.PROBLEM if wanted.durable else Level.WARNING
            yield Verdict("durability", level, lost, "CONFIG SET appendonly yes")
    else:
        yield Verdict("durability", Level.OK, f"{said}; a cache needs none")


def _hit_rate(facts: Facts, wanted: Wanted) -> Iterator[Verdict]:
    info = facts.info
    if info is None:
        return
    rate = info.hit_rate
    looks = info.count("keyspace_hits") + info.count("keyspace_misses")
    # Writes look at keys that are not there yet: a low rate alone says little.
    if rate is None:
        yield Verdict("hit rate", Level.OK, "nothing was read yet")
        return
    said = (
        f"{rate:.1f} % of {looks:,} looks at keys found one, of all programs and scripts since the server "
        "started; stats() has the cache's own"
    )
    if rate < wanted.least_hit_rate:
        yield Verdict(
            "hit rate",
            Level.PROBLEM,
            f"{said}: less than {wanted.least_hit_rate:g} % were asked for",
            "raise times to live, or the memory limit where keys are evicted",
        )
    else:
        yield Verdict("hit rate", Level.OK, said)


def _clock(facts: Facts, wanted: Wanted) -> Iterator[Verdict]:
    clock = facts.clock
    if clock is None:
        yield Verdict("clock", Level.NOTE, "the user of the URL may not ask TIME", "ACL SETUSER <user> +time")
        return
    off_s = abs(clock.offset_s)
    side = "ahead of" if clock.offset_s > 0 else "behind"
    said = f"the server's is {span(off_s)} {side} this machine's, give or take {span(clock.uncertain_s)}"
    if off_s - clock.uncertain_s > wanted.most_clock_offset_s:
        yield Verdict(
            "clock",
            Level.PROBLEM,
            f"{said}; entries expire by the server's, and logs and tokens of the two disagree",
            "set both by NTP",
        )
    else:
        yield Verdict("clock", Level.OK, said)


def _keys(facts: Facts) -> Iterator[Verdict]:
    lives = facts.lives
    if lives is None:
        said = f"the user of the URL may not {facts.refused}"
        is_scan = facts.refused == "SCAN"  # the cache serves without it
        yield Verdict(
            "keys",
            Level.NOTE if is_scan else Level.PROBLEM,
            said if is_scan else f"{said}: no key was looked at",
            f"ACL SETUSER <user> +{facts.refused.lower()}",
        )
        return
    if not facts.keys:
        if facts.keys_elsewhere:
            return
        yield Verdict(
            "keys",
            Level.WARNING,
            f"there is no key of the namespace {facts.namespace!r}",
            "where it should have some, check its name and the database of the URL",
        )
        return
    yield _without_ttl(facts)
    if lives.lives:
        shortest, longest = lives.lives[0].from_s, lives.lives[-1].to_s
        times = f"from {exact(shortest)} to {exact(longest)}"
        said = f"{times}; {lives.together:,} expire in the same second at most"
        # However evenly they were stored, so many are loaded again each second: more, where lives are short.
        most = max(_LEAST_TOGETHER, _TOGETHER_SHARE * lives.values, _TIMES_EVEN * lives.even_per_s)
        if lives.together >= most:
            yield Verdict(
                "jitter",
                Level.WARNING,
                f"times to live were {said}, of {lives.values:,}: they are loaded again together",
                "leave the policy its jitter; `sansio-cache ttl` shows them",
            )
        else:
            yield Verdict("jitter", Level.OK, f"times to live were {said}, of {lives.values:,}")
    if lives.foreign:
        yield Verdict(
            "entries",
            Level.WARNING,
            f"{lives.foreign:,} keys of the namespace were written by another program, or another version: "
            "they are misses, and no reader overwrites them",
            "give the other program a namespace of its own",
        )
    if lives.future:
        yield Verdict(
            "entries",
            Level.WARNING,
            f"{lives.future:,} values were stored in the server's future: its clock was set back, or it has "
            "failed over to a server with another clock",
            "set the servers' clocks by NTP",
        )


def _without_ttl(facts: Facts) -> Verdict:
    extent = "all there are" if facts.is_whole else "not all there are: the time was up"
    if not facts.persistent:
        return Verdict("ttl", Level.OK, f"each of {facts.keys:,} keys ({extent}) has a time to live")
    more = " …" if len(facts.persistent) > _MOST_NAMES else ""
    return Verdict(
        "ttl",
        Level.PROBLEM,
        f"{len(facts.persistent):,} of {facts.keys:,} keys ({extent}) have no time to live: "
        f"{', '.join(facts.persistent[:_MOST_NAMES])}{more}",
        "the cache stores none without: find who writes them, and remove them or EXPIRE them",
    )
