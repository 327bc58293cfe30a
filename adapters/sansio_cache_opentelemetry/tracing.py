"""Tracing: operations and commands of a cache as spans.

`Began` and `Ended` of an operation are told in one thread or task, around all that happens in between. So its
span is made the current one with the first, and what was current before is again with the second: what a
loader begins, whatever makes it, is inside. Loaders on worker threads get the context of their callers.

A command is told of when it is over, and so its span is made then, with the times that it had.

A refresh in the background belongs to no request: whoever has caused it is over, and did not wait. It is the
root of a trace, and links to the operation that has begun it. The context of that, as of any caller, is
copied to where the refresh runs; so the last span that ended there is found without keeping any.

Who takes what another process has loaded cannot link to it: a link is made of the ids of the other's span,
and those would have to be stored with every entry. But both know the version of the entry, which no other
has: it is an attribute of whoever stores one, and of whoever has waited for one. A hit does not say it.
"""

from __future__ import annotations

import re
import time
from contextvars import ContextVar, copy_context
from typing import Any, Final

import attrs
from opentelemetry import context as context_api
from opentelemetry import trace as trace_api
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, Tracer

from sansio_cache.notices import (
    Began,
    Ended,
    FillRefused,
    InvalidationFailed,
    LeaseLost,
    LeaseOutgrown,
    Loaded,
    LoadFailed,
    LoadShared,
    Missed,
    Notice,
    OperationName,
    Outlived,
    RefreshSkipped,
    Result,
    StaleServed,
    StoreAsked,
    Stored,
    StoreGaveUp,
    SwapRefused,
    Unstorable,
    VariantStored,
    Waited,
)
from sansio_cache_opentelemetry import naming
from sansio_cache_opentelemetry.naming import Attributes
from sansio_cache_runtime.context import set_safely

HEARD: Final[tuple[type[Notice], ...]] = (
    Began,
    Ended,
    FillRefused,
    InvalidationFailed,
    LeaseLost,
    LeaseOutgrown,
    LoadFailed,
    LoadShared,
    Loaded,
    Missed,
    Outlived,
    RefreshSkipped,
    StaleServed,
    StoreGaveUp,
    Stored,
    SwapRefused,
    Unstorable,
    VariantStored,
    Waited,
)
"""What is a span, or an event in one."""

_FAILED: Final = frozenset({Result.FAILED, Result.UNAVAILABLE, Result.TIMED_OUT})
_HITS: Final = frozenset({Result.HIT, Result.STALE})
_MISSES: Final = frozenset({Result.SHARED, Result.LOADED, Result.MISSING, Result.FAILED})
_MAY_REFRESH: Final = frozenset({OperationName.GET_OR_LOAD, OperationName.GET_OR_LOAD_MANY})
_MOST_LOADS: Final = 1_000
_WORD: Final = re.compile("(?<=[a-z])(?=[A-Z])")
_last_ended: Final[ContextVar[tuple[int, SpanContext] | None]] = ContextVar(
    "sansio_cache_last_span", default=None
)
"""The operation that ended last in a context: a refresh that it has caused runs in a copy of it."""
_HERE: Final = context_api.create_key("sansio-cache-operation")


@attrs.frozen(eq=False)
class _Open:
    """A span that has not ended."""

    span: Span
    before: Context
    """What was current before it."""
    within: Context
    """What is current in it."""


def _make_current(context: Context) -> None:
    """Make a context the current one, also in a finaliser: see `sansio_cache_runtime.context`."""
    kept = copy_context()
    context_api.attach(context)
    del kept


class Tracing:
    """Makes spans of what a cache tells.

    Args:
        tracer: Makes them.
        namespace: The cache's.
        names_keys: Whether they name keys.
    """

    def __init__(self, tracer: Tracer, namespace: str, *, names_keys: bool) -> None:
        self._tracer = tracer
        self._namespace = namespace
        self._names_keys = names_keys
        self._open: dict[int, _Open] = {}
        self._loads: dict[str, SpanContext] = {}
        """Who has loaded a key last, of the keys that were loaded last: those who share it link to him."""

    def hear(self, notice: Notice) -> None:
        """Take a notice in."""
        match notice:
            case Began():
                self._begin(notice)
            case Ended():
                self._end(notice)
            case _:
                self._happened(notice)

    def hear_command(self, asked: StoreAsked) -> None:
        """Take a command in: a span of its own, where it is inside an operation that is recorded."""
        if self._here() is None:
            return
        ended_ns = time.time_ns()
        span = self._tracer.start_span(
            naming.summary_of(asked),
            kind=SpanKind.CLIENT if asked.system else SpanKind.INTERNAL,
            attributes=naming.command_attributes(asked),
            start_time=ended_ns - int(asked.took_s * 1e9),
        )
        if asked.failure is not None:
            span.set_status(Status(StatusCode.ERROR, asked.failure.value))
        span.end(ended_ns)

    def _begin(self, began: Began) -> None:
        before = parent = context_api.get_current()
        links: list[Link] = []
        if began.cause_id:
            last = _last_ended.get()
            if last is not None and last[0] == began.cause_id:
                links.append(Link(last[1]))
            parent = trace_api.set_span_in_context(trace_api.INVALID_SPAN, before)
        span = self._tracer.start_span(
            began.operation.value, context=parent, attributes=self._of(began), links=links
        )
        within = context_api.set_value(_HERE, began.id, trace_api.set_span_in_context(span, parent))
        self._open[began.id] = _Open(span, before, within)
        _make_current(within)

    def _of(self, began: Began) -> Attributes:
        attributes: Attributes = {
            naming.CACHE_NAME: self._namespace,
            naming.OPERATION: began.operation.value,
            naming.ENTITY: began.entity,
        }
        if self._names_keys and began.key:
            attributes[naming.KEY] = str.__str__(began.key)  # a plain one, for exporters
        if began.count != 1:
            attributes[naming.KEY_COUNT] = began.count
        if began.part:
            attributes[naming.PART] = began.part
        if began.cause_id:
            attributes[naming.BACKGROUND] = True
        return attributes

    def _end(self, ended: Ended) -> None:
        opened = self._open.pop(ended.id, None)
        if opened is None:  # it had begun before anybody asked
            return
        span, result = opened.span, ended.result
        if context_api.get_current() is opened.within:
            # Not by a token: the two ends of a mutation may be in two contexts.
            _make_current(opened.before)
        if ended.operation in _MAY_REFRESH:
            set_safely(_last_ended, (ended.id, span.get_span_context()))
        if result is not None:
            span.set_attribute(naming.RESULT, result.value)
            if result in _HITS or result in _MISSES:
                span.set_attribute(naming.HIT, result in _HITS)
            if result is Result.STALE:
                span.set_attribute(naming.STALE, True)
            if result in _FAILED:
                span.set_status(Status(StatusCode.ERROR, result.value))
        span.end()

    def _here(self) -> Span | None:
        """The span of the operation that the running context is in, if it is recorded."""
        number: Any = context_api.get_value(_HERE)
        opened = self._open.get(number)
        return opened.span if opened is not None and opened.span.is_recording() else None

    def _remember(self, key: str, context: SpanContext) -> None:
        if len(self._loads) >= _MOST_LOADS:
            self._loads.clear()
        self._loads[key] = context

    @staticmethod
    def _name_version(span: Span, version: bytes, attributes: Attributes) -> None:
        """Say which value it was: an attribute of the span, to be searched for, and of the event."""
        if version:
            attributes[naming.ENTRY_VERSION] = version.hex()
            span.set_attribute(naming.ENTRY_VERSION, version.hex())

    def _happened(self, notice: Notice) -> None:
        span = self._here()
        if span is None:
            return
        attributes: Attributes = {}
        match notice:
            case Missed(reason=reason):
                attributes[naming.MISS_REASON] = reason.value
            case Waited(waited_s=waited_s, version=version):
                attributes["cache.waited_s"] = waited_s
                self._name_version(span, version, attributes)
            case LoadShared(key=key) if key in self._loads:
                span.add_link(self._loads[key])
            case Loaded(key=key, leased=leased, took_s=took_s):
                self._remember(key, span.get_span_context())
                attributes |= {"cache.load.leased": leased, "cache.load.took_s": took_s}
            case LoadFailed(error=error):
                attributes[naming.ERROR_TYPE] = error
            case Stored(size_bytes=size_bytes, version=version):
                attributes["cache.item_size"] = size_bytes
                self._name_version(span, version, attributes)
            case StoreGaveUp(kind=kind):
                attributes[naming.ERROR_TYPE] = kind.value
            case Unstorable(kind=name):
                attributes["cache.value.class"] = name
            case _:
                pass
        span.add_event(_WORD.sub("_", type(notice).__name__).lower(), attributes)
