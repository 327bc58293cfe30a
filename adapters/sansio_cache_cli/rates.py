"""Rates: what happened at a server and in programs between two looks. No I/O here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs
import msgspec

from sansio_cache_cli.server_info import ServerInfo, share
from sansio_cache_redis.exporting import ProgramStats

_MOST_PROGRAMS = 200
_LONGEST = 256
_SILENT_FOR = 3
"""A program that has not told for so many of its intervals is not shown."""


@attrs.frozen(kw_only=True)
class ServerRates:
    """How a server did between two looks.

    Attributes:
        per_second: Commands of all clients a second.
        hit_rate: The share of looks at keys that found one, in percent; None where there was none.
        latency_s: How long a round trip takes, in seconds, the middle of some.
        used_bytes: The memory that it uses.
        limit_bytes: The memory that it may use; 0 where there is no limit.
        clients: How many are connected.
        evicted: Keys that were evicted, a second.
        expired: Keys that expired, a second.
    """

    per_second: float
    hit_rate: float | None
    latency_s: float
    used_bytes: int
    limit_bytes: int
    clients: int
    evicted: float
    expired: float


def server_rates(before: ServerInfo, after: ServerInfo, took_s: float, latency_s: float) -> ServerRates:
    """What happened between two looks. A counter that went back is of a server that was restarted."""

    def change(name: str) -> int:
        now = after.count(name)
        return now - before.count(name) if now >= before.count(name) else now

    took_s = max(took_s, 0.001)
    return ServerRates(
        per_second=change("total_commands_processed") / took_s,
        hit_rate=share(change("keyspace_hits"), change("keyspace_misses")),
        latency_s=latency_s,
        used_bytes=after.count("used_memory"),
        limit_bytes=after.count("maxmemory"),
        clients=after.count("connected_clients"),
        evicted=change("evicted_keys") / took_s,
        expired=change("expired_keys") / took_s,
    )


@attrs.define
class Programs:
    """The programs that tell how they do, as they told the last time."""

    _told: dict[tuple[str, int, str], tuple[float, ProgramStats]] = attrs.field(factory=dict)

    def hear(self, message: Any, now_s: float) -> None:
        """Take in a message of Pub/Sub. What makes no sense is passed over: anybody may publish."""
        if not (isinstance(message, list | tuple) and len(message) == 3 and message[0] == b"message"):
            return
        try:
            told = msgspec.json.decode(message[2], type=ProgramStats)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError):
            return
        who = (told.host, told.pid, told.name)
        if (who in self._told or len(self._told) < _MOST_PROGRAMS) and len(told.host) + len(
            told.name
        ) < _LONGEST:
            self._told[who] = (now_s, told)

    def at(self, now_s: float) -> list[ProgramStats]:
        """Those that still tell, by name."""
        self._told = {
            who: (at_s, told)
            for who, (at_s, told) in self._told.items()
            if now_s - at_s <= _SILENT_FOR * max(told.every_s, 1.0)
        }
        return [self._told[who][1] for who in sorted(self._told, key=lambda who: (who[2], who[0], who[1]))]


def together(programs: Iterable[ProgramStats]) -> dict[str, float | None]:
    """What all programs do, a second; the hit rate in percent."""
    programs = list(programs)
    requests = sum(each.requests for each in programs)
    hits = sum(each.hits for each in programs)
    return {
        "requests_per_second": sum(per_second(each, each.requests) for each in programs),
        "hit_rate": share(hits, requests - hits),
        "loads_per_second": sum(per_second(each, each.loads) for each in programs),
    }


def per_second(program: ProgramStats, count: int) -> float:
    """A count of a program's, a second."""
    return count / max(program.window_s, 0.001)
