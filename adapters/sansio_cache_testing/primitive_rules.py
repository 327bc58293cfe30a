"""The rules for backends about the primitives: look, add, swap, touch, lock."""

# ruff: noqa: D102 - the name of a test is its rule

from __future__ import annotations

from typing import Final

from sansio_cache.cell import Cell, grant_us, make_grant
from sansio_cache.codec import codec_for
from sansio_cache.commands import (
    ClaimCell,
    FreeLock,
    InspectCell,
    Lease,
    StoreCommand,
    SwapCell,
    TakeLock,
    TouchCell,
)
from sansio_cache.entry import contents_of, seal
from sansio_cache.events import (
    CellInspected,
    CellSwapped,
    CellTouched,
    FillResult,
    HoldsTaken,
    LeaseGranted,
    LeasesReleased,
    ValueFound,
    WriterFound,
)
from sansio_cache.keys import LOCK_MARKER
from sansio_cache_testing.backend_asking import (
    BODY,
    KEY,
    LEASE_MS,
    LIFE_MS,
    NEWER,
    SHORT_MS,
    TIMEOUT_S,
    Asking,
)

_LOCK: Final = f"conformance:{LOCK_MARKER}report"
_CODEC: Final = codec_for(int, 1_000)
_SEALED: Final = seal(KEY, _CODEC, b"7", 0.0, (("staff", b"version of staff"),))
_NOTHING: Final = seal(KEY, _CODEC, None, 0.0)
_UNTAGGED: Final = seal(KEY, _CODEC, b"8", 0.0)
_TEN_MINUTES_MS: Final = 600_000
_MINUTE_MS: Final = 60_000
_TOKENS: Final = "the token of the next holder is no higher, and who held the lock before can write after it"


def _token(grant: bytes) -> int:
    """The fencing token of a lock's holder."""
    return int.from_bytes(grant[8:])


class PrimitiveRules(Asking):
    """The rules about the primitives, whatever the colour."""

    # Look.

    def test_a_look_at_a_key_that_is_not_there_finds_nothing(self) -> None:
        seen = self._inspect()
        assert seen.cell is None, f"a look finds what nobody has stored: {seen}"

    def test_a_look_says_how_long_a_value_has_to_live(self) -> None:
        version = self._stored(soft_ms=_MINUTE_MS)
        seen = self._inspect()
        assert isinstance(seen.cell, Cell), f"a look does not find the value that is there: {seen}"
        assert (seen.cell.filled_by, seen.cell.body) == (version, BODY), f"a look finds another value: {seen}"
        assert 0 < seen.left_ms <= LIFE_MS, (
            f"a look says another life than was asked for, and so does the caller's ttl: {seen}"
        )
        assert 0 < seen.cell.soft_ms - seen.server_ms <= _MINUTE_MS, (
            f"the soft expiry of a value and the clock that comes with it are not the store's own: {seen}"
        )

    def _inspect(self) -> CellInspected:
        return self._ask(InspectCell(KEY, TIMEOUT_S), CellInspected)

    # Add.

    def test_a_claim_of_a_free_key_is_a_hold(self) -> None:
        held = self._ask(
            self._claim(), HoldsTaken, "who adds a value where none is is told that there is one"
        )
        event = self._acquire(b"nonce..1")
        assert isinstance(event, WriterFound), (
            f"a reader may store what was there before an add (S6): {event}"
        )
        assert self._fill(held.grants[0]) is FillResult.STORED, (
            "who has claimed a key cannot store what is to be added"
        )

    def test_a_claim_finds_a_value_and_leaves_it_alone(self) -> None:
        version = self._stored()
        self._ask(self._claim(), ValueFound, "two add a value to one key, and the second replaces the first")
        self._still_there(version, BODY, "an add that found a value has changed it")

    def test_a_claim_of_a_key_that_another_writer_holds_is_told_so(self) -> None:
        self._ask(self._claim(), HoldsTaken)
        event = self._ask(self._claim(b"writer.2"), WriterFound, "two add a value to one key at once")
        assert 0 < event.left_ms <= LEASE_MS, f"who waits is told a wrong time to wait: {event}"

    def test_a_claim_that_is_repeated_is_given_the_same_hold_s3(self) -> None:
        first = self._ask(self._claim(), HoldsTaken)
        again = self._ask(
            self._claim(), HoldsTaken, "who claims a key again, as the reply was lost, waits for itself"
        )
        assert again.grants == first.grants, (
            "a retry whose first reply was lost must be given the same hold (S3)"
        )

    def test_a_claim_voids_the_loads_in_flight_s6(self) -> None:
        reader = self._granted(b"nonce..1")
        self._ask(self._claim(), HoldsTaken, "the lease of a load is no value, and keeps nobody from an add")
        assert self._fill(reader) is FillResult.REFUSED, (
            "a reader stored what it loaded before an add, which is lost (S6)"
        )

    def test_the_answer_that_there_is_nothing_is_no_value_to_a_claim(self) -> None:
        self._stored(_NOTHING)
        self._ask(self._claim(), HoldsTaken, "nothing can be added where it was known that there is nothing")

    def test_a_value_that_its_claimant_refuses_is_none(self) -> None:
        version = self._stored()
        claim = self._claim(refused=version)
        self._ask(claim, HoldsTaken, "nothing can be added in place of a value that nobody can read")

    def _claim(self, nonce: bytes = b"writer.1", refused: bytes = b"") -> ClaimCell:
        return ClaimCell(KEY, nonce, LEASE_MS, TIMEOUT_S, refused=refused)

    # Swap.

    def test_a_swap_replaces_the_version_that_was_seen(self) -> None:
        seen = self._stored(_SEALED)
        version = self._swapped(seen)
        assert version is not None, "a swap of the very value that was seen is refused"
        assert version != seen, (
            "a swap gives the new value the id of the old one: both are swapped later (S3)"
        )
        assert version.startswith(b"swap...1"), (
            f"the id of a new value does not begin with its nonce: a retry is not known again: {version!r}"
        )
        cell = self._read()
        assert cell is not None, "a swap has removed what it was to replace"
        assert cell.filled_by == version, f"a swap says another id than the value has: {cell}"
        now, before = contents_of(cell.body), contents_of(_SEALED)
        assert now is not None, f"a swap has stored what nobody can read: {cell}"
        assert before is not None
        assert now.payload == b"8", f"a swap has stored another value than it was given: {now}"
        assert now.versions == before.versions, (
            f"a swap loses the tags of a value, or their versions: no tag invalidates the new one (S7): {now}"
        )

    def test_a_swap_of_another_version_is_refused(self) -> None:
        old = self._stored(_SEALED)
        self._delete()
        new = self._stored(_SEALED)
        assert self._swapped(old) is None, (
            "SwapCell must look at the version: it replaced a value that its caller has not seen, and what "
            "another has stored is lost"
        )
        self._still_there(new, _SEALED, "a swap that was refused has changed the value")

    def test_a_swap_where_nothing_is_stores_nothing(self) -> None:
        old = self._stored(_SEALED)
        self._delete()
        assert self._swapped(old) is None, (
            "a swap stored a value that was computed from one that is invalidated (S1)"
        )
        assert self._read() is None, "a swap that was refused has stored its value all the same (S1)"

    def test_a_swap_of_a_stale_value_is_refused(self) -> None:
        version = self._stored(_SEALED)
        self._expire()
        assert self._swapped(version) is None, "a value that was computed from a stale one is served as fresh"
        self._still_there(version, _SEALED, "a swap that was refused has changed the value")

    def test_a_swap_that_is_repeated_is_told_the_same(self) -> None:
        seen = self._stored(_SEALED)
        first = self._swapped(seen)
        assert self._swapped(seen) == first, (
            "a swap whose first reply was lost is told that another was quicker: it is done twice"
        )

    def test_a_swap_voids_the_loads_in_flight_s1(self) -> None:
        seen = self._stored(_SEALED)
        event = self._acquire(b"nonce..2", seen=seen)
        assert isinstance(event, LeaseGranted), f"a value that its reader refuses is not loaded anew: {event}"
        self._swapped(seen)
        assert self._fill(event.grant, NEWER) is FillResult.REFUSED, (
            "a value that was loaded before a swap was stored after it (S1)"
        )

    def test_a_swap_without_a_life_keeps_that_of_the_other(self) -> None:
        version = self._swapped(self._stored(_SEALED, hard_ms=_TEN_MINUTES_MS))
        assert version is not None, "a swap of the very value that was seen is refused"
        left_ms = self._inspect().left_ms
        assert _MINUTE_MS < left_ms <= _TEN_MINUTES_MS, (
            f"a swap that names no life gives the value another than it had left, {left_ms} ms"
        )

    def test_a_swap_for_nothing_removes_the_value(self) -> None:
        version = self._swapped(self._stored(_SEALED), hard_ms=-1)
        assert version is not None, "who removes the very value that was seen is told that it was gone"
        assert self._read() is None, "a swap for nothing leaves the value where it was: it is served on (S1)"

    def test_a_swap_stores_under_the_id_that_is_named(self) -> None:
        seen = self._stored(_SEALED)
        fill_id = make_grant(b"swap...1", grant_us(seen) + 1)
        assert self._swapped(seen, fill_id=fill_id) == fill_id, (
            "a swap gives a value another id than it was signed for: every reader refuses it"
        )
        cell = self._read()
        assert cell is not None, "a swap has removed what it was to replace"
        assert cell.filled_by == fill_id, f"a swap says another id than the value has: {cell}"

    def _swapped(self, version: bytes, *, hard_ms: int = 0, fill_id: bytes = b"") -> bytes | None:
        swap = SwapCell(KEY, version, b"swap...1", hard_ms, 0, _UNTAGGED, TIMEOUT_S, fill_id)
        return self._ask(swap, CellSwapped).version

    # Touch.

    def test_a_touch_lets_a_fresh_value_live_longer(self) -> None:
        version = self._stored(hard_ms=_MINUTE_MS)
        assert self._is_touched(version), "who touches the very value that is there is told that it is gone"
        left_ms = self._inspect().left_ms
        assert _MINUTE_MS < left_ms <= LIFE_MS, (
            f"a touch does not let a value live for the time that is asked for: it has {left_ms} ms left"
        )
        self._still_there(version, BODY, "a touch has changed the value")

    def test_a_touch_moves_both_expiries_by_as_much(self) -> None:
        version = self._stored(soft_ms=_MINUTE_MS, hard_ms=_TEN_MINUTES_MS)
        assert self._is_touched(version), "who touches the very value that is there is told that it is gone"
        seen = self._inspect()
        assert isinstance(seen.cell, Cell), f"a touch has removed the value: {seen}"
        fresh_ms = seen.cell.soft_ms - seen.server_ms
        assert _MINUTE_MS < fresh_ms <= LIFE_MS, (
            f"a touch does not keep a value fresh for the time that is asked for: it is for {fresh_ms} ms"
        )
        stale_ms = seen.left_ms - fresh_ms
        assert abs(stale_ms - (_TEN_MINUTES_MS - _MINUTE_MS)) < _MINUTE_MS, (
            f"a touch changes for how long a value is served stale: for {stale_ms} ms"
        )

    def test_a_touch_makes_no_life_shorter(self) -> None:
        version = self._stored()
        assert self._is_touched(version, ttl_ms=1_000), "who touches what lives longer is told it is gone"
        left_ms = self._inspect().left_ms
        assert left_ms > _MINUTE_MS, f"a touch made a life shorter: {left_ms} ms are left"

    def test_a_touch_lets_nothing_live_longer_than_it_may(self) -> None:
        version = self._stored(hard_ms=_MINUTE_MS)
        assert self._is_touched(version, most_ms=_TEN_MINUTES_MS), "what may live longer is not touched"
        left_ms = self._inspect().left_ms
        assert _MINUTE_MS < left_ms <= _TEN_MINUTES_MS, (
            f"what is touched lives past its longest life, for ever if it is read: {left_ms} ms are left"
        )

    def test_a_touch_of_what_is_gone_says_so(self) -> None:
        version = self._stored()
        self._delete()
        assert not self._is_touched(version), "who touches what is gone is told that it lives on"
        assert self._read() is None, "a touch has brought back what was invalidated (S1)"

    def test_a_touch_of_another_version_says_so(self) -> None:
        old = self._stored(hard_ms=_MINUTE_MS)
        self._delete()
        self._stored(hard_ms=_MINUTE_MS)
        assert not self._is_touched(old), "who touches a value is told that it lives on, and another does"
        assert self._inspect().left_ms <= _MINUTE_MS, "a touch lets another value live longer than was named"

    def test_a_touch_of_a_stale_value_is_refused(self) -> None:
        version = self._stored(soft_ms=LIFE_MS)
        self._expire()
        assert not self._is_touched(version), "a value that was made stale is fresh again by a touch"
        event = self._acquire(b"nonce..2")
        assert isinstance(event, LeaseGranted), f"a value that was made stale is fresh by a touch: {event}"

    def _is_touched(self, version: bytes, ttl_ms: int = LIFE_MS, most_ms: int = 2 * LIFE_MS) -> bool:
        touch = TouchCell(KEY, version, ttl_ms, most_ms, b"touch..1", TIMEOUT_S)
        return self._ask(touch, CellTouched).touched

    # Lock.

    def test_a_lock_has_one_holder(self) -> None:
        self._locked(b"holder.1")
        event = self._ask(self._take(b"holder.2"), WriterFound, "two hold one lock at once")
        assert 0 < event.left_ms <= LEASE_MS, f"who waits is told a wrong time to wait: {event}"

    def test_a_lock_that_its_holder_takes_again_is_the_same_s3(self) -> None:
        grant = self._locked(b"holder.1")
        again = self._locked(b"holder.1", "who takes a lock again, as the reply was lost, waits for itself")
        assert again == grant, "a retry whose first reply was lost must be given the same lock and token (S3)"

    def test_a_stranger_frees_no_lock_s5(self) -> None:
        grant = self._locked(b"holder.1")
        self._free(b"stranger" + grant[8:])
        self._ask(
            self._take(b"holder.2"),
            WriterFound,
            "a lock was given back by somebody who does not hold it, and two hold it at once (S5)",
        )

    def test_a_lock_given_back_is_free_and_its_next_token_is_higher(self) -> None:
        grants = []
        for nonce in (b"holder.1", b"holder.2", b"holder.1"):
            grants.append(self._locked(nonce, "a lock that was given back is not free"))
            self._free(grants[-1])
        tokens = [_token(grant) for grant in grants]
        assert tokens[0] < tokens[1] < tokens[2], f"{_TOKENS}: {tokens}"

    def test_a_lock_whose_grant_is_unknown_is_given_back_by_its_nonce_l3(self) -> None:
        self._locked(b"holder.1")
        self._free(b"holder.1")
        self._locked(b"holder.2", "who was cancelled before the answer keeps the lock until it lapses (L3)")

    def test_who_held_a_lock_before_frees_and_renews_it_no_more_s5(self) -> None:
        old = self._locked(b"holder.1")
        self._free(old)
        self._locked(b"holder.2")
        self._free(old)
        assert self._renew(Lease(_LOCK, old)) == (False,), (
            "who held a lock before renews it, and believes to hold what is another's (S5)"
        )
        self._ask(
            self._take(b"holder.3"),
            WriterFound,
            "a lock was given back by who held it before, and two hold it at once (S5)",
        )

    def test_a_renewed_lock_lasts_longer(self) -> None:
        grant = self._locked(b"holder.1")
        assert self._renew(Lease(_LOCK, grant), lease_ms=LIFE_MS) == (True,), (
            "who holds a lock cannot renew it, and is told that it is lost"
        )
        event = self._ask(self._take(b"holder.2"), WriterFound, "two hold one lock at once")
        assert LEASE_MS < event.left_ms <= LIFE_MS, (
            f"a renewal does not make a lock last: another takes it under its holder: {event}"
        )

    def test_a_lock_lapses_l3(self) -> None:
        old = self._locked(b"holder.1", lease_ms=SHORT_MS)
        taken: list[bytes] = []

        def is_taken() -> bool:
            event = self.perform(self._take(b"holder.2"))
            taken.extend(event.grants if isinstance(event, HoldsTaken) else ())
            return bool(taken)

        self._until(is_taken, "a lock does not lapse: after a holder that died nobody has it any more (L3)")
        assert _token(taken[0]) > _token(old), f"{_TOKENS}: {taken[0]!r} after {old!r}"

    def _take(self, nonce: bytes, lease_ms: int = LEASE_MS) -> StoreCommand:
        return TakeLock(_LOCK, nonce, lease_ms, TIMEOUT_S)

    def _locked(
        self,
        nonce: bytes,
        broken: str = "nobody holds the lock, and it is not given",
        lease_ms: int = LEASE_MS,
    ) -> bytes:
        return self._ask(self._take(nonce, lease_ms), HoldsTaken, broken).grants[0]

    def _free(self, lease_id: bytes) -> None:
        self._ask(FreeLock(Lease(_LOCK, lease_id), TIMEOUT_S), LeasesReleased)
