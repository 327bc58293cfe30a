"""What the library set out to reach, held to the figures on the pages of the benchmarks."""

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

PAGES = Path(__file__).parents[1] / "benchmarks"
THROUGHPUT, WORK = "throughput, times redis-py", "work per CPU, times redis-py"
EACH, CPU_EACH, GLIDE = "µs each", "CPU µs each", "sansio-cache is times"
OF_A_SET = "times a plain SET"
_IN_TURN = "of 20,000 keys in turn"
ASYNCIO, TRIO, THREADS = "sansio-cache, asyncio", "sansio-cache, trio", "sansio-cache"


class Aim(Struct, frozen=True):
    """A figure of one row, or its ratio to that of another row, and what it was to be.

    Attributes:
        what: What people read.
        page: The case.
        under: The conditions; none where the least figure under any is meant.
        who: The row; of all conditions, those that begin with this.
        column: The heading of the figure.
        than: The row that it is compared with, where the figure by itself says little.
        at_least: What it was to be at least.
        at_most: What it was to be at most.
    """

    what: str
    page: str
    under: str
    who: str
    column: str
    than: str = ""
    at_least: float = 0.0
    at_most: float = 0.0

    def missed_by(self, found: float) -> float:
        """How far the figure is from the aim, as a ratio: above 1 it is missed."""
        return self.at_least / found if self.at_least else found / self.at_most


def _hits() -> Iterator[Aim]:
    aims = {
        (ASYNCIO, "asyncio", "caller"): {1: 1.4, 50: 8, 500: 9},
        (TRIO, "trio", "caller"): {50: 5.5, 500: 6},
        (THREADS, "threads", "thread"): {1: 2, 8: 2.5, 32: 3.5},
    }
    for transport in ("tcp", "unix"):
        for (who, runtime, unit), by_count in aims.items():
            for count, least in by_count.items():
                under = f"{transport}, 200 B, {count} {unit}{'s' if count > 1 else ''}"
                what = f"hits, times redis-py: {runtime}, {under}"
                yield Aim(what, "get-hit", under, who, THROUGHPUT, at_least=least)
        under = f"{transport}, 200 B, 1 thread"
        what = f"hits per CPU, times redis-py: {under}"
        yield Aim(what, "get-hit", under, THREADS, WORK, at_least=1.5)
    yield Aim(
        "hits, times valkey-glide, where that is least", "get-hit", "", "valkey-glide", GLIDE, at_least=1
    )


def _besides() -> Iterator[Aim]:
    for who, under in ((ASYNCIO, "50 callers"), (TRIO, "50 callers"), (THREADS, "8 threads")):
        runtime = who.rpartition(", ")[2] if ", " in who else "threads"
        said = f"{runtime}, {under}"
        for what, page, size, row, most in (
            ("with one tag, times one without", "tags", "2 kB", "one tag", 1.35),
            ("with `ttl=`, times one without", "get_or_load-hit", "tcp, 2 kB", "with ttl=", 1.1),
            ("of 20,000 keys in turn, times one key", "many-keys", "tcp, 200 B", _IN_TURN, 1.15),
        ):
            what_for = f"a hit {what}: {said}"
            yield Aim(what_for, page, f"{size}, {under}", f"{who}: {row}", EACH, who, at_most=most)


def _misses() -> Iterator[Aim]:
    of_misses = "tcp, 2 kB, 50 callers"
    what = "CPU of a miss, times redis-py without a guard: asyncio, 50 callers"
    yield Aim(what, "miss", of_misses, ASYNCIO, CPU_EACH, "redis.asyncio", at_most=0.75)
    for who, than, unit in ((ASYNCIO, "redis.asyncio", "caller"), (THREADS, "redis-py", "thread")):
        under = f"100 B, 100 keys a call, 100 of them missing, 1 {unit}"
        what = f"CPU of 100 missing keys in a batch, times MGET and SETs: 1 {unit}"
        yield Aim(what, "get_or_load_many", under, who, CPU_EACH, than, at_most=1.1)


def _on_a_cluster() -> Iterator[Aim]:
    for who, runtime, unit, by_count in (
        (ASYNCIO, "asyncio", "caller", {1: 1.3, 50: 6, 500: 6}),
        (THREADS, "threads", "thread", {1: 1.5, 8: 2, 32: 3}),
    ):
        for count, least in by_count.items():
            callers = f"{count} {unit}{'s' if count > 1 else ''}"
            what = f"hits on a cluster, times RedisCluster: {runtime}, {callers}"
            yield Aim(what, "cluster", f"get, 200 B, {callers}", who, THROUGHPUT, at_least=least)
            if count == max(by_count):  # batches are for fewer callers
                continue
            what = f"batches of 100 on a cluster, times `mget_nonatomic`: {runtime}, {callers}"
            under = f"get_many, 200 B, 100 keys a call, {callers}"
            yield Aim(what, "cluster", under, who, THROUGHPUT, at_least=4)


def _of_the_server() -> Iterator[Aim]:
    aims = {
        ("200 B", 1): {"set": 8, "get_or_load, missing": 8},
        ("20 kB", 1): {"set": 2, "get_or_load, missing": 2},
        ("200 B", 100): {"set_many": 3, "get_or_load_many, missing": 3},
    }
    for (size, count), by_call in aims.items():
        for call, most in by_call.items():
            what = f"CPU of the server for each key, times a plain SET: {call}, {size}"
            yield Aim(what, "server-CPU", f"{size}, {count} keys a call", call, OF_A_SET, at_most=most)


AIMS = (*_hits(), *_besides(), *_misses(), *_on_a_cluster(), *_of_the_server())


def rows_of(page: str) -> list[dict[str, str]]:
    """The rows of the last table of a page, by the headings."""
    lines = [line for line in page.partition("## Figures\n")[2].splitlines() if line.startswith("| ")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(head, row, strict=True)) for row in rows]


def found_for(aim: Aim, directory: Path = PAGES) -> float:
    """The figure of an aim.

    Raises:
        LookupError: The page has no such row.
    """
    rows = rows_of((directory / f"{aim.page}.md").read_text(encoding="utf-8"))

    def figures(who: str) -> list[float]:
        found = [
            float(row[aim.column].replace(",", ""))
            for row in rows
            if (row["under"] == aim.under and row["who"] == who)
            or (not aim.under and row["who"].startswith(who))
            if row[aim.column]
        ]
        if not found:
            raise LookupError(f"{aim.page}.md has no figure of {who} under {aim.under!r}")
        return found

    return min(figures(aim.who)) / (figures(aim.than)[0] if aim.than else 1.0)


def judged() -> list[tuple[Aim, float]]:
    """All aims with what was found: those that are missed first, by how far."""
    return sorted(((aim, found_for(aim)) for aim in AIMS), key=lambda each: -each[0].missed_by(each[1]))
