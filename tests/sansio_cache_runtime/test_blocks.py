"""What is raised in a block goes on as it is, whatever it is, and wherever the block stands."""

import dataclasses
import traceback

import anyio
import attrs
import pytest

from sansio_cache_redis import anyio as anyio_package
from sansio_cache_redis.sync import Cache
from sansio_cache_runtime.blocks import async_block, block


@dataclasses.dataclass(frozen=True)
class FrozenDataclassError(Exception):
    """Refuses every assignment, also that of a traceback."""

    code: int = 1


@attrs.frozen(auto_exc=False)
class FrozenAttrsError(Exception):
    """Likewise."""

    code: int = 1


class SealedError(Exception):
    """Has a rule of its own."""

    __slots__ = ()

    def __setattr__(self, name, value):
        raise AttributeError(f"{name} cannot be set")


FROZEN = [FrozenDataclassError, FrozenAttrsError, SealedError]
ANY = [*FROZEN, ValueError, StopIteration, StopAsyncIteration, KeyboardInterrupt, GeneratorExit]


def raise_(error):
    raise error


def assert_unchanged(caught, error):
    assert caught is error
    assert error.__cause__ is error.__context__ is None
    frames = traceback.extract_tb(error.__traceback__)
    assert frames[-1].name == "raise_"
    assert {frame.filename for frame in frames} == {__file__}


def blocks_of(cache):
    """Every block of the user's."""
    return [
        lambda: cache.mutate("k"),
        lambda: cache.invalidating("k"),
        lambda: cache.cached("f")(print).invalidating(1),
    ]


@pytest.mark.parametrize("kind", ANY)
def test_what_a_block_raises_goes_on_as_it_is(kind, namespace):
    with Cache.from_url("memory://", namespace=namespace) as cache:
        for begin in [*blocks_of(cache), cache.explain]:
            error = kind()
            with pytest.raises(kind) as raised, begin():
                raise_(error)
            assert_unchanged(raised.value, error)


@pytest.mark.parametrize("library", ["asyncio", "trio"])
@pytest.mark.parametrize("kind", [each for each in ANY if each is not KeyboardInterrupt])
def test_what_an_asynchronous_block_raises_goes_on_as_it_is(library, kind, namespace):
    async def main():
        async with anyio_package.Cache.from_url("memory://", namespace=namespace) as cache:
            for begin in blocks_of(cache):
                error, caught = kind(), None
                try:
                    async with begin():
                        raise_(error)
                except BaseException as raised:
                    caught = raised
                assert_unchanged(caught, error)
            error = kind()
            with pytest.raises(kind) as raised, cache.explain():
                raise_(error)
            assert_unchanged(raised.value, error)

    anyio.run(main, backend=library)


@pytest.mark.parametrize("kind", FROZEN)
def test_what_a_loader_raises_goes_on_as_it_is(kind, namespace):
    error = kind()
    with Cache.from_url("memory://", namespace=namespace) as cache:
        with pytest.raises(kind) as raised:
            cache.get_or_load("k", raise_, error)
        assert raised.value is error


def test_a_block_is_used_once_and_as_a_decorator_for_each_call(namespace):
    with Cache.from_url("memory://", namespace=namespace) as cache:
        once = cache.invalidating("k")
        with once:
            pass
        with pytest.raises(RuntimeError, match="the block is over"):
            once.__enter__()

        @cache.invalidating("k")
        def write(value):
            return value

        for number in range(2):
            cache.set("k", 1)
            assert write(number) == number
            assert cache.get("k") is None


def test_an_asynchronous_block_is_used_once_and_as_a_decorator_for_each_call(namespace):
    async def main():
        async with anyio_package.Cache.from_url("memory://", namespace=namespace) as cache:
            once = cache.invalidating("k")
            async with once:
                pass
            with pytest.raises(RuntimeError, match="the block is over"):
                await once.__aenter__()

            @cache.invalidating("k")
            async def write(value):
                return value

            for number in range(2):
                await cache.set("k", 1)
                assert await write(number) == number
                assert await cache.get("k") is None

    anyio.run(main)


def test_a_block_may_raise_something_else_in_its_end():
    @block
    def translating():
        try:
            yield
        except ValueError as error:
            raise KeyError("another") from error

    @async_block
    async def translating_too():
        try:
            yield
        except ValueError as error:
            raise KeyError("another") from error

    async def main():
        async with translating_too():
            raise ValueError

    with pytest.raises(KeyError, match="another"), translating():
        raise ValueError
    with pytest.raises(KeyError, match="another"):
        anyio.run(main)


def test_who_forgets_the_with_is_told_to_write_it(namespace):
    with Cache.from_url("memory://", namespace=namespace) as cache:
        mutation = cache.mutate("k")
        with pytest.raises(AttributeError, match=r"has no 'set': use it as in `with … as m:`, and ask m"):
            mutation.set("k", 1)
        assert not hasattr(mutation, "result")
    with pytest.raises(AttributeError, match=r"use it as in `async with … as m:`"):
        anyio_package.Cache.from_url("memory://", namespace=namespace).mutate("k").set("k", 1)
