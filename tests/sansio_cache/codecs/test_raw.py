"""`sansio_cache.codecs.raw`: bytes, and no others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sansio_cache.codec import codec_for
from sansio_cache.codecs import RAW, Undecodable, ValueCodec
from sansio_cache.errors import SerializationError


class Derived(bytes):
    __slots__ = ()


CODEC = codec_for(bytes, 100, form=RAW)


@given(st.binary(max_size=100))
def test_bytes_are_stored_as_they_are(value):
    encoded = CODEC.encode(value)
    assert encoded.payload == value
    assert CODEC.decode(memoryview(value)) == value
    assert type(CODEC.decode(memoryview(value))) is bytes


@pytest.mark.parametrize("value", ["text", bytearray(b"a"), memoryview(b"a"), None, 1, Derived(b"a")])
def test_what_is_no_bytes_is_refused(value):
    for codec in (CODEC, codec_for(None, 100, form=RAW)):
        with pytest.raises(SerializationError):
            codec.encode(value)


def test_more_than_the_limit_is_neither_written_nor_read():
    with pytest.raises(SerializationError, match="max_value_bytes=100"):
        CODEC.encode(bytes(101))
    with pytest.raises(Undecodable, match="too large"):
        CODEC.decode(bytes(101))


def test_it_is_a_codec_and_shows_its_name():
    assert isinstance(RAW, ValueCodec)
    assert repr(RAW) == "RAW"
