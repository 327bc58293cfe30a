"""The same mistakes under an event loop: see `cached_programs.py`."""

from sansio_cache import Policy

STALE = Policy(ttl=60, stale_for_s=600)


async def invalidates_before_its_commit(world, is_right):
    cache, rows = world.cache(), world.rows({1: 0})

    async def read():
        return await cache.get_or_load("row:1", rows.read, 1)

    async def write():
        if not is_right:
            await cache.invalidate("row:1")
        await rows.write(1, 1)
        if is_right:
            await cache.invalidate("row:1")

    world.reader(read)
    world.writer(write)


async def sets_in_a_race(world, is_right):
    cache, rows = world.cache(), world.rows({1: 0})

    async def read():
        return await cache.get_or_load("row:1", rows.read, 1)

    async def write(value):
        if is_right:
            async with cache.mutate("row:1") as mutation:
                await rows.write(1, value)
                mutation.set("row:1", value)
        else:
            await rows.write(1, value)
            await cache.set("row:1", value)

    world.reader(read)
    world.writer(write, 1)
    world.writer(write, 2)


async def binds_late(world, is_right):
    cache, rows = world.cache(), world.rows({1: "a", 2: "b"})
    request = {}

    async def read(id):
        request["id"] = id
        if is_right:
            return await cache.get_or_load(f"row:{id}", rows.read, id, policy=STALE)
        return await cache.get_or_load(f"row:{id}", lambda: rows.read(request["id"]), policy=STALE)

    await read(1)
    await read(2)
    await world.pass_time(100)
    world.reader(read, 1, name="reads 1", may_be_stale=True)
    world.reader(read, 2, name="reads 2", may_be_stale=True)
    world.reader(read, 1, name="reads 1 again", may_be_stale=True)


async def reads_a_replica(world, is_right):
    cache, rows = world.cache(), world.rows({1: 0})
    source = rows if is_right else rows.replica

    async def read():
        return await cache.get_or_load("row:1", source.read, 1)

    async def write():
        await rows.write(1, 1)
        await cache.invalidate("row:1")

    world.reader(read)
    world.writer(write)


PROGRAMS = (invalidates_before_its_commit, sets_in_a_race, binds_late, reads_a_replica)
