"""What was made of what was used is kept, within bounds, and tables that are full degrade gently."""

from __future__ import annotations

import pytest

from sansio_cache_runtime.known import Known


class Kept(Known):
    """Counts what it has to make."""

    def __init__(self, most):
        super().__init__(self.make, most)
        self.made = 0

    def make(self, given):
        self.made += 1
        return given


@pytest.mark.parametrize("things", [150, 200, 400])
def test_of_more_things_in_turn_than_are_kept_some_are_found(things):
    """A table that forgets the oldest, or all, finds none of them."""
    known = Kept(100)
    for _ in range(20):
        for thing in range(things):
            assert known[thing] == thing
    assert len(known) <= 100
    assert 1 - known.made / (20 * things) > 0.5 * 100 / things


def test_what_is_not_used_any_more_makes_room():
    known = Kept(100)
    for thing in range(1_000, 1_100):
        known[thing]
    for _ in range(20):
        for thing in range(100):
            known[thing]
    assert set(known) == set(range(100))
