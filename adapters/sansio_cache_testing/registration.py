"""What Hypothesis calls when it is imported: types of ours become known to `from_type`.

Hypothesis finds this by an entry point, in every program that has both. So it imports little, and makes the
strategies when one is asked for.
"""

from __future__ import annotations

from typing import Any


def register() -> None:
    """Tell Hypothesis how keys and policies are made."""
    from hypothesis import strategies as st

    from sansio_cache.keys import Key
    from sansio_cache.policy import Policy

    def of_keys(_: Any) -> Any:
        from sansio_cache_testing.strategies import keys

        return keys()

    def of_policies(_: Any) -> Any:
        from sansio_cache_testing.strategies import policies

        return policies()

    st.register_type_strategy(Key, of_keys)
    st.register_type_strategy(Policy, of_policies)
