"""The load test: threads that ask at once, until there were enough requests or the time is up.

The cache is asked through two caches that share nothing but the server, as two processes do: so a load under
a lease of the one keeps the other from loading as well.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import random
import secrets
import sys
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import SplitResult

import attrs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sansio_cache_cli.database import Query
from sansio_cache_cli.failures import FOUND, INTERRUPTED, OK, CommandError
from sansio_cache_cli.load_figures import PERCENTS, LoadFigures, loads_per_expiry, percentiles
from sansio_cache_cli.loopback import check_page, check_store
from sansio_cache_cli.output import Screen, print_json, table
from sansio_cache_cli.words import printable, span
from sansio_cache_redis.sync import Cache

_CACHES = 2
_READY_S = 5.0
_HTTP_TIMEOUT_S = 10.0
_LOOK_S = 0.1
_MOST_ERRORS = 5

Ask = Callable[[int], None]
"""Asks for the entry of a number; what it raises is an error of the test."""


def load_test(options: argparse.Namespace) -> int:
    """Run a load test; returns the exit status."""
    measure = _measure_cache if options.url else _measure_page
    figures, is_interrupted = measure(options)
    if options.json:
        print_json(figures.plain())
    else:
        _show(figures)
    if is_interrupted:
        return INTERRUPTED
    return FOUND if figures.errors else OK


def _measure_cache(options: argparse.Namespace) -> tuple[LoadFigures, bool]:
    check_store(options.url, allow_remote=options.allow_remote)
    namespace = f"load-{secrets.token_hex(4)}"
    # In this process's memory, both caches share one store under its name.
    url = f"memory://{namespace}" if options.url.lower().startswith("memory://") else options.url
    loads: list[Query] = []

    def load(number: int) -> int:
        began_s = time.monotonic()
        time.sleep(options.load_ms / 1000)
        loads.append(Query(number, began_s, time.monotonic()))
        return number

    with ExitStack() as stack:
        caches = [stack.enter_context(Cache.from_url(url, namespace=namespace)) for _ in range(_CACHES)]
        for cache in caches:
            cache.wait_ready(_READY_S)
        stack.callback(_clear, caches[0])

        def asking(caller: int) -> Ask:
            cache = caches[caller % len(caches)]

            def ask(number: int) -> None:
                found = cache.get_or_load(f"entry:{number}", load, number, ttl=options.ttl)
                if found != number:
                    raise CommandError("an answer of another entry")

            return ask

        measured = _run(options, asking)
        gave_up = sum(sum(cache.stats().gave_up.values()) for cache in caches)
    figures = attrs.evolve(
        measured.figures(),
        loads=len(loads),
        loads_per_expiry=loads_per_expiry(loads, options.ttl),
        gave_up=gave_up,
    )
    return figures, measured.is_interrupted


def _clear(cache: Cache) -> None:
    if not cache.clear().complete:
        raise CommandError("keys of this run may be left on the server: their times to live are short")


def _measure_page(options: argparse.Namespace) -> tuple[LoadFigures, bool]:
    parts = check_page(options.http, allow_remote=options.allow_remote)
    with ExitStack() as stack:
        measured = _run(options, lambda _: _asking_page(parts, stack))
    return measured.figures(), measured.is_interrupted


def _asking_page(parts: SplitResult, stack: ExitStack) -> Ask:
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(str(parts.hostname), parts.port, timeout=_HTTP_TIMEOUT_S)
    stack.callback(connection.close)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def ask(number: int) -> None:
        try:
            connection.request("GET", target.replace("{n}", str(number)).replace("%7Bn%7D", str(number)))
            response = connection.getresponse()
            response.read()
        except BaseException:
            connection.close()  # the next request opens it anew
            raise
        if not 200 <= response.status < 400:
            raise CommandError(f"HTTP {response.status}")

    return ask


@attrs.define
class _Measured:
    """What the callers of a run have done."""

    errors: Counter[str] = attrs.field(factory=Counter)
    latencies_s: list[array[float]] = attrs.field(factory=list)
    took_s: float = 0.0
    is_interrupted: bool = False

    @property
    def requests(self) -> int:
        return sum(map(len, self.latencies_s))

    def figures(self) -> LoadFigures:
        return LoadFigures(
            requests=self.requests,
            took_s=self.took_s,
            latencies_s=percentiles(list(itertools.chain(*self.latencies_s))),
            errors=self.errors,
        )


def _run(options: argparse.Namespace, asking: Callable[[int], Ask]) -> _Measured:
    """Have the callers ask, each on a thread of its own."""
    measured = _Measured()
    turns = itertools.count()
    is_over = threading.Event()

    def call(ask: Ask, latencies_s: array[float], draw: random.Random) -> None:
        while not is_over.is_set() and next(turns) < options.requests:
            began_s = time.perf_counter()
            try:
                ask(draw.randrange(options.keys))
            except CommandError as error:
                measured.errors[str(error)] += 1
            except Exception as error:  # noqa: BLE001 - the test's result
                measured.errors[type(error).__name__] += 1
            latencies_s.append(time.perf_counter() - began_s)

    threads = []
    for caller in range(options.callers):
        latencies_s = array("d")
        measured.latencies_s.append(latencies_s)
        arguments = (asking(caller), latencies_s, random.Random(caller))  # noqa: S311
        threads.append(threading.Thread(target=call, args=arguments, name=f"load-{caller}"))
    began_s = time.monotonic()
    with _bar(options) as move:
        try:
            for thread in threads:
                thread.start()
            _watch(threads, began_s + options.seconds, lambda: move(measured.requests))
        except KeyboardInterrupt:
            measured.is_interrupted = True
        finally:
            is_over.set()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        move(measured.requests)
    measured.took_s = time.monotonic() - began_s
    return measured


def _watch(threads: list[threading.Thread], until_s: float, move: Callable[[], object]) -> None:
    """Wait until all have ended, or the time is up."""
    for thread in threads:
        while thread.is_alive() and time.monotonic() < until_s:
            thread.join(min(_LOOK_S, max(until_s - time.monotonic(), 0)))
            move()


@contextmanager
def _bar(options: argparse.Namespace) -> Iterator[Callable[[int], object]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(f"{options.callers} callers", total=options.requests)
        yield lambda count: progress.update(task, completed=count)


def _show(figures: LoadFigures) -> None:
    screen = Screen()
    screen.say(f"{figures.requests:,} requests in {figures.took_s:.1f} s: {figures.per_second:,.0f} a second")
    rows = table("of the requests", "took at most", numbers=("of the requests", "took at most"))
    for percent, latency_s in zip(PERCENTS, figures.latencies_s, strict=True):
        rows.add_row(f"{percent:g} %", span(latency_s))
    screen.say()
    screen.rows(rows)
    screen.say()
    if figures.loads is not None:
        each = figures.loads_per_expiry
        screen.say(
            f"{figures.loads:,} loads" + ("" if each is None else f": {each:.2f} each time one expired")
        )
    if figures.gave_up:
        screen.say(
            (f"{figures.gave_up:,} times the server did not answer in time, and was done without", "yellow")
        )
    for text, count in figures.errors.most_common(_MOST_ERRORS):
        screen.say((f"{count:,} x {printable(text)}", "bold red"))
    if not figures.errors:
        screen.say(("no call failed", "green"))
