"""Whose exception it is: a signal handler's, or one of what was running when the signal came."""

import signal
import sys
from functools import partial

import pytest

from sansio_cache.signals import ask_for_handlers, let_through
from sansio_cache_runtime.handlers import handlers

ask_for_handlers(handlers)  # as the drivers do

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there is no such signal")


class TimeLimitError(TimeoutError):
    """What a job queue's handler raises."""


def exceed(*_):
    raise TimeLimitError("of the job")


def plainly(signum, frame):
    del signum
    raise TimeLimitError(f"in {frame.f_code.co_name}")


def deeper(_signum, _frame):
    exceed()


class Limits:
    def method(self, signum, frame):
        exceed()

    def __call__(self, *given):
        exceed()


def walking(_signum, frame):
    while frame is not None:
        frame = frame.f_back
    exceed()


def forgetting(_signum, frame):
    del frame
    raise TimeLimitError("of the job")


def once(*_):
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    exceed()


def once_plainly(_signum, _frame):
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    exceed()


class Walking:
    def __call__(self, _signum, frame):
        frame = None  # noqa: F841
        exceed()


def configured(job, _signum, _frame):
    raise TimeLimitError(job)


def deleting(signum, frame):
    del signum, frame
    exceed()


def logged(function):
    def wrapper(*given):
        return function(*given)

    return wrapper


@logged
def decorated(_signum, frame):
    del frame
    exceed()


HANDLERS = [
    exceed,
    walking,
    forgetting,
    Walking(),
    partial(partial(walking)),
    once,
    once_plainly,
    plainly,
    deeper,
    Limits().method,
    Limits(),
    partial(configured, "job"),
    lambda *given: exceed(*given),
    deleting,
    decorated,
]


@pytest.fixture(params=HANDLERS, ids=range(len(HANDLERS)))
def handler(request):
    before = signal.signal(signal.SIGUSR1, request.param)
    yield
    signal.signal(signal.SIGUSR1, before)


def interrupted():
    signal.raise_signal(signal.SIGUSR1)
    return "not interrupted"


def catching(call):
    try:
        call()
    except Exception as error:
        let_through(error)
        return error


def test_what_a_handler_raises_goes_on(handler):
    with pytest.raises(TimeLimitError):
        catching(interrupted)


def test_it_goes_on_where_another_exception_was_made_of_it(handler):
    def layered():
        try:
            interrupted()
        except TimeoutError:
            raise ConnectionError("as redis-py says") from None

    def twice():
        try:
            layered()
        except ConnectionError as error:
            raise LookupError("and another") from error

    with pytest.raises(TimeLimitError):
        catching(twice)


def test_what_was_raised_by_the_code_itself_is_kept(handler):
    assert isinstance(catching(lambda: {}["a"]), KeyError)
    assert isinstance(catching(lambda: [].index(1)), ValueError)

    def a_cause_without_a_handler():
        try:
            return {}["a"]
        except KeyError as error:
            raise ValueError("another") from error

    assert isinstance(catching(a_cause_without_a_handler), ValueError)


def forgetful(*given):
    given = None
    return {}["a"] if given is None else given


class Unbound:
    """As a proxy of a web framework outside of a request."""

    @property
    def __class__(self):
        raise RuntimeError("working outside of a request")


def test_a_function_that_rebinds_what_it_was_given_or_is_given_a_proxy_is_looked_at_without_harm(handler):
    assert isinstance(catching(lambda: forgetful(1, 2)), KeyError)
    assert isinstance(catching(lambda: forgetful(Unbound())), KeyError)

    def load(_request):
        return {}["a"]

    assert isinstance(catching(lambda: load(Unbound())), KeyError)


@pytest.mark.parametrize("given", [(), (1,), (int(signal.SIGUSR2), 7)])
def test_a_function_with_the_decorator_of_a_handler_is_none(given):
    @logged
    def load(*_):
        return {}["a"]

    before = signal.signal(signal.SIGUSR1, decorated)
    try:
        assert isinstance(catching(lambda: load(*given)), KeyError)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_no_signal_is_asked_about_where_no_number_was_given(monkeypatch):
    """All of them take 0.2 ms, and over TLS every read of a thread raises something that is looked at."""
    asked = []
    monkeypatch.setattr(signal, "getsignal", asked.append)

    def read(_wire, _timeout_s, size_bytes=65_536):
        raise BlockingIOError

    catching(lambda: read("wire", 0.25))
    assert asked == []


def test_a_failure_while_the_program_handles_its_time_limit_is_a_failure(handler):
    try:
        interrupted()
    except TimeLimitError:
        error = catching(lambda: {}["a"])
    assert isinstance(error, KeyError)
    assert isinstance(error.__context__, TimeLimitError)


def test_an_exception_that_was_never_raised_is_kept():
    assert let_through(ValueError("fresh")) is None
    around = ValueError("fresh")
    around.__context__ = LookupError("nor was this")
    assert let_through(around) is None


def test_contexts_that_go_in_a_circle_are_followed_once():
    first, second = ValueError("first"), ValueError("second")
    first.__context__, second.__context__ = second, first
    assert let_through(first) is None


def test_a_function_that_is_given_another_frame_is_no_handler():
    def look(number, frame):
        raise LookupError(number, frame)

    # Its caller's caller, as a debugging helper might be given.
    def helping():
        look(1, sys._getframe(1))

    assert isinstance(catching(helping), LookupError)
