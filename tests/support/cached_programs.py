"""Programs with the mistakes that people make with a cache, and corrected: each is a scenario of a world."""

from sansio_cache import Policy

STALE = Policy(ttl=60, stale_for_s=600)


def invalidates_before_its_commit(world, is_right):
    cache, rows = world.cache(), world.rows({1: 0})

    def read():
        return cache.get_or_load("row:1", rows.read, 1)

    def write():
        if not is_right:
            cache.invalidate("row:1")
        rows.write(1, 1)
        if is_right:
            cache.invalidate("row:1")

    world.reader(read)
    world.writer(write)


def sets_in_a_race(world, is_right):
    cache, rows = world.cache(), world.rows({1: 0})

    def read():
        return cache.get_or_load("row:1", rows.read, 1)

    def write(value):
        if is_right:
            with cache.mutate("row:1") as mutation:
                rows.write(1, value)
                mutation.set("row:1", value)
        else:
            rows.write(1, value)
            cache.set("row:1", value)

    world.reader(read)
    world.writer(write, 1)
    world.writer(write, 2)


def binds_late(world, is_right):
    cache, rows = world.cache(), world.rows({1: "a", 2: "b"})
    request = {}

    def read(id):
        request["id"] = id
        if is_right:
            return cache.get_or_load(f"row:{id}", rows.read, id, policy=STALE)
        return cache.get_or_load(f"row:{id}", lambda: rows.read(request["id"]), policy=STALE)

    read(1)
    read(2)
    world.pass_time(100)
    world.reader(read, 1, name="reads 1", may_be_stale=True)
    world.reader(read, 2, name="reads 2", may_be_stale=True)
    world.reader(read, 1, name="reads 1 again", may_be_stale=True)


def forgets_a_key(world, is_right):
    cache, rows = world.cache(), world.rows({1: 5, 2: 7})

    def total():
        return cache.get_or_load("total", lambda: sum(rows.find().values()))

    def write():
        rows.write(1, 6)
        cache.invalidate("row:1", *(["total"] if is_right else []))

    total()
    world.reader(total)
    world.writer(write)


def reads_a_replica(world, is_right):
    cache, rows = world.cache(), world.rows({1: 0})
    source = rows if is_right else rows.replica

    def read():
        return cache.get_or_load("row:1", source.read, 1)

    def write():
        rows.write(1, 1)
        cache.invalidate("row:1")

    world.reader(read)
    world.writer(write)


def names_no_tag(world, is_right):
    cache, rows = world.cache(), world.rows({1: 0})

    def listed():
        return cache.get_or_load("list", lambda: sorted(rows.find()), tags=["rows"])

    def add():
        rows.write(2, 0)
        cache.invalidate(tags=["rows"])

    def remove():
        rows.delete(1)
        cache.invalidate("row:1", tags=["rows"] if is_right else [])

    listed()
    world.reader(listed)
    world.writer(add)
    world.writer(remove)


PROGRAMS = (
    invalidates_before_its_commit,
    sets_in_a_race,
    binds_late,
    forgets_a_key,
    reads_a_replica,
    names_no_tag,
)
