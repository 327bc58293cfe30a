"""The demo's arithmetic: what counts as one load too many, as a stale or wrong answer, as a problem."""

from __future__ import annotations

import io
from collections import Counter

import attrs
import pytest
from rich.console import Console

from sansio_cache import NO_JITTER, Jitter, Policy
from sansio_cache_cli.board import Board
from sansio_cache_cli.database import Database, Query, Report, Totals, build
from sansio_cache_cli.figures import Outcome, figures_of, percentile, rounds_of
from sansio_cache_cli.phases import Phase
from sansio_cache_cli.readers import Account, Harvest, Reader, RecordingPolicy
from sansio_cache_cli.tables import show_outcome
from sansio_cache_cli.writer import Recorder
from sansio_cache_redis.sync import Cache

UNCACHED = Phase(name="no cache", title="", requests=10, policy=None)
CACHED = Phase(name="stampede", title="", requests=10, policy=Policy(ttl=600))
EXPIRY = Phase(name="expiry", title="", requests=10, policy=Policy(ttl=0.5, jitter=NO_JITTER), expires=True)
SPREAD = Phase(name="expiry, jitter", title="", requests=10, policy=Policy(ttl=0.5), expires=True)
REPORT = Report(shop=0, version=0, orders=10, total_cents=1000, customers=5, best_product=1)


@pytest.fixture
def database(tmp_path):
    totals = build(tmp_path / "orders.db", 800)
    with Database(tmp_path / "orders.db") as database:
        database.totals = totals
        yield database


def ask(reader, answer):
    with reader.request() as request:
        request.answer = answer(request)


def test_a_query_before_the_entry_can_have_expired_is_a_load_too_many():
    first, second = Query(0, 0.0, 0.1), Query(0, 0.05, 0.2)
    after_expiry = Query(0, 0.61, 0.7)
    other_shop = Query(1, 0.05, 0.1)
    rounds = rounds_of([after_expiry, second, other_shop, first], 0.5)
    assert rounds.count == 3
    assert rounds.lifetimes_s == pytest.approx((0.51,))


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (99, 99), (100, 100), (0, 1)])
def test_a_percentile_is_the_number_that_so_many_do_not_exceed(percent, expected):
    assert percentile(list(range(100, 0, -1)), percent) == expected


def test_a_read_that_misses_a_completed_write_is_stale_and_one_that_overlaps_it_is_not(database):
    board = Board(shops=8, readers=1)
    reader = Reader(0, UNCACHED, database, board)
    for shop in range(8):
        board.complete(shop, 1)
    ask(reader, lambda request: attrs.evolve(REPORT, shop=request.shop, version=0))
    assert reader.harvest.stale == 1
    ask(reader, lambda request: attrs.evolve(REPORT, shop=request.shop, version=1))

    def completed_meanwhile(request):
        board.complete(request.shop, 2)
        return attrs.evolve(REPORT, shop=request.shop, version=1)

    ask(reader, completed_meanwhile)
    assert reader.harvest.stale == 1
    assert (reader.harvest.requests, board.asked) == (3, 3)


def test_an_answer_about_another_shop_is_an_error(database):
    reader = Reader(0, UNCACHED, database, Board(shops=8, readers=1))
    ask(reader, lambda request: attrs.evolve(REPORT, shop=request.shop + 1))
    assert sum(reader.harvest.errors.values()) == 1
    assert reader.harvest.latencies_s == []


def test_every_version_of_a_report_adds_up_to_what_the_ledger_says(database):
    recorder = Recorder.beginning_with(database.totals)
    assert recorder.agrees(database.report(3))
    version = database.add_cents(3, 7, 250)
    changed = database.report(3)
    assert changed.version == version == 1
    assert not recorder.agrees(changed)
    recorder.enter(3, version, 250)
    assert recorder.agrees(changed)
    assert not recorder.agrees(attrs.evolve(changed, total_cents=changed.total_cents - 250))
    assert len(database.queries) == 2


def test_each_thing_that_must_not_happen_is_a_problem():
    recorder = Recorder.beginning_with({0: Totals(10, 1000)})
    good = Harvest(
        requests=3,
        latencies_s=[0.1] * 3,
        answers={REPORT},
        queries=[Query(0, 0.0, 0.1)],
        account=Account(requests=3, hits=2, misses=1, loads=1, stored=1),
    )

    def problems(**changes):
        harvest = attrs.evolve(good, **changes)
        figures = figures_of(CACHED, harvest, recorder, took_s=1.0, writes=0, undelivered=0)
        return Outcome((figures,)).problems()

    assert problems() == []
    assert problems(stale=1) == ["stampede: 1 of 3 answers were stale"]
    [wrong] = problems(answers={attrs.evolve(REPORT, total_cents=999)})
    assert "do not add up" in wrong
    [error] = problems(errors=Counter({"OperationalError: disk I/O error": 2}))
    assert "2 x OperationalError: disk I/O error" in error
    for untrue in (
        Account(requests=2, hits=1, misses=1, loads=1),
        Account(requests=3, hits=1, misses=1, loads=1),
        Account(requests=3, hits=2, misses=1, loads=2),
    ):
        [unlike] = problems(account=untrue)
        assert "statistics are not what was counted" in unlike


def test_the_times_to_live_that_are_shown_are_those_that_the_server_holds(redis_url, redis_client, namespace):
    for jitter in (NO_JITTER, Jitter()):
        policy = RecordingPolicy.like(Policy(ttl=600, jitter=jitter))
        with Cache.from_url(redis_url, namespace=namespace) as cache:
            key = cache.key.build("report", str(jitter))
            cache.get_or_load(key, lambda: 1, policy=policy)
        left_ms = redis_client.pttl(key)
        redis_client.delete(key)
        # 10 s are the time that this test may take from the fill to here, and a sixth of the jitter.
        [given_ms] = policy.given_ms
        assert given_ms - 10_000 < left_ms <= given_ms


@pytest.mark.parametrize("width", [80, 100])
def test_the_tables_fit_the_terminal_with_large_figures_too(width):
    recorder = Recorder.beginning_with({0: Totals(10, 1000)})
    figures = []
    for phase in (UNCACHED, CACHED, EXPIRY, SPREAD):
        account = Account(1_000_000, 999_990, 100_010, 100_010, 100_000, 100_000)
        queries = [Query(0, turn * 1.5, turn * 1.5 + 0.1) for turn in range(50)]
        ttls_ms = [] if phase.policy is None else [round(phase.policy.ttl * 1000)] * 1000
        harvest = Harvest(1_000_000, 100_000, [12.0], {REPORT}, ttls_ms, Counter(), queries, account)
        figures.append(figures_of(phase, harvest, recorder, took_s=1.0, writes=3, undelivered=2))
    text = io.StringIO()
    show_outcome(Outcome(tuple(figures)), Console(file=text, width=width))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    assert "1000" in next(line for line in lines if "█" in line)
    # Nothing was wrapped: each of these is a line of its own, to its end.
    assert any(line.startswith("expiry: 49 expiries") and "median 1400" in line for line in lines)
    assert any(line.startswith("stale reads:") and line.endswith("read began") for line in lines)
