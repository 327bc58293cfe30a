"""Triage: whatever the answers, each key of a batch comes out exactly once, and no grant is lost."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sansio_cache.cell import FOREIGN, NO_GRANT, Cell, Kind, make_grant
from sansio_cache.commands import Mode
from sansio_cache.entry import MissReason, Unchecked, examine, variant_key
from sansio_cache.events import ForeignFound, FreshFound, LeaseDenied, LeaseGranted, WriterFound
from sansio_cache.loader import Absent, Fresh
from sansio_cache.notices import Hit, Loaded, Missed, StaleServed, Unasked
from sansio_cache.operations.batch import Batch, LoadManyRequest, Want
from sansio_cache.operations.triage import triage_answers, triage_cells, triage_values
from sansio_cache.step import Missing, Value
from support.machines import GRANT, INTS, TEXTS, THEIRS, absent_cell, load_request, value_cell

KEYS = ("shop:a", "shop:b", "shop:c", "shop:d")
NAMES = ("a", "b", "c", "d")
NOW_MS = 1_000
V1, V2 = make_grant(b"tag-----", 1), make_grant(b"tag-----", 2)
POLICIES = ({}, {"stale_for_s": 60}, {"stale_for_s": 60, "on_wait_timeout": "stale"})


def batch(**policy):
    each = load_request(name=KEYS[0], **policy)
    return Batch(LoadManyRequest(KEYS, NAMES, 500, each), (None,) * len(KEYS))


def key_of(want):
    return variant_key(KEYS[want.place], INTS.fingerprint) if want.variant_of else KEYS[want.place]


def cells_for(want):
    """The cells that a key may hold."""
    key, own = key_of(want), ((("", want.variant_of),) if want.variant_of else ())
    return [
        None,
        FOREIGN,
        Cell(Kind.EMPTY, GRANT),
        Cell(Kind.HOLD, GRANT),
        Cell(Kind.VALUE, filled_by=THEIRS, body=b"nonsense"),
        *(value_cell(6, key, soft_ms=soft_ms, versions=own) for soft_ms in (0, 1)),
        *(value_cell("a", key, codec=TEXTS, soft_ms=soft_ms) for soft_ms in (0, 1)),
        value_cell(6, key, versions=(*own, ("t:a", V1))),
        value_cell(6, "shop:other"),
        absent_cell(key, versions=own),
    ]


def wants_with(**fields):
    """Some of the keys, each with what may be known of it."""
    variants_of = st.sampled_from([b"", THEIRS])
    a_want = {"variant_of": variants_of, "counted": st.booleans(), "refusals": st.integers(0, 2), **fields}
    return st.lists(st.sampled_from(range(len(KEYS))), unique=True, min_size=1).flatmap(
        lambda places: st.tuples(*(st.builds(Want, st.just(place), **a_want) for place in places))
    )


def counted(notices):
    return [each.key for each in notices if isinstance(each, Hit | StaleServed | Missed)]


@settings(deadline=None)
@given(wants_with(), st.data(), st.sampled_from(POLICIES), st.sampled_from([NOW_MS, None]))
def test_of_the_cells_each_key_goes_one_way_and_is_counted_once_at_most(wants, data, policy, server_ms):
    """B3."""
    cells = tuple(data.draw(st.sampled_from(cells_for(want))) for want in wants)
    tags = data.draw(st.sampled_from([(), (("t:a", V1),), (("t:a", V2),)]))
    verdicts = tuple(
        examine(cell, key_of(want), INTS, server_ms, want.tied(()))
        for want, cell in zip(wants, cells, strict=True)
    )
    if tags:
        verdicts = tuple(
            examine(cell, key_of(want), INTS, server_ms, (*want.tied(()), *tags))
            if isinstance(verdict, Unchecked)
            else verdict
            for want, cell, verdict in zip(wants, cells, verdicts, strict=True)
        )
    found = triage_cells(batch(**policy), wants, cells, verdicts, server_ms, 0.0)
    served = [place for place, value in enumerate(found.batch.values) if value is not None]
    groups = (*found.ready, *found.alone, *found.others)
    assert sorted([*served, *(each.place for each in groups)]) == sorted(each.place for each in wants)
    before = {each.place: each for each in wants}
    names = counted(found.notices)
    assert len(set(names)) == len(names)
    for place, want in before.items():
        is_told = KEYS[place] in names
        after = next((each for each in groups if each.place == place), None)
        # Once: now, or before; a stale value, and another version's, may still turn out to be either.
        assert not (is_told and want.counted)
        if after is None:
            assert is_told or want.counted
        else:
            assert after.counted == (is_told or want.counted)
            assert after.counted or after.stale is not None or after in found.others
        if after in found.others:
            assert not want.variant_of
            assert after.variant_of == THEIRS


def test_an_entry_whose_tags_stay_unknown_counts_as_one_whose_tags_have_changed():
    """S7."""
    want = Want(0)
    cell = value_cell(6, KEYS[0], versions=(("t:a", V1),))
    found = triage_cells(batch(), (want,), (cell,), (Unchecked(("t:a",)),), NOW_MS, 0.0)
    assert found.notices == (Missed(KEYS[0], MissReason.TAG),)
    assert found.ready == (Want(0, counted=True),)


@settings(deadline=None)
@given(wants_with(stale=st.none()), st.data(), st.sampled_from(POLICIES))
def test_of_the_answers_each_key_goes_one_way_and_every_grant_is_kept(wants, data, policy):
    def replies(want):
        cells = [each for each in cells_for(want) if isinstance(each, Cell) and each.kind == Kind.VALUE]
        stale = st.sampled_from([None, *cells])
        return st.one_of(
            st.builds(LeaseGranted, st.just(0.0), st.just(GRANT), stale, st.just(NOW_MS)),
            st.builds(LeaseDenied, st.just(0.0), st.integers(1, 500), stale, st.just(NOW_MS)),
            st.builds(FreshFound, st.just(0.0), st.sampled_from(cells), st.just(NOW_MS)),
            st.just(WriterFound(0.0, 9)),
            st.just(ForeignFound(0.0)),
        )

    answers = tuple(data.draw(replies(want)) for want in wants)
    found = triage_answers(batch(**policy), wants, answers, (), 0.0)
    served = [place for place, value in enumerate(found.batch.values) if value is not None]
    groups = (*found.granted, *found.alone, *found.again, *found.batch.waiting)
    assert sorted([*served, *(each.place for each in groups)]) == sorted(each.place for each in wants)
    asked = zip(wants, answers, strict=True)
    grants = {want.place: answer.grant for want, answer in asked if isinstance(answer, LeaseGranted)}
    assert {each.place: each.grant for each in found.granted} == grants
    assert all(each.grant is None for each in (*found.alone, *found.again, *found.batch.waiting))
    names = counted(found.notices)
    assert names == [KEYS[want.place] for want in wants if want.place in served and not want.counted]
    # It ends: a value is refused twice at most, and another version's is met once.
    for each in found.again:
        before = next(want for want in wants if want.place == each.place)
        assert each.refusals == before.refusals + 1 <= 2 or (each.variant_of and not before.variant_of)
    if found.batch.waiting:
        denied = [each.left_ms for each in answers if isinstance(each, LeaseDenied)]
        assert found.batch.left_ms in (0, *denied)


@settings(deadline=None)
@given(
    wants_with(grant=st.none() | st.just(GRANT)),
    st.dictionaries(
        st.sampled_from([*NAMES, "unasked", 7]),
        st.sampled_from(
            [7, "text", Fresh(7, ttl=5), Fresh("text", ttl=5), Absent(), Absent(ttl=5), Fresh(7, ttl=0)]
        ),
    ),
)
def test_of_the_values_every_grant_is_filled_or_given_back(wants, given_values):
    """S13: and each key has an answer."""
    found = triage_values(batch(), wants, (), given_values, 0.5)
    fills = found.fills
    held = [(key_of(want), want.grant) for want in wants if want.grant is not None]
    filled = [(fill.key, fill.grant) for fill in fills.todo]
    unfilled = [(lease.key, lease.lease_id) for lease in fills.unfilled]
    gone = [(key, GRANT) for key in fills.gone]
    assert sorted(filled + unfilled + gone) == sorted(held)
    for want in wants:
        name, value = NAMES[want.place], fills.batch.values[want.place]
        given_ = given_values.get(name, Absent())
        plain = given_.value if isinstance(given_, Fresh) else given_
        assert value == (Missing() if isinstance(plain, Absent) else Value(plain))
        is_storable = name in given_values and plain != "text" and given_ != Fresh(7, ttl=0)
        assert ((key_of(want), GRANT) in filled) == (want.grant is not None and is_storable)
    loads = [each for each in found.notices if isinstance(each, Loaded)]
    asked = {NAMES[want.place] for want in wants}
    assert len(loads) == len(asked & given_values.keys())
    unasked = [each.count for each in found.notices if isinstance(each, Unasked)]
    assert sum(unasked) == len(given_values.keys() - asked)
    assert counted(found.notices) == [KEYS[want.place] for want in wants if not want.counted]


def test_a_key_that_another_version_has_stored_meanwhile_is_loaded_as_a_variant():
    """Fault 33."""
    text = value_cell("a", KEYS[0], codec=TEXTS)
    answers = (FreshFound(0.0, text, NOW_MS),)
    found = triage_answers(batch(), (Want(0, seen=THEIRS, mode=Mode.DROP),), answers, (), 0.0)
    assert found.again == (Want(0, variant_of=THEIRS, seen=NO_GRANT, mode=Mode.KEEP),)


def test_a_key_whose_other_entry_has_tags_that_the_batch_does_not_name_is_loaded_by_itself():
    """S7: a variant must be tied to all of them."""
    text = value_cell("a", KEYS[0], codec=TEXTS, versions=(("t:a", V1), ("t:b", V2)))
    for tags, is_alone in (((), True), (("t:a",), True), (("t:b", "t:c", "t:a"), False)):
        each, want = batch(tags=tags), Want(0)
        verdict = examine(text, KEYS[0], INTS, NOW_MS, ())
        read = triage_cells(each, (want,), (text,), (verdict,), NOW_MS, 0.0)
        assert len(read.alone) == is_alone
        assert len(read.others) == (not is_alone)
        is_leased = triage_answers(each, (want,), (FreshFound(0.0, text, NOW_MS),), (), 0.0)
        assert len(is_leased.alone) == is_alone
        assert len(is_leased.again) == (not is_alone)
