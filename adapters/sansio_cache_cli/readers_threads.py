"""Readers and the writer on threads. Mirrors `readers_anyio.py`."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from sansio_cache_cli.board import Board
from sansio_cache_cli.database import Database, Report
from sansio_cache_cli.phases import Phase
from sansio_cache_cli.readers import READY_S, Harvest, Job, Reader, gather
from sansio_cache_cli.writer import PAUSE_S, Writer
from sansio_cache_redis.sync import Cache


def read(job: Job, phase: Phase, board: Board) -> Harvest:
    """Run this process's readers through a phase."""
    with Database(job.path) as database, Cache.from_url(job.url, namespace=job.namespace) as cache:
        cache.wait_ready(READY_S)
        readers = [Reader(number, phase, database, board) for number in job.readers]
        with ThreadPoolExecutor(len(readers)) as pool:
            for done in [pool.submit(_read, reader, cache) for reader in readers]:
                done.result()
        return gather(readers, database, cache.stats())


def _read(reader: Reader, cache: Cache) -> None:
    while reader.goes_on():
        with reader.request() as request:
            if reader.policy is None:
                request.answer = request.load()
            else:
                key = cache.key.build("report", request.shop)
                request.answer = cache.get_or_load(key, request.load, type=Report, policy=reader.policy)
        time.sleep(reader.pause_s())


def write(job: Job, writer: Writer) -> None:
    """Update the database until told to end; every update tells the cache, in one of the two ways."""
    with Cache.from_url(job.url, namespace=job.namespace) as cache:
        cache.wait_ready(READY_S)
        for turn in count():
            shop = writer.choose()
            key = cache.key.build("report", shop)
            before = cache.stats()
            if turn % 2:
                version = writer.commit(shop)
                cache.invalidate(key)
            else:
                with cache.mutate(key):
                    version = writer.commit(shop)
            writer.complete(shop, version, before, cache.stats())
            if writer.finished.wait(PAUSE_S):
                return
