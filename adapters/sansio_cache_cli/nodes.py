"""The servers that a URL means: one, or all primaries of a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from redis.crc import key_slot

from sansio_cache.url import address_of, read_url
from sansio_cache_cli.failures import CommandError
from sansio_cache_cli.server import Server, config_of
from sansio_cache_redis.connections.sentinel import Sentinels, find_primary, sentinel_settings
from sansio_cache_redis.errors import ERRORS
from sansio_cache_redis.reasons import reason_of
from sansio_cache_redis.topology.slots import NOBODY, MapError, read_slots


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
    is_cluster = read_url(url).is_cluster
    addresses = primaries_of(url, namespace, timeout_s) if is_cluster else [""]
    with ExitStack() as stack:
        yield [stack.enter_context(Server(url, namespace, timeout_s, address)) for address in addresses]


def primaries_of(url: str, namespace: str, timeout_s: float) -> list[str]:
    """The addresses of the nodes of a cluster that have slots.

    Raises:
        CommandError: No node answers.
    """
    return [each for each in dict.fromkeys(_owners(url, namespace, timeout_s)) if each != NOBODY]


def primary_of(url: str, namespace: str, timeout_s: float) -> str:
    """The address of the server that sentinels name.

    Raises:
        CommandError: None of them says so.
    """
    settings = sentinel_settings(config_of(url, namespace, timeout_s).redis, None)
    assert settings is not None, "the URL names sentinels"
    try:
        return address_of(*find_primary(settings, Sentinels(settings)))
    except ERRORS as error:
        reason, _ = reason_of(error, settings.where)
        raise CommandError(f"the server cannot be asked: {reason}") from None


def owner_of(key: bytes, url: str, namespace: str, timeout_s: float) -> str:
    """The address of the node of a cluster that has a key.

    Raises:
        CommandError: No node answers, or none has it.
    """
    owner = _owners(url, namespace, timeout_s)[key_slot(key)]
    if owner == NOBODY:
        raise CommandError("no node of the cluster has the slot of the key")
    return owner


def read_in_cluster(
    keys: Iterable[bytes], url: str, namespace: str, timeout_s: float
) -> dict[bytes, bytes | None]:
    """What keys of a cluster hold, each as the node says that has it; without those of which none says it.

    Raises:
        CommandError: No node says which has which slot.
    """
    owners = _owners(url, namespace, timeout_s)
    by_owner: dict[str, list[bytes]] = {}
    for key in dict.fromkeys(keys):
        by_owner.setdefault(owners[key_slot(key)], []).append(key)
    by_owner.pop(NOBODY, None)
    found: dict[bytes, bytes | None] = {}
    for owner, its_keys in by_owner.items():
        with suppress(CommandError), Server(url, namespace, timeout_s, owner) as server:
            found |= read_at(server, its_keys)
    return found


def read_at(server: Server, keys: Iterable[bytes]) -> dict[bytes, bytes | None]:
    """What keys hold, without those of which the server does not say it.

    Raises:
        CommandError: The server does not answer.
    """
    names = list(dict.fromkeys(keys))
    replies = server.ask(*((b"GET", name) for name in names))
    return {
        name: None if reply is None else bytes(reply)
        for name, reply in zip(names, replies, strict=True)
        if not isinstance(reply, Exception)
    }


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
