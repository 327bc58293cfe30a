"""Health: what the cache needs of its server, and what is missing.

Every command of the protocol is tried once, on a key of the cache's own namespace that no built key can be.
What the server refuses is named, with the feature that does not work without it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
from redis.exceptions import NoScriptError

from sansio_cache.cell import NO_GRANT
from sansio_cache_redis.scripts import ACQUIRE, RELEASE, RENEW
from sansio_cache_redis.wire import TIME, Args

OLDEST_SERVER: Final = (7, 0)
_LEASE_MS: Final = 1000
_SCRIPTS: Final = "scripts, which leases need"


@attrs.frozen(kw_only=True)
class Health:
    """What is known about a cache and its server.

    Attributes:
        ok: Whether everything that the cache needs is there.
        problems: What is missing, a sentence each.
        server: Name and version of the server, empty where it cannot be asked.
        latency_s: How long the server took to answer, in seconds.
        bypassing: Whether reads do without the server at the moment.
        remembered: Invalidations that the server has not been told of yet.
    """

    ok: bool
    problems: tuple[str, ...] = ()
    server: str = ""
    latency_s: float = 0.0
    bypassing: bool = False
    remembered: int = 0


def probes(namespace: str) -> list[tuple[str, Args]]:
    """What to ask the server: what each probe is for, and the command."""
    nonce = os.urandom(8)  # two callers at once must not meet each other's lease
    key = f"{namespace}:%t:health:{nonce.hex()}".encode()
    return [
        ("reading", (b"GET", key)),
        ("reading many keys", (b"MGET", key)),
        ("the server's clock", TIME),
        (_SCRIPTS, (b"EVAL", ACQUIRE.text, 1, key, nonce, _LEASE_MS, NO_GRANT, "keep")),
        # To more than it has, so that every command of the script runs.
        (_SCRIPTS, (b"EVAL", RENEW.text, 1, key, nonce, 2 * _LEASE_MS)),
        (_SCRIPTS, (b"EVALSHA", RELEASE.sha, 1, key, nonce)),
        (_SCRIPTS, (b"EVAL", RELEASE.text, 1, key, nonce)),
        ("invalidation", (b"UNLINK", key)),
        ("deletion by pattern", (b"SCAN", 0, b"MATCH", key, b"COUNT", 1)),
        ("the server's version", (b"INFO", b"server")),
    ]


def judge(asked: Sequence[tuple[str, Args]], replies: Sequence[Any]) -> tuple[str, tuple[str, ...]]:
    """The server's name and version, and the problems, from the replies to the probes."""
    problems: list[str] = []
    has_lease = not any(
        args[:2] == (b"EVAL", ACQUIRE.text) and isinstance(reply, Exception)
        for (_, args), reply in zip(asked, replies, strict=True)
    )
    for (purpose, args), reply in zip(asked, replies, strict=True):
        if isinstance(reply, Exception) and not isinstance(reply, NoScriptError):
            name = bytes(args[0]).decode()
            problem = f"{name} is refused ({_first_words(reply)}): {purpose} will not work"
            # The version is worth knowing, but nothing depends on it.
            if name != "INFO":
                problems.append(problem)
        elif has_lease and args[:2] == (b"EVAL", RENEW.text) and isinstance(reply, list) and not reply[0]:
            problems.append("GETRANGE is refused inside scripts: nothing will be stored")
    server, version = _version(replies[-1])
    if version is not None and version < OLDEST_SERVER:
        oldest = ".".join(map(str, OLDEST_SERVER))
        problems.append(f"{server} is too old: version {oldest} or later is needed")
    return server, tuple(dict.fromkeys(problems))


def _first_words(error: Exception) -> str:
    """The class of an error and the first of its words, which hold no value."""
    return f"{type(error).__name__}: {' '.join(str(error).split()[:8])}"


def _version(reply: Any) -> tuple[str, tuple[int, ...] | None]:
    facts = _facts(reply)
    # Valkey gives a redis_version for compatibility's sake; its own tells the truth.
    for field, name in (("valkey_version", "Valkey"), ("redis_version", "Redis")):
        if field in facts:
            numbers = facts[field].split(".")
            return f"{name} {facts[field]}", tuple(int(n) for n in numbers[:2] if n.isdigit())
    return "", None


def _facts(reply: Any) -> Mapping[str, str]:
    if isinstance(reply, bytes):
        lines = reply.decode(errors="replace").splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)
    if isinstance(reply, Mapping):  # a client of the user's has parsed it
        return {str(name): str(value) for name, value in reply.items()}
    return {}
