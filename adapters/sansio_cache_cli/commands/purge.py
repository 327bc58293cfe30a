"""`sansio-cache purge`: keys of a namespace, removed."""

from __future__ import annotations

import argparse
from typing import Final

from sansio_cache_cli import options as given

DESCRIPTION: Final = """\
Removes the keys of a namespace that match a Redis glob, as an invalidation does: a load
that is under way cannot store what it read before. Counts them first, and asks; where
nobody can be asked, --yes says so. The cache's own records, such as tags, stay.

The exit code is 1 if it broke off and keys are left, and 2 if it was not confirmed.
"""
EXAMPLES: Final = """\
examples:
  sansio-cache purge 'user:*' --namespace shop --url redis://localhost:6379
  sansio-cache purge 'user:*' --dry-run --namespace shop --url redis://localhost:6379
  sansio-cache purge '*' --yes --json --namespace shop --url redis://localhost:6379
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `purge`."""
    parser.add_argument(
        "pattern", metavar="PATTERN", help="a Redis glob inside the namespace, such as 'user:*'"
    )
    given.add_url(parser)
    given.add_namespace(parser)
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--dry-run", action="store_true", help="count the keys, and remove nothing")
    way.add_argument("--yes", action="store_true", help="remove them without asking")
    given.add_timeout(parser)
    given.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Count the keys, ask, and remove them."""
    from sansio_cache_cli.purging import purge

    return purge(options)
