"""`sansio-cache consume`: a process that writes behind what a program has queued."""

from __future__ import annotations

import argparse
from typing import Final

from sansio_cache_cli import options as given

DESCRIPTION: Final = """\
Runs a consumer for an entity that writes behind: it writes what is queued to the
database, with the writer that the entity was made with. Any number of such processes
share the partitions of the queue, and take over what a dead one has left.

SIGTERM and Ctrl-C end it: what is queued is waited for, for a while, and what is left
then is told. Nothing of that is lost. A second signal ends it at once.
The exit code is 0 where nothing is left, else 1.
"""
EXAMPLES: Final = """\
examples:
  sansio-cache consume shop.entities:users
  sansio-cache consume shop.entities:users --workers 4 --drain 30
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `consume`."""
    given.add_entity(parser)
    given.add_number(parser, "--workers", int, 1, "N", "consumers in this process")
    given.add_number(
        parser,
        "--drain",
        given.seconds(0, 86_400),
        10.0,
        "S",
        "seconds to wait at the end for what is queued",
    )
    given.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Consume until a signal comes."""
    from sansio_cache_cli.consuming import consume

    return consume(options.entity, options.workers, options.drain, as_json=options.json)
