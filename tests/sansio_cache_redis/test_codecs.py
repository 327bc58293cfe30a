"""Codecs that were chosen for a type, through every operation: see `support.runtimes`."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import msgspec
import pydantic
import pytest

from sansio_cache import SerializationError
from sansio_cache.codecs import PYTHON, RAW, Compressed, JsonCodec
from sansio_cache.entry import MissReason
from support.runtimes import loading, never, runs


class User(pydantic.BaseModel):
    id: int
    born: dt.date


ANN = User(id=1, born=dt.date(1990, 1, 2))
PAGE = "<html>" + "x" * 5000
ODD = {(1, 2): {Decimal("1.10"), b"raw"}, "at": dt.datetime(2026, 1, 2, tzinfo=dt.UTC)}
CODECS = {bytes: RAW, None: PYTHON, str: Compressed(JsonCodec(str))}
CASES = [(bytes, b"\xff\x00"), (None, ODD), (str, PAGE), (User, ANN)]


@pytest.mark.parametrize(("type_", "value"), CASES, ids=["raw", "python", "compressed", "pydantic"])
@runs(codecs=CODECS)
async def test_every_operation_gives_back_what_was_stored(world, type_, value):
    cache = world.cache
    assert await cache.set("set", value, type=type_)
    assert await cache.get("set", type=type_) == value
    assert await cache.set_many({"one": value, "two": value}, type=type_)
    assert await cache.get_many(["one", "two", "none"], type=type_) == {"one": value, "two": value}
    assert await cache.get_or_load("load", loading(value), type=type_) == value
    assert await cache.get_or_load("load", never, type=type_) == value

    async def load_many(keys):
        return dict.fromkeys(keys, value)

    assert await cache.get_or_load_many(["a", "b"], load_many, type=type_) == {"a": value, "b": value}
    assert await cache.get_many(["a", "b"], type=type_) == {"a": value, "b": value}


@runs(codecs={bytes: RAW})
async def test_raw_bytes_are_in_the_store_as_they_are(world):
    await world.cache.set("page", b"\x89PNG\r\n\x1a\n", type=bytes)
    cell = world.raw.cell("page")
    assert cell.body.endswith(b"\x89PNG\r\n\x1a\n")


@runs(codecs={bytes: RAW})
async def test_who_reads_with_another_codec_misses_and_loads(world):
    cache = world.cache
    await cache.set("k", b"[1]", type=bytes)
    assert await cache.get("k") is None
    assert cache.stats().misses[MissReason.SCHEMA] == 1
    assert await cache.get_or_load("k", loading([2])) == [2]


@runs(codecs={None: PYTHON}, migrations={list: lambda older: [older]})
async def test_a_migration_is_given_json_and_never_what_another_codec_has_written(world):
    cache = world.cache
    await cache.set("json", 1, type=int)
    assert await cache.get("json", type=list) == [1]
    await cache.set("python", {1})
    assert await cache.get("python", type=list) is None
    assert cache.stats().misses[MissReason.SCHEMA] == 1


@runs(codecs={set: PYTHON})
async def test_a_value_of_another_class_than_the_declared_is_refused(world):
    with pytest.raises(SerializationError, match="value is a list, and not of the declared type"):
        await world.cache.set("k", [1], type=set)
    assert await world.cache.get_or_load("k", loading([1]), type=set) == [1]
    assert world.cache.stats().unstorable == 1
    warned = "".join(world.take_log())
    assert f"a loaded value is not cached: {world.namespace}:k: value is a list, and not of the" in warned


class Broken:
    """A codec of the user's that writes, and cannot read."""

    fingerprint = "broken 1"

    def encode(self, value):
        return b"x"

    def decode(self, payload, max_bytes):
        raise ZeroDivisionError


class Working(Broken):
    def decode(self, payload, max_bytes):
        return "x"


@runs(codecs={str: Working()})
async def test_a_codec_that_raises_when_it_reads_makes_a_miss(world):
    assert await world.cache.set("k", "x", type=str)
    other = world.open(codecs={str: Broken()})
    assert await other.get("k", type=str) is None
    assert other.stats().misses[MissReason.CORRUPT] == 1


class Talkative(Broken):
    def encode(self, value):
        raise ValueError(f"cannot take {value}")


@runs(codecs={str: Talkative()}, compare=None)
async def test_what_the_code_of_the_program_says_is_not_passed_on(world):
    """It may quote the value; the encoders of this library do not, and say what to do."""
    with pytest.raises(SerializationError, match="cannot be stored: ValueError") as raised:
        await world.cache.set("k", "s3cret", type=str)
    assert "s3cret" not in str(raised.value)
    with pytest.raises(SerializationError, match="a complex has no JSON form"):
        await world.cache.set("k", 1j)


@runs(codecs={str: Broken()})
async def test_what_a_codec_cannot_read_again_is_not_stored(world):
    with pytest.raises(SerializationError, match="cannot be stored"):
        await world.cache.set("k", "x", type=str)
    assert await world.cache.get_or_load("k", loading("x"), type=str) == "x"
    assert world.cache.stats().unstorable == 1
    assert f"a loaded value is not cached: {world.namespace}:k: value" in "".join(world.take_log())


class Validating(Broken):
    def decode(self, payload, max_bytes):
        raise msgspec.ValidationError("of another type")


@runs(codecs={str: Validating()})
async def test_what_a_codec_finds_invalid_that_it_has_written_is_not_stored(world):
    with pytest.raises(SerializationError):
        await world.cache.set("k", "x", type=str)
    assert await world.cache.get_or_load("k", loading("x"), type=str) == "x"
    assert world.cache.stats().unstorable == 1
    [warned] = world.take_log()
    assert "a loaded value is not cached" in warned


@pytest.mark.parametrize(("type_", "value"), CASES, ids=["raw", "python", "compressed", "pydantic"])
@runs(codecs=CODECS)
async def test_every_primitive_gives_back_what_was_stored(world, type_, value):
    """So an adapter for a framework, which stores what that has serialized, needs nothing else."""
    cache = world.cache
    assert await cache.add("k", value, type=type_, tags=["t"])
    assert not await cache.add("k", value, type=type_)
    found = await cache.lookup("k", type=type_)
    assert (found.value, found.state, found.tags) == (value, "fresh", ("t",))
    assert await cache.get("k", type=type_, renew=100) == value
    version = await cache.swap("k", value, version=found.version, type=type_)
    assert (await cache.lookup("k", type=type_)).version == version
    assert await cache.update("k", lambda seen: seen, type=type_) == value
    assert await cache.get_many(["k", "none"], type=type_) == {"k": value}
    async with cache.mutate("m") as mutation:
        mutation.set("m", value, type=type_)
    assert await cache.get("m", type=type_) == value
    seen = await cache.lookup("m", type=type_)
    assert await cache.swap("m", value, version=seen.version, type=type_, ttl=0)
    assert await cache.get("m", type=type_) is None
    assert (await cache.invalidate("k")).existed is True


@runs(codecs={None: PYTHON})
async def test_numbers_are_counted_in_whatever_codec_they_are(world):
    cache = world.cache
    await cache.set("n", 1)
    assert await cache.incr("n", 2) == 3
    assert await cache.incr("n", 0.5) == 3.5
    assert await cache.get("n") == 3.5
