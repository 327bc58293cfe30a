"""`sansio-cache letters`: the queued writes of an entity that were given up."""

from __future__ import annotations

import argparse
from typing import Final

from sansio_cache_cli import options as given

DESCRIPTION: Final = """\
Lists the dead letters of an entity that writes behind: the writes that were given up,
each with its key, its fencing token and the reason. --replay queues them anew, but those
after which a later write of their key was queued; --drop forgets them.

The exit code is 1 where letters that were asked for are left, else 0.
"""
EXAMPLES: Final = """\
examples:
  sansio-cache letters shop.entities:users
  sansio-cache letters shop.entities:users --values --key shop:user:7
  sansio-cache letters shop.entities:users --replay
  sansio-cache letters shop.entities:users --drop --yes
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `letters`."""
    given.add_entity(parser)
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="KEY",
        help="only the letters of this key, whole or inside the namespace; may be given several times",
    )
    parser.add_argument("--values", action="store_true", help="show what was to be written, too")
    todo = parser.add_mutually_exclusive_group()
    todo.add_argument("--replay", action="store_true", help="queue them anew")
    todo.add_argument("--drop", action="store_true", help="forget them")
    parser.add_argument("--yes", action="store_true", help="do not ask before --drop")
    given.add_json(parser, "a JSON object a line")


def run(options: argparse.Namespace) -> int:
    """List them, and do what is asked."""
    from sansio_cache_cli.letters import letters

    return letters(options)
