"""How far a call walks: through how many functions and files of ours, and how often from one to another.

A profiler counts what a call of one key goes through. Who reads it reads as much; and what a hit walks is
what it costs. On memory, as how often a connection looks for a reply is a matter of time.
"""

from __future__ import annotations

import sys
from itertools import count, pairwise
from pathlib import Path
from typing import Final

import anyio
import pytest

import sansio_cache
import sansio_cache_redis
import sansio_cache_runtime
from sansio_cache_redis import anyio as cache_anyio
from sansio_cache_redis import sync as cache_sync

OURS: Final = tuple(
    f"{Path(package.__file__).parent}/"
    for package in (sansio_cache, sansio_cache_redis, sansio_cache_runtime)
)
TIMES: Final = 8
"""Of how many calls the shortest walk is taken: in others a connection is looked after, or it is counted."""

LONGEST: Final = {
    ("sync", "hit"): (16, 11, 12),
    ("asyncio", "hit"): (18, 12, 13),
    ("trio", "hit"): (18, 12, 13),
    ("sync", "miss"): (155, 32, 100),
    ("asyncio", "miss"): (160, 34, 105),
    ("trio", "miss"): (160, 34, 105),
    ("sync", "set"): (110, 29, 63),
    ("asyncio", "set"): (115, 30, 67),
    ("trio", "set"): (115, 30, 67),
}
"""Calls, files, and moves from one file to another."""


class Walk:
    """The functions of ours that were called, with their files, in order."""

    def __init__(self):
        self.calls = []

    def __call__(self, frame, event, _):
        if event == "call":
            path = frame.f_code.co_filename
            if path.startswith(OURS):
                self.calls.append((path, frame.f_code.co_qualname))

    @property
    def lengths(self):
        """Calls, files, and moves from one file to another."""
        files = [path for path, _ in self.calls]
        moves = sum(a != b for a, b in pairwise(files))
        return len(files), len(set(files)), moves


VALUE: Final = {"id": 7, "name": "Ada"}


async def load():
    return VALUE


def calls_of(cache, kind, loader):
    """A function that makes the next call of a kind."""
    keys = (f"user:{number}" for number in count())
    return {
        "hit": lambda: cache.get_or_load("hit", loader),
        "miss": lambda: cache.get_or_load(next(keys), loader),
        "set": lambda: cache.set(next(keys), VALUE),
    }[kind]


def walks_of_threads(kind):
    with cache_sync.Cache.from_url("memory://", namespace="shop") as cache:
        cache.set("hit", VALUE)
        call = calls_of(cache, kind, lambda: VALUE)
        for _ in range(TIMES):
            sys.setprofile(walk := Walk())
            try:
                call()
            finally:
                sys.setprofile(None)
            yield walk.lengths


async def walks_of_tasks(kind):
    walks = []
    async with cache_anyio.Cache.from_url("memory://", namespace="shop") as cache:
        await cache.set("hit", VALUE)
        call = calls_of(cache, kind, load)
        for _ in range(TIMES):
            sys.setprofile(walk := Walk())
            try:
                await call()
            finally:
                sys.setprofile(None)
            walks.append(walk.lengths)
    return walks


@pytest.mark.parametrize(("runtime", "kind"), LONGEST)
def test_a_call_of_one_key_walks_through_so_many_functions_and_files(runtime, kind):
    if runtime == "sync":
        walks = list(walks_of_threads(kind))
    else:
        walks = anyio.run(walks_of_tasks, kind, backend=runtime)
    walked = tuple(map(min, zip(*walks, strict=True)))
    assert all(each <= most for each, most in zip(walked, LONGEST[runtime, kind], strict=True)), walked
    assert walked[0] > 5  # the profiler was at work
