"""A primary, its replicas and sentinels that watch them, all on loopback, to be frozen, killed and cut off.

A sentinel is the server's own program in another mode. It finds out in a third of a second that a server does
not answer, and promotes a replica then.
"""

import socket
import socketserver
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import hiredis
import redis

from support.servers import (
    ExternalServer,
    PortReservation,
    Server,
    connect,
    find_server,
    wait_until,
)

SERVICE = "mymaster"
DOWN_AFTER_MS = 300


class Sentinel:
    """One sentinel, as a program."""

    def __init__(self, binary: Path, watched: tuple[str, int], quorum: int, lines: Sequence[str]) -> None:
        self._reservation = PortReservation()
        self._directory = tempfile.TemporaryDirectory(prefix="sc-", dir="/tmp")
        self.port = self._reservation.port
        self.address = f"127.0.0.1:{self.port}"
        host, port = watched
        self._config = Path(self._directory.name, "sentinel.conf")
        self._config.write_text(
            "\n".join(
                [
                    "bind 127.0.0.1",
                    f"port {self.port}",
                    f"dir {self._directory.name}",
                    f"sentinel monitor {SERVICE} {host} {port} {quorum}",
                    f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
                    f"sentinel failover-timeout {SERVICE} 2000",
                    *lines,
                    "",
                ]
            )
        )
        self._command = [str(binary), str(self._config), "--sentinel"]
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start it, and wait until it answers."""
        with Path(self._directory.name, "log").open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        wait_until(self._answers, timeout_s=30.0)

    def _answers(self) -> bool:
        try:
            with connect(f"redis://{self.address}") as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False

    def ask(self, *words: str, **options: Any) -> Any:
        """What it answers to a command."""
        with connect(f"redis://{self.address}", **options) as client:
            return client.execute_command(*words)

    def kill(self) -> None:
        """End it; its port refuses connections from then on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it, and remove its directory."""
        self.kill()
        self._reservation.release()
        self._directory.cleanup()


class Watched:
    """Two servers, one of which is the primary, and some sentinels. A context manager that stops all."""

    def __init__(
        self,
        *,
        sentinels: int = 1,
        args: Sequence[str] = (),
        lines: Sequence[str] = (),
        login: dict[str, str] | None = None,
        password: str | None = None,
    ) -> None:
        found = find_server()
        if isinstance(found, ExternalServer):
            raise RuntimeError("this test starts its own sentinels, and there is only an external server")
        self._stack = ExitStack()
        self._login = login or {}
        self._password = password
        if password is not None:
            args = [*args, "--requirepass", password, "--masterauth", password]
            lines = [*lines, f"sentinel auth-pass {SERVICE} {password}"]
        with ExitStack() as stack:
            quick = ["--repl-diskless-sync-delay", "0"]
            self.first = stack.enter_context(Server.start(args=[*args, *quick]))
            self.second = stack.enter_context(
                Server.start(args=[*args, *quick, "--replicaof", f"127.0.0.1 {self.first.port}"])
            )
            self.sentinels: list[Sentinel] = []
            quorum = sentinels // 2 + 1
            for _ in range(sentinels):
                sentinel = Sentinel(found.path, ("127.0.0.1", self.first.port), quorum, lines)
                stack.callback(sentinel.stop)
                sentinel.launch()
                self.sentinels.append(sentinel)
            wait_until(self._is_whole, timeout_s=30.0)
            self._stack = stack.pop_all()

    @property
    def url(self) -> str:
        """Where a cache finds it."""
        return f"redis+sentinel://{','.join(each.address for each in self.sentinels)}/{SERVICE}/0"

    def primary_port(self, sentinel: Sentinel | None = None) -> int:
        """Which port a sentinel says that the primary has."""
        chosen = sentinel or self.sentinels[0]
        told = chosen.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE, **self._login)
        return int(told[1])

    def wait_for_promotion(self) -> None:
        """Wait until the second server is the primary, and every sentinel that runs says so.

        One whose machine was busy for two seconds takes half a minute before it does anything (TILT:
        https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/).
        """
        running = [each for each in self.sentinels if each._process is not None]
        wait_until(
            lambda: all(self.primary_port(each) == self.second.port for each in running), timeout_s=90.0
        )
        wait_until(lambda: self._role(self.second) == b"master", timeout_s=90.0)

    def _role(self, server: Server) -> bytes:
        role: bytes = server.client(password=self._password).execute_command("ROLE")[0]
        return role

    def _is_whole(self) -> bool:
        """Whether the replica follows, and all sentinels know of it and of each other."""
        link = self.second.client(password=self._password).info("replication")
        if link.get("master_link_status") != "up":
            return False
        for sentinel in self.sentinels:
            told = sentinel.ask("SENTINEL", "MASTER", SERVICE, **self._login)
            facts = told if isinstance(told, dict) else dict(zip(told[::2], told[1::2], strict=True))
            named = {_text(name): _text(value) for name, value in facts.items()}
            if named["num-slaves"] != "1" or named["num-other-sentinels"] != str(len(self.sentinels) - 1):
                return False
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class PlayedSentinel:
    """A sentinel that the test plays: it says what it is told to say. A context manager.

    Args:
        primary: The port on loopback that it gives for the primary.
    """

    def __init__(self, primary: int, *, epoch: int = 1, services: Sequence[str] = (SERVICE,)) -> None:
        self.primary = primary
        self.epoch = epoch
        self.services = services
        self.may_ask_master = True
        self.asked: list[bytes] = []
        self._listening: list[socket.socket] = []
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"redis+sentinel://{self.address}/{SERVICE}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def switch(self, primary: int) -> None:
        """Tell all who listen of a failover."""
        before, self.primary, self.epoch = self.primary, primary, self.epoch + 1
        places = f"{SERVICE} 127.0.0.1 {before} 127.0.0.1 {primary}"
        for sock in self._listening:
            sock.sendall(pack_reply([b"message", b"+switch-master", places.encode()]))

    def cut(self) -> None:
        """Close the connections of all who listen."""
        listening, self._listening = self._listening, []
        for sock in listening:
            sock.shutdown(socket.SHUT_RDWR)

    @property
    def listeners(self) -> int:
        """How many listen."""
        return len(self._listening)

    def answer(self, words: list[bytes]) -> bytes:
        """What it answers to a command."""
        match [each.upper() for each in words[:2]]:
            case [b"SENTINEL", b"MASTERS"]:
                return pack_reply([self._fields(each) for each in self.services])
            case [b"SENTINEL", b"MASTER"]:
                if not self.may_ask_master:
                    return b"-NOPERM no permissions to run the 'sentinel|master' command\r\n"
                if words[2].decode() not in self.services:
                    return b"-ERR No such master with that name\r\n"
                return pack_reply(self._fields(words[2].decode()))
            case [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME"]:
                known = words[2].decode() in self.services
                return pack_reply([b"127.0.0.1", b"%d" % self.primary]) if known else b"*-1\r\n"
            case [b"SUBSCRIBE", _]:
                return b"*3\r\n" + pack_reply(b"subscribe") + pack_reply(words[1]) + b":1\r\n"
            case [b"PING"]:
                return pack_reply([b"pong", b""])
            case _:
                return b"+OK\r\n"

    def _fields(self, service: str) -> list[bytes]:
        told = {"name": service, "ip": "127.0.0.1", "port": self.primary, "config-epoch": self.epoch}
        return [str(word).encode() for pair in told.items() for word in pair]

    def _handler(self) -> type[socketserver.BaseRequestHandler]:
        played = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                parser = hiredis.Reader()
                while data := self.request.recv(65536):
                    parser.feed(data)
                    while isinstance(words := parser.gets(), list):
                        played.asked.append(b" ".join(words))
                        self.request.sendall(played.answer(words))
                        if words[0].upper() == b"SUBSCRIBE":
                            played._listening.append(self.request)

        return Handler

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def pack_reply(reply: Any) -> bytes:
    """A reply as it goes over the wire."""
    if isinstance(reply, bytes):
        return b"$%d\r\n%s\r\n" % (len(reply), reply)
    return b"*%d\r\n%s" % (len(reply), b"".join(map(pack_reply, reply)))
