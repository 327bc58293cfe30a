"""Subscribers: who is told of notices, besides the recorder that counts them.

Subscribers hear all notices of a cache, or those of the kinds that they ask for. An explanation hears those
that one block's own calls state: each context (a task, a thread) carries the explanations that it is in, so
that concurrent calls do not mix. Both are told in the thread or task where the notice was stated, with no
lock held: they may call the cache again, subscribe and unsubscribe.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final, get_args

import attrs

from sansio_cache.describe import describe
from sansio_cache.errors import ConfigurationError
from sansio_cache.notices import Began, Ended, Hit, Notice, StoreAsked
from sansio_cache.signals import let_through
from sansio_cache_runtime.blocks import block
from sansio_cache_runtime.context import set_safely
from sansio_cache_runtime.loaders import is_coroutine_function, telling
from sansio_cache_runtime.process import process_lock
from sansio_cache_runtime.tracebacks import textless

logger: Final = logging.getLogger("sansio_cache")

Subscriber = Callable[[Any], object]
"""What `subscribe` takes: a function of one notice."""

Kinds = frozenset[type[Notice]]
"""Classes of notices."""

_KNOWN: Final[Kinds] = frozenset(get_args(Notice))
_ALL: Final[Kinds] = _KNOWN - {StoreAsked}
"""What is told to those who name nothing: commands are many, and each costs a look at the clock."""
_OF_HITS: Final[Kinds] = frozenset({Began, Hit, Ended})
"""What is told of a hit."""


@attrs.define(eq=False)
class Explanation:
    """What the calls of a block did, told by the notices that they stated. `str()` gives it in sentences.

    It may name keys, and never holds values.

    Attributes:
        notices: The notices, in order; those of calls that run at once are mixed.
    """

    notices: list[Notice] = attrs.field(factory=list)

    @property
    def lines(self) -> list[str]:
        """A sentence for each notice; where they are about more than one key, each names its own."""
        notices = self.notices.copy()  # another thread of the block may be adding to it
        keys = [getattr(notice, "key", None) for notice in notices]
        if len({key for key in keys if key is not None}) < 2:
            return [describe(notice) for notice in notices]
        return [
            describe(notice) if key is None else f"{key}: {describe(notice)}"
            for key, notice in zip(keys, notices, strict=True)
        ]

    def __str__(self) -> str:
        return "\n".join(self.lines)


@attrs.define(eq=False)
class _Explaining:
    subscribers: Subscribers
    explanation: Explanation
    is_over: bool = False


_told: Final[ContextVar[tuple[_Explaining, ...]]] = ContextVar("sansio_cache_explanations", default=())
"""The stories that the running context is in, of whichever caches."""


def leave_explanations() -> None:
    """Where background work begins: it may have got the context of the call that happened to start it."""
    set_safely(_told, ())


@attrs.define(eq=False)
class _Subscription:
    subscriber: Subscriber
    kinds: Kinds
    has_failed: bool = False


class Subscribers:
    """Subscribers and stories of one cache. Safe for threads."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._subscribers: dict[_Subscription, None] = {}
        self._explanations = 0
        self._lock = process_lock()
        self._kinds: Kinds = frozenset()
        """What somebody is to be told of."""
        self.is_there = False
        """Whether there is anybody to tell: all that a cache without one pays for."""
        self.wants_hits = False
        """Whether somebody is to be told of hits, or of operations from begin to end: mostly not."""
        self._of_commands: tuple[_Subscription, ...] = ()
        self.wants_commands = False
        """Whether somebody is to be told of commands of the store."""

    def subscribe(self, subscriber: Subscriber, kinds: Kinds = _ALL) -> Callable[[], None]:
        """Tell a function of every notice of these kinds; call what is given back to end that."""
        subscription = _Subscription(subscriber, kinds)
        with self._lock:
            self._subscribers[subscription] = None
            self._settle()

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers.pop(subscription, None)
                self._settle()

        return unsubscribe

    @block
    def explain(self) -> Generator[Explanation]:
        """Collect what calls in this context state while the block runs."""
        explaining = _Explaining(self, Explanation())
        around = tuple(each for each in _told.get() if not each.is_over)
        token = _told.set((*around, explaining))
        self._count_explanations(1)
        try:
            yield explaining.explanation
        finally:
            explaining.is_over = True  # tasks that the block has started may outlive it, and carry it on
            self._count_explanations(-1)
            with suppress(ValueError):  # an asynchronous generator may be ended in another context
                _told.reset(token)

    def tell(self, notices: Sequence[Notice]) -> None:
        """Tell everybody. What a subscriber raises is logged once; only what ends a program goes on."""
        for explaining in _told.get():
            if explaining.subscribers is self and not explaining.is_over:
                told = [notice for notice in notices if not isinstance(notice, Began)]
                explaining.explanation.notices.extend(told)
        if not self._subscribers or self._kinds.isdisjoint(map(type, notices)):
            return
        with telling():
            for notice in notices:
                for subscription in tuple(self._subscribers):  # each time: one may have unsubscribed
                    if type(notice) not in subscription.kinds:
                        continue
                    try:
                        subscription.subscriber(notice)
                    except Exception as error:  # noqa: BLE001 - it is none of the caller's business
                        let_through(error)
                        self._failed(subscription, error)

    def tell_command(self, asked: StoreAsked) -> None:
        """The same of a command of the store. With every hit: so nothing is looked at but who names it."""
        for subscription in self._of_commands:
            try:
                subscription.subscriber(asked)
            except Exception as error:  # noqa: BLE001 - it is none of the caller's business
                let_through(error)
                self._failed(subscription, error)

    def after_fork(self) -> None:
        """A lock that another thread held when the process forked is never released."""
        self._lock = process_lock()

    def _failed(self, subscription: _Subscription, error: Exception) -> None:
        if not subscription.has_failed:
            subscription.has_failed = True
            logger.warning(
                "cache %s: the subscriber %s raised %s; it goes on being told, and this is said once",
                self._namespace,
                _name(subscription.subscriber),
                type(error).__name__,
                exc_info=textless(error),
            )

    def _count_explanations(self, change: int) -> None:
        with self._lock:
            self._explanations += change
            self._settle()

    def _settle(self) -> None:
        self._kinds = frozenset().union(*(each.kinds for each in self._subscribers))
        self.wants_hits = self._explanations > 0 or not self._kinds.isdisjoint(_OF_HITS)
        self._of_commands = tuple(each for each in self._subscribers if StoreAsked in each.kinds)
        self.wants_commands = bool(self._of_commands)
        self.is_there = bool(self._subscribers or self._explanations)


def _name(subscriber: Any) -> str:
    named = subscriber if hasattr(subscriber, "__qualname__") else type(subscriber)
    return f"{named.__module__}.{named.__qualname__}"


def check_kinds(kinds: Any) -> Kinds:
    """Classes of notices, as `subscribe` is given them; all of them for None.

    Raises:
        ConfigurationError: One of them is none, or there is none.
    """
    if kinds is None:
        return _ALL
    given = (kinds,) if isinstance(kinds, type) or not isinstance(kinds, Iterable) else tuple(kinds)
    for kind in given:
        if kind not in _KNOWN:
            raise ConfigurationError(
                "kinds= takes classes of sansio_cache.notices, as in kinds=[Missed, Loaded]; got "
                f"{kind!r:.80}"
            )
    if not given:
        raise ConfigurationError("kinds= names no class of notices: nothing would ever be told")
    return frozenset(given)


def check_subscriber(subscriber: Any) -> None:
    """Refuse what cannot be told of notices.

    Raises:
        ConfigurationError: It cannot be called, or is a coroutine function.
    """
    if not callable(subscriber):
        raise ConfigurationError(
            f"subscribe takes a function of one notice; got {subscriber.__class__.__name__}"
        )
    if is_coroutine_function(subscriber):
        raise ConfigurationError(
            "the subscriber is a coroutine function, and nobody would await it: pass a plain function, which "
            "may start a task or put the notice into a queue"
        )
