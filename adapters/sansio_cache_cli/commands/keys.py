"""`sansio-cache keys`: the keys of a namespace."""

from __future__ import annotations

import argparse
from typing import Final

from sansio_cache_cli import options as given

DESCRIPTION: Final = """\
Lists the keys of a namespace that match a Redis glob, with what each holds and how long
it lives, as SCAN finds them. The exit code is 1 if there is none.
"""
EXAMPLES: Final = """\
examples:
  sansio-cache keys 'user:*' --namespace shop --url redis://localhost:6379
  sansio-cache keys '*' --namespace shop --json --url redis://localhost:6379
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `keys`."""
    parser.add_argument(
        "pattern", metavar="PATTERN", help="a Redis glob inside the namespace, such as 'user:*'"
    )
    given.add_url(parser)
    given.add_namespace(parser)
    given.add_number(parser, "--most", given.whole(1, 100_000_000), 1_000, "N", "keys to list at most")
    parser.add_argument(
        "--internal", action="store_true", help="list the cache's own records as well: tags, locks, variants"
    )
    given.add_timeout(parser)
    given.add_json(parser, "a JSON object a line")


def run(options: argparse.Namespace) -> int:
    """List the keys."""
    from sansio_cache_cli.listing import list_keys

    return list_keys(options)
