"""Connecting: what redis-py is told about the server, and which of its defaults a cache cannot live with.

redis-py keeps TLS, authentication, the handshake, unix sockets and the parsing of URLs. Overridden, each
for a measured reason:

- retries (10 by default): none. redis-py repeats a command without knowing whether it is idempotent; the
  core, which knows, retries inside one deadline.
- time-outs (5 s): ours, see `RedisConfig`.
- maintenance notifications: off. They switch off the check for unread replies, after which `GET b` may
  return the value of `a`.
- protocol: RESP2. Nothing here needs pushes, and its handshake is shorter.
- `decode_responses`: refused. Cells are bytes.
- redis-py's own version, which it tells the server: given to it. It looks for it in the file system with each
  connection, in half a millisecond where that is quick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from weakref import WeakSet

import redis
import redis.asyncio
from redis.asyncio import connection as asyncio_connection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.driver_info import DriverInfo
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from sansio_cache.config import RedisConfig
from sansio_cache.errors import ConfigurationError
from sansio_cache.url import MEMORY, host_and_port, read_url, redact_url
from sansio_cache_redis.connections.redispy import pack_one
from sansio_cache_redis.reasons import Where
from sansio_cache_runtime.process import at_begin_in_child

_LONGEST_SYN_S: Final = 5.0
"""How long a server may take to take a connection, before it has to shake hands."""

_REFUSED: Final = {
    "decode_responses": "cells are bytes: leave it out",
    "retry": "retries belong to the cache: leave it out",
    "retry_on_timeout": "retries belong to the cache: leave it out",
    "retry_on_error": "retries belong to the cache: leave it out",
    "socket_timeout": "set operation_timeout_s instead",
    "socket_connect_timeout": "set operation_timeout_s or connect_timeout_s instead",
    "timeout": "set operation_timeout_s instead",
    "max_connections": "set the option max_connections instead",
    "protocol": "the cache speaks RESP2: leave it out",
}


def uses_memory(url: str) -> bool:
    """Whether a URL means a store in this process's memory.

    Raises:
        ConfigurationError: It is no URL that the cache can use.
    """
    return read_url(url).scheme == MEMORY


def check_clock(clock: Callable[[], float], url: str) -> Callable[[], float]:
    """The clock of a cache in memory.

    Raises:
        ConfigurationError: It is no clock, or the store has one of its own.
    """
    if not uses_memory(url):
        raise ConfigurationError(
            "clock= is for memory:// only: on a server, entries expire by the server's clock"
        )
    if not callable(clock) or isinstance(clock(), bool) or not isinstance(clock(), int | float):
        raise ConfigurationError("clock is a function that gives seconds, such as time.monotonic")
    return clock


def refuse_no_client(client: Any, options: Mapping[str, Any]) -> None:
    """Refuse what `from_client` cannot take, whatever the client is.

    Raises:
        ConfigurationError: There is no client, or an option is not for one.
    """
    if client is None:
        raise ConfigurationError("from_client takes a client of redis-py; got None")
    if "url" in options:
        raise ConfigurationError("from_client takes no url: the client knows where its server is")


def arguments_of(config: RedisConfig, parse: Callable[[str], Any]) -> tuple[Any, dict[str, Any]]:
    """The class of connection and its keyword arguments, for a URL."""
    url = read_url(config.url)
    try:
        arguments = dict(parse(url.text)) | {"db": url.database}
    except ValueError:
        raise ConfigurationError(
            f"check the options behind `?` in the URL {redact_url(config.url)}: redis-py cannot read the "
            "value of one"
        ) from None
    for name, why in _REFUSED.items():
        if name in arguments:
            raise ConfigurationError(f"the URL option {name} cannot be used: {why}")
    connection_class = arguments.pop("connection_class", None)
    return connection_class, arguments | own_arguments(config.connect_timeout_s)


def own_arguments(timeout_s: float) -> dict[str, Any]:
    """What a cache says to redis-py of any connection, however it is made."""
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": min(timeout_s, _LONGEST_SYN_S),
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        "protocol": 2,
    }


def arguments_at(address: str) -> dict[str, Any]:
    """The arguments of a connection that say where it leads to."""
    if not address:
        return {}
    host, port = host_and_port(address)
    return {"host": host, "port": port}


_DRIVER: Final = DriverInfo(lib_version=redis.__version__)
_SAID_OF_DRIVER: Final = {"driver_info", "lib_name", "lib_version"}


def _factory(make: Callable[..., Any], arguments: dict[str, Any], url: str) -> Callable[[], Any]:
    if _SAID_OF_DRIVER.isdisjoint(arguments):
        arguments = arguments | {"driver_info": _DRIVER}

    def connect() -> Any:
        return make(**arguments)

    try:
        connect()  # opens nothing yet: it only takes, or refuses, its arguments
    except (RedisError, ValueError):
        # Its message quotes what was given, which may be a file's name or a password.
        raise ConfigurationError(
            f"check the options behind `?` in the URL {redact_url(url)}: redis-py refuses the value of one"
        ) from None
    except TypeError as error:
        # "... got an unexpected keyword argument 'x'": the option is the last word, and no secret.
        option = str(error).rpartition(" ")[2]
        raise ConfigurationError(f"unknown option {option} in the URL {redact_url(url)}") from None
    return connect


class Packer:
    """What redis-py's blocking connections pack their own commands with: those of the handshake.

    `hiredis.pack_command` writes integers by their `repr`. Where a signal handler raises in the middle of
    that, it ends the process. It is given bytes only here.
    """

    def pack(self, *args: Any) -> list[bytes]:
        """One command as it goes over the wire, in pieces."""
        words = _as_bytes(args[0]).split()  # `CLIENT SETINFO` is two
        return [pack_one((*words, *map(_as_bytes, args[1:])))]


def _as_bytes(argument: Any) -> bytes:
    return bytes(argument) if isinstance(argument, bytes | bytearray | memoryview) else str(argument).encode()


def blocking_factory(config: RedisConfig, address: str = "") -> Callable[[], Any]:
    """A function that makes redis-py's blocking connections, not yet open.

    Args:
        config: What the user has said.
        address: `host:port`, where it is not that of the URL.

    Raises:
        ConfigurationError: The URL, or an option in it, cannot be used.
    """
    found, arguments = arguments_of(config, parse_url)
    return blocking_made_by(found or redis.Connection, arguments | arguments_at(address), config.url)


def blocking_made_by(made_by: Callable[..., Any], arguments: dict[str, Any], url: str) -> Callable[[], Any]:
    """A function that makes blocking connections, of a class and of arguments for it.

    Raises:
        ConfigurationError: The class does not take the arguments.
    """
    own = {"retry": Retry(NoBackoff(), 0), "command_packer": Packer()}
    make = _factory(made_by, arguments | own, url)

    def make_known() -> Any:
        connection = make()
        _blocking.add(connection)
        return connection

    return make_known


_blocking: Final[WeakSet[Any]] = WeakSet()


def _begin_in_child() -> None:
    """Close what this process has of its parent's connections, which go on there.

    A thread that uses one as the process forks is not in the child, but its stack is, for ever: nothing else
    would close it, and once the parent has gone the server would go on answering nobody.
    """
    for connection in list(_blocking):
        connection.disconnect()  # redis-py does not shut down what another process has opened


at_begin_in_child(_begin_in_child)


def asyncio_factory(config: RedisConfig, address: str = "") -> Callable[[], Any]:
    """A function that makes redis-py's asyncio connections, not yet open.

    Args:
        config: What the user has said.
        address: `host:port`, where it is not that of the URL.

    Raises:
        ConfigurationError: The URL, or an option in it, cannot be used.
    """
    found, arguments = arguments_of(config, asyncio_connection.parse_url)
    made_by = found or asyncio_connection.Connection
    return asyncio_made_by(made_by, arguments | arguments_at(address), config.url)


def asyncio_made_by(made_by: Callable[..., Any], arguments: dict[str, Any], url: str) -> Callable[[], Any]:
    """A function that makes asyncio connections, of a class and of arguments for it.

    Raises:
        ConfigurationError: The class does not take the arguments.
    """
    return _factory(made_by, arguments | {"retry": AsyncRetry(NoBackoff(), 0)}, url)


def where_of(config: RedisConfig, client: Any | None) -> Where:
    """Where the server is, for messages: that of a client of the user's, where there is one."""
    if client is None:
        url = read_url(config.url)
        return Where(url.place, url.scheme == "rediss", str(url.database))
    settings = client.connection_pool.connection_kwargs
    path = settings.get("path")
    place = str(path) if path else f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}"
    return Where(place, database=str(settings.get("db") or 0))


def check_any_client(client: Any) -> None:
    """Refuse a client that no cache can drive.

    Raises:
        ConfigurationError: It is not a client of redis-py, or it decodes responses.
    """
    if isinstance(client, type):
        raise ConfigurationError(f"from_client takes a client, not its class {client.__name__}")
    if not isinstance(client, redis.Redis | redis.asyncio.Redis):
        raise ConfigurationError(f"from_client takes a client of redis-py; got {type(client).__name__}")
    refuse_decoding(client.connection_pool.connection_kwargs, "client")


def refuse_decoding(arguments: Mapping[str, Any], what: str) -> None:
    """Refuse settings that make texts of replies.

    Raises:
        ConfigurationError: They do.
    """
    if arguments.get("decode_responses"):
        raise ConfigurationError(
            f"the {what} has decode_responses=True, and cells are bytes: pass a {what} without it"
        )


def check_client(client: Any, *, blocking: bool) -> None:
    """Refuse a client that this cache, or this event loop, cannot drive.

    Raises:
        ConfigurationError: It is of the wrong kind, or no cache can drive it.
    """
    check_any_client(client)
    if blocking and not isinstance(client, redis.Redis):
        raise ConfigurationError(
            "an asyncio client cannot be driven here: pass a redis.Redis, or use "
            "sansio_cache_redis.anyio.Cache under asyncio"
        )
    if not blocking and not isinstance(client, redis.asyncio.Redis):
        raise ConfigurationError(
            "a blocking redis.Redis would block the event loop: under asyncio pass a redis.asyncio.Redis"
        )
