"""Connections to whatever sentinels say is the primary: found anew for every connection that opens.

Sentinels watch a server and its replicas, and promote one of these where it has died. A client asks one of
them where the primary is, connects, and looks whether it is one: the sentinel may not know of a failover yet.
https://redis.io/docs/latest/develop/reference/sentinel-clients

Each failover has a number, the configuration epoch, which only grows. What is heard of an older one than is
known here is not believed, as long as another sentinel says otherwise: it is of one that was cut off.
https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel

Nothing here waits but what `find_primary` and `find_primary_async` do, which are the same but for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs
import redis
import redis.asyncio
from redis.asyncio import connection as asyncio_connection
from redis.asyncio.sentinel import Sentinel as AsyncioSentinel
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncioSentinelPool
from redis.connection import SSLConnection, parse_url
from redis.sentinel import Sentinel, SentinelConnectionPool

from sansio_cache.config import RedisConfig
from sansio_cache.errors import ConfigurationError
from sansio_cache.signals import let_through
from sansio_cache.url import StoreUrl, host_and_port, read_url
from sansio_cache_redis.calls import Args
from sansio_cache_redis.connections.redispy import pack
from sansio_cache_redis.connections.settings import (
    arguments_of,
    asyncio_made_by,
    blocking_made_by,
    own_arguments,
    refuse_decoding,
)
from sansio_cache_redis.errors import ERRORS, NoPrimaryError, as_opening_failure
from sansio_cache_redis.reasons import Where, reason_of

_STEPS: Final = 2.0
"""A sentinel may take so many times as long to answer as a step of an operation."""
_COPIED: Final = frozenset(
    {
        *("username", "password", "credential_provider", "db", "client_name", "lib_name", "lib_version"),
        *("driver_info", "socket_keepalive", "socket_keepalive_options"),
    }
)
"""What is taken over of the settings of a user's Sentinel, beside all that is about TLS."""
_SERVICE_FIELDS: Final = (b"name", b"ip", b"port", b"config-epoch")


@attrs.frozen
class ConnectionSettings:
    """What redis-py is told of connections, but for where they lead to."""

    is_tls: bool
    arguments: Mapping[str, Any] = attrs.field(repr=False)


@attrs.frozen
class SentinelSettings:
    """Sentinels, and the server that they watch.

    Attributes:
        service: What they call it; empty for the only one that they watch.
        addresses: Where they are, each `host:port`.
        primary: How to connect to the server.
        sentinel: How to connect to them.
        timeout_s: How long one of them may take to connect, or to answer.
    """

    service: str
    addresses: tuple[str, ...]
    primary: ConnectionSettings
    sentinel: ConnectionSettings
    timeout_s: float
    url: str = attrs.field(default="", repr=False)
    """Where they were named, if that was in one."""

    @property
    def where(self) -> Where:
        """Where the server is, for messages."""
        named = f"{self.service} " if self.service else ""
        return Where(f"{named}({', '.join(self.addresses)})", self.primary.is_tls)


def sentinel_settings(config: RedisConfig, client: Any | None) -> SentinelSettings | None:
    """The sentinels that a URL or a user's object names; None where it names none.

    Raises:
        ConfigurationError: It names some, and cannot be used.
    """
    if client is None:
        url = read_url(config.url)
        return _of_url(config, url) if url.service else None
    if isinstance(client, Sentinel | AsyncioSentinel):
        return _of_object(config, client, "", client.connection_kwargs)
    pool = getattr(client, "connection_pool", None)
    if not isinstance(pool, SentinelConnectionPool | AsyncioSentinelPool):
        return None
    if not pool.is_master:
        raise ConfigurationError(
            "the client is one for replicas, and nothing is read there: pass sentinel.master_for(...)"
        )
    is_tls = issubclass(pool.connection_class, SSLConnection | asyncio_connection.SSLConnection)
    return _of_object(
        config, pool.sentinel_manager, pool.service_name, pool.connection_kwargs | {"ssl": is_tls}
    )


def _of_url(config: RedisConfig, url: StoreUrl) -> SentinelSettings:
    _, own = arguments_of(config, parse_url)
    is_tls = url.scheme == "rediss"
    options = dict(url.sentinel_options)
    theirs_are_tls = options.pop("tls", "yes" if is_tls else "no") == "yes"
    try:
        parse: Callable[[str], Any] = parse_url
        parsed = parse("rediss://h?" + "&".join(f"{name}={value}" for name, value in options.items()))
    except ValueError:
        raise ConfigurationError(
            "check the options for sentinels behind `?` in the URL: redis-py cannot read the value of one"
        ) from None
    theirs: dict[str, Any] = {name: value for name, value in own.items() if name.startswith("ssl_")}
    theirs |= {name: value for name, value in dict(parsed).items() if name in options}
    return SentinelSettings(
        url.service,
        url.seeds,
        ConnectionSettings(is_tls, own),
        ConnectionSettings(theirs_are_tls, theirs if theirs_are_tls else _without_tls(theirs)),
        _STEPS * config.operation_timeout_s,
        config.url,
    )


def _without_tls(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if not name.startswith("ssl_")}


def _of_object(
    config: RedisConfig, sentinel: Sentinel | AsyncioSentinel, service: str, arguments: Mapping[str, Any]
) -> SentinelSettings:
    refuse_decoding(arguments, "Sentinel")
    clients: list[Any] = sentinel.sentinels
    if not clients:
        raise ConfigurationError("the Sentinel names no sentinels: pass one with the addresses of some")
    settings = [each.connection_pool.connection_kwargs for each in clients]
    return SentinelSettings(
        service,
        tuple(f"{_bracketed(each['host'])}:{each['port']}" for each in settings),
        _copied(arguments, config.connect_timeout_s),
        _copied(sentinel.sentinel_kwargs, config.connect_timeout_s),
        _STEPS * config.operation_timeout_s,
    )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _copied(arguments: Mapping[str, Any], timeout_s: float) -> ConnectionSettings:
    is_tls = bool(arguments.get("ssl"))
    kept = {
        name: value
        for name, value in arguments.items()
        if name in _COPIED or (is_tls and name.startswith("ssl_"))
    }
    return ConnectionSettings(is_tls, own_arguments(timeout_s) | kept)


class Sentinels:
    """What is known of some sentinels. Threads may use it at once.

    Args:
        settings: Who they are.
    """

    def __init__(self, settings: SentinelSettings) -> None:
        self._settings = settings
        self._order = list(settings.addresses)
        self._least_epoch = -1
        self._switched_to: list[bytes] = []
        self.service = settings.service.encode()
        """What they call the server; empty until it is known."""
        self.primary: tuple[str, int] | None = None
        """Where the last connection was to lead."""

    @property
    def addresses(self) -> list[str]:
        """Where they are, those first that have answered last."""
        return list(self._order)

    @property
    def commands(self) -> list[Args]:
        """What to ask one of them."""
        if not self.service:
            return [(b"SENTINEL", b"MASTERS")]
        return [
            (b"SENTINEL", b"MASTER", self.service),
            (b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self.service),
        ]

    def switched(self, message: Any) -> bool:
        """Whether a message of `+switch-master` is about this server; what it says is taken in."""
        name, *places = (message.split() if isinstance(message, bytes) else None) or (b"",)
        if not self.service or name != self.service or len(places) != 4:
            return False
        if places[2:] == self._switched_to:  # each of them says so
            return False
        self._switched_to = places[2:]
        self._least_epoch += 1  # at least one failover more than is known
        return True

    def is_believed(self, epoch: int) -> bool:
        """Whether an answer need not be compared with another sentinel's."""
        return epoch < 0 or epoch >= self._least_epoch

    def heard(self, address: str, epoch: int, primary: tuple[str, int]) -> None:
        """A sentinel has answered, and its answer is used."""
        host, port = self.primary = primary
        if self._switched_to != [host.encode(), b"%d" % port]:
            self._switched_to = []  # it has moved on since, and may come back
        # Anew: a list that is being sorted is empty to other threads.
        self._order = sorted(self._order, key=lambda each: each != address)
        self._least_epoch = epoch  # also where it is lower: then nobody has said otherwise


class Search:
    """One search for the primary: whom to ask next, and what comes of the answers."""

    def __init__(self, settings: SentinelSettings, sentinels: Sentinels) -> None:
        self._settings = settings
        self._sentinels = sentinels
        self._found: list[tuple[int, str, tuple[str, int]]] = []
        self._failure: tuple[str, BaseException] | None = None
        self._names: set[str] = set()
        self.commands = sentinels.commands

    def __iter__(self) -> Iterator[str]:
        """The addresses to ask, until one has told."""
        for address in self._sentinels.addresses:
            yield address
            if any(self._sentinels.is_believed(epoch) for epoch, *_ in self._found):
                return

    def take(self, address: str, replies: Sequence[Any]) -> None:
        """What a sentinel has answered."""
        if len(self.commands) == 1:
            services = [_fields(each) for each in replies[0]] if isinstance(replies[0], list) else []
            self._names |= {each.get(b"name", b"").decode(errors="replace") for each in services}
            if len(services) == 1:
                self._sentinels.service = services[0].get(b"name", b"")
                self._found_at(address, services[0])
        else:
            told, place = replies
            fields = _fields(told)
            if not fields and isinstance(place, list | tuple) and len(place) == 2:  # it may say this only
                fields = {b"ip": place[0], b"port": place[1]}
            self._found_at(address, fields)
        refusal = next((each for each in replies if isinstance(each, Exception)), None)
        if refusal is not None and "No such master" not in str(refusal):
            self.failed(address, refusal)

    def _found_at(self, address: str, fields: Mapping[bytes, bytes]) -> None:
        host, port, epoch = (fields.get(name, b"") for name in _SERVICE_FIELDS[1:])
        if host and port.isdigit():
            number = int(epoch) if epoch.isdigit() else -1
            self._found.append((number, address, (host.decode(errors="replace"), int(port))))

    def failed(self, address: str, error: BaseException) -> None:
        """A sentinel could not be asked."""
        self._failure = (address, as_opening_failure(error))

    @property
    def leads_elsewhere(self) -> bool:
        """Whether what was heard says that connections had better lead elsewhere than they do."""
        known = self._sentinels.primary
        return any(
            self._sentinels.is_believed(epoch) and known not in (None, primary)
            for epoch, _, primary in self._found
        )

    def result(self) -> tuple[str, int]:
        """Where the primary is.

        Raises:
            NoPrimaryError: Nobody has told.
        """
        if self._found:
            epoch, address, primary = max(self._found)
            self._sentinels.heard(address, epoch, primary)
            return primary
        raise NoPrimaryError(self._why()) from (self._failure[1] if self._failure else None)

    def _why(self) -> str:
        service = self._settings.service
        if self._names:
            return (
                f"the sentinels {', '.join(self._settings.addresses)} watch several servers "
                f"({', '.join(sorted(self._names))}): pass sentinel.master_for(name), or a URL that names one"
            )
        if self._failure is not None:
            address, error = self._failure
            reason, _ = reason_of(error, Where(address, self._settings.sentinel.is_tls))
            return (
                f"none of the sentinels of {self._settings.where.place} says where the primary is: {reason}"
            )
        named = f"a server called {service}" if service else "any server"
        return f"the sentinels {', '.join(self._settings.addresses)} do not watch {named}"


def _fields(told: Any) -> dict[bytes, bytes]:
    """What a sentinel says of a server: names and values in turns."""
    if not isinstance(told, list | tuple):
        return {}
    words = [each for each in told if isinstance(each, bytes)]
    return dict(zip(words[::2], words[1::2], strict=False)) if len(words) == len(told) else {}


def sentinel_connection(settings: SentinelSettings, address: str) -> Any:
    """A blocking connection to a sentinel, not open yet."""
    made_by = redis.SSLConnection if settings.sentinel.is_tls else redis.Connection
    return blocking_made_by(made_by, _to_sentinel(settings, address), settings.url)()


def _to_sentinel(settings: SentinelSettings, address: str) -> dict[str, Any]:
    host, port = host_and_port(address)
    return (
        dict(settings.sentinel.arguments) | own_arguments(settings.timeout_s) | {"host": host, "port": port}
    )


def find_primary(settings: SentinelSettings, sentinels: Sentinels) -> tuple[str, int]:
    """Ask sentinels, one after the other, where the primary is.

    Raises:
        NoPrimaryError: None of them says so.
    """
    search = Search(settings, sentinels)
    for address in search:
        redispy = sentinel_connection(settings, address)
        try:
            redispy.connect()
            redispy.send_packed_command([pack(search.commands)], check_health=False)
            replies = []
            for _ in search.commands:
                try:
                    replies.append(redispy.read_response(disable_decoding=True))
                except redis.ResponseError as error:
                    replies.append(error)
            search.take(address, replies)
        except ERRORS as error:
            let_through(error)
            search.failed(address, error)
        finally:
            redispy.disconnect()
    return search.result()


async def find_primary_async(settings: SentinelSettings, sentinels: Sentinels) -> tuple[str, int]:
    """Ask sentinels, one after the other, where the primary is. Under asyncio.

    Raises:
        NoPrimaryError: None of them says so.
    """
    search = Search(settings, sentinels)
    for address in search:
        made_by = (
            asyncio_connection.SSLConnection if settings.sentinel.is_tls else asyncio_connection.Connection
        )
        redispy = asyncio_made_by(made_by, _to_sentinel(settings, address), settings.url)()
        try:
            await redispy.connect()
            await redispy.send_packed_command([pack(search.commands)], check_health=False)
            replies = []
            for _ in search.commands:
                try:
                    replies.append(await redispy.read_response(disable_decoding=True))
                except redis.ResponseError as error:
                    replies.append(error)
            search.take(address, replies)
        except ERRORS as error:
            search.failed(address, error)
        finally:
            await redispy.disconnect(nowait=True)
    return search.result()


def blocking_to_primary(settings: SentinelSettings, find: Callable[[], tuple[str, int]]) -> Callable[[], Any]:
    """A function that makes blocking connections to the primary, which is found as each opens.

    Raises:
        ConfigurationError: redis-py refuses a setting.
    """

    class ToPrimary:
        host: str
        port: int

        def connect(self) -> None:
            self.host, self.port = find()
            super().connect()  # type: ignore[misc]

    base: Any = redis.SSLConnection if settings.primary.is_tls else redis.Connection
    made_by = type("SentinelConnection", (ToPrimary, base), {})
    return blocking_made_by(made_by, dict(settings.primary.arguments), settings.url)


def asyncio_to_primary(settings: SentinelSettings, find: Callable[[], Any]) -> Callable[[], Any]:
    """A function that makes asyncio connections to the primary, which is found as each opens.

    Raises:
        ConfigurationError: redis-py refuses a setting.
    """

    class ToPrimary:
        host: str
        port: int

        async def connect(self) -> None:
            self.host, self.port = await find()
            await super().connect()  # type: ignore[misc]

    of_tls = settings.primary.is_tls
    base: Any = asyncio_connection.SSLConnection if of_tls else asyncio_connection.Connection
    made_by = type("SentinelConnection", (ToPrimary, base), {})
    return asyncio_made_by(made_by, dict(settings.primary.arguments), settings.url)
