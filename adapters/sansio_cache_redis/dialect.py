"""What is known of the server that answers: its clock, what it understands, and what it says of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import attrs
from redis.exceptions import RedisError

from sansio_cache.cell import grant_us
from sansio_cache.commands import Fill
from sansio_cache.events import FillResult
from sansio_cache_redis.calls import number, wake_channel
from sansio_cache_redis.errors import as_opening_failure
from sansio_cache_redis.facts import Facts, facts_from, refuse_unfit
from sansio_cache_redis.replies import ServerClock, tell_time

_PLAIN: Final = (bytes, type(None))
_MOST_CONTENDED: Final = 64
_STORED_ALONE: Final = 8
"""After so many values in a row that nobody has overtaken, a key is no longer contended."""


class ContendedKeys(dict[str, int]):
    """Keys whose writers overtake each other: there a comparison is in vain, and the script decides at once.

    Each has the number of values that are to be stored yet before it is no longer one. They are learnt from
    the answers, and are few: at worst a fill is compared in vain, or not at all.
    """

    def learn(self, filled: Iterable[tuple[str, FillResult]]) -> None:
        """This is what became of fills, by key."""
        for key, result in filled:
            left = self.get(key, 0)
            if left == 1 and result.is_accepted:
                self.pop(key, None)
            elif left and result.is_accepted:
                self[key] = left - 1
            elif left or result is FillResult.CHANGED:
                if not left and len(self) >= _MOST_CONTENDED:
                    self.clear()
                self[key] = _STORED_ALONE


@attrs.define
class Dialect(ServerClock):
    """What the server understands, as far as it is known; and its clock.

    `clock` is the local monotonic one, in seconds.
    """

    clock: Callable[[], float] = attrs.field(kw_only=True)
    compares: bool | None = None
    """Whether SET takes IFEQ; None where that is to be asked."""
    is_cluster: bool = False
    """Whether a command may name keys of one slot only: then each names one key."""
    owns: Callable[[str], bool] | None = None
    """Whether a key is in one of the node's slots, where that is a question."""
    probe: bytes = b""
    """A key to find out with whether a node of a cluster serves: in one of its slots. Empty where that is not
    a matter of keys."""

    contended: ContendedKeys = attrs.field(factory=ContendedKeys, init=False)
    """Where comparing is of no use."""
    channel_of: Callable[[str], bytes] = wake_channel
    """Gives the Pub/Sub channel on which those are told who wait for a key."""
    on_facts: Callable[[Facts], object] = bool
    """Told what the server says of itself, each time that it does."""
    on_met: Callable[[bool], object] = attrs.field(default=bool, init=False)
    """Called when a connection has opened: whether it leads to another store than the one before.

    That is another run of a server; but not one that was started without data, where nothing is old."""
    clock_skew_s: float = attrs.field(default=1.0, kw_only=True)
    """As the configuration has it."""
    floor: bytes = attrs.field(default=b"0", init=False)
    """`floor_us`, as scripts get it."""
    plain: tuple[type, ...] = attrs.field(default=_PLAIN, init=False)
    """What a reply to a read may be to be taken as it is: nothing, where it has to be looked at."""
    facts: Facts = attrs.field(factory=Facts, init=False)
    """What the server has said of itself as the latest connection opened."""

    def greet(self, replies: Sequence[Any]) -> None:
        """A connection has opened, and this is what its server has said. It may be another server.

        Raises:
            RedisError: Nothing is to be asked there.
        """
        _, hello, info, commands = replies
        facts = facts_from(hello, info, commands)
        self.on_facts(facts)  # a replica says as well that it is in a cluster, which is to be asked then
        refuse_unfit(facts)
        tell_time(replies[0], lambda server_us: self.learn(server_us, self.clock()))
        self._meet(facts)

    def introduce(self, info: Any) -> None:
        """This is what the server says of itself that a client of the user's is connected to.

        Raises:
            RedisError: Nothing is to be asked there.
        """
        facts = facts_from(None, info)
        self.on_facts(facts)
        try:
            refuse_unfit(facts)
        except RedisError as error:
            raise as_opening_failure(error) from error
        self._meet(facts)

    def _meet(self, facts: Facts) -> None:
        self.forget()
        before, self.facts = self.facts, facts
        self.raise_floor(facts.floor_us(self.clock_skew_s))
        is_another = bool(before.run_id and facts.run_id) and before.run_id != facts.run_id
        self.on_met(is_another and not facts.began_empty)

    def raise_floor(self, floor_us: int) -> None:
        """Trust nothing of before. It is never lowered: what is too old may go on to another server."""
        if floor_us > self.floor_us:
            self.floor_us = floor_us
            self.floor, self.plain = number(floor_us), ()

    def forget(self) -> None:
        """Ask anew what the server understands, with the next fill."""
        self.compares = None

    def without_comparing(self) -> Dialect:
        """The same of a server that does not compare."""
        other = Dialect(self.offset_ms, clock=self.clock, compares=False, channel_of=self.channel_of)
        other.raise_floor(self.floor_us)
        return other

    def soft_ms(self, fill: Fill) -> int:
        """When a value is stale that is stored now, by the server's clock; 0 where it never is.

        Where that clock is not known yet, the grant says what it was.
        """
        if not fill.soft_ttl_ms:
            return 0
        server_ms = self.now_ms(self.clock())
        return (grant_us(fill.grant) // 1000 if server_ms is None else server_ms) + fill.soft_ttl_ms
