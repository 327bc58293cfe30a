"""`sansio-cache top`: a server, and the programs that tell how they do, live."""

from __future__ import annotations

import argparse
from typing import Final

from sansio_cache_cli import options as given

DESCRIPTION: Final = """\
Shows a server, and the programs on it, as they do: hit rate, operations a second,
latency, memory. What it shows of the server it asks with INFO. A program is shown where
it exports its statistics, export_stats(cache), which tells them every 2 s.

On a terminal it goes on until Ctrl-C; elsewhere it shows one interval.
"""
EXAMPLES: Final = """\
examples:
  sansio-cache top --namespace shop --url redis://localhost:6379
  sansio-cache top --namespace shop --count 12 --json --url redis://localhost:6379
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `top`."""
    given.add_url(parser)
    given.add_namespace(parser)
    given.add_number(parser, "--interval", given.seconds(0.2, 60), 2.0, "S", "seconds between two looks")
    parser.add_argument(
        "--count",
        type=given.whole(1, 1_000_000),
        metavar="N",
        help="how many looks (default: until Ctrl-C on a terminal, else 1)",
    )
    given.add_timeout(parser)
    given.add_json(parser, "a JSON object a look")


def run(options: argparse.Namespace) -> int:
    """Show the server and the programs."""
    from sansio_cache_cli.watching import watch

    return watch(options)
