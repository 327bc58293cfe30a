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
`WriteBehind`       is queued; the database gets it later        as the policy says
==================  ===========================================  =========================================

A write is a mutation (`operations/mutate.py`) in all of them but the last: the key is held, the writer
commits, and then the key is settled. The order is the promise. Where the store is told before the commit, a
reader in between can give it the old value. Stored without the hold's grant, a value can be older than
another's (S1, S6).
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias, assert_never

import attrs

from sansio_cache.errors import ConfigurationError
from sansio_cache.policy import Policy, between, one_of, seconds
from sansio_cache.queues import MOST_PARTITIONS

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


def _whole(low: int, high: int, *, or_none: bool = False) -> Any:
    """A validator: a whole number in a range, or None where that is allowed."""

    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None and or_none:
            return
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ConfigurationError(
                f"{attribute.name} is a whole number from {low} to {high:,}; got {value!r:.80}"
            )

    return check


@attrs.frozen
class AcknowledgedByReplicas:
    """A queued write is acknowledged once so many replicas of the server have it.

    A failover to one of them does not lose it then. Writes wait for them on a connection of their own, those
    that come at once together (https://redis.io/docs/latest/commands/wait/). Where fewer replicas have it in
    time, the write raises UnknownOutcomeError: it is queued, and not to be repeated; a failover may lose it.
    A replica has it in its memory, and writes it to its disk as its own settings say.

    Args:
        count: How many replicas, from 1 to 100.
        within_s: How long they are waited for, in seconds, from 0.001 to 60.

    Raises:
        ConfigurationError: One is out of range.
    """

    count: int = attrs.field(validator=_whole(1, 100))
    within_s: float = attrs.field(default=1.0, kw_only=True, validator=seconds(0.001, 60))


def _how_durable(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """A validator: nothing, or replicas."""
    if value is not None and not isinstance(value, AcknowledgedByReplicas):
        raise ConfigurationError(
            f"{attribute.name} is None, or AcknowledgedByReplicas(1): how many replicas are to have a write "
            f"before it is acknowledged; got {value!r:.80}"
        )


@attrs.frozen(kw_only=True)
class WriteBehind:
    """Readers load what is missing; a write is queued in the store, and written to the database later.

    A write returns when it is queued. Readers get the queued value until the database has it. Consumers write
    to the database, in batches and each key's newest value only. What can be lost, and when, says the page on
    write-behind: it is as durable as the store is.

    Args:
        partitions: Into how many parts the keys are divided. Each is consumed by one consumer at a time.
        batch: How many writes the writer is given at once, at most.
        delay_s: How long a consumer pauses where there is little to do, in seconds: so long writes of a key
            are gathered.
        backlog: How many writes may be queued. With more, a writer waits.
        wait_s: How long it waits for room, in seconds, before CacheTimeoutError is raised; in all, where it
            writes many.
        deliveries: How often a write is tried by itself before it becomes a dead letter. None tries for ever.
        backoff_s: How long is paused after a write has failed, in seconds; twice as long after each time.
        longest_backoff_s: How long that becomes at most.
        lease_s: How long a consumer keeps its partitions without a sign of life, in seconds.
        reads_in_outage: What a load does where the store cannot say what is queued: `"raise"` raises
            CacheConnectionError; `"load"` gives what the database has, which may be older.
        durability: `AcknowledgedByReplicas(1)`, where a failover must not lose what was acknowledged. None
            acknowledges what the primary has: what that can lose says `Health.durability`.

    Raises:
        ConfigurationError: One is out of range.
    """

    partitions: int = attrs.field(default=8, validator=_whole(1, MOST_PARTITIONS))
    batch: int = attrs.field(default=200, validator=_whole(1, 10_000))
    delay_s: float = attrs.field(default=0.2, validator=seconds(0.001, 3600))
    backlog: int = attrs.field(default=100_000, validator=_whole(1, 10**9))
    wait_s: float = attrs.field(default=5.0, validator=seconds(0, 86_400))
    deliveries: int | None = attrs.field(default=20, validator=_whole(1, 10**6, or_none=True))
    backoff_s: float = attrs.field(default=0.1, validator=seconds(0.001, 3600))
    longest_backoff_s: float = attrs.field(default=30.0, validator=seconds(0.001, 86_400))
    lease_s: float = attrs.field(default=10.0, validator=seconds(0.1, 3600))
    reads_in_outage: Literal["raise", "load"] = attrs.field(
        default="raise", validator=one_of("raise", "load")
    )
    durability: AcknowledgedByReplicas | None = attrs.field(default=None, validator=_how_durable)


Strategy: TypeAlias = CacheAside | WriteThrough | RefreshAhead | WriteBehind
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
        "strategy= takes CacheAside(), WriteThrough(), RefreshAhead(at=…) or WriteBehind() of sansio_cache; "
        f"got {strategy!r:.80}"
    )


def stores_writes(strategy: Strategy) -> bool:
    """Whether a value that was written is stored when the database has committed; else it is invalidated."""
    match strategy:
        case WriteThrough():
            return True
        case CacheAside() | RefreshAhead() | WriteBehind():
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
        case CacheAside() | WriteThrough() | WriteBehind():
            return policy
        case _:
            assert_never(strategy)
