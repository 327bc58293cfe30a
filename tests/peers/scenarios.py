"""The programs: each is the one order of events in which a known failure of caches shows."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import redis

from peers.subjects import Loader, Subject
from sansio_cache.exploring.logs import LoggedRead, LoggedWrite, StaleRead, find_stale_reads

PATIENT_S = 60.0
OLD, NEW = "old", "new"


class Witness:
    """A database, a program that reads it through a cache, and the log of both."""

    def __init__(self) -> None:
        self.rows: dict[str, Any] = {}
        self._first: dict[str, Any] = {}
        self._log: list[LoggedRead | LoggedWrite] = []

    def begin(self, key: str, value: Any) -> None:
        """Let a row be there from the first."""
        self.rows[key] = self._first[key] = value

    def read(self, key: str, read: Callable[[Loader], Any], loader: Loader | None = None) -> Any:
        """Read through the cache; the loader reads the row."""
        began_s = time.monotonic()
        value = read(loader or (lambda: self.rows[key]))
        self._log.append(LoggedRead(key, value, began_s, time.monotonic(), "a reader"))
        return value

    @contextmanager
    def write(self, key: str, value: Any) -> Iterator[None]:
        """Write the row; the block tells the cache. One that raises has said that it did not come about."""
        began_s = time.monotonic()
        self.rows[key] = value
        ended_s = float("inf")
        try:
            yield
            ended_s = time.monotonic()
        finally:
            self._log.append(LoggedWrite(key, value, began_s, ended_s, "a writer"))

    @property
    def stale(self) -> list[StaleRead]:
        """What was read though it must not be."""
        return find_stale_reads(self._log, self._first)


def _overtaken(
    witness: Witness, key: str, read: Callable[[Loader], Any], forget: Callable[[], Any]
) -> list[StaleRead]:
    has_read, has_written = threading.Event(), threading.Event()

    def slow() -> Any:
        row = witness.rows[key]
        has_read.set()  # it is on its way back from the database
        assert has_written.wait(PATIENT_S)
        return row

    reader = threading.Thread(target=witness.read, args=(key, read, slow))
    reader.start()
    assert has_read.wait(PATIENT_S), "the loader was not called"
    with witness.write(key, NEW):
        forget()
    has_written.set()
    reader.join(PATIENT_S)
    assert not reader.is_alive()
    witness.read(key, read)
    return witness.stale


def a_write_overtakes_a_load(subject: Subject) -> list[StaleRead]:
    """A reader has read the row; a writer changes it, and has it forgotten; then the reader stores it."""
    witness = Witness()
    witness.begin("k", OLD)
    return _overtaken(witness, "k", lambda loader: subject.read("k", loader), lambda: subject.forget("k"))


def a_write_overtakes_a_load_under_a_tag(subject: Subject) -> list[StaleRead]:
    """The same, where the writer names the tag of the entry."""
    assert subject.read_tagged is not None
    assert subject.forget_tag is not None
    read_tagged, forget_tag = subject.read_tagged, subject.forget_tag
    witness = Witness()
    witness.begin("k", OLD)
    return _overtaken(witness, "k", lambda loader: read_tagged("k", "t", loader), lambda: forget_tag("t"))


def a_store_refuses_an_invalidation(subject: Subject, client: redis.Redis) -> list[StaleRead]:
    """The primary has become a replica: it serves reads, and refuses writes."""
    witness = Witness()
    witness.begin("k", OLD)
    witness.read("k", lambda loader: subject.read("k", loader))
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        # What raises has said that the cache does not know of the write.
        with suppress(Exception), witness.write("k", NEW):
            subject.forget("k")
        witness.read("k", lambda loader: subject.read("k", loader))
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")
    return witness.stale


def a_page_whose_name_is_a_pattern_is_forgotten(subject: Subject) -> list[StaleRead]:
    """The parts of a page that is named `a[1]`, which as a pattern is `a1`."""
    assert subject.read_part is not None
    assert subject.forget_page is not None
    read_part, forget_page = subject.read_part, subject.forget_page
    witness = Witness()
    for page in ("a[1]", "a1"):
        witness.begin(page, OLD)
        witness.read(page, lambda loader, page=page: read_part(page, "top", loader))  # type: ignore[misc]
    with witness.write("a[1]", NEW):
        forget_page("a[1]")
    witness.read("a[1]", lambda loader: read_part("a[1]", "top", loader))
    return witness.stale


def a_page_is_forgotten_whose_name_is_a_star(subject: Subject) -> int:
    """How many other pages are loaded again after a page that is named `*` was forgotten."""
    assert subject.read_part is not None
    assert subject.forget_page is not None
    loads = []
    for page in ("a", "b", "*"):
        subject.read_part(page, "top", lambda: OLD)
    subject.forget_page("*")
    for page in ("a", "b"):
        subject.read_part(page, "top", lambda: loads.append(page) or NEW)  # noqa: B023
    return len(loads)


def two_users_have_the_same_repr(key_of: Callable[[Any], str], subject: Subject) -> list[StaleRead]:
    """A function is cached by its argument, an object whose `repr` says no more than its class."""
    witness = Witness()
    for name in ("ada", "eve"):
        witness.begin(name, f"letters of {name}")
        key = key_of(User(name))
        witness.read(name, lambda loader, key=key: subject.read(key, loader))  # type: ignore[misc]
    return witness.stale


class User:
    """Somebody, whose `repr` does not say who."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return "<User>"


ran: list[str] = []
"""What the bytes of an entry have made this process do."""


def run(what: str) -> None:
    """What the author of the bytes wants to be run."""
    ran.append(what)


class Exploit:
    """Whose pickle runs a function of its author's choice where it is read."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return run, ("whoever can write to the store",)


def bytes_of_the_store_run(subject: Subject, client: redis.Redis) -> bool:
    """Somebody who can write to the store puts the pickle of an exploit in the place of a payload."""
    ran.clear()
    subject.read("k", lambda: [OLD])
    hostile = pickle.dumps(Exploit())
    for key in client.keys("*"):
        if client.type(key) != b"string":
            continue
        raw = client.get(key)
        payload = raw.find(b"\x80")  # where a pickle begins; none in ours
        client.set(key, (raw[:payload] if payload >= 0 else raw[:72]) + hostile, px=600_000)
    with suppress(Exception):
        subject.read("k", lambda: [NEW])
    return bool(ran)


def a_value_is_copied_to_another_key(
    subject: Subject, client: redis.Redis, prefix: str, at: int = 0
) -> list[StaleRead]:
    """Somebody who can write to the store, and knows no key, makes one entry of another.

    Args:
        subject: A cache that signs what it stores.
        client: His connection.
        prefix: What stands before keys at the server.
        at: How many characters of the value he moves into the key.
    """
    witness = Witness()
    short, price = "price:1", 12.5
    long = short + str(price)[:at] if at else "price:2"
    witness.begin(short, price)
    witness.begin(long, 99.5)
    witness.read(short, lambda loader: subject.read(short, loader))
    raw = client.get(prefix + short)
    value = str(price).encode()
    start = raw.index(value)
    client.set(prefix + long, raw[:start] + raw[start + at :], px=600_000)
    witness.read(long, lambda loader: subject.read(long, loader))
    return witness.stale
