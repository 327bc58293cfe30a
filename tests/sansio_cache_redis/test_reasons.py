"""Why the store cannot be asked: said in one sentence, with its place and its cause, on every runtime.

Not the user, not the password, nor what a command has asked for.
"""

import errno
import re
import socket
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from urllib.error import HTTPError

import pytest
import redis
from redis.exceptions import (
    AuthenticationError,
    InvalidResponse,
    NoPermissionError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache import CacheConnectionError, Policy
from sansio_cache_redis.errors import as_failure, as_opening_failure, classify, fresh
from sansio_cache_redis.reasons import Where, reason_of, said
from support.faulty import PATIENT, on_every_runtime, opened, run_on
from support.servers import Server
from support.tls import TlsProxy

SECRET = "s3cret"
RAISING = {"policy": Policy(on_read_error="raise"), **PATIENT}


def handled(outer: Exception, inner: Exception) -> Exception:
    """An error that was raised while another was handled, as redis-py does."""
    try:
        try:
            raise inner
        except Exception:
            raise outer  # noqa: B904
    except Exception as error:
        return fresh(as_opening_failure(error))


def lost(text: str) -> RedisConnectionError:
    return RedisConnectionError(text)


CERTIFICATE = ssl.SSLCertVerificationError(1, "certificate verify failed")
CERTIFICATE.verify_message = "self-signed certificate"
NO_TLS = ssl.SSLError(1, "wrong version number")
NO_TLS.reason = "WRONG_VERSION_NUMBER"
ALERT = ssl.SSLError(1, "alert")
ALERT.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
CASES: list[tuple[Exception, str]] = [
    (
        handled(lost("Error 111"), ConnectionRefusedError(errno.ECONNREFUSED, "refused")),
        "h:1 refuses connections",
    ),
    (handled(lost("Error -2"), socket.gaierror(-2, "unknown")), "the name of the host is not known: h:1"),
    (handled(lost("Error 113"), OSError(errno.EHOSTUNREACH, "no route")), "no way to h:1 in the network"),
    (handled(lost("Error 99"), OSError(errno.EDOM, "odd")), "h:1 cannot be reached: odd"),
    (handled(lost("Error 13"), PermissionError(errno.EACCES, "denied")), "the system denies permission"),
    (
        handled(lost("Error 2"), FileNotFoundError(errno.ENOENT, "none")),
        "a file is not there that the URL names",
    ),
    (handled(lost("Error 1"), CERTIFICATE), "the certificate of h:1 is refused: self-signed certificate"),
    (handled(lost("Error 1"), NO_TLS), "h:1 does not speak TLS: .*redis://"),
    (handled(lost("Error 1"), ALERT), "handshake with h:1 failed: tlsv13 alert certificate required"),
    (
        handled(lost("Error 104"), ConnectionResetError(errno.ECONNRESET, "reset")),
        "closed .* as it was opened",
    ),
    (fresh(as_opening_failure(lost("Connection closed by server."))), "it may speak TLS .*rediss://"),
    (handled(lost("Error 110"), TimeoutError(errno.ETIMEDOUT, "timed out")), "h:1 does not answer"),
    (lost("Connection closed by server."), "h:1 closed the connection$"),
    (lost("max number of clients reached"), "maxclients"),
    (lost("something else"), r"the connection to h:1 failed \(ConnectionError: something else\)"),
    (ConnectionResetError(errno.ECONNRESET, "reset"), "h:1 closed the connection$"),
    (RedisTimeoutError("no connection in time"), "no connection to h:1 in time"),
    (RedisTimeoutError("no reply in time"), "h:1 does not answer in time"),
    (TimeoutError(), "h:1 does not answer in time"),
    (fresh(as_opening_failure(ResponseError("DB index is out of range"))), "h:1 has no such database"),
    (AuthenticationError("Authentication required."), "h:1 wants a password, and the URL gives none"),
    (
        AuthenticationError("invalid username-password pair or user is disabled."),
        "refuses the user name or the pass",
    ),
    (
        AuthenticationError("AUTH <password> called without any password configured for the default user."),
        "h:1 has no password, and the URL gives one",
    ),
    (ResponseError("DENIED Redis is running in protected mode because"), "h:1 is in protected mode"),
    (ResponseError("LOADING Redis is loading the dataset in memory"), "h:1 is loading its data"),
    (ReadOnlyError("You can't write against a read only replica."), r"h:1 answers with an error \(ReadOnly"),
    (ResponseError("READONLY You can't write"), "h:1 is a replica, and takes no writes"),
    (NoPermissionError(f"User {SECRET} has no permissions to run the 'get' command"), "h:1 does not permit"),
    (InvalidResponse('Protocol error, got "H" as reply type byte'), "h:1 is no Redis: it speaks HTTP"),
    (InvalidResponse(r'Protocol error, got "\x15" as reply type byte'), "h:1 speaks TLS: .*rediss://"),
    (InvalidResponse("Protocol error"), "what answers at h:1 is no Redis$"),
    (
        ResponseError(f"ERR unknown command 'GET', with args beginning with: '{SECRET}'"),
        "h:1 answers with an error",
    ),
    (
        as_failure(ValueError(SECRET)),
        r"the connection to h:1 failed \(ConnectionError: the connection failed with V",
    ),
]


@pytest.mark.parametrize(("error", "why"), CASES, ids=range(len(CASES)))
def test_each_failure_has_its_sentence_and_its_cause(error, why):
    reason, cause = reason_of(error, Where("h:1"))
    assert cause is not None
    assert cause.__traceback__ is cause.__cause__ is cause.__context__ is None
    assert not str(cause).endswith("None")
    assert SECRET not in repr(cause)
    assert re.search(why, reason), reason
    assert SECRET not in reason


def test_what_somebody_else_was_handling_is_no_cause():
    """A caller's own exception, in whose handler it has called the cache, is nobody else's to see."""
    try:
        try:
            raise PermissionError(errno.EACCES, SECRET)
        except PermissionError:
            raise lost("Connection closed by server.")  # noqa: B904
    except RedisConnectionError as error:
        reason, cause = reason_of(error, Where("h:1"))
    assert "denies" not in reason
    assert SECRET not in repr(cause)


def test_what_somebody_elses_code_raises_is_not_quoted():
    assert reason_of(TypeError(SECRET), Where("h:1")) == ("the connection to h:1 failed (TypeError)", None)


def test_no_socket_is_there_where_the_place_is_one():
    reason, _ = reason_of(FileNotFoundError(errno.ENOENT, "none"), Where("/run/redis.sock"))
    assert reason == "there is no socket /run/redis.sock: no server has made it"


def test_a_time_out_where_tls_was_spoken_may_be_for_the_want_of_it():
    reason, _ = reason_of(RedisTimeoutError("no connection in time"), Where("h:1", is_tls=True))
    assert reason == "no connection to h:1 in time; where it does not speak TLS, its URL begins with redis://"


def test_what_a_server_says_is_shown_without_the_name_of_the_user():
    error = NoPermissionError("User alice has no permissions to run the 'get' command")
    assert said(error) == "NoPermissionError: the user has no permissions to run the"


# On real connections.


class Talkers:
    """Servers that are no Redis: one says the same to whoever comes, whatever was asked."""

    def __init__(self) -> None:
        self._listeners: dict[bytes, socket.socket] = {}

    def port(self, answer: bytes) -> int:
        listener = self._listeners.get(answer)
        if listener is None:
            listener = self._listeners[answer] = socket.create_server(("127.0.0.1", 0))
            threading.Thread(target=self._serve, args=(listener, answer)).start()
        port: int = listener.getsockname()[1]
        return port

    def close(self) -> None:
        while self._listeners:
            _, listener = self._listeners.popitem()
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    @staticmethod
    def _serve(listener: socket.socket, answer: bytes) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client, suppress(OSError):
                    client.recv(1000)
                    client.sendall(answer)


TALKERS = Talkers()
HTTP = b"HTTP/1.1 400 Bad Request\r\n\r\n"
ERROR = b"-ERR unknown command\r\n"


# They live as long as the module's tests: if one went while a TLS handshake is under way, CPython would leave
# a socket open.
KEPT = ExitStack()
TLS_PORTS: dict[int, int] = {}


@pytest.fixture(scope="module", autouse=True)
def _kept() -> Iterator[None]:
    yield
    TALKERS.close()
    TLS_PORTS.clear()
    KEPT.close()


def unused_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def nobody(server: Server) -> Iterator[str]:
    yield f"redis://127.0.0.1:{unused_port()}"


def tls_port(server: Server) -> int:
    """The port of a server with TLS, whose certificate nobody trusts."""
    if server.port not in TLS_PORTS:
        TLS_PORTS[server.port] = KEPT.enter_context(TlsProxy(server.port)).port
    return TLS_PORTS[server.port]


@contextmanager
def password_wanted(server: Server) -> Iterator[str]:
    with Server.start() as own:
        with closing(redis.Redis.from_url(own.unix_url)) as client:
            client.config_set("requirepass", SECRET)
        yield own.url


@contextmanager
def full(server: Server) -> Iterator[str]:
    with Server.start() as own, closing(redis.Redis.from_url(own.unix_url)) as client:
        client.config_set("maxclients", 1)
        yield own.url
        client.config_set("maxclients", 100)


def at(make: Callable[[Server], str]) -> Callable[[Server], object]:
    @contextmanager
    def place(server: Server) -> Iterator[str]:
        yield make(server)

    return place


PLACES = {
    "refused": (nobody, "refuses connections: no server listens there", ConnectionRefusedError),
    "unknown host": (
        at(lambda _: "redis://no-such-host.invalid"),
        "the name of the host is not known: no-such-host.invalid:6379",
        socket.gaierror,
    ),
    "no socket": (
        at(lambda _: "unix:///no/such.sock"),
        "there is no socket /no/such.sock",
        FileNotFoundError,
    ),
    "certificate": (
        at(lambda server: f"rediss://127.0.0.1:{tls_port(server)}"),
        "the certificate of 127.0.0.1:\\d+ is refused",
        ssl.SSLCertVerificationError,
    ),
    "no certificates": (
        at(lambda server: f"rediss://127.0.0.1:{server.port}?ssl_ca_certs=/no/such.pem"),
        "a file is not there that the URL names for TLS",
        FileNotFoundError,
    ),
    "plain where TLS is": (
        at(lambda server: f"redis://127.0.0.1:{tls_port(server)}"),
        "speak(s|) TLS.*rediss://",
        Exception,
    ),
    "TLS where plain is": (
        at(lambda _: f"rediss://127.0.0.1:{TALKERS.port(ERROR)}"),
        "does not speak TLS: .* begins with redis://",
        ssl.SSLError,
    ),
    "database": (
        at(lambda server: f"redis://127.0.0.1:{server.port}/9999"),
        "no such database",
        ResponseError,
    ),
    "wrong password": (
        at(lambda server: f"redis://nobody:{SECRET}@127.0.0.1:{server.port}"),
        "refuses the user name or the password of the URL",
        AuthenticationError,
    ),
    "no password": (password_wanted, "wants a password, and the URL gives none", AuthenticationError),
    "maxclients": (full, "maxclients", Exception),
    "http": (
        at(lambda _: f"redis://127.0.0.1:{TALKERS.port(HTTP)}"),
        "is no Redis: it speaks HTTP",
        InvalidResponse,
    ),
}


@pytest.mark.servers
@pytest.mark.parametrize("place", PLACES)
@on_every_runtime
def test_a_store_that_cannot_be_asked_says_why(runtime, place, redis_server, namespace, caplog):
    where, why, cause = PLACES[place]
    caplog.set_level("DEBUG")

    async def main(url):
        async with opened(runtime, url, namespace, **RAISING) as cache:
            with pytest.raises(CacheConnectionError, match=why) as raised:
                await cache.get("k")
            health = await cache.health()
            with pytest.raises(CacheConnectionError, match="within 0 s") as late:
                await cache.wait_ready(0)
        return raised.value, health, late.value

    with where(redis_server) as url:
        error, health, late = run_on(runtime, lambda: main(url))

    assert isinstance(error.__cause__, cause)
    assert not health.ok
    [problem] = health.problems
    assert problem.startswith("the server cannot be asked: ")
    assert re.search(why, problem)
    [outage] = [record.getMessage() for record in caplog.records if record.name == "sansio_cache"]
    assert re.search(why, outage)
    shown = [*map(str, (error, problem, late, outage)), "".join(traceback.format_exception(error.__cause__))]
    for text in shown:
        assert SECRET not in text
        assert "nobody" not in text
        assert "redis://127" not in text


def test_one_that_cannot_be_made_of_its_arguments_is_an_outage_by_its_name():
    """What fetches a user's credentials may raise it as a connection opens."""
    refused = HTTPError("https://tokens/?secret", 403, SECRET, {}, None)
    copy = fresh(refused)
    assert isinstance(copy, RedisConnectionError)
    assert str(copy) == "the connection failed with HTTPError"
    assert classify(copy).is_outage
