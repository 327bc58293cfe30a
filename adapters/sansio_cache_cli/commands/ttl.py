"""`sansio-cache ttl`: how long the entries of a namespace live."""

from __future__ import annotations

import argparse
from typing import Final

from sansio_cache_cli import options as given

DESCRIPTION: Final = """\
Shows how long the entries of a namespace were to stay fresh when they were stored, where
jitter is visible, and how long they have left. Looks into a sample of the keys.
The exit code is 1 if there are none, or if one has no time to live.
"""
EXAMPLES: Final = """\
examples:
  sansio-cache ttl --namespace shop --url redis://localhost:6379
  sansio-cache ttl 'user:*' --namespace shop --sample 100000 --url redis://localhost:6379
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ttl`."""
    parser.add_argument(
        "pattern",
        nargs="?",
        default="*",
        metavar="PATTERN",
        help="a Redis glob inside the namespace (default: *)",
    )
    given.add_url(parser)
    given.add_namespace(parser)
    given.add_sample(parser)
    given.add_timeout(parser)
    given.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Show the histograms."""
    from sansio_cache_cli.lifetimes import show_lifetimes

    return show_lifetimes(options)
