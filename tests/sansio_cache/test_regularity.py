"""Regularity: whatever happens, nobody is given what was older than a write that was over before he asked.

The explorer proves it for small configurations; here random histories of all operations go through two
processes and one memory store: several keys and tags, two program versions, failures, lost answers, late
duplicates of any earlier command, and a clock that leaps (S1, S7).
"""

from __future__ import annotations

from random import Random

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

import sansio_cache.operations.checking as checking_module
import sansio_cache.operations.get as get_module
import sansio_cache.operations.get_or_load as get_or_load_module
import sansio_cache.operations.load_many as load_many_module
from sansio_cache import entry
from sansio_cache.cell import FOREIGN, NO_GRANT, Cell, Kind, Tag
from sansio_cache.commands import StoreCommand
from sansio_cache.entry import Unchecked
from sansio_cache.events import FailureKind, FillResult
from sansio_cache.exploring import history
from sansio_cache.memory_store import MemoryStore
from sansio_cache.notices import Hit, OperationName
from sansio_cache.notices import Loaded as LoadedNotice
from sansio_cache.operations import triage
from sansio_cache.operations.batch import LoadManyRequest
from sansio_cache.operations.get import ReadRequest, get
from sansio_cache.operations.get_many import ReadManyRequest, get_many
from sansio_cache.operations.get_or_load import get_or_load
from sansio_cache.operations.invalidate import InvalidateRequest, invalidate
from sansio_cache.operations.load_many import load_many
from sansio_cache.operations.mutate import EndRequest, MutateRequest, begin, end
from sansio_cache.operations.set_many import Item, SetRequest, set_many
from sansio_cache.policy import Policy
from sansio_cache.step import Loaded, ManyHeld, ManyInvalidated, ManyLoaded, ManyRead, ManyStored, Value
from sansio_cache.tags import VARIANT_OF
from sansio_cache.ttl import NO_JITTER
from support.machines import INTS, TEXTS, TIMEOUTS, Clock, Fault, Process, Run, load_request

KEYS = ("shop:a", "shop:b")
TAG, TAG_KEY = "t:all", "shop:%t:all"
KINDS = (FailureKind.TIMEOUT, FailureKind.CONNECTION, FailureKind.PERMISSION)


@attrs.define(eq=False)
class Reader:
    """Whoever asks for keys, and what had been written completely by then."""

    process: Process
    run: Run
    keys: tuple[str, ...]
    began: int
    may_have_stale: bool


class History:
    """One random history. The database has a version of each key; a loader gives the newest one.

    There is one writer at a time, as of two that race with `set` the last one wins, and not the last commit.
    """

    def __init__(self, seed, store_class=MemoryStore):
        self.random = Random(seed)
        self.clock = Clock()
        self.store = store_class(self.clock)
        self.processes = [Process(self.store, self.clock) for _ in range(2)]
        self.past: list[StoreCommand] = []
        self.lateness, self.latest = self.random.choice([(0.0, 1), (0.05, 60), (0.3, 30)])
        for process in self.processes:
            process.fault = self.fault
        self.versions = dict.fromkeys(KEYS, 0)
        self.history = history.History()
        self.complete = 0
        self.step = 0
        """What happens is counted, and that is the time of the history."""
        self.readers: list[Reader] = []
        self.writing = None
        self.number = 0
        self.checked = 0

    def fault(self, command):
        self.past.append(command)
        if self.random.random() < 0.06:
            return Fault(self.random.choice(KINDS), is_done=self.random.random() < 0.5)
        return None

    def nonce(self):
        self.number += 1
        return b"n%07d" % self.number

    # Readers.

    def loader(self, keys, codec):
        def load(names=None):
            if self.random.random() < 0.1:
                raise RuntimeError("database")
            found = {key.removeprefix("shop:"): self.value(self.versions[key], codec) for key in keys}
            return found[keys[0].removeprefix("shop:")] if names is None else {n: found[n] for n in names}

        return load

    def value(self, version, codec):
        return version if codec is INTS else str(version)

    def policy(self):
        choice = self.random.choice
        stale_for_s = choice([0, 0, 2])
        return Policy(
            ttl=choice([1, 60]),
            jitter=NO_JITTER,
            stale_for_s=stale_for_s,
            refresh_at=choice([None, 0.001]),
            lease_s=choice([0.05, 5.0]),
            wait_s=choice([0.0, 0.05, 30.0]),
            on_wait_timeout=choice(["load", "raise", *(["stale"] if stale_for_s else [])]),
            retry_after_s=0.0,
        )

    def read(self):
        choice = self.random.choice
        process, codec = choice(self.processes), choice([INTS, INTS, TEXTS])
        key, now_s = choice(KEYS), self.clock()
        tags = choice([(TAG,), (TAG,), (TAG, "t:more")])
        each = load_request(
            name=key, codec=codec, policy=self.policy(), nonce=self.nonce(), started_s=now_s, tags=tags
        )
        keys = (key,)
        match self.random.randrange(8):
            case 0:
                step = get(ReadRequest(key, codec, TIMEOUTS, now_s))
            case 1:
                keys = KEYS
                step = get_many(ReadManyRequest(keys, codec, 1, TIMEOUTS, now_s))
            case 2 | 3:
                keys = tuple(self.random.sample(KEYS, self.random.randint(1, 2)))
                names = tuple(key.removeprefix("shop:") for key in keys)
                many = LoadManyRequest(keys, names, choice([1, 2]), replace(each, name=keys[0]))
                step = load_many(many)
            case _:
                step = get_or_load(each)
        run = process.start(step, self.loader(keys, codec))
        self.readers.append(Reader(process, run, keys, self.step, each.policy.stale_for_s > 0))

    def judge(self, reader):
        """S1, and S7 for what depends on a tag: nothing older than what was complete when it began."""
        outcome = reader.run.step.outcome
        match outcome:
            case Value(value=value) | Loaded(value=value) if reader.keys:
                found = {reader.keys[0]: value}
            case ManyRead(values=values) | ManyLoaded(values=values):
                pairs = zip(reader.keys, values, strict=True)
                found = {key: each.value for key, each in pairs if isinstance(each, Value)}
            case _:
                found = {}
        # A stale value may come after a miss, too; then only what is told of is known not to be one.
        told = {notice.key for notice in reader.run.notices if isinstance(notice, Hit | LoadedNotice)}
        for key, value in found.items():
            if key in told or not reader.may_have_stale:
                read = history.Read("reader", key, int(value), reader.began)
                violation = self.history.judge(read)
                assert violation is None, (reader.run, violation)
                self.checked += 1

    # The writer.

    def write(self):
        """A writer: it commits, and then tells the cache, in one of the ways that there are."""
        keys = tuple(self.random.sample(KEYS, self.random.randint(1, 2)))
        way = self.random.choice(["keys", "tag", "tag", "set", "mutate", "mutate and set"])
        process = self.random.choice(self.processes)
        codec = self.random.choice([INTS, TEXTS])
        held = ManyHeld(None, None)
        if way.startswith("mutate"):
            request = MutateRequest(keys, self.nonce(), 5_000, 60.0, TIMEOUTS, self.clock(), (TAG,), 120_000)
            run = process.start(begin(request))
            yield from self.until_over(process, run)
            held = run.step.outcome
            yield
        for key in keys:
            self.versions[key] += 1
        yield
        now_s = self.clock()
        versions = {key: self.versions[key] for key in keys}
        payloads = {key: codec.encode(self.value(versions[key], codec)).payload for key in keys}
        items = tuple(Item(key, codec, payloads[key], 60_000, self.random.choice([0, 50])) for key in keys)
        match way:
            case "keys":
                step = invalidate(InvalidateRequest(OperationName.INVALIDATE, keys, 1, TIMEOUTS, now_s))
            case "tag":
                step = invalidate(InvalidateRequest(OperationName.INVALIDATE, (TAG_KEY,), 1, TIMEOUTS, now_s))
            case "set":
                name, chunk = OperationName.SET_MANY, self.random.choice([1, 2])
                step = set_many(SetRequest(name, items, self.nonce(), 5_000, chunk, TIMEOUTS, now_s, (TAG,)))
            case _:
                kept = items[: self.random.randint(1, 2)] if way == "mutate and set" else ()
                tags = () if way == "mutate and set" else (TAG_KEY,)
                step = end(EndRequest(keys, held.grants, kept, TIMEOUTS, now_s, tags, held.versions))
        run = process.start(step)
        yield from self.until_over(process, run)
        completed_s = self.step if is_complete(run.step.outcome) else None
        self.complete += completed_s is not None
        for key, version in versions.items():
            self.history.note(history.Write("writer", key, version, self.step, completed_s))

    def until_over(self, process, run):
        while not run.is_over:
            process.advance(run)
            yield

    # All of it.

    def happen(self):
        random = self.random
        if self.past and random.random() < self.lateness:
            self.store.perform(random.choice(self.past[-self.latest :]))  # fault 3
        match random.randrange(40):
            case 0:
                self.clock.advance(random.choice([0.001, 0.06, 0.06, 2.0]))
            case 1:
                key, cell = random.choice([*KEYS, TAG_KEY]), random.choice([None, FOREIGN])
                self.store.plant(key, cell, int(self.clock() * 1000) + 400)
            case 4:
                stale = InvalidateRequest(OperationName.EXPIRE, KEYS, 2, TIMEOUTS, self.clock(), soft=True)
                self.processes[0].run(invalidate(stale))
            case 5 | 6 | 7 | 8 | 9 | 10 | 11 | 12 | 13:
                self.writing = self.writing or self.write()
                if next(self.writing, "over") == "over":
                    self.writing = None
            case 14 if self.readers:
                reader = random.choice(self.readers)
                reader.process.interrupt(reader.run)
            case _ if self.readers:
                reader = random.choice(self.readers)
                reader.process.advance(reader.run)
        for process in self.processes:
            self.readers += [Reader(process, run, (), self.step, False) for run in process.spawned]
            process.spawned.clear()
        for reader in [reader for reader in self.readers if reader.run.is_over]:
            self.readers.remove(reader)
            self.judge(reader)

    def run(self, steps):
        for _ in range(steps):
            self.step += 1
            if len(self.readers) < 6 and self.random.random() < 0.5:
                self.read()
            self.happen()
        return self


def is_complete(outcome):
    """Whether the store was told of a write."""
    match outcome:
        case ManyInvalidated(failed=failed):
            return not failed
        case ManyStored(results=results):
            return None not in results
    raise AssertionError(outcome)


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32))
def test_nobody_is_given_what_was_older_than_a_write_that_was_over_before_he_asked(seed):
    """S1, S7."""
    History(seed).run(600)


def test_the_histories_are_about_something():
    histories = [History(seed).run(600) for seed in range(40)]
    assert sum(each.checked for each in histories) > 1_000
    assert sum(each.complete for each in histories) > 400


# Known-wrong stores and machines, each of which the histories must catch.


class FillsWithoutAGrant(MemoryStore):
    """S4: a plain SET at the end of a load."""

    def _fill(self, fill, now_ms):
        value = Cell(Kind.VALUE, NO_GRANT, 0, 0, fill.grant, fill.body)
        self._keep(fill.key, value, now_ms + fill.hard_ttl_ms)
        return FillResult.STORED


class VersionsByTheNonceAlone(MemoryStore):
    """S7: a version that the client chose comes back with a late duplicate of its command."""

    def _capture_one(self, tag, nonce, now_ms, until_ms):
        version = self._version(tag, now_ms) or nonce + bytes(8)
        self._keep(tag, Tag(version), until_ms)
        return version


class CountsVersions(MemoryStore):
    """S7: a counter that starts again once its key is gone."""

    def _capture_one(self, tag, nonce, now_ms, until_ms):
        version = self._version(tag, now_ms) or (1).to_bytes(16)
        self._keep(tag, Tag(version), until_ms)
        return version


def caught(store_class=MemoryStore):
    for seed in range(2_000):
        try:
            History(seed, store_class).run(600)
        except AssertionError:
            return True
    return False


@pytest.mark.parametrize("wrong", [FillsWithoutAGrant, VersionsByTheNonceAlone, CountsVersions])
def test_a_wrong_store_is_caught(wrong):
    assert caught(wrong)


def test_an_entry_beside_another_that_is_tied_to_any_value_is_caught(monkeypatch):
    """Fault 33: the variant of an entry is as good as that very entry, and no other."""

    def untied(cell, key, codec, server_ms, versions=()):
        rest = tuple(pair for pair in versions if pair[0] != VARIANT_OF)
        verdict = entry.examine(cell, key, codec, server_ms, rest)
        if isinstance(verdict, Unchecked) and VARIANT_OF in verdict.tags:
            own = entry._unpacked(cell.body)[0][VARIANT_OF]
            return entry.examine(cell, key, codec, server_ms, (*rest, (VARIANT_OF, own)))
        return verdict

    for module in (get_module, get_or_load_module, checking_module, load_many_module, triage):
        monkeypatch.setattr(module, "examine", untied)
    assert caught()


def test_tags_that_are_not_asked_for_are_caught(monkeypatch):
    """S7: a reader who names none must find them in the entry."""

    def unchecked(cell, key, codec, server_ms, versions=()):
        verdict = entry.examine(cell, key, codec, server_ms, versions)
        if isinstance(verdict, Unchecked):
            own = entry._unpacked(cell.body)[0]
            return entry.examine(cell, key, codec, server_ms, tuple(own.items()))
        return verdict

    monkeypatch.setattr(get_module, "examine", unchecked)
    assert caught()
