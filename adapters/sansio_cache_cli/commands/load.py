"""`sansio-cache load`: a bounded load test of a server, or of a web page of yours."""

from __future__ import annotations

import argparse
from typing import Final

from sansio_cache_cli import options as given

DESCRIPTION: Final = """\
Many callers ask for a few entries at once, for a bounded time: through get_or_load on a
server, whose entries expire meanwhile, or by HTTP from a web page of yours. Shows how
long calls took, and how often an entry was loaded each time it expired: 1 where nothing
is wrong.

Only this machine is asked, unless --allow-remote is given: it is a load test. On a
server the keys live in a namespace of this run, which is cleared at the end.
The exit code is 1 if a call failed.
"""
EXAMPLES: Final = """\
examples:
  sansio-cache load --url redis://localhost:6379
  sansio-cache load --url redis://localhost:6379 --callers 64 --seconds 30 --load-ms 50
  sansio-cache load --http 'http://localhost:8000/users/{n}' --keys 50
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `load`."""
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--url", help="a server: redis://, rediss:// or unix://; or memory://")
    target.add_argument(
        "--http", metavar="URL", help="a web page, asked for with GET; {n} in it is a number below --keys"
    )
    parser.add_argument(
        "--allow-remote", action="store_true", help="ask another machine than this one: one of your own"
    )
    parser.add_argument(
        "--callers",
        type=given.whole(1, 200),
        default=32,
        metavar="N",
        help="threads that ask at once (default: 32)",
    )
    parser.add_argument(
        "--requests",
        type=given.whole(1, 1_000_000),
        default=100_000,
        metavar="N",
        help="requests in all, at most (default: 100000)",
    )
    parser.add_argument(
        "--seconds",
        type=given.seconds(0.1, 300),
        default=10.0,
        metavar="S",
        help="how long at most (default: 10)",
    )
    parser.add_argument(
        "--keys",
        type=given.whole(1, 100_000),
        default=20,
        metavar="N",
        help="entries that are asked for, by chance (default: 20)",
    )
    parser.add_argument(
        "--ttl",
        type=given.seconds(0.05, 3600),
        default=1.0,
        metavar="S",
        help="seconds that an entry lives; 10 to 20 %% are added (default: 1)",
    )
    parser.add_argument(
        "--load-ms",
        type=given.whole(0, 10_000),
        default=20,
        metavar="MS",
        help="milliseconds that a load takes (default: 20)",
    )
    given.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the test, and show what was measured."""
    from sansio_cache_cli.loading import load_test

    return load_test(options)
