"""Lifetimes: how long the entries of a namespace live, on the screen."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from sansio_cache_cli.failures import FOUND, OK
from sansio_cache_cli.lives import Bucket, Lives, lives_of, plain
from sansio_cache_cli.nodes import open_servers
from sansio_cache_cli.output import Screen, bar, print_json, table
from sansio_cache_cli.sampling import Sample, no_such_namespace, take_samples
from sansio_cache_cli.words import exact, printable

_MOST_ENTITIES = 12
_MOST_NAMES = 5


def show_lifetimes(options: argparse.Namespace) -> int:
    """Show how long the entries of a namespace live; returns the exit status."""
    with open_servers(options.url, options.namespace, options.timeout) as servers:
        pattern = servers[0].config.keys.glob(options.pattern)
        sample = take_samples(servers, pattern, options.sample, options.seconds)
        if not sample.entries:
            raise no_such_namespace(servers, options.namespace, options.pattern)
    lives = lives_of(sample.entries)
    if options.json:
        gone_through = {"keys": sample.count, "is_whole": sample.is_whole, "without_ttl": sample.persistent}
        print_json({"namespace": options.namespace, **gone_through, **plain(lives)})
    else:
        _show(lives, sample, Screen())
    return FOUND if sample.persistent else OK


def _show(lives: Lives, sample: Sample, screen: Screen) -> None:
    more = "" if sample.is_whole else ", and more: the time was up"
    screen.say(
        f"{sample.count:,} keys{more}; looked at {lives.count:,}, of which {lives.values:,} hold a value"
    )
    _histogram("Time to live, as it was when the value was stored", lives.lives, screen)
    _histogram("Left until it is loaded again", lives.remaining, screen)
    if lives.entities:
        rows = table(
            "entity",
            "keys",
            "shortest",
            "median",
            "longest",
            "spread",
            numbers=("keys", "shortest", "median", "longest", "spread"),
        )
        for each in lives.entities[:_MOST_ENTITIES]:
            times = map(exact, (each.shortest_s, each.median_s, each.longest_s))
            rows.add_row(printable(each.entity), f"{each.count:,}", *times, f"{100 * each.spread:.1f} %")
        screen.say()
        screen.rows(rows)
    screen.say()
    screen.say(f"most at once: {lives.together:,} are loaded again in the same second")
    if lives.stale:
        screen.say(f"stale: {lives.stale:,} are kept past their time to live")
    if lives.foreign:
        screen.say(f"foreign: {lives.foreign:,} were written by another program, or another version")
    if sample.persistent:
        names = ", ".join(map(printable, sample.persistent[:_MOST_NAMES]))
        more = " …" if len(sample.persistent) > _MOST_NAMES else ""
        screen.say((f"no time to live ({len(sample.persistent):,}): {names}{more}", "bold red"))


def _histogram(title: str, buckets: Sequence[Bucket], screen: Screen) -> None:
    if not buckets:
        return
    rows = table("from", "to", "keys", numbers=("from", "to"))
    most = max(each.count for each in buckets)
    for each in buckets:
        rows.add_row(exact(each.from_s), exact(each.to_s), bar(each.count, most))
    screen.say()
    screen.say((title, "bold"))
    screen.rows(rows)
