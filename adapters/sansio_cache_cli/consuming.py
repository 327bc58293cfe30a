"""A consumer in a process of its own: finds the entity, and ends with a signal."""

from __future__ import annotations

import json
import signal
import sys
import threading
from contextlib import ExitStack
from importlib import import_module
from typing import Any, Final

import anyio

from sansio_cache_cli.failures import FOUND, MISUSED, OK, CommandError
from sansio_cache_runtime.anyio.entity import Entity as AnyioEntity
from sansio_cache_runtime.queue_plan import Backlog
from sansio_cache_runtime.sync.entity import Entity

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def consume(place: str, workers: int, drain_s: float, *, as_json: bool) -> int:
    """Consume the queue of an entity until a signal comes; whether nothing is left, as an exit code.

    What is left then is drained for as long as was said. A second signal ends the process at once, as a crash
    would: what it had in hand is left for others.
    """
    entity = find_entity(place)
    queue: Any = entity.queue
    if workers < 1:
        raise CommandError(f"--workers is 1 or more; got {workers}", MISUSED)
    if isinstance(entity, AnyioEntity):
        return anyio.run(_consume_in_loop, queue, place, workers, drain_s, as_json)
    stop = threading.Event()

    def end(*_: object) -> None:
        stop.set()
        _heed_no_more()

    for number in _SIGNALS:
        signal.signal(number, end)
    with queue.consumer(workers=workers, drain_s=0.0):
        _began(queue, queue.backlog().queued, as_json=as_json)
        while not stop.wait(0.5):
            pass
        left = queue.drain(drain_s)
    return _ended(left, place, as_json=as_json)


async def _consume_in_loop(queue: Any, place: str, workers: int, drain_s: float, as_json: bool) -> int:
    with ExitStack() as hearing:
        signals = hearing.enter_context(anyio.open_signal_receiver(*_SIGNALS))
        async with queue.consumer(workers=workers, drain_s=0.0):
            _began(queue, (await queue.backlog()).queued, as_json=as_json)
            async for _ in signals:
                break
            hearing.close()
            _heed_no_more()
            left = await queue.drain(drain_s)
    return _ended(left, place, as_json=as_json)


def _heed_no_more() -> None:
    """Whoever sends another signal does not want to wait: not for what is left, nor for a write in hand."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def _began(queue: Any, queued: int, *, as_json: bool) -> None:
    words = f"consuming {queue}: {queued} writes are queued"
    print(json.dumps({"queued": queued}) if as_json else words, flush=True)


def _ended(left: Backlog, place: str, *, as_json: bool) -> int:
    words = f"{left.queued} writes are left for others" if left.queued else "nothing is left"
    if left.dead:
        words += f"; given up, and dead letters: {left.dead}, see: sansio-cache letters {place}"
    print(json.dumps({"left": left.queued, "dead": left.dead}) if as_json else words, flush=True)
    return FOUND if left.queued else OK


def find_entity(place: str) -> Entity[Any] | AnyioEntity[Any]:
    """The entity at `module:name`, imported from the working directory as Python would.

    Raises:
        CommandError: There is none.
    """
    module_name, _, name = place.partition(":")
    if not module_name or not name:
        raise CommandError(
            f"name the entity as MODULE:ENTITY, as in shop.entities:users; got {place}", MISUSED
        )
    sys.path.insert(0, "")
    try:
        found: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        raise CommandError(f"there is no module {error.name!r} to be imported from here", MISUSED) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise CommandError(f"there is no {name!r} in the module {module_name!r}", MISUSED)
        found = getattr(found, part)
    if not isinstance(found, Entity | AnyioEntity):
        raise CommandError(
            f"{place} is no entity, but of class {type(found).__name__}: name what cache.entity(...) gave",
            MISUSED,
        )
    return found
