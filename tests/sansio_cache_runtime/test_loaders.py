"""Loaders under an event loop: which are called in it, which on a thread, and what each may do there."""

import asyncio
import functools
import signal
import threading
import time
import weakref

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest

from sansio_cache.commands import Compute
from sansio_cache.loader import LoadContext
from sansio_cache_redis.anyio import Cache
from sansio_cache_runtime.anyio import loaders, threads
from sansio_cache_runtime.anyio.loaders import call_loader
from sansio_cache_runtime.loaders import bound, is_coroutine_function, takes_context
from support.faulty import GIVE_UP_S, eventually

LIBRARIES = ["asyncio", "trio"]
on_both = pytest.mark.parametrize("library", LIBRARIES)


async def part(number):
    await anyio.lowlevel.checkpoint()
    return number


@pytest.fixture(autouse=True)
def nothing_is_remembered(monkeypatch):
    """Each test begins as a program does."""
    monkeypatch.setattr(loaders, "_give_awaitables", weakref.WeakSet())


# What is awaited.


def blocking():
    return 1


class Repository:
    async def user(self, number):
        return await part(number)

    def plain(self, number):
        return part(number)

    async def __call__(self):
        return await part(1)


COROUTINE_FUNCTIONS = {
    "a function": part,
    "a partial of one": functools.partial(functools.partial(part), 1),
    "a method": Repository().user,
    "a partial of a method": functools.partial(Repository().user, 1),
    "an object": Repository(),
    "a partial of an object": functools.partial(Repository()),
}


@pytest.mark.parametrize("kind", COROUTINE_FUNCTIONS)
def test_a_coroutine_function_is_known_however_it_is_wrapped(kind):
    assert is_coroutine_function(COROUTINE_FUNCTIONS[kind])


@pytest.mark.parametrize(
    "function", [blocking, lambda: part(1), Repository().plain, functools.partial(int), int]
)
def test_any_other_is_not_taken_for_one(function):
    assert not is_coroutine_function(function)


def started():
    return asyncio.create_task(part(1))


def started_with_an_import():
    import asyncio

    return asyncio.ensure_future(part(1))


def begun():
    loop = asyncio.get_running_loop()
    return loop.create_task(part(1))


class Starter:
    def __init__(self):
        self.loop = asyncio.get_running_loop()

    def start(self):
        return asyncio.shield(part(1))

    def start_deep_inside(self):
        return begun()

    def __call__(self):
        return asyncio.gather(part(1))


def wrapped(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


NEED_THE_LOOP = {
    "a lambda that gathers": lambda: lambda: asyncio.gather(part(1), part(2)),
    "a function under a name of its own": lambda gather=asyncio.gather: lambda: gather(part(1)),
    "a task": lambda: started,
    "a task, imported inside": lambda: started_with_an_import,
    "a method": lambda: Starter().start,
    "an object": Starter,
    "a partial": lambda: functools.partial(started),
    "a partial of asyncio's own": lambda: functools.partial(asyncio.ensure_future, part(1)),
    "a loop": lambda: (lambda loop: lambda: loop.create_task(part(1)))(asyncio.get_running_loop()),
    "a method of a loop": lambda: functools.partial(
        asyncio.get_running_loop().run_in_executor, None, blocking
    ),
}


@pytest.mark.parametrize("kind", NEED_THE_LOOP)
def test_what_needs_the_loop_is_called_in_it_from_the_first_time_on(kind, namespace):
    async def main():
        async with Cache.from_url("memory://", namespace=namespace) as cache:
            for key in ("a", "b"):
                assert await cache.get_or_load(key, NEED_THE_LOOP[kind]()) in (1, [1], [1, 2])

    asyncio.run(main())


def test_what_fails_on_a_thread_for_want_of_a_loop_is_called_in_it(namespace):
    """Once: from then on it is called there at once."""
    where = []

    def load():
        where.append(threading.current_thread())
        return Starter.start_deep_inside(None)

    async def main():
        async with Cache.from_url("memory://", namespace=namespace) as cache:
            assert await cache.get_or_load("a", load) == 1
            assert await cache.get_or_load("b", load) == 1

    asyncio.run(main())
    assert [each is threading.current_thread() for each in where] == [False, True, True]


@on_both
def test_a_lambda_whose_call_gave_something_to_be_awaited_is_called_in_the_loop_from_then_on(library):
    where = []

    def loader(number):
        return lambda: where.append(threading.current_thread()) or part(number)

    async def main():
        assert [await call_loader(loader(number)) for number in range(3)] == [0, 1, 2]

    anyio.run(main, backend=library)
    assert [each is threading.current_thread() for each in where] == [False, True, True]


@on_both
def test_a_decorator_s_code_is_not_what_is_remembered(library):
    """It serves functions that block as well."""

    async def main():
        assert await call_loader(wrapped(lambda: part(1))) == 1
        thread = await call_loader(wrapped(threading.current_thread))
        assert thread is not threading.current_thread()

    anyio.run(main, backend=library)


@pytest.mark.parametrize(
    "loader",
    [
        blocking,
        functools.partial(int, 1),
        lambda: 1,
        lambda: asyncio.run(part(1)),
        lambda: anyio.run(part, 1),
        lambda: anyio.from_thread.run(part, 1),
    ],
)
@on_both
def test_what_may_block_is_called_on_a_thread(library, loader):
    async def main():
        return await call_loader(loader)

    assert anyio.run(main, backend=library) == 1


def test_an_error_of_its_own_is_not_taken_for_the_want_of_a_loop():
    calls = []

    def load():
        calls.append(1)
        raise RuntimeError("no running water")

    async def main():
        with pytest.raises(RuntimeError, match="water"):
            await call_loader(load)

    asyncio.run(main())
    assert len(calls) == 1


def test_names_that_are_not_bound_yet_tell_nothing():
    def load():
        return later

    async def main():
        return loaders._belongs_in_the_loop(load)

    assert asyncio.run(main()) is False
    later = 1
    assert load() == 1


# Threads.


@on_both
def test_blocking_endpoints_that_occupy_all_threads_of_the_program_are_answered(library, namespace):
    """They wait for loads, and these for threads: of their own."""

    async def main():
        async with Cache.from_url("memory://", namespace=namespace) as cache:
            limiter = anyio.to_thread.current_default_thread_limiter()
            limiter.total_tokens = count = 4
            all_there, done = threading.Barrier(count), []

            def endpoint(number):
                all_there.wait(GIVE_UP_S)
                done.append(anyio.from_thread.run(cache.get_or_load, f"k{number}", lambda: number))

            async with anyio.create_task_group() as tasks:
                for number in range(count):
                    tasks.start_soon(anyio.to_thread.run_sync, endpoint, number)
            assert sorted(done) == list(range(count))

    anyio.run(main, backend=library)


@on_both
@pytest.mark.parametrize("inner", ["own", "shared"])
def test_loads_inside_loads_need_no_second_place(library, inner, namespace, monkeypatch):
    monkeypatch.setattr(threads, "MOST_THREADS", 3)

    async def main():
        async with Cache.from_url("memory://", namespace=namespace) as cache:
            all_there = threading.Barrier(3)

            def load(number, depth):
                if depth == 3:
                    all_there.wait(GIVE_UP_S)
                if not depth:
                    return number
                key = f"{number if inner == 'own' else ''}:{depth}"
                return anyio.from_thread.run(cache.get_or_load, key, lambda: load(number, depth - 1))

            results = []

            async def get(number):
                results.append(await cache.get_or_load(f"k{number}", lambda: load(number, 3)))

            async with anyio.create_task_group() as tasks:
                for number in range(3):
                    tasks.start_soon(get, number)
            assert len(set(results)) == (3 if inner == "own" else 1)
            assert threads._places()._free == 3

    anyio.run(main, backend=library)


@on_both
def test_so_many_loaders_block_at_once_and_no_more(library, monkeypatch):
    monkeypatch.setattr(threads, "MOST_THREADS", 2)
    running, most = [], []

    def load():
        running.append(1)
        most.append(len(running))
        time.sleep(0.001)
        running.pop()

    async def main():
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(call_loader, load)
        assert threads._places()._free == 2

    anyio.run(main, backend=library)
    assert len(most) == 20
    assert max(most) <= 2


@on_both
@pytest.mark.parametrize("limit", ["move_on_after", "fail_after", "cancel"])
def test_a_caller_is_let_go_though_its_loader_blocks(library, limit, url, namespace):
    """The loader's thread goes on; its lease is given back, its value is not stored, its place is kept."""
    may_end, has_ended = threading.Event(), threading.Event()
    began = threading.Event()

    def load():
        began.set()
        may_end.wait(GIVE_UP_S)
        has_ended.set()
        return "late"

    async def main():
        async with Cache.from_url(url, namespace=namespace) as cache:
            await cache.wait_ready(GIVE_UP_S)
            with anyio.CancelScope() as scope:
                match limit:
                    case "cancel":
                        async with anyio.create_task_group() as tasks:
                            tasks.start_soon(cache.get_or_load, "k", load)
                            await eventually(began.is_set)
                            scope.cancel()
                    case "fail_after":
                        with pytest.raises(TimeoutError), anyio.fail_after(0.01):
                            await cache.get_or_load("k", load)
                    case _:
                        with anyio.move_on_after(0.01):
                            await cache.get_or_load("k", load)
            assert not has_ended.is_set()
            has_begun, free = began.is_set(), threads._places()._free
            assert await cache.get_or_load("k", lambda: "of another") == "of another"
            may_end.set()
            if has_begun:
                assert free == threads.MOST_THREADS - 1
                await eventually(has_ended.is_set)
            await eventually(lambda: threads._places()._free == threads.MOST_THREADS)
            assert await cache.get("k") == "of another"

    anyio.run(main, backend=library)


@pytest.fixture(params=["memory", "server"])
def url(request):
    return "memory://" if request.param == "memory" else request.getfixturevalue("redis_url")


@on_both
def test_who_gives_up_before_there_is_a_place_leaves_the_line(library, monkeypatch):
    monkeypatch.setattr(threads, "MOST_THREADS", 1)
    may_end = threading.Event()

    async def main():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call_loader, lambda: may_end.wait(GIVE_UP_S))
            await anyio.sleep(0.01)
            with anyio.move_on_after(0.01) as scope:
                await call_loader(lambda: pytest.fail("there is no place"))
            assert scope.cancelled_caught
            assert not threads._places()._waiting
            may_end.set()
        assert threads._places()._free == 1

    anyio.run(main, backend=library)


class FrozenError(Exception):
    """As one of a frozen class: none of its attributes can be set."""

    def __setattr__(self, name, value):
        raise AttributeError(name)


def refuse():
    raise FrozenError


async def refuse_in_the_loop():
    await anyio.lowlevel.checkpoint()
    raise FrozenError


@on_both
@pytest.mark.parametrize("loader", [refuse, refuse_in_the_loop])
def test_an_exception_that_cannot_be_changed_comes_as_the_loader_raised_it(library, loader, namespace):
    async def main():
        async with Cache.from_url("memory://", namespace=namespace) as cache:
            found = []

            async def ask():
                with pytest.raises(FrozenError):
                    await cache.get_or_load("user:1", loader)
                found.append(True)

            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(ask)
            assert len(found) == 3

    anyio.run(main, backend=library)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there is no such signal")
@pytest.mark.parametrize("kind", [TypeError, ValueError])
def test_what_a_handler_raises_while_a_loader_s_parameters_are_read_goes_on(kind):
    class Loader:
        @property
        def __signature__(self):
            signal.raise_signal(signal.SIGUSR1)

        def __call__(self):
            return 1

    def exceed(signum, frame):
        raise kind("of the job")

    before = signal.signal(signal.SIGUSR1, exceed)
    try:
        with pytest.raises(kind, match="of the job"):
            takes_context(Loader())
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_wrapper_that_takes_anything_is_told_what_the_loader_in_it_takes():
    @functools.wraps(told)
    def wrapper(*args):
        return told(*args)

    command = Compute("n:k", None, "before")
    assert bound(wrapper, command)() == LoadContext("n:k", "before")
    assert bound(lambda *args: args, command)() == ()
    assert bound(lambda: 7, command)() == 7


def told(context):
    return context
