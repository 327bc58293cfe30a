"""The log of operations at DEBUG, and the fields that records of the cache have."""

import json
import logging

import pytest

from sansio_cache import Policy
from sansio_cache.events import FailureKind
from sansio_cache_redis.sync import Cache
from sansio_cache_runtime.operation_log import operations
from support.runtimes import PATIENT, loading, runs, until
from support.servers import wait_until

STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def fields(record):
    """What a formatter for JSON would write, and that it can."""
    return json.loads(json.dumps({name: each for name, each in vars(record).items() if name not in STANDARD}))


@pytest.fixture
def debug(caplog):
    """The level DEBUG, as a program's configuration sets it before it makes its caches."""
    caplog.set_level(logging.DEBUG, "sansio_cache.operations")
    return caplog


def lines(caplog):
    return [record.getMessage().rpartition(" after ")[0] or record.getMessage() for record in caplog.records]


def test_each_operation_is_a_record_with_its_fields(debug):
    with Cache.from_url("memory://", namespace="n") as cache:
        cache.get_or_load("user:7", lambda: {"secret": "value"})
        cache.get_many(["user:7", "user:8"])
        cache.delete_pattern("user:*")
    assert lines(debug) == [
        "cache n: n:user:7: missed: absent",
        next(line for line in lines(debug) if "loaded in" in line),
        "cache n: n:user:7: stored",
        "cache n: get_or_load n:user:7: loaded",
        "cache n: n:user:8: missed: absent",
        "cache n: get_many n:user:7 and 1 more: partial",
        "cache n: n:user:*: removed 1 key that matched n:user:*",
        "cache n: delete_pattern n:user:*: done",
    ]
    assert {record.name for record in debug.records} == {"sansio_cache.operations"}
    assert {record.levelno for record in debug.records} == {logging.DEBUG}
    found = [fields(record) for record in debug.records]
    took_s, number = (found[3].pop(name) for name in ("cache_took_s", "cache_id"))
    assert took_s > 0
    assert number > 0
    assert found[3] == {
        "cache_name": "n",
        "cache_event": "operation",
        "cache_operation": "get_or_load",
        "cache_result": "loaded",
        "cache_hit": False,
        "cache_key": "n:user:7",
        "cache_entity": "user",
        "cache_count": 1,
        "cache_part": "",
    }
    assert found[0] == {
        "cache_name": "n",
        "cache_event": "missed",
        "cache_key": "n:user:7",
        "cache_entity": "user",
        "cache_reason": "absent",
        "cache_seen": "",
    }
    assert "value" not in str(found)
    assert "secret" not in str(found)


def test_a_hit_is_one_record(debug):
    with Cache.from_url("memory://", namespace="n") as cache:
        cache.set("a", 1)
        debug.clear()
        cache.get(cache.key.build("a"))
    [record] = debug.records
    assert fields(record)["cache_hit"] is True
    assert type(record.cache_key) is str


@runs(compare=None, **PATIENT)
async def test_the_log_follows_its_level_and_costs_nothing_while_nobody_listens(world):
    cache, heard = world.cache, []
    subscribers = cache.cache._recorder.subscribers
    handler = logging.Handler()
    handler.emit = heard.append
    operations.addHandler(handler)
    try:
        await cache.get_or_load("user:1", loading(1))
        assert not subscribers.is_there
        assert heard == []

        operations.setLevel(logging.DEBUG)
        await cache.get("user:2")
        assert [record.cache_result for record in heard if record.cache_event == "operation"] == ["missing"]
        await cache.get("user:1")
        assert heard[-1].cache_result == "hit"

        operations.setLevel(logging.NOTSET)
        await cache.get("user:2")
        assert not subscribers.is_there
        count = len(heard)
        await cache.get("user:1")
        assert len(heard) == count
        world.take_log()
    finally:
        operations.setLevel(logging.NOTSET)
        operations.removeHandler(handler)


def test_where_there_are_only_hits_the_level_is_looked_at_with_some_of_them():
    with Cache.from_url("memory://", namespace="n") as cache:
        cache.set("a", 1)
        operations.setLevel(logging.DEBUG)
        try:
            for _ in range(100):
                cache.get("a")
            assert cache._recorder.subscribers.wants_hits
        finally:
            operations.setLevel(logging.NOTSET)
        for _ in range(100):
            cache.get("a")
        assert not cache._recorder.subscribers.wants_hits


def test_a_handler_that_uses_the_cache_does_not_write_for_ever(debug):
    with Cache.from_url("memory://", namespace="n") as cache:
        calls = []

        class Using(logging.Handler):
            def emit(self, record):
                calls.append(cache.get("other"))

        handler = Using()
        operations.addHandler(handler)
        try:
            cache.get("a")
        finally:
            operations.removeHandler(handler)
    assert calls == [None] * 2  # the miss, and the operation
    assert len(debug.records) == 2


def test_a_handler_that_raises_harms_nobody(debug, monkeypatch):
    class Broken(logging.Handler):
        def emit(self, record):
            raise LookupError

    handler = Broken()
    operations.addHandler(handler)
    try:
        with Cache.from_url("memory://", namespace="n") as cache:
            assert cache.get_or_load("a", lambda: 1) == 1
            assert cache.get("a") == 1
    finally:
        operations.removeHandler(handler)
    warned = [record for record in debug.records if record.levelno == logging.WARNING]
    assert len(warned) == 1
    assert "raised LookupError" in warned[0].getMessage()


@runs(compare=None, **PATIENT)
async def test_an_outage_is_one_record_with_its_place_in_fields(world):
    with world.cache.refusing(FailureKind.CONNECTION):
        for number in range(5):
            await world.cache.get(f"user:{number}")
    await until(lambda: not world.cache.stats().state.is_open)
    began, ended = (fields(record) for record in world.log)
    place = world.url.removeprefix("redis://").partition("/")[0] if world.place.has_server else ""
    assert began == {
        "cache_name": world.cache.key.namespace,
        "cache_event": "outage_began",
        "cache_place": place,
        "cache_part": "",
        "cache_kind": "connection",
        "cache_reason": "",
    }
    assert (ended["cache_event"], ended["cache_place"]) == ("outage_ended", place)
    assert ended["cache_lasted_s"] > 0
    assert place in world.log[0].getMessage()
    world.take_log()


def test_a_refresh_that_failed_is_one_record_with_its_key_and_its_traceback(caplog):
    policy = Policy(ttl=60, stale_for_s=60)

    def fail():
        raise LookupError("sec" + "ret")  # the line is shown, and the text is not

    with Cache.from_url("memory://", namespace="n") as cache:
        cache.get_or_load("user:1", lambda: 1, policy=policy)
        cache.expire("user:1")
        assert cache.get_or_load("user:1", fail, policy=policy) == 1
        wait_until(lambda: caplog.records)
    [record] = caplog.records
    assert fields(record) | {"exc_text": None} == {
        "cache_name": "n",
        "cache_event": "refresh_failed",
        "cache_place": "",
        "cache_key": "n:user:1",
        "cache_entity": "user",
        "cache_error": "LookupError",
        "exc_text": None,
    }
    assert "fail" in logging.Formatter().formatException(record.exc_info)
    assert "secret" not in caplog.text
