"""Writer calls: how the writer of a queue is called, and what is made of its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any, Final

import attrs

from sansio_cache.queues import QueuedWrite
from sansio_cache.signals import let_through
from sansio_cache_runtime.request_builder import Id
from sansio_cache_runtime.tracebacks import Telling

_FURTHEST_US: Final = 3600 * 10**6
"""How far ahead of a write's own token one may be, in microseconds: more is no token of the queue."""
_MOST_AHEAD: Final = 10_000

WriterCall = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""A writer, and what it is called with."""


@attrs.frozen
class WriterTurn:
    """What is called for some writes.

    The ids are those of the values as they were queued: a writer may change what it is given.
    """

    writes: Sequence[QueuedWrite]
    ids: Sequence[Id]
    """The ids of the values; none where nobody needs them."""
    calls: Sequence[WriterCall]
    takes_token: bool
    is_many: bool

    def told(self, returned: Sequence[Any]) -> dict[str, int]:
        """By key the tokens that the database has now, as far as what was called says so."""
        if not self.takes_token:
            return {}
        tokens = returned
        if self.is_many:
            answer = returned[0]
            tokens = [answer.get(each) for each in self.ids] if isinstance(answer, Mapping) else []
        return {
            each.key: token for each, token in zip(self.writes, tokens, strict=False) if type(token) is int
        }


@attrs.frozen
class WriterCalls:
    """How a writer is called with what is queued.

    Args:
        writer: Called with a value; with its id before that, where it takes two.
        write_many: Called with a list of values.
        takes_id: Whether the writer takes two.
        id_of: Gives the id of a value.
        takes_token: Whether what is called wants the tokens: `token=`, or `tokens=` by id.
    """

    writer: Callable[..., Any] | None
    write_many: Callable[..., Any] | None
    takes_id: bool
    id_of: Callable[[Any], Id]
    takes_token: bool = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        many = self.write_many is not None
        takes = takes_keyword(self.write_many if many else self.writer, "tokens" if many else "token")
        object.__setattr__(self, "takes_token", takes)

    def turn(self, writes: Sequence[QueuedWrite]) -> WriterTurn:
        """What to call, with which arguments."""
        is_many, takes_token = self.write_many is not None, self.takes_token
        needs_ids = takes_token if is_many else self.takes_id
        ids = [self.id_of(each.value) for each in writes] if needs_ids else []
        if self.write_many is not None:
            tokens = {which: each.token for which, each in zip(ids, writes, strict=False)}
            named = {"tokens": tokens} if takes_token else {}
            calls: list[WriterCall] = [(self.write_many, ([each.value for each in writes],), named)]
            return WriterTurn(writes, ids, calls, takes_token, is_many)
        writer = self.writer
        assert writer is not None
        calls = [
            (
                writer,
                (ids[place], each.value) if self.takes_id else (each.value,),
                {"token": each.token} if takes_token else {},
            )
            for place, each in enumerate(writes)
        ]
        return WriterTurn(writes, ids, calls, takes_token, is_many)


class ReturnedNoTokenError(Telling, ValueError):
    """A writer that takes tokens has returned an integer that is none. The log says which."""


class Ahead:
    """The keys of which a consumer was told a token above that of the write, by the last such token.

    Such a write is queued again, above that token, unless a newer one of the key is there, which is told the
    same then. So the rule is: *a write that is above what was told of its key before is told of nothing
    higher*. A writer that breaks it returns what is no token, and without the rule the write would be queued
    for ever. Writes that are not above it may be told as often as they are delivered, as by a lost lease:
    they are not queued again without end, as what is told of them takes the place of what was told before,
    and what is queued again is above that. What is applied ends it.
    """

    def __init__(self) -> None:
        self._told: dict[str, int] = {}

    def found(self, turn: WriterTurn, returned: Sequence[Any]) -> dict[str, int]:
        """By key the tokens that the database has now, as far as the writer says so.

        Raises:
            ReturnedNoTokenError: The writer has returned what cannot be a token of the queue.
        """
        told = turn.told(returned)
        ahead = {each.key: told[each.key] for each in turn.writes if told.get(each.key, 0) > each.token}
        for each in turn.writes:
            if each.key in ahead:
                self._check(each, ahead[each.key])
        for each in turn.writes:
            self._told.pop(each.key, None)
        if len(self._told) < _MOST_AHEAD:
            self._told |= ahead
        return told

    def _check(self, write: QueuedWrite, token: int) -> None:
        if token - write.token > _FURTHEST_US:
            why = "which is more than an hour ahead of that"
        elif write.token > self._told.get(write.key, write.token):
            why = "though the write is above what it had returned before"
        else:
            return
        raise ReturnedNoTokenError(
            f"the writer was given the token {write.token} for {write.key}, and returned {token}, {why}: a "
            "writer that takes tokens returns the one that the database has, or None, and no other integer"
        )


def takes_keyword(function: Callable[..., Any] | None, name: str) -> bool:
    """Whether a function takes an argument by this name."""
    if function is None:
        return False
    try:
        return name in signature(function).parameters
    except (TypeError, ValueError) as error:  # built in, and does not say
        let_through(error)
        return False


def failed_try(error: BaseException) -> Exception:
    """What a writer has raised, as the failure of a try: what ends programs or tasks ends no consumer."""
    if isinstance(error, Exception):
        return error
    failure = RuntimeError(f"the writer raised {type(error).__name__}")
    failure.__cause__ = error
    return failure
