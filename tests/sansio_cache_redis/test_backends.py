"""The backends: each command gets one event, failures are events, and what is not to be trusted is closed."""

import asyncio
import time
from contextlib import asynccontextmanager, closing
from types import SimpleNamespace

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import NoScriptError, ResponseError

from sansio_cache.cell import HEADER_BYTES, MAGIC, Kind
from sansio_cache.commands import (
    NO_TAGS,
    ONE_PART,
    AcquireLease,
    DeleteKeys,
    HoldCells,
    Mode,
    Ping,
    ReadCell,
    ReadTags,
)
from sansio_cache.config import CacheConfig, RedisConfig
from sansio_cache.events import CellRead, FailureKind, HoldsTaken, KeysDeleted, Ponged, StoreFailed
from sansio_cache.health import Health
from sansio_cache.tags import VERSION_BYTES
from sansio_cache_redis import reading
from sansio_cache_redis.backend import anyio as backend_anyio
from sansio_cache_redis.backend import sync as backend_sync
from sansio_cache_redis.connections import client_anyio, confirming_anyio
from sansio_cache_redis.dialect import Dialect
from sansio_cache_redis.reading import Again, EventReader
from sansio_cache_redis.reasons import Where
from sansio_cache_redis.wire import decode
from sansio_cache_runtime.sync.background import Background
from support.proxy import HOLD, FaultProxy, Proxy, Relay, command
from support.runtimes import until

PATIENT_S = 20.0
each_runtime = pytest.mark.parametrize("runtime", ["sync", "asyncio", "trio"])
on_both = pytest.mark.parametrize("runtime", ["asyncio", "trio"])


class Backend:
    """A backend of any colour, as coroutine functions."""

    def __init__(self, runtime, url):
        config = CacheConfig.from_options(namespace="ns", url=url)
        self._is_sync = runtime == "sync"
        module = backend_sync if self._is_sync else backend_anyio
        make = module.make_backend if self._is_sync else module.make_backend_in_running_loop
        self.beneath = make(config, None, time.monotonic, Background().start)

    async def answer(self, wanted):
        if self._is_sync:
            return await anyio.to_thread.run_sync(self.beneath.perform, wanted)
        return await self.beneath.answer(wanted)

    async def health(self):
        if self._is_sync:
            return await anyio.to_thread.run_sync(self.beneath.health)
        return await self.beneath.health()

    async def aclose(self):
        if self._is_sync:
            self.beneath.close()
        else:
            await self.beneath.aclose()


@asynccontextmanager
async def opened(runtime, url):
    backend = Backend(runtime, url)
    try:
        yield backend
    finally:
        with anyio.CancelScope(shield=True):
            await backend.aclose()


def run(runtime, main):
    return anyio.run(main, backend="trio" if runtime == "trio" else "asyncio")


@each_runtime
def test_each_command_gets_its_event(runtime, redis_url):
    async def main():
        async with opened(runtime, redis_url) as backend:
            assert isinstance(await backend.answer(Ping(PATIENT_S)), Ponged)
            read = await backend.answer(ReadCell("ns:none", PATIENT_S))
            assert isinstance(read, CellRead)
            assert read.cell is None
            assert isinstance(await backend.answer(DeleteKeys(("ns:none",), PATIENT_S)), KeysDeleted)
            assert backend.beneath.part_of("ns:none") == ONE_PART

    run(runtime, main)


@each_runtime
def test_a_script_that_the_server_does_not_know_is_sent_again(runtime, redis_url, redis_client):
    """Faults 6, 7."""

    async def main():
        async with opened(runtime, redis_url) as backend:
            for _ in range(2):
                redis_client.script_flush()
                event = await backend.answer(
                    HoldCells(("ns:a", "ns:b"), b"nonce-00", 1000, PATIENT_S, NO_TAGS)
                )
                assert isinstance(event, HoldsTaken)
            assert isinstance(await backend.answer(DeleteKeys(("ns:a", "ns:b"), PATIENT_S)), KeysDeleted)

    run(runtime, main)


class Slow:
    """A server that knows no script, and takes three quarters of a call's time to say so."""

    def __init__(self):
        self.now_s = 1000.0
        self.given_s = []

    def monotonic(self):
        return self.now_s

    def execute(self, commands, timeout_s):
        self.given_s.append(timeout_s)
        self.now_s += 0.75 * timeout_s
        return [NoScriptError("NOSCRIPT")] * len(commands)

    async def ask(self, commands, timeout_s, **_):
        return self.execute(commands, timeout_s)


@pytest.mark.parametrize("method", ["perform", "perform_behind_asking"])
def test_what_is_sent_again_on_threads_has_what_is_left_of_its_time(method, redis_url, monkeypatch):
    slow = Slow()
    config = CacheConfig.from_options(namespace="ns", url=redis_url)
    backend = backend_sync.make_backend(config, None, time.monotonic, Background().start)
    try:
        monkeypatch.setattr(backend_sync, "time", slow)
        monkeypatch.setattr(backend.connections, "execute", slow.execute)
        assert isinstance(getattr(backend, method)(HoldCells(("ns:k",), b"nonce-00", 1000, 1.0)), StoreFailed)
    finally:
        monkeypatch.undo()
        backend.close()
    assert slow.given_s == [1.0, 0.25]


class Restored:
    """A server that turns out, as a connection to it opens, to be one that a snapshot was restored on."""

    def __init__(self, dialect, *replies):
        self._dialect = dialect
        self._replies = list(replies)

    def execute(self, commands, _timeout_s):
        replies = self._replies.pop(0)
        if not self._replies:
            self._dialect.raise_floor(10**15)
        return replies


@pytest.mark.parametrize(
    ("method", "replies"),
    [
        ("perform", ([[b"A", 1, [b"W", 500]]],)),
        ("perform", ([NoScriptError("NOSCRIPT")], [[b"A", 1, [b"W", 500]]])),
        ("perform_behind_asking", ([b"OK", [b"A", 1, [b"W", 500]]],)),
        ("perform_behind_asking", ([b"OK", NoScriptError("NOSCRIPT")], [b"OK", [b"A", 1, [b"W", 500]]])),
    ],
    ids=["at once", "again", "behind asking", "again behind asking"],
)
def test_what_was_asked_before_a_restored_snapshot_was_known_is_not_believed(
    method, replies, redis_url, monkeypatch
):
    """S1f: the script has taken for alive what is older than the floor."""
    config = CacheConfig.from_options(namespace="ns", url=redis_url)
    with closing(backend_sync.make_backend(config, None, time.monotonic, Background().start)) as backend:
        restored = Restored(backend._dialect, *replies)
        monkeypatch.setattr(backend.connections, "execute", restored.execute)
        command = AcquireLease("ns:k", b"nonce-00", 1000, bytes(16), Mode.KEEP, PATIENT_S)
        assert getattr(backend, method)(command).kind is FailureKind.RESET
        monkeypatch.undo()


@pytest.mark.parametrize("kind", ["client", "confirmed"])
def test_what_is_sent_again_on_a_loop_has_what_is_left_of_its_time(kind, monkeypatch):
    slow = Slow()

    async def main():
        monkeypatch.setattr(reading, "monotonic", slow.monotonic)
        if kind == "client":
            connections = client_anyio.AsyncioClientConnections(SimpleNamespace(connection_pool=None), int)
            monkeypatch.setattr(connections, "_replies", slow.ask)
            return await connections.ask([(b"PING",)], 1.0, once_more)
        confirming = confirming_anyio.LoopConfirming(dict)
        monkeypatch.setattr(confirming, "_replies", slow.ask)
        return await confirming.ask([(b"PING",)], 1.0, once_more)

    def once_more(_):
        return Again([(b"PING",)], lambda replies: len(replies))

    assert anyio.run(main) == 1
    assert slow.given_s == [1.0, 0.25]


@each_runtime
@pytest.mark.parametrize(
    "wanted", [ReadCell("ns:k", PATIENT_S), HoldCells(("ns:k",), b"nonce-00", 1, PATIENT_S)]
)
def test_a_server_that_refuses_is_an_event(runtime, wanted, redis_server):
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        proxy.refuse_connections()

        async def main():
            async with opened(runtime, proxy.url) as backend:
                event = await backend.answer(wanted)
                assert isinstance(event, StoreFailed)
                assert event.kind is FailureKind.CONNECTION
                health = await backend.health()
                assert not health.ok
                [problem] = health.problems
                assert problem.startswith("the server cannot be asked: ")

        run(runtime, main)


@each_runtime
def test_a_server_that_is_silent_is_an_event(runtime, redis_server):
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main():
            async with opened(runtime, proxy.url) as backend:
                assert isinstance(await backend.answer(Ping(PATIENT_S)), Ponged)
                proxy.on(command("GET"), HOLD)
                event = await backend.answer(ReadCell("ns:k", 0.25))
                assert isinstance(event, StoreFailed)
                assert event.kind is FailureKind.TIMEOUT
                proxy.release()

        run(runtime, main)


@each_runtime
def test_what_cannot_be_sent_is_an_event(runtime, redis_url):
    """Nothing is raised, whatever it is: a text that is no Unicode, a key of no type that is known."""

    async def main():
        async with opened(runtime, redis_url) as backend:
            for _ in range(2):  # without a connection, and on one
                for key in ("\ud800", 5):
                    event = await backend.answer(ReadCell(key, PATIENT_S))
                    assert isinstance(event, StoreFailed)
                    assert event.kind is FailureKind.OTHER
                event = await backend.answer(HoldCells(("ns:k",), object(), 1, PATIENT_S))
                assert isinstance(event, StoreFailed)
                assert isinstance(await backend.answer(Ping(PATIENT_S)), Ponged)

    run(runtime, main)


@each_runtime
def test_health_is_that_of_the_server_and_leaves_the_caches_part_to_the_cache(runtime, redis_url):
    async def main():
        async with opened(runtime, redis_url) as backend:
            health = await backend.health()
            assert isinstance(health, Health)
            assert health.ok
            assert health.server
            assert health.latency_s > 0
            assert not health.bypassing
            assert health.pending_invalidations == 0

    run(runtime, main)


@each_runtime
def test_what_is_distrusted_is_closed_and_another_is_opened(runtime, redis_server):
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main():
            async with opened(runtime, proxy.url) as backend:
                assert isinstance(await backend.answer(Ping(PATIENT_S)), Ponged)
                backend.beneath.distrust(ONE_PART)
                assert isinstance(await backend.answer(Ping(PATIENT_S)), Ponged)

        run(runtime, main)
        assert proxy.connections_opened == 2


# Read in delivery.


class SwappingRelay(Relay):
    """Keeps GETs to itself, and answers three of them at once with numbers."""

    def __init__(self):
        super().__init__()
        self._gets = 0

    def from_client(self, data):
        if b"GET" not in data:
            super().from_client(data)
            return
        self._gets += data.count(b"GET")
        if self._gets == 3:
            self.to_client += b":7\r\n" * 3


class SwappingProxy(Proxy):
    """Does so on the first connection."""

    def __init__(self, port):
        super().__init__("127.0.0.1", port)
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def _relay(self):
        return SwappingRelay() if self.connections_opened <= 1 else Relay()


@on_both
def test_a_reply_of_anothers_closes_the_connection_and_what_others_wait_for_is_asked_again(
    runtime, redis_server, redis_client
):
    """S9: the reply is found out where it comes in, and what is behind it in the same data is nobody's."""
    redis_client.delete("ns:k")
    with SwappingProxy(redis_server.port) as proxy:

        async def main():
            async with opened(runtime, proxy.url) as backend:
                assert isinstance(await backend.answer(Ping(PATIENT_S)), Ponged)
                events = []

                async def ask():
                    events.append(await backend.answer(ReadCell("ns:k", PATIENT_S)))

                async with anyio.create_task_group() as tasks:
                    for _ in range(3):
                        tasks.start_soon(ask)
                failures = [event.kind for event in events if isinstance(event, StoreFailed)]
                assert failures == [FailureKind.MISPAIRED]
                assert [event.cell for event in events if isinstance(event, CellRead)] == [None, None]
                assert isinstance(await backend.answer(ReadCell("ns:k", PATIENT_S)), CellRead)

        run(runtime, main)
        assert proxy.connections_opened == 2


@on_both
def test_suspicions_that_prove_wrong_cost_one_connection_however_many(runtime, redis_server):
    """S9: after a migration of the namespace each of its keys is in doubt once."""
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main():
            async with opened(runtime, proxy.url) as backend:
                for _ in range(20):
                    assert isinstance(await backend.answer(Ping(PATIENT_S)), Ponged)
                    backend.beneath.suspect(ONE_PART)
                    assert isinstance(await backend.answer(ReadCell("ns:k", PATIENT_S)), CellRead)
                    backend.beneath.trust(ONE_PART)
                assert backend.beneath.open_connections == 2

        run(runtime, main)
        assert proxy.connections_opened == 2


def test_suspicions_on_threads_that_prove_wrong_cost_one_connection_however_many(redis_server):
    """S9, as above."""
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        config = CacheConfig(namespace="ns", redis=RedisConfig(url=proxy.url))
        backend = backend_sync.make_backend(config, None, time.monotonic, Background().start)
        for _ in range(20):
            assert isinstance(backend.perform(Ping(PATIENT_S)), Ponged)
            backend.suspect(ONE_PART)
            assert isinstance(backend.perform(ReadCell("ns:k", PATIENT_S)), CellRead)
            backend.trust(ONE_PART)
        assert backend.open_connections == 2
        backend.close()
        assert proxy.connections_opened == 2


@on_both
def test_for_a_cancelled_caller_nothing_is_decoded(runtime, redis_server, monkeypatch):
    """Fault 28: nor may its reply make a stranger's connection suspect."""
    decoded = []

    def noting(self, asked, replies, floor_us=None):
        decoded.append(asked)
        return event(self, asked, replies, floor_us)

    event = reading.EventReader.read
    monkeypatch.setattr(reading.EventReader, "read", noting)
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main():
            async with opened(runtime, proxy.url) as backend:
                ping = Ping(PATIENT_S)
                await backend.answer(ping)
                held = proxy.on(command("GET", "ns:gone"), HOLD)

                async def ask():
                    await backend.answer(ReadCell("ns:gone", PATIENT_S))

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(ask)
                    await until(lambda: held.fired)
                    tasks.cancel_scope.cancel()
                proxy.release()
                assert isinstance(await backend.answer(ping), Ponged)
                assert decoded == [ping, ping]

        run(runtime, main)
        assert proxy.connections_opened == 1


@each_runtime
def test_a_fault_in_decoding_is_an_event_and_breaks_no_connection(runtime, redis_server, monkeypatch):
    def fail(*_):
        raise RecursionError

    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main():
            async with opened(runtime, proxy.url) as backend:
                assert isinstance(await backend.answer(Ping(PATIENT_S)), Ponged)
                with monkeypatch.context() as patched:
                    patched.setattr(reading, "decode", fail)
                    event = await backend.answer(ReadTags(("ns:%t:k",), PATIENT_S))
                assert isinstance(event, StoreFailed)
                assert event.kind is FailureKind.OTHER
                assert isinstance(await backend.answer(ReadCell("ns:k", PATIENT_S)), CellRead)

        run(runtime, main)
        assert proxy.connections_opened == 1


def test_under_asyncio_a_read_is_a_future_and_no_coroutine(redis_url):
    """It saves the price of one."""

    async def main():
        async with opened("asyncio", redis_url) as backend:
            await backend.answer(Ping(PATIENT_S))
            answer = backend.beneath.answer(ReadCell("ns:k", PATIENT_S))
            assert isinstance(answer, asyncio.Future)
            assert not isinstance(answer, asyncio.Task)
            assert isinstance(await answer, CellRead)

    run("asyncio", main)


@given(
    st.one_of(
        st.binary(max_size=HEADER_BYTES + 8),
        st.builds(
            lambda kind, rest: bytes([MAGIC, kind]) + rest,
            st.integers(0, len(Kind)),
            st.binary(min_size=HEADER_BYTES - 3, max_size=HEADER_BYTES + 8),
        ),
    ),
    st.none() | st.integers(0, 10**13),
)
def test_a_plain_read_says_what_the_parts_say_that_it_does_without(raw, offset_ms):
    clock, command = Dialect(offset_ms, clock=lambda: 7.5), ReadCell("ns:k", 1.0)
    reader = EventReader(lambda: 7.5, clock, lambda: None, Where("there"))
    assert reader.read(command, [raw]) == decode(command, [raw], clock, 7.5)
    assert reader.read(command, [raw]) == CellRead(7.5, raw, clock.now_ms(7.5))


@given(
    st.none() | st.binary(max_size=3),
    st.lists(
        st.none()
        | st.binary(max_size=VERSION_BYTES + 1)
        | st.binary(min_size=VERSION_BYTES, max_size=VERSION_BYTES)
        | st.just(ResponseError("WRONGTYPE x"))
        | st.just(7),
        max_size=3,
    ),
)
def test_a_read_with_tags_says_what_the_parts_say_that_it_does_without(raw, versions):
    clock = Dialect(5, clock=lambda: 7.5)
    command = ReadCell("ns:k", 1.0, tuple(f"ns:%t:{number}" for number in range(len(versions))))
    reader = EventReader(lambda: 7.5, clock, lambda: None, Where("there"))
    assert reader.read(command, [raw, *versions]) == decode(command, [raw, *versions], clock, 7.5)
