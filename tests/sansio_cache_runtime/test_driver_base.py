"""What drivers of both colours share: what follows, in a process, from what the coordinator decides.

A driver that does nothing at all stands here for the real ones: what it is asked to start, it keeps.
"""

import threading
from contextlib import contextmanager

import pytest
from msgspec.structs import replace

from sansio_cache.budget import StoreTimeouts
from sansio_cache.commands import (
    AcquireLeases,
    Compute,
    LeaseRequest,
    Mode,
    Ping,
    ReadCell,
    Renewal,
    ShareLoad,
    Sleep,
    Watch,
)
from sansio_cache.coordinator import Coordinator
from sansio_cache.entry import MissReason, Servable
from sansio_cache.errors import RecursiveLoadError
from sansio_cache.events import FailureKind, LoadLed, LoadNotShared, LoadShared, SharingTimedOut
from sansio_cache.notices import (
    Ended,
    EntryForeign,
    Hit,
    InvalidationFailed,
    Missed,
    RefreshSkipped,
    RepliesCrossed,
    StoreAnswered,
    StoreGaveUp,
)
from sansio_cache.operations.invalidate import InvalidateRequest, invalidate
from sansio_cache.operations.refresh import refresh
from sansio_cache.single_flight import Following
from sansio_cache.step import Abandoned, Completed, Loaded, Recovered, Step
from sansio_cache_runtime.driver_base import Call, DriverBase
from sansio_cache_runtime.recorder import Recorder
from sansio_cache_runtime.sync.lease_renewer import LeaseRenewer
from support.machines import KEY, TIMEOUTS, load_request, value_cell

HIT = (Hit(KEY), Ended("get", 0.0))
OUTAGE = (StoreGaveUp(FailureKind.CONNECTION),)
SHARE = ShareLoad(KEY, b"int", None, 1.0)
ACQUIRE = AcquireLeases((LeaseRequest(KEY, b"", Mode.KEEP),), b"n" * 8, 1, 1.0)
REFRESH = refresh(load_request(stale_for_s=60), Servable(6, False, value_cell(6, soft_ms=1)), 0.0)


class Backend:
    """What a driver is connected to, as far as the base knows it."""

    listener = None

    def __init__(self):
        self.told = []

    def suspect(self, part):
        self.told.append(("suspect", part))

    def trust(self, part):
        self.told.append(("trust", part))

    def distrust(self, part):
        self.told.append(("distrust", part))


class Idle(DriverBase):
    """Keeps what it is to start; refuses it where there is no room."""

    def __init__(self, *, has_room=True):
        self.backend = Backend()
        self.coordinator = Coordinator()
        self.now_s = 100.0
        self.thread = 0
        super().__init__(
            self.backend,
            self.coordinator,
            Recorder("n"),
            StoreTimeouts(),
            lambda: self.now_s,
            threading.Event,
            lambda: self.thread,
        )
        self.has_room = has_room
        self.heard = []
        self._recorder.subscribers.subscribe(self.heard.append)
        self.refreshes = []
        self.recoveries = []

    def _submit(self, step, call):
        if self.has_room:
            self.refreshes.append((step, call))
        return self.has_room

    def _start_recovery(self, recovery):
        if self.has_room:
            self.recoveries.append(recovery)
        return self.has_room

    def observe(self, step):
        """What a driver does with a step that ends a load."""
        with self._lock:
            ended = self._coordinator.observe(step)
        if ended is not None:
            self._wake(ended)

    def call(self):
        return Call(lambda: None, None)

    def follow(self, *, command=SHARE):
        """A call that follows the load of another, and what it follows."""
        call = self.call()
        following = self._join(command, call)
        assert isinstance(following, Following)
        return call, following

    @property
    def is_empty(self):
        """Whether no load, ticket, ending or watch is left."""
        loads = self.coordinator.single_flight.snapshot()
        return not (loads.loads or loads.current or loads.led or self._endings or self._watches)


def led(driver):
    """A call that leads a load, and the load's number."""
    call = driver.call()
    event = driver._join(SHARE, call)
    assert isinstance(event, LoadLed)
    return call, event.load_id


@contextmanager
def loading(driver):
    """Inside a loader of a cache, as far as its driver is concerned."""
    driver._lease_renewer = LeaseRenewer(lambda: 0.0, None, None, None)
    running = driver._running(Compute(KEY, None))
    try:
        driver._begin(running)
        yield
    finally:
        running.is_over = True
        driver._end_running(running)


def ended(load_id, outcome):
    return Step(REFRESH.state, outcome=outcome, load_id=load_id)


# Loads.


def test_who_finds_its_own_thread_leading_has_waited_too_long_already_and_goes_on_alone():
    driver = Idle()
    driver.thread = 7
    leader, load_id = led(driver)
    nested = driver.call()
    assert driver._join(SHARE, nested) == SharingTimedOut(0.0, load_id, 1)
    again = replace(SHARE, displaced=load_id, arrival=1)
    assert driver._join(again, nested) == SharingTimedOut(0.0, load_id, 1)
    driver._end(nested)

    driver.thread = 8
    driver.follow()
    driver._end(leader)
    assert driver._leaders == {}


def test_who_finds_its_own_thread_in_a_change_shares_nothing_and_spawns_nothing():
    driver = Idle()
    call = driver.call()
    with driver._lock:
        assert driver._join(SHARE, call) == SharingTimedOut(0.0, 0, 0)
        assert driver._join(replace(SHARE, displaced=0), call) == SharingTimedOut(0.0, 0, 0)
        driver._spawn((REFRESH,), None, None)
    assert call.ticket is None
    assert driver.heard == [RefreshSkipped(KEY)]


def test_what_it_states_there_is_heeded_by_whoever_comes_out_of_the_change():
    driver = Idle()
    with driver._lock:
        driver._heed(OUTAGE)
        assert driver.coordinator.must_ask
    assert not driver.coordinator.is_out
    leader, _ = led(driver)
    driver._end(leader)
    assert driver.coordinator.is_out
    assert len(driver.recoveries) == 1


def test_who_comes_first_leads_and_the_others_follow_until_it_has_ended():
    driver = Idle()
    leader, load_id = led(driver)
    followers = [driver.follow() for _ in range(2)]
    assert [call.ending.is_set() for call, _ in followers] == [False, False]

    driver.observe(ended(load_id, Loaded(7, b"7", True)))

    assert [call.ending.is_set() for call, _ in followers] == [True, True]
    assert [driver._leave(each, call) for call, each in followers] == [LoadShared(100.0, b"7", None)] * 2
    for call in (leader, *(call for call, _ in followers)):
        driver._end(call)
    assert driver.is_empty


def test_a_leader_that_is_given_up_wakes_its_followers():
    """Interrupted, or out of a loader that asks for its own key: nobody else would ever end the load."""
    driver = Idle()
    leader, _ = led(driver)
    follower, following = driver.follow()

    driver._end(leader)

    assert follower.ending.is_set()
    assert driver._leave(following, follower) == LoadNotShared(100.0, following.arrival)
    driver._end(leader)
    driver._end(follower)
    assert driver.is_empty


def test_a_follower_that_is_given_up_is_followed_by_nobody():
    driver = Idle()
    leader, load_id = led(driver)
    follower, _ = driver.follow()
    driver._end(follower)
    driver.observe(ended(load_id, Loaded(7, b"7", True)))
    driver._end(leader)
    assert driver.is_empty


def test_a_follower_that_has_waited_for_long_enough_is_told_so():
    driver = Idle()
    leader, load_id = led(driver)
    follower, following = driver.follow()
    assert driver._leave(following, follower) == SharingTimedOut(100.0, load_id, following.arrival)
    driver._end(follower)
    driver._end(leader)
    assert driver.is_empty


def test_followers_of_a_value_that_cannot_be_stored_get_copies():
    driver = Idle()
    leader, load_id = led(driver)
    value = {"a": [1]}
    (mine, my_following), (other, other_following) = driver.follow(), driver.follow()
    driver.observe(ended(load_id, Loaded(value, None, True)))
    copies = [driver._leave(my_following, mine).value, driver._leave(other_following, other).value]
    assert copies == [value, value]
    assert len({id(each["a"]) for each in (value, *copies)}) == 3
    driver._end(leader)
    assert driver.is_empty


def test_a_loader_that_asks_for_its_own_key_is_refused_before_anything_is_taken():
    driver, call = Idle(), Call(None, None)
    with loading(driver), pytest.raises(RecursiveLoadError):
        driver._join(SHARE, call)
    assert call.ticket is None
    assert driver.is_empty
    with loading(Idle()):  # another cache's
        assert isinstance(driver._join(SHARE, call), LoadLed)


@pytest.mark.parametrize("point", ["get", "set"])
def test_an_interrupt_as_followers_are_woken_does_not_lose_them(point):
    """The end of the call, which comes by once more, wakes them."""
    driver = Idle()
    leader, load_id = led(driver)
    follower, _ = driver.follow()

    class Struck(dict):
        def get(self, key):
            if point == "get":
                raise KeyboardInterrupt
            return super().get(key)

        def pop(self, key, default=None):
            if point == "set":
                assert self[key].is_set()
                raise KeyboardInterrupt
            return super().pop(key, default)

    driver._endings = Struck(driver._endings)
    with pytest.raises(KeyboardInterrupt):
        driver.observe(ended(load_id, Loaded(7, b"7", True)))
    driver._endings = dict(driver._endings)
    driver._end(leader)

    assert follower.ending.is_set()


# Watches.


class Listener:
    """Hears whatever a test says."""

    def __init__(self):
        self.watched = {}

    def hears(self, key):
        return True

    def watch(self, key, wake):
        self.watched[len(self.watched)] = wake
        return len(self.watched) - 1

    def unwatch(self, key, number):
        del self.watched[number]


def test_a_call_watches_until_its_end():
    driver, listener = Idle(), Listener()
    driver.backend.listener = listener
    call = driver.call()
    command = Sleep(0.02, Watch((KEY,), 1, 1.0))
    assert driver._watch(command, call, call.wake) == 0.0
    assert driver._watch(command, call, call.wake) == 1.0
    [wake] = listener.watched.values()
    assert not call.change.is_set()
    wake()
    assert call.change.is_set()
    assert len(driver._watches) == 1

    driver._end(call)
    driver._end(call)
    assert not listener.watched
    assert driver.is_empty


# What is spawned.


def test_what_is_spawned_is_run_once_and_ends_with_its_ticket():
    driver = Idle()
    driver._spawn((REFRESH, REFRESH), len, None)
    [(step, call)] = driver.refreshes
    assert call.loader is len
    assert step.load_id is not None
    assert not driver.is_empty

    driver._spawn((REFRESH,), len, None)
    assert len(driver.refreshes) == 1, "it is being refreshed"
    driver._end(call)
    assert driver.is_empty
    driver._spawn((REFRESH,), len, None)
    assert len(driver.refreshes) == 2
    assert not driver.heard


def test_where_there_is_no_room_a_refresh_is_skipped_and_leaves_no_load():
    """Or nobody in this process would ever refresh the key again."""
    driver = Idle(has_room=False)
    driver._spawn((REFRESH,), len, None)
    assert driver.heard == [RefreshSkipped(KEY)]
    assert driver.is_empty

    driver.has_room = True
    driver._spawn((REFRESH,), len, None)
    assert len(driver.refreshes) == 1


def test_an_interrupt_as_a_refresh_is_handed_over_leaves_no_load():
    driver = Idle()

    def strike(*_):
        raise KeyboardInterrupt

    driver._submit = strike
    with pytest.raises(KeyboardInterrupt):
        driver._spawn((REFRESH,), len, None)
    assert driver.is_empty


# The store.


def test_notices_of_an_outage_are_heeded_logged_and_begin_a_recovery(caplog):
    driver = Idle()
    driver._note(OUTAGE)
    driver._note(OUTAGE)
    assert driver.coordinator.is_out
    assert [record.getMessage() for record in caplog.records] == [
        "cache n: the store does not serve (connection); loaders run without it until it does"
    ]
    [recovery] = driver.recoveries
    assert isinstance(recovery.step.command, Sleep)

    driver._note((StoreAnswered(),))
    assert driver._next_recovery(recovery, Recovered()) is None
    driver._give_up(recovery.ticket)
    assert not driver.coordinator.is_out
    driver._note(HIT)
    assert len(driver.recoveries) == 1


def test_a_recovery_that_has_not_helped_goes_on():
    driver = Idle()
    driver._note(OUTAGE)
    [recovery] = driver.recoveries
    again = driver._next_recovery(recovery, Abandoned())
    assert again is not None
    assert again.part == recovery.part


@pytest.mark.parametrize("notices", [HIT, OUTAGE])
def test_a_recovery_that_cannot_be_started_is_tried_again_by_the_next_notice(notices):
    driver = Idle(has_room=False)
    driver._note(OUTAGE)
    driver._note(notices)
    assert not driver.recoveries
    driver.has_room = True
    driver._note(notices)
    assert len(driver.recoveries) == 1


def test_a_recovery_whose_thread_has_been_ended_is_begun_again_by_the_next_notice():
    driver = Idle()
    driver._note(OUTAGE)
    driver._note(HIT)
    [recovery] = driver.recoveries
    driver._give_up(recovery.ticket)  # as a subscriber of it called sys.exit()
    driver._note(HIT)
    assert len(driver.recoveries) == 2


def test_an_interrupt_as_a_recovery_is_begun_leaves_it_to_the_next_notice():
    driver = Idle()
    start = driver._start_recovery

    def strike(*_):
        raise KeyboardInterrupt

    driver._start_recovery = strike
    with pytest.raises(KeyboardInterrupt):
        driver._note(OUTAGE)
    driver._start_recovery = start
    driver._note(HIT)
    assert len(driver.recoveries) == 1


ANYWHERE = Step(REFRESH.state, outcome=Completed())
"""Where an operation may be that holds nothing."""


def neglecting():
    """A driver whose background has ended before the recovery was due."""
    driver = Idle()
    driver._note(OUTAGE)
    driver._give_up(driver.recoveries.pop().ticket)
    driver.now_s += 1.0
    return driver


def test_what_nobody_does_in_the_background_is_done_by_one_caller():
    """As where each call has an event loop of its own, which ends with it."""
    driver = neglecting()
    driver._note(HIT)
    assert not driver.recoveries
    for recovery in driver._neglected(ANYWHERE):
        assert isinstance(recovery.step.command, Ping)
        assert list(driver._neglected(ANYWHERE)) == []
        driver._note((StoreAnswered(),))
        assert driver._next_recovery(recovery, Recovered()) is None
    assert list(driver._neglected(ANYWHERE)) == []
    assert not driver.coordinator.needs_recovery


@pytest.mark.parametrize("notices", [(), (Missed("n:a", MissReason.KEY_CHECK, "x"),)])
def test_an_interrupt_as_a_caller_is_about_to_do_it_leaves_it_to_the_next_one(notices):
    driver = neglecting()
    driver._note(notices)
    todo = driver._neglected(ANYWHERE)
    next(todo)
    todo.close()  # as where the loop over it is left
    assert [part.tickets for part in driver.coordinator.snapshot().parts] == [()]
    driver.now_s += 1.0
    assert len(list(driver._neglected(ANYWHERE))) == 1


@pytest.mark.parametrize("command", [Sleep(0.1), Ping(0.1), Compute(KEY, Renewal((), 1, 1.0, 0.1, 0.1))])
def test_a_caller_who_holds_something_or_is_asking_does_it_later(command):
    driver = neglecting()
    assert list(driver._neglected(Step(REFRESH.state, command))) == []
    assert len(list(driver._neglected(Step(REFRESH.state, Compute(KEY, None))))) == 1


def test_nobody_does_it_inside_a_loader_or_a_subscriber():
    driver = neglecting()
    with loading(Idle()):
        assert list(driver._neglected(ANYWHERE)) == []
    found = []
    driver._recorder.subscribers.subscribe(lambda _: found.append(list(driver._neglected(ANYWHERE))))
    driver._note(HIT)
    assert found == [[], []]
    assert len(list(driver._neglected(ANYWHERE))) == 1


def test_nobody_does_it_for_a_cache_that_is_being_closed():
    driver = neglecting()
    driver._is_closed = True
    assert list(driver._neglected(ANYWHERE)) == []


def test_a_reply_that_was_another_key_s_has_the_connections_to_its_part_closed(caplog):
    driver = Idle()
    driver.coordinator.part_of = {"n:a": "left", "n:b": "right"}.get
    driver._note((Missed("n:b", MissReason.KEY_CHECK, "x"),))
    assert driver.backend.told == [("suspect", "right")]
    assert not caplog.records
    at_a_batch = Step(REFRESH.state, ACQUIRE)
    for look in driver._neglected(at_a_batch):
        assert look.step.command == ReadCell("n:b", 0.25)
        driver._note((RepliesCrossed("n:b"),))
    assert driver.backend.told[1:] == [("distrust", "right")]
    assert len(caplog.records) == 1
    driver._note((Missed("n:b", MissReason.KEY_CHECK, "y"), EntryForeign("n:b", "y")))
    assert driver.backend.told[2:] == [("suspect", "right"), ("trust", "right")]
    driver._note((Missed("n:a", MissReason.ABSENT),))
    assert len(driver.backend.told) == 4
    assert len(caplog.records) == 1


def test_what_could_not_be_removed_is_pending_and_told_later():
    driver = Idle()
    driver._note((InvalidationFailed(("n:a",)),))
    assert driver.coordinator.skip("n:a") is MissReason.BYPASSED
    [recovery] = driver.recoveries
    assert list(recovery.keys) == ["n:a"]


def test_notices_that_are_heeded_twice_do_no_harm(caplog):
    """As where Ctrl-C has struck while they were being heeded."""
    driver = Idle()
    notices = (*OUTAGE, InvalidationFailed(("n:a",)))
    driver._heed(notices)
    before = driver.coordinator.snapshot()
    driver._heed(notices)
    after = driver.coordinator.snapshot()
    assert [replace(part, pending=()) for part in after.parts] == [
        replace(part, pending=()) for part in before.parts
    ]
    assert [key for key, _ in after.parts[0].pending] == ["n:a"]
    assert len(caplog.records) == 1


def test_an_operation_that_goes_on_without_the_store_leaves_its_invalidation_pending():
    driver = Idle()
    driver._go_on_without_store(invalidate(InvalidateRequest(None, ("n:a", "n:b", "n:c"), 1, TIMEOUTS, 0.0)))
    assert driver.coordinator.pending_invalidations == 3
    driver._go_on_without_store(Step(REFRESH.state, outcome=Completed()))


def test_of_what_an_ended_operation_stated_last_an_outage_is_not_heeded_again():
    """It may be over since; an invalidation that was not told is pending all the same."""
    driver = Idle()
    driver._heed_again(Step(REFRESH.state, notices=(*OUTAGE, InvalidationFailed((KEY,)))))
    assert not driver.coordinator.is_out
    assert driver.coordinator.pending_invalidations == 1


def test_no_ending_is_left_where_the_leader_was_interrupted_and_its_follower_was_quicker():
    driver = Idle()
    leader, load_id = led(driver)
    follower, following = driver.follow()

    class Struck(dict):
        def pop(self, key, default=None):
            raise KeyboardInterrupt

    driver._endings = Struck(driver._endings)
    with pytest.raises(KeyboardInterrupt):
        driver.observe(ended(load_id, Loaded(7, b"7", True)))
    driver._endings = dict(driver._endings)
    assert driver._leave(following, follower).payload == b"7"
    driver._end(follower)
    driver._end(leader)
    assert driver.is_empty
