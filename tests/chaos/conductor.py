"""Runs the processes and the faults, reads along what callers saw, and judges it."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import cycle, repeat
from pathlib import Path
from typing import Any

import attrs

from chaos import records
from chaos.faults import KINDS, Kind, Lab
from chaos.records import Phase, Tail
from sansio_cache.cell import NO_GRANT, Cell, parse_cell
from sansio_cache.exploring.history import History, Read, Write
from support.proxy import FaultProxy
from support.servers import Server, program_named, wait_until

RUNTIMES = ("sync", "asyncio", "trio", "per call", "loops", "forked")
START_S = 300.0  # bounds a failure only
KEPT = 200  # findings of one sort that are kept to be shown


@attrs.define
class Findings:
    """What is wrong with a run: nothing, it is hoped."""

    stale: list[str] = attrs.field(factory=list)
    wrong: list[str] = attrs.field(factory=list)
    hung: list[str] = attrs.field(factory=list)
    left: list[str] = attrs.field(factory=list)
    lifeless: list[str] = attrs.field(factory=list)
    counted: Counter[str] = attrs.field(factory=Counter)

    def add(self, sort: str, what: str) -> None:
        """Note a finding."""
        self.counted[sort] += 1
        kept: list[str] = getattr(self, sort)
        if len(kept) < KEPT:
            kept.append(what)

    def __bool__(self) -> bool:
        return bool(self.counted)


class Member:
    """One process of the run, and what it has said so far."""

    def __init__(self, name: str, runtime: str, tail: Tail, process: subprocess.Popen[bytes] | None) -> None:
        self.name = name
        self.runtime = runtime
        self.process = process
        self.counts: dict[str, int] = {}
        self.longest: dict[str, float] = {}
        self.left: dict[str, Any] | None = None
        self.ended: dict[str, Any] | None = None
        self.was_killed = False
        self.hits_before = 0
        self._tail = tail
        self._pending: list[Write] = []

    @property
    def is_alive(self) -> bool:
        if self.process is not None:
            return self.process.poll() is None
        with suppress(ProcessLookupError, KeyError):
            os.kill(self.pid, 0)
            return not self.was_killed
        return False

    @property
    def pid(self) -> int:
        """Its number, which a process that forked has to say itself."""
        return self.process.pid if self.process is not None else self.counts["pid"]

    def read(self, history: History, findings: Findings) -> list[Read]:
        """Take what it has written down since; gives its reads, which are to be judged later."""
        reads: list[Read] = []
        for kind, *parts in self._tail.more():
            match kind:
                case records.READ:
                    key, version, began_s = parts
                    reads.append(Read(self.name, key, version, began_s))
                case records.WRITTEN:
                    write = Write(self.name, *parts)
                    history.note(write)
                    if write.completed_s is None:
                        self._pending.append(write)
                case records.TOLD:
                    self._told(history, *parts)
                case records.WRONG:
                    findings.add("wrong", f"{self.name}: {parts[0]}")
                case records.HUNG:
                    findings.add("hung", f"{self.name}: {parts[0]}\n{parts[1]}")
                case records.COUNTS:
                    self.counts |= parts[0]
                    self.longest = parts[1]
                case records.LEFT:
                    self.left = parts[0]
                case records.ENDED:
                    self.ended = parts[0]
        return reads

    def _told(self, history: History, before_s: float, at_s: float) -> None:
        told = [write for write in self._pending if write.returned_s < before_s]
        self._pending = [write for write in self._pending if write.returned_s >= before_s]
        for write in told:
            history.note(attrs.evolve(write, completed_s=at_s))


class Lane(threading.Thread):
    """Lets the faults of one lane happen, one after another, each as often as the others."""

    def __init__(self, lab: Lab, kinds: Sequence[Kind], draw: random.Random, findings: Findings) -> None:
        super().__init__(name="faults")
        self._lab = lab
        self._kinds = kinds
        self._draw = draw
        self._findings = findings
        self._over = threading.Event()

    def stop(self) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        while not self._over.is_set():
            for kind in self._draw.sample(self._kinds, len(self._kinds)):
                for_s, rest_s = self._draw.uniform(0.1, kind.longest_s), self._draw.uniform(0.0, kind.rest_s)
                if self._over.is_set():
                    return
                end = kind.begin(self._lab)
                try:
                    self._over.wait(for_s)
                finally:
                    if end is not None:
                        end()
                self._over.wait(rest_s)


class Run:
    """One run. `perform` does it; then `findings` has what is wrong, `happened` and `fired` what happened.

    Args:
        seconds: For how long there are faults, the calms between them not counted.
        seed: Of the plan, and of what callers do.
        runtimes: One process for each.
        callers: In each process.
        pause_s: The longest time between two calls of a caller.
        round_s: For how long there are faults before each calm.
        calm_s: How long it is calm before all must have found values again.
        most_reads: The faults end once so many values were read.
        mistakes: What the processes do wrong, in their order.
        patience_s: How long a calm lasts at most until all have found values again, and are quiet.
        kinds: The faults.
        without: What does not happen inside the processes: "handlers", "finalisers", "cancelled".
        servers: What the server is: the first, and each time that it is started again the next of them, in
            turns. By default it is always the one of all tests.
        until: The run ends sooner once this holds of the findings.
    """

    def __init__(
        self,
        seconds: float,
        seed: int,
        *,
        runtimes: Sequence[str] = RUNTIMES,
        callers: int = 4,
        pause_s: float = 0.02,
        round_s: float = 60.0,
        calm_s: float = 6.0,
        most_reads: float = math.inf,
        mistakes: Sequence[str] = (),
        patience_s: float = 30.0,
        kinds: Sequence[Kind] = KINDS,
        without: Sequence[str] = (),
        servers: Sequence[str] = (),
        until: Callable[[Findings], bool] = lambda findings: False,
    ) -> None:
        self.seconds = seconds
        self.seed = seed
        self.findings = Findings()
        self.history = History()
        self.happened: Counter[str] = Counter()
        self.server_version = ""
        self.fired: Counter[str] = Counter()
        self.longest: dict[str, float] = {}
        self.members: list[Member] = []
        self._slots = runtimes
        self._callers = callers
        self._pause_s = pause_s
        self._round_s = round_s
        self._calm_s = calm_s
        self._most_reads = most_reads
        self._mistakes = (*mistakes, *[""] * (len(runtimes) - len(mistakes)))
        self._patience_s = patience_s
        self._kinds = kinds
        self._without = without
        self._programs = cycle(map(program_named, servers)) if servers else repeat(None)
        self._read_every_s = min(2.0, round_s / 10)
        self._until = until
        self._draw = random.Random(seed)
        self._generation = 0
        self._unjudged: list[Read] = []
        self._lock = threading.RLock()

    def perform(self) -> None:
        """All of it: rounds of faults, each followed by a calm in which all must come back."""
        with ExitStack() as stack:
            self._directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sc-chaos-")))
            self._phase = Phase(self._directory / "phase")
            self._phase.set(Phase.RUN)
            self._database = stack.enter_context(Server.start())
            self._server = stack.enter_context(Server.start())
            if (program := next(self._programs)) is not None:
                self._server.restart(program)
            self.server_version = self._server.version
            self._proxy = stack.enter_context(FaultProxy("127.0.0.1", self._server.port))
            self._lab = Lab(self._server, self._proxy, random.Random(f"{self.seed}:lab"))
            self._lab.programs = self._programs
            self._lab.pids = lambda: [each.pid for each in self._alive()]
            self._lab.kill_one = self._kill_one
            stack.callback(self._kill_all)
            for slot in range(len(self._slots)):
                self._start(slot)
            wait_until(lambda: self._read() or all(each.counts for each in self.members), timeout_s=START_S)
            end_s = time.monotonic() + self.seconds
            while time.monotonic() < end_s and not self._has_seen_enough():
                with self._faults():
                    self._watch(min(self._round_s, end_s - time.monotonic()))
                self._calm()
            self._stop()

    # Processes.

    def _alive(self) -> list[Member]:
        with self._lock:
            return [each for each in self.members if each.is_alive and "pid" in each.counts]

    def _start(self, slot: int) -> None:
        self._generation += 1
        runtime = self._slots[slot]
        name = f"{runtime.replace(' ', '-')}-{slot}-{self._generation}"
        log = self._directory / f"{name}.log"
        order = {
            "slot": slot,
            "slots": len(self._slots),
            "runtime": runtime,
            "callers": self._callers,
            "pause_s": self._pause_s,
            "url": self._proxy.url,
            "server": self._server.unix_url,
            "database": self._database.unix_url,
            "namespace": "chaos",
            "seed": self.seed,
            "log": str(log),
            "stacks": str(log.with_suffix(".stacks")),
            "phase": str(self._directory / "phase"),
            "mistake": self._mistakes[slot],
            "without": list(self._without),
        }
        paths = os.pathsep.join(filter(None, sys.path))
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "chaos.worker", json.dumps(order)],
            env={**os.environ, "PYTHONPATH": paths},
        )
        with self._lock:
            self.members.append(Member(name, runtime, Tail(log), process))
            if runtime == "forked":
                tail = Tail(self._directory / f"{name}-child.log")
                self.members.append(Member(f"{name}-child", "forked", tail, None))

    def _kill_one(self) -> bool:
        """kill -9; another one takes its place."""
        with self._lock:
            alive = [each for each in self._alive() if each.process is not None and each.runtime != "forked"]
            if not alive:
                return False
            member = self._draw.choice(alive)
            assert member.process is not None
            member.was_killed = True
            member.process.kill()
            member.process.wait()
            self._start(int(member.name.split("-")[-2]))
        return True

    def _kill_all(self) -> None:
        for member in self.members:
            with suppress(ProcessLookupError, KeyError):
                os.kill(member.pid, signal.SIGKILL)
            if member.process is not None:
                member.process.wait()

    # Time.

    @contextmanager
    def _faults(self) -> Iterator[None]:
        lanes = []
        for lane in sorted({kind.lane for kind in self._kinds}):
            kinds = [kind for kind in self._kinds if kind.lane == lane]
            draw = random.Random(f"{self._draw.random()}:{lane}")
            lanes.append(Lane(self._lab, kinds, draw, self.findings))
        for each in lanes:
            each.start()
        try:
            yield
        finally:
            for each in lanes:
                each.stop()

    def _watch(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0 and not self._has_seen_enough():
            time.sleep(min(self._read_every_s, left_s))
            self._read()

    def _has_seen_enough(self) -> bool:
        return self.history.reads > self._most_reads or self._until(self.findings)

    def _calm(self) -> None:
        """No faults: every process finds values again; then nobody calls, and nothing is left."""
        self._watch(self._calm_s)
        for member in self._alive():
            member.hits_before = member.counts.get("hits", 0)
        with suppress(TimeoutError):
            wait_until(
                lambda: (
                    self._read()
                    or all(each.counts.get("hits", 0) > each.hits_before for each in self._alive())
                ),
                timeout_s=self._patience_s,
            )
        for member in self._alive():
            if member.counts.get("hits", 0) <= member.hits_before:
                self.findings.add(
                    "lifeless", f"{member.name}: no value is found after the faults: {member.counts}"
                )
        self._phase.set(Phase.QUIET)
        for member in self._alive():
            member.left = None
        with suppress(TimeoutError):
            wait_until(
                lambda: self._read() or all(map(self._is_quiet, self._alive())), timeout_s=self._patience_s
            )
        for member in self._alive():
            if not self._is_quiet(member):
                self.findings.add("left", f"{member.name} is quiet, and has {member.left}")
            elif member.left and member.left["swallowed"]:
                struck = "\n".join(map("\n    from ".join, member.left["swallowed"]))
                self.findings.add("wrong", f"{member.name}: exceptions of handlers were swallowed: {struck}")
        with suppress(TimeoutError):
            wait_until(lambda: not self._leases(), timeout_s=self._patience_s / 3)
        for lease in self._leases():
            self.findings.add("left", f"a lease or a hold of nobody: {lease}")
        self.happened["calms"] += 1
        self._phase.set(Phase.RUN)

    def _is_quiet(self, member: Member) -> bool:
        left = member.left
        return left is not None and not any(left[name] for name in ("loads", "pending", "out", "calls"))

    def _leases(self) -> list[str]:
        client = self._lab.client()
        with client:
            seconds, microseconds = client.time()
            now_ms = seconds * 1000 + microseconds // 1000
            found = []
            for key in client.scan_iter("chaos:[mtsp]*"):
                cell = parse_cell(client.get(key) or b"")
                if isinstance(cell, Cell) and cell.grant != NO_GRANT and cell.lease_deadline_ms > now_ms:
                    found.append(f"{key.decode()}: {cell}")
        return found

    def _stop(self) -> None:
        self._phase.set(Phase.STOP)
        for member in self._alive():
            if member.runtime in ("sync", "forked"):
                with suppress(ProcessLookupError):
                    os.kill(member.pid, signal.SIGTERM)
        with suppress(TimeoutError):
            wait_until(lambda: self._read() or not self._alive(), timeout_s=self._patience_s)
        self._read()
        self._read()
        for member in self.members:
            if member.was_killed:
                continue
            if member.ended is None:
                self.findings.add("hung", f"{member.name} was told to end, and {self._what_it_does(member)}")
            elif any(member.ended[name] for name in ("threads", "tasks", "descriptors")):
                self.findings.add("left", f"{member.name} has ended, and has {member.ended}")
        for member in self.members:
            counts = dict(member.counts)
            counts.pop("pid", None)
            resident_mib = counts.pop("resident MiB", 0)
            self.happened.update(counts)
            self.happened["most resident MiB"] = max(self.happened["most resident MiB"], resident_mib)
            for name, took_s in member.longest.items():
                self.longest[name] = max(self.longest.get(name, 0.0), took_s)
        self.happened["forked in C"] = sum(member.process is None for member in self.members)
        self.happened["connections"] = self._proxy.connections_opened
        self.fired = self._proxy.firings + self._lab.done

    def _what_it_does(self, member: Member) -> str:
        """What a process does that was told to end."""
        if not member.is_alive:
            return f"ended with {member.process and member.process.poll()}: {member.counts}"
        os.kill(member.pid, signal.SIGUSR2)
        stacks = self._directory / f"{member.name.removesuffix('-child')}.stacks"
        with suppress(TimeoutError):
            wait_until(lambda: stacks.stat().st_size, timeout_s=2.0)
        time.sleep(0.1)  # it writes line by line
        return f"still runs: {member.counts}\n{stacks.read_text()[-8000:]}"

    # What callers saw.

    def _read(self) -> None:
        """Read on; judge what was read the last time, as by now all writes before it are known."""
        with self._lock:
            reads = [read for member in self.members for read in member.read(self.history, self.findings)]
        for read in self._unjudged:
            violation = self.history.judge(read)
            if violation is not None:
                self.findings.add("stale", str(violation))
        self._unjudged = reads
