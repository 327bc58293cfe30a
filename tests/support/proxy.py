"""A faulty network before a real server: which command is lost, late, doubled or refused, and when.

`FaultProxy` cuts what clients send into whole commands and what the server sends into whole
replies, so a fault can be aimed at one command ("the reply to this EVALSHA is lost") instead of at
a moment. What can happen to a command is in `faults`, what can happen to connections in `relaying`.

Not followed: CLIENT REPLY OFF, and rules on a RESP2 connection that has subscribed (RESP3 pushes
are told apart from replies).
"""

import socket
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import Any

import hiredis

from support.faults import (
    DROP_REPLY,
    DROP_REQUEST,
    DUPLICATE_LATER,
    HALF_OPEN,
    HOLD,
    SILENCE,
    SWALLOW_REPLY,
    Action,
    CutReply,
    CutRequest,
    Delay,
    DelayReply,
    Drip,
    Fault,
    FaultRelay,
    Predicate,
    Refuse,
    Replay,
    Rule,
    about,
    command,
    name_of,
    sometimes,
)
from support.framing import parse_request, reply_end
from support.relaying import CHUNK_BYTES, TIMEOUT_S, Ending, Link, Proxy, Relay

__all__ = [
    "CHUNK_BYTES",
    "DROP_REPLY",
    "DROP_REQUEST",
    "DUPLICATE_LATER",
    "HALF_OPEN",
    "HOLD",
    "SILENCE",
    "SWALLOW_REPLY",
    "TIMEOUT_S",
    "Action",
    "CutReply",
    "CutRequest",
    "Delay",
    "DelayReply",
    "Drip",
    "Ending",
    "Fault",
    "FaultProxy",
    "FaultRelay",
    "Link",
    "Predicate",
    "Proxy",
    "Refuse",
    "Relay",
    "Replay",
    "Rule",
    "about",
    "command",
    "parse_request",
    "reply_end",
    "sometimes",
]


class FaultProxy(Proxy):
    """A proxy to which a test names the commands, and the connections, that something happens to."""

    def __init__(self, upstream_host: str, upstream_port: int) -> None:
        super().__init__(upstream_host, upstream_port)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.turns = 0
        """How often clients have sent something while none of their commands was unanswered: round trips.

        A request that arrives here in two parts may be counted twice, if the first is answered in between.
        """
        self.remembered: list[bytes] = []
        self._rules: tuple[tuple[Rule, int | None], ...] = ()
        self._connection_rules: tuple[Rule, ...] = ()
        self._all_rules: list[Rule] = []
        self._lag_s = 0.0

    @property
    def firings(self) -> Counter[str]:
        """How often each fault has happened, by name, those of rules that were cleared included."""
        found = Counter(self.switched)
        for rule in self._all_rules:
            found[rule.name] += rule.fired
        return found

    def on(
        self,
        predicate: Predicate,
        action: Fault,
        *,
        times: int | None = 1,
        connection: int | None = None,
        name: str = "",
    ) -> Rule:
        """Inject a fault at the next commands that match, `times` times (None: always).

        Of several rules that match, the first takes the command.

        Args:
            predicate: Which commands, by their words.
            action: What happens to them.
            times: How often.
            connection: Only on the connection that was opened as the so-manieth, from 1.
            name: Under which `firings` counts it; by default the name of the action.
        """
        rule = Rule(predicate, action, times, name)
        self._all_rules.append(rule)
        self._rules += ((rule, connection),)  # a new tuple: the thread may be walking along the old one
        return rule

    def on_connect(self, action: Fault, *, times: int | None = 1, name: str = "") -> Rule:
        """Inject a fault at the next connections, which are accepted.

        `Delay` and `HOLD`: nothing that is sent is looked at before that (a slow handshake). `SILENCE`: it is
        executed, and never answered. `DROP_REQUEST`: closed at once. `Refuse`: answered so, and closed.
        """
        rule = Rule(lambda words: True, action, times, name or f"connect: {name_of(action)}")
        self._all_rules.append(rule)
        self._connection_rules += (rule,)
        return rule

    def forget(self, rule: Rule) -> None:
        """Forget one rule; what it does to commands that it has taken goes on."""
        self._rules = tuple(each for each in self._rules if each[0] is not rule)
        self._connection_rules = tuple(each for each in self._connection_rules if each is not rule)

    def clear(self) -> None:
        """Forget the rules; a command that is held stays held."""
        self._rules = ()
        self._connection_rules = ()

    def lead_to(self, port: int) -> None:
        """Lead connections that are opened from now on to another server on this machine."""
        self._upstream = ("127.0.0.1", port)

    def far_away(self, lag_s: float) -> None:
        """From now on every byte takes so long, each way; bytes travel at the same time. 0: near again."""
        self._lag_s = lag_s
        if lag_s:
            self.switched["far away"] += 1

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
        return FaultRelay(
            partial(self._match, self.connections_opened),
            self.remembered.append,
            self._begin_turn,
            self._replay_later,
            lambda: self._lag_s,
        )

    def _opened(self, relay: Relay) -> None:
        assert isinstance(relay, FaultRelay)
        relay.opened(next((rule for rule in self._connection_rules if rule.claims([])), None))

    def _begin_turn(self) -> None:
        self.turns += 1

    def _match(self, number: int, words: list[bytes]) -> Rule | None:
        for rule, connection in self._rules:
            if connection in (None, number) and rule.claims(words):
                return rule
        return None

    def _replay_later(self, rule: Rule, raw: bytes, after_s: float) -> None:
        self._after(after_s, partial(self._replay, rule, raw))

    def _replay(self, rule: Rule, raw: bytes) -> None:
        # The server may be gone by now, or stand still: then it comes to nothing.
        with suppress(OSError), socket.create_connection(self._upstream, TIMEOUT_S) as connection:
            connection.sendall(raw)
            # The end of what is sent, but not of the connection: the server executes before it sees it.
            connection.shutdown(socket.SHUT_WR)
            rule.fire()

    def _release(self) -> None:
        for link in tuple(self._links):
            if isinstance(link.relay, FaultRelay):
                link.relay.release()
                self._settle(link)
