"""The entry: what a cell is worth to a reader; bad stored data is a miss with a reason (S12)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sansio_cache.cell import FOREIGN, HEADER_BYTES, NO_GRANT, Cell, Kind, format_cell, make_grant, parse_cell
from sansio_cache.codec import codec_for
from sansio_cache.entry import (
    BODY_HEADER_BYTES,
    MAX_TAGS,
    MissReason,
    Servable,
    Unchecked,
    Unservable,
    copy_of,
    examine,
    is_fresh,
    key_check,
    seal,
    variant_key,
    weigh,
)
from sansio_cache.keys import KeyBuilder
from sansio_cache.tags import NO_VERSION, VARIANT_OF
from support.machines import INTS, KEY, TEXTS, THEIRS, absent_cell, value_cell

PLAIN = codec_for(None, 1_000)
V1, V2, V3 = (make_grant(b"tag-----", us) for us in (1, 2, 3))


def body_cell(body):
    return Cell(Kind.VALUE, filled_by=THEIRS, body=body)


@settings(deadline=None)
@given(st.integers(-(2**63), 2**64 - 1), st.text(min_size=1, max_size=20))
def test_what_was_sealed_for_a_key_is_served_to_its_readers(value, key):
    cell = value_cell(value, key)
    assert examine(cell, key, INTS, None) == Servable(value, True, cell)


def test_the_header_of_an_entry_is_72_bytes_and_each_tag_18_and_its_name():
    raw = format_cell(value_cell(7))
    assert len(raw) == 72 + len(b"7")
    assert HEADER_BYTES + BODY_HEADER_BYTES == 72
    tagged = format_cell(value_cell(7, versions=(("t:a", V1), ("g:äß", V2))))
    assert len(tagged) == len(raw) + 2 * 18 + len(b"t:a") + len("g:äß".encode())


@pytest.mark.parametrize(
    ("soft_ms", "server_ms", "fresh"),
    [(0, None, True), (0, 10**15, True), (500, 499, True), (500, 500, False), (500, None, False)],
)
def test_a_value_is_fresh_up_to_its_soft_expiry_on_the_servers_clock(soft_ms, server_ms, fresh):
    verdict = examine(value_cell(7, soft_ms=soft_ms), KEY, INTS, server_ms)
    assert isinstance(verdict, Servable)
    assert verdict.fresh is fresh
    assert verdict.value == 7


GOOD = value_cell(7).body


@pytest.mark.parametrize(
    ("cell", "reason", "seen"),
    [
        (None, MissReason.ABSENT, NO_GRANT),
        (Cell(Kind.EMPTY, THEIRS), MissReason.ABSENT, NO_GRANT),
        (Cell(Kind.HOLD, THEIRS), MissReason.ABSENT, NO_GRANT),
        (FOREIGN, MissReason.FOREIGN, NO_GRANT),
        (body_cell(b""), MissReason.CORRUPT, THEIRS),
        (body_cell(GOOD[: BODY_HEADER_BYTES - 1]), MissReason.CORRUPT, THEIRS),
        (body_cell(GOOD[:BODY_HEADER_BYTES]), MissReason.CORRUPT, THEIRS),
        (body_cell(GOOD[:BODY_HEADER_BYTES] + b"{"), MissReason.CORRUPT, THEIRS),
        (value_cell(7, "shop:user:2"), MissReason.KEY_CHECK, THEIRS),
        (value_cell("7", codec=TEXTS), MissReason.SCHEMA, THEIRS),
        (body_cell(GOOD[:16] + b"\x00" + GOOD[17:]), MissReason.SCHEMA, THEIRS),
        (body_cell(GOOD[:16] + b"\x03" + GOOD[17:]), MissReason.SCHEMA, THEIRS),
        (body_cell(GOOD[:17] + b"\x01" + GOOD[18:]), MissReason.CORRUPT, THEIRS),
        (body_cell(GOOD[:17] + b"\xff" + GOOD[18:] + bytes(500)), MissReason.CORRUPT, THEIRS),
    ],
)
def test_what_a_reader_may_not_have_has_one_reason_and_names_the_value_it_refuses(cell, reason, seen):
    assert examine(cell, KEY, INTS, 0) == Unservable(reason, seen)


def test_a_value_above_the_readers_limit_is_not_read():
    large = value_cell("a" * 100, codec=TEXTS)
    assert examine(large, KEY, codec_for(str, 50), 0) == Unservable(MissReason.CORRUPT, THEIRS)


@settings(deadline=None)
@given(st.binary(max_size=120), st.booleans())
def test_arbitrary_bytes_in_a_cell_are_a_verdict_and_never_an_exception(noise, is_headed):
    """S12."""
    raw = (format_cell(Cell(Kind.VALUE, filled_by=THEIRS)) if is_headed else b"") + noise
    for versions in ((), (("t:a", V1),)):
        verdict = examine(parse_cell(raw), KEY, INTS, 0, versions)
        assert isinstance(verdict, Servable | Unservable | Unchecked)


@settings(deadline=None)
@given(st.binary(max_size=30))
def test_an_arbitrary_payload_is_a_verdict_and_never_an_exception(payload):
    """S12."""
    for codec in (INTS, TEXTS, codec_for(None, 1_000), codec_for(dict[str, list[int]], 1_000)):
        cell = body_cell(seal(KEY, codec, payload, 0))
        verdict = examine(cell, KEY, codec, 0)
        assert isinstance(verdict, Servable) or verdict == Unservable(MissReason.CORRUPT, THEIRS)


@settings(deadline=None)
@given(st.text(max_size=30), st.text(max_size=30))
def test_every_key_has_a_check_of_its_own(one, other):
    """S9."""
    assert len(key_check(one)) == 8
    assert (key_check(one) == key_check(other)) is (one == other)


@pytest.mark.parametrize(
    ("load_s", "load_ms"), [(0.0, 0), (-1.0, 0), (0.0123, 12), (2.0, 2_000), (1e9, 2**32 - 1)]
)
def test_how_long_the_load_took_is_kept_in_milliseconds(load_s, load_ms):
    assert int.from_bytes(seal(KEY, INTS, b"7", load_s)[18:22], "big") == load_ms


def test_when_it_was_filled_and_how_long_it_took_can_be_read_back():
    found = examine(value_cell(7, filled_by=make_grant(b"theirs-1", 5_000_999), load_s=0.25), KEY, INTS, 0)
    assert (found.filled_ms, found.load_ms) == (5_000, 250)


def test_of_a_servable_value_another_copy_can_be_had():
    codec = codec_for(list[int], 1_000)
    cell = value_cell([6], codec=codec, versions=(("t:a", V1),))
    first, second = copy_of(cell, codec), copy_of(cell, codec)
    assert first == second == [6]
    assert first is not second
    assert copy_of(absent_cell(versions=(("t:a", V1),)), INTS) is None


def test_a_copy_is_migrated_like_the_value_itself_and_there_is_none_if_the_hook_changes_its_mind():
    moods = [True, True, False]

    def hook(older):
        if not moods.pop(0):
            raise ValueError(older)
        return int(older)

    hooked = codec_for(int, 1_000, hook)
    cell = value_cell("7", codec=TEXTS)
    assert examine(cell, KEY, hooked, 0) == Servable(7, True, cell)
    assert copy_of(cell, hooked) == 7
    assert copy_of(cell, hooked) is None


# The answer that there is nothing.


@pytest.mark.parametrize(("soft_ms", "fresh"), [(0, True), (999, False), (1_001, True)])
def test_that_there_is_nothing_is_an_answer_which_is_fresh_for_its_time(soft_ms, fresh):
    cell = absent_cell(soft_ms=soft_ms)
    assert examine(cell, KEY, INTS, 1_000) == Servable(None, fresh, cell, is_absent=True)


def test_that_there_is_nothing_depends_on_tags_like_any_answer():
    """S7."""
    cell = absent_cell(versions=(("t:a", V1),))
    assert examine(cell, KEY, INTS, 0) == Unchecked(("t:a",))
    assert examine(cell, KEY, INTS, 0, (("t:a", V1),)) == Servable(None, True, cell, is_absent=True)
    assert examine(cell, KEY, INTS, 0, (("t:a", V2),)) == Unservable(MissReason.TAG, THEIRS)


def test_it_is_only_an_answer_to_readers_of_its_type():
    assert examine(absent_cell(), KEY, TEXTS, 0) == Unservable(MissReason.SCHEMA, THEIRS)


# Tags (S7).

names = st.sampled_from(["t:a", "t:b", "g:user", VARIANT_OF]) | st.text(max_size=20)
issued = st.sampled_from([V1, V2, V3]) | st.binary(min_size=16, max_size=16)
tagged = st.dictionaries(names, issued, max_size=5)


@settings(deadline=None)
@given(tagged, st.data(), st.sampled_from([INTS, TEXTS]))
def test_an_entry_is_served_only_if_the_readers_tags_are_its_and_all_versions_are_the_current_ones(
    own, data, codec
):
    """S7."""
    value = {INTS: 7, TEXTS: "seven"}[codec]
    cell = value_cell(value, codec=codec, versions=tuple(own.items()))
    # What the reader knows: of the entry's tags some, most of them as they are, and perhaps others.
    current = {
        name: data.draw(st.sampled_from([version, version, V3, NO_VERSION]))
        for name, version in own.items()
        if data.draw(st.booleans())
    }
    current |= data.draw(st.dictionaries(names, issued | st.just(NO_VERSION), max_size=1))
    verdict = examine(cell, KEY, codec, 0, tuple(current.items()))
    if any(own.get(name) != version for name, version in current.items()):
        assert verdict == Unservable(MissReason.TAG, THEIRS)
    elif own.keys() - current.keys():
        assert verdict == Unchecked(tuple(name for name in own if name not in current))
    else:
        assert verdict == Servable(value, True, cell)


@settings(deadline=None)
@given(tagged)
def test_once_the_unknown_tags_are_known_to_hold_the_entry_is_served(own):
    cell = value_cell(7, versions=tuple(own.items()))
    verdict = examine(cell, KEY, INTS, 0)
    wanted = verdict.tags if isinstance(verdict, Unchecked) else ()
    assert wanted == tuple(own)
    current = tuple((name, own[name]) for name in wanted)
    assert examine(cell, KEY, INTS, 0, current) == Servable(7, True, cell)


@settings(deadline=None)
@given(st.lists(names, min_size=1, max_size=3), st.lists(issued, min_size=3, max_size=3))
def test_a_missing_version_equals_none_that_an_entry_has(tags, versions):
    """S7."""
    own = dict(zip(tags, versions, strict=False))
    cell = value_cell(7, versions=tuple(own.items()))
    current = tuple((name, NO_VERSION) for name in own)
    assert examine(cell, KEY, INTS, 0, current) == Unservable(MissReason.TAG, THEIRS)


@settings(deadline=None)
@given(st.integers(0, 255), st.binary(max_size=200), st.sampled_from([1, 2, 9]))
def test_an_arbitrary_tag_section_is_a_verdict_and_never_an_exception(count, noise, kind):
    """S12."""
    body = GOOD[:16] + bytes((kind, count)) + GOOD[18:22] + noise
    for versions in ((), (("t:a", V1),), ((VARIANT_OF, THEIRS),)):
        verdict = examine(body_cell(body), KEY, INTS, 0, versions)
        assert isinstance(verdict, Servable | Unservable | Unchecked)
        if isinstance(verdict, Servable):
            assert len(versions) <= count


@settings(deadline=None)
@given(tagged, st.integers(min_value=0))
def test_a_body_that_is_cut_off_is_corrupt_and_never_served(own, at):
    """S12."""
    body = seal(KEY, TEXTS, b'"seven"', 0.0, tuple(own.items()))
    cut = body[: at % len(body)]
    verdict = examine(body_cell(cut), KEY, TEXTS, 0, tuple(own.items()))
    assert verdict in (Unservable(MissReason.CORRUPT, THEIRS), Unservable(MissReason.TAG, THEIRS))


def test_a_tag_whose_name_is_no_text_is_corrupt():
    """S12."""
    body = GOOD[:17] + b"\x01" + GOOD[18:22] + V1 + b"\x00\x01\xff" + b"7"
    assert examine(body_cell(body), KEY, INTS, 0) == Unservable(MissReason.CORRUPT, THEIRS)


def test_as_many_tags_as_a_caller_may_name_fit_in_beside_an_anchor():
    versions = tuple((f"t:{number}", V1) for number in range(MAX_TAGS))
    cell = value_cell(7, versions=(*versions, (VARIANT_OF, THEIRS)))
    assert examine(cell, KEY, INTS, 0, (*versions, (VARIANT_OF, THEIRS))) == Servable(7, True, cell)


@settings(deadline=None)
@given(st.integers(16_000, 17_000))
def test_large_payloads_are_read_the_same(length):
    cell = value_cell("a" * length, codec=codec_for(str, 20_000), versions=(("t:a", V1),))
    assert examine(cell, KEY, codec_for(str, 20_000), 0, (("t:a", V1),)).value == "a" * length


# Variants of another program version's entry (fault 33).


def test_where_an_entry_is_kept_beside_another_is_internal_and_its_versions_own():
    """S10, S11."""
    place = variant_key("shop:user:1", INTS.fingerprint)
    assert place == f"shop:%s:{INTS.fingerprint.hex()}:user:1"
    assert KeyBuilder("shop").is_internal(place)
    assert place != variant_key("shop:user:1", TEXTS.fingerprint)
    assert place != variant_key("shop:user:2", INTS.fingerprint)
    assert place != variant_key("other:user:1", INTS.fingerprint)


@settings(deadline=None)
@given(issued, issued)
def test_what_is_kept_beside_an_entry_is_served_only_with_the_very_entry_that_it_is_tied_to(own, found):
    """S1."""
    place = variant_key(KEY, INTS.fingerprint)
    cell = value_cell(7, place, versions=((VARIANT_OF, own),))
    verdict = examine(cell, place, INTS, 0, ((VARIANT_OF, found),))
    assert isinstance(verdict, Servable) is (own == found)
    # Nor is it served by accident: without its tie it is unchecked, and under the other key it is refused.
    assert examine(cell, place, INTS, 0) == Unchecked((VARIANT_OF,))
    assert examine(cell, KEY, INTS, 0, ((VARIANT_OF, own),)) == Unservable(MissReason.KEY_CHECK, THEIRS)


@pytest.mark.parametrize(
    ("soft_ms", "server_ms", "fresh"),
    [(0, None, True), (0, 10**15, True), (500, 499, True), (500, 500, False), (500, None, False)],
)
def test_a_cell_is_known_to_be_fresh_without_reading_it(soft_ms, server_ms, fresh):
    assert is_fresh(Cell(Kind.VALUE, soft_ms=soft_ms), server_ms) is fresh


def test_another_copy_of_a_value_shares_nothing_with_the_first():
    cell = value_cell({"a": [1]}, codec=PLAIN, versions=(("t:a", V1),))
    first = examine(cell, KEY, PLAIN, 0, (("t:a", V1),))
    assert isinstance(first, Servable)
    first.value["a"].append(2)
    assert copy_of(cell, PLAIN) == {"a": [1]}
    assert copy_of(absent_cell(), INTS) is None


def test_another_copy_through_a_hook_is_none_where_the_hook_changes_its_mind():
    answers = iter([7, ValueError])

    def hook(older):
        answer = next(answers)
        if answer is ValueError:
            raise ValueError
        return answer

    codec = codec_for(int, 1_000, hook)
    cell = value_cell("seven", codec=TEXTS)
    assert copy_of(cell, codec) == 7
    assert copy_of(cell, codec) is None


def test_what_is_stored_for_another_key_is_worth_nothing_to_one_who_only_looks():
    cell = value_cell(1, "n:another")
    assert weigh(cell, KEY, 0) == Unservable(MissReason.KEY_CHECK, cell.filled_by)
    assert weigh(value_cell(1, KEY), KEY, 0).fresh
    assert weigh(body_cell(b"short"), KEY, 0) == Unservable(MissReason.CORRUPT, THEIRS)
