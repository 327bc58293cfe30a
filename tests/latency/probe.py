"""A process that does nothing but a command of redis-py now and then, on a server that nothing is wrong with.

What its slowest one took is what the machine adds to any call at that time. For each line on stdin it says,
in seconds, the slowest since the line before. Run as `python -P -m latency.probe URL`.
"""

from __future__ import annotations

import sys
import threading
import time

import redis

PAUSE_S = 0.01


def main() -> None:
    client = redis.Redis.from_url(sys.argv[1])
    client.ping()
    slowest_s: list[float] = []
    lock = threading.Lock()

    def probe() -> None:
        while True:
            began_s = time.monotonic()
            client.get("k")
            with lock:
                slowest_s.append(time.monotonic() - began_s)
            time.sleep(PAUSE_S)

    threading.Thread(target=probe, daemon=True).start()
    while sys.stdin.readline():
        with lock:
            found, slowest_s[:] = max(slowest_s, default=0.0), []
        print(found, flush=True)


if __name__ == "__main__":
    main()
