"""`sansio_cache.codecs.compressed`: smaller where it pays, and no bomb."""

from __future__ import annotations

import sys
import types
import uuid
import zlib

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sansio_cache.codec import codec_for
from sansio_cache.codecs import PYTHON, RAW, Compressed, JsonCodec, Undecodable, ValueCodec
from sansio_cache.errors import ConfigurationError, SerializationError

MAX_BYTES = 10_000
RAW_SMALL = Compressed(RAW, threshold_bytes=10)


@given(st.binary(max_size=500) | st.integers(0, 5000).map(bytes))
def test_whatever_the_payload_it_comes_back(value):
    encoded = codec_for(bytes, MAX_BYTES, form=RAW_SMALL).encode(value)
    assert encoded.value == value
    assert len(encoded.payload) <= len(value) + 1


def test_what_is_small_or_does_not_shrink_is_left_as_it_is():
    assert RAW_SMALL.encode(b"a" * 9) == b"\0" + b"a" * 9
    assert RAW_SMALL.encode(bytes(range(100))) == b"\0" + bytes(range(100))
    assert RAW_SMALL.encode(bytes(1000))[:1] == b"\1"
    assert len(RAW_SMALL.encode(bytes(1000))) < 30


@pytest.mark.parametrize("inner", [JsonCodec(list[int]), JsonCodec(), PYTHON])
def test_any_codec_may_be_within(inner):
    value = list(range(1000))
    codec = codec_for(list[int], MAX_BYTES, form=Compressed(inner))
    assert codec.encode(value).value == value
    assert len(codec.encode(value).payload) < len(inner.encode(value)) / 2


@attrs.define
class Numbered:
    number: int
    token: str = attrs.field(factory=lambda: uuid.uuid4().hex)


def test_what_a_mapping_leaves_out_is_filled_in_once_as_by_the_codec_within():
    codec = codec_for(list[Numbered], MAX_BYTES, form=Compressed(JsonCodec(list[Numbered])))
    encoded = codec.encode([{"number": 7}])
    for _ in range(3):
        assert codec.decode(encoded.payload) == encoded.value


def test_what_the_codec_within_refuses_is_refused_with_its_place():
    codec = codec_for(None, MAX_BYTES, form=Compressed(JsonCodec()))
    with pytest.raises(SerializationError, match=r"value\[0\] is a tuple and would come back as a list"):
        codec.encode([(1,)])


def test_s12_a_kilobyte_that_would_become_a_megabyte_is_a_miss_and_is_not_inflated():
    bomb = b"\1" + zlib.compress(bytes(2**20), 9)
    assert len(bomb) < 1100
    codec = codec_for(bytes, MAX_BYTES, form=RAW_SMALL)
    with pytest.raises(Undecodable, match="too large"):
        codec.decode(bomb)
    assert codec_for(bytes, 2**20, form=RAW_SMALL).decode(bomb) == bytes(2**20)


def test_what_would_be_too_large_once_inflated_is_not_written():
    with pytest.raises(SerializationError, match="too large"):
        codec_for(bytes, MAX_BYTES, form=RAW_SMALL).encode(bytes(MAX_BYTES + 1))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\2abc",
        b"\1",
        b"\1garbage",
        RAW_SMALL.encode(bytes(1000))[:-1],
        RAW_SMALL.encode(bytes(1000)) + b"more",
    ],
)
def test_s12_what_it_has_not_written_is_undecodable(payload):
    with pytest.raises(Undecodable, match="corrupt"):
        codec_for(bytes, MAX_BYTES, form=RAW_SMALL).decode(payload)


class Blunt:
    """A codec of somebody else's, which cannot tell what changes."""

    fingerprint = "blunt 1"

    def encode(self, value):
        return str(value).encode()

    def decode(self, payload, max_bytes):
        assert max_bytes == MAX_BYTES
        return payload.decode()


def test_a_codec_that_cannot_tell_what_changes_is_trusted():
    codec = codec_for(None, MAX_BYTES, form=Compressed(Blunt()))
    assert codec.encode(7).value == "7"


def test_readers_do_not_mind_how_hard_the_writer_tried():
    patient, hasty = Compressed(RAW, level=9), Compressed(RAW, level=1, threshold_bytes=1)
    assert patient.fingerprint == hasty.fingerprint != Compressed(PYTHON).fingerprint
    assert hasty.decode(patient.encode(bytes(2000)), MAX_BYTES) == bytes(2000)


@pytest.mark.parametrize(
    ("arguments", "options", "why"),
    [
        ((bytes,), {}, "takes a codec"),
        (("zlib",), {}, "takes a codec"),
        ((RAW,), {"method": "lzma"}, "'zlib' or 'zstd'"),
        ((RAW,), {"level": 10}, "level=10"),
        ((RAW,), {"level": "high"}, "level='high'"),
        ((RAW,), {"threshold_bytes": -1}, "threshold_bytes"),
        ((RAW,), {"threshold_bytes": "1 kB"}, "threshold_bytes"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments, options, why):
    with pytest.raises(ConfigurationError, match=why):
        Compressed(*arguments, **options)


def test_without_zstd_in_this_python_it_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    with pytest.raises(ConfigurationError, match="method='zlib'"):
        Compressed(RAW, method="zstd")


def test_with_zstd_in_this_python_it_is_used(monkeypatch):
    # A stand-in that has the two names which are used: this Python may be too old for the real one.
    stand_in = types.SimpleNamespace(
        compress=lambda data, level: zlib.compress(data, -1 if level is None else level),
        ZstdDecompressor=zlib.decompressobj,
    )
    monkeypatch.setitem(sys.modules, "compression", types.ModuleType("compression"))
    monkeypatch.setitem(sys.modules, "compression.zstd", stand_in)
    codec = Compressed(RAW, method="zstd")
    assert codec.fingerprint.startswith("zstd ")
    assert codec.decode(codec.encode(bytes(5000)), MAX_BYTES) == bytes(5000)
    with pytest.raises(ConfigurationError, match="level=77"):
        Compressed(RAW, method="zstd", level=77)


def test_it_is_a_codec_and_shows_what_is_within():
    assert isinstance(RAW_SMALL, ValueCodec)
    assert repr(RAW_SMALL) == "Compressed(RAW, method='zlib')"
