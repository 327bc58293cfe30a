"""Where cases run: the server, the databases of the contenders, and taking turns."""

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from importlib import import_module
from typing import Any

import attrs
import redis

from benchmarks.asynchronous import ASYNC
from benchmarks.blocking import THREADS
from benchmarks.contenders import Address, Contender
from benchmarks.loads import CannotError, Job, Operation, Sample, fill, measure
from benchmarks.results import BASELINE, OURS, PEER, RATES, Group, rate_rows
from benchmarks.scale import Scale
from support.servers import Server, connect


def _no_progress(_: str) -> None:
    pass


@attrs.frozen
class Lab:
    """A server of our own, and how much is measured on it."""

    server: Server
    scale: Scale
    progress: Callable[[str], None] = _no_progress

    @classmethod
    @contextmanager
    def opened(cls, scale: Scale, progress: Callable[[str], None] = _no_progress) -> Iterator["Lab"]:
        """A lab with a server that ends with it."""
        for contender in (*ASYNC, *THREADS):
            if contender.package and contender.is_installed:
                import_module(contender.package)
        # What the imports made is never garbage; to look through it before each sample takes longer than
        # the sample.
        gc.collect()
        gc.freeze()
        try:
            with Server.start() as server:
                yield cls(server, scale, progress)
        finally:
            gc.unfreeze()

    def address(self, contender: Contender, transport: str = "tcp") -> Address:
        """Where a contender finds its database."""
        path = self.server.unix_url.removeprefix("unix://")
        return Address(transport=transport, port=self.server.port, path=path, db=contender.db)

    def raw(self, db: int) -> redis.Redis:
        """A client that hides nothing, on a database. The caller closes it."""
        return connect(f"redis://127.0.0.1:{self.server.port}/{db}")

    def empty(self, contenders: Iterable[Contender]) -> None:
        """Remove everything that they stored."""
        for contender in contenders:
            with closing(self.raw(contender.db)) as client:
                client.flushdb()

    def present(
        self, contenders: Iterable[Contender], transport: str = "tcp"
    ) -> tuple[list[Contender], dict[str, str]]:
        """Those who can take part, and why the others cannot."""
        present, absent = [], {}
        for contender in contenders:
            reason = contender.absence(transport)
            if reason is None:
                present.append(contender)
            else:
                absent[contender.name] = reason
        return present, absent


def role_of(contender: Contender) -> str:
    """What its row is."""
    if contender.is_ours:
        return OURS
    return PEER if contender.package else BASELINE


@attrs.frozen(kw_only=True)
class Entrant:
    """A contender with an operation: one row."""

    contender: Contender
    operation: Operation
    label: str
    role: str
    note: str

    @classmethod
    def of(
        cls,
        contender: Contender,
        operation: Operation,
        *,
        label: str | None = None,
        role: str | None = None,
        note: str | None = None,
    ) -> "Entrant":
        """A row of that contender, named after it where nothing else is said."""
        said = f"{contender.codec}; {contender.note}" if contender.note else contender.codec
        return cls(
            contender=contender,
            operation=operation,
            label=label or contender.name,
            role=role or role_of(contender),
            note=said if note is None else note,
        )


def rates(
    lab: Lab,
    case: str,
    entrants: Iterable[Entrant],
    conditions: Mapping[str, Any],
    job: Callable[..., Job],
    *,
    transport: str = "tcp",
    curve: str = "",
    before: Callable[[Contender], None] | None = None,
) -> Group:
    """One group: the entrants take turns, several rounds of it.

    Args:
        lab: Where.
        case: The name of the case.
        entrants: Who.
        conditions: What the rows have in common.
        job: What they do, given `operation=` of one.
        transport: `tcp` or `unix`.
        curve: The condition along which the work grows.
        before: What is done before each sample.
    """
    lab.progress(f"{case}: {', '.join(str(each) for each in conditions.values())}")
    absent: dict[str, str] = {}
    running: list[Entrant] = []
    for entrant in entrants:
        reason = entrant.contender.absence(transport)
        if reason is None:
            running.append(entrant)
        else:
            absent[entrant.label] = reason
    contenders = {each.contender.name: each.contender for each in running}
    lab.empty(contenders.values())
    filling = {each.contender.name: each for each in running}
    for entrant in filling.values():
        items = job(operation=entrant.operation).fill
        fill(entrant.contender, lab.address(entrant.contender, transport), {"warm": "warm", **items})
    samples: dict[str, list[Sample]] = {each.label: [] for each in running}
    for _ in range(lab.scale.rounds):
        for entrant in list(running):
            contender = entrant.contender
            address = lab.address(contender, transport)
            doing = job(operation=entrant.operation)
            if before is not None:
                before(contender)
            try:
                samples[entrant.label].append(measure(contender, address, doing))
            except CannotError:
                running.remove(entrant)
                del samples[entrant.label]
                absent[entrant.label] = "has no such operation"
    lab.empty(contenders.values())
    rows = rate_rows(
        samples, {each.label: each.role for each in running}, {each.label: each.note for each in running}
    )
    return Group(case=case, conditions=dict(conditions), columns=RATES, rows=rows, absent=absent, curve=curve)
