"""Traces, by an exporter in memory: what is inside what, on threads, asyncio and trio."""

import importlib
import logging
import sys

import anyio
import pytest
from opentelemetry import context as context_api
from opentelemetry import trace as trace_api
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from sansio_cache import ConfigurationError, Policy
from sansio_cache.commands import AcquireLease
from sansio_cache.events import FailureKind
from sansio_cache.notices import StoreAsked
from sansio_cache_opentelemetry import instrument
from sansio_cache_redis import anyio as cache_anyio
from sansio_cache_redis import sync as cache_sync
from support.processes import started
from support.runtimes import (
    EVERYWHERE,
    ON_SERVER,
    PATIENT,
    in_parallel,
    loading,
    never,
    runs,
    together,
    until,
)
from support.servers import wait_until

INSIDE = {"get_or_load": "request", "read": "get_or_load", "query": "get_or_load", "fill": "get_or_load"}
"""What is in what, in the trace of a load."""
ON_LOOPS = tuple(place for place in EVERYWHERE if place.runtime != "sync")
"""For threads, a test has its blocks in another thread than their two ends are in."""


class Traced:
    """Spans that have ended, and a tracer for those of a program."""

    def __init__(self, cache, **options):
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, sampler=options.pop("sampler", None))
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("program")
        self.end = instrument(cache, metrics=False, tracer_provider=self.provider, **options)

    def inside(self, name="request"):
        return self.tracer.start_as_current_span(name)

    @property
    def spans(self):
        return self.exporter.get_finished_spans()

    def one(self, name):
        [found] = [span for span in self.spans if span.name == name]
        return found

    def tree(self):
        """The verbs of spans and of the spans that they are in, in the order of their beginning."""
        names = {span.context.span_id: span.name for span in self.spans}
        return [
            (span.name.split()[-1], names[span.parent.span_id] if span.parent else None)
            for span in sorted(self.spans, key=lambda span: (span.start_time, -span.end_time))
        ]

    def query(self, value):
        """A loader with a span of its own."""

        async def load():
            with self.tracer.start_as_current_span("query"):
                await anyio.lowlevel.checkpoint()
            return value

        return load


def events_of(span):
    return [event.name for event in span.events]


@runs(compare=None, **PATIENT)
async def test_a_load_is_in_the_trace_of_its_request_and_the_loader_s_own_spans_are_in_it(world):
    traced = Traced(world.cache.cache)
    with traced.inside():
        assert await world.cache.get_or_load("user:1", traced.query(1)) == 1

    assert traced.tree() == [
        ("request", None),
        ("get_or_load", "request"),
        ("read", "get_or_load"),
        ("acquire", "get_or_load"),
        ("query", "get_or_load"),
        ("fill", "get_or_load"),
    ]
    span = traced.one("get_or_load")
    attributes = dict(span.attributes)
    version = attributes.pop("cache.entry.version")
    assert attributes == {
        "cache.name": world.cache.key.namespace,
        "cache.operation": "get_or_load",
        "cache.entity": "user",
        "cache.key": f"{world.cache.key.namespace}:user:1",
        "cache.result": "loaded",
        "cache.hit": False,
    }
    assert events_of(span) == ["missed", "loaded", "stored"]
    assert len({each.context.trace_id for each in traced.spans}) == 1
    commands = [each for each in traced.spans if each.name.split()[-1] in ("read", "acquire", "fill")]
    for each in commands:
        assert span.start_time <= each.start_time <= each.end_time <= span.end_time
        assert each.kind is (SpanKind.CLIENT if world.place.has_server else SpanKind.INTERNAL)
    if world.place.has_server:
        read = traced.one("GET read")
        assert read.attributes["db.system.name"] == "redis"
        assert read.attributes["db.operation.name"] == "GET"
        assert read.attributes["db.namespace"] == "0"
        assert read.attributes["server.address"] in world.url
    assert (await world.cache.lookup("user:1")).version.hex() == version


@runs(compare=None, **PATIENT)
async def test_a_hit_is_one_read_in_the_trace_of_its_request(world):
    traced = Traced(world.cache.cache)
    await world.cache.set("user:1", 1)
    traced.exporter.clear()
    with traced.inside():
        assert await world.cache.get_or_load("user:1", never) == 1
    assert traced.tree() == [("request", None), ("get_or_load", "request"), ("read", "get_or_load")]
    assert traced.one("get_or_load").attributes["cache.hit"] is True


@runs(compare=None, **PATIENT)
async def test_a_request_that_waited_for_the_load_of_another_process_says_so(world):
    other = world.open(**PATIENT)
    traced = Traced(world.cache.cache)
    is_loading, may_go_on = anyio.Event(), anyio.Event()

    async def load():
        is_loading.set()
        await may_go_on.wait()
        return 1

    async def ask():
        await is_loading.wait()
        with traced.inside():
            assert await world.cache.get_or_load("user:1", never) == 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other.get_or_load, "user:1", load)
        tasks.start_soon(ask)
        await is_loading.wait()
        await until(lambda: world.cache.driver._watches)  # it sleeps
        may_go_on.set()

    span = traced.one("get_or_load")
    assert span.attributes["cache.result"] == "shared"
    assert span.attributes["cache.hit"] is False
    assert "waited" in events_of(span)
    assert "loaded" not in events_of(span)
    tree = traced.tree()
    assert tree[:2] == [("request", None), ("get_or_load", "request")]
    assert {verb for verb, _ in tree[2:]} <= {"read", "acquire"}
    traced.exporter.clear()
    with traced.inside():
        assert await world.cache.get_or_load("user:1", never) == 1
    assert traced.tree() == [("request", None), ("get_or_load", "request"), ("read", "get_or_load")]


@pytest.fixture(scope="module")
def worker():
    with started(1) as [worker]:
        yield worker


@runs(ON_SERVER, compare=None, **PATIENT)
async def test_the_trace_of_the_load_that_another_process_made_is_found_by_the_version(world, worker):
    """A link would need the ids of the other's span, which are not stored: both name what was stored."""
    namespace, order = world.cache.key.namespace, {"do": "traced", "runtime": world.place.runtime}
    worker.tell(order | {"url": world.url, "namespace": namespace, "policy": {}, "key": "user:1", "value": 1})
    assert await anyio.to_thread.run_sync(worker.answer) == "loading"
    traced = Traced(world.cache.cache)

    async def ask():
        with traced.inside():
            assert await world.cache.get_or_load("user:1", never) == 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await until(lambda: world.cache.driver._watches)  # it sleeps
        worker.tell("go on")
    theirs = {span["name"].split()[-1]: span for span in await anyio.to_thread.run_sync(worker.answer)}

    inside = {name: theirs[around]["id"] for name, around in INSIDE.items()}
    assert {name: theirs[name]["parent"] for name in inside} == inside
    assert len({span["trace"] for span in theirs.values()}) == 1
    mine = traced.one("get_or_load")
    assert mine.context.trace_id != theirs["get_or_load"]["trace"]
    assert mine.attributes["cache.result"] == "shared"
    version = mine.attributes["cache.entry.version"]
    assert theirs["get_or_load"]["attributes"]["cache.entry.version"] == version
    assert (await world.cache.lookup("user:1")).version.hex() == version
    [waited] = [event for event in mine.events if event.name == "waited"]
    assert waited.attributes["cache.entry.version"] == version
    traced.exporter.clear()
    assert await world.cache.get_or_load("user:1", never) == 1
    assert "cache.entry.version" not in traced.one("get_or_load").attributes, "a hit does not say it"


@runs(compare=None, **PATIENT)
async def test_who_shares_the_load_of_another_caller_links_to_it(world):
    traced = Traced(world.cache.cache)

    async def ask(number):
        with traced.inside(f"request {number}"):
            return await world.cache.get_or_load("user:1", traced.query(1))

    assert await together(world, "user:1", 3, ask) == [1, 1, 1]
    operations = [span for span in traced.spans if span.name == "get_or_load"]
    [leader] = [span for span in operations if span.attributes["cache.result"] == "loaded"]
    followers = [span for span in operations if span is not leader]
    assert {span.attributes["cache.result"] for span in followers} == {"shared"}
    for span in followers:
        assert [link.context.span_id for link in span.links] == [leader.context.span_id]
        assert "load_shared" in events_of(span)


@runs(compare=None, **PATIENT)
async def test_a_refresh_is_a_trace_of_its_own_and_linked_to_whoever_began_it(world):
    cache, policy = world.cache, Policy(ttl=60, stale_for_s=60)
    await cache.get_or_load("user:1", loading(1), policy=policy)
    await cache.expire("user:1")
    traced = Traced(cache.cache)

    with traced.inside():
        assert await cache.get_or_load("user:1", traced.query(2), policy=policy) == 1
        await cache.get("another")
    await until(lambda: any(span.name == "refresh" for span in traced.spans))

    refresh, asked = traced.one("refresh"), traced.one("get_or_load")
    assert refresh.parent is None
    assert refresh.context.trace_id != asked.context.trace_id
    assert [link.context.span_id for link in refresh.links] == [asked.context.span_id]
    assert refresh.attributes["cache.operation.background"] is True
    assert refresh.attributes["cache.result"] == "loaded"
    assert (asked.attributes["cache.result"], asked.attributes["cache.stale"]) == ("stale", True)
    inside = {verb for verb, around in traced.tree() if around == "refresh"}
    assert {"acquire", "query", "fill"} <= inside
    assert traced.one("query").context.trace_id == refresh.context.trace_id


@runs(ON_LOOPS, compare=None, **PATIENT)
async def test_what_happens_in_the_block_of_a_mutation_is_inside_and_what_comes_after_is_not(world):
    traced = Traced(world.cache.cache)
    with traced.inside():
        async with world.cache.mutate("user:1") as mutation:
            await world.cache.get("user:1")
            mutation.set("user:1", 2)
        await world.cache.get("user:1")
    operations = [each for each in traced.tree() if each[0] in ("request", "mutate", "get")]
    assert operations == [("request", None), ("mutate", "request"), ("get", "mutate"), ("get", "request")]


@runs(compare=None, **PATIENT)
async def test_callers_that_run_at_once_keep_their_own_traces(world):
    traced = Traced(world.cache.cache)

    async def ask(number):
        with traced.inside(f"request {number}"):
            await world.cache.get_or_load(f"user:{number}", traced.query(number))

    await in_parallel(8, ask)
    spans = {span.context.span_id: span for span in traced.spans}
    for span in spans.values():
        if span.name == "query":
            around = spans[span.parent.span_id]
            request = spans[around.parent.span_id]
            assert around.name == "get_or_load"
            assert around.attributes["cache.key"].endswith(request.name.replace("request ", ":"))
    assert len(spans) == 8 * 6


@runs(compare=None, **PATIENT)
async def test_what_failed_is_marked_with_what_went_wrong(world):
    traced = Traced(world.cache.cache)

    async def fail():
        raise LookupError("secret")

    with pytest.raises(LookupError):
        await world.cache.get_or_load("user:1", fail)
    span = traced.one("get_or_load")
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "failed"
    [failed] = [event for event in span.events if event.name == "load_failed"]
    assert failed.attributes["error.type"] == "LookupError"
    assert "secret" not in str([each.to_json() for each in traced.spans])

    traced.exporter.clear()
    with world.cache.refusing(FailureKind.PERMISSION, AcquireLease):
        assert await world.cache.get_or_load("user:2", loading(2)) == 2
    assert traced.one("get_or_load").status.status_code is StatusCode.UNSET
    assert "store_gave_up" in events_of(traced.one("get_or_load"))
    world.take_log()


def test_a_command_that_failed_is_marked():
    with cache_sync.Cache.from_url("redis://127.0.0.1:1", namespace="n", connect_timeout_s=0.2) as cache:
        traced = Traced(cache)
        cache.get("user:1")
        failed = [span for span in traced.spans if span.name == "GET read"]
        assert failed
        assert {span.attributes["error.type"] for span in failed} == {"connection"}
        assert {span.status.status_code for span in failed} == {StatusCode.ERROR}
        assert {span.attributes["server.port"] for span in failed} == {1}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_context_is_given_to_loaders_on_worker_threads(backend):
    async def main():
        async with cache_anyio.Cache.from_url("memory://", namespace="n") as cache:
            traced = Traced(cache)

            def load():
                with traced.tracer.start_as_current_span("query"):
                    return 1

            with traced.inside():
                await cache.get_or_load("user:1", load)
                assert trace_api.get_current_span().get_span_context().span_id
            assert ("query", "get_or_load") in traced.tree()

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cancelled_operation_ends_and_leaves_the_context_as_it_was(backend):
    async def main():
        async with cache_anyio.Cache.from_url("memory://", namespace="n") as cache:
            traced = Traced(cache)
            with traced.inside():
                before = context_api.get_current()
                with anyio.move_on_after(0.01):
                    await cache.get_or_load("user:1", anyio.sleep_forever)
                assert context_api.get_current() is before
            assert traced.one("get_or_load").attributes["cache.result"] == "abandoned"

    anyio.run(main, backend=backend)


def test_the_blocks_of_mutations_are_around_what_is_done_in_them_on_threads():
    with cache_sync.Cache.from_url("memory://", namespace="n") as cache:
        traced = Traced(cache)
        with traced.inside():
            before = context_api.get_current()
            with cache.mutate("user:1"), traced.tracer.start_as_current_span("commit"):
                pass
            assert context_api.get_current() is before
        assert ("commit", "mutate") in traced.tree()


def test_keys_can_be_left_out():
    with cache_sync.Cache.from_url("memory://", namespace="n") as cache:
        traced = Traced(cache, keys=False)
        cache.get_or_load("user:secret", lambda: 1)
        cache.get_many(["user:secret", "user:secret2"])
        cache.delete_pattern("user:secret*")
        assert "secret" not in str([span.to_json() for span in traced.spans])
        assert traced.one("get_many").attributes["cache.key.count"] == 2


def test_an_operation_that_is_not_recorded_makes_no_spans():
    with cache_sync.Cache.from_url("memory://", namespace="n") as cache:
        traced = Traced(cache, sampler=ALWAYS_OFF)
        with traced.inside():
            before = context_api.get_current()
            assert cache.get_or_load("user:1", lambda: 1) == 1
            assert context_api.get_current() is before
        assert traced.spans == ()


def test_background_work_of_the_cache_makes_no_traces():
    """Probes and renewals are nobody's request."""
    heard = []
    with cache_sync.Cache.from_url("redis://127.0.0.1:1", namespace="n", connect_timeout_s=0.2) as cache:
        traced = Traced(cache)
        cache.subscribe(heard.append, kinds=StoreAsked)
        cache.get("user:1")
        wait_until(lambda: any(asked.command == "Ping" for asked in heard))
        assert {span.name for span in traced.spans if span.parent is None} == {"get"}


def test_what_was_ended_is_told_no_more():
    with cache_sync.Cache.from_url("memory://", namespace="n") as cache:
        traced = Traced(cache)
        cache.get("user:1")
        count = len(traced.spans)
        traced.end()
        traced.end()
        cache.get("user:1")
        assert len(traced.spans) == count == 2
        assert not cache._recorder.subscribers.is_there


def test_a_cache_that_is_instrumented_again_is_told_of_once():
    with cache_sync.Cache.from_url("memory://", namespace="n") as cache:
        before, now = Traced(cache), Traced(cache)
        cache.get("user:1")
        assert before.spans == ()
        assert len(now.spans) == 2
        before.end()
        cache.get("user:1")
        assert len(now.spans) == 4


class Raising:
    """A tracer of a provider that is broken."""

    def get_tracer(self, *_):
        return self

    def start_span(self, *_, **__):
        raise LookupError("no spans today")


def test_a_tracer_that_fails_harms_nobody_and_is_said_once(caplog):
    with cache_sync.Cache.from_url("memory://", namespace="n") as cache:
        before = context_api.get_current()
        instrument(cache, metrics=False, tracer_provider=Raising())
        for number in range(3):
            assert cache.get_or_load(f"user:{number}", lambda: 1) == 1
            assert cache.get(f"user:{number}") == 1
        assert context_api.get_current() is before
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 1
    assert "raised LookupError; it goes on being told, and this is said once" in said[0]


class FailingExporter(InMemorySpanExporter):
    def export(self, spans):
        raise OSError("the collector is away")


def test_an_exporter_that_fails_harms_nobody(caplog):
    with cache_sync.Cache.from_url("memory://", namespace="n") as cache:
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(FailingExporter()))
        instrument(cache, metrics=False, tracer_provider=provider)
        assert cache.get_or_load("user:1", lambda: 1) == 1
    assert not [record for record in caplog.records if record.name.startswith("sansio_cache")]


def test_what_is_no_cache_and_what_asks_for_nothing_is_refused():
    with pytest.raises(ConfigurationError, match="instrument takes a cache; got str"):
        instrument("redis://localhost")
    with (
        cache_sync.Cache.from_url("memory://", namespace="n") as cache,
        pytest.raises(ConfigurationError, match="traces and metrics are both off"),
    ):
        instrument(cache, traces=False, metrics=False)


def test_without_opentelemetry_it_is_said_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("sansio_cache_opentelemetry.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    package = importlib.import_module("sansio_cache_opentelemetry")
    with (
        cache_sync.Cache.from_url("memory://", namespace="n") as cache,
        pytest.raises(ConfigurationError, match=r"pip install .*\[opentelemetry\]"),
    ):
        package.instrument(cache)
