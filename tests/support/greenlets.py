"""A program of threads, for `python -m gevent.monkey`, which makes greenlets of them.

It is run as a program, as patching cannot be undone: `greenlets.py URL NAMESPACE PID`, with the process of a
server that it may stop. What it has found it prints as JSON.
"""

import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable

from sansio_cache_redis.sync import Cache

GIVE_UP_S = 30.0


def together(count: int, call: Callable[[], object]) -> list[object]:
    """What so many callers get at once."""
    found: list[object] = []
    callers = [threading.Thread(target=lambda: found.append(call()), daemon=True) for _ in range(count)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(GIVE_UP_S)
    return found


def main(url: str, namespace: str, pid: int) -> dict[str, object]:
    """Use a cache among others, in health and while the server stands still."""
    turns = 0

    def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            time.sleep(0.005)

    found: dict[str, object] = {"patched": select.select.__module__}
    with Cache.from_url(url, namespace=namespace, operation_timeout_s=1.0) as cache:
        cache.wait_ready(timeout_s=GIVE_UP_S)
        threading.Thread(target=take_turns, daemon=True).start()
        found["set"] = cache.set("k", "v")
        answers = together(40, lambda: [cache.get("k") for _ in range(10)])
        found["read"] = answers.count(["v"] * 10)
        loads: list[int] = []

        def load() -> str:
            loads.append(1)
            time.sleep(0.05)
            return "loaded"

        found["loaded"] = together(40, lambda: cache.get_or_load("l", load)).count("loaded")
        found["loads"] = len(loads)
        found["errors"] = sum(cache.stats().errors.values())
        os.kill(pid, signal.SIGSTOP)
        try:
            turns = 0
            found["frozen"] = together(1, lambda: cache.get("k", default="none"))
            found["turns"] = turns
        finally:
            os.kill(pid, signal.SIGCONT)
        until_s = time.monotonic() + GIVE_UP_S
        while cache.get("k") != "v" and time.monotonic() < until_s:
            time.sleep(0.01)
        found["thawed"] = cache.get("k")
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
