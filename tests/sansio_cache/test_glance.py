"""The glance: it answers what the machine would answer in the same way, and leaves the rest to it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sansio_cache.cell import (
    FOREIGN,
    NO_GRANT,
    Cell,
    Kind,
    format_cell,
    make_grant,
    parse_cell,
)
from sansio_cache.codec import codec_for
from sansio_cache.codecs.value_codec import Undecodable
from sansio_cache.commands import ReadCell, ReadCells
from sansio_cache.entry import BODY_HEADER_BYTES, COPIED_BYTES, TAGS_AT, key_check, seal
from sansio_cache.errors import ProtocolError
from sansio_cache.events import CellRead, CellsRead, FailureKind, StoreFailed
from sansio_cache.glance import NO_NAMED_TAGS, Glance, GlanceMany, named_tags, stamp_of
from sansio_cache.notices import Ended, Hit, OperationName
from sansio_cache.operations.batch import LoadManyRequest
from sansio_cache.operations.get import ReadRequest, get
from sansio_cache.operations.get_many import ReadManyRequest, get_many
from sansio_cache.operations.get_or_load import get_or_load
from sansio_cache.operations.load_many import load_many
from sansio_cache.policy import Policy
from sansio_cache.step import ManyFound, ManyLoaded, ManyRead, Value
from sansio_cache.tags import NO_VERSION, tag_keys
from support.machines import INTS, KEY, TEXTS, THEIRS, TIMEOUTS, load_request

NOW_MS = 1_000
OTHER = "shop:user:2"
KEYS = (KEY, OTHER)
V1, V2, V3 = (make_grant(b"tag-----", us) for us in (1, 2, 3))
PLAIN = codec_for(None, 50)


class Raw:
    """A codec of bytes: also of none."""

    fingerprint = "bytes"

    def encode(self, value: Any) -> bytes:
        return value

    def decode(self, payload: bytes, max_bytes: int) -> Any:
        if payload == b"no":
            raise Undecodable("corrupt")
        return payload


RAW = codec_for(bytes, 30_000, form=Raw())
HOOKED = codec_for(int, 1_000, lambda text: int(text))
CODECS = (INTS, TEXTS, PLAIN, RAW, HOOKED)
PAYLOADS = {
    INTS: (b"7", b"-1"),
    TEXTS: (b'"7"', b'"a"'),
    PLAIN: (b"7", b"[1]"),
    RAW: (b"", b"x"),
    HOOKED: (b"7",),
}
TAGS = ((), ("t:a",), ("t:a", "t:b"), ("t:b", "t:a"))
POLICIES = (Policy(), Policy(stale_for_s=60), Policy(stale_for_s=60, on_wait_timeout="stale"))
READS = ("get", "get_or_load")


def glance_at(read, codec, tags=(), policy=POLICIES[0], kind=Glance):
    """The glance of a read of one key, with the machine that it is made of."""
    if read == "get":
        request = ReadRequest(KEY, codec, TIMEOUTS, 5.0)
        step, operation, tags = get(request), OperationName.GET, ()
    else:
        step = get_or_load(load_request(codec=codec, tags=tags, policy=policy, started_s=5.0))
        operation = OperationName.GET_OR_LOAD
    named = named_tags(tags, tag_keys(KEY, tags)) if tags else NO_NAMED_TAGS
    stamp = key_check(KEY) + stamp_of(codec, named)
    return kind(ReadCell(KEY, 0.25, named.keys), codec, stamp, operation, 5.0, lambda _: step, policy, named)


def glance_at_many(read, codec, tags=(), policy=POLICIES[0], kind=GlanceMany):
    """The same of two keys."""
    if read == "get":
        step = get_many(ReadManyRequest(KEYS, codec, 10, TIMEOUTS, 5.0))
        operation, tags = OperationName.GET_MANY, ()
    else:
        each = load_request(codec=codec, tags=tags, policy=policy, started_s=5.0)
        step, operation = load_many(LoadManyRequest(KEYS, KEYS, 10, each)), OperationName.GET_OR_LOAD_MANY
    named = named_tags(tags, tag_keys(KEY, tags)) if tags else NO_NAMED_TAGS
    checks = tuple(map(key_check, KEYS))
    command = ReadCells(KEYS, 10, 0.25, named.keys)
    return kind(command, codec, checks, operation, 5.0, lambda _: step, KEYS, policy, named)


def is_as_the_machine(glance, event):
    """Whether what a glance says is what its machine says; None where it says nothing."""
    outcome = glance.at(event)
    if outcome is None:
        return None
    try:
        step = glance.first_step().state.receive(event)
    except ProtocolError:
        return False
    keys = (KEY,) if isinstance(event, CellRead) else KEYS
    found = step.outcome
    if isinstance(found, ManyRead | ManyLoaded) and all(isinstance(each, Value) for each in found.values):
        found = ManyFound(tuple(each.value for each in found.values))
    is_alike = repr(found) == repr(outcome)  # of 1 and True as well
    notices = (*map(Hit, keys), Ended(glance.operation, event.now_s - 5.0))
    return is_alike and step.command is None and step.notices == notices and not step.spawn


def mostly(draw, right, *wrong):
    """What is right, as a rule."""
    return right if draw(st.integers(0, 11)) else draw(st.sampled_from(wrong))


def some_bytes(draw, key, codec, names):
    """The bytes of a cell, just right for this reader as a rule, and else wrong in any way."""
    codec = mostly(draw, codec, *CODECS)
    payload = mostly(draw, draw(st.sampled_from(PAYLOADS[codec])), None, b"", b"{", b"no", b"7" * 51)
    versions = tuple((name, mostly(draw, V1, V2)) for name in mostly(draw, names, *TAGS))
    body = seal(mostly(draw, key, "shop:other"), codec, payload, 1.5, versions)
    kind = mostly(draw, Kind.VALUE, Kind.EMPTY, Kind.HOLD)
    soft_ms = mostly(draw, 0, NOW_MS - 1, NOW_MS, NOW_MS + 1, 2**64 - 1)
    raw = format_cell(Cell(kind, draw(st.sampled_from((NO_GRANT, THEIRS))), 0, soft_ms, THEIRS, body))
    match mostly(draw, "whole", "cut", "changed", "longer", "noise"):
        case "cut":
            return raw[: draw(st.integers(0, len(raw)))]
        case "changed":
            at = draw(st.integers(0, len(raw) - 1))
            return raw[:at] + bytes((draw(st.integers(0, 255)),)) + raw[at + 1 :]
        case "longer":
            return raw + draw(st.binary(max_size=60))
        case "noise":
            return draw(st.binary(max_size=120))
    return raw


def something_stored(draw, key, codec, names):
    """The same as stores give it: as it is, or as the cell that it is; or nothing."""
    raw = some_bytes(draw, key, codec, names)
    return mostly(draw, draw(st.sampled_from((raw, parse_cell(raw)))), None, FOREIGN)


def arguments(draw):
    """What a reader asks for, and what he is told beside the cells."""
    read, codec = draw(st.sampled_from(READS)), draw(st.sampled_from(CODECS))
    names = () if read == "get" else draw(st.sampled_from(TAGS))
    versions = tuple(mostly(draw, V1, V2, V3, NO_VERSION, V1[:15], V1 + b"x") for _ in names)
    versions = mostly(draw, versions, (), (V1,), (V1, V1, V1))
    return (
        read,
        codec,
        names,
        draw(st.sampled_from(POLICIES)),
        versions,
        draw(st.sampled_from((None, NOW_MS))),
    )


@st.composite
def readings(draw):
    """A glance at one key, and what it may meet."""
    read, codec, names, policy, versions, server_ms = arguments(draw)
    stored = something_stored(draw, KEY, codec, names)
    return glance_at(read, codec, names, policy), CellRead(5.5, stored, server_ms, versions)


@st.composite
def readings_of_many(draw):
    """The same at two keys."""
    read, codec, names, policy, versions, server_ms = arguments(draw)
    stored = tuple(something_stored(draw, key, codec, names) for key in KEYS)
    stored = mostly(draw, stored, stored[:1])
    return glance_at_many(read, codec, names, policy), CellsRead(5.5, stored, server_ms, versions)


@settings(deadline=None, max_examples=250)
@given(readings())
def test_what_a_glance_answers_the_machine_answers_in_the_same_way(reading):
    glance, event = reading
    assert is_as_the_machine(glance, event) in (None, True)
    either = parse_cell(event.stored) if isinstance(event.stored, bytes) else event.stored
    assert glance.at(event) == glance.at(replace(event, stored=either)), "of bytes, and of the cell"


@settings(deadline=None, max_examples=150)
@given(readings_of_many())
def test_what_a_glance_at_many_answers_the_machine_answers_in_the_same_way(reading):
    glance, event = reading
    assert is_as_the_machine(glance, event) in (None, True)
    assert glance.at(event) == glance.at(replace(event, stored=event.cells))


# What it answers, and what it does not.


def cell(payload=b"7", *, key=KEY, codec=INTS, tags=(), soft_ms=0, kind=Kind.VALUE):
    """A cell that holds a payload."""
    return Cell(kind, NO_GRANT, 0, soft_ms, THEIRS, seal(key, codec, payload, 0.0, tags))


BOTH = pytest.mark.parametrize("as_stored", [format_cell, lambda each: each], ids=["bytes", "cells"])
TAGGED = (("t:a", V1), ("t:b", V2))

HITS = [
    (cell(), NOW_MS, ()),
    (cell(), None, ()),
    (cell(soft_ms=NOW_MS + 1), NOW_MS, ()),
    (cell(tags=TAGGED[:1]), NOW_MS, (V1,)),
    (cell(tags=TAGGED), NOW_MS, (V1, V2)),
]
OTHERS = {
    "an expired value": (cell(soft_ms=NOW_MS), NOW_MS, ()),
    "a value that expires, where the clock is not known": (cell(soft_ms=NOW_MS + 1), None, ()),
    "a value with a tag that was invalidated": (cell(tags=TAGGED[:1]), NOW_MS, (V2,)),
    "a value with a tag that has no version": (cell(tags=TAGGED[:1]), NOW_MS, (NO_VERSION,)),
    "a value with its tags in another order": (cell(tags=TAGGED[::-1]), NOW_MS, (V1, V2)),
    "a value without the tag that is named": (cell(), NOW_MS, (V1,)),
    "a value with a tag that is not named": (cell(tags=TAGGED), NOW_MS, (V1,)),
    "a value of another type": (cell(b'"7"', codec=TEXTS), NOW_MS, ()),
    "a value of another type that would do": (cell(b"7", codec=PLAIN), NOW_MS, ()),
    "a value of another key": (cell(key=OTHER), NOW_MS, ()),
    "a value that is corrupt": (cell(b"{"), NOW_MS, ()),
    "a value that is too large": (cell(b" " * 1_001 + b"7"), NOW_MS, ()),
    "the answer that there is nothing": (cell(None), NOW_MS, ()),
    "a lease": (Cell(Kind.EMPTY, THEIRS, NOW_MS + 1), NOW_MS, ()),
    "a hold": (cell(kind=Kind.HOLD), NOW_MS, ()),
    "a version too few": (cell(tags=TAGGED), NOW_MS, (V1,)),
}


def named(versions):
    """The tags that a reader names who is given these versions."""
    return ("t:a", "t:b")[: len(versions)]


@BOTH
@pytest.mark.parametrize(("found", "server_ms", "versions"), HITS)
def test_a_plain_hit_is_answered(found, server_ms, versions, as_stored):
    stored = as_stored(found)
    event = CellRead(5.5, stored, server_ms, versions)
    assert glance_at("get_or_load", INTS, named(versions)).at(event) == Value(7)
    other = as_stored(cell(b"8", key=OTHER, tags=TAGGED[: len(versions)]))
    both = CellsRead(5.5, (stored, other), server_ms, versions)
    assert glance_at_many("get_or_load", INTS, named(versions)).at(both) == ManyFound((7, 8))


@BOTH
@pytest.mark.parametrize("what", OTHERS)
def test_everything_else_is_left_to_the_machine(what, as_stored):
    found, server_ms, versions = OTHERS[what]
    tags = ("t:a", "t:b") if what == "a version too few" else named(versions)
    stored = as_stored(found)
    assert glance_at("get_or_load", INTS, tags).at(CellRead(5.5, stored, server_ms, versions)) is None
    good = as_stored(cell(b"8", key=OTHER, tags=TAGGED[: len(versions)]))
    both = CellsRead(5.5, (stored, good), server_ms, versions)
    assert glance_at_many("get_or_load", INTS, tags).at(both) is None


@pytest.mark.parametrize("stored", [None, FOREIGN, b"", b"\xc5\x01", b"x" * 100])
def test_what_is_no_cell_is_left_to_the_machine(stored):
    assert glance_at("get", INTS).at(CellRead(5.5, stored, NOW_MS)) is None
    good = format_cell(cell(b"8", key=OTHER))
    assert glance_at_many("get", INTS).at(CellsRead(5.5, (stored, good), NOW_MS)) is None


def test_a_failure_and_another_number_of_cells_are_left_to_the_machine():
    failed = StoreFailed(5.5, FailureKind.TIMEOUT)
    assert glance_at("get", INTS).at(failed) is None
    assert glance_at_many("get", INTS).at(failed) is None
    assert glance_at_many("get", INTS).at(CellsRead(5.5, (format_cell(cell()),), NOW_MS)) is None


@BOTH
@pytest.mark.parametrize("missing", range(1, 5))
def test_an_entry_whose_header_is_cut_is_no_value_even_to_a_codec_that_takes_nothing_for_one(
    missing, as_stored
):
    whole = cell(b"", codec=RAW)
    cut = replace(whole, body=whole.body[:-missing])
    event = CellRead(5.5, as_stored(cut), NOW_MS)
    glance = glance_at("get", RAW)
    assert glance.at(CellRead(5.5, as_stored(whole), NOW_MS)) == Value(b"")
    assert glance.at(event) is None
    assert glance.first_step().state.receive(event).outcome != Value(b"")


@BOTH
def test_a_large_payload_is_decoded_where_it_lies(as_stored):
    large = b"x" * COPIED_BYTES
    event = CellRead(5.5, as_stored(cell(large, codec=RAW)), NOW_MS)
    assert glance_at("get", RAW).at(event) == Value(large)
    many = CellsRead(
        5.5, (as_stored(cell(large, codec=RAW)), as_stored(cell(b"", key=OTHER, codec=RAW))), NOW_MS
    )
    assert glance_at_many("get", RAW).at(many) == ManyFound((large, b""))


@pytest.mark.parametrize("tags", TAGS)
@pytest.mark.parametrize("read", READS)
def test_a_glance_asks_for_what_its_machine_asks_for(read, tags):
    one, many = glance_at(read, INTS, tags), glance_at_many(read, INTS, tags)
    assert one.command == one.first_step().command
    assert many.command == many.first_step().command


# The comparison finds whatever a glance may forget.


class BlindToExpiry(Glance):
    def at(self, event):
        return super().at(replace(event, stored=replace(event.cell, soft_ms=0)))


class BlindToTags(Glance):
    def at(self, event):
        body = event.cell.body
        versions = tuple(
            body[at : at + 16] for at in itertools.islice(itertools.count(22, 21), body[TAGS_AT])
        )
        return super().at(replace(event, versions=versions))


class BlindToSchema(Glance):
    def at(self, event):
        body = event.cell.body
        own = body[:8] + self.stamp[8:] + body[18:]
        return super().at(replace(event, stored=replace(event.cell, body=own)))


class BlindToKeys(Glance):
    def at(self, event):
        body = self.stamp[:8] + event.cell.body[8:]
        return super().at(replace(event, stored=replace(event.cell, body=body)))


class BlindToKinds(Glance):
    def at(self, event):
        return super().at(replace(event, stored=replace(event.cell, kind=Kind.VALUE)))


class BlindToTheClock(Glance):
    def at(self, event):
        return super().at(replace(event, server_ms=event.server_ms or 0))


class BlindToSizes(Glance):
    def at(self, event):
        body = event.cell.body
        large = body[:BODY_HEADER_BYTES] + body[BODY_HEADER_BYTES:].strip()
        return super().at(replace(event, stored=replace(event.cell, body=large)))


@pytest.mark.parametrize(
    ("blind", "what"),
    [
        (BlindToExpiry, "an expired value"),
        (BlindToTags, "a value with a tag that was invalidated"),
        (BlindToSchema, "a value of another type that would do"),
        (BlindToKeys, "a value of another key"),
        (BlindToKinds, "a hold"),
        (BlindToTheClock, "a value that expires, where the clock is not known"),
        (BlindToSizes, "a value that is too large"),
    ],
)
def test_a_glance_that_forgets_something_is_told_from_the_machine(blind, what):
    found, server_ms, versions = OTHERS[what]
    event = CellRead(5.5, format_cell(found), server_ms, versions)
    assert is_as_the_machine(glance_at("get_or_load", INTS, named(versions)), event) is None
    assert is_as_the_machine(glance_at("get_or_load", INTS, named(versions), kind=blind), event) is False
