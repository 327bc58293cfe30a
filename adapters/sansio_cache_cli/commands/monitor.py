"""`sansio-cache monitor`: what is done in a namespace, as it is done."""

from __future__ import annotations

import argparse
from typing import Final

from sansio_cache_cli import options as given

DESCRIPTION: Final = """\
Shows what is done in a namespace as it is done, decoded: hits and misses, grants, fills
and refused fills, holds, invalidations.

It uses MONITOR, and that is dear: while it runs, the server sends every command of every
client here as well, values included, which may halve what it can do. So it ends by
itself, after 30 s. Keys that it has not seen yet it asks about, once each; --no-questions
asks nothing, and then a first read is only a read.
"""
EXAMPLES: Final = """\
examples:
  sansio-cache monitor --namespace shop --url redis://localhost:6379
  sansio-cache monitor 'user:*' --namespace shop --seconds 5 --url redis://localhost:6379
  sansio-cache monitor --namespace shop --json --url redis://localhost:6379 > events
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `monitor`."""
    parser.add_argument(
        "pattern",
        nargs="?",
        default="*",
        metavar="PATTERN",
        help="a Redis glob inside the namespace (default: *)",
    )
    given.add_url(parser)
    given.add_namespace(parser)
    given.add_number(parser, "--seconds", given.seconds(0.1, 3600), 30.0, "S", "how long")
    parser.add_argument(
        "--most", type=given.whole(1, 10**9), metavar="N", help="events to show at most (default: all)"
    )
    parser.add_argument("--internal", action="store_true", help="show what is done to tags and locks as well")
    parser.add_argument("--no-questions", action="store_true", help="ask the server nothing about keys")
    given.add_timeout(parser)
    given.add_json(parser, "a JSON object an event")


def run(options: argparse.Namespace) -> int:
    """Show what is done."""
    from sansio_cache_cli.monitoring import monitor

    return monitor(options)
