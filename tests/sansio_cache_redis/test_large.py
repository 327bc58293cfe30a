"""Large values: what is remembered of them, and for how long they are left alone."""

import pytest

from sansio_cache_redis.calls import EVALSHA
from sansio_cache_redis.connections.large import LargeValues
from sansio_cache_redis.connections.unfinished import BULK_BYTES
from sansio_cache_redis.errors import OverloadedError


def test_what_is_large_is_remembered_and_bounded():
    large = LargeValues()
    assert not large.knows([(b"GET", b"k0")])
    for number in range(500):
        large.remember((b"GET", b"k%d" % number))
    large.remember((EVALSHA, b"sha", b"1", b"acquired", b"x"))
    large.remember((EVALSHA, b"sha", b"2", b"one", b"another", b"x"))
    large.remember((b"MGET", b"one", b"another"))
    assert len(large.keys) == 128
    assert large.knows([(b"GET", b"k499")])
    assert large.knows([(b"PING",), (b"MGET", b"x", b"acquired")])
    assert not large.knows([(b"GET", b"k0"), (b"GET", b"one")])


def test_what_is_seen_again_is_the_latest():
    large = LargeValues()
    for number in range(128):
        large.remember((b"GET", b"k%d" % number))
    large.remember((b"GET", b"k0"))
    large.remember((b"GET", b"new"))
    assert large.knows([(b"GET", b"k0")])
    assert not large.knows([(b"GET", b"k1")])


def test_a_value_that_did_not_come_in_time_is_not_read_for_a_while():
    large = LargeValues()
    large.remember((b"GET", b"k"), 5.0)
    with pytest.raises(OverloadedError):
        large.refuse_resting([(b"GET", b"k")], 4.9)
    large.refuse_resting([(b"GET", b"k")], 5.0)
    large.refuse_resting([(b"GET", b"another")], 4.9)
    large.refuse_resting([(b"SET", b"k", b"value")], 4.9)


def test_what_carries_much_is_large():
    large = LargeValues()
    assert large.are_large([(b"SET", b"k", bytes(BULK_BYTES))])
    assert not large.are_large([(b"SET", b"k", bytes(1000))])
    assert not large.are_large([(b"MGET", *[bytes(1000)] * 1000)])
    assert not large.are_large([(b"GET", bytes(1000))] * 1000)
    assert large.are_large([(b"ASKING",), (b"SET", b"k", bytes(BULK_BYTES))])
    large.remember((b"GET", b"k"))
    assert large.are_large([(b"SET", b"k", bytes(1000))])
