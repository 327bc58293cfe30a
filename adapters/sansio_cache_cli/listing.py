"""Listing keys."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from sansio_cache.inspection import CellState, Inspection
from sansio_cache_cli.failures import OK
from sansio_cache_cli.nodes import open_servers
from sansio_cache_cli.output import Screen, print_json
from sansio_cache_cli.sampling import look_at, no_such_namespace, nothing_matches
from sansio_cache_cli.server import Server
from sansio_cache_cli.words import printable, span

_STATE_WIDTH = 10
_LIFE_WIDTH = 12


def list_keys(options: argparse.Namespace) -> int:
    """List the keys of a namespace that match a pattern; returns the exit status."""
    screen, listed = Screen(), 0
    with open_servers(options.url, options.namespace, options.timeout) as servers:
        keys = servers[0].config.keys
        for found in _matching(servers, keys.glob(options.pattern)):
            if keys.is_internal(found.key) and not options.internal:
                continue
            if listed == options.most:
                if not options.json:
                    screen.say((f"… and more: these are the first {listed:,}, --most takes more", "dim"))
                return OK
            listed += 1
            _list(found, screen, is_json=options.json)
        if listed:
            return OK
        if options.pattern == "*" or not any(map(any, _pages(servers, keys.everything()))):
            raise no_such_namespace(servers, options.namespace)
        raise nothing_matches(options.namespace, options.pattern)


def _pages(servers: list[Server], pattern: str) -> Iterator[list[bytes]]:
    for server in servers:
        yield from server.scan(pattern)


def _matching(servers: list[Server], pattern: str) -> Iterator[Inspection]:
    """The keys that match a full pattern, each once."""
    for server in servers:
        seen: set[bytes] = set()
        for page in server.scan(pattern):
            new = [key for key in dict.fromkeys(page) if key not in seen]
            seen.update(new)
            yield from look_at(server, new)


def _list(found: Inspection, screen: Screen, *, is_json: bool) -> None:
    if is_json:
        left_s = None if found.left_ms is None else found.left_ms / 1000
        print_json({"key": found.key, "state": str(found.state), "expires_in_s": left_s})
        return
    life = "no ttl" if found.left_ms is None else span(found.left_ms / 1000)
    style = "bold red" if found.left_ms is None and found.state is not CellState.QUEUED else ""
    screen.say(f"{found.state:<{_STATE_WIDTH}}", (f"{life:>{_LIFE_WIDTH}}  ", style), printable(found.key))
