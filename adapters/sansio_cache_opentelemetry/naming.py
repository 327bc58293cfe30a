"""Naming: what attributes are called.

What is about the store is named as the semantic conventions for database clients and for Redis have it.
For caches there are none yet: these names are FusionCache's without its prefix, and Sentry's, where they
have one.

https://opentelemetry.io/docs/specs/semconv/db/redis
"""

from __future__ import annotations

import re
from typing import Final

from sansio_cache.notices import StoreAsked

CACHE_NAME: Final = "cache.name"
ENTITY: Final = "cache.entity"
OPERATION: Final = "cache.operation"
BACKGROUND: Final = "cache.operation.background"
KEY: Final = "cache.key"
ENTRY_VERSION: Final = "cache.entry.version"
KEY_COUNT: Final = "cache.key.count"
PART: Final = "cache.part"
PARTITION: Final = "cache.queue.partition"
RESULT: Final = "cache.result"
HIT: Final = "cache.hit"
STALE: Final = "cache.stale"
MISS_REASON: Final = "cache.miss.reason"
ERROR_TYPE: Final = "error.type"

OF_LABELS: Final = {
    "cache": CACHE_NAME,
    "entity": ENTITY,
    "reason": MISS_REASON,
    "operation": OPERATION,
    "kind": ERROR_TYPE,
    "part": PART,
    "partition": PARTITION,
}
"""What the labels of measures are called."""

_DEFAULT_PORT: Final = 6379
_FIRST_WORD: Final = re.compile("[A-Z][a-z]+")
_SCRIPTS: Final = ("EVALSHA", "EVAL")

Attributes = dict[str, str | bool | int | float]


def verb_of(command: str) -> str:
    """What a command of the store does, in a word: `fill` for `FillCells`."""
    found = _FIRST_WORD.match(command)
    return found[0].lower() if found else command


def summary_of(asked: StoreAsked) -> str:
    """What a command is called in a trace: `GET read`, `EVALSHA acquire`; without a server `read`."""
    verb = verb_of(asked.command)
    return f"{_operation(asked.words)} {verb}" if asked.words else verb


def command_attributes(asked: StoreAsked) -> Attributes:
    """The attributes of a command, which only what is bounded goes into: of its span and its duration."""
    attributes: Attributes = {}
    if asked.system:
        attributes["db.system.name"] = asked.system
        attributes["db.operation.name"] = _operation(asked.words)
        attributes["db.namespace"] = asked.database
        attributes["db.query.summary"] = summary_of(asked)
        if len(asked.words) > 1:
            attributes["db.operation.batch.size"] = len(asked.words)
        attributes["server.address"] = asked.host
        if asked.port not in (0, _DEFAULT_PORT):
            attributes["server.port"] = asked.port
        if any(word in _SCRIPTS for word in asked.words):
            attributes["db.stored_procedure.name"] = verb_of(asked.command)
    if asked.part:
        attributes[PART] = asked.part
    if asked.failure is not None:
        attributes[ERROR_TYPE] = asked.failure.value
    return attributes


def _operation(words: tuple[str, ...]) -> str:
    if len(words) == 1:
        return words[0]
    return f"PIPELINE {words[0]}" if len(set(words)) == 1 else "PIPELINE"
