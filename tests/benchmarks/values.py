"""What is stored: plain JSON of an exact size, the same for every contender."""

import json
from collections.abc import Iterable
from functools import cache
from typing import Any

SIZES = {"100 B": 100, "200 B": 200, "2 kB": 2_000, "100 kB": 100_000}
USUAL = "2 kB"


_encode = json.JSONEncoder(separators=(",", ":")).encode


def dumps(value: Any) -> bytes:
    """Compact JSON, by the standard library: for the contenders that leave the encoding to their user."""
    return _encode(value).encode()


def decoded(keys: Iterable[str], found: Iterable[Any]) -> dict[str, Any]:
    """What a batch has found, by key, without what is missing: the same way."""
    return {key: json.loads(value) for key, value in zip(keys, found, strict=True) if value is not None}


def _text_bytes(value: Any) -> int:
    return len(dumps(value))


def _row(number: int) -> dict[str, Any]:
    return {"n": number, "name": "Ada Lovelace", "mail": "ada@example.org", "ok": True, "score": 12.5}


@cache
def _shape(size_bytes: int) -> int:
    """How many rows fit into a value of that size."""
    room = size_bytes - _text_bytes({"id": 1_000_000, "rows": [], "note": ""})
    return max(0, room // (_text_bytes(_row(1_000)) + 1))


def make_value(number: int, size_bytes: int) -> dict[str, Any]:
    """A value that knows its number, of so many bytes of compact JSON."""
    value: dict[str, Any] = {
        "id": number,
        "rows": [_row(each) for each in range(_shape(size_bytes))],
        "note": "",
    }
    value["note"] = "x" * max(0, size_bytes - _text_bytes(value))
    return value


def make_items(count: int, size: str) -> dict[str, Any]:
    """So many keys with values of that named size."""
    return {f"item:{number}": make_value(number, SIZES[size]) for number in range(count)}
