"""What may happen to a command on its way, to its reply, to a connection; and rules that say to which.

Fault numbers are those of RELIABILITY section 2.
"""

import enum
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from random import Random

import attrs

from support.framing import parse_request, reply_end
from support.relaying import TIMEOUT_S, Ending, Relay

Predicate = Callable[[list[bytes]], bool]


class Action(enum.Enum):
    """What may happen to a command on its way."""

    DROP_REQUEST = "fault 1: not forwarded, and the connection is closed"
    DROP_REPLY = "fault 2: executed, but once the reply is there the connection is reset"
    SWALLOW_REPLY = "executed, its reply never comes, those of later commands do: out of step"
    SILENCE = "executed, as all that follows; no reply comes any more, and the connection stays"
    HALF_OPEN = "a SUBSCRIBE is confirmed, and no message comes after that"
    HOLD = "this and all that follows on the connection waits for release(), even if the client leaves"
    DUPLICATE_LATER = "fault 3: goes through, and replay() sends it again"


DROP_REQUEST = Action.DROP_REQUEST
DROP_REPLY = Action.DROP_REPLY
SWALLOW_REPLY = Action.SWALLOW_REPLY
SILENCE = Action.SILENCE
HALF_OPEN = Action.HALF_OPEN
HOLD = Action.HOLD
DUPLICATE_LATER = Action.DUPLICATE_LATER


@attrs.frozen
class Refuse:
    """The action that answers an error, such as `OOM command not allowed`, and forwards nothing."""

    error: str


@attrs.frozen
class Delay:
    """Fault 40: forwarded so much later, and what follows on the connection after that: a slow server.

    A client that has left by then does not keep it from being executed (fault 36).
    """

    seconds: float


@attrs.frozen
class DelayReply:
    """Executed at once; its reply, and those that follow on the connection, come so much later."""

    seconds: float


@attrs.frozen
class Drip:
    """Its reply comes in pieces of so many bytes, one every so many seconds."""

    count: int
    every_s: float


@attrs.frozen
class CutRequest:
    """So many bytes of it arrive, and both connections are closed."""

    after_bytes: int


@attrs.frozen
class CutReply:
    """Executed; so many bytes of its reply arrive, and the connection is closed."""

    after_bytes: int


@attrs.frozen
class Replay:
    """Faults 3 and 36: goes through, and comes once more so much later, on a connection of its own."""

    after_s: float


Fault = Action | Refuse | Delay | DelayReply | Drip | CutRequest | CutReply | Replay


_WITHOUT_REPLY = (Refuse, CutRequest)


def name_of(action: Fault) -> str:
    """What it is counted as."""
    return action.name.lower().replace("_", " ") if isinstance(action, Action) else type(action).__name__


class Rule:
    """One fault to inject; `fired` proves to the test that it happened."""

    def __init__(self, predicate: Predicate, action: Fault, times: int | None, name: str = "") -> None:
        self.action = action
        self.name = name or name_of(action)
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


def about(*keys: str | bytes) -> Predicate:
    """A predicate for commands that have one of these complete keys among their arguments."""
    wanted = {key.encode() if isinstance(key, str) else key for key in keys}
    return lambda words: not wanted.isdisjoint(words[1:])


def sometimes(chance: float, draw: Random, predicate: Predicate = lambda words: True) -> Predicate:
    """A predicate that holds for such a part of what another one holds for."""
    return lambda words: predicate(words) and draw.random() < chance


class FaultRelay(Relay):
    """Passes commands and replies on whole, unless a rule takes a command."""

    # Confirmed by one push for each channel instead of by a reply.
    _PUSHED = frozenset(f"{verb}SUBSCRIBE".encode() for verb in ("", "P", "S", "UN", "PUN", "SUN"))

    def __init__(
        self,
        match: Callable[[list[bytes]], Rule | None],
        remember: Callable[[bytes], None],
        begin_turn: Callable[[], None],
        replay_later: Callable[[Rule, bytes, float], None],
        lag_s: Callable[[], float],
    ) -> None:
        super().__init__()
        self._match = match
        self._remember = remember
        self._begin_turn = begin_turn
        self._replay_later = replay_later
        self._lag_s = lag_s
        self._requests = bytearray()
        self._replies = bytearray()
        # What the client must see, in the order of its commands: a reply (None), or a fault.
        self._expected: deque[Rule | None] = deque()
        # What is forwarded once nothing is held any more; None where a connection is held from its beginning.
        self._held: tuple[list[bytes], bytes] | None = None
        self._needs_release = False
        self._lost = False  # the last command read never arrives: nor does anything after it
        self._is_silent = False  # nothing that the server says arrives any more
        self._is_muted = False  # nor does any message after the next one
        self._is_dripping = False  # a reply is on its way, and those after it wait
        self._in_flight_from_server = 0

    def opened(self, rule: Rule | None) -> None:
        """The connection was accepted, and a rule has taken it."""
        if rule is None:
            return
        rule.fire()
        match rule.action:
            case Delay(seconds=seconds):
                self._hold(None)
                self.later(seconds, self._resume)
            case Action.HOLD:
                self._hold(None)
                self._needs_release = True
            case Action.SILENCE:
                self._is_silent = True
            case Action.DROP_REQUEST:
                self.ending = Ending.CLOSE
            case Refuse(error=error):
                self.to_client += _error(error)
                self.ending = Ending.CLOSE
            case _:
                raise ValueError(f"a connection cannot have this fault: {rule.action}")

    def from_client(self, data: bytes) -> None:
        if self.travelling or self._lag_s():
            self.travelling += 1
            self.later(self._lag_s(), partial(self._arrive, data))
        else:
            self._requests += data
            self._take_requests()

    def from_upstream(self, data: bytes) -> None:
        if self._in_flight_from_server or self._lag_s():
            self._in_flight_from_server += 1
            self.later(self._lag_s(), partial(self._come_back, data))
        else:
            self._replies += data
            self._give_replies()

    def release(self) -> None:
        """Forward the command that is held, and go on with what came after it."""
        if self._needs_release:
            self._needs_release = False
            self._resume()

    def _arrive(self, data: bytes) -> None:
        self.travelling -= 1
        self._requests += data
        self._take_requests()

    def _come_back(self, data: bytes) -> None:
        self._in_flight_from_server -= 1
        self._replies += data
        self._give_replies()

    def _hold(self, held: tuple[list[bytes], bytes] | None) -> None:
        self._held, self.holding = held, True

    def _resume(self) -> None:
        held, self._held, self.holding = self._held, None, False
        if held is not None:
            self._forward(*held, None)
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
        rule = self._match(words)
        if rule is None:
            self._forward(words, raw, None)
            return
        match rule.action:
            case Action.DUPLICATE_LATER:
                self._remember(raw)
                rule.fire()
                self._forward(words, raw, None)
            case Replay(after_s=after_s):
                self._replay_later(rule, raw, after_s)
                self._forward(words, raw, None)
            case Action.HOLD:
                self._hold((words, raw))
                self._needs_release = True
                rule.fire()
            case Delay(seconds=seconds):
                self._hold((words, raw))
                rule.fire()
                self.later(seconds, self._resume)
            case Action.HALF_OPEN:
                self._is_muted = True
                rule.fire()
                self._forward(words, raw, None)
            case Action.DROP_REQUEST | Refuse():
                self._lost = rule.action is DROP_REQUEST
                self._expected.append(rule)
            case CutRequest(after_bytes=after_bytes):
                self._lost = True
                self.to_upstream += raw[:after_bytes]
                self._expected.append(rule)
            case _:
                self._forward(words, raw, rule)

    def _forward(self, words: list[bytes], raw: bytes, rule: Rule | None) -> None:
        self.to_upstream += raw
        if words[0].upper() not in self._PUSHED:
            if not self._expected:
                self._begin_turn()
            self._expected.append(rule)
        elif rule is not None and rule.action is SILENCE:
            rule.fire()
            self._is_silent = True

    def _give_replies(self) -> None:
        while self.ending is None and not self._is_dripping:
            if self._is_silent:
                self._replies.clear()
                self._expected.clear()
                return
            rule = self._expected[0] if self._expected else None
            if rule is not None and (rule.action is DROP_REQUEST or isinstance(rule.action, _WITHOUT_REPLY)):
                self._replace_reply(rule)
            elif (end := reply_end(self._replies)) is None:
                return
            else:
                self._give_reply(rule, end)

    def _replace_reply(self, rule: Rule) -> None:
        self._expected.popleft()
        rule.fire()
        if isinstance(rule.action, Refuse):
            self.to_client += _error(rule.action.error)
        else:
            self.ending = Ending.CLOSE

    def _give_reply(self, rule: Rule | None, end: int) -> None:
        frame = bytes(self._replies[:end])
        del self._replies[:end]
        if self._expected and not frame.startswith(b">"):  # a push answers nothing
            self._expected.popleft()
            if rule is not None:
                rule.fire()
                self._spoil(rule.action, frame)
                return
        self.to_client += frame
        if self._is_muted and not self._expected:
            self._is_silent = True

    def _spoil(self, action: Fault, frame: bytes) -> None:
        match action:
            case Action.DROP_REPLY:
                self.ending = Ending.RESET
            case Action.SILENCE:
                self._is_silent = True
            case CutReply(after_bytes=after_bytes):
                self.to_client += frame[:after_bytes]
                self.ending = Ending.CLOSE
            case DelayReply(seconds=seconds):
                self._is_dripping = True
                self.later(seconds, partial(self._drip, frame, len(frame), 0.0))
            case Drip(count=count, every_s=every_s):
                self._is_dripping = True
                self._drip(frame, count, every_s)
            case _:
                assert action is SWALLOW_REPLY

    def _drip(self, frame: bytes, count: int, every_s: float) -> None:
        self.to_client += frame[:count]
        if len(frame) > count:
            self.later(every_s, partial(self._drip, frame[count:], count, every_s))
        else:
            self._is_dripping = False
            self._give_replies()


def _error(text: str) -> bytes:
    return f"-{text.removeprefix('-')}\r\n".encode()
