"""What is needed of redis-py below its public methods; here and nowhere else.

A connection that redis-py has opened, authenticated and shaken hands on is driven through its stream or
socket, with a reply parser of its own: that halves the price of a reply. A test holds this module to the
installed version. Where an attribute is gone, the answer is None and the channels fall back to
`read_response`.
"""

from __future__ import annotations

from asyncio import StreamReader, StreamWriter
from typing import Any, Final

import hiredis
from redis.exceptions import InvalidResponse, ResponseError

NOT_ENOUGH_DATA: Final = object()


def streams_of(connection: Any) -> tuple[StreamReader, StreamWriter] | None:
    """The streams of an open asyncio connection."""
    reader = getattr(connection, "_reader", None)
    writer = getattr(connection, "_writer", None)
    if isinstance(reader, StreamReader) and isinstance(writer, StreamWriter):
        return reader, writer
    return None


def reply_reader(connection: Any) -> hiredis.Reader:
    """A parser of replies that makes the errors that redis-py makes, as values."""
    parse_error = getattr(getattr(connection, "_parser", None), "parse_error", ResponseError)
    return hiredis.Reader(
        protocolError=InvalidResponse, replyError=parse_error, notEnoughData=NOT_ENOUGH_DATA
    )


def close_now(connection: Any) -> None:
    """Close an asyncio connection without waiting for the peer, as its public `disconnect` would."""
    streams = streams_of(connection)
    if streams is not None:
        streams[1].close()
    # redis-py complains of connections that it still thinks are open when they are collected.
    connection._reader = None  # noqa: SLF001
    connection._writer = None  # noqa: SLF001
