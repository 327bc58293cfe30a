"""When a read may be answered at the first look: that is asked when it begins, of what the process knows."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from sansio_cache import Policy
from sansio_cache.config import CacheConfig
from sansio_cache.coordinator import Coordinator
from sansio_cache.entry import MissReason
from sansio_cache.errors import InvalidKeyError, InvalidTtlError
from sansio_cache.events import FailureKind
from sansio_cache.glance import Glance, GlanceMany
from sansio_cache.keys import Key
from sansio_cache.notices import EntryForeign, InvalidationFailed, Missed, RepliesCrossed, StoreGaveUp
from sansio_cache.step import Step
from sansio_cache_runtime.request_builder import RequestBuilder
from sansio_cache_runtime.subscribers import Subscribers

EARLY = Policy(refresh_at=0.5)


def load(*_: Any) -> int:
    return 7


class Builder:
    """A request builder, and the parts that it asks."""

    def __init__(self, **options):
        config = CacheConfig.from_options(namespace="shop", **options)
        self.coordinator = Coordinator(is_disabled=not config.enabled)
        self.subscribers = Subscribers("shop")
        self.requests = RequestBuilder(config, self.coordinator, hearing=self.subscribers)

    def begin(self, read, key="a", **options):
        """What a read begins with."""
        ttl, tags, policy = (
            options.get(name, default) for name, default in (("ttl", None), ("tags", ()), ("policy", None))
        )
        match read:
            case "get":
                return self.requests.get(key, None)
            case "get_many":
                return self.requests.get_many([key, "z"], None)[1]
            case "get_or_load":
                return self.requests.get_or_load(key, load, None, ttl, tags, policy)
            case _:
                return self.requests.get_or_load_many([key, "z"], load, None, ttl, tags, policy)[1]


READS = ("get", "get_many", "get_or_load", "get_or_load_many")
each_read = pytest.mark.parametrize("read", READS)


@each_read
def test_a_read_begins_with_a_glance(read):
    builder = Builder()
    begun = builder.begin(read)
    assert isinstance(begun, Glance | GlanceMany)
    first = begun.first_step()
    assert first.command == begun.command
    assert (first.outcome, first.notices) == (None, ())


@each_read
def test_what_is_begun_later_has_the_time_of_the_call(read):
    builder = Builder()
    numbers = count(1)
    builder.requests.clock = lambda: float(next(numbers))
    begun = builder.begin(read)
    builder.requests.clock()
    state = begun.first_step().state
    request = getattr(state, "request", None) or state.batch.request.each
    assert request.started_s == begun.started_s == 1.0


@each_read
def test_nobody_looks_first_where_somebody_is_told_of_hits(read):
    builder = Builder()
    end = builder.subscribers.subscribe(print)
    assert isinstance(builder.begin(read), Step)
    end()
    assert not isinstance(builder.begin(read), Step)
    with builder.subscribers.explain():
        assert isinstance(builder.begin(read), Step)
    assert not isinstance(builder.begin(read), Step)


@each_read
def test_who_asks_for_other_notices_only_keeps_nobody_from_looking_first(read):
    builder = Builder()
    builder.subscribers.subscribe(print, frozenset({Missed}))
    assert not isinstance(builder.begin(read), Step)


NOTICES = {
    "an outage": StoreGaveUp(FailureKind.TIMEOUT),
    "an invalidation of the key is pending": InvalidationFailed(("shop:a",)),
    "an invalidation of another key is pending": InvalidationFailed(("shop:b",)),
    "an invalidation of a tag is pending": InvalidationFailed(("shop:%t:x",)),
    "an entry is in doubt": Missed("shop:b", MissReason.KEY_CHECK, "00"),
}


@each_read
@pytest.mark.parametrize("what", NOTICES)
def test_nobody_looks_first_where_the_process_knows_more_than_the_store(read, what):
    builder = Builder()
    builder.coordinator.heed([NOTICES[what]], 1.0)
    assert isinstance(builder.begin(read), Step)


@each_read
def test_nobody_looks_first_while_there_are_notices_to_be_heeded(read):
    builder = Builder()
    builder.coordinator.expect_notices()
    assert isinstance(builder.begin(read), Step)


@each_read
def test_nobody_looks_first_at_a_key_that_is_known_to_be_foreign(read):
    builder = Builder()
    builder.coordinator.heed([Missed("shop:a", MissReason.KEY_CHECK, "00")], 1.0)
    builder.coordinator.heed([EntryForeign("shop:a", "00")], 1.0)
    assert isinstance(builder.begin(read), Step)
    assert not isinstance(builder.begin(read, "b"), Step), "others are not concerned"
    restored = Builder()
    restored.coordinator.restore(builder.coordinator.snapshot())
    assert isinstance(restored.begin(read), Step)
    assert not isinstance(restored.begin(read, "b"), Step)


@each_read
def test_they_look_first_again_once_a_part_that_was_distrusted_has_new_connections(read):
    builder = Builder()
    builder.coordinator.heed([Missed("shop:a", MissReason.KEY_CHECK, "00")], 1.0)
    assert isinstance(builder.begin(read), Step)
    builder.coordinator.heed([RepliesCrossed("shop:a")], 1.0)
    assert not isinstance(builder.begin(read), Step)


@each_read
def test_a_cache_that_is_switched_off_looks_at_nothing(read):
    assert isinstance(Builder(enabled=False).begin(read), Step)


def test_a_read_that_may_have_to_refresh_what_is_fresh_does_not_look_first():
    builder = Builder()
    assert isinstance(builder.begin("get_or_load", policy=EARLY), Step)
    assert isinstance(Builder(policy=EARLY).begin("get_or_load"), Step)
    for read in ("get", "get_many", "get_or_load_many"):  # these refresh nothing
        assert not isinstance(Builder(policy=EARLY).begin(read), Step)


def test_a_read_of_nothing_is_over_at_once():
    requests = Builder().requests
    assert requests.get_many([], None)[1].outcome is not None
    assert requests.get_or_load_many([], load, None, None, (), None)[1].outcome is not None


# What is kept of calls.


def test_a_time_to_live_of_a_call_makes_one_policy():
    builder = Builder()
    for read in ("get_or_load", "get_or_load_many"):
        first, second, third = (builder.begin(read, ttl=ttl).policy for ttl in (300, 300, 300.0))
        assert first is second
        assert first == third == builder.requests.policy.with_ttl(300)
    other = Policy(lease_s=1)
    assert builder.begin("get_or_load", ttl=300, policy=other).policy == other.with_ttl(300)


@pytest.mark.parametrize("ttl", [True, "300", [300], float("nan"), -1])
def test_what_is_no_time_to_live_is_refused_each_time_also_after_one_that_equals_it(ttl):
    builder = Builder()
    builder.begin("get_or_load", ttl=1)
    for _ in range(2):
        with pytest.raises(InvalidTtlError):
            builder.begin("get_or_load", ttl=ttl)


def test_tags_are_found_again_and_told_from_what_equals_them():
    builder = Builder()
    begun = [
        builder.begin("get_or_load", tags=tags).tags for tags in (["x"], ("x",), iter(["x"]), ["x", "x"])
    ]
    assert begun[0] is begun[1]
    assert {each.names for each in begun} == {("t:x",)}
    generation = builder.requests.keys.generation("user")
    assert builder.begin("get_or_load", tags=[generation]).tags.names == ("g:user",)
    assert builder.begin("get_or_load", tags=["g:user"]).tags.names == ("t:g%3Auser",)
    assert builder.begin("get_or_load", tags=[generation, "a"]).tags.names == ("g:user", "t:a")
    assert builder.begin("get_or_load", tags=["g:user", "a"]).tags.names == ("t:g%3Auser", "t:a")


@pytest.mark.parametrize("tags", ["users", b"users", 7, [b"x"], [["x"]], [""]])
def test_what_is_no_tag_is_refused_each_time(tags):
    builder = Builder()
    for _ in range(2):
        with pytest.raises(InvalidKeyError):
            builder.begin("get_or_load", tags=tags)


def test_a_built_key_is_told_from_a_text_that_equals_it():
    builder = Builder()
    key = builder.requests.keys.build("user", 1)
    assert builder.begin("get", key).command.key == "shop:user:1"
    with pytest.raises(InvalidKeyError, match="namespace"):
        builder.begin("get", str(key))
    with pytest.raises(InvalidKeyError):
        builder.begin("get", Key.parse("other:user:1"))
    assert builder.begin("get", key).command.key == "shop:user:1"
