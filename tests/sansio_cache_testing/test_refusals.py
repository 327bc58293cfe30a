"""What the kit refuses: each refusal says what was given, and what to give instead."""

import math
import re
import sqlite3
from contextlib import closing

import attrs
import pytest

from sansio_cache.errors import ConfigurationError
from sansio_cache_redis import anyio as anyio_colour
from sansio_cache_redis import sync
from sansio_cache_testing import (
    SHIPPED,
    Act,
    AsyncWorld,
    Configuration,
    Deed,
    Explored,
    Fault,
    History,
    InterleavingError,
    LoggedRead,
    LoggedWrite,
    Rates,
    Read,
    ScenarioError,
    Schedule,
    Simulation,
    StoreFault,
    World,
    Write,
    check,
    check_interleavings,
    explore,
    failing,
    find_stale_reads,
    null_cache,
    replay,
    simulate,
)

LOOPS = ["asyncio", "trio"]
NO_WHOLE_NUMBERS = [-1, 1.5, 2.0, math.nan, "2", True, False, None]
NO_SEEDS = [1.5, "1", True, None, [1]]


def refuses(error, *parts):
    """A context in which an error is raised whose message has all parts, in this order."""
    return pytest.raises(error, match=".*".join(re.escape(part) for part in parts))


def right(world):
    """A user whose name is read through a cache, and changed."""
    rename_through(world, world.cache())


def rename_through(world, cache):
    users = world.rows({1: "Ann"})

    def get_user():
        return cache.get_or_load("user:1", users.read, 1)

    def rename():
        users.write(1, "Eve")
        cache.invalidate("user:1")

    world.reader(get_user)
    world.writer(rename)


# A check that returns what it should assert.


@pytest.mark.parametrize("returned", [False, True, 0, "no", []])
def test_a_check_that_returns_something_is_refused_in_a_world_of_threads(returned):
    def scenario(world):
        right(world)
        world.in_the_end(lambda: returned, name="is_sold")

    said = f"in_the_end takes a function that asserts; it returned {returned!r}"
    with refuses(ScenarioError, said, "is_sold"):
        check_interleavings(scenario, most_switches=0)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("is_plain", [True, False])
def test_a_check_that_returns_something_is_refused_under_an_event_loop(loop, is_plain):
    async def is_sold():
        return False

    async def scenario(world):
        stock = world.rows({1: 3})
        world.reader(stock.read, 1)
        world.in_the_end((lambda: False) if is_plain else is_sold, name="is_sold")

    with refuses(ScenarioError, "in_the_end takes a function that asserts; it returned False", "is_sold"):
        check_interleavings(scenario, runtime=loop, most_switches=0)


def test_a_check_of_threads_that_would_have_to_be_awaited_is_refused():
    async def holds():
        raise AssertionError

    def scenario(world):
        right(world)
        world.in_the_end(lambda: holds())

    with refuses(ScenarioError, "it returned a coroutine", "(async def)"):
        check_interleavings(scenario, most_switches=0)


@pytest.mark.parametrize("loop", [None, *LOOPS])
def test_a_check_that_asserts_and_returns_nothing_is_taken(loop):
    looked = []

    def look():
        looked.append(1)

    async def look_later():
        look()

    async def tasks(world):
        world.reader(world.rows({1: 3}).read, 1)
        world.in_the_end(look)
        world.in_the_end(look_later)

    def threaded(world):
        right(world)
        world.in_the_end(look)

    check_interleavings(threaded if loop is None else tasks, runtime=loop, most_switches=0)
    assert looked


# Numbers.


@pytest.mark.parametrize("given", NO_WHOLE_NUMBERS)
def test_what_is_no_number_of_switches_is_refused(given):
    with refuses(ScenarioError, f"most_switches is a whole number from 0 on; got {given!r}"):
        check_interleavings(right, most_switches=given)


@pytest.mark.parametrize("given", [0, *NO_WHOLE_NUMBERS])
def test_what_is_no_number_of_runs_is_refused(given):
    with refuses(ScenarioError, f"most_runs is a whole number from 1 on; got {given!r}"):
        check_interleavings(right, most_runs=given)


def test_the_least_numbers_are_taken():
    assert check_interleavings(right, most_switches=0, most_runs=1_000) == Explored(2, True, {})
    with pytest.warns(UserWarning, match="stopped after 1 runs"):
        assert check_interleavings(right, most_switches=0, most_runs=1) == Explored(1, False, {})


@pytest.mark.parametrize("seed", NO_SEEDS)
def test_what_is_no_seed_is_refused(seed):
    said = f"seed is a whole number; got {seed!r}"
    for make in (World, AsyncWorld):
        with refuses(ScenarioError, said):
            make(seed=seed)
    with refuses(ScenarioError, said):
        check_interleavings(right, seed=seed)
    with refuses(ScenarioError, said):
        check(right, Schedule(), seed=seed)
    with refuses(ScenarioError, said):
        replay(right, "", seed=seed)
    if seed is not None:
        with refuses(ConfigurationError, said):
            simulate(Simulation(operations=1, must_fire=False), seed=seed)


def test_a_seed_may_be_any_whole_number():
    for seed in (-1, 0, 2**70):
        World(seed=seed).end()


@pytest.mark.parametrize("field", ["operations", "operations_a_round"])
@pytest.mark.parametrize("given", [0, -1, 1.5, True, "9"])
def test_a_simulation_of_no_calls_is_refused(field, given):
    with refuses(ConfigurationError, f"{field} is a whole number from 1 on; got {given!r}"):
        Simulation(**{field: given})


@pytest.mark.parametrize("field", ["clients", "callers"])
@pytest.mark.parametrize("given", [-1, 1.5, True, "9"])
def test_a_simulation_takes_a_number_of_processes_and_callers(field, given):
    with refuses(ConfigurationError, f"{field} is a whole number from 0 on; got {given!r}"):
        Simulation(**{field: given})


@pytest.mark.parametrize("given", [-0.1, math.inf, math.nan, "0.1", True, None])
def test_a_rate_is_a_number(given):
    with refuses(ConfigurationError, f"late is a rate from 0 on; got {given!r}"):
        Rates(late=given)
    assert Rates(late=1, raising=0.0).late == 1


@pytest.mark.parametrize("given", [-1, math.nan, math.inf, "1", True])
def test_a_pause_is_a_number_of_seconds(given):
    with refuses(ConfigurationError, f"accident_pause_s is a number of seconds from 0 on; got {given!r}"):
        Rates(accident_pause_s=given)
    assert Rates(accident_pause_s=2).accident_pause_s == 2


READERS = (((Act(Deed.LOAD),),),)


@pytest.mark.parametrize(
    ("field", "least"), [("chunk", 1), ("loads", 0), ("most_loads", 0), ("most_owners", 0)]
)
@pytest.mark.parametrize("given", [-1, 1.5, True, "1"])
def test_a_configuration_takes_whole_numbers(field, least, given):
    with refuses(ConfigurationError, f"{field} is a whole number from {least} on; got {given!r}"):
        Configuration(name="a reader", processes=READERS, **{field: given})


def test_a_batch_of_no_keys_is_refused_as_nothing_would_be_explored():
    with refuses(ConfigurationError, "chunk is a whole number from 1 on; got 0"):
        Configuration(name="a batch", processes=(((Act(Deed.LOAD_MANY, (0, 1)),),),), chunk=0)


@pytest.mark.parametrize("given", [-1.0, math.nan, math.inf, "1", True])
def test_a_load_takes_a_number_of_seconds(given):
    with refuses(ConfigurationError, f"load_s is a number of seconds from 0 on; got {given!r}"):
        Configuration(name="a reader", processes=READERS, load_s=given)


@pytest.mark.parametrize("given", [-1, 1.5, True, None])
def test_a_fault_strikes_a_whole_number_of_times(given):
    with refuses(ConfigurationError, f"faults[Fault.GONE] is a whole number from 0 on; got {given!r}"):
        Configuration(name="a reader", processes=READERS, faults={Fault.GONE: given})


@pytest.mark.parametrize("given", ["gone", StoreFault.LATE, 3])
def test_a_fault_of_another_kind_is_refused_as_it_would_never_strike(given):
    with refuses(ConfigurationError, "faults maps each Fault to how often it may strike", f"got {given!r}"):
        Configuration(name="a reader", processes=READERS, faults={given: 1})


def test_faults_that_say_not_how_often_are_refused():
    with refuses(ConfigurationError, "as in faults={Fault.GONE: 1}; got [<Fault.GONE"):
        Configuration(name="a reader", processes=READERS, faults=[Fault.GONE])


def test_a_configuration_whose_numbers_are_the_least_is_explored():
    found = explore(
        Configuration(
            name="a reader", processes=READERS, chunk=1, loads=1, most_loads=1, faults={Fault.GONE: 0}
        )
    )
    assert found.is_closed
    assert found.counterexample is None


# Times of a log.


@pytest.mark.parametrize("kind", [LoggedRead, LoggedWrite])
def test_a_call_that_ends_before_it_begins_is_refused(kind):
    with refuses(ConfigurationError, f"a {kind.__name__} ends before it begins: from 2.0 to 1.0 s"):
        kind("k", 1, 2.0, 1.0)
    assert kind("k", 1, 2.0, 2).ended_s == 2


@pytest.mark.parametrize("kind", [LoggedRead, LoggedWrite])
@pytest.mark.parametrize("given", [math.nan, "1", None, True])
def test_what_is_no_time_is_refused_in_a_log(kind, given):
    with refuses(ConfigurationError, f"began_s is a time in seconds, a number; got {given!r}"):
        kind("k", 1, given, 9.0)
    with refuses(ConfigurationError, f"ended_s is a time in seconds, a number; got {given!r}"):
        kind("k", 1, 0.0, given)


def test_a_write_that_never_ends_is_taken():
    assert LoggedWrite("k", 1, 2.0).ended_s == math.inf


def test_a_time_that_is_no_number_is_refused_in_a_history():
    history = History()
    for field in ("returned_s", "completed_s"):
        write = attrs.evolve(Write("web", "k", 1, 1.0, 1.0), **{field: math.nan})
        with refuses(ConfigurationError, f"{field} is a time in seconds, a number; got nan"):
            history.note(write)
    with refuses(ConfigurationError, "began_s is a time in seconds, a number; got nan"):
        history.judge(Read("web", "k", 1, math.nan))
    history.note(Write("web", "k", 1, 1.0, None))
    assert (history.writes, history.reads) == (1, 0)
    assert history.judge(Read("web", "k", 1, 2)) is None


# What is of another kind.


@pytest.mark.parametrize("given", ["0:1", None, 3, Schedule])
def test_what_is_no_schedule_is_refused(given):
    with refuses(ScenarioError, "check takes a schedule, as Schedule()", f"got {given!r}", "replay(scenario"):
        check(right, given)


@pytest.mark.parametrize("given", ["0:1", 3, Schedule])
def test_what_is_no_schedule_of_a_world_is_refused(given):
    for make in (World, AsyncWorld):
        with refuses(ScenarioError, "a world takes a schedule, as Schedule()", f"got {given!r}"):
            make(given)


@pytest.mark.parametrize("given", [None, 3, Schedule(), ("0:1",)])
def test_what_is_no_written_schedule_is_refused(given):
    with refuses(ScenarioError, "replay takes the text that a failure has printed, such as '3:1 7:2'; got"):
        replay(right, given)


def test_a_text_that_is_no_schedule_is_refused():
    with pytest.raises(ValueError, match="a schedule is like '3:1 7:2', places rising; got 'x'"):
        replay(right, "x")


@pytest.mark.parametrize("given", [3, None, "scenario"])
def test_what_is_no_scenario_is_refused(given):
    for run in (check_interleavings, lambda each: check(each, Schedule()), lambda each: replay(each, "")):
        with refuses(ScenarioError, f"a scenario is a function of a world; got {given!r}"):
            run(given)


def test_a_scenario_without_its_world_is_refused_with_what_to_write():
    def forgotten():
        raise AssertionError

    async def forgotten_async(cache, rows):
        raise AssertionError

    with refuses(ScenarioError, "forgotten() cannot be: write `def forgotten(world):`", "world.rows("):
        check_interleavings(forgotten)
    with refuses(ScenarioError, "(cache, rows) cannot be", "`async def forgotten_async(world):`"):
        check(forgotten_async, Schedule())


def test_a_connection_of_sqlite_is_answered_with_the_rows_of_the_world():
    def scenario(world):
        world.reader(world.cache().get, "user:1")
        world.writer(database.execute, "create table user (name)")

    with (
        closing(sqlite3.connect(":memory:")) as database,
        pytest.raises(sqlite3.ProgrammingError) as raised,
    ):
        check(scenario, Schedule())
    assert any("Use world.rows({…}) in its place" in note for note in raised.value.__notes__)


@pytest.mark.parametrize("given", [[1], {1}, None, 3, "Ann"])
def test_what_are_no_rows_are_refused(given):
    for make in (World, AsyncWorld):
        with refuses(ScenarioError, "rows takes a mapping, as in world.rows({1: 'Ann'}); got " + repr(given)):
            make().rows(given)


def test_a_world_takes_a_list_of_faults():
    for make in (World, AsyncWorld):
        with refuses(ScenarioError, "faults is a list of them: faults=[StoreFault.LATE]"):
            make(faults=StoreFault.LATE)
        with refuses(ScenarioError, "faults are of StoreFault"):
            make(faults=["late"])


@pytest.mark.parametrize("given", [1, None, ("k", 1, 0.0, 1.0), Read("web", "k", 1, 1.0)])
def test_what_is_no_call_is_refused_in_a_log(given):
    with refuses(ConfigurationError, "a log is of LoggedRead and LoggedWrite; got " + repr(given)[:80]):
        find_stale_reads([LoggedRead("k", None, 0.0, 1.0), given])


def test_a_log_of_one_call_is_a_list_all_the_same():
    with refuses(
        ConfigurationError, "a log is a list, or another iterable, of LoggedRead", "got LoggedRead("
    ):
        find_stale_reads(LoggedRead("k", None, 0.0, 1.0))


@pytest.mark.parametrize("given", [3, None, "a reader", READERS])
def test_what_is_no_configuration_is_refused(given):
    with refuses(ConfigurationError, "explore takes a Configuration", f"got {given!r}"[:80]):
        explore(given)


def test_a_configuration_in_which_nobody_takes_part_is_refused():
    with refuses(ConfigurationError, "what ships: nobody takes part", "processes="):
        explore(SHIPPED)


@pytest.mark.parametrize("given", [3, None, SHIPPED])
def test_what_is_no_simulation_is_refused(given):
    with refuses(ConfigurationError, "simulate takes a Simulation", f"got {given!r}"[:80]):
        simulate(given, seed=1)


def test_what_is_no_fault_and_what_comes_late_is_refused_with_what_to_write():
    with null_cache() as cache:
        with refuses(
            ConfigurationError,
            "failing() takes a fault, as in failing(cache, StoreFault.REFUSED)",
            "got 'refused'",
        ):
            failing(cache, "refused").__enter__()
        with refuses(
            ConfigurationError,
            "StoreFault.LATE needs a World: check_interleavings(scenario, faults=[StoreFault.LATE])",
        ):
            failing(cache, StoreFault.LATE).__enter__()


# A cache that is not the world's.


def test_a_cache_that_is_not_the_worlds_is_told():
    def scenario(world):
        rename_through(world, sync.Cache.from_url("memory://", namespace="n"))

    with refuses(InterleavingError, "It has used no cache of the world", "world.cache(…)"):
        check_interleavings(scenario)


def test_a_cache_of_the_world_that_only_its_writer_uses_is_told_of_the_reader():
    def scenario(world):
        ours, users = world.cache(), world.rows({1: "Ann"})
        other = sync.Cache.from_url("memory://", namespace="n")

        def rename():
            users.write(1, "Eve")
            ours.invalidate("user:1")
            other.invalidate("user:1")

        world.reader(other.get_or_load, "user:1", users.read, 1, name="get_user")
        world.writer(rename)

    with refuses(InterleavingError, "It has used no cache of the world"):
        check_interleavings(scenario)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_cache_that_is_not_the_worlds_is_told_under_an_event_loop(loop):
    async def scenario(world):
        users, cache = world.rows({1: "Ann"}), anyio_colour.Cache.from_url("memory://", namespace="n")

        async def get_user():
            return await cache.get_or_load("user:1", users.read, 1)

        async def rename():
            await users.write(1, "Eve")
            await cache.invalidate("user:1")

        world.reader(get_user)
        world.writer(rename)

    with refuses(InterleavingError, "It has used no cache of the world"):
        check_interleavings(scenario, runtime=loop)


@pytest.mark.parametrize("options", [{}, {"enabled": False}])
def test_of_a_cache_of_the_world_no_such_thing_is_said(options):
    """Not of one that is wrong, nor of one that is switched off."""

    def scenario(world):
        cache, users, kept = world.cache(**options), world.rows({1: "Ann"}), []

        def get_user():
            name = cache.get_or_load("user:1", users.read, 1)
            return "nobody" if kept else name

        def rename():
            users.write(1, "Eve")
            kept.append(1)

        world.reader(get_user)
        world.writer(rename)

    with pytest.raises(InterleavingError) as caught:
        check_interleavings(scenario)
    assert "no cache of the world" not in str(caught.value)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("options", [{}, {"enabled": False}])
def test_of_a_cache_of_the_world_no_such_thing_is_said_under_an_event_loop(loop, options):
    async def scenario(world):
        cache, users, kept = world.cache(**options), world.rows({1: "Ann"}), []

        async def get_user():
            name = await cache.get_or_load("user:1", users.read, 1)
            return "nobody" if kept else name

        async def rename():
            await users.write(1, "Eve")
            kept.append(1)

        world.reader(get_user)
        world.writer(rename)

    with pytest.raises(InterleavingError) as caught:
        check_interleavings(scenario, runtime=loop)
    assert "no cache of the world" not in str(caught.value)
