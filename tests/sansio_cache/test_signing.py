"""Signatures, byte by byte: what is not as it was signed is not served, whatever it is."""

from __future__ import annotations

import hashlib
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sansio_cache import CacheConfig, ConfigurationError, Policy, signing
from sansio_cache.cell import FOREIGN, HEADER_BYTES, NO_GRANT, Cell, Kind, format_cell, make_grant, parse_cell
from sansio_cache.codec import codec_for
from sansio_cache.codecs import RAW
from sansio_cache.commands import ReadCell, ReadCells
from sansio_cache.entry import (
    BODY_HEADER_BYTES,
    MissReason,
    Servable,
    Unchecked,
    Unservable,
    examine,
    key_check,
    longest_life_ms,
    seal,
    seal_instead,
    weigh,
)
from sansio_cache.events import CellRead, CellsRead, FailureKind, StoreFailed
from sansio_cache.glance import glances
from sansio_cache.notices import OperationName
from sansio_cache.signing import SIGNATURE_BYTES, Signer, own_secrets
from sansio_cache.step import ManyFound
from sansio_cache.tags import VARIANT_OF
from support.machines import KEY, SIGNED, value_cell

NEW, OLD = b"a key of 16 bytes", b"an older key, too"
FILLED_MS = 1_700_000_000_000
GRANT = make_grant(b"nonce-01", FILLED_MS * 1000)
TAGS = (("t:users", b"v" * 16), (VARIANT_OF, b"w" * 16))


def signed_cell(value=7, *, key=KEY, codec=SIGNED, grant=GRANT, tags=(), hard_ttl_ms=60_000, soft_ms=0):
    payload = None if value is None else codec.encode(value).payload
    body = seal(key, codec, payload, 0.5, tags, grant, hard_ttl_ms)
    return Cell(Kind.VALUE, NO_GRANT, 0, soft_ms, grant, body)


def reason(cell, *, key=KEY, codec=SIGNED, at_ms=FILLED_MS, tags=()):
    verdict = examine(cell, key, codec, at_ms, tags)
    told = weigh(cell, key, at_ms, tags, codec.signer)
    if isinstance(verdict, Unservable):
        assert isinstance(told, Unservable)
        return verdict.reason
    return verdict.value if isinstance(verdict, Servable) else None


def test_a_signature_is_the_one_that_the_module_describes():
    cell = signed_cell(tags=TAGS)
    head_bytes = BODY_HEADER_BYTES + (16 + 2 + len("t:users")) + (16 + 2)
    head, block, payload = (
        cell.body[:head_bytes],
        cell.body[head_bytes : head_bytes + SIGNATURE_BYTES],
        cell.body[head_bytes + SIGNATURE_BYTES :],
    )

    def mac(message: bytes) -> bytes:  # RFC 2104, by hand
        key = NEW.ljust(64, b"\0")
        inner = hashlib.sha256(bytes(each ^ 0x36 for each in key) + message).digest()
        return hashlib.sha256(bytes(each ^ 0x5C for each in key) + inner).digest()

    assert payload == b"7"
    assert block[:4] == mac(b"sansio-cache key id")[:4]
    assert int.from_bytes(block[4:8]) == 66  # 60 s, half a second of loading, 5 s that a fill may be late
    said = b"sansio-cache signed entry 1\0\xc5" + GRANT + len(KEY).to_bytes(4) + KEY.encode()
    assert block[8:] == mac(said + head + block[:8] + payload)[:16]


def test_a_header_is_no_longer_than_the_design_allows():
    assert HEADER_BYTES + BODY_HEADER_BYTES + SIGNATURE_BYTES == 96


@pytest.mark.parametrize("value", [7, None], ids=["a value", "known to be nothing"])
@pytest.mark.parametrize("tags", [(), TAGS], ids=["without tags", "with tags"])
def test_what_is_signed_is_served(value, tags):
    verdict = examine(signed_cell(value, tags=tags), KEY, SIGNED, FILLED_MS, tags)
    assert isinstance(verdict, Servable)
    assert (verdict.value, verdict.is_absent, verdict.fresh) == (value, value is None, True)


@pytest.mark.parametrize("value", [7, None], ids=["a value", "known to be nothing"])
@pytest.mark.parametrize("tags", [(), TAGS], ids=["without tags", "with tags"])
def test_no_bit_of_an_entry_can_be_another(value, tags):
    """Magic, kind, lease and soft expiry are the store's: scripts edit them."""
    raw = format_cell(signed_cell(value, tags=tags))
    covered = [*range(34, HEADER_BYTES), *range(HEADER_BYTES, len(raw))]
    for place in covered:
        for bit in range(8):
            forged = bytearray(raw)
            forged[place] ^= 1 << bit
            found = reason(parse_cell(bytes(forged)), tags=tags)
            assert found in (MissReason.SIGNATURE, MissReason.KEY_CHECK), (place, bit)


@given(data=st.binary(max_size=120))
def test_no_bytes_are_served_that_nobody_signed(data):
    for body in (data, key_check(KEY) + data, key_check(KEY) + SIGNED.stamp + data):
        cell = Cell(Kind.VALUE, filled_by=GRANT, body=body)
        found = reason(cell)
        assert found in (MissReason.SIGNATURE, MissReason.KEY_CHECK, MissReason.CORRUPT)


def test_an_entry_that_was_cut_short_is_a_miss_at_every_length():
    whole = signed_cell(tags=TAGS)
    for length in range(len(whole.body)):
        found = reason(replace(whole, body=whole.body[:length]), tags=TAGS)
        assert found in (MissReason.SIGNATURE, MissReason.CORRUPT, MissReason.KEY_CHECK)
    assert reason(replace(whole, body=whole.body + b" "), tags=TAGS) is MissReason.SIGNATURE


def test_an_entry_under_another_name_is_a_miss():
    cell = signed_cell()
    assert reason(cell, key="shop:user:2") is MissReason.KEY_CHECK
    renamed = replace(cell, body=key_check("shop:user:2") + cell.body[8:])
    assert reason(renamed, key="shop:user:2") is MissReason.SIGNATURE


def test_an_entry_of_another_fill_is_a_miss():
    later = make_grant(b"nonce-01", FILLED_MS * 1000 + 1)
    assert reason(replace(signed_cell(), filled_by=later)) is MissReason.SIGNATURE


def test_tags_cannot_be_moved_between_entries_nor_into_a_payload():
    tagged = signed_cell(tags=TAGS)
    without = tagged.body[:17] + b"\0" + tagged.body[18:]
    assert reason(replace(tagged, body=without)) is MissReason.SIGNATURE
    other = signed_cell(tags=(("t:users", b"x" * 16),))
    assert reason(other, tags=(("t:users", b"v" * 16),)) is MissReason.TAG


def test_a_forged_entry_has_nobody_ask_for_its_tags():
    tagged = signed_cell(tags=TAGS)
    assert isinstance(examine(tagged, KEY, SIGNED, FILLED_MS), Unchecked)
    assert isinstance(weigh(tagged, KEY, FILLED_MS, (), SIGNED.signer), Unchecked)
    forged = replace(tagged, body=tagged.body[:-1] + b"8")
    assert reason(forged) is MissReason.SIGNATURE


def test_what_is_not_signed_is_a_miss():
    assert reason(value_cell(7)) is MissReason.SIGNATURE
    raw = codec_for(bytes, 1_000, form=RAW, signer=SIGNED.signer)
    plain = codec_for(bytes, 1_000, form=RAW)
    body = seal(KEY, plain, b"forged", 0.0)
    for forged in (body, body[:8] + raw.stamp + body[18:]):
        assert reason(replace(signed_cell(), body=forged), codec=raw) is MissReason.SIGNATURE


def test_one_who_signs_nothing_takes_no_signature_for_a_value():
    raw = codec_for(bytes, 1_000, form=RAW, signer=SIGNED.signer)
    cell = signed_cell(b"page", codec=raw)
    verdict = examine(cell, KEY, codec_for(bytes, 1_000, form=RAW), FILLED_MS)
    assert isinstance(verdict, Unservable)
    assert verdict.reason is MissReason.SCHEMA


def test_a_migration_is_given_only_what_is_signed():
    given_to_it: list[Any] = []

    def hook(older):
        given_to_it.append(older)
        return older["n"]

    codec = codec_for(int, 1_000, hook, signer=SIGNED.signer)
    older = codec_for(dict[str, int], 1_000, signer=SIGNED.signer)
    forged = replace(signed_cell(), body=seal(KEY, codec_for(dict[str, int], 1_000), b'{"n":7}', 0.0))
    assert reason(forged, codec=codec) is MissReason.SIGNATURE
    assert given_to_it == []
    assert reason(signed_cell({"n": 7}, codec=older), codec=codec) == 7
    assert given_to_it == [{"n": 7}]


def test_an_entry_is_a_miss_past_its_longest_life():
    cell = signed_cell(hard_ttl_ms=100_000)
    life_ms = longest_life_ms(cell)
    assert life_ms == 106_000  # its own, half a second of loading, 5 s that a fill may be late; whole seconds
    assert reason(cell, at_ms=FILLED_MS + life_ms) == 7
    assert reason(cell, at_ms=FILLED_MS + life_ms + 1) is MissReason.SIGNATURE
    assert longest_life_ms(signed_cell(hard_ttl_ms=1_000)) == 60_000  # as it may be touched


def test_without_the_clock_of_the_store_nothing_that_is_signed_is_fresh():
    verdict = examine(signed_cell(), KEY, SIGNED, None)
    assert isinstance(verdict, Servable)
    assert not verdict.fresh
    told = weigh(signed_cell(), KEY, None, (), SIGNED.signer)
    assert isinstance(told, Servable)
    assert not told.fresh


def test_the_first_key_signs_and_all_of_them_verify():
    def codec(*secrets):
        return codec_for(int, 1_000, signer=Signer(secrets, 60_000, 5_000))

    old, both, new_first, new = codec(OLD), codec(OLD, NEW), codec(NEW, OLD), codec(NEW)
    by_old, by_new = signed_cell(codec=both), signed_cell(codec=new_first)
    assert by_old.body == signed_cell(codec=old).body
    assert by_new.body == signed_cell(codec=new).body
    readers = [reason(cell, codec=each) for cell in (by_old, by_new) for each in (old, both, new_first, new)]
    assert readers == [7, 7, 7, MissReason.SIGNATURE, MissReason.SIGNATURE, 7, 7, 7]


def test_an_id_of_a_key_does_not_make_another_key_good():
    theirs = codec_for(int, 1_000, signer=Signer((b"somebody else's key",), 60_000, 5_000))
    cell = signed_cell(codec=theirs)
    ours = signed_cell().body[BODY_HEADER_BYTES : BODY_HEADER_BYTES + 4]
    at = BODY_HEADER_BYTES
    assert reason(replace(cell, body=cell.body[:at] + ours + cell.body[at + 4 :])) is MissReason.SIGNATURE


def test_signatures_are_compared_in_constant_time(monkeypatch):
    compared = []

    def compare_digest(one, other):
        compared.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr(signing.hmac, "compare_digest", compare_digest)
    assert reason(signed_cell()) == 7
    assert compared == [(16, 16), (16, 16)]


def test_what_takes_the_place_of_an_entry_is_signed_with_its_tags():
    old, grant = signed_cell(tags=TAGS, hard_ttl_ms=500_000), make_grant(b"nonce-02", FILLED_MS * 1000 + 5)
    for ttl_ms, life_ms in ((0, longest_life_ms(old)), (200_000, 205_000)):
        body = seal_instead(old, KEY, SIGNED, b"8", grant, ttl_ms)
        assert body[17] == 0
        tags_end = len(old.body) - SIGNATURE_BYTES - 1
        spliced = body[:17] + old.body[17:18] + body[18:22] + old.body[22:tags_end] + body[22:]
        cell = Cell(Kind.VALUE, filled_by=grant, body=spliced)
        assert reason(cell, tags=TAGS) == 8
        assert longest_life_ms(cell) == life_ms


def test_a_glance_at_no_cell_is_left_to_the_machine():
    one, many = glances(are_signed=True)
    failed, name = StoreFailed(0.0, FailureKind.TIMEOUT), OperationName.GET

    def begin(_):
        raise AssertionError

    check = key_check(KEY)
    at_one = one(ReadCell(KEY, 1.0), SIGNED, check + SIGNED.stamp, name, 0.0, begin)
    at_many = many(ReadCells((KEY,), 1, 1.0), SIGNED, (check,), name, 0.0, begin)
    assert at_one.at(failed) is None
    assert at_many.at(failed) is None
    read = CellsRead(0.0, (format_cell(signed_cell()),), FILLED_MS)
    assert at_many.at(read) == ManyFound((7,))
    assert at_many.at(replace(read, stored=read.stored * 2)) is None
    for stored in (None, b"", b"\xc5", FOREIGN):
        assert at_one.at(CellRead(0.0, stored, FILLED_MS)) is None
        assert at_many.at(replace(read, stored=(stored,))) is None


def test_no_life_is_too_long_to_be_written():
    assert SIGNED.signer is not None
    assert SIGNED.signer.life_s(10**15) == 2**32 - 1


def test_keys_are_texts_or_bytes_and_long_enough():
    assert own_secrets(["a text of 16 byte", NEW]) == (b"a text of 16 byte", NEW)
    assert CacheConfig(namespace="shop").signer is None
    config = CacheConfig(namespace="shop", signing_keys=[NEW], policy=Policy(max_life_s=7, max_lease_s=60))
    assert config.signer == Signer((NEW,), 7_000, 60_000)
    assert attrs.evolve(config, enabled=False).signing_keys == (NEW,)


@pytest.mark.parametrize(
    ("given_keys", "said"),
    [
        ("only one key, and no list", r"list of keys.*got str"),
        (b"only one key, and no list", r"list of keys.*got bytes"),
        (5, r"list of keys.*got int"),
        ([NEW, 5], r"bytes or a text; number 2 is int"),
        ([NEW, "too short"], r"number 2 has 9 bytes.*token_urlsafe"),
        ([NEW, OLD, NEW], "two of the signing keys are the same"),
    ],
)
def test_keys_that_are_none_are_refused_and_not_shown(given_keys, said):
    with pytest.raises(ConfigurationError, match=said) as caught:
        CacheConfig(namespace="shop", signing_keys=given_keys)
    assert "too short" not in str(caught.value)
    assert NEW.decode() not in str(caught.value)


def test_no_text_shows_a_key():
    config = CacheConfig(namespace="shop", signing_keys=[NEW])
    assert NEW.decode() not in f"{config!r} {config.signer!r} {SIGNED!r}"
    with pytest.raises(ConfigurationError, match="SANSIO_CACHE_SIGNING_KEYS") as caught:
        CacheConfig.from_env(
            {"SANSIO_CACHE_NAMESPACE": "shop", "SANSIO_CACHE_SIGNING_KEYS": f"{NEW.decode()},short"}
        )
    assert NEW.decode() not in str(caught.value)
    assert "short" not in str(caught.value).replace("which", "")
