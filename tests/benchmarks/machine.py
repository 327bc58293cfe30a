"""On what it was measured. Every figure carries this, and says that only ratios are meant."""

import os
import platform
from pathlib import Path
from typing import Any

import redis

from benchmarks.contenders import versions

DISTRIBUTIONS = (
    "sansio-cache",
    "redis",
    "hiredis",
    "msgspec",
    "anyio",
    "trio",
    "cashews",
    "aiocache",
    "dogpile.cache",
    "Django",
    "valkey-glide",
    "valkey-glide-sync",
)
ONLY_RATIOS = "Only ratios within one run are meant: absolute figures are of that machine at that minute."


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe(client: redis.Redis) -> dict[str, Any]:
    """The machine kind and all versions."""
    info = client.info("server")
    server = (
        f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"
    )
    return {
        "cpu": _cpu(),
        "cores": _cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "server": server,
        "packages": versions(DISTRIBUTIONS),
    }


def in_one_line(machine: dict[str, Any]) -> str:
    """For the foot of a figure."""
    packages = machine["packages"]
    here = [f"{name} {packages[name]}" for name in DISTRIBUTIONS if packages[name] != "not installed"]
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, {machine['python']}, "
        f"{machine['server']}, {', '.join(here)}."
    )
