"""Glances in the explorer: a read looks first, and its machine begins where that is not enough.

In a driver a glance is no state: it is over before there is a machine. Here it is the state of a worker that
waits for what it reads, so that whatever may happen meanwhile does.
"""

from __future__ import annotations

from typing import Any

import attrs

from sansio_cache.codec import Codec
from sansio_cache.commands import ReadCell, ReadCells
from sansio_cache.entry import key_check
from sansio_cache.events import Event
from sansio_cache.glance import Glance, GlanceMany, NamedTags, stamp_of
from sansio_cache.notices import Ended, Hit, OperationName
from sansio_cache.policy import Policy
from sansio_cache.step import Step, ended


@attrs.frozen
class Kinds:
    """The glances at one key and at many, or wrong ones."""

    one: type[Glance] = Glance
    many: type[GlanceMany] = GlanceMany


@attrs.frozen
class _Begun:
    """A machine that has begun, in case that it is needed."""

    step: Step

    def __call__(self, _: Glance | GlanceMany) -> Step:
        return self.step


@attrs.frozen
class Glancing:
    """Waits for what is read, and looks at it before its machine does."""

    glance: Glance | GlanceMany

    def receive(self, event: Event) -> Step:
        """Answer with what is there, or let the machine go on with the same event."""
        glance = self.glance
        outcome = glance.at(event)
        if outcome is None:
            return glance.first_step().state.receive(event)
        keys = (glance.command.key,) if isinstance(glance.command, ReadCell) else glance.command.keys
        return ended(outcome, *map(Hit, keys), Ended(glance.operation, event.now_s - glance.started_s))


def glancing(
    kinds: Kinds,
    operation: OperationName,
    codec: Codec[Any],
    tags: NamedTags,
    policy: Policy,
    begun: Step,
    now_s: float,
) -> Step:
    """Have a read that has begun, and asks for cells, look first."""
    command = begun.command
    glance: Glance | GlanceMany
    if isinstance(command, ReadCell):
        stamp = key_check(command.key) + stamp_of(codec, tags)
        glance = kinds.one(command, codec, stamp, operation, now_s, _Begun(begun), policy, tags)
    else:
        assert isinstance(command, ReadCells), "what begins without the store has nothing to look at"
        checks = tuple(map(key_check, command.keys))
        glance = kinds.many(
            command, codec, checks, operation, now_s, _Begun(begun), command.keys, policy, tags
        )
    return Step(Glancing(glance), command)
