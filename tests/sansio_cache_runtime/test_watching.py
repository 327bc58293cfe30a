"""Watching: watch, look again, wait; and nothing is watched by whoever has gone."""

import pytest

from sansio_cache.commands import Sleep, Watch
from sansio_cache_runtime.watching import Watch as Watching


class Listener:
    """A listener that remembers who watches what."""

    def __init__(self, *, deaf_to=()):
        self.deaf_to = set(deaf_to)
        self.watched = {}
        self.asked = []

    def watch(self, key, wake):
        self.asked.append(key)
        self.watched[len(self.asked)] = (key, wake)
        return len(self.asked)

    def hears(self, key):
        return key not in self.deaf_to

    def unwatch(self, key, number):
        assert self.watched.pop(number)[0] == key


def sleep(*keys, duration_s=0.02, longest_s=1.0):
    return Sleep(duration_s, Watch(keys, 1, longest_s) if keys else None)


def test_the_first_sleep_over_a_key_ends_at_once_and_the_next_is_long():
    """What happened before the watch stood has to be looked for."""
    listener = Listener()
    watching = Watching(listener, lambda: None)
    assert watching.longest_s(sleep("a")) == 0.0
    assert watching.longest_s(sleep("a")) == 1.0
    assert watching.longest_s(sleep("a", "b")) == 0.0
    assert watching.longest_s(sleep("a", "b")) == 1.0
    assert watching.longest_s(sleep("b")) == 1.0
    assert listener.asked == ["a", "b"], "each is watched once"


def test_while_one_of_its_keys_is_not_heard_a_waiter_polls():
    listener = Listener(deaf_to="b")
    watching = Watching(listener, lambda: None)
    assert [watching.longest_s(sleep("a", "b")) for _ in range(3)] == [0.02] * 3
    assert watching.longest_s(sleep("a")) == 1.0, "of this one it will be told"
    listener.deaf_to.clear()
    assert watching.longest_s(sleep("a", "b")) == 1.0


@pytest.mark.parametrize(
    ("listener", "command"), [(None, sleep("a")), (Listener(), sleep()), (None, sleep())]
)
def test_where_there_is_nothing_to_listen_to_a_sleep_is_a_sleep(listener, command):
    watching = Watching(listener, lambda: None)
    assert watching.longest_s(command) == 0.02
    watching.stop()


def test_stopping_ends_every_watch_and_once_more_does_no_harm():
    listener = Listener()
    watching = Watching(listener, lambda: None)
    watching.longest_s(sleep("a", "b", "c"))
    assert len(listener.watched) == 3
    watching.stop()
    watching.stop()
    assert not listener.watched


def test_an_interrupt_between_two_keys_leaves_none_watched():
    listener = Listener()
    watch = listener.watch

    def interrupt(key, wake):
        if key == "b":
            raise KeyboardInterrupt
        return watch(key, wake)

    listener.watch = interrupt
    watching = Watching(listener, lambda: None)
    with pytest.raises(KeyboardInterrupt):
        watching.longest_s(sleep("a", "b"))
    watching.stop()
    assert not listener.watched


def test_a_change_wakes_whoever_watches():
    listener, woken = Listener(), []
    Watching(listener, lambda: woken.append(1)).longest_s(sleep("a"))
    [(_, wake)] = listener.watched.values()
    wake()
    assert woken == [1]
