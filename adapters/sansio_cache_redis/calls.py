"""Calls: the Redis commands that several others are made of. No I/O here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from sansio_cache.cell import NONCE_BYTES
from sansio_cache.commands import Capture
from sansio_cache_redis.primitive_scripts import UNLOCK
from sansio_cache_redis.scripts import CAPTURE, RELEASE, Script

Args = tuple[bytes, ...]
"""One Redis command: its name and arguments."""
TIME: Final[Args] = (b"TIME",)
EVALSHA: Final = b"EVALSHA"
"""What asks for a script, which the server may not know."""
READS: Final = frozenset((b"GET", b"MGET"))
"""Commands that carry keys only."""
WAIT: Final = b"WAIT"
"""What ends commands that replicas are to have: such commands have a connection of their own."""
EVERY_KEY: Final = b""
"""A message that concerns all keys of its channel."""


TEST: Final = b"%"
"""A message about no key: none can be called so."""
SEVERAL: Final = b"%*"
"""What a message about several keys begins with. No key does."""


def is_confirmed(commands: Sequence[Args]) -> bool:
    """Whether commands end with WAIT, which is never all that there is."""
    return len(commands) > 1 and commands[-1][0] == WAIT


def wake_channel(key: str) -> bytes:
    """The Pub/Sub channel that tells waiters of a key's namespace which key has changed.

    A namespace holds no colon, so that it may stand for any of its keys.
    """
    return f"{key.partition(':')[0]}:%wake".encode()


def telling(keys: Sequence[str], channel_of: Callable[[str], bytes], *, any_key: bool = False) -> list[Args]:
    """The commands that tell those who wait for keys that these have changed.

    A channel that is called like its key is told of that alone, within its slot of a cluster; of all others
    each is told once.

    Args:
        keys: Which have changed.
        channel_of: Gives the channel on which a key is watched.
        any_key: Whether one message stands for all keys, where a channel is told of several.
    """
    found: dict[bytes, list[bytes]] = {}
    for key in keys:
        found.setdefault(channel_of(key), []).append(key.encode())
    told: list[Args] = []
    for channel, names in found.items():
        if channel == names[0]:
            told.append((b"SPUBLISH", channel, channel))
        else:
            told.append((b"PUBLISH", channel, EVERY_KEY if any_key and len(names) > 1 else about(names)))
    return told


def about(keys: Sequence[bytes]) -> bytes:
    """The message that keys of a channel have changed."""
    return keys[0] if len(keys) == 1 else SEVERAL + msgspec.msgpack.encode(keys)


def keys_of(message: bytes) -> list[bytes]:
    """The keys that a message is about."""
    if not message.startswith(SEVERAL):
        return [message]
    try:
        return msgspec.msgpack.decode(message[len(SEVERAL) :], type=list[bytes])
    except msgspec.MsgspecError:  # another version's, or another program's
        return []


def number(value: int) -> bytes:
    """A number as an argument. Written by hiredis, it ends the process where a signal comes meanwhile."""
    return b"%d" % value


def script_call(script: Script, key: str, *args: bytes) -> Args:
    """What asks for a script."""
    return (EVALSHA, script.sha, b"1", key.encode(), *args)


def capture_calls(capture: Capture, nonce: bytes, floor: bytes) -> list[Args]:
    """What asks for the versions of tags."""
    return [script_call(CAPTURE, tag, nonce, number(capture.ttl_ms), floor) for tag in capture.tags]


_GIVE_BACK: Final = frozenset(name for each in (RELEASE, UNLOCK) for name in (each.sha, each.source))
_NONCE_AT: Final = 4


def nonces_given_back(commands: Sequence[Args]) -> frozenset[bytes]:
    """The nonces of leases and locks that commands give back, by which those who have asked are known."""
    if commands[0][0] in READS:  # as mostly; what gives back comes without them
        return frozenset()
    nonces: set[bytes] = set()
    for args in commands:
        if len(args) > _NONCE_AT and args[1] in _GIVE_BACK:
            nonces.add(args[_NONCE_AT][:NONCE_BYTES])
    return frozenset(nonces)
