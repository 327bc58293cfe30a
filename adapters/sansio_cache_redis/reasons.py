"""Reasons: why the server could not be asked, in a sentence that says where it is and what to look at.

redis-py and the system say it in many ways, and often with what the one needs who looks for the cause two
exceptions further down. What is said here names the host and the port, or the socket, and never a user, a
password, an argument of a command or a value: the texts of servers are not passed on, but for words that are
known to hold none of these. The exception that is given back as the cause has no traceback: the frames of
those who open connections hold passwords.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator
from typing import Final

from msgspec import Struct
from redis.exceptions import (
    AuthenticationError,
    InvalidResponse,
    NoPermissionError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache_redis.errors import (
    ERRORS,
    ClosedWhileOpeningError,
    HandshakeError,
    NoPrimaryError,
    NotADataServerError,
)

_MOST_CAUSES: Final = 8
_MOST_WORDS: Final = 8
_USER: Final = re.compile(r"\buser \S+ has\b", re.IGNORECASE)
_REPLY_TYPE: Final = re.compile(r"got \"(.+?)\" as reply type byte")
_TLS_ALERT: Final = r"\x15"
_BY_ERRNO: Final = {
    errno.ECONNREFUSED: "{place} refuses connections: no server listens there",
    errno.EHOSTUNREACH: "there is no way to {place} in the network",
    errno.ENETUNREACH: "there is no way to {place} in the network",
    errno.ECONNRESET: "{place} closed the connection",
    errno.EPIPE: "{place} closed the connection",
    errno.ETIMEDOUT: "{place} does not answer",
    errno.EACCES: "this process may not use {place}: the system denies permission",
    errno.EPERM: "this process may not use {place}: the system denies permission",
    errno.ENOENT: "there is no socket {place}: no server has made it",
    errno.ENOTSOCK: "{place} is no socket",
    errno.EMFILE: "this process has no file descriptor left for a connection to {place}",
    errno.ENFILE: "this machine has no file descriptor left for a connection to {place}",
}
_BY_WORD: Final = {
    "DENIED": "{place} is in protected mode: it has no password, and serves its own machine only",
    "LOADING": "{place} is loading its data",
    "BUSY": "{place} is busy with a script",
    "MASTERDOWN": "{place} is a replica that has lost its primary",
    "CLUSTERDOWN": "the cluster of {place} is down",
    "READONLY": "{place} is a replica, and takes no writes",
    "MISCONF": "{place} cannot save its data, and takes no writes",
    "NOREPLICAS": "{place} has too few replicas, and takes no writes",
    "OOM": "{place} is out of memory",
}
_BY_TEXT: Final = (
    ("max number of clients", "{place} has all the connections that its maxclients allows"),
    ("DB index", "{place} has no such database as the URL names"),
    ("Invalid Database", "{place} has no such database as the URL names"),
    ("invalid DB index", "{place} has no such database as the URL names"),
    ("SELECT is not allowed", "{place} is a cluster, which has database 0 only"),
    ("without any password configured", "{place} has no password, and the URL gives one"),
    ("loading the dataset", _BY_WORD["LOADING"]),
    ("running in protected mode", _BY_WORD["DENIED"]),
    ("closed by server", "{place} closed the connection"),
    ("server closed the connection", "{place} closed the connection"),
    ("connection was lost", "{place} closed the connection"),
)


class Where(Struct, frozen=True):
    """Where a server is.

    Attributes:
        place: `host:port`, or the path of a socket.
        is_tls: Whether it is spoken to by TLS.
        database: The number of the database, as a text.
    """

    place: str
    is_tls: bool = False
    database: str = "0"

    @property
    def address(self) -> tuple[str, str, int, str]:
        """The same in parts, for those who are told of commands: system, host, port, database.

        Of several places it is the first.
        """
        host, colon, port = self.place.partition(", ")[0].rpartition(":")
        if not (colon and port.isdecimal()):
            return "redis", self.place, 0, self.database
        return "redis", host.removeprefix("[").removesuffix("]"), int(port), self.database


def reason_of(error: BaseException, where: Where) -> tuple[str, Exception | None]:
    """Why something failed there, as a sentence without a full stop, and the cause of it.

    Args:
        error: What redis-py, the server or the system has raised.
        where: Where the server is.
    """
    place = where.place
    known = list(_chain(error))
    if isinstance(error, ClosedWhileOpeningError):
        return (
            f"{place} closed the connection as it was opened: it may speak TLS (then the URL begins with "
            "rediss://), have no room for more clients (maxclients), or be no Redis"
        ), _clean(known[-1])
    if any(isinstance(each, NotADataServerError) for each in known):
        return (
            f"{place} is a sentinel and keeps no data: its URL begins with redis+sentinel:// and names the "
            "service, as in redis+sentinel://host:26379/mymaster"
        ), None
    for each in known:
        if isinstance(each, NoPrimaryError):
            return str(each), _clean(known[-1])
    for each in known:
        if isinstance(each, ssl.SSLError):
            return _of_tls(each, place), _clean(each)
    for each in known:
        if isinstance(each, socket.gaierror):
            return f"the name of the host is not known: {place}", _clean(each)
    for each in known:
        if isinstance(each, OSError) and each.errno is not None:
            return _of_system(each, place), _clean(each)
    if not known:  # of nobody who speaks with servers: what it says may be anything
        return f"the connection to {place} failed ({type(error).__name__})", None
    last = known[-1]
    reason = _of_server(last, place)
    if where.is_tls and isinstance(last, RedisTimeoutError | TimeoutError):
        # A Redis without TLS takes the greeting for the beginning of a command, and waits for its end.
        reason += "; where it does not speak TLS, its URL begins with redis://"
    return reason, _clean(last)


def is_of_nobody(error: BaseException) -> bool:
    """Whether all that an error says is that nobody answers there: one that refuses something says more."""
    return any(
        isinstance(each, OSError | RedisTimeoutError) and not isinstance(each, ssl.SSLError)
        for each in _chain(error)
    )


def said(error: BaseException) -> str:
    """The class of an error of the server, and the first of its words, which hold no value and no user."""
    words = " ".join(str(error).split()[:_MOST_WORDS])
    return f"{type(error).__name__}: {_USER.sub('the user has', words)}"


def _chain(error: BaseException) -> Iterator[Exception]:
    """An error and what has caused it, as far as it is redis-py's or the system's, and not a caller's."""
    each: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if not isinstance(each, ERRORS):
            return
        yield each
        each = each.__cause__


def _clean(error: Exception) -> Exception:
    """A copy of an error with nothing in it but what happened."""
    if isinstance(error, RedisError):
        return type(error)(said(error).partition(": ")[2])
    copy = type(error)(*error.args)
    if isinstance(error, OSError) and isinstance(copy, OSError) and error.filename is not None:
        copy.filename = error.filename
    return copy


def _of_tls(error: ssl.SSLError, place: str) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of {place} is refused: {error.verify_message}"
    if error.reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"}:
        return f"{place} does not speak TLS: the URL of such a server begins with redis://"
    why = (error.reason or type(error).__name__).replace("_", " ").lower()
    return f"the TLS handshake with {place} failed: {why}"


def _of_system(error: OSError, place: str) -> str:
    if error.errno == errno.ENOENT and not place.startswith("/"):  # there is no such file for TCP
        return f"a file is not there that the URL names for TLS with {place} (ssl_ca_certs, ssl_certfile, …)"
    if isinstance(error, TimeoutError):
        return f"{place} does not answer"
    text = _BY_ERRNO.get(error.errno or 0)
    return text.format(place=place) if text else f"{place} cannot be reached: {error.strerror}"


def _of_server(error: Exception, place: str) -> str:
    text = str(error)
    word = text.partition(" ")[0].lstrip("-")
    if isinstance(error, RedisTimeoutError | TimeoutError):
        opening = "connect" in text or "handshake" in text
        return f"no connection to {place} in time" if opening else f"{place} does not answer in time"
    for known, sentence in _BY_TEXT:
        if known in text:
            return sentence.format(place=place)
    if isinstance(error, InvalidResponse):
        return _of_no_redis(text, place)
    if isinstance(error, NoPermissionError) or word in {"NOPERM", "ACL"}:
        return f"{place} does not permit the user of the URL what the cache needs: health() names it"
    if isinstance(error, AuthenticationError) or word in {"NOAUTH", "WRONGPASS"}:
        return (
            f"{place} wants a password, and the URL gives none"
            if word in {"NOAUTH", "Authentication"} or text.startswith("Authentication required")
            else f"{place} refuses the user name or the password of the URL"
        )
    if word in _BY_WORD:
        return _BY_WORD[word].format(place=place)
    if isinstance(error, HandshakeError) or not isinstance(error, RedisConnectionError):
        return f"{place} answers with an error ({said(error)})"
    return f"the connection to {place} failed ({said(error)})"


def _of_no_redis(text: str, place: str) -> str:
    found = _REPLY_TYPE.search(text)
    if found and found[1] == _TLS_ALERT:
        return f"{place} speaks TLS: the URL of such a server begins with rediss://"
    if found and found[1] == "H":
        return f"what answers at {place} is no Redis: it speaks HTTP"
    return f"what answers at {place} is no Redis"
