"""Shared errors: each caller of a load that failed has an exception of its own (S16)."""

import json
import subprocess
import traceback

import pytest

from sansio_cache_runtime import shared_errors
from sansio_cache_runtime.shared_errors import SharedError


class CodedError(Exception):
    """Its `__init__` does not take what it keeps as arguments."""

    def __init__(self, code, *, where):
        super().__init__(f"error {code}")
        self.code, self.where = code, where


class SlottedError(Exception):
    __slots__ = ("code",)

    def __init__(self, code):
        super().__init__("slotted")
        self.code = code


class UnwritableError(Exception):
    def __setattr__(self, name, value):
        raise AttributeError("it is frozen")


class BothError(ValueError, OSError):
    """Its layout is that of the second of its bases."""


class Batch(ExceptionGroup):
    def __init__(self, message, members):
        self.size = len(members)


class SingleError(Exception):
    """There is one of it."""

    def __new__(cls, *_):
        raise TypeError("no other one")

    def __reduce_ex__(self, _):
        raise TypeError("not to be copied")


def single():
    """One that can be copied in no way: its class makes none, and nor does its base."""
    return Exception.__new__(SingleError, "one")


def raised(error, *, while_handling=None):
    """An error as a loader raises it, whose caller handles another, or none."""

    def load():
        secret = "of the loader"  # noqa: F841 - a variable of its frame
        raise error

    try:
        if while_handling is None:
            load()
        try:
            raise while_handling
        except BaseException:
            load()
    except BaseException as caught:
        return caught.with_traceback(caught.__traceback__.tb_next)


def frozen_error():
    error = Exception.__new__(UnwritableError, "frozen")
    error.__dict__["code"] = 7
    return error


def bad_json():
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads("{")
    return caught.value


ERRORS = [
    lambda: LookupError("nobody", 7),
    lambda: CodedError(7, where="there"),
    lambda: SlottedError(7),
    frozen_error,
    lambda: BothError(2, "no such file", "a.txt"),
    lambda: OSError(2, "no such file", "a.txt", None, "b.txt"),
    lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
    lambda: ImportError("no module", name="m", path="m.py"),
    lambda: AttributeError("no attribute", name="a", obj=7),
    lambda: StopIteration(7),
    lambda: SyntaxError("invalid", ("a.py", 1, 2, "x")),
    lambda: subprocess.CalledProcessError(1, ["ls"], b"out"),
    bad_json,
]


def attributes(error):
    names = {name for name in dir(error) if not name.startswith("__")} | {"__notes__"}
    values = ((name, getattr(error, name, None)) for name in names)
    return {name: value for name, value in values if not callable(value)}


@pytest.mark.parametrize("make", ERRORS)
def test_an_exception_of_ones_own_says_the_same(make):
    error = raised(make())
    BaseException.add_note(error, "a note") if not isinstance(error, UnwritableError) else None
    own = SharedError.of(error, None).own()
    assert own is not error
    assert type(own) is type(error)
    assert str(own) == str(error)
    assert own.args == error.args
    assert attributes(own) == attributes(error)


def test_what_one_caller_does_to_his_reaches_no_other():
    error = raised(CodedError(7, where={"at": 1}))
    error.add_note("the loader's")
    shared = SharedError.of(error, None)
    one, other = shared.own(), shared.own()
    error.add_note("the leader's")
    one.add_note("one's")
    one.where["user"] = "one"
    assert one.__notes__ == ["the loader's", "one's"]
    assert other.__notes__ == ["the loader's"]
    assert other.where == error.where == {"at": 1}


def test_the_cause_is_the_original_as_the_loader_raised_it():
    error = raised(LookupError("nobody"))
    shared = SharedError.of(error, None)
    own = shared.own()
    assert own.__traceback__ is None
    cause = own.__cause__
    assert type(cause) is LookupError
    assert cause is not error
    assert [frame.name for frame in traceback.extract_tb(cause.__traceback__)] == ["load"]
    assert shared.own().__cause__ is cause


def test_what_the_loader_raised_it_from_is_told_and_what_its_caller_handled_is_not():
    handled = PermissionError("the token is 4711")

    def load():
        try:
            raise KeyError("row")
        except KeyError as error:
            raise LookupError("nobody") from error

    try:
        try:
            raise handled
        except PermissionError:
            load()
    except LookupError as caught:
        error = caught
    assert error.__cause__.__context__ is handled
    own = SharedError.of(error, handled).own()
    text = "".join(traceback.format_exception(own))
    assert "KeyError: 'row'" in text
    assert "4711" not in text
    assert error.__cause__.__context__ is handled, "the leader's is as it was"
    assert own.__cause__.__cause__ is not error.__cause__


def test_an_exception_that_was_raised_from_none_hides_what_it_came_from():
    error = LookupError("nobody")
    error.__context__, error.__suppress_context__ = KeyError("row"), True
    record = SharedError.of(error, None).own().__cause__
    assert record.__suppress_context__
    assert isinstance(record.__context__, KeyError)


def test_each_has_members_of_his_own_in_a_group():
    inner = raised(KeyError("row"), while_handling=OSError("disk"))
    error = raised(Batch("many", [ValueError(1), Batch("few", [inner])]))
    shared = SharedError.of(error, None)
    one, other = shared.own(), shared.own()
    assert (type(one), one.message, one.size) == (Batch, "many", 2)
    mine, others = one.exceptions[1].exceptions[0], other.exceptions[1].exceptions[0]
    assert repr(mine) == repr(others) == "KeyError('row')"
    assert len({id(each) for each in (mine, others, inner)}) == 3
    assert [frame.name for frame in traceback.extract_tb(mine.__traceback__)] == ["load"]
    assert isinstance(mine.__context__, OSError)
    before = len(traceback.format_exception(other))
    for _ in range(20):
        try:
            raise shared.own()
        except* KeyError:
            pass
        except* ValueError:
            pass
    assert len(traceback.format_exception(other)) == before


def test_a_circle_of_causes_and_a_long_chain_come_to_an_end():
    error, context = LookupError("nobody"), KeyError("row")
    error.__context__, context.__cause__ = context, error
    record = SharedError.of(error, None).own().__cause__
    assert record.__context__.__cause__ is record

    last = error = LookupError(0)
    for number in range(1, 5_000):
        last.__context__ = KeyError(number)
        last = last.__context__
    links, each = 0, SharedError.of(error, None).own().__cause__
    while each is not None:
        links, each = links + 1, each.__context__
    assert 50 < links <= shared_errors._MOST_LINKS + 1


def test_a_class_that_only_copies_itself_is_copied_so(monkeypatch):
    """As those of extension modules are that Python cannot look into."""

    def rebuilt(*_):
        raise TypeError("not safe")

    monkeypatch.setattr(shared_errors, "_rebuilt", rebuilt)
    error = raised(LookupError("nobody"))
    own = SharedError.of(error, None).own()
    assert own is not error
    assert repr(own) == "LookupError('nobody')"


def test_what_cannot_be_copied_is_one_object_whose_traceback_does_not_grow(monkeypatch):
    def rebuilt(*_):
        raise TypeError("not safe")

    monkeypatch.setattr(shared_errors, "_rebuilt", rebuilt)
    error = raised(single())
    shared = SharedError.of(error, None)
    lengths = set()
    for _ in range(20):
        try:
            try:
                raise PermissionError("the token is 4711")
            except PermissionError:
                raise shared.own() from None
        except SingleError as caught:
            lengths.add(len(traceback.format_exception(caught)))
    assert len(lengths) == 1
    assert shared.own().__context__ is None
