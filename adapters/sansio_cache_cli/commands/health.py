"""`sansio-cache health`: whether a server has what the cache needs."""

from __future__ import annotations

import argparse
from typing import Final

from sansio_cache_cli import options as given
from sansio_cache_cli.failures import FOUND, OK

DESCRIPTION: Final = """\
Tries every command that the cache needs on a key of the namespace.
The exit code is 1 if one is refused.
"""
EXAMPLES: Final = """\
examples:
  sansio-cache health --url redis://localhost:6379
  sansio-cache health --url rediss://user:password@cache.example:6380 --namespace shop
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `health`."""
    given.add_url(parser)
    parser.add_argument("--namespace", default="health", help="the first part of the keys (default: health)")
    given.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Show a server's health."""
    import attrs
    from rich.text import Text

    from sansio_cache_cli.output import Screen, print_json
    from sansio_cache_cli.words import printable
    from sansio_cache_redis.sync import Cache

    with Cache.from_url(options.url, namespace=options.namespace) as cache:
        health = cache.health()
    if options.json:
        print_json(attrs.asdict(health))
        return OK if health.ok else FOUND
    screen = Screen()
    verdict = Text("ok", style="bold green") if health.ok else Text("not ok", style="bold red")
    screen.say("health: ", verdict)
    if health.server:
        screen.say(f"server: {printable(health.server)}")
    if health.latency_s:
        screen.say(f"latency: {health.latency_s * 1000:.2f} ms a round trip")
    if health.maxmemory_bytes is not None:
        limit = f"{health.maxmemory_bytes:,} bytes" if health.maxmemory_bytes else "no limit"
        screen.say(f"memory: {limit}, {printable(health.eviction_policy)}")
    for problem in health.problems:
        screen.say(f"problem: {printable(problem)}")
    for warning in health.warnings:
        screen.say(f"warning: {printable(warning)}")
    return OK if health.ok else FOUND
