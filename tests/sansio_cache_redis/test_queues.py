"""Write-behind as callers see it: on threads, asyncio and trio, on memory and on a real server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any
from uuid import uuid4

import attrs
import pytest
from msgspec.structs import replace

from sansio_cache import (
    CacheAside,
    CacheConnectionError,
    CacheTimeoutError,
    ConfigurationError,
    NotStoredError,
    SerializationError,
    UnknownOutcomeError,
    WriteBehind,
    WriteThrough,
)
from sansio_cache.commands import (
    AppendEntries,
    DeleteKeys,
    HoldCells,
    MeasureQueue,
    PeekEntries,
    QueueCommand,
)
from sansio_cache.events import FailureKind, StoreFailed
from sansio_cache.notices import StoreGaveUp
from sansio_cache.queues import place_of
from sansio_cache_redis import sync as cache_sync
from sansio_cache_runtime.anyio.event import LoopEvent
from sansio_cache_runtime.sync.event import ThreadEvent
from support.queues import FAST, GIVE_UP_S, Facade, User, World, run_world
from support.runtimes import until
from support.servers import Server
from support.stores import Wrapping


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server.start() as server:
        yield server


@pytest.fixture(params=["sync", "asyncio", "trio"])
def colour(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["memory", pytest.param("server", marks=pytest.mark.servers)])
def running(request: pytest.FixtureRequest, colour: str, server: Server) -> Callable[..., None]:
    """Runs a coroutine function of a world."""
    url = f"memory://{uuid4().hex}" if request.param == "memory" else server.url

    return partial(run_world, colour, url)


def test_a_queued_write_is_what_every_reader_gets_until_it_is_applied_and_after(running):
    async def test(world: World) -> None:
        users, database = world.users, world.database
        database.save([User(7, "old")], tokens={7: 1})
        assert await users.get_or_load(7) == User(7, "old")

        result = await users.write(User(7, "new"))

        assert (result.done, result.stored, result.returned) == (1, 0, None)
        assert database.load(7) == User(7, "old")
        assert await users.get(7) == User(7, "new")
        assert await users.get_many([7, 8]) == {7: User(7, "new")}
        assert await users.get_or_load(7) == User(7, "new")
        assert await users.get_or_load_many([7, 8]) == {7: User(7, "new")}
        await users.invalidate(7)
        assert await users.get_or_load(7, lambda which: User(which, "of another loader")) == User(7, "new")
        async with world.queue.within("consumer"):
            await users.invalidate(7)
            assert (await world.queue.drain(GIVE_UP_S)).queued == 0
        assert database.load(7) == User(7, "new")
        assert await users.get_or_load(7) == User(7, "new")
        stats = world.cache.stats()
        assert (stats.writes_queued, stats.writes_applied) == (1, 1)

    running(test)


def test_many_writes_are_queued_together_and_the_newest_of_each_is_applied(running):
    async def test(world: World) -> None:
        await world.users.write_many([User(number, "first") for number in range(250)])
        await world.users.write_many({number: User(number, "second") for number in range(100)})
        backlog = await world.queue.backlog()
        assert backlog.queued == 350 == sum(backlog.partitions)
        assert len(backlog.partitions) == 2
        assert backlog.oldest_s < GIVE_UP_S
        seen: list[int] = []
        async with world.queue.within("consumer", workers=2):
            left = await world.queue.drain(GIVE_UP_S, progress=lambda each: seen.append(each.queued))
        assert left.queued == seen[-1] == 0
        assert {world.database.load(number).name for number in range(100)} == {"second"}
        assert {world.database.load(number).name for number in range(100, 250)} == {"first"}
        stats = world.cache.stats()
        assert stats.writes_applied + stats.writes_coalesced == 350

    running(test)


def test_a_poison_write_becomes_a_letter_which_can_be_replayed_or_dropped(running):
    async def test(world: World) -> None:
        world.database.poison = {3, 4}
        await world.users.write_many([User(number, "new") for number in range(10)])
        async with world.queue.within("consumer"):
            await world.queue.drain(GIVE_UP_S)
        assert sorted(world.database.load_many(list(range(10)))) == [0, 1, 2, 5, 6, 7, 8, 9]
        assert (await world.queue.backlog()).dead == 2
        letters = {each.value.id: each for each in await world.queue.letters()}
        assert letters[3].value == User(3, "new")
        assert "ValueError" in letters[3].reason
        assert await world.users.get(3) is None
        assert world.cache.stats().writes_dead == 2

        world.database.poison = set()
        assert await world.queue.replay(letters[3])
        assert not await world.queue.replay(letters[3])
        assert await world.users.get(3) == User(3, "new")
        await world.users.write(User(4, "later"))
        assert not await world.queue.replay(letters[4])
        [superseded] = await world.queue.letters()
        assert superseded.is_superseded
        assert await world.queue.drop(superseded, letters[3]) == 1
        async with world.queue.within("consumer"):
            await world.queue.drain(GIVE_UP_S)
        assert world.database.load(3) == User(3, "new")
        assert world.database.load(4) == User(4, "later")

    running(test)


def test_a_writer_that_fails_for_a_while_loses_nothing(running, caplog):
    async def test(world: World) -> None:
        world.database.failures = 2
        await world.users.write_many([User(number, "new") for number in range(5)])
        async with world.queue.within("consumer"):
            await world.queue.drain(GIVE_UP_S)
        assert len(world.database.load_many(list(range(5)))) == 5
        stats = world.cache.stats()
        assert stats.writer_failures == stats.entities["user"].writer_failures == 2

    running(test)
    [record] = [each for each in caplog.records if "the writer of the queue user failed" in each.getMessage()]
    assert record.exc_info


def test_a_consumer_says_what_it_saw_last_of_its_partitions_until_it_ends(running):
    async def test(world: World) -> None:
        users, queue = world.entity(attrs.evolve(FAST, partitions=2))
        world.database.failures = 10**6
        await users.write_many([User(number, "new") for number in range(9)])
        written_s, seen = time.monotonic(), {}
        await until(lambda: time.monotonic() > written_s + 0.005)  # the memory store counts milliseconds
        async with queue.within("consumer", drain_s=0.0):

            def has_seen_all() -> bool:
                seen.update(world.cache.stats().state.queues.get("user", {}))
                return sum(each.backlog for each in seen.values()) == 9

            await until(has_seen_all)
            assert all(0 < each.oldest_s < GIVE_UP_S for each in seen.values() if each.backlog)
        assert world.cache.stats().state.queues == {}

    running(test)


def test_a_full_queue_makes_writers_wait_and_then_raises_and_drops_nothing(running):
    async def test(world: World) -> None:
        users, queue = world.entity(attrs.evolve(FAST, partitions=1, backlog=2, wait_s=0.05))
        for number in (1, 2):
            await users.write(User(number, "new"))
        with pytest.raises(CacheTimeoutError, match="the queue was full"):
            await users.write(User(3, "new"))
        assert (await queue.backlog()).queued == 2
        users, queue = world.entity(attrs.evolve(FAST, partitions=1, backlog=2, wait_s=GIVE_UP_S))
        async with queue.within("consumer"):
            await users.write(User(3, "new"))
            await queue.drain(GIVE_UP_S)
        assert len(world.database.load_many([1, 2, 3])) == 3

    running(test)


def test_what_is_queued_is_written_before_a_mutation_a_set_or_a_deletion_of_the_same_key(running):
    async def test(world: World) -> None:
        users, queue = world.entity(attrs.evolve(FAST, wait_s=0.05))
        await users.write(User(7, "queued"))
        with pytest.raises(CacheTimeoutError, match="wait for the same keys"):
            await users.set(User(7, "set"))
        with pytest.raises(CacheTimeoutError, match="wait for the same keys"):
            async with users.within("invalidating", 7):
                raise AssertionError
        async with queue.within("consumer"):
            users, _ = world.entity(attrs.evolve(FAST, wait_s=GIVE_UP_S))
            async with users.within("mutate", 7):
                assert world.database.load(7) == User(7, "queued")
            await users.set(User(7, "queued"))
            await users.write(User(8, "queued"))
            async with users.within("invalidating", 8):
                world.database.delete(8)  # what was queued before would bring it back
            await queue.drain(GIVE_UP_S)
            assert await users.get_or_load(8) is None
        assert await users.get(7) == User(7, "queued")

    running(test)


class Between(Wrapping):
    """Another writer's write is acknowledged between the first look at the queue and what follows."""

    def __init__(self, store: Any, write: Callable[[], Any]) -> None:
        self._store, self._write = store, write
        self.is_done = False

    def perform(self, command: Any) -> Any:
        answer = self._store.perform(command)
        if isinstance(command, PeekEntries) and not self.is_done:
            self.is_done = True
            self._write()
        return answer

    async def answer(self, command: Any) -> Any:
        answer = await self._store.answer(command)
        if isinstance(command, PeekEntries) and not self.is_done:
            self.is_done = True
            await self._write()
        return answer


@pytest.mark.parametrize("how", ["mutate", "set"])
def test_a_write_that_comes_before_the_hold_of_a_mutation_is_waited_for(running, how):
    """What was acknowledged is never overtaken by an older value in the cache."""

    async def test(world: World) -> None:
        users, queue = world.entity(attrs.evolve(FAST, wait_s=0.1))
        world.database.save([User(7, "old")], tokens={7: 1})
        write = partial(world.users.thing.write, User(7, "acknowledged"))
        began: list[str] = []

        async def change() -> None:
            if how == "set":
                await users.set(User(7, "old"))
                return
            async with users.within("mutate", 7) as mutation:
                began.append(how)
                mutation.set(User(7, "old"))

        async with world.wrapped(lambda store: Between(store, write)) as between:
            with pytest.raises(CacheTimeoutError, match="wait for the same keys"):
                await change()
            assert between.is_done
        assert began == []
        assert await users.get(7) == User(7, "acknowledged")
        async with queue.within("consumer"):
            await queue.drain(GIVE_UP_S)
        assert await users.get_or_load(7) == User(7, "acknowledged")

    running(test)


def test_what_is_queued_while_a_mutation_runs_is_not_overtaken_by_its_value(running):
    async def test(world: World) -> None:
        users, queue = world.entity()
        world.database.save([User(7, "old")], tokens={7: 1})
        async with users.within("mutate", 7) as mutation:
            await users.write(User(7, "acknowledged"))
            mutation.set(User(7, "old"))
        assert (mutation.stored, list(mutation.unstored.values())) == (0, ["overtaken"])
        assert await users.get(7) == User(7, "acknowledged")
        async with queue.within("consumer"):
            await queue.drain(GIVE_UP_S)
        assert await users.get_or_load(7) == User(7, "acknowledged")

    running(test)


def test_a_value_is_set_with_its_tags_where_nothing_is_queued(running):
    async def test(world: World) -> None:
        assert await world.users.set(User(7, "set"), tags=["team"])
        assert await world.users.get_or_load(7, tags=["team"]) == User(7, "set")
        await Facade(world.cache, is_sync=world.is_sync).invalidate(tags=["team"])
        assert await world.users.get_or_load(7, tags=["team"]) is None
        assert await world.users.set(7, User(7, "again"), strict=True)
        assert await world.users.get(7, renew=60) == User(7, "again")
        assert (await world.users.lookup(7)).value == User(7, "again")
        assert await world.users.set(User(7, "short"), ttl=0) is False
        with pytest.raises(NotStoredError) as raised:
            await world.users.set(User(7, "short"), ttl=0, strict=True)
        assert raised.value.reason == "outlived"
        assert await world.users.set(7, User(7, "again"))
        with pytest.raises(SerializationError):
            await world.users.set(User(7, b"\xff"))  # type: ignore[arg-type]
        assert await world.users.get(7) == User(7, "again")

    running(test)


def test_what_cannot_be_queued_is_refused_at_once(running):
    async def test(world: World) -> None:
        with pytest.raises(SerializationError):
            await world.users.write(User(7, b"\xff"))  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="None is none"):
            await world.users.write(7, None)
        assert (await world.queue.backlog()).queued == 0

    running(test)


def test_another_number_of_partitions_waits_until_the_queue_is_drained(running):
    async def test(world: World) -> None:
        await world.users.write(User(7, "new"))
        users, _ = world.entity(attrs.evolve(FAST, partitions=4))
        with pytest.raises(ConfigurationError, match="has 2 partitions with 1 writes"):
            await users.write(User(8, "new"))
        async with world.queue.within("consumer"):
            await world.queue.drain(GIVE_UP_S)
        await users.write(User(8, "new"))
        with pytest.raises(ConfigurationError, match="has 4 partitions by now"):
            await world.users.write(User(9, "new"))

    running(test)


def test_who_reads_with_another_number_of_partitions_is_told_and_stores_nothing(running):
    """What is queued is in another partition for it: it would store what the database has for everybody."""

    async def test(world: World) -> None:
        number = next(each for each in range(99) if place_of(str(world.users.thing.key(each)), 8) >= 4)
        reading, _ = world.entity(attrs.evolve(FAST, partitions=8))
        lenient, _ = world.entity(attrs.evolve(FAST, partitions=8, reads_in_outage="load"))
        world.database.save([User(number, "old")], tokens={number: 1})
        await world.users.write(User(number, "new"))
        for users in (reading, lenient):
            with pytest.raises(ConfigurationError, match="has 2 partitions with 1 writes"):
                await users.get_or_load(number)
            with pytest.raises(ConfigurationError, match="has 2 partitions with 1 writes"):
                await users.get_or_load_many([number])
        assert await world.users.get_or_load(number) == User(number, "new")

    running(test)


def test_who_has_read_before_the_number_of_partitions_was_changed_is_told(running):
    async def test(world: World) -> None:
        reading, _ = world.entity(attrs.evolve(FAST, partitions=8))
        lenient, _ = world.entity(attrs.evolve(FAST, partitions=8, reads_in_outage="load"))
        for unknown, users in enumerate((reading, lenient)):
            assert await users.get_or_load(-1 - unknown) is None
        for number in range(20):
            await world.users.write(User(number, "new"))
        for number in range(20):
            for users in (reading, lenient):
                with pytest.raises(ConfigurationError, match="has 2 partitions by now"):
                    await users.get_or_load(number)

    running(test)


def test_the_number_of_partitions_is_not_changed_while_there_are_letters(running):
    async def test(world: World) -> None:
        world.database.poison = {7}
        await world.users.write(User(7, "new"))
        async with world.queue.within("consumer"):
            await world.queue.drain(GIVE_UP_S)
        users, _ = world.entity(attrs.evolve(FAST, partitions=4))
        with pytest.raises(
            ConfigurationError, match=r"0 writes and 1 dead letters .* replay or drop the letters"
        ):
            await users.write(User(8, "new"))
        [letter] = await world.queue.letters()
        assert await world.queue.drop(letter) == 1
        await users.write(User(8, "new"))
        with pytest.raises(ConfigurationError, match="when this became a letter"):
            await world.queue.replay(letter)

    running(test)


def test_a_write_that_was_queued_as_another_type_is_given_up_and_read_by_nobody(running, caplog):
    @attrs.frozen
    class Renamed:
        id: int
        full_name: str

    async def test(world: World) -> None:
        await world.users.write(User(7, "new"))
        users, queue = world.entity(type=Renamed)
        with pytest.raises(CacheConnectionError, match="queued as another type"):
            await users.get_or_load(7)
        async with queue.within("consumer"):
            await queue.drain(GIVE_UP_S)
        [letter] = await queue.letters()
        assert letter.value is None
        assert "another type" in letter.reason

    running(test)
    assert "1 writes of the queue user cannot be read" in caplog.text


class Failing(Wrapping):
    """Fails what a test names: the answer is lost where it is done first."""

    def __init__(self, store: Any, *kinds: type, is_done: bool = False) -> None:
        self._store, self._kinds, self._is_done = store, kinds, is_done

    def perform(self, command: Any) -> Any:
        if not isinstance(command, self._kinds):
            return self._store.perform(command)
        if self._is_done:
            self._store.perform(command)
        return StoreFailed(0.0, FailureKind.OTHER)

    async def answer(self, command: Any) -> Any:
        if not isinstance(command, self._kinds):
            return await self._store.answer(command)
        if self._is_done:
            await self._store.answer(command)
        return StoreFailed(0.0, FailureKind.OTHER)


def test_a_write_whose_answer_is_lost_says_that_it_may_be_queued(running):
    async def test(world: World) -> None:
        async with world.wrapped(lambda store: Failing(store, AppendEntries, is_done=True)):
            with pytest.raises(UnknownOutcomeError):
                await world.users.write(User(7, "new"))
        assert (await world.queue.backlog()).queued == 1

    running(test)


def test_a_write_whose_removal_is_lost_says_that_it_is_queued(running):
    async def test(world: World) -> None:
        async with world.wrapped(lambda store: Failing(store, DeleteKeys)):
            with pytest.raises(UnknownOutcomeError, match="the write is queued"):
                await world.users.write(User(7, "new"))
        assert (await world.queue.backlog()).queued == 1

    running(test)


def test_where_the_store_cannot_say_what_is_queued_a_load_raises_unless_it_may_be_older(running):
    async def test(world: World) -> None:
        world.database.save([User(7, "old")], tokens={7: 1})
        async with world.wrapped(lambda store: Failing(store, PeekEntries)):
            with pytest.raises(CacheConnectionError):
                await world.users.get_or_load(7)
            users, _ = world.entity(attrs.evolve(FAST, reads_in_outage="load"))
            assert await users.get_or_load(7) == User(7, "old")
        async with world.wrapped(lambda store: Failing(store, *QueueCommand.__args__)):
            for call in (
                world.queue.backlog,
                world.queue.letters,
                partial(world.users.write, User(7, "new")),
            ):
                with pytest.raises((CacheConnectionError, UnknownOutcomeError)):
                    await call()

    running(test)


class Passing(Wrapping):
    """Forty seconds pass with each answer. What is asked of a kind about the last partition fails once."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._failing: set[type] = set()
        self.passed_s = 0.0

    def clock(self) -> float:
        return time.monotonic() + self.passed_s

    def fail(self, *kinds: type) -> None:
        self._failing |= set(kinds)

    def _failed(self, command: Any) -> Any:
        kind, text = type(command), repr(command)
        if kind not in self._failing or ":1}" not in text:
            return None
        self._failing.remove(kind)
        return StoreFailed(self.clock(), FailureKind.TIMEOUT)

    def _late(self, event: Any) -> Any:
        self.passed_s += 40.0
        return replace(event, now_s=event.now_s + self.passed_s)

    def perform(self, command: Any) -> Any:
        return self._failed(command) or self._late(self._store.perform(command))

    async def answer(self, command: Any) -> Any:
        return self._failed(command) or self._late(await self._store.answer(command))


def test_each_step_of_a_call_has_the_time_of_a_step(running, monkeypatch):
    """Whatever those before it took: a lost answer is asked for again (the store has 30 s for a step)."""

    async def test(world: World) -> None:
        names = {number: str(world.users.thing.key(number)) for number in range(50)}
        first, last = (next(n for n in names if place_of(names[n], 2) == place) for place in range(2))
        both = [User(first, "new"), User(last, "new")]
        async with world.wrapped(Passing) as store:
            monkeypatch.setattr(world.cache._requests, "clock", store.clock)
            store.fail(HoldCells)
            await world.users.write_many(both)
            store.fail(MeasureQueue)
            assert (await world.queue.backlog()).queued == 2
            store.fail(PeekEntries)
            assert await world.users.get_many([first, last]) == {user.id: user for user in both}
            users, _ = world.entity(attrs.evolve(FAST, wait_s=1.0))
            store.fail(HoldCells)  # agreeing has taken longer than one step may
            await users.write(User(last, "newer"))

    running(test)


def test_for_room_all_writes_of_a_call_wait_as_long_as_one(monkeypatch):
    """Each has the store's time from its own beginning, and what is left of `wait_s`."""
    with closing(cache_sync.Cache.from_url("memory://", namespace="q")) as cache:
        users = cache.entity("user", User, id="id", writer=print, strategy=FAST)
        monkeypatch.setattr(cache._requests, "clock", iter((5.0, 5.0, 7.0)).__next__)
        values = {users.key(number): User(number, "new") for number in range(50)}
        steps = [step for _, step in users.queue._plan.enqueue(values, ())]
        requests = [step.state.request for step in steps]
        assert [each.started_s for each in requests] == [5.0, 7.0]
        assert [each.waited_s for each in requests] == [0.0, 2.0]


def remembered(world: World) -> set[str]:
    return set(world.cache._coordinator.recent.keys(time.monotonic()))


def forget(world: World) -> None:
    world.cache._coordinator.recent._keys.clear()


def test_what_is_queued_applied_and_replayed_is_remembered_for_a_failover(running):
    """A server that takes over without the removal is told of it once more."""

    async def test(world: World) -> None:
        users, key = world.users, str(world.users.thing.key(7))
        lists = set(world.queue.thing._plan.lists)
        tag = f"{world.namespace}:%t:team"
        await users.write(User(7, "new"), tags=["team"])
        assert remembered(world) == {key, tag, *lists}
        forget(world)
        world.database.poison = {7}
        async with world.queue.within("consumer"):
            await world.queue.drain(GIVE_UP_S)
        assert remembered(world) == {key, tag, *lists}
        forget(world)
        [letter] = await world.queue.letters()
        assert await world.queue.replay(letter)
        assert remembered(world) == {key, tag, *lists}
        forget(world)
        world.database.poison = set()
        async with world.queue.within("consumer"):
            await world.queue.drain(GIVE_UP_S)
        assert remembered(world) == {key, tag, *lists}

    running(test)


def test_a_write_is_remembered_before_the_store_has_it(running):
    """Its answer may be lost, and the write with the server."""

    async def test(world: World) -> None:
        async with world.wrapped(lambda store: Failing(store, HoldCells)):
            with pytest.raises(CacheConnectionError):
                await world.users.write(User(7, "new"))
        assert str(world.users.thing.key(7)) in remembered(world)

    running(test)


def test_a_tag_that_can_be_reached_lets_no_write_be_tried_whose_key_cannot():
    """What is skipped is decided by the keys, and what is remembered is all that goes."""
    with closing(cache_sync.Cache.from_url("memory://", namespace="q")) as cache:
        users = cache.entity("user", User, id="id", writer=print, strategy=FAST)
        users.queue.open()
        coordinator, key = cache._coordinator, str(users.key(7))
        coordinator.part_of = lambda each: "away" if each == key else "here"
        coordinator.heed([StoreGaveUp(FailureKind.CONNECTION, "away")], time.monotonic())
        with pytest.raises(CacheConnectionError):
            users.write(User(7, "new"))
        coordinator.part_of = lambda each: "here" if each == key else "away"
        assert users.write(User(7, "new")).done == 1


def test_two_consumers_share_the_partitions(running):
    async def test(world: World) -> None:
        async with world.queue.within("consumer"), world.queue.within("consumer"):
            for number in range(40):
                await world.users.write(User(number, "new"))
            await world.queue.drain(GIVE_UP_S)
        assert len(world.database.load_many(list(range(40)))) == 40

    running(test)


def test_a_consumer_ends_with_its_cache(running):
    async def test(world: World) -> None:
        world.database.failures = 10**9
        await world.users.write(User(7, "new"))
        async with world.queue.within("consumer", drain_s=0.0):
            await until(lambda: world.database.writes)
        backlog = await world.queue.backlog()
        assert backlog.queued + backlog.dead == 1  # on a busy machine it was tried as often as is allowed

    running(test)


def test_an_entity_says_what_it_needs_to_write_behind():
    with closing(cache_sync.Cache.from_url("memory://", namespace="q")) as cache:
        with pytest.raises(ConfigurationError, match="nothing to write with"):
            cache.entity("user", User, id="id", strategy=WriteBehind())
        with pytest.raises(ConfigurationError, match="where its values have their ids"):
            cache.entity("user", User, writer=print, strategy=WriteBehind())
        with pytest.raises(ConfigurationError, match=r"strategy=WriteBehind\(\)"):
            _ = cache.entity("user", User, strategy=CacheAside()).queue


@pytest.mark.parametrize("takes", ["value", "id and value", "token"])
def test_a_writer_of_one_is_called_for_each(takes: str):
    calls: list[Any] = []
    writers: dict[str, Callable[..., Any]] = {
        "value": lambda user: calls.append((user.id, user.name, None)),
        "id and value": lambda which, user: calls.append((which, user.name, None)),
        "token": lambda user, token: calls.append((user.id, user.name, token)),
    }
    with closing(cache_sync.Cache.from_url("memory://", namespace="q")) as cache:
        users = cache.entity("user", User, id="id", writer=writers[takes], strategy=FAST)
        users.write(User(7, "new"))
        with users.queue.consumer():
            users.queue.drain(GIVE_UP_S)
    [(which, name, token)] = calls
    assert (which, name) == (7, "new")
    assert (token is None) == (takes != "token")


def test_a_token_that_the_database_has_is_met_by_a_higher_one():
    """As after a failover that has lost tokens which were applied already."""
    has: dict[int, tuple[str, int]] = {}
    calls: list[int] = []

    def save(users: list[User], tokens: dict[int, int]) -> dict[int, int]:
        for user in users:
            calls.append(tokens[user.id])
            has.setdefault(user.id, ("ahead", tokens[user.id] + 10**9))
            if tokens[user.id] > has[user.id][1]:
                has[user.id] = user.name, tokens[user.id]
        return {user.id: has[user.id][1] for user in users}

    with closing(cache_sync.Cache.from_url("memory://", namespace="q")) as cache:
        users = cache.entity("user", User, id="id", write_many=save, strategy=FAST)
        users.write(User(7, "new"))
        with users.queue.consumer():
            users.queue.drain(GIVE_UP_S)
    assert has[7][0] == "new"
    assert has[7][1] > calls[0] + 10**9
    assert len(calls) == 2


@pytest.mark.parametrize(("ahead_us", "returned"), [(10, 2), (7200 * 10**6, 1)])
def test_an_integer_that_is_no_token_is_a_failed_try_and_queues_nothing_for_ever(ahead_us, returned, caplog):
    """As the time of a change, in microseconds, which a database gives back."""
    calls: list[int] = []

    def save(user: User, token: int) -> int:
        calls.append(token)
        return token + ahead_us

    with closing(cache_sync.Cache.from_url("memory://", namespace="q")) as cache:
        users = cache.entity("user", User, id="id", writer=save, strategy=FAST)
        users.write(User(7, "new"))
        with users.queue.consumer():
            users.queue.drain(GIVE_UP_S)
        [letter] = users.queue.letters()
    assert "ReturnedNoTokenError" in letter.reason
    assert "the writer of the queue user failed with ReturnedNoTokenError" in caplog.text
    assert f"the writer was given the token {calls[-1]} for " in caplog.text
    assert len(set(calls)) == returned  # so often it was queued
    assert len(calls) == returned - 1 + 3


@pytest.mark.parametrize(
    "write_many",
    [
        lambda users, *, token: None,
        lambda: None,
        lambda users, other: None,
        lambda users, *, foo: None,
    ],
)
def test_what_cannot_be_called_with_values_is_refused_before_anything_is_queued(write_many):
    """Acknowledged writes became dead letters, and nothing said why."""
    with closing(cache_sync.Cache.from_url("memory://", namespace="q")) as cache:
        for strategy in (FAST, WriteThrough()):
            with pytest.raises(ConfigurationError, match=r"called with the values.*; it takes \("):
                cache.entity("user", User, id="id", write_many=write_many, strategy=strategy)
        cache.entity("user", User, id="id", write_many=lambda users, *, tokens: None, strategy=FAST)
        cache.entity("user", User, id="id", write_many=lambda users: None, strategy=WriteThrough())
        cache.entity("user", User, id="id", write_many=[].extend, strategy=FAST)
        with pytest.raises(ConfigurationError, match="it takes"):
            cache.entity(
                "user", User, id="id", write_many=lambda users, *, tokens: None, strategy=WriteThrough()
            )


@pytest.mark.parametrize("ask", ["backlog", "drain", "letters"])
def test_who_asks_what_is_queued_under_another_number_of_partitions_is_refused(ask):
    """Some partitions would be left out: "nothing left" is what a deployment waits for."""
    with closing(cache_sync.Cache.from_url("memory://", namespace="q")) as cache:

        def users(partitions):
            strategy = WriteBehind(partitions=partitions)
            return cache.entity("user", User, id="id", writer=lambda user: None, strategy=strategy)

        users(8).write(User(7, "new"))
        with pytest.raises(ConfigurationError, match="partitions"):
            getattr(users(4).queue, ask)()
        assert users(8).queue.backlog().queued == 1


def test_an_integer_below_the_token_says_nothing():
    with closing(cache_sync.Cache.from_url("memory://", namespace="q")) as cache:
        users = cache.entity("user", User, id="id", writer=lambda user, token: 1, strategy=FAST)
        users.write(User(7, "new"))
        with users.queue.consumer():
            assert users.queue.drain(GIVE_UP_S).queued == 0
        assert users.queue.letters() == []


Rows = dict[str, int | str]


@pytest.mark.parametrize("many", [False, True])
def test_a_writer_may_change_what_it_is_given(running, many):
    """Each attempt is given what was queued, and ids are taken before the writer has the values."""

    async def test(world: World) -> None:
        database: dict[Any, Any] = {}
        calls: list[Any] = []

        def save(row: Any, token: int) -> None:
            calls.append(dict(row))
            which = row.pop("id")
            if len(calls) == 1:
                raise ConnectionError("the database is away")
            database[which] = row

        def save_many(rows: list[Any], *, tokens: dict[Any, int]) -> dict[Any, int]:
            returned = dict(tokens)
            while rows:
                save(rows.pop(), tokens.pop(rows[-1]["id"] if rows else next(iter(tokens))))
            return returned

        writers = {"write_many": save_many} if many else {"write_many": None, "writer": save}
        rows, queue = world.entity(type=Rows, loader=database.get, load_many=None, **writers)
        await rows.write({"id": 1, "name": "Ada"})
        async with queue.within("consumer"):
            assert (await queue.drain(GIVE_UP_S)).queued == 0
        assert database == {1: {"name": "Ada"}}
        assert calls == [{"id": 1, "name": "Ada"}] * 2
        assert await queue.letters() == []

    running(test)


def test_of_many_writes_those_are_named_that_are_queued_where_others_are_not(running):
    async def test(world: World) -> None:
        users, queue = world.entity(attrs.evolve(FAST, partitions=2, backlog=2, wait_s=0.05))
        names = {number: str(users.thing.key(number)) for number in range(50)}
        first, second = ([n for n in names if place_of(names[n], 2) == place][:2] for place in range(2))
        await users.write(User(first[0], "new"))
        with pytest.raises(UnknownOutcomeError, match="the queue was full") as caught:
            await users.write_many([User(first[1], "new"), User(second[0], "new")])
        assert f"1 not queued: {names[first[1]]}; 1 queued: {names[second[0]]}" in str(caught.value)
        assert isinstance(caught.value.__cause__, CacheTimeoutError)
        assert await users.get_many([first[1], second[0]]) == {second[0]: User(second[0], "new")}
        with pytest.raises(CacheTimeoutError, match="the queue was full"):
            await users.write_many([User(first[1], "new"), User(second[1], "new")])
        assert (await queue.backlog()).queued == 2

    running(test)


def test_a_cache_that_is_switched_off_has_no_queue_and_loads(running):
    async def test(world: World) -> None:
        world.database.save([User(7, "old")], tokens={7: 1})
        await world.users.write(User(7, "queued"))
        cache = type(world.cache).from_url(world.url, namespace=world.namespace, enabled=False)
        said = {"loader": world.database.load, "load_many": world.database.load_many}
        users = Facade(
            cache.entity("user", User, id="id", write_many=world.database.save, strategy=FAST, **said),
            is_sync=world.is_sync,
        )
        try:
            assert await users.get(7) is None
            assert await users.get_many([7]) == {}
            assert await users.get_or_load(7) == User(7, "old")
            assert await users.get_or_load_many([7]) == {7: User(7, "old")}
            async with users.within("mutate", 7):
                pass
            assert not await users.set(User(7, "set"))
        finally:
            await getattr(Facade(cache, is_sync=world.is_sync), "close" if world.is_sync else "aclose")()

    running(test)


class Frozen(Wrapping):
    """A store that does not answer, and what it was asked."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.asked: list[Any] = []

    def perform(self, command: Any) -> Any:
        self.asked.append(command)
        return StoreFailed(0.0, FailureKind.CONNECTION)

    async def answer(self, command: Any) -> Any:
        return self.perform(command)

    def looks(self) -> int:
        """How often it was asked what is queued."""
        return sum(isinstance(each, PeekEntries) for each in self.asked)


def test_a_store_that_is_known_to_be_away_is_not_asked_what_is_queued(running):
    async def test(world: World) -> None:
        world.database.save([User(7, "old")], tokens={7: 1})
        users, _ = world.entity(attrs.evolve(FAST, reads_in_outage="load"))
        async with world.wrapped(Frozen) as store:
            assert await users.get_or_load(7) == User(7, "old")
            looks = store.looks()
            assert await users.get_or_load(7) == User(7, "old")
            assert await users.get_or_load_many([7]) == {7: User(7, "old")}
            assert await users.get(7) is None
            for call in (world.users.get, world.users.get_or_load):
                with pytest.raises(CacheConnectionError):
                    await call(7)
            assert store.looks() == looks

    running(test)


def test_a_consumer_hears_that_it_is_to_end_while_its_writer_fails(running):
    async def test(world: World) -> None:
        stop = ThreadEvent() if world.is_sync else LoopEvent()
        calls: list[int] = []

        def save(users: list[User]) -> None:
            calls.append(len(users))
            stop.set()
            raise ConnectionError("the database is away")

        users, queue = world.entity(attrs.evolve(FAST, partitions=1), write_many=save)
        await users.write_many([User(number, "new") for number in range(8)])
        await queue.run(stop)
        assert calls == [8]
        assert (await queue.backlog()).queued == 8

    running(test)


@pytest.mark.servers
def test_a_server_that_may_evict_what_is_queued_is_refused():
    args = "--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"
    with (
        Server.start(args=args) as evicting,
        closing(cache_sync.Cache.from_url(evicting.url, namespace="q")) as cache,
    ):
        users = cache.entity("user", User, id="id", writer=print, strategy=FAST)
        with pytest.raises(ConfigurationError, match="allkeys-lru"):
            users.write(User(7, "new"))
