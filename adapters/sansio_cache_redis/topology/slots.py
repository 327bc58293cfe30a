"""Slots: which node of a cluster owns which of the 16,384 slots, as one of its nodes says. No I/O here.

What a node says is believed as a whole or not at all: a map that contradicts itself, or is none, is refused,
and another node is asked. A node that does not know its own address leaves it out; then it is the address
under which it was asked. Where nodes are announced by their names, one without a name stands as `?`: then it
is the address among what else is said of it. Replicas are left out: an invalidation is complete when the
primary has it, and how far a replica is behind cannot be known.

https://valkey.io/commands/cluster-slots, https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Sequence
from typing import Any, Final

from redis.crc import key_slot

from sansio_cache.signals import let_through
from sansio_cache.url import AddressMap, address_of, host_and_port

SLOTS: Final = 16_384
NOBODY: Final = ""
"""In the place of the owner of a slot that has none."""
_NAMELESS: Final = "?"
"""What a node says for one that has no name, where nodes are announced by their names."""


class MapError(Exception):
    """What a node says of the slots is no map of them, or contradicts itself."""


def slot_of(key: str) -> int:
    """The slot of a key."""
    raw = key.encode()
    # A batch asks for hundreds. Where nothing stands in braces, as nearly always, it is of the whole key.
    return key_slot(raw) if "{" in key else crc_hqx(raw, 0) % SLOTS


def read_slots(reply: Any, asked: str, address_map: AddressMap | None = None) -> list[str]:
    """The owner of each slot, by the reply to CLUSTER SLOTS.

    Args:
        reply: What the node has answered.
        asked: The address under which it was asked.
        address_map: As the user has given it.

    Returns:
        An address for each slot, `NOBODY` where it has no owner.

    Raises:
        MapError: It is no map, or two nodes are said to own one slot.
    """
    owners = [NOBODY] * SLOTS
    try:
        for first, last, (host, port, *more), *_ in _items(reply):
            if not (_is_slot(first) and _is_slot(last) and first <= last):
                raise MapError("a range of slots is none")
            owner = _address(_ip_of(more) if host in (b"?", "?") else host, port, asked, address_map)
            if any(each not in (NOBODY, owner) for each in owners[first : last + 1]):
                raise MapError("a slot has two owners")
            owners[first : last + 1] = [owner] * (last + 1 - first)
    except (TypeError, ValueError, UnicodeDecodeError) as error:
        raise MapError("the reply is no map of slots") from error
    return owners


def moved_to(host: str, port: int, asked: str, address_map: AddressMap | None = None) -> str:
    """The address that a redirection names, which the node at `asked` has answered.

    Raises:
        MapError: It names none.
    """
    return _address(host, port, asked, address_map)


def _items(reply: Any) -> Sequence[Any]:
    if not isinstance(reply, list | tuple):
        raise MapError("the reply is no map of slots")
    return reply


def _ip_of(more: Sequence[Any]) -> Any:
    """The address of a node that has no name, from what is said of it after its port: its id, and a list."""
    told: Any = more[1] if len(more) > 1 else ()
    if isinstance(told, list | tuple):
        told = dict(zip(told[::2], told[1::2], strict=False))
    fields: Any = told if isinstance(told, dict) else {}
    return fields.get(b"ip", _NAMELESS)


def _is_slot(number: Any) -> bool:
    return isinstance(number, int) and 0 <= number < SLOTS


def _address(host: Any, port: Any, asked: str, address_map: AddressMap | None) -> str:
    name = host.decode() if isinstance(host, bytes) else host
    if not (name is None or isinstance(name, str)) or isinstance(port, bool) or not isinstance(port, int):
        raise MapError("a node has no address")
    if name == _NAMELESS:
        raise MapError("a node has no name (cluster-announce-hostname), where nodes are announced by names")
    if not name:
        # A node that does not know its own address may not know that of others either.
        name = host_and_port(asked)[0]
        port = port or host_and_port(asked)[1]
        return address_of(name, port) if 0 < port <= 65_535 else asked
    if not 0 < port <= 65_535:
        raise MapError("a node has no port")
    if address_map is None:
        return address_of(name, port)
    try:
        return address_of(*address_map(name, port))
    except Exception as error:  # the user's, of which whoever reads replies must hear nothing
        let_through(error)
        raise MapError(f"address_map raised {type(error).__name__}") from error
