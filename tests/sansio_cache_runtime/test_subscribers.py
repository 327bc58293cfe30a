"""The audience: subscribers hear every notice, and a story those of its own block's calls."""

import contextvars
import sys
import threading
from collections import Counter
from contextlib import suppress

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sansio_cache import ConfigurationError, Policy, SerializationError
from sansio_cache.notices import (
    Began,
    Ended,
    FillRefused,
    Hit,
    LeaseLost,
    Loaded,
    LoadShared,
    Missed,
    StoreAnswered,
    Stored,
    Waited,
)
from sansio_cache.stats import StatsFold
from sansio_cache_redis import Explanation
from sansio_cache_redis import anyio as cache_anyio
from sansio_cache_redis import sync as cache_sync
from support.faulty import PATIENT, Loader, eventually, on_every_runtime, opened, run_on
from support.proxy import FaultProxy
from support.runtimes import EVERYWHERE, ON_MEMORY, runs, until
from support.servers import Server, wait_until

SECRET = "a-value-that-nobody-may-see"
SHORT_LEASE = Policy(lease_s=0.15, max_lease_s=60)
ends_a_thread = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
BOTH = [cache_sync.Cache, cache_anyio.Cache]


class StopProgram(BaseException):
    """What no library may swallow."""


def loading(value):
    async def load():
        await anyio.lowlevel.checkpoint()
        return value

    return load


async def a_bit_of_everything(world):
    """Calls of every kind, with whatever can come of them but an outage."""
    cache = world.cache

    async def fail():
        raise LookupError(SECRET)

    async def many(keys):
        return {"h": {SECRET}, "i": SECRET, "unasked": SECRET}

    async def outrun():
        await cache.invalidate("b")
        return SECRET

    await cache.get("a")
    await cache.get_or_load("a", loading(SECRET))
    await cache.get_or_load("a", loading(SECRET))
    await cache.get_or_load("b", outrun)
    with pytest.raises(LookupError):
        await cache.get_or_load("b", fail)
    await cache.get_or_load("c", loading({SECRET}))
    await cache.set("d", SECRET, ttl=60)
    with pytest.raises(SerializationError):
        await cache.set("d", {SECRET})
    await cache.set_many({"e": SECRET, "f": 1})
    await cache.get_many(["a", "d", "z"])
    await cache.get("d", type=int)
    async with cache.mutate("d", "e") as mutation:
        mutation.set("d", SECRET)
    await cache.invalidate("f", "g")
    await cache.get_or_load("h", loading(SECRET), tags=["t"])
    await cache.get("h")
    await cache.invalidate(tags=["t"])
    await cache.get_or_load_many(["h", "i"], many)
    await cache.expire("i", "j")
    await cache.delete_pattern("h*", dry_run=True)
    await cache.delete_pattern("a*")
    await cache.clear()
    world.take_log()


# Subscribers.


@runs(compare="store")  # a server with many keys of others takes more turns of SCAN
async def test_what_a_subscriber_hears_adds_up_to_the_statistics(world):
    fold, heard = StatsFold(), []
    world.cache.subscribe(lambda notice: fold.record([notice]))
    world.cache.subscribe(heard.append)

    await a_bit_of_everything(world)

    assert fold.snapshot() == world.cache.stats()
    assert len({type(notice) for notice in heard}) >= 10


@runs(compare="store")  # a server with many keys of others takes more turns of SCAN
async def test_no_notice_holds_a_value(world):
    heard = []
    world.cache.subscribe(heard.append)
    with world.cache.explain() as explanation:
        await a_bit_of_everything(world)

    assert explanation.notices == [notice for notice in heard if not isinstance(notice, Began)]
    assert SECRET not in repr(heard) + str(explanation)


@runs()
async def test_a_notice_is_counted_before_it_is_heard(world):
    seen = []

    def look(notice):
        if isinstance(notice, Hit):
            seen.append(world.cache.stats().redis_hits)

    await world.cache.set("a", 1)
    world.cache.subscribe(look)
    await world.cache.get("a")
    await world.cache.get("a")

    assert seen == [1, 2]


@runs()
async def test_a_subscriber_hears_nothing_more_once_it_has_unsubscribed(world):
    heard, others = [], []
    unsubscribe = world.cache.subscribe(heard.append)
    world.cache.subscribe(others.append)

    await world.cache.get("a")
    count = len(heard)
    unsubscribe()
    unsubscribe()
    await world.cache.get("a")

    assert count == len(heard)
    assert len(others) == 2 * count


@runs()
async def test_a_function_that_subscribed_twice_hears_everything_twice(world):
    heard = []
    unsubscribe = world.cache.subscribe(heard.append)
    world.cache.subscribe(heard.append)

    await world.cache.get("a")
    twice = len(heard)
    unsubscribe()
    await world.cache.get("a")

    assert len(heard) == twice * 1.5


@runs()
async def test_a_subscriber_of_kinds_hears_those_alone(world):
    heard, stored = [], []
    unsubscribe = world.cache.subscribe(heard.append, kinds=[Missed, Loaded])
    world.cache.subscribe(stored.append, kinds=Stored)

    await world.cache.get_or_load("a", loading(1))
    await world.cache.get("a")
    unsubscribe()
    await world.cache.get("b")

    assert [type(notice) for notice in heard] == [Missed, Loaded]
    assert [type(notice) for notice in stored] == [Stored]


@runs()
async def test_hits_are_told_to_nobody_where_nobody_asks_for_them(world):
    subscribers = world.cache.cache._recorder.subscribers
    told = []
    subscribers.tell = told.append
    await world.cache.set("a", 1)
    world.cache.subscribe(print, kinds=[Missed, Stored])
    told.clear()

    assert not subscribers.wants_hits
    await world.cache.get("a")
    assert told == []

    unsubscribe = world.cache.subscribe(print, kinds=Hit)
    assert subscribers.wants_hits
    await world.cache.get("a")
    assert [type(notice) for notices in told for notice in notices] == [Began, Hit, Ended]
    unsubscribe()

    with world.cache.explain():
        assert subscribers.wants_hits
    assert not subscribers.wants_hits


@pytest.mark.parametrize("kinds", [[], [int], "Missed", [Missed("a", "absent")], 5])
@pytest.mark.parametrize("cls", BOTH)
def test_kinds_that_are_no_classes_of_notices_are_refused(cls, kinds):
    cache = cls.from_url("memory://", namespace="kinds")
    with pytest.raises(ConfigurationError, match="kinds="):
        cache.subscribe(print, kinds=kinds)


@runs()
async def test_a_cache_without_an_audience_tells_nobody(world):
    subscribers = world.cache.cache._recorder.subscribers
    assert not subscribers.is_there
    unsubscribe = world.cache.subscribe(lambda notice: None)
    with world.cache.explain():
        unsubscribe()
        assert subscribers.is_there
    assert not subscribers.is_there


@runs()
async def test_a_subscriber_that_raises_harms_nobody_and_is_logged_once(world):
    heard = []

    def broken(notice):
        raise ValueError(SECRET)

    class AlsoBroken:
        def __call__(self, notice):
            raise KeyError(SECRET)

    world.cache.subscribe(broken)
    world.cache.subscribe(AlsoBroken())
    world.cache.subscribe(heard.append)

    assert await world.cache.get_or_load("a", loading(1)) == 1
    assert await world.cache.get_or_load("a", loading(2)) == 1

    assert any(isinstance(notice, Hit) for notice in heard)
    first, second = world.take_log()
    assert "broken raised ValueError" in first
    assert "AlsoBroken raised KeyError" in second
    assert SECRET not in first + second


@runs()
async def test_what_ends_a_program_is_not_swallowed_and_leaks_no_lease(world):
    def stop(notice):
        if isinstance(notice, Loaded):
            unsubscribe()
            raise StopProgram

    unsubscribe = world.cache.subscribe(stop)

    with pytest.raises(StopProgram):
        await world.cache.get_or_load("a", loading("old"))

    assert world.raw.read() == {}
    assert await world.cache.get_or_load("a", loading("new")) == "new"
    assert await world.cache.get("a") == "new"


@runs()
async def test_a_subscriber_may_unsubscribe_and_subscribe_others(world):
    once, later = [], []

    def first(notice):
        once.append(notice)
        unsubscribe()
        world.cache.subscribe(later.append, kinds=[Missed, Ended])

    unsubscribe = world.cache.subscribe(first, kinds=Missed)
    await world.cache.get("a")
    await world.cache.get("a")

    assert [type(notice) for notice in once] == [Missed]
    assert [type(notice) for notice in later] == [Missed, Ended, Missed, Ended][-len(later) :]
    assert len(later) >= 2


@pytest.mark.parametrize("store", ["memory", "server"])
def test_a_subscriber_of_threads_may_call_the_cache_again(store, request, namespace):
    url = "memory://" if store == "memory" else request.getfixturevalue("redis_url")
    fold, heard = StatsFold(), []

    def warm_up(notice):
        heard.append(notice)
        if isinstance(notice, Missed) and notice.key.endswith(":a"):
            assert cache.get_or_load("b", lambda: "warm") == "warm"
            assert cache.stats().loads == 1

    with cache_sync.Cache.from_url(
        url, namespace=namespace, operation_timeout_s=20.0, attempt_timeout_s=10.0
    ) as cache:
        cache.subscribe(warm_up)
        cache.subscribe(lambda notice: fold.record([notice]))
        assert cache.get("a") is None
        assert cache.get("b") == "warm"
        assert fold.snapshot() == cache.stats()
        cache.invalidate("b")
    assert Counter(type(notice) for notice in heard)[Missed] == 2, "it hears of its own calls as well"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_subscriber_of_an_event_loop_may_start_tasks_that_call_the_cache_again(backend):
    async def main():
        async with (
            cache_anyio.Cache.from_url("memory://", namespace="shop") as cache,
            anyio.create_task_group() as tasks,
        ):

            def warm_up(notice):
                if isinstance(notice, Missed) and notice.key == "shop:a":
                    tasks.start_soon(cache.set, "b", "warm")

            cache.subscribe(warm_up)
            assert await cache.get("a") is None
            with anyio.fail_after(10):
                while await cache.get("b") is None:
                    await anyio.lowlevel.checkpoint()

    anyio.run(main, backend=backend)


async def coroutine_function(notice):
    raise AssertionError


class WithCoroutineCall:
    async def __call__(self, notice):
        raise AssertionError


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    ("subscriber", "message"),
    [
        (coroutine_function, "is a coroutine function"),
        (WithCoroutineCall(), "is a coroutine function"),
        (None, "takes a function of one notice; got NoneType"),
        ([], "got list"),
    ],
)
def test_what_cannot_hear_is_refused(kind, subscriber, message):
    cache = kind.from_url("memory://", namespace="shop")
    with pytest.raises(ConfigurationError, match=message):
        cache.subscribe(subscriber)
    assert not cache._recorder.subscribers.is_there


calls = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["get", "load", "set", "fail", "outrun", "unstorable"]), st.sampled_from("abc")
        ),
        st.tuples(st.sampled_from(["get_many", "set_many", "invalidate", "mutate", "clear"]), st.just("")),
    ),
    max_size=20,
)


def perform(cache, call, key):
    def fail():
        raise ZeroDivisionError

    def outrun():
        cache.invalidate(key)
        return 1

    match call:
        case "get":
            cache.get(key)
        case "load":
            cache.get_or_load(key, lambda: 1)
        case "set":
            cache.set(key, 1)
        case "fail":
            with suppress(ZeroDivisionError):
                cache.get_or_load(key, fail)
        case "outrun":
            cache.get_or_load(key, outrun)
        case "unstorable":
            cache.get_or_load(key, lambda: {1})
        case "get_many":
            cache.get_many(list("abc"))
        case "set_many":
            cache.set_many(dict.fromkeys("abc", 1))
        case "invalidate":
            cache.invalidate(*"abc")
        case "mutate":
            with cache.mutate(*"abc") as mutation:
                mutation.set("a", 1)
        case _:
            cache.clear()


@settings(deadline=None)
@given(calls)
def test_statistics_folded_by_a_subscriber_are_those_of_the_cache(calls):
    """B3: statistics are a fold over notices, and nothing else."""
    fold = StatsFold()
    with cache_sync.Cache.from_url("memory://", namespace="shop") as cache:
        cache.subscribe(lambda notice: fold.record([notice]))
        for call, key in calls:
            perform(cache, call, key)
            assert fold.snapshot() == cache.stats()


def test_subscribers_come_and_go_while_threads_call():
    heard, transient = [], []
    with cache_sync.Cache.from_url("memory://", namespace="shop") as cache:
        cache.subscribe(heard.append)

        def work(number):
            for turn in range(200):
                unsubscribe = cache.subscribe(transient.append)
                with cache.explain() as explanation:
                    cache.get_or_load(f"{number}:{turn % 7}", lambda: 1)
                assert {notice.key for notice in explanation.notices if hasattr(notice, "key")} == {
                    f"shop:{number}:{turn % 7}"
                }
                unsubscribe()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        fold = StatsFold()
        fold.record(heard)
        assert fold.snapshot() == cache.stats()
        assert cache._recorder.subscribers._explanations == 0
        assert len(cache._recorder.subscribers._subscribers) == 1
    assert transient


@pytest.mark.timing
@on_every_runtime
def test_an_outage_is_heard_and_told(runtime, redis_server, namespace):
    fold = StatsFold()

    async def main(proxy):
        async with opened(runtime, proxy.url, namespace, **PATIENT) as cache:
            cache.cache.subscribe(lambda notice: fold.record([notice]))
            with cache.cache.explain() as explanation:
                proxy.refuse_connections()
                assert await cache.get_or_load("k", Loader("v")) == "v"
                assert (await cache.invalidate("k")).remembered == 1
            assert "the store failed (connection)" in explanation.lines
            assert "went on without the store (connection)" in explanation.lines
            assert "could not remove 1 key: pending until the store can be told" in explanation.lines
            proxy.accept_connections()
            await eventually(lambda: not cache.is_out and not cache.cache._coordinator.pending_invalidations)
            assert fold.snapshot() == cache.stats()
            # Told in the background, to subscribers alone.
            assert "the store serves again" not in explanation.lines

    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        run_on(runtime, lambda: main(proxy))


@pytest.mark.timing
@ends_a_thread
def test_a_subscriber_that_ends_the_thread_of_the_recovery_does_not_end_recovering(namespace):
    """Invalidations that wait for the store are told to it all the same, by the next thread."""
    ended = []

    def end_the_thread(notice):
        if isinstance(notice, StoreAnswered) and not ended:
            ended.append(threading.current_thread())
            sys.exit()

    with (
        Server.start() as server,
        FaultProxy("127.0.0.1", server.port) as proxy,
        cache_sync.Cache.from_url(proxy.url, namespace=namespace, **PATIENT) as cache,
    ):
        cache.subscribe(end_the_thread)
        proxy.refuse_connections()
        assert cache.invalidate("k").remembered == 1
        proxy.accept_connections()
        wait_until(lambda: ended and not ended[0].is_alive())
        wait_until(lambda: cache.get("other") is None and cache.health().pending_invalidations == 0)


@pytest.mark.timing
@ends_a_thread
def test_a_subscriber_that_ends_the_thread_of_the_keeper_does_not_end_renewing(namespace):
    ended = []

    def end_the_thread(notice):
        if isinstance(notice, LeaseLost) and not ended:
            ended.append(threading.current_thread())
            sys.exit()

    with cache_sync.Cache.from_url("memory://", namespace=namespace, policy=SHORT_LEASE) as cache:
        cache.subscribe(end_the_thread)

        def lose():
            cache.invalidate("k")
            wait_until(lambda: ended and not ended[0].is_alive())
            return 1

        assert cache.get_or_load("k", lose) == 1

        lost = []
        cache.subscribe(lambda notice: lost.append(notice) if isinstance(notice, LeaseLost) else None)

        def lose_again():
            cache.invalidate("k")
            wait_until(lambda: lost)
            return 1

        assert cache.get_or_load("k", lose_again) == 1


# Stories.


def told(explanation):
    """The kinds of a story's notices, but for the times that operations took."""
    return [type(notice) for notice in explanation.notices if not isinstance(notice, Ended)]


@runs()
async def test_a_story_tells_what_a_call_has_done(world):
    with world.cache.explain() as loaded:
        await world.cache.get_or_load("a", loading(1))
    with world.cache.explain() as hit:
        await world.cache.get_or_load("a", loading(2))

    missed, load, stored, took = loaded.lines
    assert missed == "missed: absent"
    assert load.startswith("loaded in ")
    assert load.endswith(" under a lease")
    assert stored == "stored"
    assert took.startswith("get_or_load took ")
    assert str(loaded) == "\n".join(loaded.lines)
    assert hit.lines[0] == "hit"
    assert told(hit) == [Hit]
    assert isinstance(hit, Explanation)


@runs()
async def test_a_story_tells_of_what_happens_in_the_loader(world):
    async def load():
        await world.cache.invalidate("a")
        return await world.cache.get_or_load("b", loading("inner"))

    with world.cache.explain() as explanation:
        assert await world.cache.get_or_load("a", load) == "inner"

    assert told(explanation)[-1] is FillRefused
    full = world.raw.full
    assert f"{full('b')}: stored" in explanation.lines
    assert f"{full('a')}: not stored: the lease was voided by an invalidation, or lost" in explanation.lines
    assert "removed 1 key on request" in explanation.lines


@runs()
async def test_a_story_is_over_with_its_block_even_if_that_raises(world):
    async def tell():
        with world.cache.explain() as explanation:
            explanations.append(explanation)
            await world.cache.get("a")
            raise ZeroDivisionError

    explanations = []
    with pytest.raises(ZeroDivisionError):
        await tell()
    await world.cache.get("a")

    assert told(explanations[0]) == [Missed]


@runs()
async def test_stories_may_be_nested(world):
    with world.cache.explain() as outer:
        await world.cache.get("a")
        with world.cache.explain() as inner:
            await world.cache.set("a", 1)
        await world.cache.get("a")

    assert told(outer) == [Missed, Stored, Hit]
    assert told(inner) == [Stored]


@runs(compare="store")
async def test_a_story_is_that_of_one_cache(world):
    other = world.open()
    with world.cache.explain() as ours, other.explain() as theirs:
        await world.cache.set("a", 1)
        await other.get("a")

    assert told(ours) == [Stored]
    assert told(theirs) == [Hit]


@runs(EVERYWHERE, compare="store")
async def test_stories_of_concurrent_tasks_do_not_mix(world):
    """One waits for the load of the other, and each has a story of its own."""
    explanations = {}

    async def load():
        await until(lambda: world.cache.followers == 1)
        return 1

    async def call(name):
        with world.cache.explain() as explanations[name]:
            await world.cache.get_or_load("k", load)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, "one")
        tasks.start_soon(call, "two")

    leader, follower = sorted(explanations.values(), key=lambda explanation: LoadShared in told(explanation))
    assert told(leader) == [Missed, Loaded, Stored]
    assert told(follower) == [Missed, Waited, LoadShared]
    assert any(line.endswith("for another's load") for line in follower.lines)


@pytest.mark.timing
@runs(EVERYWHERE, policy=SHORT_LEASE, compare="store")
async def test_background_work_is_no_part_of_a_story(world):
    """The renewal finds the lease lost: subscribers hear it, the story of the call goes without."""
    heard = []
    world.cache.subscribe(heard.append)

    async def load():
        await world.cache.invalidate("a")
        await until(lambda: LeaseLost(world.raw.full("a")) in heard)
        return 1

    with world.cache.explain() as explanation:
        await world.cache.get_or_load("a", load)

    assert LeaseLost not in told(explanation)
    assert told(explanation)[-1] is FillRefused


@runs(ON_MEMORY)
async def test_a_task_that_outlives_the_block_adds_nothing_to_its_story(world):
    is_over = anyio.Event()

    async def outlive():
        await is_over.wait()
        await world.cache.get("a")

    async with anyio.create_task_group() as tasks:
        with world.cache.explain() as explanation:
            await world.cache.get("b")
            tasks.start_soon(outlive)
        is_over.set()

    assert told(explanation) == [Missed]


def test_threads_that_run_at_the_same_time_are_not_in_the_story():
    with cache_sync.Cache.from_url("memory://", namespace="shop") as cache:
        with cache.explain() as explanation:
            for run in (lambda call: call(), contextvars.copy_context().run):
                thread = threading.Thread(target=run, args=(lambda: cache.get("a"),))
                thread.start()
                thread.join()
        # Only the second has the context of the block.
        assert told(explanation) == [Missed]


def test_a_story_may_be_ended_in_another_context():
    """As that of an asynchronous generator may be."""
    with cache_sync.Cache.from_url("memory://", namespace="shop") as cache:
        explaining = cache.explain()
        context = contextvars.Context()
        explanation = context.run(explaining.__enter__)
        context.run(cache.get, "a")
        explaining.__exit__(None, None, None)
        context.run(cache.get, "a")
        assert told(explanation) == [Missed]
        assert not cache._recorder.subscribers.is_there

        def again():
            with cache.explain() as second:
                cache.get("a")
            return second

        assert told(context.run(again)) == [Missed]
