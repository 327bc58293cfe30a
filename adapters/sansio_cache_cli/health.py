"""`sansio-cache health`: whether a server has what the cache needs."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from sansio_cache_redis.sync import Cache


def show_health(url: str, namespace: str, console: Console) -> bool:
    """Print a server's health; returns whether everything is there.

    Raises:
        ConfigurationError: The URL cannot be used.
        InvalidKeyError: The namespace cannot be used.
    """
    with Cache.from_url(url, namespace=namespace) as cache:
        health = cache.health()
    verdict = Text("ok", style="bold green") if health.ok else Text("not ok", style="bold red")
    console.print("health: ", verdict, sep="")
    if health.server:
        console.print(f"server: {health.server}", highlight=False)
    if health.latency_s:
        console.print(f"latency: {health.latency_s * 1000:.2f} ms a round trip", highlight=False)
    if health.maxmemory_bytes is not None:
        limit = f"{health.maxmemory_bytes:,} bytes" if health.maxmemory_bytes else "no limit"
        console.print(f"memory: {limit}, {health.eviction_policy}", highlight=False)
    for problem in health.problems:
        console.print(Text(f"problem: {problem}"))
    for warning in health.warnings:
        console.print(Text(f"warning: {warning}"))
    return health.ok
