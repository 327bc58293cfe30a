"""Held locks: what their holders know of them."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any, Final

import attrs

from sansio_cache.cell import grant_us
from sansio_cache.commands import Lease
from sansio_cache.errors import ConfigurationError, LockLostError
from sansio_cache.operations.lock import LockRequest, free, keep
from sansio_cache.step import Locked, LockRenewed, Outcome, Step
from sansio_cache_runtime.loaders import is_coroutine_function

_SHORTEST_PAUSE_S: Final = 0.005


@attrs.define(eq=False)
class HeldLock:
    """A lock, while its block runs.

    Attributes:
        name: The lock's.
        token: A number that is higher than that of every holder before. Hand it to what the lock protects, if
            that can refuse a lower one than it has seen: this is what keeps a holder that was held up from
            doing harm.
    """

    name: str
    token: int
    _request: LockRequest = attrs.field(repr=False)
    _grant: bytes = attrs.field(repr=False)
    _good_until_s: float = attrs.field(repr=False)
    _clock: Callable[[], float] = attrs.field(repr=False)
    _on_lost: Callable[[], object] | None = attrs.field(repr=False)
    _was_lost: bool = attrs.field(default=False, init=False, repr=False)
    _has_ended: bool = attrs.field(default=False, init=False, repr=False)
    """Whether it was given back, or is being."""

    @property
    def is_lost(self) -> bool:
        """Whether another may hold the lock by now.

        Its lease was not renewed in time, or is another's; or its block is over.
        """
        return self._has_ended or self._was_lost or self._clock() >= self._good_until_s

    def check(self) -> None:
        """Go on only where the lock is still held. To be called before what must not be done by two.

        Raises:
            LockLostError: It is not.
        """
        if self._has_ended and not self._was_lost:
            raise LockLostError(
                f"the lock {self.name!r} was given back when its block ended, and another may hold it: what "
                "needs it belongs into the block"
            )
        if self.is_lost:
            raise LockLostError(
                f"the lock {self.name!r} is lost: its lease of {self._request.lease_ms / 1000:g} s was not "
                "renewed in time, or the store has forgotten it, and another may hold it. What is done "
                "without it may be done twice"
            )

    # For those who keep it.

    @property
    def pause_s(self) -> float:
        """How long to wait before the lease is renewed: a third of it, or until it is over."""
        left_s = self._good_until_s - self._clock()
        return max(min(self._request.lease_ms / 3000, left_s), _SHORTEST_PAUSE_S)

    def keep(self) -> Step:
        """Begin to renew the lease."""
        request = self._request
        return keep(self._lease, request.lease_ms, request.timeouts, self._clock())

    def free(self) -> Step:
        """Begin to give the lock back."""
        self._was_lost = self.is_lost
        self._has_ended = True
        return free(self._lease, self._request.timeouts, self._clock())

    def take_in(self, outcome: Outcome) -> bool:
        """Take in what came of a renewal; whether to go on. Where not, the holder is told."""
        if self._has_ended:
            return False
        if isinstance(outcome, LockRenewed) and outcome.is_ours and not self.is_lost:
            self._good_until_s = outcome.asked_s + self._request.lease_ms / 1000
            return True
        was_refused = isinstance(outcome, LockRenewed) and outcome.is_ours is False
        if not was_refused and not self.is_lost:
            return True  # the store has failed, and may yet be asked in time
        self._was_lost = True
        if self._on_lost is not None:
            self._on_lost()
        return False

    @property
    def _lease(self) -> Lease:
        return Lease(self._request.key, self._grant)


def held_lock(
    name: str,
    request: LockRequest,
    locked: Locked,
    clock: Callable[[], float],
    on_lost: Callable[[], object] | None,
) -> HeldLock:
    """A lock that was taken."""
    good_until_s = locked.asked_s + request.lease_ms / 1000
    return HeldLock(str(name), grant_us(locked.grant), request, locked.grant, good_until_s, clock, on_lost)


def check_on_lost(on_lost: Any) -> None:
    """Refuse what cannot be told that a lock is lost.

    Raises:
        ConfigurationError: It cannot be called without arguments, or is a coroutine function.
    """
    if on_lost is not None and (
        not callable(on_lost) or is_coroutine_function(on_lost) or not _needs_nothing(on_lost)
    ):
        raise ConfigurationError(
            "on_lost is a plain function, called without arguments, such as the cancel of a scope; got "
            f"{on_lost.__class__.__name__}"
        )


def _needs_nothing(function: Callable[..., object]) -> bool:
    """Whether it can be called without arguments, as far as can be seen."""
    try:
        signature(function).bind()
    except TypeError:
        return False
    except ValueError:  # one written in C, which does not say
        return True
    return True
