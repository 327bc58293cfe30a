"""Strategies: how one kind of thing is read and written, as values of which one word is changed.

    cache.entity("user", User, loader=load, writer=save, strategy=WriteThrough())

All of them read alike: what is not there is loaded under a lease. They differ in two things, and this module
is where each is decided, for both caches and for the explorer.

==================  ===========================================  =========================================
strategy            a write, when the database has committed     a read of what is soon to expire
==================  ===========================================  =========================================
`CacheAside`        invalidates: the next reader loads           as the policy says
`WriteThrough`      stores the value that was written            as the policy says
`RefreshAhead`      invalidates: the next reader loads           has it refreshed in the background
==================  ===========================================  =========================================

A write is a mutation (`operations/mutate.py`) in all of them: the key is held, the writer commits, and then
the key is settled. The order is the promise. Where the store is told before the commit, a reader in between
can give it the old value. Stored without the hold's grant, a value can be older than another's (S1, S6).
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias, assert_never

import attrs

from sansio_cache.errors import ConfigurationError
from sansio_cache.policy import Policy, between

DEFAULT_REFRESH_AT: Final = 0.8
"""The share of its life after which an entry is refreshed ahead, where nothing else is said."""


@attrs.frozen
class CacheAside:
    """Readers load what is missing; a write commits to the database, and invalidates.

    The default, and right where things are read more often than written. The first reader after a write waits
    for a load.
    """


@attrs.frozen
class WriteThrough:
    """Readers load what is missing; a write commits to the database, and stores what was written.

    The first reader after a write finds it. Each write costs one more round trip, and fills the store with
    values that may never be read. The value that is written has to be what a loader would give.
    """


@attrs.frozen(kw_only=True)
class RefreshAhead:
    """As `CacheAside`, and an entry that is read when its end is near is loaded anew in the background.

    Readers of what is read all the time never wait, and never get a stale value. The database is asked more
    often, for what might not have been read again.

    Args:
        at: The share of an entry's life after which the next reader has it refreshed: 0.8 where neither is
            given.
        beta: Refresh early at random instead, the more likely the nearer the expiry and the longer the load
            took: XFetch, see `sansio_cache.policy`; 1 is the usual value, more is earlier.

    Raises:
        ConfigurationError: Both are given, or one is out of range.
    """

    at: float | None = attrs.field(default=None, validator=between(0, 1))
    beta: float | None = attrs.field(default=None, validator=between(0, 1000))

    def __attrs_post_init__(self) -> None:
        if self.at is not None and self.beta is not None:
            raise ConfigurationError("RefreshAhead takes at= or beta=, which both say when: give one")


Strategy: TypeAlias = CacheAside | WriteThrough | RefreshAhead
"""How one kind of thing is read and written. What a strategy decides is matched exhaustively."""


def check_strategy(strategy: Any) -> None:
    """Refuse what is no strategy, and say what to write.

    Raises:
        ConfigurationError: It is something else, such as the class of one.
    """
    if isinstance(strategy, Strategy):
        return
    if isinstance(strategy, type) and issubclass(strategy, Strategy):
        raise ConfigurationError(f"strategy= takes a value: write {strategy.__name__}(), with parentheses")
    raise ConfigurationError(
        "strategy= takes CacheAside(), WriteThrough() or RefreshAhead(at=…) of sansio_cache; got "
        f"{strategy!r:.80}"
    )


def stores_writes(strategy: Strategy) -> bool:
    """Whether a value that was written is stored when the database has committed; else it is invalidated."""
    match strategy:
        case WriteThrough():
            return True
        case CacheAside() | RefreshAhead():
            return False
        case _:
            assert_never(strategy)


def policy_under(strategy: Strategy, policy: Policy) -> Policy:
    """How entries are kept and loaded under a strategy. It goes before what the policy says."""
    match strategy:
        case RefreshAhead(at=None, beta=None):
            return attrs.evolve(policy, refresh_at=DEFAULT_REFRESH_AT, xfetch_beta=None)
        case RefreshAhead(at=at, beta=beta):
            return attrs.evolve(policy, refresh_at=at, xfetch_beta=beta)
        case CacheAside() | WriteThrough():
            return policy
        case _:
            assert_never(strategy)
