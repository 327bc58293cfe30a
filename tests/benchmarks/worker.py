"""A process of its own that benchmarks in step with others; run as `python -m benchmarks.worker`.

It reads one JSON object a line from stdin, and answers with lines of JSON on stdout:

- `stampede`: opens a contender, says `ready`, waits for a line; then so many callers want one key at once.
- `hold`: opens a contender; for each line it loads that line's key, says `loading` when its loader is called,
  which takes a while and gives the time at which it returned.
- `publish`: for each line it says `loading`, waits a while, and publishes the time. No cache at all.

Times are of the monotonic clock, which all processes of a machine share.
"""

import json
import random
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, closing
from threading import Thread
from typing import Any, cast

import anyio
import anyio.to_thread
import redis

from benchmarks.asynchronous import ASYNC
from benchmarks.blocking import THREADS
from benchmarks.contenders import Address, Contender, Peer

_CONTENDERS = {contender.name: contender for contender in (*ASYNC, *THREADS)}
_HOLD_S = (0.02, 0.06)
"""A load takes that long, at random: whoever looks again at intervals is met anywhere between two looks."""

CHANNEL = "bench:filled"


def _say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def _hear() -> dict[str, Any] | None:
    line = sys.stdin.readline()
    return json.loads(line) if line else None


def _hold_s() -> float:
    return random.uniform(*_HOLD_S)


def _stamp() -> dict[str, int]:
    return {"at_ns": time.monotonic_ns()}


class _Loads:
    """A loader that counts."""

    def __init__(self, load_s: float) -> None:
        self._load_s = load_s
        self.count = 0

    def blocking(self) -> dict[str, str]:
        self.count += 1
        time.sleep(self._load_s)
        return {"loaded": "yes"}

    async def asynchronous(self) -> dict[str, str]:
        self.count += 1
        await anyio.sleep(self._load_s)
        return {"loaded": "yes"}


class _Answers:
    def __init__(self) -> None:
        self.errors: dict[str, int] = {}
        self.last_s = 0.0

    def take(self, error: Exception | None) -> None:
        if error is not None:
            name = type(error).__name__
            self.errors[name] = self.errors.get(name, 0) + 1
        self.last_s = max(self.last_s, time.monotonic())


def _report(loads: _Loads, answers: _Answers, cpu_s: float) -> None:
    _say(loads=loads.count, errors=answers.errors, last_s=answers.last_s, cpu_s=time.process_time() - cpu_s)


def _stampede_threads(contender: Contender, address: Address, order: dict[str, Any]) -> None:
    with cast("AbstractContextManager[Peer]", contender.open(address)) as peer:
        peer.get("warm")
        load = peer.guarded or peer.get_or_load
        loads, answers = _Loads(order["load_s"]), _Answers()

        def caller() -> None:
            try:
                load(order["key"], loads.blocking)
            except Exception as error:
                answers.take(error)
            else:
                answers.take(None)

        threads = [Thread(target=caller, daemon=True) for _ in range(order["callers"])]
        _say(ready=True)
        _hear()
        cpu_s = time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        _report(loads, answers, cpu_s)


async def _stampede_async(contender: Contender, address: Address, order: dict[str, Any]) -> None:
    async with cast("AbstractAsyncContextManager[Peer]", contender.open(address)) as peer:
        await peer.get("warm")
        load = peer.guarded or peer.get_or_load
        loads, answers = _Loads(order["load_s"]), _Answers()

        async def caller() -> None:
            try:
                await load(order["key"], loads.asynchronous)
            except Exception as error:
                answers.take(error)
            else:
                answers.take(None)

        _say(ready=True)
        _hear()
        cpu_s = time.process_time()
        async with anyio.create_task_group() as callers:
            for _ in range(order["callers"]):
                callers.start_soon(caller)
        _report(loads, answers, cpu_s)


def _hold_threads(contender: Contender, address: Address, order: dict[str, Any]) -> None:
    def load() -> dict[str, int]:
        _say(loading=True)
        time.sleep(_hold_s())
        return _stamp()

    with cast("AbstractContextManager[Peer]", contender.open(address)) as peer:
        peer.get("warm")
        for _ in range(order["times"]):
            (peer.guarded or peer.get_or_load)(_key(), load)
        _say(done=True)


async def _hold_async(contender: Contender, address: Address, order: dict[str, Any]) -> None:
    async def load() -> dict[str, int]:
        _say(loading=True)
        await anyio.sleep(_hold_s())
        return _stamp()

    async with cast("AbstractAsyncContextManager[Peer]", contender.open(address)) as peer:
        await peer.get("warm")
        for _ in range(order["times"]):
            key = await anyio.to_thread.run_sync(_key)
            await (peer.guarded or peer.get_or_load)(key, load)
        _say(done=True)


def _key() -> str:
    heard = _hear()
    if heard is None:
        raise SystemExit
    return heard["key"]


def _publish(address: Address, order: dict[str, Any]) -> None:
    with closing(redis.Redis.from_url(address.url)) as client:
        client.set("published", "x")
        for _ in range(order["times"]):
            _key()
            _say(loading=True)
            time.sleep(_hold_s())
            client.publish(CHANNEL, str(time.monotonic_ns()))
        _say(done=True)


_THREADED: dict[str, Callable[..., None]] = {"stampede": _stampede_threads, "hold": _hold_threads}
_ASYNC: dict[str, Callable[..., Any]] = {"stampede": _stampede_async, "hold": _hold_async}


def main() -> None:
    """Take orders until stdin ends."""
    while (order := _hear()) is not None:
        address = Address(**order["address"])
        if order["do"] == "publish":
            _publish(address, order)
            continue
        contender = _CONTENDERS[order["contender"]]
        if contender.runtime == "threads":
            _THREADED[order["do"]](contender, address, order)
        else:
            anyio.run(_ASYNC[order["do"]], contender, address, order, backend=contender.runtime)


if __name__ == "__main__":
    main()
