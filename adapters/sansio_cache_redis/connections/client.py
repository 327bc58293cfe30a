"""Connections of a blocking redis-py client that the user owns: batches go through its pipelines.

The client is never closed. Its own time-outs and retries apply on its connections, as nobody else can end its
calls: it is best made with a short `socket_timeout` and without retries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sansio_cache_redis.wire import Args


def filled(pipeline: Any, commands: Sequence[Args]) -> Any:
    """A pipeline of redis-py with commands in it, their names as texts: instrumentation joins them."""
    for name, *args in commands:
        pipeline.execute_command(name.decode(), *args)
    return pipeline


class ClientConnections:
    """The connections of a blocking client, for threads."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def execute(self, commands: Sequence[Args], timeout_s: float) -> list[Any]:  # noqa: ARG002
        """Send commands together; returns their replies, error replies as values.

        Raises:
            RedisError, OSError: The fate of the commands is unknown.
        """
        with self._client.pipeline(transaction=False) as pipeline:
            replies: list[Any] = filled(pipeline, commands).execute(raise_on_error=False)
            return replies

    def reset(self) -> None:
        """Close the client's connections; it opens new ones by itself."""
        self._client.connection_pool.disconnect()

    def close(self) -> None:
        """Leave the client to its owner."""
