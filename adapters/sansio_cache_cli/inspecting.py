"""Inspecting one key at the server; what its bytes mean says `decoding.py`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TypeAlias

from redis.exceptions import MovedError

from sansio_cache import KeyBuilder
from sansio_cache.cell import Cell, parse_cell
from sansio_cache.inspection import CellState, Inspection, inspect
from sansio_cache.tags import NO_VERSION, VARIANT_OF, Versions, tag_key
from sansio_cache.url import read_url
from sansio_cache_cli.decoding import payload_text, plain, sentences
from sansio_cache_cli.failures import FOUND, MISUSED, OK, CommandError
from sansio_cache_cli.nodes import owner_of, read_at, read_in_cluster
from sansio_cache_cli.output import Screen, print_json
from sansio_cache_cli.server import Server, is_no_string
from sansio_cache_cli.words import printable, text_of

_Read: TypeAlias = Callable[[Iterable[bytes]], Mapping[bytes, bytes | None]]


def show_key(options: argparse.Namespace) -> int:
    """Show what a key is; returns the exit status."""
    key = full_key(options.key, options.namespace)
    namespace, address = key.partition(":")[0], ""
    is_cluster = read_url(options.url).is_cluster
    if is_cluster:
        name = key.encode(errors="surrogateescape")
        address = owner_of(name, options.url, namespace, options.timeout)
    with Server(options.url, namespace, options.timeout, address) as server:

        def read(keys: Iterable[bytes]) -> Mapping[bytes, bytes | None]:
            if not is_cluster:
                return read_at(server, keys)
            return read_in_cluster(keys, options.url, namespace, options.timeout)

        found, current = look(server, key, options.most_bytes, read)
    if options.payload:
        if found.contents is None:
            raise CommandError(f"{printable(key)} has no payload: it is {found.state}")
        sys.stdout.buffer.write(found.contents.payload)
        return OK
    if options.json:
        print_json(plain(found, current))
    else:
        _show(found, current)
    return FOUND if found.state is CellState.NONE else OK


def full_key(text: str, namespace: str | None) -> str:
    """The whole name of a key that was given whole, or inside a namespace."""
    if namespace is None:
        if not text.partition(":")[2]:
            raise CommandError(
                f"{printable(text)!r} is no whole key: give it as redis-cli shows it, such as shop:user:1, "
                "or give --namespace",
                MISUSED,
            )
        return text
    root = KeyBuilder(namespace).root
    return text if text.startswith(root) else root + text


def look(
    server: Server,
    key: str,
    most_bytes: int,
    read: _Read,
) -> tuple[Inspection, Versions]:
    """What a key is, and the current versions of the tags that its entry has.

    Args:
        server: Where it is.
        key: Its full name.
        most_bytes: How much of it to read at most.
        read: Reads other keys: what each holds, without those of which it is not known. The entry is not
            said to be fresh then; it is refused all the same where another of its tags was invalidated.

    Raises:
        CommandError: The server does not answer, or refuses to say.
    """
    name = key.encode(errors="surrogateescape")
    time, raw, left_ms, length = server.ask(
        (b"TIME",), (b"GETRANGE", name, b"0", b"%d" % (most_bytes - 1)), (b"PTTL", name), (b"STRLEN", name)
    )
    if isinstance(raw, MovedError):
        raise CommandError(f"{printable(key)} is on another node of the cluster: {raw.host}:{raw.port}")
    for command, reply in (("GETRANGE", raw), ("TIME", time), ("PTTL", left_ms)):
        if isinstance(reply, Exception) and not is_no_string(reply):
            raise server.refusal(command, reply, "inspect")
    server_ms = server.clock_ms_of(time)
    is_there = left_ms != -2
    head = (b"" if isinstance(raw, Exception) else bytes(raw)) if is_there else None
    size = length if isinstance(length, int) else None  # a user of the cache alone may not ask
    is_whole = size is not None and head is not None and len(head) == size
    signer = server.config.signer if is_whole else None
    look_again = partial(
        inspect, text_of(key), head, left_ms=left_ms, server_ms=server_ms, size_bytes=size, signer=signer
    )
    first = look_again()
    if first.contents is None or not first.contents.versions:
        return first, ()
    stored = first.contents.versions
    current = _versions(key, [tag for tag, _ in stored], read)
    is_decided = len(current) == len(stored) or not set(current) <= set(stored)
    return (look_again(versions=current) if is_decided else first), current


def _versions(key: str, tags: list[str], read: _Read) -> Versions:
    holders = {tag: _holder_of(key, tag).encode(errors="surrogateescape") for tag in tags}
    found = read(holders.values())
    return tuple((tag, _version(tag, found[name])) for tag, name in holders.items() if name in found)


def _holder_of(key: str, tag: str) -> str:
    """The key that says the version of a tag; of a variant's tie, the key that it is a variant of."""
    if tag != VARIANT_OF:
        return tag_key(key, tag)
    namespace, _, _, rest = key.split(":", 3) if key.count(":") >= 3 else (key, "", "", "")
    return f"{namespace}:{rest}"


def _version(tag: str, held: bytes | None) -> bytes:
    if held is None:
        return NO_VERSION
    if tag != VARIANT_OF:
        return held
    cell = parse_cell(held)
    return cell.filled_by if isinstance(cell, Cell) else NO_VERSION


def _show(found: Inspection, current: Versions) -> None:
    screen = Screen()
    for name, said in sentences(found, current):
        screen.say((f"{name:<10}", "bold"), printable(said))
    for line in payload_text(found).splitlines():
        screen.say("  ", printable(line))
