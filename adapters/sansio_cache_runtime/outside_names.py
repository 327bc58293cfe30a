"""Outside names: what the code of a loader names that is not its own.

    for id in rows:
        cache.get_or_load(f"user:{id}", lambda: rows[id])      # names `rows` and `id`

A refresh calls its loader when the reader has gone on. By then `id` is another, and one row would be stored
under another's key (S14). Arguments that are bound at the call, `get_or_load(key, rows.get, id)`, cannot
change so. For code that does not bind them, what a loader names is noted when a refresh is handed over, and
compared, by identity, when the loader is about to be called and once more when it has returned: it may have
looked late.

What counts is what the bytecode reads: the cells of a closure, and globals, as a loop at the top level of a
script has no cells. Attributes are none. Names that a loader binds itself, such as a counter of its calls,
do not count. Code is followed where a loader leads to it: through partials and their arguments, bound
methods, callable objects and what they were given to call, decorators, functions inside it, and the
functions of its own module that it calls.
"""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from inspect import getattr_static
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any, Final

from msgspec import Struct

_MOST_FUNCTIONS: Final = 32
"""How many functions are looked at for one loader."""
_UNBOUND: Final = object()
_READS_GLOBAL: Final = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_BINDS_GLOBAL: Final = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL"})
_BINDS_CELL: Final = frozenset({"STORE_DEREF", "DELETE_DEREF"})
_BINDS_LOCAL: Final = frozenset({"STORE_NAME", "DELETE_NAME"})
"""In the body of a class, which is where `LOAD_NAME` is."""

Place = CellType | dict[str, Any]
"""Where a name is bound."""


class Names(Struct, frozen=True):
    """What some code does with names that are not its own, that of the functions inside it included."""

    read: frozenset[str]
    """Globals that it reads."""
    bound: frozenset[str]
    """Globals that it binds."""
    bound_cells: frozenset[str]
    """Names of its closure that it binds."""


@lru_cache(maxsize=1024)
def names_in(code: CodeType) -> Names:
    """What some code does with names that are not its own."""
    read: set[str] = set()
    bound: set[str] = set()
    cells: set[str] = set()
    local: set[str] = set()
    for instruction in dis.get_instructions(code):
        for kinds, names in (
            (_READS_GLOBAL, read),
            (_BINDS_GLOBAL, bound),
            (_BINDS_CELL, cells),
            (_BINDS_LOCAL, local),
        ):
            if instruction.opname in kinds:
                names.add(instruction.argval)
    read -= local
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner = names_in(constant)
            read |= inner.read
            bound |= inner.bound
            cells |= inner.bound_cells
    # A name that is a cell of this very code is its own.
    return Names(frozenset(read), frozenset(bound), frozenset(cells.intersection(code.co_freevars)))


_CACHED: Final = type(names_in)
"""What `functools.lru_cache` makes of a function."""


class OutsideNames(Struct, frozen=True, eq=False):
    """What a loader named when its refresh was handed over.

    Args:
        key: The key that it was to load.
        noted: Each name, where it is bound, and to what it was.
    """

    key: str
    noted: tuple[tuple[str, Place, Any], ...]

    def rebound(self) -> str | None:
        """The first name that is bound to something else by now."""
        return next((name for name, place, value in self.noted if _value(place, name) is not value), None)


def outside_names(key: str, loader: Callable[..., Any]) -> OutsideNames:
    """Note what a loader names that is not its own."""
    noted: dict[tuple[int, str], tuple[str, Place, Any]] = {}
    own: set[tuple[int, str]] = set()
    todo, seen = list(_entrances(loader)), dict[int, Any]()
    functions: set[FunctionType] = set()
    while todo and len(functions) < _MOST_FUNCTIONS:
        given = todo.pop(0)
        if id(given) in seen:
            continue
        seen[id(given)] = given
        each = _function(given, todo)
        if each is None or each in functions:
            continue
        functions.add(each)
        names = names_in(each.__code__)
        cells = dict(zip(each.__code__.co_freevars, each.__closure__ or (), strict=True))
        own.update((id(cells[name]), name) for name in names.bound_cells)
        own.update((id(each.__globals__), name) for name in names.bound)
        places: list[tuple[str, Place]] = [*cells.items()]
        places += [(name, each.__globals__) for name in sorted(names.read)]
        for name, place in places:
            value = _value(place, name)
            noted.setdefault((id(place), name), (name, place, value))
            if place is not each.__globals__ or _is_of_module(value, each):
                todo.append(value)
        todo += each.__defaults__ or ()
    return OutsideNames(key, tuple(value for where, value in noted.items() if where not in own))


def _value(place: Place, name: str) -> Any:
    if not isinstance(place, CellType):
        return place.get(name, _UNBOUND)
    try:
        return place.cell_contents
    except ValueError:  # it is empty
        return _UNBOUND


# Classes are asked for by `type`: a proxy of a request may refuse to be asked anything where there is none.


def _entrances(loader: Any) -> Iterator[Any]:
    """Where the code of a loader may be found."""
    yield loader
    kind = type(loader)
    if issubclass(kind, type):
        yield getattr_static(loader, "__init__")
    elif not issubclass(kind, (FunctionType, MethodType, partial)):
        yield getattr_static(kind, "__call__", None)
        yield getattr_static(loader, "__wrapped__", None)
        yield from _held(loader)


def _function(given: Any, todo: list[Any]) -> FunctionType | None:
    """The function that an object calls, if any; the arguments of partials are to be looked at next."""
    while not issubclass(type(given), FunctionType):
        if issubclass(type(given), partial):
            todo += (*given.args, *given.keywords.values())
            given = given.func
        elif issubclass(type(given), MethodType):
            todo += _held(given.__self__)
            given = given.__func__
        elif issubclass(type(given), _CACHED):
            given = given.__wrapped__
        else:
            return None
    function: FunctionType = given
    return function


def _held(receiver: Any) -> list[Any]:
    """The functions that an object was given to call: those among its own attributes."""
    kind = type(receiver)
    if issubclass(kind, type):
        return []
    slots = [name for cls in kind.__mro__ for name in _texts(cls.__dict__.get("__slots__", ()))]
    attributes = [_attribute(receiver, name) for name in slots]
    own = _attribute(receiver, "__dict__")
    if isinstance(own, dict):
        attributes += own.values()
    return [
        each for each in attributes if issubclass(type(each), (FunctionType, MethodType, partial, _CACHED))
    ]


def _texts(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _attribute(receiver: Any, name: str) -> Any:
    """An attribute as it stands, without asking the class for one that is made."""
    try:
        return object.__getattribute__(receiver, name)
    except AttributeError:
        return None


def _is_of_module(value: Any, function: FunctionType) -> bool:
    """Whether a global is a function of the module that a function is of."""
    called = _function(value, [])
    return called is not None and called.__globals__ is function.__globals__
