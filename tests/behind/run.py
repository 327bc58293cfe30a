"""Runs the processes and the faults, and judges what they saw."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import attrs

from behind.database import Database, Item
from behind.process import ACKNOWLEDGED, NAMESPACE, REFUSED, Order
from chaos import records
from chaos.records import Tail
from sansio_cache import WriteBehind
from sansio_cache.exploring.history import History, Read, Write
from sansio_cache_redis.sync import Cache
from support.servers import Server, wait_until

WRITERS = ("sync", "asyncio", "trio", "sync")
CONSUMERS = ("sync", "asyncio", "trio")
KILLED, STOPPED, RESTARTED = "consumers killed", "consumers stopped past their leases", "servers killed"
PATIENCE_S = 300.0  # bounds a failure only


class Member:
    """One process of the run."""

    def __init__(self, order: Order) -> None:
        paths = os.pathsep.join(filter(None, sys.path))
        self.order = order
        self.tail = Tail(Path(order.log))
        self.has_begun = False
        self.has_ended = False
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "behind.process", json.dumps(attrs.asdict(order))],
            env={**os.environ, "PYTHONPATH": paths},
        )


@attrs.define
class Run:
    """One run. `perform` does it; then `findings` has what is wrong, and `counted` what happened.

    Args:
        seed: Of the faults, and of what callers do.
        writes: How many are acknowledged.
        keys: How many there are.
        writers: The runtimes of the processes that write.
        consumers: The runtimes of those that consume.
        callers: In each process that writes.
        pause_s: The longest pause of a caller between two writes.
        every: After how many acknowledged writes the next fault comes.
        lease_s: Of the partitions.
        has_log: Whether the server has an append-only file; without, to show that the run finds what is lost.
    """

    seed: int
    writes: int
    keys: int
    writers: tuple[str, ...] = WRITERS
    consumers: tuple[str, ...] = CONSUMERS
    callers: int = 4
    pause_s: float = 0.2
    every: int = 100
    lease_s: float = 1.0
    has_log: bool = True
    findings: list[str] = attrs.field(factory=list, init=False)
    counted: Counter[str] = attrs.field(factory=Counter, init=False)
    _history: History = attrs.field(factory=History, init=False)
    _reads: list[Read] = attrs.field(factory=list, init=False)
    _last: dict[int, int] = attrs.field(factory=dict, init=False)
    """The last version of each key that was acknowledged."""
    _refused: set[tuple[int, int]] = attrs.field(factory=set, init=False)
    _members: list[Member] = attrs.field(factory=list, init=False)
    _draw: random.Random = attrs.field(init=False)
    _directory: Path = attrs.field(init=False)
    _server: Server = attrs.field(init=False)
    _database: Database = attrs.field(init=False)
    _number: int = attrs.field(default=0, init=False)
    _timers: list[threading.Timer] = attrs.field(factory=list, init=False)

    def perform(self) -> None:
        """All of it."""
        self._draw = random.Random(self.seed)
        began_s = time.monotonic()
        with ExitStack() as stack:
            self._directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sc-behind-")))
            self._database = Database(self._directory / "items.db")
            self._database.create()
            log = "yes" if self.has_log else "no"
            self._server = stack.enter_context(Server.start(args=["--appendonly", log]))
            stack.callback(self._end_all)
            writers = [self._start("writer", each, number) for number, each in enumerate(self.writers)]
            for each in self.consumers:
                self._start("consumer", each)
            wait_until(
                lambda: self._read() or all(each.has_begun for each in self._members), timeout_s=PATIENCE_S
            )
            self._let_happen(writers)
            self._drain()
            self._judge()
        self.counted["seconds"] = round(time.monotonic() - began_s)

    # Processes.

    def _start(self, role: str, runtime: str, number: int = 0) -> Member:
        self._number += 1
        name = f"{role}-{self._number}-{runtime}"
        order = Order(
            role=role,
            runtime=runtime,
            name=name,
            url=self._server.url,
            database=str(self._directory / "items.db"),
            log=str(self._directory / name),
            seed=self.seed,
            keys=self.keys,
            writers=len(self.writers),
            number=number,
            writes=self.writes // len(self.writers),
            callers=self.callers,
            pause_s=self.pause_s,
            slow_s=0.1,
            strategy=self._strategy,
        )
        member = Member(order)
        self._members.append(member)
        return member

    @property
    def _strategy(self) -> dict[str, object]:
        return {
            "partitions": 6,
            "batch": 50,
            "delay_s": 0.02,
            "lease_s": self.lease_s,
            "deliveries": None,
            "wait_s": 30.0,
        }

    def _consumers(self) -> list[Member]:
        return [
            each
            for each in self._members
            if each.order.role == "consumer" and each.has_begun and each.process.poll() is None
        ]

    def _end_all(self) -> None:
        for timer in self._timers:
            timer.cancel()
            timer.join()
        for each in self._members:
            each.process.kill()
            each.process.wait()

    # Faults.

    def _let_happen(self, writers: list[Member]) -> None:
        """One fault after another, each after some more writes, until all is written."""
        faults = [self._kill, self._stop, self._restart] if self.consumers else [self._restart]
        order: list[Callable[[], None]] = self._draw.sample(faults, len(faults))
        due = self.every
        until_s = time.monotonic() + PATIENCE_S
        while not all(each.has_ended for each in writers):
            before = self.counted["acknowledged"]
            self._read()
            if self.counted["acknowledged"] > before:
                until_s = time.monotonic() + PATIENCE_S
            dead = [
                each.order.name for each in writers if not each.has_ended and each.process.poll() is not None
            ]
            if dead or time.monotonic() > until_s:
                self.findings.append(f"nothing was written for {PATIENCE_S:g} s, or these have died: {dead}")
                return
            if self.counted["acknowledged"] >= due:
                order = order or self._draw.sample(faults, len(faults))
                order.pop()()
                due = self.counted["acknowledged"] + self.every
            time.sleep(0.02)
        for fault in order:  # those that there was no time for
            fault()

    def _one(self) -> Member:
        """A consumer that is there."""
        wait_until(lambda: self._read() or self._consumers(), timeout_s=PATIENCE_S)
        return self._draw.choice(self._consumers())

    def _kill(self) -> None:
        member = self._one()
        member.process.kill()
        member.process.wait()
        self._start("consumer", member.order.runtime)
        self.counted[KILLED] += 1

    def _stop(self) -> None:
        process = self._one().process
        process.send_signal(signal.SIGSTOP)
        # A while in the background: others write, and are killed, meanwhile.
        go_on = threading.Timer(
            self.lease_s * self._draw.uniform(1.2, 2.5), process.send_signal, [signal.SIGCONT]
        )
        go_on.start()
        self._timers.append(go_on)
        self.counted[STOPPED] += 1

    def _restart(self) -> None:
        self._server.kill()
        time.sleep(self._draw.uniform(0.0, 0.3))
        self._server.restart()
        self.counted[RESTARTED] += 1

    # What was seen.

    def _read(self) -> None:
        for member in self._members:
            for kind, *parts in member.tail.more():
                member.has_begun = True
                match kind:
                    case records.WRITTEN:
                        key, version, returned_s, completed_s = parts
                        self._history.note(Write(member.order.name, key, version, returned_s, completed_s))
                        self._last[int(key)] = version
                        self.counted["acknowledged"] += 1
                    case records.READ:
                        self._reads.append(Read(member.order.name, *parts))
                    case records.WRONG:
                        self.findings.append(f"{member.order.name}: {parts[0]}")
                    case records.ENDED:
                        member.has_ended = True
                    case _ if kind == REFUSED:
                        self._refused.add((parts[0], parts[1]))
                    case _:
                        assert kind in (records.COUNTS, ACKNOWLEDGED), kind

    def _drain(self) -> None:
        """No more faults, and other consumers: what is left is applied, and who reads then reads the last."""
        for each in self._members:
            if each.order.role == "consumer":
                each.process.send_signal(signal.SIGCONT)
        with Cache.from_url(self._server.url, namespace=NAMESPACE, operation_timeout_s=10.0) as cache:
            items = cache.entity(
                "item",
                Item,
                id="id",
                loader=self._database.load,
                write_many=self._database.save,
                strategy=WriteBehind(**self._strategy),  # type: ignore[arg-type]
            )
            with items.queue.consumer(drain_s=0.0):
                left = items.queue.drain(PATIENCE_S)
            if left.queued or left.dead:
                self.findings.append(f"not all is applied: {left}")
            for key, version in self._last.items():
                found = items.get_or_load(key)
                if found != Item(key, version):
                    self.findings.append(f"{key} is read as {found}, and version {version} was acknowledged")

    def _judge(self) -> None:
        self._read()
        for read in self._reads:
            violation = self._history.judge(read)
            if violation is not None:
                self.findings.append(str(violation))
        self.counted["reads"] = self._history.reads
        items = self._database.items()
        for key, version in self._last.items():
            if items.get(key) != version:
                self.findings.append(f"{key}: version {version} is lost, the database has {items.get(key)}")
        tokens: dict[int, int] = {}
        versions: dict[int, int] = {}
        for taken in self._database.taken():
            if taken.is_refused:
                self.counted["refused for their tokens"] += 1
                continue
            self.counted["taken by the database"] += 1
            if (taken.id, taken.version) in self._refused:
                self.findings.append(f"it was said that this is not queued, and it was applied: {taken}")
            if taken.token <= tokens.get(taken.id, 0) or taken.version <= versions.get(taken.id, 0):
                self.findings.append(f"applied after version {versions[taken.id]}: {taken}")
            tokens[taken.id], versions[taken.id] = taken.token, taken.version
