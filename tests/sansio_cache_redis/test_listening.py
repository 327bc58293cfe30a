"""Listening: a waiter watches all that it waits for, and a subscription that fails is tried now and then."""

import queue
import threading
import time
from contextlib import closing, contextmanager

import anyio
import anyio.to_thread
import attrs
import pytest
from redis.exceptions import NoPermissionError

from sansio_cache import Policy, backoff
from sansio_cache.cell import NO_GRANT, Kind
from sansio_cache.codec import codec_for
from sansio_cache.commands import Fill, FillCells, Sleep, Watch
from sansio_cache.entry import seal, variant_key
from sansio_cache.events import FillResult
from sansio_cache_redis import listening
from sansio_cache_redis.listening import Listener
from sansio_cache_redis.sync import Cache
from sansio_cache_runtime.driver_base import Call
from support.faulty import GIVE_UP_S, PATIENT, eventually, in_thread, on_every_runtime, opened, run_on
from support.proxy import HALF_OPEN, FaultProxy, command
from support.runtimes import MAX_VALUE_BYTES, ON_MEMORY, ON_SERVER, never, runs, until
from support.servers import wait_until

pytestmark = pytest.mark.servers

LONG_S = 3_600.0  # nobody sleeps for so long


class FakeListener:
    """Its subscription stands. It knows who watches what."""

    def __init__(self):
        self.watches = {}

    def hears(self, key):
        return True

    def watch(self, key, wake):
        number = len(self.watches) + 100
        self.watches[number] = (key, wake)
        return number

    def unwatch(self, key, number):
        assert self.watches.pop(number)[0] == key

    def close(self, *, wait):
        pass

    @property
    def keys(self):
        return sorted(key for key, _ in self.watches.values())

    def wake(self, wanted):
        for key, wake in self.watches.values():
            if key == wanted:
                wake()


@runs(ON_MEMORY, compare=None)
async def test_a_waiter_is_told_of_keys_that_it_names_later_and_looks_at_once_when_it_does(world):
    """L4, fault 25: subscribe, look, wait."""
    driver = world.cache.driver
    listener = driver._backend.listener = FakeListener()

    call = Call(None, None)

    async def sleep(*keys):
        command = Sleep(LONG_S, Watch(keys, b"load_id", LONG_S))
        if world.cache.is_sync:
            await anyio.to_thread.run_sync(driver._sleep, command, call, abandon_on_cancel=True)
        else:
            await driver._sleep(command, call)

    with anyio.fail_after(GIVE_UP_S):
        await sleep("a", "b")
        assert listener.keys == ["a", "b"]
        await sleep("b", "c")
        assert listener.keys == ["a", "b", "c"]
        for key in ("b", "c"):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(sleep, "b", "c")
                await until(lambda: world.cache.driver._watches)
                listener.wake(key)
        driver._end(call)
    assert listener.keys == []
    assert driver._watches == set()


@attrs.frozen
class Person:
    name: str


@runs(ON_SERVER, compare=None, policy=Policy(wait_s=LONG_S))
async def test_a_load_that_turns_beside_another_versions_entry_while_it_waits_is_told_of_what_is_there(
    world, monkeypatch
):
    """L4. It has no way to learn of it but to be told: the fall-back is an hour away."""
    monkeypatch.setattr(backoff, "FALL_BACK_S", LONG_S)
    codec = codec_for(Person, MAX_VALUE_BYTES)
    full = world.raw.full("k")
    place = variant_key(full, codec.fingerprint)
    theirs = world.raw.lease("k")
    of_ours = world.raw.lease(place.removeprefix(f"{world.namespace}:"))

    def denied(key):
        name = key.removeprefix(f"{world.namespace}:")
        return sum(fact[:2] == ("AcquireLease", name) for fact in world.trace.facts)

    def fill(key, grant, body):
        event = world.raw.perform(FillCells((Fill(key, grant, 600_000, 0, body),), 10.0))
        assert event.results == (FillResult.STORED,)

    found = []

    async def wait():
        found.append(await world.cache.get_or_load("k", never, type=Person))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await until(lambda: world.cache.driver._backend.listener.is_live and denied("k") >= 2)
        fill(full, theirs, world.raw.body("k", {"first": "Ada"}))
        # Once more at least after it has begun to watch the other key, too.
        await until(lambda: denied(place) >= 2)
        body = seal(place, codec, codec.encode(Person("Ada")).payload, 0.0, (("", theirs),))
        fill(place, of_ours, body)
        with anyio.fail_after(GIVE_UP_S):
            await until(lambda: found)
    assert found == [Person("Ada")]
    assert not world.cache.driver._watches


@runs(ON_SERVER, compare=None, policy=Policy(wait_s=LONG_S))
async def test_a_batch_of_many_keys_is_told_of_the_last_one_too(world, monkeypatch):
    """L4."""
    monkeypatch.setattr(backoff, "FALL_BACK_S", LONG_S)
    keys = [f"k{number}" for number in range(150)]
    grants = {key: world.raw.lease(key) for key in keys}
    found = []

    async def wait():
        found.append(await world.cache.get_or_load_many(keys, never))

    def fill(*some):
        fills = tuple(
            Fill(world.raw.full(key), grants[key], 600_000, 0, world.raw.body(key, key)) for key in some
        )
        assert set(world.raw.perform(FillCells(fills, 10.0)).results) == {FillResult.STORED}

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await until(
            lambda: world.cache.driver._backend.listener.is_live and world.trace.count("AcquireLeases") >= 2
        )
        fill(*keys[:-1])
        is_leased = (keys[-1], NO_GRANT[:8], "keep")
        await until(
            lambda: any(fact[1] == (is_leased,) for fact in world.trace.facts if "Acquire" in fact[0])
        )
        fill(keys[-1])
        with anyio.fail_after(GIVE_UP_S):
            await until(lambda: found)
    assert found == [{key: key for key in keys}]


@runs(ON_SERVER, compare=None, policy=Policy(wait_s=LONG_S))
async def test_who_waits_for_one_of_many_keys_that_are_stored_by_comparing_is_told(world, monkeypatch):
    """L4: where the server compares, one message names all of them."""
    monkeypatch.setattr(backoff, "FALL_BACK_S", LONG_S)
    first = Fill(world.raw.full("first"), world.raw.lease("first"), 600_000, 0, b"")
    world.raw.perform(FillCells((first,), 10.0))  # asks whether it does
    grants = {key: world.raw.lease(key) for key in ("a", "ü", "c")}
    found = {}

    async def wait(key):
        found[key] = await world.cache.get_or_load(key, never)

    async with anyio.create_task_group() as tasks:
        for key in ("ü", "c"):
            tasks.start_soon(wait, key)
        await until(
            lambda: world.cache.driver._backend.listener.is_live and world.trace.count("AcquireLease") >= 4
        )
        fills = tuple(
            Fill(world.raw.full(key), grant, 600_000, 0, world.raw.body(key, key), Kind.EMPTY, 600_000)
            for key, grant in grants.items()
        )
        assert set(world.raw.perform(FillCells(fills, 10.0)).results) == {FillResult.STORED}
        with anyio.fail_after(GIVE_UP_S):
            await until(lambda: len(found) == 2)
    assert found == {"ü": "ü", "c": "c"}


# The subscription.


class Refused:
    """A connection on which nobody may subscribe."""

    def __init__(self, made):
        self._made = made

    def connect(self):
        self._made.append(self)
        raise ConnectionError

    def disconnect(self):
        pass


def starting(threads):
    """Starts threads, and notes them."""

    def start(job, name):
        threads.append(threading.Thread(target=job, name=name, daemon=True))
        threads[-1].start()
        return True

    return start


def test_where_there_is_no_thread_waiters_poll_and_the_next_one_tries_again():
    made, threads, asked = [], [], []

    def refuse(job, name):
        asked.append(name)
        return False

    listener = Listener(lambda: Refused(made), "n", refuse)
    listener.watch("k", lambda: None)
    listener.watch("k", lambda: None)
    assert asked == ["sansio-cache-listener"] * 2
    assert not listener.is_live
    listener._start_thread = starting(threads)
    listener.watch("k", lambda: None)
    wait_until(lambda: made)
    listener.close(wait=True)
    assert len(threads) == 1


def test_closing_waits_for_the_thread_where_it_is_to():
    made, threads = [], []
    listener = Listener(lambda: Refused(made), "n", starting(threads))
    listener.close(wait=True)  # there is none
    listener = Listener(lambda: Refused(made), "n", starting(threads))
    listener.watch("k", lambda: None)
    wait_until(lambda: made)
    listener.close(wait=True)
    assert listener._has_ended.is_set()


def test_new_waiters_do_not_make_it_try_again_at_once_where_subscribing_is_refused(monkeypatch):
    """Fault 34: each would cost a connection."""
    monkeypatch.setattr(listening, "FIRST_PAUSE_S", LONG_S)
    monkeypatch.setattr(listening, "LONGEST_PAUSE_S", LONG_S)
    made = []
    listener = Listener(lambda: Refused(made), "n", starting(threads := []))

    def is_pausing():
        with listener._lock:
            return len(listener._changed._waiters) == 1

    numbers = [listener.watch("first", lambda: None)]
    wait_until(is_pausing)
    for number in range(200):
        numbers.append(listener.watch(f"k{number}", lambda: None))
        assert is_pausing(), "it was woken"
    assert len(made) == 1
    assert not listener.is_live

    [thread] = threads
    listener.close(wait=True)
    thread.join(GIVE_UP_S)
    assert not thread.is_alive()
    assert len(made) == 1


# Whether it can be relied on.


class Scripted:
    """A connection that answers by a script; `None` is silence for ever."""

    def __init__(self, answers):
        self._answers = answers
        self.sent = []
        self._incoming = queue.SimpleQueue()

    def connect(self):
        pass

    def disconnect(self):
        pass

    def send_command(self, *words):
        self.sent.append(words[0])
        answer = self._answers.get(words[0])
        if answer is not None:
            self._incoming.put(answer)

    def push(self, key):
        self._incoming.put([b"message", b"n:%wake", key])

    def can_read(self, timeout):
        if self._incoming.empty():
            time.sleep(min(timeout, 0.001))
        return not self._incoming.empty()

    def read_response(self, disable_decoding):
        assert disable_decoding
        answer = self._incoming.get(timeout=GIVE_UP_S)
        if isinstance(answer, Exception):
            raise answer
        return answer


WELL = {"PUBLISH": 0, "SUBSCRIBE": [b"subscribe", b"n:%wake", 1], "PING": [b"pong", b""]}
REFUSAL = NoPermissionError("NOPERM")


@contextmanager
def listener_on(*scripts):
    """A listener whose connections answer by these scripts, the last one again and again."""
    connections = [Scripted(answers) for answers in scripts]
    made = []

    def make():
        made.append(connections[min(len(made), len(connections) - 1)])
        return made[-1]

    listener = Listener(make, "n", starting([]))
    try:
        yield listener, made
    finally:
        listener.close(wait=True)


@pytest.mark.parametrize("refused", ["PUBLISH", "SUBSCRIBE"])
def test_a_user_who_may_not_publish_or_subscribe_polls(refused, monkeypatch):
    """A script that stores a value says nothing of the message that it may not send."""
    monkeypatch.setattr(listening, "LONGEST_PAUSE_S", 0.01)
    monkeypatch.setattr(listening, "FIRST_PAUSE_S", 0.01)
    woken = []
    with listener_on(WELL | {refused: REFUSAL}) as (listener, made):
        listener.watch("k", lambda: woken.append(listener.is_live))
        wait_until(lambda: len(made) > 3)
        assert not listener.is_live
    assert True not in woken


def test_a_subscription_that_says_nothing_more_is_left_and_another_is_opened():
    woken = []
    with listener_on(WELL | {"PING": None}, WELL) as (listener, made):
        listener.watch("k", lambda: woken.append(listener.is_live))
        wait_until(lambda: woken[:3] == [True, False, True])
        assert made[0].sent == ["PUBLISH", "SUBSCRIBE", "PING"]
        assert len(made) == 2
        assert listener.is_live


@pytest.mark.parametrize("answer", [[b"pong", b""], REFUSAL, [b"message", b"n:%wake", b"%"]])
def test_whatever_is_heard_is_a_sign_of_life(answer):
    woken = []
    with listener_on(WELL | {"PING": answer}) as (listener, made):
        listener.watch("k", lambda: woken.append(listener.is_live))
        wait_until(lambda: made and made[0].sent.count("PING") > 3)
        made[0].push(b"k")
        wait_until(lambda: len(woken) == 2)
        assert woken == [True, True]
        assert len(made) == 1


def test_a_late_answer_makes_waiters_rely_on_it_again():
    woken = []
    with listener_on(WELL | {"PING": None}) as (listener, made):
        listener.watch("k", lambda: woken.append(listener.is_live))
        wait_until(lambda: woken == [True, False])
        made[0].push(b"another")
        wait_until(lambda: woken[:3] == [True, False, True])


def test_nobody_is_asked_for_a_sign_of_life_where_nobody_waits(monkeypatch):
    monkeypatch.setattr(listening, "IDLE_S", 10 * listening.LOOK_S)
    with listener_on(WELL) as (listener, made):
        number = listener.watch("k", lambda: None)
        wait_until(lambda: listener.is_live)
        listener.unwatch("k", number)
        asked = made[0].sent.count("PING")
        wait_until(lambda: not listener._is_running)
        assert made[0].sent.count("PING") <= asked + 1, "one was under way"
        assert not listener.is_live


@contextmanager
def half_open(server, namespace):
    with FaultProxy("127.0.0.1", server.port) as proxy:
        rule = proxy.on(command("SUBSCRIBE"), HALF_OPEN, times=None)
        yield proxy.url, lambda: rule.fired


@contextmanager
def forbidden_to_publish(server, namespace):
    with closing(server.client()) as client:
        client.execute_command(
            *("ACL", "SETUSER", namespace, "reset", "on", "nopass", "~*", "&*", "+@all", "-publish")
        )
        url = server.url.replace("redis://", f"redis://{namespace}:@")
        yield url, lambda: any(each.name == "sansio-cache-listener" for each in threading.enumerate())
        client.execute_command("ACL", "DELUSER", namespace)


@on_every_runtime
@pytest.mark.parametrize("way", [half_open, forbidden_to_publish], ids=lambda way: way.__name__)
def test_a_waiter_that_would_never_be_told_looks_for_itself(
    runtime, way, redis_server, namespace, monkeypatch
):
    """L4. The fall-back is an hour away, and so is the end of the lease."""
    monkeypatch.setattr(backoff, "FALL_BACK_S", LONG_S)
    loading, may_end = threading.Event(), threading.Event()

    def load():
        loading.set()
        assert may_end.wait(GIVE_UP_S)
        return "loaded"

    async def main(url, is_listening):
        policy = Policy(wait_s=LONG_S, lease_s=LONG_S, max_lease_s=LONG_S)
        with Cache.from_url(url, namespace=namespace, policy=policy, **PATIENT) as other:
            async with opened(runtime, url, namespace, policy=policy, **PATIENT) as cache:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(in_thread, other.get_or_load, "k", load)
                    await eventually(loading.is_set)
                    found = []

                    async def wait():
                        found.append(await cache.get_or_load("k", lambda: "loaded twice"))

                    tasks.start_soon(wait)
                    await eventually(is_listening)
                    may_end.set()
                assert found == ["loaded"]

    with way(redis_server, namespace) as (url, is_listening):
        run_on(runtime, lambda: main(url, is_listening))
