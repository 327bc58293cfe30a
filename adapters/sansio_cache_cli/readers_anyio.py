"""Readers and the writer as tasks of asyncio or trio. Mirrors `readers_threads.py`.

SQLite blocks, so the loader is a plain function: the cache calls it on a worker thread.
"""

from __future__ import annotations

from itertools import count

import anyio
import anyio.to_thread

from sansio_cache_cli.board import Board
from sansio_cache_cli.database import Database, Report
from sansio_cache_cli.phases import Phase
from sansio_cache_cli.readers import READY_S, Harvest, Job, Reader, gather
from sansio_cache_cli.writer import PAUSE_S, Writer
from sansio_cache_redis.anyio import Cache


def read(job: Job, phase: Phase, board: Board) -> Harvest:
    """Run this process's readers through a phase."""
    with Database(job.path) as database:
        return anyio.run(_read_all, job, phase, database, board, backend=job.runtime)


async def _read_all(job: Job, phase: Phase, database: Database, board: Board) -> Harvest:
    async with Cache.from_url(job.url, namespace=job.namespace) as cache:
        await cache.wait_ready(READY_S)
        readers = [Reader(number, phase, database, board) for number in job.readers]
        async with anyio.create_task_group() as group:
            for reader in readers:
                group.start_soon(_read, reader, cache)
        return gather(readers, database, cache.stats())


async def _read(reader: Reader, cache: Cache) -> None:
    while reader.goes_on():
        with reader.request() as request:
            if reader.policy is None:
                request.answer = await anyio.to_thread.run_sync(request.load)
            else:
                key = cache.key.build("report", request.shop)
                request.answer = await cache.get_or_load(key, request.load, type=Report, policy=reader.policy)
        await anyio.sleep(reader.pause_s())


def write(job: Job, writer: Writer) -> None:
    """Update the database until told to end; every update tells the cache, in one of the two ways."""
    anyio.run(_write, job, writer, backend=job.runtime)


async def _write(job: Job, writer: Writer) -> None:
    async with Cache.from_url(job.url, namespace=job.namespace) as cache:
        await cache.wait_ready(READY_S)
        for turn in count():
            shop = writer.choose()
            key = cache.key.build("report", shop)
            before = cache.stats()
            if turn % 2:
                version = await anyio.to_thread.run_sync(writer.commit, shop)
                await cache.invalidate(key)
            else:
                async with cache.mutate(key):
                    version = await anyio.to_thread.run_sync(writer.commit, shop)
            writer.complete(shop, version, before, cache.stats())
            await anyio.sleep(PAUSE_S)
            if writer.finished.is_set():
                return
