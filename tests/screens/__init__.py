"""The screens of the command that the documentation shows: captured on a terminal, from a real server.

`python -P -m screens` (with PYTHONPATH=tests) writes them anew. A test captures them again, and compares what
stands there, but for figures.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import redis

from sansio_cache_redis.exporting import export_stats
from sansio_cache_redis.sync import Cache
from support.keyspaces import fill_namespace
from support.servers import Server, wait_until
from support.terminal import Terminal

DIRECTORY: Final = Path(__file__).parents[2] / "docs" / "_screens"
NAMES: Final = (
    "health",
    "check",
    "ttl",
    "keys",
    "inspect",
    "top",
    "monitor",
    "purge",
    "load",
    "refused",
)
KEYS: Final = 50_000
SHOWN_PLACE: Final = "localhost:6379"
COLUMNS: Final = 100

_FIGURE: Final = re.compile(r"\d[\d,.]*")
_ONE: Final = "0 (?:µs|ms|s|min|h|d|bytes?|KiB|MiB|GiB)"
_UNIT: Final = re.compile(rf"\b{_ONE}(?: {_ONE})*\b")
"""A figure with its unit, or several: how long a server is up is written as `1 min 7 s` after a minute."""
_BAR: Final = re.compile(r"[█━╸╺─]+")
_ID: Final = re.compile(r"\b[0-9a-f]{16,}\b")
_SIDE: Final = re.compile(r"ahead of|behind")
_GAVE_UP: Final = ("did not answer in time", "do without the store")
"""What the command says, and the log, where the machine is so busy that calls give up."""
_TRIES: Final = 10


@contextmanager
def shop() -> Iterator[Server]:
    """A server with 50,000 entries of the namespace `shop`."""
    with Server.start(args=["--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lfu"]) as server:
        fill_namespace(server.client(), "shop", range(KEYS))
        yield server


def _told_where(server: Server) -> dict[str, str]:
    """The variables that stand for `--url` and `--namespace`."""
    return {"SANSIO_CACHE_REDIS_URL": server.url, "SANSIO_CACHE_NAMESPACE": "shop"}


def capture(name: str, server: Server) -> str:
    """The screen of one subcommand, with the line that asks for it: of a time when no call gave up."""
    text = ""
    for _ in range(_TRIES):
        text = _captured(name, server)
        if not any(said in " ".join(text.split()) for said in _GAVE_UP):
            break
    return text


def _captured(name: str, server: Server) -> str:
    client, env = server.client(), _told_where(server)
    with ExitStack() as stack:
        cache = stack.enter_context(
            Cache.from_url(server.url, namespace="shop", operation_timeout_s=5, attempt_timeout_s=5)
        )
        match name:
            case "check":
                client.persist("shop:user:1")
                stack.callback(client.expire, "shop:user:1", 4_000)
                text = _ended(["check"], lines=40, env=env)
            case "inspect":
                ada = {"id": 7, "name": "Ada"}
                cache.get_or_load("user:7:profile", lambda: ada, tags=["users", "user:7"])
                cache.invalidate(tags=["users"])
                stack.callback(client.unlink, "shop:user:7:profile")
                text = _ended(["inspect", "user:7:profile"], lines=40, env=env)
            case "top":
                text = _top(cache, env)
                cache.delete_pattern("page:*")
            case "monitor":
                text = _monitored(cache, client, env)
                cache.delete("user:ada")
            case "purge":
                text = _purged(env)
                fill_namespace(client, "shop", range(0, KEYS, 5))
            case "refused":
                text = _ended(["purge", "*", "--url", "redis://user:secret@127.0.0.1:1"], lines=10, env=env)
            case _:
                arguments = {
                    "health": ["health"],
                    "ttl": ["ttl"],
                    "keys": ["keys", "user:12*", "--most", "5"],
                    "load": ["load", "--requests", "20000", "--ttl", "0.2", "--url", server.url],
                }
                text = _ended(arguments[name], lines=60, env=env)
    return text.replace(f"127.0.0.1:{server.port}", SHOWN_PLACE)


def _ended(arguments: list[str], *, lines: int, env: dict[str, str]) -> str:
    with Terminal(arguments, columns=COLUMNS, lines=lines, env=env) as terminal:
        terminal.end()
        return _with_line(arguments, terminal.text)


def _with_line(arguments: list[str], text: str) -> str:
    shown = [f"'{each}'" if "*" in each else each for each in arguments]
    return f"$ sansio-cache {' '.join(shown)}\n{text}\n"


def _top(cache: Cache, env: dict[str, str]) -> str:
    """The screen while two programs are at work, of which one is this."""
    is_over = threading.Event()

    def work() -> None:
        number = 0
        while not is_over.wait(0.001):
            number += 1
            cache.get_or_load(f"page:{number % 40}", lambda: time.sleep(0.002), ttl=1)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        with (
            export_stats(cache, every_s=0.5, name="web"),
            export_stats(cache, every_s=0.5, name="worker"),
            Terminal(["top", "--interval", "1"], columns=COLUMNS, lines=20, env=env) as terminal,
        ):
            terminal.wait_for(lambda text: "together" in text)
            text = terminal.text
            terminal.type("\x03")
            terminal.end()
    finally:
        is_over.set()
        worker.join()
    return _with_line(["top"], re.sub(r"\S+:\d+(?=\s{2,}\d)", "host:1234", text))


def _monitored(cache: Cache, client: redis.Redis, env: dict[str, str]) -> str:
    arguments = ["monitor", "--seconds", "60"]
    with Terminal(arguments, columns=COLUMNS, lines=40, env=env) as terminal:
        wait_until(lambda: any(each["cmd"] == "monitor" for each in client.client_list()))
        cache.get("user:1")
        cache.get_or_load("user:ada", lambda: {"name": "Ada"}, tags=["users"])
        cache.get_or_load("user:ada", lambda: {"name": "Ada"}, tags=["users"])
        cache.get_or_load("order:7", lambda: cache.invalidate("order:7") and 1)
        with cache.mutate("user:ada") as mutation:
            mutation.set("user:ada", {"name": "Ada L."})
        cache.invalidate(tags=["users"])
        terminal.wait_for(lambda text: "%t:users" in text)
        terminal.type("\x03")
        terminal.end()
        return _with_line(arguments, terminal.text.replace("^C", ""))


def _purged(env: dict[str, str]) -> str:
    arguments = ["purge", "order:*"]
    with Terminal(arguments, columns=COLUMNS, lines=20, env=env) as terminal:
        terminal.wait_for(lambda text: "[y/N]" in text)
        terminal.type("y\n")
        terminal.end()
        return _with_line(arguments, terminal.text)


def shape(screen: str) -> list[str]:
    """The words of a screen, without its figures: what must be the same whenever it is captured.

    Where a line is broken depends on how long the figures in it are.
    """
    text = " ".join(_ID.sub("id", _BAR.sub("", screen)).split())
    return _UNIT.sub("0 unit", _FIGURE.sub("0", _SIDE.sub("beside", text))).split()
