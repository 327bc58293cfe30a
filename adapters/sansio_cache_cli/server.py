"""The server, for subcommands that look at it past the cache: one connection, commands in batches.

It is opened as the cache opens its own, with the options of the URL. What cannot be asked is said in the
words of the cache: where the server is, and no password.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Self

from redis.exceptions import NoPermissionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache import CacheConfig
from sansio_cache.url import MEMORY, read_url
from sansio_cache_cli.failures import MISUSED, CommandError, NotPermittedError
from sansio_cache_redis.calls import Args
from sansio_cache_redis.connections.redispy import pack
from sansio_cache_redis.connections.settings import blocking_factory
from sansio_cache_redis.connections.wires import Wire, blocking_wire
from sansio_cache_redis.errors import ERRORS, as_opening_failure
from sansio_cache_redis.reasons import Where, reason_of, said
from sansio_cache_redis.topology.ways import connecting

_SIGNING_VARIABLE: Final = "SANSIO_CACHE_SIGNING_KEYS"
_LONGEST_REPLY_BYTES: Final = 64 * 2**20


def config_of(url: str, namespace: str, timeout_s: float) -> CacheConfig:
    """The configuration of a cache that has time: nobody waits for a page.

    Keys that entries are signed with come from the environment: arguments stand in the list of processes.

    Raises:
        ConfigurationError: The URL cannot be used.
        InvalidKeyError: The namespace cannot be used.
    """
    signing_keys = os.environ.get(_SIGNING_VARIABLE, "")
    known = CacheConfig.from_env({_SIGNING_VARIABLE: signing_keys}, namespace=namespace).signing_keys
    return CacheConfig.from_options(
        namespace=namespace,
        url=url,
        connect_timeout_s=timeout_s,
        operation_timeout_s=timeout_s,
        signing_keys=known,
    )


def is_no_string(reply: Any) -> bool:
    """Whether a reply says that a key holds something else than a string."""
    return isinstance(reply, Exception) and str(reply).startswith("WRONGTYPE")


class Server:
    """One connection to a server; a context manager.

    Args:
        url: Where it is.
        namespace: Of the cache, or any.
        timeout_s: How long it may take for an answer, in seconds.
        address: `host:port` of a node, where the URL names a cluster.

    Raises:
        ConfigurationError: The URL cannot be used.
        CommandError: It is no server's, or a cluster's, and there is no address.
    """

    def __init__(self, url: str, namespace: str, timeout_s: float, address: str = "") -> None:
        store = read_url(url)
        if store.is_cluster and not address:
            raise CommandError(
                "this looks at one server, and the URL names a cluster: give the URL of a node, "
                f"redis://{store.seeds[0]}, one after the other",
                MISUSED,
            )
        if store.scheme == MEMORY:
            raise CommandError(
                "memory:// is the memory of the process that has it: give the URL of a server, redis://…",
                MISUSED,
            )
        self.config = config_of(url, namespace, timeout_s)
        self._timeout_s = timeout_s
        if address:
            make_connection = blocking_factory(self.config.redis, address)
            self.where = Where(address, store.scheme == "rediss")
        else:
            make_connection, self.where = connecting(self.config.redis)
        self._connection = make_connection()
        self._wire: Wire | None = None
        self._unasked: list[Any] = []
        """What has come together with replies: lines of MONITOR, behind the one to it."""

    def __enter__(self) -> Self:
        try:
            self._connection.connect()
        except ERRORS as error:
            raise self._failure(as_opening_failure(error)) from None
        self._wire = blocking_wire(self._connection, _LONGEST_REPLY_BYTES)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._wire is not None:
            self._wire.close()
        self._connection.disconnect()

    def ask(self, *commands: Args) -> list[Any]:
        """Send commands together; returns their replies, error replies as values.

        Raises:
            CommandError: The server does not answer.
        """
        replies: list[Any] = []
        until_s = time.monotonic() + self._timeout_s
        self.send(*commands)
        while len(replies) < len(commands):
            came = self.receive(until_s)
            if not came and time.monotonic() > until_s:
                raise self._failure(RedisTimeoutError())
            replies += came
        self._unasked = replies[len(commands) :]
        return replies[: len(commands)]

    def asked(self, command: Args, purpose: str) -> Any:
        """The reply to one command.

        Raises:
            CommandError: The server does not answer, or refuses it.
        """
        (reply,) = self.ask(command)
        if isinstance(reply, Exception):
            raise self.refusal(command[0].decode(), reply, purpose)
        return reply

    def send(self, *commands: Args) -> None:
        """Send commands, whose replies come by `receive`."""
        assert self._wire is not None
        try:
            self._wire.write(pack(commands))
        except ERRORS as error:
            raise self._failure(error) from None

    def receive(self, until_s: float) -> list[Any]:
        """What comes until a moment on the monotonic clock: nothing, or some replies."""
        assert self._wire is not None
        if self._unasked:
            unasked, self._unasked = self._unasked, []
            return unasked
        try:
            return self._wire.read(until_s)
        except ERRORS as error:
            raise self._failure(error) from None

    def refusal(self, name: str, error: Exception, purpose: str) -> CommandError:
        """The line for a command that the server refuses."""
        if isinstance(error, NoPermissionError):
            return NotPermittedError(
                f"{self.where.place} does not permit the user of the URL {name}, which {purpose} needs: "
                f"ACL SETUSER <user> +{name.lower()}, or give the URL of another user",
                name,
            )
        return CommandError(f"{self.where.place} refuses {name}, which {purpose} needs: {said(error)}")

    def clock_ms(self) -> int:
        """The server's clock, in milliseconds."""
        return self.clock_ms_of(self.ask((b"TIME",))[0])

    def clock_ms_of(self, reply: Any) -> int:
        """The server's clock by its reply to TIME, in milliseconds.

        Raises:
            CommandError: The server refuses it.
        """
        if isinstance(reply, Exception):
            raise self.refusal("TIME", reply, "the age of an entry")
        seconds, microseconds = reply
        return int(seconds) * 1000 + int(microseconds) // 1000

    def scan(self, pattern: str, *, count: int = 1000) -> Iterator[list[bytes]]:
        """The names of the keys that match a full pattern, page by page; a page may be empty."""
        cursor = b"0"
        while True:
            command = (b"SCAN", cursor, b"MATCH", pattern.encode(), b"COUNT", b"%d" % count)
            cursor, keys = self.asked(command, "to find keys")
            yield [bytes(key) for key in keys]
            if cursor == b"0":
                return

    def _failure(self, error: BaseException) -> CommandError:
        reason, _ = reason_of(error, self.where)
        return CommandError(f"the server cannot be asked: {reason}")
