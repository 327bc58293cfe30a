"""`sansio-cache demo`: many readers and a writer on a real database."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from typing import Any, Final

from sansio_cache_cli import options as given
from sansio_cache_cli.failures import FOUND, OK, CommandError

DESCRIPTION: Final = """\
A real job, five times: many readers ask at once for the same few expensive reports
on a database of shop orders (SQLite, in a temporary directory, removed at the end).

  1. no cache          every request is a query
  2. stampede          an empty cache, all ask at once, then hits
  3. expiry            entries expire together ...
  4. expiry, jitter    ... and spread by jitter
  5. writes            a writer updates rows and invalidates, one transaction each

Every answer carries the version of the data it was made from. A read is counted as
stale if that is older than a write that was completed before the read began; every
total is compared with what the writer has written. The exit code is 0 only if no
stale read, no wrong total and no error was seen.
"""
EXAMPLES: Final = """\
examples:
  sansio-cache demo
  sansio-cache demo --runtime trio
  sansio-cache demo --url redis://localhost:6379 --readers 100 --processes 4
  sansio-cache demo --rows 1000000 --ttl 1 --requests 300
"""
_RUNTIMES: Final = ("threads", "asyncio", "trio")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `demo`."""
    parser.add_argument(
        "--url",
        default=given.MEMORY_SCHEME,
        help="a server: redis://, rediss:// or unix://; keys live in a namespace of this run, which is "
        "cleared at the end (default: memory://, this process's memory)",
    )
    parser.add_argument(
        "--runtime", choices=_RUNTIMES, default="threads", help="what readers run on (default: threads)"
    )
    given.add_number(parser, "--readers", given.whole(1, 200), 40, "N", "how many ask at once")
    parser.add_argument(
        "--processes",
        type=given.whole(1, 16),
        metavar="N",
        help="processes that share the readers (default: 2 with a server, 1 with memory://)",
    )
    given.add_json(parser)
    size = parser.add_argument_group("size of the job")
    given.add_number(size, "--rows", given.whole(8, 10_000_000), 300_000, "N", "orders in the database")
    given.add_number(
        size,
        "--requests",
        given.whole(1, 100_000),
        150,
        "N",
        "requests of each reader in a phase; a 30th of it without a cache. No phase takes longer than 10 s",
    )
    given.add_number(
        size,
        "--ttl",
        given.seconds(0.05, 10),
        0.5,
        "S",
        "seconds that entries live in the phases where they expire",
    )


def run(options: argparse.Namespace) -> int:
    """Run the demo, and show what was counted."""
    _check(options)
    import sqlite3

    from sansio_cache_cli.demo import run_demo
    from sansio_cache_cli.output import Output, print_json
    from sansio_cache_cli.phases import Settings
    from sansio_cache_cli.tables import show_outcome
    from sansio_cache_cli.workers import WorkerError

    settings = Settings(
        url=options.url,
        runtime=options.runtime,
        readers=options.readers,
        processes=options.processes,
        rows=options.rows,
        requests=options.requests,
        ttl_s=options.ttl,
    )
    console = Output()
    console.quiet = options.json
    try:
        outcome = run_demo(settings, console)
    except BrokenPipeError:
        raise
    except (WorkerError, sqlite3.Error, OSError) as error:
        raise CommandError(str(error)) from None
    if options.json:
        print_json({"phases": [_plain(each) for each in outcome.phases], "problems": outcome.problems()})
    else:
        show_outcome(outcome, console)
    return FOUND if outcome.problems() else OK


def _plain(figures: Any) -> dict[str, Any]:
    names = ("took_s", "requests", "queries", "loads", "hit_rate", "p50_s", "p99_s", "stale", "wrong")
    counted = {name: getattr(figures, name) for name in (*names, "writes", "undelivered")}
    return {"phase": figures.phase.name, **counted, "errors": dict(figures.errors)}


def _check(options: argparse.Namespace) -> None:
    """Refuse options that contradict each other; fill in what depends on others."""
    is_embedded = options.url.lower().startswith(given.MEMORY_SCHEME)
    if options.processes is None:
        options.processes = 1 if is_embedded else min(2, options.readers)
    if is_embedded and options.processes > 1:
        options.refuse(
            "memory:// is the memory of one process: leave --processes out, or give --url redis://..."
        )
    if options.processes > options.readers:
        options.refuse(
            f"--processes {options.processes} is more than --readers {options.readers}: "
            "every process needs a reader"
        )
    if options.runtime == "trio" and find_spec("trio") is None:
        options.refuse("--runtime trio needs trio, which is not installed: pip install trio")
