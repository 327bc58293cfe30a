"""Namespaces with many entries, put there at once: as caches store them, without a cache's round trips."""

from __future__ import annotations

import random
import time

import redis

from sansio_cache import KeyBuilder
from sansio_cache.cell import Cell, Kind, format_cell, make_grant
from sansio_cache.codec import codec_for
from sansio_cache.entry import seal

_BATCH = 5_000


def fill_namespace(client: redis.Redis, namespace: str, numbers: range, *, ttl_s: float = 3600.0) -> None:
    """Store entries with 10 to 20 % of jitter, from one seed: every fifth an `order`, the others a `user`."""
    draw = random.Random(7)
    keys = KeyBuilder(namespace)
    codec = codec_for(None, 10_000)
    for first in range(0, len(numbers), _BATCH):
        pipeline = client.pipeline(transaction=False)
        now_us = time.time_ns() // 1000
        for number in numbers[first : first + _BATCH]:
            key = keys.build("order" if number % 5 == 0 else "user", number)
            body = seal(key, codec, b'{"id":%d,"name":"Ada"}' % number, 0.01)
            grant = make_grant(b"%08d" % number, now_us)
            life_ms = round(ttl_s * 1000 * (1.1 + 0.1 * draw.random()))
            pipeline.set(key, format_cell(Cell(Kind.VALUE, filled_by=grant, body=body)), px=life_ms)
        pipeline.execute()
