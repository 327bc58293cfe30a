"""Shared errors: what a loader raised, for the callers who waited for it.

The leader of a load raises what its loader raised. Everybody who raises that object adds to it: the frames of
its traceback, with their variables; the exception that he was handling; his notes. So each follower raises an
exception of its own, of the same class, with the same arguments, attributes and notes. Its cause is a record
of the original as the loader raised it: with the frames of the loader, and without what the leader was
handling at that time. Everybody has members of his own in a group as well.

An exception is copied without a call of its class, whose `__init__` need not take the arguments that are
kept. Where it can be copied in no way, it is one object for all. Then its traceback begins anew with each
caller.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, TypeVar

from msgspec import Struct

from sansio_cache.signals import let_through

_OF_A_PROGRAM: Final = 1 << 9
"""The flag of classes that are made at run time (`Py_TPFLAGS_HEAPTYPE`)."""
_MOST_LINKS: Final = 100
"""How many causes, contexts and members of groups are copied: a chain may be as long as it likes."""
_OUR_OWN: Final = ("sansio_cache_runtime.", "anyio.")
"""The modules between a cache's caller and its loader."""

_set: Final = object.__setattr__  # that of the class may refuse

E = TypeVar("E", bound=BaseException)
Twin = Callable[[BaseException], BaseException]


class SharedError(Struct, frozen=True, eq=False):
    """What a loader raised, kept apart from the object that its leader raises.

    Args:
        error: That object.
        record: A copy of it; the object itself where it cannot be copied.
        traceback: From the loader on.
    """

    error: Exception
    record: Exception
    traceback: TracebackType | None

    @classmethod
    def of(cls, error: Exception, handled: BaseException | None) -> SharedError:
        """Keep what a loader has just raised.

        Args:
            error: What it raised.
            handled: What its caller was handling meanwhile, which is nobody else's.
        """
        traceback = _since_the_loader(error.__traceback__)
        return cls(error, _recorded(error, handled, traceback), traceback)

    def own(self) -> Exception:
        """An exception for one more caller to raise."""
        if self.record is self.error:
            _set(self.error, "__context__", None)
            return self.error.with_traceback(self.traceback)
        own = _twin(self.record, _alone)
        _set(own, "__cause__", self.record)
        return own


def _since_the_loader(traceback: TracebackType | None) -> TracebackType | None:
    while traceback is not None and traceback.tb_frame.f_globals.get("__name__", "").startswith(_OUR_OWN):
        traceback = traceback.tb_next
    return traceback


def _recorded(error: Exception, handled: BaseException | None, traceback: TracebackType | None) -> Exception:
    """A copy of an exception, with what it comes from as far as that is the loader's."""
    originals: list[BaseException] = []
    twins: dict[int, BaseException] = {}

    def twin_of(each: BaseException) -> BaseException:
        known = twins.get(id(each))
        if known is not None:
            return known
        originals.append(each)
        twins[id(each)] = each  # where a group is in itself
        twins[id(each)] = twin = _twin(each, twin_of)
        return twin

    def linked(each: BaseException | None) -> BaseException | None:
        return None if each is None or each is handled or len(twins) > _MOST_LINKS else twin_of(each)

    twin_of(error)
    for each in originals:  # which grows meanwhile
        twin = twins[id(each)]
        if twin is not each:
            links = linked(each.__cause__), linked(each.__context__)
            _give_past(twin, each, *links, traceback if each is error else each.__traceback__)
    record = twins[id(error)]
    assert isinstance(record, Exception)
    return record


def _alone(each: BaseException) -> BaseException:
    """The copy of a member of a group: it comes from what the member comes from."""
    twin = _twin(each, _alone)
    if twin is not each:
        _give_past(twin, each, each.__cause__, each.__context__, each.__traceback__)
    return twin


def _give_past(
    twin: BaseException,
    original: BaseException,
    cause: BaseException | None,
    context: BaseException | None,
    traceback: TracebackType | None,
) -> None:
    _set(twin, "__cause__", cause)
    _set(twin, "__context__", context)
    _set(twin, "__suppress_context__", original.__suppress_context__)
    _set(twin, "__traceback__", traceback)


def _twin(error: E, twin_of: Twin) -> E:
    """Another exception that says the same, without a past; the same one where there can be no other."""
    for make in (_rebuilt, _copied):
        try:
            twin: E = make(error, twin_of)
        except Exception as failure:  # noqa: BLE001 - whatever a class of the user's does when it is copied
            let_through(failure)
            continue
        if type(twin) is type(error) and twin is not error:
            return twin
    return error


def _rebuilt(error: Any, twin_of: Twin) -> Any:
    """Made as the class of the interpreter's that it derives from makes its own, and with its attributes."""
    kind = type(error)
    base: Any = kind
    while base.__flags__ & _OF_A_PROGRAM:
        base = base.__base__
    _, arguments, *states = base.__reduce__(error)
    is_group = isinstance(error, BaseExceptionGroup)
    if is_group:
        arguments = (error.message, [twin_of(each) for each in error.exceptions])
    twin = base.__new__(kind, *arguments)
    # No generator, which would be ended by its collection: there an interrupt is lost.
    first: Any = next(filter(lambda each: not each.__flags__ & _OF_A_PROGRAM, kind.__mro__))
    first.__init__(twin, *arguments)
    if not is_group:
        _set(twin, "args", error.args)
    if isinstance(error, AttributeError | NameError):  # which keep these to themselves
        states.append({name: getattr(error, name) for name in ("name", "obj") if hasattr(error, name)})
    kept = object.__getstate__(error)
    if isinstance(kept, tuple):  # the class has slots
        states.append(kept[1])
    for state in states:
        for name, value in state.items():
            _set(twin, name, value.copy() if type(value) in (list, dict, set) else value)
    return twin


def _copied(error: Any, _: Twin) -> Any:
    return copy.copy(error)
