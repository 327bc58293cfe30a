"""What can happen to the network, the server and the processes of a run, and when it does: drawn from a seed.

What happens inside a process (cancelled calls, handlers that raise, finalisers, a fork in C) is in `worker`.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from typing import Any

import attrs
import redis

from support.proxy import (
    DROP_REPLY,
    DROP_REQUEST,
    HALF_OPEN,
    HOLD,
    SILENCE,
    CutReply,
    CutRequest,
    Delay,
    DelayReply,
    Drip,
    Fault,
    FaultProxy,
    Refuse,
    Replay,
    command,
    sometimes,
)
from support.servers import Server

End = Callable[[], object]


class Lab:
    """What faults are done to."""

    def __init__(self, server: Server, proxy: FaultProxy, draw: random.Random) -> None:
        self.server = server
        self.proxy = proxy
        self.draw = draw
        self.programs: Iterator[Path | None] = repeat(None)
        """What the server is, each time that it is started again; None: what it was."""
        self.pids: Callable[[], list[int]] = list
        self.kill_one: Callable[[], bool] = bool
        self.done: Counter[str] = Counter()

    def client(self) -> Any:
        """A client of the server itself, which has one connection."""
        return redis.Redis(
            unix_socket_path=self.server.unix_url.removeprefix("unix://"), single_connection_client=True
        )


@attrs.frozen
class Kind:
    """One fault: `begin` does it, and gives what ends it."""

    name: str
    begin: Callable[[Lab], End | None]
    longest_s: float = 1.0
    lane: str = "network"
    """Of those of one lane, one happens at a time."""
    rest_s: float = 0.6
    """How long it takes at most until the next of its lane."""


def _rule(name: str, action: Fault, chance: float, what: str | None = None, longest_s: float = 1.0) -> Kind:
    """A fault of the network that strikes some commands."""

    def begin(lab: Lab) -> End:
        some = sometimes(chance, lab.draw) if what is None else sometimes(chance, lab.draw, command(what))
        rule = lab.proxy.on(some, action, times=None, name=name)

        def end() -> None:
            lab.proxy.forget(rule)
            if action is HOLD:
                lab.proxy.release()

        return end

    return Kind(name, begin, longest_s)


def _on_connect(name: str, action: Fault, longest_s: float = 1.0) -> Kind:
    """A fault that strikes who connects; connections are reset first, so that there is somebody."""

    def begin(lab: Lab) -> End:
        rule = lab.proxy.on_connect(action, times=None, name=name)
        lab.proxy.drop_all()
        return lambda: lab.proxy.forget(rule)

    return Kind(name, begin, longest_s)


def _switch(name: str, begin: Callable[[FaultProxy], object], end: Callable[[FaultProxy], object]) -> Kind:
    """A fault of the network that concerns all connections."""

    def do(lab: Lab) -> End:
        begin(lab.proxy)
        lab.done[name] += 1
        return lambda: end(lab.proxy)

    return Kind(name, do)


def _once(name: str, *words: Any) -> Kind:
    """A command to the server, after which it goes on."""

    def begin(lab: Lab) -> None:
        with lab.client() as client:
            lab.done[name] += client.execute_command(*words) != 0

    return Kind(name, begin, lane="server")


def _configured(name: str, before: dict[str, str], after: dict[str, str]) -> Kind:
    """A setting of the server."""

    def begin(lab: Lab) -> End:
        client = lab.client()  # kept: afterwards nobody else may be let in
        for option, value in before.items():
            client.config_set(option, value)
        lab.done[name] += 1

        def end() -> None:
            with client:
                for option, value in after.items():
                    client.config_set(option, value)

        return end

    return Kind(name, begin, lane="server")


NOT_COMPARED = "SET without IFEQ"


def _compare_nothing(lab: Lab) -> End:
    """Answer half of the fills as older servers do: in one fleet some store by scripts then, some without."""
    some = sometimes(0.5, lab.draw, lambda words: b"IFEQ" in words)
    rule = lab.proxy.on(some, Refuse("ERR syntax error"), times=None, name=NOT_COMPARED)
    return lambda: lab.proxy.forget(rule)


def _refuse(lab: Lab) -> End:
    lab.proxy.refuse_connections()
    lab.proxy.drop_all()
    lab.done["refused"] += 1
    return lab.proxy.accept_connections


def _freeze(lab: Lab) -> End:
    lab.server.freeze()
    lab.done["SIGSTOP of the server"] += 1
    return lab.server.thaw


def _kill(lab: Lab) -> End:
    lab.server.kill()
    lab.done["kill -9 of the server"] += 1
    return lambda: lab.server.restart(next(lab.programs))


def _flap(lab: Lab) -> End:
    over = threading.Event()

    def run() -> None:
        while not over.wait(0.05):
            lab.proxy.drop_all()
            lab.done["flapping"] += 1

    thread = threading.Thread(target=run)
    thread.start()

    def end() -> None:
        over.set()
        thread.join()

    return end


def _kill_worker(lab: Lab) -> None:
    lab.done["kill -9 of a process"] += lab.kill_one()


def _stop_worker(lab: Lab) -> End:
    pid = lab.draw.choice(lab.pids() or [0])
    with suppress(ProcessLookupError):
        if pid:
            os.kill(pid, signal.SIGSTOP)
            lab.done["SIGSTOP of a process"] += 1

    def end() -> None:
        with suppress(ProcessLookupError):
            if pid:
                os.kill(pid, signal.SIGCONT)

    return end


def _signals(lab: Lab) -> End:
    over = threading.Event()

    def run() -> None:
        while not over.wait(0.02):
            for pid in lab.pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGUSR1)
                    lab.done["SIGUSR1"] += 1

    thread = threading.Thread(target=run)
    thread.start()

    def end() -> None:
        over.set()
        thread.join()

    return end


KINDS = (
    _rule("request dropped", DROP_REQUEST, 0.02),
    _rule("reply dropped", DROP_REPLY, 0.02),
    _rule("request cut within", CutRequest(after_bytes=20), 0.02),
    _rule("reply cut within", CutReply(after_bytes=9), 0.02),
    _rule("silence", SILENCE, 0.005),
    _rule("held", HOLD, 0.005),
    _rule("5 ms a command", Delay(0.005), 1.0),
    _rule("20 ms a command", Delay(0.02), 1.0),
    _rule("100 ms a command", Delay(0.1), 1.0),
    _rule("late by more than a time-out", Delay(0.4), 0.05),
    _rule("reply late", DelayReply(0.3), 0.05),
    _rule("dripping", Drip(count=3, every_s=0.02), 0.1),
    _rule("comes again soon", Replay(after_s=0.01), 0.2, longest_s=2.0),
    _rule("comes again late", Replay(after_s=1.5), 0.2, longest_s=2.0),
    _rule("OOM", Refuse("OOM command not allowed when used memory > 'maxmemory'."), 0.2, "EVALSHA"),
    _rule("LOADING", Refuse("LOADING Redis is loading the dataset in memory"), 1.0),
    _rule("READONLY", Refuse("READONLY You can't write against a read only replica."), 1.0, "EVALSHA"),
    _rule("MISCONF", Refuse("MISCONF Errors writing to the AOF file"), 1.0, "UNLINK"),
    _rule("NOPERM", Refuse("NOPERM this user has no permissions"), 0.1, "UNLINK"),
    Kind(NOT_COMPARED, _compare_nothing),
    _rule("half-open subscription", HALF_OPEN, 1.0, "SUBSCRIBE", longest_s=3.0),
    _on_connect("slow handshake", Delay(0.7)),
    _on_connect("silent once connected", SILENCE),
    _on_connect("max number of clients", Refuse("ERR max number of clients reached")),
    _on_connect("closed once connected", DROP_REQUEST),
    _switch("frozen network", FaultProxy.freeze, FaultProxy.thaw),
    _switch("black hole", FaultProxy.vanish, FaultProxy.appear),
    _switch("reset", FaultProxy.drop_all, lambda proxy: None),
    _switch(
        "slow link",
        lambda proxy: proxy.limit(to_server_bytes_per_s=2e4, to_client_bytes_per_s=2e4),
        FaultProxy.limit,
    ),
    _switch("far away", lambda proxy: proxy.far_away(0.02), lambda proxy: proxy.far_away(0)),
    Kind("refused", _refuse),
    Kind("flapping", _flap),
    Kind("SIGSTOP of the server", _freeze, lane="server"),
    Kind("kill -9 of the server", _kill, longest_s=0.5, lane="server"),
    Kind("kill -9 of a process", _kill_worker, lane="processes", rest_s=3.0),
    Kind("SIGSTOP of a process", _stop_worker, lane="processes", rest_s=3.0),
    Kind("SIGUSR1", _signals, lane="processes", rest_s=3.0),
    _once("CLIENT KILL", "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
    _once("CLIENT KILL of subscribers", "CLIENT", "KILL", "TYPE", "pubsub"),
    _once("SCRIPT FLUSH", "SCRIPT", "FLUSH", "SYNC"),
    _once("FLUSHALL", "FLUSHALL"),
    _configured("maxclients", {"maxclients": "4"}, {"maxclients": "10000"}),
    _configured("out of memory", {"maxmemory": "1"}, {"maxmemory": "0"}),
    _configured(
        "evictions",
        {"maxmemory-policy": "allkeys-random", "maxmemory": "1mb"},
        {"maxmemory": "0", "maxmemory-policy": "noeviction"},
    ),
)
"""What the conductor draws from."""

INSIDE = (
    "a handler raised",
    "finalisers",
    "cancelled",
    "loops that ended",
    "closed in a handler",
    "forked in C",
    "loaders failed",
)
"""What happens inside the processes, as they count it."""
