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

Only this machine is asked, unless --allow-remote is given: it is a load test. No URL is
taken from the environment. On a server the keys live in a namespace of this run, which
is cleared at the end.
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
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--url", help="a server: redis://, rediss:// or unix://; or memory://")
    target.add_argument(
        "--http", metavar="URL", help="a web page, asked for with GET; {n} in it is a number below --keys"
    )
    parser.add_argument(
        "--allow-remote", action="store_true", help="ask another machine than this one: one of your own"
    )
    given.add_number(parser, "--callers", given.whole(1, 200), 32, "N", "threads that ask at once")
    given.add_number(
        parser, "--requests", given.whole(1, 1_000_000), 100_000, "N", "requests in all, at most"
    )
    given.add_number(parser, "--seconds", given.seconds(0.1, 300), 10.0, "S", "how long at most")
    given.add_number(
        parser, "--keys", given.whole(1, 100_000), 20, "N", "entries that are asked for, by chance"
    )
    given.add_number(
        parser,
        "--ttl",
        given.seconds(0.05, 3600),
        1.0,
        "S",
        "seconds that an entry lives; 10 to 20 %% are added",
    )
    given.add_number(parser, "--load-ms", given.whole(0, 10_000), 20, "MS", "milliseconds that a load takes")
    given.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the test, and show what was measured."""
    if not options.url and not options.http:
        options.refuse(
            f"one of the arguments --url --http is required: {given.URL_VARIABLE} is not read here, so that "
            "no server is put under load that was not named in the command"
        )
    from sansio_cache_cli.loading import load_test

    return load_test(options)
