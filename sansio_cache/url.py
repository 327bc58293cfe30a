"""URLs of stores: what one says, and what is wrong with one that is refused.

redis-py reads a URL as far as it can, and passes over the rest: of ``/cache`` it makes database 0, of
``/1/2`` database 12, of a host that is missing localhost. A cache would then be another than was meant,
without a word. So a URL is read here, by rules that leave nothing over: it is understood, or refused. What
is handed on to redis-py is written so that there is one way to read it.

No message shows a part of a URL but its scheme and the names of options: what stands where the host or the
database should be may be a piece of a password that holds a raw ``/``, ``?``, ``#`` or ``@``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import attrs

from sansio_cache.errors import ConfigurationError

MEMORY: Final = "memory"
_TLS: Final = "rediss"
_UNIX: Final = "unix"
SENTINEL: Final = "redis+sentinel"
_SENTINEL_TLS: Final = "rediss+sentinel"
_SENTINELS: Final = {SENTINEL: "redis", _SENTINEL_TLS: _TLS}
"""What redis-py is told of the server that sentinels name, by the scheme of the URL."""
CLUSTER: Final = "redis+cluster"
_CLUSTER_TLS: Final = "rediss+cluster"
_CLUSTERS: Final = {CLUSTER: "redis", _CLUSTER_TLS: _TLS}
"""What redis-py is told of the nodes of a cluster, by the scheme of the cluster's URL."""
_ALIASES: Final = {
    "valkey": "redis",
    "valkeys": _TLS,
    "valkey+cluster": CLUSTER,
    "valkeys+cluster": _CLUSTER_TLS,
    "valkey+sentinel": SENTINEL,
    "valkeys+sentinel": _SENTINEL_TLS,
}
_SCHEMES: Final = ("redis", _TLS, _UNIX, MEMORY, *_SENTINELS, *_CLUSTERS)
_DEFAULT_PORT: Final = 6379
_SENTINEL_PORT: Final = 26_379
_MAX_PORT: Final = 65_535
_EXAMPLE: Final = "redis://user:password@localhost:6379/0"
_SENTINEL_EXAMPLE: Final = "redis+sentinel://host-1:26379,host-2:26379/mymaster/0"
_HOST: Final = re.compile(r"[\w.-]+")
_IPV6: Final = re.compile(r"\[[0-9A-Fa-f:.]+(%[\w.-]+)?\]")
_OPTION: Final = re.compile(r"[A-Za-z_]\w*")
_BEFORE_THE_OPTIONS: Final = ("host", "port", "path")
_CREDENTIALS: Final = ("username", "password")
_OF_SENTINELS: Final = "sentinel_"
"""What the names of options begin with that are for the connections to sentinels."""
_SERVICE: Final = re.compile(r"[\w.-]+", re.ASCII)
"""As Redis has it: https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel"""

AddressMap: TypeAlias = Callable[[str, int], tuple[str, int]]
"""Gives the host and port under which a node can be reached, of those that a cluster has for it."""


@attrs.frozen
class StoreUrl:
    """What a URL says.

    Attributes:
        scheme: ``redis``, ``rediss``, ``unix`` or ``memory``. Of sentinels and of a cluster, that of the
            servers that they name.
        place: Where the store is, for messages and logs: ``host:port``, or the path of a socket. No secret.
        database: The number of the database.
        text: The URL as redis-py is given it. It may hold a password.
        name: Of a store in memory; empty for one that a cache has to itself.
        service: What sentinels call the server; empty where none are meant.
        seeds: Where these sentinels are, or the nodes that the URL of a cluster names, each ``host:port``.
        sentinel_options: What is for the connections to sentinels, as redis-py calls it. It may hold a
            password.
    """

    scheme: str
    place: str
    database: int = 0
    text: str = attrs.field(default="", repr=False)
    name: str = ""
    service: str = ""
    seeds: tuple[str, ...] = ()
    sentinel_options: tuple[tuple[str, str], ...] = attrs.field(default=(), repr=False)

    @property
    def is_cluster(self) -> bool:
        """Whether a cluster is meant."""
        return bool(self.seeds) and not self.service


def redact_url(url: str) -> str:
    """A URL without what may be secret: the user's name, the password, and the query."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "***"
    place, _, query = rest.partition("?")
    if "@" in query:  # a raw `?` in the password, or a raw `@` in the query: no telling which
        return f"{scheme}://***"
    secret, _, host = place.rpartition("@")
    return f"{scheme}://{'***@' if secret else ''}{host}"


def address_of(host: str, port: int) -> str:
    """Where a server is, as one text: `host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def host_and_port(address: str) -> tuple[str, int]:
    """The host and the port of an address."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def read_url(url: str) -> StoreUrl:
    """Read a URL.

    Raises:
        ConfigurationError: It is none, says what a cache cannot do, or can be read in more than one way. The
            message shows no password, nor a piece of one.
    """
    if not isinstance(url, str):
        raise ConfigurationError(f"a URL is a text; got {type(url).__name__}")
    if any(each.isspace() or not each.isprintable() for each in url):
        raise ConfigurationError(
            "the URL holds a space or an invisible character: remove it; in a password write it as %20"
        )
    scheme, separator, rest = url.partition("://")
    scheme = _ALIASES.get(scheme.lower(), scheme.lower())
    if not separator or scheme not in _SCHEMES:
        raise ConfigurationError(
            "cannot use the URL of the store: it must begin with redis://, rediss://, unix:// or memory://; "
            "or, for sentinels, with redis+sentinel:// or rediss+sentinel://, and for a cluster with "
            "redis+cluster:// or rediss+cluster://"
        )
    if scheme == MEMORY:
        return _memory(rest)
    if "#" in rest:
        raise _refusal(scheme, "it holds a raw `#`: in a user name or password write it as %23")
    before, _, query = rest.partition("?")
    if "@" in query:
        raise _refusal(
            scheme, "it holds an `@` behind a `?`: in a user name or password write `?` as %3F and `@` as %40"
        )
    credentials, socket_or_host, path = _parts(scheme, before)
    has_many = scheme in _SENTINELS or scheme in _CLUSTERS
    hosts = socket_or_host.split(",") if has_many else [socket_or_host]
    places = hosts if scheme == _UNIX else [_host_and_port(scheme, each) for each in hosts]
    options = _options(scheme, query, has_credentials=bool(credentials))
    service = ""
    seeds: tuple[str, ...] = ()
    sentinel_options: tuple[tuple[str, str], ...] = ()
    if scheme in _SENTINELS:
        service, path = _service(scheme, path)
        options, sentinel_options = _parted(scheme, options)
        seeds = tuple(dict.fromkeys(places))
    database = _database(scheme, path, options)
    if scheme in _CLUSTERS:
        if database:
            raise _refusal(scheme, "a cluster has database 0 only: leave the number out")
        seeds = tuple(dict.fromkeys(places))
    scheme = _SENTINELS.get(scheme, _CLUSTERS.get(scheme, scheme))
    place = places[0]
    # A `+` is a space to who reads options as forms write them.
    behind = "".join(f"&{name}={value.replace('+', '%2B')}" for name, value in options.items())
    if "db" not in options:
        behind = f"&db={database}{behind}"
    text = f"{scheme}://{credentials}{place}?{behind[1:]}"
    if service:
        place = f"{service} ({', '.join(seeds)})"
    elif seeds:
        place = ", ".join(seeds)
    return StoreUrl(scheme, place, database, text, "", service, seeds, sentinel_options)


def _refusal(scheme: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"cannot use the {scheme}:// URL of the store: {why}")


def _memory(rest: str) -> StoreUrl:
    if rest.strip("/") and rest.startswith("/"):
        raise _refusal(MEMORY, "it has three slashes, or more: a name follows two, as in memory://sessions")
    name = rest.removesuffix("/")
    if not set(name).isdisjoint("/?#@:"):
        raise _refusal(MEMORY, "it takes a name and nothing else, as in memory://sessions")
    return StoreUrl(MEMORY, "memory", name=name)


def _parts(scheme: str, before: str) -> tuple[str, str, str]:
    """The credentials with their ``@``, the socket or the host with its port, and the path."""
    if scheme == _UNIX:
        if before.startswith("/"):
            credentials, at, place = "", "", before
        else:
            credentials, at, place = before.rpartition("@")
        if not place.startswith("/") or not place.strip("/"):
            raise _refusal(scheme, "it takes the whole path of a socket, as in unix:///run/redis.sock")
        path = ""
    else:
        authority, _, path = before.partition("/")
        if "@" in path:
            raise _refusal(
                scheme, "it holds a raw `/` before an `@`: in a user name or password write `/` as %2F"
            )
        credentials, at, place = authority.rpartition("@")
    if not set(credentials).isdisjoint("@/[]"):
        raise _refusal(
            scheme,
            "in a user name or password write `@` as %40, `/` as %2F, `[` as %5B and `]` as %5D",
        )
    return credentials + at, place, path


def _service(scheme: str, path: str) -> tuple[str, str]:
    """The name of a service, and the path behind it."""
    service, _, rest = path.partition("/")
    if not _SERVICE.fullmatch(service) or _number(service):
        raise _refusal(
            scheme,
            f"behind the hosts stands the name that sentinels have for the server, as in {_SENTINEL_EXAMPLE}",
        )
    return service, rest


def _parted(scheme: str, options: Mapping[str, str]) -> tuple[dict[str, str], tuple[tuple[str, str], ...]]:
    """The options that are for the server, and those that are for sentinels."""
    own = {name: value for name, value in options.items() if not name.startswith(_OF_SENTINELS)}
    theirs = {
        name.removeprefix(_OF_SENTINELS): value.replace("+", "%2B")
        for name, value in options.items()
        if name.startswith(_OF_SENTINELS)
    }
    for name in theirs:
        if name not in (*_CREDENTIALS, "tls") and not name.startswith("ssl_"):
            raise _refusal(
                scheme,
                f"the option {_OF_SENTINELS + name!r} is none: those for sentinels are sentinel_username, "
                "sentinel_password, sentinel_tls and sentinel_ssl_…",
            )
    if theirs.get("tls", "no") not in ("yes", "no"):
        raise _refusal(scheme, "the option 'sentinel_tls' is yes or no")
    return own, tuple(theirs.items())


def _host_and_port(scheme: str, place: str) -> str:
    host, colon, port = place.rpartition(":") if ":" in place and not place.endswith("]") else (place, "", "")
    if not host:
        raise _refusal(scheme, f"it names no host; write it out, as in {_EXAMPLE}")
    if not (_IPV6.fullmatch(host) or _HOST.fullmatch(host)):
        raise _refusal(
            scheme,
            "what stands for the host can be none: it is a name or an address, an IPv6 address in brackets, "
            f"as in {_EXAMPLE} or redis://[::1]:6379/0",
        )
    if colon and port and not (_number(port) and 0 < int(port) <= _MAX_PORT):
        raise _refusal(
            scheme,
            f"the port is a number from 1 to {_MAX_PORT}; where a password stands there, `@` and the host "
            f"are missing, as in {_EXAMPLE}",
        )
    usual = _SENTINEL_PORT if scheme in _SENTINELS else _DEFAULT_PORT
    return f"{host}:{int(port) if port else usual}"


def _options(scheme: str, query: str, *, has_credentials: bool) -> dict[str, str]:
    options: dict[str, str] = {}
    for each in query.split("&"):
        name, _, value = each.partition("=")
        if not each:
            continue
        shown = f"the option {name!r}" if _OPTION.fullmatch(name) else "an option"
        if not value or not _OPTION.fullmatch(name):
            raise _refusal(scheme, f"{shown} has no value, or no name: write name=value behind the `?`")
        if name in options:
            raise _refusal(scheme, f"{shown} is given twice")
        if name in _BEFORE_THE_OPTIONS:
            raise _refusal(scheme, f"{shown} stands before the `?`, as in {_EXAMPLE}")
        if name in _CREDENTIALS and has_credentials:
            raise _refusal(scheme, f"{shown} stands before the host as well: say it once")
        if name.startswith("ssl") and scheme not in (_TLS, _SENTINEL_TLS, _CLUSTER_TLS):
            begin = _CLUSTER_TLS if scheme == CLUSTER else _TLS
            raise _refusal(scheme, f"{shown} is for TLS: begin with {begin}://")
        options[name] = value
    return options


def _database(scheme: str, path: str, options: Mapping[str, str]) -> int:
    given = path if path == "/" else path.removesuffix("/")
    if given and not _number(given):
        raise _refusal(
            scheme,
            f"the path is the number of a database, and nothing else, as in {_EXAMPLE}; 0 is the usual",
        )
    option = options.get("db", given)
    if option and not _number(option):
        raise _refusal(scheme, "the option 'db' is the number of a database, as in ?db=0")
    if given and int(option) != int(given):
        raise _refusal(scheme, "the path and the option 'db' name two databases: say it once")
    return int(option or 0)


def _number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= len(str(2**31))
