"""`sansio-cache check`: a server and a namespace, verified."""

from __future__ import annotations

import argparse
from typing import Final

from sansio_cache_cli import options as given

DESCRIPTION: Final = """\
Verifies a server and a namespace, and says a verdict a line: whether it answers and how
quickly, what the user of the URL may do, memory, eviction and durability, the hit rate,
the clock, and of a sample of the keys how long they live and which have no time to live.

  ok       as it should be
  note     to be known; nothing is wrong
  warning  works, and will hurt
  problem  is wrong

The exit code is 1 if there is a problem; with --strict, also if there is a warning.
"""
EXAMPLES: Final = """\
examples:
  sansio-cache check --namespace shop --url redis://localhost:6379
  sansio-cache check --namespace shop --durable --strict --url redis://localhost:6379
  sansio-cache check --namespace shop --json --url redis://localhost:6379
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `check`."""
    given.add_url(parser)
    given.add_namespace(parser)
    parser.add_argument("--strict", action="store_true", help="exit with 1 for a warning as well")
    parser.add_argument(
        "--durable",
        action="store_true",
        help="what is on the server must stay: queues of writes, sessions. A policy that evicts any key, and "
        "a server that does not write to disk, are problems then; one that evicts keys with a time to live, "
        "which queues have not, is a warning; noeviction is right",
    )
    given.add_number(
        parser,
        "--most-clock-offset",
        given.seconds(0.001, 86_400),
        1.0,
        "S",
        "seconds that the server's clock may differ from this machine's",
    )
    given.add_number(
        parser,
        "--least-hit-rate",
        given.percent,
        0.0,
        "PERCENT",
        "a lower hit rate of the server is a problem",
    )
    given.add_sample(parser)
    given.add_timeout(parser)
    given.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Show the verdicts."""
    from sansio_cache_cli.checking import check

    return check(options)
