"""`sansio-cache inspect`: one key, decoded."""

from __future__ import annotations

import argparse
from typing import Final

from sansio_cache_cli import options as given

DESCRIPTION: Final = """\
Decodes what a key holds: its state, its age and what it has left to live, its tags and
whether they hold, its grant, its payload. Locks and tags are decoded as well.
The exit code is 1 if there is no such key.
"""
EXAMPLES: Final = """\
examples:
  sansio-cache inspect shop:user:1 --url redis://localhost:6379
  sansio-cache inspect user:1 --namespace shop --url redis://localhost:6379
  sansio-cache inspect shop:user:1 --payload --url redis://localhost:6379 > payload
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `inspect`."""
    parser.add_argument(
        "key", metavar="KEY", help="the whole key, as redis-cli shows it; with --namespace, a key inside it"
    )
    given.add_url(parser)
    given.add_namespace(parser, is_required=False)
    parser.add_argument(
        "--most-bytes",
        type=given.whole(128, 64 * 2**20),
        default=2**20,
        metavar="N",
        help="bytes to read at most (default: 1048576)",
    )
    parser.add_argument(
        "--payload", action="store_true", help="print the encoded value, byte for byte, and nothing else"
    )
    given.add_timeout(parser)
    given.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Show what a key is."""
    from sansio_cache_cli.inspecting import show_key

    return show_key(options)
