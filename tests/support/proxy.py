"""A faulty network before a real server: which command is lost, late, doubled or refused, and when.

`FaultProxy` cuts what clients send into whole commands and what the server sends into whole
replies, so a fault can be aimed at one command ("the reply to this EVALSHA is lost") instead of at
a moment. A proxy works on one thread of its own: it serves blocking, asyncio and trio clients
alike, and what a test asks for has happened once the method returns. Fault numbers are those of
RELIABILITY section 2.

Not followed: CLIENT REPLY OFF, and rules on a RESP2 connection that has subscribed (RESP3 pushes
are told apart from replies).
"""

import enum
import selectors
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, Self

import attrs
import hiredis

from support.servers import PortReservation

TIMEOUT_S = 10.0  # bounds failures only
CHUNK_BYTES = 1 << 16

Predicate = Callable[[list[bytes]], bool]


class Action(enum.Enum):
    """What may happen to a command on its way."""

    DROP_REQUEST = "fault 1: not forwarded, and the connection is closed"
    DROP_REPLY = "fault 2: executed, but once the reply is there the connection is reset"
    HOLD = "this and all that follows on the connection waits for release(), even if the client leaves"
    DUPLICATE_LATER = "fault 3: goes through, and replay() sends it again"


DROP_REQUEST = Action.DROP_REQUEST
DROP_REPLY = Action.DROP_REPLY
HOLD = Action.HOLD
DUPLICATE_LATER = Action.DUPLICATE_LATER


@attrs.frozen
class Refuse:
    """The action that answers an error, such as `OOM command not allowed`, and forwards nothing."""

    error: str


class Rule:
    """One fault to inject; `fired` proves to the test that it happened."""

    def __init__(self, predicate: Predicate, action: Action | Refuse, times: int | None) -> None:
        self.action = action
        self.fired = 0
        self._predicate = predicate
        self._left = times
        self._changed = threading.Condition()

    def wait(self, times: int = 1) -> None:
        """Wait until the fault has happened so often."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.fired >= times, TIMEOUT_S):
                raise TimeoutError(f"{self.action}: {self.fired} of {times} in {TIMEOUT_S} s")

    def claims(self, args: list[bytes]) -> bool:
        """Whether the rule takes this command; if so, one of its times is spent."""
        if self._left == 0 or not self._predicate(args):
            return False
        if self._left is not None:
            self._left -= 1
        return True

    def fire(self) -> None:
        """Note that the fault happens now, before the client can notice."""
        with self._changed:
            self.fired += 1
            self._changed.notify_all()


def command(name: str, *args: str | bytes) -> Predicate:
    """A predicate for commands of this name, in either case, whose arguments begin with these."""
    wanted = [arg.encode() if isinstance(arg, str) else arg for arg in (name.upper(), *args)]
    return lambda words: [words[0].upper(), *words[1 : len(wanted)]] == wanted


# --- Framing: https://redis.io/docs/latest/develop/reference/protocol-spec/


def parse_request(buffer: bytes | bytearray) -> tuple[list[bytes], int] | None:
    """The words of the first command and where it ends, or None while it is incomplete."""
    line_end = buffer.find(b"\r\n")
    if line_end < 0:
        return None
    position = line_end + 2
    if not buffer.startswith(b"*"):  # an inline command, as typed into a terminal
        return bytes(buffer[:line_end]).split(), position
    words: list[bytes] = []
    for _ in range(int(buffer[1:line_end])):
        end = reply_end(buffer, position)
        if end is None:
            return None
        words.append(bytes(buffer[buffer.index(b"\r\n", position) + 2 : end - 2]))
        position = end
    return words, position


def reply_end(buffer: bytes | bytearray, start: int = 0) -> int | None:
    """Where the RESP2 or RESP3 value that begins here ends, or None while it is incomplete."""
    line_end = buffer.find(b"\r\n", start)
    if line_end < 0:
        return None
    kind, head, end = buffer[start : start + 1], buffer[start + 1 : line_end], line_end + 2
    if kind in b"+-:_#,(":
        return end
    if kind in b"$=!":
        end += int(head) + 2 if int(head) >= 0 else 0  # -1: null, without a body
        return end if end <= len(buffer) else None
    if kind not in b"*~>%|":
        raise ValueError(f"not RESP: {bytes(buffer[start:line_end])!r}")
    values = max(int(head), 0) * (2 if kind in b"%|" else 1)
    if kind == b"|":
        values += 1  # an attribute comes before the value that it describes
    for _ in range(values):
        inner = reply_end(buffer, end)
        if inner is None:
            return None
        end = inner
    return end


# --- One connection, without its sockets


class Ending(enum.Enum):
    """How a connection ends that its relay has done with."""

    CLOSE = enum.auto()
    RESET = enum.auto()


class Relay:
    """What passes between a client and the server: takes bytes from both, leaves bytes for both."""

    def __init__(self) -> None:
        self.to_client = bytearray()
        self.to_upstream = bytearray()
        # Once set, what is left to send is sent and the connection ends.
        self.ending: Ending | None = None
        # While set, nothing more is read from the client, not even that it left.
        self.holding = False

    def from_client(self, data: bytes) -> None:
        """Take what the client sent."""
        self.to_upstream += data

    def from_upstream(self, data: bytes) -> None:
        """Take what the server sent."""
        self.to_client += data


class FaultRelay(Relay):
    """Passes commands and replies on whole, unless a rule takes a command."""

    # Confirmed by one push for each channel instead of by a reply.
    _PUSHED = frozenset(f"{verb}SUBSCRIBE".encode() for verb in ("", "P", "S", "UN", "PUN", "SUN"))

    def __init__(
        self,
        match: Callable[[list[bytes]], Rule | None],
        remember: Callable[[bytes], None],
        begin_turn: Callable[[], None],
    ) -> None:
        super().__init__()
        self._match = match
        self._remember = remember
        self._begin_turn = begin_turn
        self._requests = bytearray()
        self._replies = bytearray()
        # What the client must see, in the order of its commands: a reply (None), or a fault.
        self._expected: deque[Rule | None] = deque()
        self._held: tuple[list[bytes], bytes] | None = None
        self._lost = False  # the last command read never arrives: nor does anything after it

    def from_client(self, data: bytes) -> None:
        self._requests += data
        self._take_requests()

    def from_upstream(self, data: bytes) -> None:
        self._replies += data
        self._give_replies()

    def release(self) -> None:
        """Forward the command that is held, and go on with what came after it."""
        if self._held is not None:
            (words, raw), self._held, self.holding = self._held, None, False
            self._forward(words, raw, None)
            self._take_requests()

    def _take_requests(self) -> None:
        while not (self.holding or self._lost):
            if (parsed := parse_request(self._requests)) is None:
                break
            words, end = parsed
            raw = bytes(self._requests[:end])
            del self._requests[:end]
            if words:  # an empty line is no command and has no reply
                self._take(words, raw)
        self._give_replies()

    def _take(self, words: list[bytes], raw: bytes) -> None:
        match rule := self._match(words):
            case None | Rule(action=Action.DROP_REPLY):
                self._forward(words, raw, rule)
            case Rule(action=Action.DUPLICATE_LATER):
                self._remember(raw)
                rule.fire()
                self._forward(words, raw, None)
            case Rule(action=Action.HOLD):
                self._held, self.holding = (words, raw), True
                rule.fire()
            case _:
                self._lost = rule.action is DROP_REQUEST
                self._expected.append(rule)

    def _forward(self, words: list[bytes], raw: bytes, rule: Rule | None) -> None:
        self.to_upstream += raw
        if words[0].upper() not in self._PUSHED:
            if not self._expected:
                self._begin_turn()
            self._expected.append(rule)

    def _give_replies(self) -> None:
        while self.ending is None:
            rule = self._expected[0] if self._expected else None
            if rule is not None and rule.action is not DROP_REPLY:
                self._replace_reply(rule)
            elif (end := reply_end(self._replies)) is None:
                return
            else:
                self._give_reply(rule, end)

    def _replace_reply(self, rule: Rule) -> None:
        self._expected.popleft()
        rule.fire()
        if isinstance(rule.action, Refuse):
            self.to_client += f"-{rule.action.error.removeprefix('-')}\r\n".encode()
        else:
            self.ending = Ending.CLOSE

    def _give_reply(self, rule: Rule | None, end: int) -> None:
        frame = self._replies[:end]
        del self._replies[:end]
        if self._expected and not frame.startswith(b">"):  # a push answers nothing
            self._expected.popleft()
            if rule is not None:
                rule.fire()
                self.ending = Ending.RESET
                return
        self.to_client += frame


# --- Sockets


class Link:
    """The socket of a client, the one to the server that belongs to it, the relay between."""

    def __init__(self, client: socket.socket, upstream: socket.socket, relay: Relay) -> None:
        self.relay = relay
        self.sockets = (client, upstream)
        self.finished = False
        self._client = client
        self._upstream = upstream
        self._client_gone = False
        self._upstream_gone = False
        for end in self.sockets:
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read(self, end: socket.socket) -> None:
        """Take what has arrived on one of the two sockets."""
        try:
            data = end.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # a reset is an end as well
        if end is self._client:
            self._client_gone |= not data
            self.relay.from_client(data)
        else:
            self._upstream_gone |= not data
            self.relay.from_upstream(data)

    def settle(self) -> dict[socket.socket, int]:
        """Send what can be sent, and say which events to wait for on each socket."""
        self._upstream_gone |= not _send(self._upstream, self.relay.to_upstream)
        self._client_gone |= not _send(self._client, self.relay.to_client)
        unsent = bool(self.relay.to_client) and not self._client_gone
        unheard = bool(self.relay.to_upstream) and not self._upstream_gone
        done = self.relay.ending is not None and not unheard
        if (self._upstream_gone or done) and not unsent:
            self.finished = True
            return dict.fromkeys(self.sockets, 0)
        if self._upstream_gone:
            return {self._client: selectors.EVENT_WRITE, self._upstream: 0}
        if self._client_gone and not self.relay.holding and not unheard:
            # The server executes what it was sent, then sees the end and closes its side.
            with suppress(OSError):
                self._upstream.shutdown(socket.SHUT_WR)
        listening = not (self._client_gone or self.relay.holding or self.relay.ending)
        return {
            self._client: selectors.EVENT_READ * listening | selectors.EVENT_WRITE * unsent,
            self._upstream: selectors.EVENT_READ | selectors.EVENT_WRITE * unheard,
        }

    def close(self, *, reset: bool) -> None:
        """End both connections; with `reset` the client sees RST instead of an orderly end."""
        if reset:
            _reset_on_close(self._client)
        for end in self.sockets:
            end.close()


def _send(end: socket.socket, data: bytearray) -> bool:
    """Send what fits now; False if the other side is gone."""
    try:
        while data:
            del data[: end.send(data)]
    except BlockingIOError:
        pass
    except OSError:
        return False
    return True


def _reset_on_close(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Proxy:
    """A loopback proxy for one server, faithful until told otherwise; a context manager."""

    def __init__(self, upstream_host: str, upstream_port: int) -> None:
        self._upstream = (upstream_host, upstream_port)
        self._reservation = PortReservation()
        self.port = self._reservation.port
        self.connections_opened = 0
        self._links: set[Link] = set()
        self._listener: socket.socket | None = None
        self._selector = selectors.DefaultSelector()
        # While frozen only this one is asked, so calls of the test are still heard.
        self._control = selectors.DefaultSelector()
        self._waker, self._wakee = socket.socketpair()
        self._calls: SimpleQueue[tuple[Callable[[], object], Future[None]]] = SimpleQueue()
        self._frozen = False
        self._running = True
        self._failure: BaseException | None = None
        for selector in (self._selector, self._control):
            selector.register(self._wakee, selectors.EVENT_READ, self._on_call)
        self._thread = threading.Thread(target=self._run, name=type(self).__name__)

    def __enter__(self) -> Self:
        self._listen()
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._post(partial(setattr, self, "_running", False))
        self._thread.join(TIMEOUT_S)
        for part in (self._waker, self._wakee, self._selector, self._control):
            part.close()
        self._reservation.release()
        if self._failure is not None:
            raise RuntimeError("the proxy itself failed") from self._failure

    def refuse_connections(self) -> None:
        """Fault 5: who connects is refused; connections that are open stay."""
        self._in_thread(self._unlisten)

    def accept_connections(self) -> None:
        """End `refuse_connections`."""
        self._in_thread(self._listen)

    def freeze(self) -> None:
        """Fault 4: connections stay open, new ones are accepted, no byte passes either way."""
        self._in_thread(partial(setattr, self, "_frozen", True))

    def thaw(self) -> None:
        """End `freeze`: what was sent meanwhile passes now."""
        self._in_thread(partial(setattr, self, "_frozen", False))

    def drop_all(self) -> None:
        """Fault 5: every open connection is reset."""
        self._in_thread(self._drop_links)

    def _relay(self) -> Relay:
        return Relay()

    def _in_thread(self, call: Callable[[], object]) -> None:
        """Have the thread do it between two of its steps, and wait until that is done."""
        if not self._thread.is_alive():
            raise RuntimeError("the proxy is not running") from self._failure
        self._post(call).result(TIMEOUT_S)

    def _post(self, call: Callable[[], object]) -> Future[None]:
        done: Future[None] = Future()
        self._calls.put((call, done))
        self._waker.send(b"!")
        return done

    # What follows runs on the thread of the proxy.

    def _run(self) -> None:
        try:
            while self._running:
                selector = self._control if self._frozen else self._selector
                for key, _events in selector.select():
                    key.data()
                    if key.fileobj is self._wakee:
                        break  # a call may have ended the others; what is ready still comes again
        except BaseException as error:  # reported by __exit__: nobody is there to catch it
            self._failure = error
        finally:
            self._unlisten()
            self._drop_links()

    def _on_call(self) -> None:
        for _ in self._wakee.recv(CHUNK_BYTES):
            call, done = self._calls.get()
            try:
                call()
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
            self._listener.setblocking(False)
            accept = partial(self._on_client, self._listener)
            self._selector.register(self._listener, selectors.EVENT_READ, accept)

    def _unlisten(self) -> None:
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _on_client(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # it left before it was accepted
        self.connections_opened += 1
        try:
            upstream = socket.create_connection(self._upstream, TIMEOUT_S)
        except OSError:
            _reset_on_close(client)  # as near as a proxy gets to refusing
            client.close()
            return
        link = Link(client, upstream, self._relay())
        self._links.add(link)
        self._settle(link)

    def _on_bytes(self, link: Link, end: socket.socket) -> None:
        if not link.finished:
            link.read(end)  # nothing, if it was room to send that it waited for
            self._settle(link)

    def _settle(self, link: Link) -> None:
        for end, events in link.settle().items():
            self._watch(link, end, events)
        if link.finished:
            self._links.remove(link)
            link.close(reset=link.relay.ending is Ending.RESET)

    def _watch(self, link: Link, end: socket.socket, events: int) -> None:
        watched = end in self._selector.get_map()
        if events and watched:
            self._selector.modify(end, events, partial(self._on_bytes, link, end))
        elif events:
            self._selector.register(end, events, partial(self._on_bytes, link, end))
        elif watched:
            self._selector.unregister(end)

    def _drop_links(self) -> None:
        for link in self._links:
            link.finished = True
            for end in link.sockets:
                self._watch(link, end, 0)
            link.close(reset=True)
        self._links.clear()


class FaultProxy(Proxy):
    """A proxy that can lose, hold, double or refuse the commands that a test names."""

    def __init__(self, upstream_host: str, upstream_port: int) -> None:
        super().__init__(upstream_host, upstream_port)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.turns = 0
        """How often clients have sent something while none of their commands was unanswered: round trips.

        A request that arrives here in two parts may be counted twice, if the first is answered in between.
        """
        self.remembered: list[bytes] = []
        self._rules: tuple[Rule, ...] = ()

    def on(self, predicate: Predicate, action: Action | Refuse, *, times: int | None = 1) -> Rule:
        """Inject a fault at the next commands that match, `times` times (None: always).

        Of several rules that match, the first takes the command.
        """
        rule = Rule(predicate, action, times)
        self._rules += (rule,)  # a new tuple: the thread may be walking along the old one
        return rule

    def clear(self) -> None:
        """Forget the rules; a command that is held stays held."""
        self._rules = ()

    def release(self) -> None:
        """Forward what `HOLD` keeps, also of clients that have left."""
        self._in_thread(self._release)

    def replay(self) -> list[Any]:
        """Send the server again what `DUPLICATE_LATER` remembers, in order; returns its replies.

        Errors are among the replies, not raised. What is remembered stays so, and may come a third
        time. It goes over a connection of its own: RESP2, without AUTH, database 0.
        """
        replies: list[Any] = []
        with socket.create_connection(self._upstream, TIMEOUT_S) as connection:
            for request in tuple(self.remembered):
                connection.sendall(request)
                reader = hiredis.Reader()
                while (reply := reader.gets()) is False:  # hiredis: not enough data
                    reader.feed(connection.recv(CHUNK_BYTES) or b"-ERR connection closed\r\n")
                replies.append(reply)
        return replies

    def _relay(self) -> Relay:
        return FaultRelay(self._match, self.remembered.append, self._begin_turn)

    def _begin_turn(self) -> None:
        self.turns += 1

    def _match(self, words: list[bytes]) -> Rule | None:
        return next((rule for rule in self._rules if rule.claims(words)), None)

    def _release(self) -> None:
        for link in tuple(self._links):
            if isinstance(link.relay, FaultRelay):
                link.relay.release()
                self._settle(link)
