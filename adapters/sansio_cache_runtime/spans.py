"""Spans: operations as subscribers follow them, from their begin to their end.

A span is made for an operation where somebody wants to be told of it: that it begins, before anything else,
and that it ends, however it does, in the same thread or task. So what a subscriber makes current when it is
told of the one (a span of OpenTelemetry, a field of the log), and ends when it is told of the other, is
around all that happens in between: loaders, the blocks of mutations, and the calls of a cache in these.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Final

import attrs

from sansio_cache.notices import Began, Ended, Notice, OperationName, Result
from sansio_cache.spans import Subject, result_of, subject_of
from sansio_cache.step import ManyHeld, Step
from sansio_cache_runtime.context import set_safely
from sansio_cache_runtime.subscribers import Subscribers

_numbers: Final = itertools.count(1)
_OF_PATTERNS: Final = (OperationName.DELETE_PATTERN, OperationName.SCAN)


@attrs.define(eq=False)
class Span:
    """One operation that is followed."""

    _subscribers: Subscribers
    _clock: Callable[[], float]
    began: Began
    """What was told of it first."""
    _since_s: float
    _outer: Span | None
    _stated: set[type[Notice]] = attrs.field(factory=set, init=False)
    _is_held: bool = attrs.field(default=False, init=False)
    """Whether it is a mutation, and its block runs."""
    _is_over: bool = attrs.field(default=False, init=False)

    def taken(self, step: Step) -> Sequence[Notice]:
        """What a step states; of the last one, with what is known by then."""
        self._stated.update(map(type, step.notices))
        self._is_held = isinstance(step.outcome, ManyHeld)
        if step.outcome is None or self._is_held:
            return step.notices
        result = result_of(step.outcome, self._stated)
        stated = step.notices[-1] if step.notices else None
        is_stated = isinstance(stated, Ended)
        ended = self._end(result, stated.took_s if isinstance(stated, Ended) else None)
        return (*(step.notices[:-1] if is_stated else step.notices), ended)

    def abandon(self) -> None:
        """Tell that the operation was interrupted, unless it has ended, or the block of a mutation runs."""
        if not (self._is_over or self._is_held):
            self._subscribers.tell((self._end(Result.ABANDONED, None),))

    def _end(self, result: Result, took_s: float | None) -> Ended:
        self._is_over = True
        set_safely(_running, self._outer)
        began = self.began
        if took_s is None:
            took_s = self._clock() - self._since_s
        return Ended(began.operation, took_s, result, began.key, began.count, began.part, began.id)


_running: Final[ContextVar[Span | None]] = ContextVar("sansio_cache_span", default=None)
"""The innermost operation that the running context is in, of whichever cache."""


def leave_spans() -> None:
    """Where background work begins: it may have got the context of the call that happened to start it."""
    set_safely(_running, None)


def begin_span(
    subscribers: Subscribers,
    step: Step,
    part_of: Callable[[str], str],
    clock: Callable[[], float],
    cause_id: int,
) -> Span | None:
    """Tell that an operation begins; None where it is none of a user's, nor a refresh; see `subject_of`.

    Args:
        subscribers: Whom to tell.
        step: Its first step.
        part_of: Which part of the store has a key.
        clock: Monotonic, in seconds.
        cause_id: Of a refresh, the number of the operation that has begun it.
    """
    subject = subject_of(step)
    if subject is None:
        return None
    outer = _running.get()
    began = _began(subject, part_of, 0 if outer is None else outer.began.id, cause_id)
    span = Span(subscribers, clock, began, clock(), outer)
    set_safely(_running, span)
    try:
        subscribers.tell((began,))
    except BaseException:  # a subscriber ends the program, and the driver does not have the span yet
        span.abandon()
        raise
    return span


def _began(subject: Subject, part_of: Callable[[str], str], parent_id: int, cause_id: int) -> Began:
    key = subject.keys[0] if subject.keys else ""
    count = 0 if subject.operation in _OF_PATTERNS else len(subject.keys)
    return Began(subject.operation, key, count, part_of(key), next(_numbers), parent_id, cause_id)
