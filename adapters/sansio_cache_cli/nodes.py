"""The servers that a URL means: one, or all primaries of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from sansio_cache.url import read_url
from sansio_cache_cli.failures import CommandError
from sansio_cache_cli.server import Server
from sansio_cache_redis.topology.slots import NOBODY, MapError, read_slots, slot_of


@contextmanager
def open_servers(url: str, namespace: str, timeout_s: float) -> Iterator[list[Server]]:
    """Open a connection to each server that has keys.

    Args:
        url: Where it is, or they are.
        namespace: Of the cache, or any.
        timeout_s: How long one may take for an answer, in seconds.

    Raises:
        ConfigurationError: The URL cannot be used.
        CommandError: It is no server's, or one does not answer.
    """
    addresses = [""]
    if read_url(url).is_cluster:
        owners = _owners(url, namespace, timeout_s)
        addresses = [each for each in dict.fromkeys(owners) if each != NOBODY]
    with ExitStack() as stack:
        yield [stack.enter_context(Server(url, namespace, timeout_s, address)) for address in addresses]


def owner_of(key: str, url: str, namespace: str, timeout_s: float) -> str:
    """The address of the node of a cluster that has a key.

    Raises:
        CommandError: No node answers, or none has it.
    """
    owner = _owners(url, namespace, timeout_s)[slot_of(key)]
    if owner == NOBODY:
        raise CommandError("no node of the cluster has the slot of the key")
    return owner


def _owners(url: str, namespace: str, timeout_s: float) -> list[str]:
    """The address of the node that owns each slot, as the first one says that answers."""
    failure = CommandError("the URL names no node")
    for seed in read_url(url).seeds:
        try:
            with Server(url, namespace, timeout_s, seed) as server:
                slots = server.asked((b"CLUSTER", b"SLOTS"), "a look at all nodes")
                return read_slots(slots, seed, server.config.redis.address_map)
        except CommandError as error:
            failure = error
        except MapError as error:
            failure = CommandError(f"{seed} does not say which node has which slot: {error}")
    raise failure
