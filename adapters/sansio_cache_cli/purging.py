"""Purging: removing the keys that match a pattern, once somebody has said so."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sansio_cache.url import read_url
from sansio_cache_cli.failures import MISUSED, OK, CommandError
from sansio_cache_cli.output import Screen, print_json
from sansio_cache_cli.sampling import no_such_namespace
from sansio_cache_cli.server import Server, config_of
from sansio_cache_cli.words import printable
from sansio_cache_redis.sync import Cache


def purge(options: argparse.Namespace) -> int:
    """Remove the keys of a namespace that match a pattern; returns the exit status."""
    store = read_url(options.url)
    if not store.is_cluster:
        with Server(options.url, options.namespace, options.timeout) as server:
            if not any(any(page) for page in server.scan(server.config.keys.everything())):
                raise no_such_namespace([server], options.namespace)
    config, place = config_of(options.url, options.namespace, options.timeout), store.place
    with Cache.from_config(config) as cache:
        with _bar("counting", None) as move:
            counted = cache.delete_pattern(options.pattern, dry_run=True, progress=move)
        if not counted.complete:
            raise CommandError(f"the keys at {place} cannot be counted: the server did not answer in time")
        found = f"{counted.matched:,} keys of the namespace {options.namespace!r} at {place}"
        if options.dry_run or not counted.matched:
            return _tell(options, counted.matched, 0, f"{found} match {printable(options.pattern)!r}")
        if not options.yes:
            confirm(f"{found} match {printable(options.pattern)!r}", "is removed", "Remove them")
        with _bar("removing", counted.matched) as move:
            result = cache.delete_pattern(options.pattern, progress=move)
    if not result.complete:
        raise CommandError(
            f"removed {result.deleted:,} keys, and broke off: the server did not answer in time. Some are "
            "left: run it again"
        )
    return _tell(options, counted.matched, result.deleted, f"removed {result.deleted:,} keys")


def confirm(what: str, done: str, question: str) -> None:
    """Ask; whoever cannot be asked has not confirmed.

    Args:
        what: What it is about.
        done: What is done to it, as in `is removed`.
        question: What is asked, without its mark.

    Raises:
        CommandError: Nobody has confirmed.
    """
    if not sys.stdin.isatty():
        raise CommandError(
            f"{what}. Nothing {done}: there is no terminal to ask at, and --yes was not given", MISUSED
        )
    sys.stderr.write(f"{what}. {question}? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise CommandError(f"nothing {done}", MISUSED)


def _tell(options: argparse.Namespace, matched: int, removed: int, said: str) -> int:
    if options.json:
        print_json({"matched": matched, "removed": removed, "dry_run": options.dry_run})
    else:
        Screen().say(said)
    return OK


@contextmanager
def _bar(what: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """A progress bar on the terminal, and what moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(what, total=total)

        def move(count: int) -> None:
            # SCAN may find a key twice, and keys that are added meanwhile: no more than all.
            progress.update(task, completed=count if total is None else min(count, total))

        yield move
