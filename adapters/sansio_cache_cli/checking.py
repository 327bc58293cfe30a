"""Checking: asks a server for the facts, and shows what `verdicts.py` says about them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import attrs
from redis.exceptions import MovedError
from rich.table import Table
from rich.text import Text

from sansio_cache.url import read_url
from sansio_cache_cli.failures import FOUND, OK, NotPermittedError
from sansio_cache_cli.lives import lives_of
from sansio_cache_cli.nodes import open_servers
from sansio_cache_cli.output import Screen, print_json
from sansio_cache_cli.sampling import take_sample
from sansio_cache_cli.server import Server
from sansio_cache_cli.server_info import ServerInfo
from sansio_cache_cli.verdicts import ClockOffset, Facts, Level, Verdict, Wanted, together, verdicts, worst
from sansio_cache_cli.words import printable
from sansio_cache_redis.calls import wake_channel
from sansio_cache_redis.sync import Cache

_TRIPS = 5
wall_clock: Callable[[], float] = time.time
"""This machine's, in seconds since 1970."""
_STYLES = {Level.OK: "green", Level.NOTE: "cyan", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}


def check(options: argparse.Namespace) -> int:
    """Check a server and a namespace; returns the exit status."""
    wanted = Wanted(
        durable=options.durable,
        most_clock_offset_s=options.most_clock_offset,
        least_hit_rate=options.least_hit_rate,
    )
    with open_servers(options.url, options.namespace, options.timeout) as servers:
        share, seconds = -(-options.sample // len(servers)), options.seconds / len(servers)
        asked = [facts_of(server, options.namespace, share, seconds) for server in servers]
    keys = sum(each.keys for each in asked)
    found = together(
        {each.place: verdicts(attrs.evolve(each, keys_elsewhere=keys - each.keys), wanted) for each in asked}
    )
    level = worst(found)
    is_bad = level is Level.PROBLEM or (options.strict and level is Level.WARNING)
    if options.json:
        print_json({"ok": not is_bad, "worst": level, "verdicts": [attrs.asdict(each) for each in found]})
    else:
        _show(found)
    return FOUND if is_bad else OK


def _show(found: list[Verdict]) -> None:
    screen = Screen()
    rows = Table.grid(padding=(0, 1))
    for each in found:
        level, name = (f"{each.level:<8}", _STYLES[each.level]), (f"{each.name:<12}", "bold")
        said, remedy = printable(each.said), ("do: ", "dim")
        rows.add_row(Text(*level), Text(*name), Text(said))
        if each.remedy:
            rows.add_row("", "", Text.assemble(remedy, printable(each.remedy)))
        if screen.is_terminal:
            continue
        screen.say(level, name, said)
        if each.remedy:
            screen.say(" " * 20, remedy, printable(each.remedy))
    if screen.is_terminal:
        screen.print(rows)


def facts_of(
    server: Server,
    namespace: str,
    limit: int,
    seconds: float,
) -> Facts:
    """Ask for the facts.

    Args:
        server: It is open.
        namespace: Whose keys are looked at.
        limit: How many of them at most.
        seconds: How long at most.

    Raises:
        CommandError: The server does not answer, or fails.
    """
    latency_s, clock = _trips(server)
    (info,) = server.ask((b"INFO",))
    with Cache.from_config(server.config) as cache:
        health = cache.health()
    in_cluster = read_url(server.config.redis.url).is_cluster
    facts = Facts(
        place=server.where.place,
        namespace=namespace,
        latency_s=latency_s,
        health=health,
        may_wake=_may_wake(server, namespace, in_cluster=in_cluster),
        in_cluster=in_cluster,
        info=ServerInfo.parse(info),
        clock=clock,
        lives=None,
    )
    # Of the database the server knows how many there are; whose they are it does not know.
    persistent = facts.info.persistent_keys(read_url(server.config.redis.url).database) if facts.info else 0
    try:
        sample = take_sample(
            server, server.config.keys.everything(), limit, seconds, needs_ages=clock is not None
        )
    except NotPermittedError as refused:
        return attrs.evolve(facts, refused=refused.name)
    return attrs.evolve(
        facts,
        lives=lives_of(sample.entries),
        keys=sample.count,
        persistent=sample.persistent,
        is_whole=sample.is_whole,
        internal=dict(sample.internal),
        strangers=max(persistent - len(sample.persistent) - sample.internal_persistent, 0),
    )


def _trips(server: Server) -> tuple[float, ClockOffset | None]:
    """How long the shortest of some round trips took, and how far off the server's clock was in that one."""
    best_s = float("inf")
    best: float | None = None
    for _ in range(_TRIPS):
        began_s, wall_s = time.monotonic(), wall_clock()
        (reply,) = server.ask((b"TIME",))
        took_s = time.monotonic() - began_s
        if took_s < best_s:
            best_s = took_s
            if not isinstance(reply, Exception):
                best = int(reply[0]) + int(reply[1]) / 1e6 - (wall_s + took_s / 2)
    return best_s, None if best is None else ClockOffset(offset_s=best, uncertain_s=best_s / 2)


def _may_wake(server: Server, namespace: str, *, in_cluster: bool) -> bool:
    """Whether the user may publish and subscribe to what wakes those who wait: nobody waits for this key."""
    key = f"{namespace}:%t:check".encode()
    channel, shard = (key, b"S") if in_cluster else (wake_channel(namespace), b"")
    replies: list[Any] = server.ask((shard + b"PUBLISH", channel, key))
    replies += server.ask((shard + b"SUBSCRIBE", channel))
    if not isinstance(replies[-1], Exception):
        replies += server.ask((shard + b"UNSUBSCRIBE", channel))
    # Who may, is told which node has the channel.
    return not any(isinstance(reply, Exception) and not isinstance(reply, MovedError) for reply in replies)
