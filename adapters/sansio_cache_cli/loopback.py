"""Whether a place is this machine: a load test asks no other without being told to."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import SplitResult, urlsplit

from sansio_cache.url import MEMORY, host_and_port, read_url
from sansio_cache_cli.failures import MISUSED, CommandError
from sansio_cache_cli.nodes import primaries_of, primary_of

_NAMESPACE = "load"
_TIMEOUT_S = 5.0
_REMEDY = "a load test asks this machine only: --allow-remote asks another of yours"


def is_loopback(host: str) -> bool:
    """Whether every address of a host is this machine's own.

    Raises:
        CommandError: The name is not known.
    """
    try:
        found = {str(each[4][0]) for each in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        raise CommandError(f"the name of the host is not known: {host}") from None
    return all(ipaddress.ip_address(each.partition("%")[0]).is_loopback for each in found)


def check_store(url: str, *, allow_remote: bool) -> None:
    """Refuse the URL of a server on another machine, and one whose sentinels or nodes name such a server.

    It is what they say now: who is promoted while the test runs is not looked at.

    Raises:
        ConfigurationError: It is no URL of a store.
        CommandError: It is another machine's, or nobody says where the server is.
    """
    store = read_url(url)
    if allow_remote or store.scheme in (MEMORY, "unix"):
        return
    _check_places(store.seeds or (store.place,))
    if store.is_cluster:
        _check_places(primaries_of(url, _NAMESPACE, _TIMEOUT_S))
    elif store.seeds:
        _check_places([primary_of(url, _NAMESPACE, _TIMEOUT_S)])


def _check_places(places: Iterable[str]) -> None:
    for place in places:
        host, _ = host_and_port(place)
        if not is_loopback(host):
            raise CommandError(f"{place} is not this machine, and {_REMEDY}", MISUSED)


def check_page(url: str, *, allow_remote: bool) -> SplitResult:
    """The parts of the URL of a web page; one on another machine is refused.

    Raises:
        CommandError: It is none, or another machine's.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise CommandError(
            "--http takes the URL of a page, without a user and a password: http://localhost:8000/users/{n}",
            MISUSED,
        )
    if not allow_remote and not is_loopback(host):
        raise CommandError(f"{host} is not this machine, and {_REMEDY}", MISUSED)
    return parts
