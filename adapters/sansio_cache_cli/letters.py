"""Dead letters on a terminal: listed, queued anew, or forgotten."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from anyio.from_thread import start_blocking_portal

from sansio_cache_cli.consuming import find_entity
from sansio_cache_cli.failures import FOUND, OK, CommandError
from sansio_cache_cli.output import Screen, print_json
from sansio_cache_cli.purging import confirm
from sansio_cache_cli.words import printable
from sansio_cache_runtime.anyio.entity import Entity as AnyioEntity
from sansio_cache_runtime.queue_plan import Letter

_SUPERSEDED = "a later write of its key was queued"


def letters(options: argparse.Namespace) -> int:
    """List the dead letters of an entity, and do what is asked; whether any are left, as an exit status."""
    entity: Any = find_entity(options.entity)
    with _calling(is_async=isinstance(entity, AnyioEntity)) as call:
        queue = entity.queue
        wanted = [each for each in call(queue.letters) if not options.key or _is_of(each, options.key)]
        if options.key and not wanted:
            raise CommandError(
                f"no dead letter of {queue} has such a key: {printable(', '.join(options.key))}"
            )
        if options.replay:
            return _did("replayed", ((each, call(queue.replay, each)) for each in wanted), options)
        if options.drop and wanted:
            if not options.yes:
                confirm(f"{_count(len(wanted))} of {queue}", "is dropped", "Drop them")
            return _did("dropped", ((each, bool(call(queue.drop, each))) for each in wanted), options)
        for each in wanted:
            _list(each, options)
        if not options.json:
            Screen().say(_count(len(wanted)))
        return FOUND if wanted else OK


def _is_of(letter: Letter[Any], keys: list[str]) -> bool:
    """Whether one of the keys is the letter's: whole, or inside the namespace."""
    return letter.key in keys or letter.key.partition(":")[2] in keys


@contextmanager
def _calling(*, is_async: bool) -> Iterator[Callable[..., Any]]:
    """What calls a method and gives its answer: in an event loop of its own where it is a coroutine's."""
    if is_async:
        with start_blocking_portal() as portal:
            yield portal.call
    else:
        yield lambda method, *args: method(*args)


def _count(number: int) -> str:
    return "1 dead letter" if number == 1 else f"{number:,} dead letters"


def _list(letter: Letter[Any], options: argparse.Namespace) -> None:
    if options.json:
        print_json(_plain(letter, options))
        return
    superseded = f" ({_SUPERSEDED})" if letter.is_superseded else ""
    value = f"  {printable(repr(letter.value))}" if options.values else ""
    reason = f"{printable(letter.reason)}{superseded}"
    Screen().say(printable(letter.key), (f"  {letter.token}  ", "dim"), reason, value)


def _plain(letter: Letter[Any], options: argparse.Namespace) -> dict[str, Any]:
    names = ("key", "token", "reason", "is_superseded", *(["value"] if options.values else []))
    return {name: getattr(letter, name) for name in names}


def _did(what: str, done: Iterable[tuple[Letter[Any], bool]], options: argparse.Namespace) -> int:
    """Do it, one by one, and say each time what came of it: what comes after may fail."""
    screen, counts = Screen(), {True: 0, False: 0}
    for letter, is_done in done:
        counts[is_done] += 1
        if options.json:
            print_json({**_plain(letter, options), what: is_done})
        elif is_done:
            screen.say(printable(letter.key), f"  {what}")
        else:
            screen.say(printable(letter.key), f"  is not {what}: {_SUPERSEDED}, or it is gone")
    if not options.json:
        screen.say(f"{what} {_count(counts[True])}")
    return FOUND if counts[False] else OK
