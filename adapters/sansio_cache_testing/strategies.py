"""Hypothesis strategies: schedules, keys, lives and policies.

    from hypothesis import given
    from sansio_cache_testing import check
    from sansio_cache_testing.strategies import schedules

    @given(schedules())
    def test_no_reader_sees_an_old_row(schedule):
        check(scenario, schedule)

Needs the extra `testing`. `Key` and `Policy` are known to `hypothesis.strategies.from_type` as well.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import attrs
from hypothesis import strategies as st

from sansio_cache import COLD, HOT, MEDIUM, STATIC, Key, KeyBuilder, Policy
from sansio_cache.exploring.schedules import Choice, Schedule
from sansio_cache.ttl import Ttl

_LONGEST_S = 7 * 86_400
_BIAS = 4
"""One choice of so many is not to go on as before: where every command met a fault, little would be tried."""


@attrs.define
class DrawnSchedule(Schedule):
    """A schedule whose choices Hypothesis draws, one by one, as the program meets them.

    It shrinks to fewer switches: the simplest draw is to go on as before.
    """

    data: Any = attrs.field(default=None, repr=False)

    def choose(self, count: int, *, is_free: bool) -> int:
        """Draw an option."""
        most = count - 1 if is_free else _BIAS * (count - 1)
        drawn: int = self.data.draw(st.integers(0, most), label=f"choice {len(self.met)}")
        taken = drawn if drawn < count else 0
        self.met.append(Choice(count, taken, is_free))
        return taken


@st.composite
def schedules(draw: st.DrawFn) -> DrawnSchedule:
    """Schedules for `check`: who goes on at each point, which fault strikes, how far a replica is behind."""
    return DrawnSchedule(data=draw(st.data()))


def ids() -> st.SearchStrategy[str | int]:
    """Components of keys, those with characters that have to be escaped among them."""
    return st.one_of(
        st.integers(), st.text(min_size=1, max_size=20).filter(_can_be_encoded), st.sampled_from("a:b*c")
    )


def _can_be_encoded(text: str) -> bool:
    return text.isprintable() and text.encode("utf-8", "ignore").decode() == text


def keys(namespace: str = "test") -> st.SearchStrategy[Key]:
    """Built keys of a namespace."""
    builder = KeyBuilder(namespace)
    entities = st.sampled_from(["user", "order", "product"])
    return st.builds(builder.build, entities, ids())


def ttls() -> st.SearchStrategy[Ttl]:
    """Whatever `ttl=` takes, from a millisecond to a week."""
    seconds = st.one_of(st.integers(1, _LONGEST_S), st.floats(0.001, _LONGEST_S))
    return st.one_of(
        seconds, seconds.map(lambda s: timedelta(seconds=s)), st.sampled_from([HOT, MEDIUM, COLD, STATIC])
    )


def policies() -> st.SearchStrategy[Policy]:
    """Policies that are valid: with and without jitter, stale serving and early refresh."""
    return st.builds(
        Policy,
        ttl=ttls(),
        stale_for_s=st.sampled_from([0.0, 1.0, 600.0]),
        negative_ttl=st.sampled_from([1, 60]),
    )
