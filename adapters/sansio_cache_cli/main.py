"""The `sansio-cache` command.

Exit codes: 0 all is well; 1 something was found that should not be, or the server cannot be reached; 2 the
command cannot be run as it was given; 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec

from sansio_cache import CacheError, ConfigurationError, InvalidKeyError
from sansio_cache_cli.phases import MEMORY_SCHEME, MOST_PROCESSES, MOST_READERS, RUNTIMES, Settings

_DEMO = """\
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
_DEMO_EXAMPLES = """\
examples:
  sansio-cache demo
  sansio-cache demo --runtime trio
  sansio-cache demo --url redis://localhost:6379 --readers 100 --processes 4
  sansio-cache demo --rows 1000000 --ttl 1 --requests 300
"""
_HEALTH_EXAMPLES = """\
examples:
  sansio-cache health --url redis://localhost:6379
  sansio-cache health --url rediss://user:password@cache.example:6380 --namespace shop
"""
_EXAMPLES = """\
examples:
  sansio-cache demo
  sansio-cache demo --url redis://localhost:6379 --runtime asyncio
  sansio-cache health --url redis://localhost:6379
"""
_NO_RICH = "sansio-cache: this needs rich, which is not installed: pip install 'sansio-cache[cli]'"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser, demo = _parsers()
    try:
        options = parser.parse_args(argv)
        if options.command == "demo":
            _check_demo(demo, options)
    except SystemExit as leave:  # argparse has said why
        return int(leave.code or 0)
    if find_spec("rich") is None:
        print(_NO_RICH, file=sys.stderr)
        return 2
    try:
        return _demo(options) if options.command == "demo" else _health(options)
    except KeyboardInterrupt:
        print("sansio-cache: interrupted", file=sys.stderr)
        return 130


def _demo(options: argparse.Namespace) -> int:
    from rich.console import Console

    from sansio_cache_cli.demo import run_demo
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
    console = Console()
    try:
        outcome = run_demo(settings, console)
    except ConfigurationError as error:
        return _fail(error, 2)
    except (CacheError, WorkerError, sqlite3.Error, OSError) as error:
        return _fail(error, 1)
    show_outcome(outcome, console)
    return 1 if outcome.problems() else 0


def _health(options: argparse.Namespace) -> int:
    from rich.console import Console

    from sansio_cache_cli.health import show_health

    try:
        return 0 if show_health(options.url, options.namespace, Console()) else 1
    except (ConfigurationError, InvalidKeyError) as error:
        return _fail(error, 2)


def _fail(error: Exception, code: int) -> int:
    print(f"sansio-cache: {error}", file=sys.stderr)
    return code


def _check_demo(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse options that contradict each other; fill in what depends on others."""
    is_embedded = options.url.lower().startswith(MEMORY_SCHEME)
    if options.processes is None:
        options.processes = 1 if is_embedded else min(2, options.readers)
    if is_embedded and options.processes > 1:
        parser.error(
            "memory:// is the memory of one process: leave --processes out, or give --url redis://..."
        )
    if options.processes > options.readers:
        parser.error(
            f"--processes {options.processes} is more than --readers {options.readers}: "
            "every process needs a reader"
        )
    if options.runtime == "trio" and find_spec("trio") is None:
        parser.error("--runtime trio needs trio, which is not installed: pip install trio")


def _parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """The parser of the command, and that of `demo`."""
    parser = argparse.ArgumentParser(
        prog="sansio-cache",
        description="A read-through cache over Redis: see it work, and check a server for it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sansio-cache {version('sansio-cache')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="run many readers and a writer on a real database, and count",
        description=_DEMO,
        epilog=_DEMO_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument(
        "--url",
        default=MEMORY_SCHEME,
        help="a server: redis://, rediss:// or unix://; keys live in a namespace of this run, which is "
        "cleared at the end (default: memory://, this process's memory)",
    )
    demo.add_argument(
        "--runtime", choices=RUNTIMES, default="threads", help="what readers run on (default: threads)"
    )
    demo.add_argument(
        "--readers",
        type=_whole(1, MOST_READERS),
        default=40,
        metavar="N",
        help="how many ask at once (default: 40)",
    )
    demo.add_argument(
        "--processes",
        type=_whole(1, MOST_PROCESSES),
        metavar="N",
        help="processes that share the readers (default: 2 with a server, 1 with memory://)",
    )
    size = demo.add_argument_group("size of the job")
    size.add_argument(
        "--rows",
        type=_whole(8, 10_000_000),
        default=300_000,
        metavar="N",
        help="orders in the database (default: 300000)",
    )
    size.add_argument(
        "--requests",
        type=_whole(1, 100_000),
        default=150,
        metavar="N",
        help="requests of each reader in a phase; a 30th of it without a cache. No phase takes longer "
        "than 10 s (default: 150)",
    )
    size.add_argument(
        "--ttl",
        type=_seconds,
        default=0.5,
        metavar="S",
        help="seconds that entries live in the phases where they expire (default: 0.5)",
    )
    health = commands.add_parser(
        "health",
        help="check whether a server has what the cache needs",
        description="Tries every command that the cache needs on a key of the namespace.\n"
        "The exit code is 1 if one is refused.",
        epilog=_HEALTH_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    health.add_argument("--url", required=True, help="redis://, rediss:// or unix://")
    health.add_argument("--namespace", default="health", help="the first part of the keys (default: health)")
    return parser, demo


def _whole(low: int, high: int) -> Callable[[str], int]:
    """A type of argument: a whole number in a range."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"a whole number from {low} to {high} is needed; got {text!r}")
        return number

    return parse


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.05 <= seconds <= 10:
        raise argparse.ArgumentTypeError(f"seconds from 0.05 to 10 are needed; got {text!r}")
    return seconds
