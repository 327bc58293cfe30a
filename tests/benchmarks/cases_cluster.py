"""A cluster of three nodes, beside the cluster clients of redis-py."""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from typing import Any

import attrs
import redis.asyncio

from benchmarks import asynchronous, blocking, operations
from benchmarks.case import Case
from benchmarks.contenders import OURS, Address, Contender, Peer
from benchmarks.lab import Entrant, Lab, rates
from benchmarks.loads import Job
from benchmarks.results import Group
from benchmarks.values import decoded, make_items
from support.clusters import ClusterServers

_SIZE = "200 B"
_MOST_CONNECTIONS = 10_000
"""Of redis.asyncio to each node. With those that it comes with it fails where more callers ask at once."""


@attrs.frozen
class _OnCluster(Lab):
    """The same lab, where all contenders share a cluster."""

    nodes: ClusterServers = attrs.field(kw_only=True)

    def address(self, contender: Contender, transport: str = "cluster") -> Address:
        """One node: it names the others."""
        return Address(transport="cluster", port=self.nodes.primaries[0].port, path="", db=contender.db)

    def empty(self, contenders: Iterable[Contender]) -> None:
        """Remove everything."""
        for node in self.nodes.primaries:
            node.client().flushall()


@contextmanager
def _open_redis(address: Address, *, is_pipelined: bool = False) -> Iterator[Peer]:
    with closing(redis.RedisCluster(host="127.0.0.1", port=address.port)) as client:

        def get_many(keys: list[str]) -> dict[str, Any]:
            if not is_pipelined:
                return decoded(keys, client.mget_nonatomic(keys))
            pipeline = client.pipeline()
            for key in keys:
                pipeline.get(key)
            return decoded(keys, pipeline.execute())

        yield attrs.evolve(blocking.on_redis(client), get_many=get_many)


@asynccontextmanager
async def _open_redis_async(address: Address, *, is_pipelined: bool = False) -> AsyncIterator[Peer]:
    async with redis.asyncio.RedisCluster(
        host="127.0.0.1", port=address.port, max_connections=_MOST_CONNECTIONS
    ) as client:

        async def get_many(keys: list[str]) -> dict[str, Any]:
            if not is_pipelined:
                return decoded(keys, await client.mget_nonatomic(keys))
            pipeline = client.pipeline()
            for key in keys:
                pipeline.get(key)
            return decoded(keys, await pipeline.execute())

        yield attrs.evolve(asynchronous.on_redis(client), get_many=get_many)


_OURS, _THEIRS = "msgspec JSON", "json"
_BY_SLOT, _PIPELINE = "`mget_nonatomic`", "a pipeline of GETs"
_ASYNC = (
    Contender(name=f"{OURS}, asyncio", runtime="asyncio", db=0, open=asynchronous.open_ours, codec=_OURS),
    Contender(name="redis.asyncio", runtime="asyncio", db=0, open=_open_redis_async, codec=_THEIRS),
    Contender(name=f"{OURS}, trio", runtime="trio", db=0, open=asynchronous.open_ours, codec=_OURS),
)
_THREADS = (
    Contender(name=OURS, runtime="threads", db=0, open=blocking.open_ours, codec=_OURS),
    Contender(name="redis-py", runtime="threads", db=0, open=_open_redis, codec=_THEIRS),
)


def _pipelined(contender: Contender) -> Contender:
    """The same client, with batches by another way."""
    pipelining = partial(contender.open, is_pipelined=True)
    return attrs.evolve(contender, name=f"{contender.name}: a pipeline", open=pipelining, note=_PIPELINE)


def _cluster(lab: Lab) -> Iterator[Group]:
    lab.progress("cluster: starting")
    with ClusterServers.start() as nodes:
        yield from _cases(_OnCluster(lab.server, lab.scale, lab.progress, nodes=nodes))


def _cases(lab: _OnCluster) -> Iterator[Group]:
    items = make_items(lab.scale.keys, _SIZE)
    some = make_items(lab.scale.batch, _SIZE)
    for contenders, unit in ((_ASYNC, "callers"), (_THREADS, "threads")):
        counts = lab.scale.callers if unit == "callers" else lab.scale.threads
        for count in counts:
            job = partial(Job, callers=count, window_s=lab.scale.window_s, fill=items)
            entrants = [Entrant.of(each, operations.get(list(items))) for each in contenders]
            conditions: dict[str, Any] = {"what": "get", "value": _SIZE, unit: count}
            yield rates(lab, "cluster", entrants, conditions, job)
        for count in counts[:2]:
            job = partial(Job, callers=count, window_s=lab.scale.window_s, fill=some, items=len(some))
            get_many = operations.get_many(list(some))
            entrants = [
                Entrant.of(each, get_many, note=None if each.is_ours else f"{each.codec}; {_BY_SLOT}")
                for each in contenders
            ]
            entrants += [Entrant.of(_pipelined(each), get_many) for each in contenders if not each.is_ours]
            conditions = {"what": "get_many", "value": _SIZE, "keys a call": len(some), unit: count}
            yield rates(lab, "cluster", entrants, conditions, job)


CASES = (
    Case(
        name="cluster",
        about="Hits on a cluster of three nodes; of batches the figures are by key.",
        run=_cluster,
    ),
)
