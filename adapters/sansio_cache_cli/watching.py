"""Watching a server, and the programs that tell how they do: `sansio-cache top`."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import attrs
import msgspec
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sansio_cache_cli.failures import OK, CommandError
from sansio_cache_cli.output import Screen, print_json, table
from sansio_cache_cli.rates import Programs, ServerRates, per_second, server_rates, together
from sansio_cache_cli.server import Server
from sansio_cache_cli.server_info import ServerInfo, share
from sansio_cache_cli.words import printable, size, span
from sansio_cache_redis.exporting import ProgramStats, stats_channel

_TRIPS = 5
Look = tuple[ServerRates, list[ProgramStats]]


def watch(options: argparse.Namespace) -> int:
    """Show a server and its programs until there were enough looks, or Ctrl-C; returns the exit status."""
    screen = Screen()
    count = options.count or (None if screen.is_terminal and not options.json else 1)
    with (
        Server(options.url, options.namespace, options.timeout) as server,
        Server(options.url, options.namespace, options.timeout) as heard,
    ):
        channel = stats_channel(options.namespace)
        can_hear = not isinstance(heard.ask((b"SUBSCRIBE", channel))[0], Exception)
        watched = _Watched(server, heard, can_hear=can_hear)
        try:
            if options.json:
                _each(watched, options.interval, count, lambda look: print_json(_plain(look)))
            elif not screen.is_terminal:
                _each(watched, options.interval, count, lambda look: screen.rows(_drawn(look, watched)))
            else:
                with Live(Text("looking …"), console=screen, auto_refresh=False) as live:
                    _each(
                        watched,
                        options.interval,
                        count,
                        lambda look: live.update(_drawn(look, watched), refresh=True),
                    )
        except KeyboardInterrupt:
            pass  # that is how one ends it
    return OK


class _Watched:
    """A server, and what its programs tell."""

    def __init__(self, server: Server, heard: Server, *, can_hear: bool) -> None:
        self.place = server.where.place
        self.can_hear = can_hear
        self._server = server
        self._heard = heard
        self._programs = Programs()
        self._before = self._info()
        self._before_s = time.monotonic()

    def look(self, interval_s: float) -> Look:
        """Wait for the interval, and say what happened in it."""
        until_s = self._before_s + interval_s
        while (now_s := time.monotonic()) < until_s:
            if self.can_hear:
                for message in self._heard.receive(until_s):
                    self._programs.hear(message, time.monotonic())
            else:
                time.sleep(until_s - now_s)
        latency_s = statistics.median(self._trip() for _ in range(_TRIPS))
        after, now_s = self._info(), time.monotonic()
        rates = server_rates(self._before, after, now_s - self._before_s, latency_s)
        self._before, self._before_s = after, now_s
        return rates, self._programs.at(now_s)

    def _info(self) -> ServerInfo:
        info = ServerInfo.parse(self._server.asked((b"INFO",), "top"))
        if info is None:
            raise CommandError(f"{self.place} gives no INFO that can be read")
        return info

    def _trip(self) -> float:
        began_s = time.monotonic()
        self._server.ask((b"PING",))
        return time.monotonic() - began_s


def _each(watched: _Watched, interval_s: float, count: int | None, show: Callable[[Look], object]) -> None:
    looks = 0
    while count is None or looks < count:
        show(watched.look(interval_s))
        looks += 1


def _plain(look: Look) -> dict[str, Any]:
    rates, programs = look
    told = [msgspec.to_builtins(each) for each in programs]
    return {"server": attrs.asdict(rates), "programs": told, "together": together(programs)}


def _drawn(look: Look, watched: _Watched) -> Group:
    rates, programs = look
    return Group(Text(watched.place, style="bold"), _server(rates), Text(), _programs(programs, watched))


def _server(rates: ServerRates) -> Table:
    rows = table("", " ", "  ", "   ", numbers=(" ", "   "))
    rows.show_header = False
    limit = f" of {size(rates.limit_bytes)}" if rates.limit_bytes else ""
    rows.add_row("commands", f"{rates.per_second:,.0f}/s", "memory", f"{size(rates.used_bytes)}{limit}")
    rows.add_row("hit rate", _percent(rates.hit_rate), "clients", f"{rates.clients:,}")
    rows.add_row("round trip", span(rates.latency_s), "expired", f"{rates.expired:,.0f}/s")
    rows.add_row("", "", "evicted", f"{rates.evicted:,.0f}/s")
    return rows


def _programs(programs: list[ProgramStats], watched: _Watched) -> Table | Text:
    if not watched.can_hear:
        return Text(
            "programs: the user of the URL may not SUBSCRIBE: ACL SETUSER <user> &<namespace>:* +subscribe"
        )
    if not programs:
        return Text(
            "programs: none has told yet; a program tells where it calls export_stats(cache)", style="dim"
        )
    figures = ("requests", "hit rate", "loads", "p50", "p99", "errors")
    rows = table("program", "process", *figures, "store", numbers=figures)
    for each in programs:
        rows.add_row(
            printable(each.name),
            printable(f"{each.host}:{each.pid}"),
            f"{per_second(each, each.requests):,.0f}/s",
            _percent(share(each.hits, each.requests - each.hits)),
            f"{per_second(each, each.loads):,.1f}/s",
            span(each.p50_s),
            span(each.p99_s),
            f"{each.errors + each.load_failures:,}",
            _store(each),
        )
    if len(programs) > 1:
        sums = together(programs)
        rates = (f"{sums['requests_per_second']:,.0f}/s", _percent(sums["hit_rate"]))
        rows.add_row(
            "together", "", *rates, f"{sums['loads_per_second']:,.1f}/s", "", "", "", "", style="bold"
        )
    return rows


def _store(program: ProgramStats) -> Text:
    if program.is_away:
        return Text("away", style="bold red")
    if program.pending_invalidations:
        return Text(f"{program.pending_invalidations:,} pending", style="yellow")
    return Text("serves", style="green")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} %"
