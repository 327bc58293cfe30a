"""Tables: what the demo has found, for people."""

from __future__ import annotations

from collections import Counter
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sansio_cache_cli.figures import Outcome, PhaseFigures, percentile

_BAR: Final = 22
_BUCKETS: Final = 10
"""How many rows the histogram has."""
_LEGEND: Final = (
    "\nloads per expiry: in the last phase, per entry or completed write\n"
    "hit rate: requests that cost no query\n"
    "stale reads: answers older than a write that was completed before the read began"
)


def show_outcome(outcome: Outcome, console: Console) -> None:
    """Print everything."""
    _print(console, "Counted by the readers and at the database", _counted(outcome))
    console.print(_LEGEND, style="dim", highlight=False)
    _print(console, "The library's own account, Cache.stats()", _account(outcome))
    expiring = [each for each in outcome.phases if each.phase.expires]
    if any(each.ttls_ms for each in expiring):
        ttl_s = expiring[0].phase.policy.ttl if expiring[0].phase.policy else 0.0
        _print(console, f"Times to live that were written, for a ttl of {ttl_s:g} s", _histogram(expiring))
        console.print()
        for each in expiring:
            console.print(_lifetimes(each), style="dim", highlight=False)
    console.print()
    _verdict(outcome, console)


def _print(console: Console, title: str, table: Table) -> None:
    console.print(f"\n[bold]{title}[/]\n", highlight=False)
    console.print(table)


def _table(*numbers: str) -> Table:
    """A table of phases, with columns of numbers; narrow enough for 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("phase", no_wrap=True, vertical="bottom")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _counted(outcome: Outcome) -> Table:
    table = _table(
        "\nrequests",
        "database\nqueries",
        "loads per\nexpiry",
        "hit\nrate %",
        "p50\nms",
        "p99\nms",
        "stale\nreads",
    )
    for each in outcome.phases:
        table.add_row(
            each.phase.name,
            f"{each.requests:,}",
            f"{each.queries:,}",
            "-" if each.loads is None else f"{each.loads:.2f}",
            "-" if each.phase.policy is None else f"{each.hit_rate:.2f}",
            _ms(each.p50_s),
            _ms(each.p99_s),
            Text(f"{each.stale:,}", style="bold red" if each.stale else "green"),
        )
    return table


def _ms(seconds: float) -> str:
    ms = seconds * 1000
    return f"{ms:.2f}" if ms < 10 else f"{ms:,.0f}"


def _account(outcome: Outcome) -> Table:
    table = _table("requests", "hits", "misses", "shared", "loads", "stored", "agrees")
    for each in outcome.phases:
        if each.phase.policy is not None:
            account = each.account
            numbers = (
                account.requests,
                account.hits,
                account.misses,
                account.shared,
                account.loads,
                account.stored,
            )
            verdict = Text("yes", style="green") if each.is_account_true else Text("NO", style="bold red")
            table.add_row(each.phase.name, *(f"{number:,}" for number in numbers), verdict)
    return table


def _histogram(expiring: list[PhaseFigures]) -> Table:
    """Times to live side by side, in rows of equal width from the shortest to the longest possible."""
    policies = [each.phase.policy for each in expiring if each.phase.policy is not None]
    base_ms = policies[0].ttl * 1000
    width_ms = base_ms * max(policy.jitter.high for policy in policies) / _BUCKETS
    counts = [
        Counter(min(int((ttl - base_ms) / width_ms), _BUCKETS - 1) for ttl in each.ttls_ms)
        for each in expiring
    ]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("from ms", justify="right", no_wrap=True)
    for each in expiring:
        table.add_column(each.phase.name, no_wrap=True, min_width=_BAR + 6)
    for bucket in range(_BUCKETS):
        bars = (_bar(count[bucket], max(count.values(), default=0)) for count in counts)
        table.add_row(f"{base_ms + width_ms * bucket:.0f}", *bars)
    return table


def _bar(count: int, most: int) -> Text:
    if not count:
        return Text("")
    length = max(round(count * _BAR / most), 1)
    return Text("█" * length, style="cyan").append(f" {count}", style="default")


def _lifetimes(each: PhaseFigures) -> str:
    if not each.lifetimes_s:
        return f"{each.phase.name}: no entry expired"
    shortest, middle, longest = (percentile(each.lifetimes_s, percent) * 1000 for percent in (0, 50, 100))
    return (
        f"{each.phase.name}: {len(each.lifetimes_s)} expiries, next query after {shortest:.0f} to "
        f"{longest:.0f} ms, median {middle:.0f}"
    )


def _verdict(outcome: Outcome, console: Console) -> None:
    for each in outcome.phases:
        if each.account.gave_up:
            console.print(
                f"{each.phase.name}: {each.account.gave_up:,} times the server did not answer in time, and "
                "the database was asked.",
                style="yellow",
                highlight=False,
            )
        if each.undelivered:
            console.print(
                f"{each.undelivered:,} writes are not counted as completed: the server could not be told at "
                "once.",
                style="yellow",
                highlight=False,
            )
    problems = outcome.problems()
    for problem in problems:
        console.print(Text(problem, style="bold red"))
    if not problems:
        answers = sum(each.requests for each in outcome.phases)
        writes = sum(each.writes for each in outcome.phases)
        console.print(
            f"No stale read in {answers:,} answers and {writes:,} writes; every total is right.",
            style="bold green",
            highlight=False,
        )
