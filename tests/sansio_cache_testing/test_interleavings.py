"""Interleavings: the mistakes that people make are found, and the programs that are right pass."""

import asyncio
import gc
import re
import socket
import threading
import time
import warnings
from functools import partial
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sansio_cache import ConfigurationError
from sansio_cache_testing import (
    DeadlockError,
    InterleavingError,
    ScenarioError,
    Schedule,
    StoreFault,
    World,
    WorldError,
    check,
    check_interleavings,
    replay,
    threads,
)
from sansio_cache_testing.strategies import schedules
from support import cached_programs, cached_programs_async

by_name = pytest.mark.parametrize("program", cached_programs.PROGRAMS, ids=lambda program: program.__name__)
by_name_async = pytest.mark.parametrize(
    "program", cached_programs_async.PROGRAMS, ids=lambda program: program.__name__
)
on_both_loops = pytest.mark.parametrize("loop", ["asyncio", "trio"])


def scenario_of(program, is_right):
    def scenario(world):
        program(world, is_right)

    return scenario


def async_scenario_of(program, is_right):
    async def scenario(world):
        await program(world, is_right)

    return scenario


# What is found.


@by_name
def test_a_mistake_is_found_with_the_lines_that_made_it_and_is_repeated(program):
    scenario = scenario_of(program, is_right=False)
    with pytest.raises(InterleavingError) as caught:
        check_interleavings(scenario)

    error = caught.value
    assert "without a cache it gives" in str(error)
    assert f"replay(scenario, {error.schedule!r})" in str(error)
    places = {step.place.file for finding in error.findings for step in finding.steps if step.place}
    assert places == {cached_programs.__file__}
    with pytest.raises(InterleavingError) as again:
        replay(scenario, error.schedule)
    assert str(again.value) == str(error)


@by_name
def test_a_program_that_is_right_passes(program):
    switches = {cached_programs.sets_in_a_race: 1, cached_programs.binds_late: 0}.get(program, 2)
    explored = check_interleavings(scenario_of(program, is_right=True), most_switches=switches)
    assert explored.is_complete
    assert explored.runs > 10


@on_both_loops
@by_name_async
def test_a_mistake_is_found_under_an_event_loop(program, loop):
    scenario = async_scenario_of(program, is_right=False)
    with pytest.raises(InterleavingError) as caught:
        check_interleavings(scenario, runtime=loop)

    with pytest.raises(InterleavingError) as again:
        replay(scenario, caught.value.schedule, runtime=loop)
    assert str(again.value) == str(caught.value)


@on_both_loops
@by_name_async
def test_a_program_that_is_right_passes_under_an_event_loop(program, loop):
    switches = 0 if program is cached_programs_async.binds_late else 1
    scenario = async_scenario_of(program, is_right=True)
    explored = check_interleavings(scenario, runtime=loop, most_switches=switches)
    assert explored.is_complete
    assert explored.runs > 5


def test_hypothesis_finds_a_mistake_and_shrinks_it_to_two_switches():
    scenario = scenario_of(cached_programs.invalidates_before_its_commit, is_right=False)
    found = []

    @settings(
        max_examples=500,
        database=None,
        derandomize=True,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(schedules())
    def look(schedule):
        try:
            check(scenario, schedule)
        except InterleavingError as error:
            found.append(error)
            raise

    with pytest.raises(InterleavingError):
        look()
    assert len(found[-1].schedule.split()) <= 2
    with pytest.raises(InterleavingError):
        replay(scenario, found[-1].schedule)


def test_the_diagram_has_a_column_for_each_who_takes_part_and_the_line_of_each_step():
    with pytest.raises(InterleavingError) as caught:
        check_interleavings(scenario_of(cached_programs.invalidates_before_its_commit, is_right=False))

    lines = str(caught.value).splitlines()
    head = next(line for line in lines if line.split() == ["write", "read"])
    removes = next(line for line in lines if "cache: removes row:1" in line)
    reads = next(line for line in lines if "database: reads row 1: 0" in line)
    assert removes.index("cache:") == head.index("write")
    assert reads.index("database:") == head.index("read")
    assert removes.rstrip().endswith(tuple("0123456789"))
    assert "cached_programs.py:" in removes
    mermaid = caught.value.mermaid
    assert mermaid.startswith("sequenceDiagram\n    participant p0 as write\n    participant p1 as read\n")
    assert "p0->>p2: removes row:1 (cached_programs.py:" in mermaid


def test_the_page_that_shows_a_failure_shows_what_is_printed():
    page = (Path(__file__).parents[2] / "docs/howto/find-cache-bugs.md").read_text(encoding="utf-8")
    program, test = re.findall("```python\n(.*?)```", page, re.DOTALL)[:2]
    shown = re.search("```text\n(.*?)\n```", page, re.DOTALL)[1]
    names = {"__name__": "users"}
    exec(compile(program, "/shop/users.py", "exec"), names)
    exec(compile(test, "/shop/test_users.py", "exec"), names)
    with pytest.raises(InterleavingError) as caught:
        names["test_nobody_is_shown_an_old_name"]()
    assert str(caught.value) == shown


# What may go wrong.


def several_processes(world):
    here, there, rows = world.cache(), world.cache(), world.rows({1: 0})

    def read(cache):
        return cache.get_or_load("row:1", rows.read, 1)

    def write():
        with there.mutate("row:1") as mutation:
            rows.write(1, 1)
            mutation.set("row:1", 1)

    world.reader(read, here, name="read here")
    world.reader(read, there, name="read there")
    world.writer(write)


async def several_async_processes(world):
    here, there, rows = world.cache(), world.cache(), world.rows({1: 0})

    async def read(cache):
        return await cache.get_or_load("row:1", rows.read, 1)

    async def write():
        async with there.mutate("row:1") as mutation:
            await rows.write(1, 1)
            mutation.set("row:1", 1)

    world.reader(read, here, name="read here")
    world.reader(read, there, name="read there")
    world.writer(write)


@pytest.mark.parametrize(
    ("scenario", "runtime"),
    [(several_processes, "threads"), (several_async_processes, "asyncio"), (several_async_processes, "trio")],
)
def test_each_fault_strikes_and_none_makes_a_read_stale(scenario, runtime):
    explored = check_interleavings(scenario, most_switches=1, runtime=runtime, faults=list(StoreFault))
    assert explored.is_complete
    assert all(explored.fired.values())


# Time.


def test_time_passes_where_nobody_can_go_on_and_where_the_schedule_says_so():
    naps = []

    def scenario(world):
        rows = world.rows({1: 0})
        began_s = world.clock()

        def sleep():
            world.sleep(3600)
            naps.append(rows.read(1))

        def write():
            rows.write(1, 1)
            assert world.clock() - began_s in (0.0, 3600.0)

        world.start(sleep)
        world.writer(write)

    before_s = time.monotonic()
    assert check_interleavings(scenario, most_switches=1).is_complete
    assert set(naps) == {0, 1}
    assert time.monotonic() - before_s < 3600


@on_both_loops
def test_an_event_loop_sleeps_in_the_worlds_time(loop):
    naps = []

    async def scenario(world):
        rows = world.rows({1: 0})

        async def sleep():
            await anyio.sleep(86_400)
            naps.append(await rows.read(1))

        async def write():
            await rows.write(1, 1)

        world.start(sleep)
        world.writer(write)

    assert check_interleavings(scenario, runtime=loop).is_complete
    assert set(naps) == {1}


def test_a_lease_is_renewed_while_its_loader_sleeps():
    def scenario(world):
        here, there = world.cache(), world.cache()
        rows = world.rows({1: 0})

        def load():
            world.sleep(20)
            return rows.read(1)

        world.reader(lambda: here.get_or_load("row:1", load), name="here")
        world.reader(lambda: there.get_or_load("row:1", load), name="there")

    told = [step.what for step in check(scenario, Schedule()).steps if step.what.startswith("stores")]
    assert told == ["stores row:1 = 0"]


# What a world cannot own is said, with the line.


def test_who_waits_for_each_other_is_named():
    def scenario(world):
        first, second, rows = world.lock(), world.lock(), world.rows({})

        def ab():
            with first:
                rows.read(1)
                with second:
                    pass

        def ba():
            with second:
                rows.read(1)
                with first:
                    pass

        world.start(ab)
        world.start(ba)

    with pytest.raises(DeadlockError, match=r"ab waits for a lock; ba waits for a lock") as caught:
        check_interleavings(scenario)
    assert "replay(scenario," in caught.value.__notes__[0]


@pytest.mark.timing
@pytest.mark.parametrize("what", ["a lock", "a sleep"])
def test_who_blocks_outside_of_the_world_is_told_with_its_line(what, monkeypatch):
    monkeypatch.setattr(threads, "STUCK_S", 2.0)
    done = threading.Event()

    def scenario(world):
        rows, lock = world.rows({}), threading.Lock()

        def blocks():
            if what == "a sleep":
                done.wait(30)
            with lock:
                rows.read(1)

        world.start(blocks)
        world.start(blocks)

    try:
        with pytest.raises(
            WorldError, match=r"does not come back: it is at .*test_interleavings.py:\d+ in blocks"
        ):
            check_interleavings(scenario)
    finally:
        done.set()


def test_a_thread_that_the_world_has_not_started_is_refused():
    errors, begins = [], threading.Event()

    def scenario(world):
        cache = world.cache()

        def use():
            try:
                cache.get("a")
            except WorldError as error:
                errors.append(str(error))

        thread = threading.Thread(target=lambda: (begins.wait(30), use()))
        thread.start()

        def starts():
            begins.set()
            thread.join()

        world.start(starts)

    check_interleavings(scenario, most_switches=0)
    assert "a thread that the world has not started uses it: start it with world.start(function)" in errors[0]


@on_both_loops
def test_who_waits_for_what_will_never_come_is_named_under_an_event_loop(loop):
    async def scenario(world):
        async def waits():
            await anyio.Event().wait()

        world.start(waits)

    with pytest.raises(DeadlockError, match="nobody can go on: waits waits for something of its loop"):
        check_interleavings(scenario, runtime=loop)


def test_a_thread_of_an_event_loop_is_refused():
    async def scenario(world):
        async def threaded():
            await asyncio.to_thread(int)

        world.start(threaded)

    with pytest.raises(WorldError, match=r"is to run on a thread of its own .*asyncio.to_thread"):
        check_interleavings(scenario)


@on_both_loops
def test_a_plain_loader_is_called_in_place_under_an_event_loop(loop):
    async def scenario(world):
        cache = world.cache()
        main = threading.get_ident()
        world.reader(partial(cache.get_or_load, "who", threading.get_ident), name="reads")
        assert await cache.get_or_load("me", threading.get_ident) == main

    assert check_interleavings(scenario, runtime=loop).is_complete


def test_a_program_that_does_not_end_is_told():
    def scenario(world):
        rows = world.rows({1: 0})

        def polls():
            while rows.read(1) == 0:
                pass

        world.start(polls)

    with pytest.raises(WorldError, match="does not end: does it wait for something in a loop"):
        check_interleavings(scenario)


def test_a_program_that_depends_on_more_than_its_schedule_is_told():
    runs = []

    def scenario(world):
        rows = world.rows({1: 0})
        runs.append(1)
        world.reader(rows.read, 1, name="one")
        if len(runs) % 2:
            world.reader(rows.read, 1, name="two")
            world.reader(rows.read, 1, name="three")

    with pytest.raises(ScenarioError, match="depends on something but the schedule"):
        check_interleavings(scenario)


def test_what_a_writer_raises_is_raised_with_the_schedule():
    def scenario(world):
        def write():
            raise ZeroDivisionError

        world.start(world.rows({1: 1}).read, 1)
        world.writer(write)

    with pytest.raises(ZeroDivisionError) as caught:
        check_interleavings(scenario)
    [note] = caught.value.__notes__
    assert note.startswith("in the order of replay(scenario, '')\n\n   read\n")
    assert "database: reads row 1: 1" in note


def test_too_many_orders_are_a_warning():
    scenario = scenario_of(cached_programs.invalidates_before_its_commit, is_right=True)
    with pytest.warns(UserWarning, match="stopped after 5 runs, and not all orders with 2 switches"):
        assert not check_interleavings(scenario, most_runs=5).is_complete


def test_a_scenario_for_another_runtime_is_refused():
    async def scenario(world):
        pass

    with pytest.raises(ScenarioError, match="a scenario for threads is a plain function"):
        check_interleavings(scenario, runtime="threads")
    with pytest.raises(ScenarioError, match="a scenario for trio is a coroutine function"):
        check_interleavings(lambda world: None, runtime="trio")
    with pytest.raises(ScenarioError, match="runtime is 'threads', 'asyncio' or 'trio'; got 'gevent'"):
        check_interleavings(scenario, runtime="gevent")


# What is judged.


def test_the_items_of_a_mapping_are_judged_each_by_itself():
    def scenario(world):
        cache, rows = world.cache(), world.rows({1: 0, 2: 0})

        def read():
            return cache.get_or_load_many(["1", "2"], lambda keys: {key: rows.read(int(key)) for key in keys})

        def write(key):
            rows.write(key, 1)
            cache.invalidate(str(key))

        world.reader(read)
        world.writer(write, 1)
        world.writer(write, 2)

    assert check_interleavings(scenario, most_switches=1).is_complete


def test_a_reader_may_raise_what_it_raises_without_a_cache():
    def scenario(world):
        cache, rows = world.cache(), world.rows({})

        def load(key):
            value = rows.read(key)
            if value is None:
                raise KeyError(key)
            return value

        world.reader(cache.get_or_load, "row:1", load, 1, name="reads")
        world.writer(rows.write, 1, 5, name="writes")

    assert check_interleavings(scenario).is_complete


def test_a_transaction_is_seen_as_a_whole_and_dropped_where_it_raises():
    def scenario(world):
        rows = world.rows({1: 50, 2: 50})

        def total():
            return sum(rows.find().values())

        def move():
            with rows.transaction() as transaction:
                transaction.write(1, transaction.read(1) - 10)
                transaction.write(2, transaction.read(2) + 10)
                assert transaction.read(1) == 40

        def fails():
            try:
                with rows.transaction() as transaction:
                    transaction.write(1, 0)
                    raise ZeroDivisionError
            except ZeroDivisionError:
                pass

        def check_total():
            assert total() == 100

        world.writer(move)
        world.writer(fails)
        world.start(check_total)
        world.in_the_end(check_total)

    assert check_interleavings(scenario).is_complete


@given(st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_a_run_does_not_depend_on_its_seed_but_for_lives(seed):
    scenario = scenario_of(cached_programs.sets_in_a_race, is_right=True)
    told = [step.what for step in check(scenario, Schedule((0, 1)), seed=seed).steps]
    assert told == [step.what for step in check(scenario, Schedule((0, 1)), seed=0).steps]


def test_nothing_is_warned_of_or_logged(caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(several_processes, Schedule(), faults=[StoreFault.REFUSED])
    assert not caplog.records


# What is wrong with a scenario rather than with a program.


def named(world, *, right=True):
    """A user whose name is read through a cache, and changed."""
    cache, users = world.cache(), world.rows({1: "Ann"}, name="user")

    def get_user():
        return cache.get_or_load("user:1", users.read, 1)

    def rename():
        users.write(1, "Eve")
        if right or cache.get("user:1") is not None:
            cache.invalidate("user:1")

    return get_user, rename


@pytest.mark.parametrize("loop", [None, "asyncio", "trio"])
def test_hypothesis_draws_which_fault_strikes_on_every_runtime(loop, caplog):
    def threaded(world):
        get_user, rename = named(world)
        world.reader(get_user)
        world.writer(rename)

    async def tasks(world):
        cache, users = world.cache(), world.rows({1: "Ann"}, name="user")

        async def get_user():
            return await cache.get_or_load("user:1", users.read, 1)

        async def rename():
            await users.write(1, "Eve")
            await cache.invalidate("user:1")

        world.reader(get_user)
        world.writer(rename)

    fired = set()
    gc.collect()  # what earlier tests have left in their loops says so as it goes
    caplog.clear()

    @given(schedules())
    @settings(max_examples=40, deadline=None, database=None, phases=[Phase.generate])
    def test(schedule):
        scenario = threaded if loop is None else tasks
        world = check(scenario, schedule, runtime=loop, faults=list(StoreFault))
        fired.update(fault for fault, count in world.fired.items() if count)

    test()
    assert len(fired) >= 3
    assert caplog.records == []


def test_what_a_chooser_raises_ends_the_run_and_is_raised_as_it_is():
    class StoppedError(BaseException):
        pass

    class Stops(Schedule):
        def choose(self, count, *, is_free):
            if len(self.met) >= 3:
                raise StoppedError
            return super().choose(count, is_free=is_free)

    async def tasks(world):
        cache, users = world.cache(), world.rows({1: "Ann"})
        world.reader(cache.get_or_load, "user:1", users.read, 1)
        world.writer(users.write, 1, "Eve")

    def threaded(world):
        get_user, rename = named(world)
        world.reader(get_user)
        world.writer(rename)

    for scenario, loop in ((threaded, None), (tasks, "asyncio"), (tasks, "trio")):
        with pytest.raises(StoppedError):
            check(scenario, Stops(), runtime=loop, faults=list(StoreFault))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"faults": list(StoreFault)}, ", faults=list(StoreFault))"),
        ({"faults": [StoreFault.LATE, StoreFault.REPLY_LOST], "seed": 3},
         ", seed=3, faults=[StoreFault.LATE, StoreFault.REPLY_LOST])"),
        ({"runtime": "threads"}, ", runtime='threads')"),
    ],
)  # fmt: skip
def test_the_line_that_repeats_a_run_has_all_that_it_was_run_with(options, said):
    def scenario(world):
        get_user, rename = named(world, right=False)
        world.reader(get_user)
        world.writer(rename)

    with pytest.raises(InterleavingError) as caught:
        check_interleavings(scenario, **options)
    line = str(caught.value).splitlines()[-1].removeprefix("to see it again: ")
    assert line.endswith(said)
    with pytest.raises(InterleavingError) as again:
        eval(line, {"replay": replay, "scenario": scenario, "StoreFault": StoreFault})
    assert str(again.value) == str(caught.value)


def test_a_test_that_compares_nothing_is_refused():
    def nothing(world):
        world.cache()

    def only_a_writer(world):
        world.writer(named(world)[1])

    def reader_without_its_argument(world):
        world.reader(world.rows({1: 1}).read)

    def reader_that_returns_nothing(world):
        get_user, rename = named(world, right=False)
        world.reader(lambda: (get_user(), None)[1])
        world.writer(rename)

    async def reader_that_is_not_awaited(world):
        world.reader(lambda: 1)

    def reader_that_is_a_coroutine(world):
        async def read():
            return 1

        world.reader(read)

    for scenario, why in {
        nothing: "declares nothing that could be found wrong",
        only_a_writer: "declares nothing that could be found wrong",
        reader_without_its_argument: r"read raises TypeError\(.* in every order",
        reader_that_returns_nothing: "reader gives None in every order",
        reader_that_is_not_awaited: "gives nothing to be awaited",
        reader_that_is_a_coroutine: "read is a coroutine function: make the scenario one, too",
    }.items():
        with pytest.raises(WorldError, match=why):
            check_interleavings(scenario)

    with pytest.raises(ScenarioError, match=r"faults=\[StoreFault.LATE\]"):
        check_interleavings(nothing, faults=StoreFault.LATE)
    with pytest.raises(ScenarioError, match="faults are of StoreFault"):
        check_interleavings(nothing, faults=["LATE"])


def test_a_scenario_for_event_loops_is_not_run_inside_of_one():
    async def scenario(world):
        world.cache()

    async def main():
        with pytest.raises(ScenarioError, match="call this from a plain test function"):
            check_interleavings(scenario)

    anyio.run(main)
    anyio.run(main, backend="trio")


def test_who_changes_a_row_that_he_was_given_has_changed_no_row():
    def scenario(world):
        cache, rows = world.cache(), world.rows({1: {"n": 1}}, name="stock")

        def put():
            row = rows.read(1)
            row["n"] = 2
            assert rows.read(1) == {"n": 1}
            rows.write(1, row)
            row["n"] = 3
            with rows.transaction() as transaction:
                assert transaction.read(1) == {"n": 2}
                transaction.find()[1]["n"] = 4
            cache.invalidate("s")

        world.reader(cache.get_or_load, "s", rows.read, 1)
        world.writer(put)

    assert check_interleavings(scenario).is_complete


def test_a_database_that_is_not_the_worlds_and_what_lives_in_the_cache_alone_are_told():
    def other_database(world):
        kept, cache = {1: "Ann"}, world.cache()

        def put():
            kept[1] = "Eve"
            cache.invalidate("u")

        world.reader(lambda: cache.get_or_load("u", kept.get, 1), name="get")
        world.writer(put)

    def counts(world):
        get_user, rename = named(world)
        cache = world.cache()

        def read():
            with cache.lock("report"):
                return get_user()

        world.reader(read)
        world.writer(rename)

    for scenario, why in {
        other_database: "It has read no row of the world",
        counts: "nobody has the lock, or the counter",
    }.items():
        with pytest.raises(InterleavingError, match=why):
            check_interleavings(scenario)


@pytest.mark.parametrize("what", ["sleep", "socket", "thread"])
@pytest.mark.parametrize("loop", [None, "asyncio", "trio"])
def test_what_a_world_cannot_schedule_is_refused_with_its_line(what, loop):
    def leaves():
        if what == "sleep":
            time.sleep(0.001)
        elif what == "socket":
            with socket.socket() as sock:
                sock.connect(("127.0.0.1", 9))
        else:
            threading.Thread(target=int).start()

    async def leaves_in_a_loop():
        leaves()

    def scenario(world):
        world.start(leaves)

    async def in_a_loop(world):
        world.start(leaves_in_a_loop)

    with pytest.raises(WorldError, match=r"test_interleavings.py:\d+: it (sleeps|connects|starts)"):
        check_interleavings(scenario if loop is None else in_a_loop, runtime=loop)
    with pytest.raises(WorldError, match=r"it (sleeps|connects|starts)"):
        check_interleavings(lambda world: (world.reader(int), world.writer(leaves, may_raise=Exception)))
    assert time.sleep.__module__ == "time"
    assert "connect" not in vars(socket.socket)
    assert threading.Thread.start.__module__ == "threading"


def test_what_must_hold_in_the_end_is_found_with_the_order_that_breaks_it():
    """Two who read, compute and write without a lock."""

    def scenario(world, *, locks):
        cache, stock = world.cache(), world.rows({1: 5}, name="stock")

        def sell():
            if locks:
                with cache.lock("stock:1"):
                    stock.write(1, stock.read(1) - 1)
            else:
                stock.write(1, stock.read(1) - 1)

        def nothing_is_sold_twice():
            assert stock.read(1) == 3, "a sale is lost"

        world.start(sell)
        world.start(sell)
        world.in_the_end(nothing_is_sold_twice)

    with pytest.raises(
        InterleavingError, match="nothing_is_sold_twice fails: AssertionError: a sale is lost"
    ):
        check_interleavings(partial(scenario, locks=False))
    assert check_interleavings(partial(scenario, locks=True)).is_complete

    with pytest.raises(WorldError, match="may_raise is a class of exceptions"):
        World().writer(int, may_raise=[ValueError])

    async def tasks(world):
        stock = world.rows({1: 5})
        world.in_the_end(lambda: None)

        async def sell():
            async with stock.transaction() as transaction:
                await transaction.write(1, await transaction.read(1) - 1)
                assert await transaction.find() == {1: await transaction.read(1)}

        async def holds():
            assert await stock.read(1) == 3

        world.start(sell)
        world.start(sell)
        world.in_the_end(holds)

    with pytest.raises(InterleavingError, match="holds fails: AssertionError"):
        check_interleavings(tasks)


def test_a_write_may_end_with_an_exception_that_is_an_outcome():
    class SoldOutError(Exception):
        pass

    def scenario(world):
        get_user, rename = named(world)

        def buy():
            rename()
            raise SoldOutError

        world.reader(get_user)
        world.writer(buy, may_raise=SoldOutError)

    assert check_interleavings(scenario).is_complete


def test_the_item_that_is_wrong_is_the_one_whose_load_is_shown():
    def scenario(world):
        cache, orders = world.cache(), world.rows({1: "new", 2: "new"}, name="order")

        def both():
            return {each: cache.get_or_load(f"order:{each}", orders.read, each) for each in (1, 2)}

        def ship():
            cache.invalidate("order:1")
            orders.write(1, "shipped")

        world.reader(both)
        world.writer(ship)

    with pytest.raises(InterleavingError) as caught:
        check_interleavings(scenario)
    assert "both reads order 1: 'new'" in str(caught.value.findings[0])
    assert 'both stores order:1 = "new"' in str(caught.value.findings[0])
    assert len(caught.value.findings) == 1


def test_two_threads_that_use_a_quiet_world_at_once_are_told_so():
    world = World()
    cache = world.cache()
    begins = threading.Event()

    def load(_):
        begins.wait(30)
        return 1

    def use(errors):
        try:
            cache.get_or_load("k", load, 1)
        except WorldError as error:
            errors.append(str(error))

    errors = []
    threads_ = [threading.Thread(target=use, args=(errors,)) for _ in range(3)]
    for thread in threads_:
        thread.start()
    begins.set()
    for thread in threads_:
        thread.join()
    assert all("start them with world.start(function)" in error for error in errors)
    world.end()


def test_bounds_of_the_store_are_no_options_of_a_world():
    with pytest.raises(
        ConfigurationError, match="never full: leave memory_max_bytes, memory_max_entries out"
    ):
        World().cache(memory_max_entries=2, memory_max_bytes=1)
