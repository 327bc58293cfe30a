"""Outside names: what a loader names is noted, and compared when it is about to be called (S14)."""

import functools
import types

import pytest

from sansio_cache_runtime import outside_names as module
from sansio_cache_runtime.outside_names import names_in, outside_names


def script(source):
    """The globals of a script, which may go on."""
    names = {"functools": functools}
    exec(source, names)
    return names


def rebound(loader, change):
    """The name that a change rebinds, as far as the loader is concerned."""
    noted = outside_names("k", loader)
    assert noted.key == "k"
    assert noted.rebound() is None
    change()
    return noted.rebound()


# What is found.


class Given:
    def __init__(self, function):
        self.function = function

    def __call__(self):
        return self.function()

    def load(self):
        return self.function()


class Slotted(Given):
    __slots__ = ("function",)


class OneSlot:
    __slots__ = "function"

    __init__, __call__, load = Given.__init__, Given.__call__, Given.load


@pytest.mark.parametrize("cls", [Given, Slotted, OneSlot])
@pytest.mark.parametrize(
    "way", [lambda each: each, lambda each: each.load, lambda each: functools.partial(each.load)]
)
def test_a_function_that_an_object_was_given_to_call(cls, way):
    rows, place = {1: "Ada", 2: "Grace"}, 1

    def go_on():
        nonlocal place
        place = 2

    assert rebound(way(cls(lambda: rows[place])), go_on) == "place"


def test_what_a_class_or_an_object_without_attributes_has_is_not_looked_at():
    assert outside_names("k", Given).rebound() is None
    assert outside_names("k", "text".upper).rebound() is None
    assert outside_names("k", object.__new__(OneSlot).load).rebound() is None


def test_a_cell_of_a_closure_that_is_rebound():
    rows, place = {1: "Ada", 2: "Grace"}, 1

    def go_on():
        nonlocal place
        place = 2

    assert rebound(lambda: rows[place], go_on) == "place"


def test_a_cell_that_was_empty():
    def bind():
        nonlocal later
        later = 7

    noted = outside_names("k", lambda: later)
    later = 7
    assert noted.rebound() == "later"
    assert outside_names("k", lambda: later).rebound() is None
    assert rebound(lambda: later, bind) is None


SCRIPTS = {
    "a lambda": "load = lambda: rows[id]",
    "a function": "def load():\n    return rows[id]",
    "a coroutine function": "async def load():\n    return rows[id]",
    "a generator inside": "def load():\n    return list(rows[id] for _ in range(1))",
    "a comprehension": "def load():\n    return [rows[id] for _ in range(1)]",
    "a function inside": "def load():\n    def inner():\n        return rows[id]\n    return inner()",
    "a lambda inside": "load = lambda: (lambda: rows[id])()",
    "a class inside": "def load():\n    class Row:\n        value = rows[id]\n    return Row.value",
    "a partial": "load = functools.partial(lambda rows: rows[id], rows)",
    "a partial of a partial": ("load = functools.partial(functools.partial(lambda a, b: rows[id], 1), 2)"),
    "an argument of a partial": "load = functools.partial(lambda get: get(), lambda: rows[id])",
    "a named argument of a partial": "load = functools.partial(lambda get: get(), get=lambda: rows[id])",
    "a default": "load = lambda get=lambda: rows[id]: get()",
    "a bound method": "class Loader:\n    def load(self):\n        return rows[id]\nload = Loader().load",
    "a class method": (
        "class Loader:\n    @classmethod\n    def load(cls):\n        return rows[id]\nload = Loader.load"
    ),
    "a callable object": "class Loader:\n    def __call__(self):\n        return rows[id]\nload = Loader()",
    "a class": "class load:\n    def __init__(self):\n        self.row = rows[id]",
    "another function of the module": "def row():\n    return rows[id]\nload = lambda: row()",
    "a function that is decorated": (
        "def tried(f):\n    def wrapper():\n        return f()\n    return wrapper\n"
        "@tried\ndef load():\n    return rows[id]"
    ),
    "a function that is cached": "@functools.lru_cache\ndef load():\n    return rows[id]",
    "a cached function of the module": (
        "@functools.cache\ndef row():\n    return rows[id]\nload = lambda: row()"
    ),
    "an object that wraps a function": (
        "class Wrapper:\n    def __init__(self, f):\n        self.__wrapped__ = f\n"
        "    def __call__(self):\n        return self.__wrapped__()\n"
        "@Wrapper\ndef load():\n    return rows[id]"
    ),
}


@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_global_that_a_script_rebinds(kind):
    names = script(f"rows = {{1: 'Ada', 2: 'Grace'}}\nid = 1\n{SCRIPTS[kind]}")
    assert rebound(names["load"], lambda: exec("id = 2", names)) == "id"


def test_a_global_that_is_deleted_or_that_hides_a_builtin():
    names = script("id = 1\nload = lambda: id")
    assert rebound(names["load"], lambda: exec("del id", names)) == "id"
    names = script("load = lambda: max(1, 2)")
    assert rebound(names["load"], lambda: exec("max = min", names)) == "max"


def test_objects_are_compared_by_identity_and_not_asked_whether_they_are_equal():
    class Unequal:
        def __eq__(self, other):
            raise AssertionError

        __hash__ = None

    kept = Unequal()
    names = script("load = lambda: kept")
    names["kept"] = kept
    assert rebound(names["load"], lambda: names.update(kept=kept)) is None
    assert rebound(names["load"], lambda: names.update(kept=Unequal())) == "kept"


# What does not count.

OWN = {
    "a counter": "def load():\n    global calls\n    calls += 1\n    return calls",
    "a counter in a function inside": (
        "def load():\n    def count():\n        global calls\n        calls += 1\n"
        "    count()\n    return calls"
    ),
    "a counter of another function": (
        "def count():\n    global calls\n    calls += 1\ndef load():\n    count()\n    return calls"
    ),
    "what is deleted": "def load():\n    global calls\n    del calls\n    return calls",
    "an attribute of the same name": "load = lambda: functools.calls",
    "a method of the same name": "load = lambda: functools.calls()",
    "a variable of its own": "def load():\n    calls = 1\n    return calls",
    "a parameter": "load = lambda calls=1: calls",
    "a name in a class inside": (
        "def load():\n    class Row:\n        calls = 1\n        same = calls\n    return Row"
    ),
    "what another module's function names": "load = len",
}


@pytest.mark.parametrize("kind", OWN)
def test_a_name_that_is_the_loader_s_own(kind):
    names = script(f"calls = 0\n{OWN[kind]}")
    assert rebound(names["load"], lambda: exec("calls = 7", names)) is None


def test_a_cell_that_the_loader_rebinds_itself():
    calls = 0

    def load():
        nonlocal calls
        calls += 1

    assert rebound(load, load) is None

    def nested():
        def count():
            nonlocal calls
            calls += 1

        count()
        return calls

    assert rebound(nested, nested) is None

    def count():
        nonlocal calls
        calls += 1

    assert rebound(lambda: (count(), calls), count) is None


def test_a_variable_of_the_loader_that_a_function_inside_it_rebinds_is_not_outside():
    """Even where another, outside, has the same name."""

    def load():
        calls = 0

        def count():
            nonlocal calls
            calls += 1

        return count

    assert names_in(load.__code__).bound_cells == frozenset()
    inner = load()
    assert names_in(inner.__code__).bound_cells == {"calls"}


def test_globals_of_functions_in_other_modules_are_theirs():
    other = script("state = 1\ndef get():\n    return state")
    names = script("load = lambda: get()")
    names["get"] = other["get"]
    assert rebound(names["load"], lambda: exec("state = 2", other)) is None
    names["get"] = functools.partial(other["get"])
    assert rebound(names["load"], lambda: exec("state = 3", other)) is None
    names["get"] = types.MethodType(other["get"], object())
    assert rebound(names["load"], lambda: exec("state = 4", other)) is None


def test_functions_that_call_each_other_and_very_many_of_them_come_to_an_end():
    names = script("def a():\n    return b()\ndef b():\n    return a() + id\nid = 1")
    assert rebound(names["a"], lambda: exec("id = 2", names)) == "id"
    many = module._MOST_FUNCTIONS + 5
    text = "\n".join(f"def f{place}():\n    return f{place + 1}()" for place in range(many))
    names = script(text)
    assert len(outside_names("k", names["f0"]).noted) == module._MOST_FUNCTIONS
    itself = functools.partial(print)
    itself.__setstate__((print, (itself,), {}, {}))
    assert outside_names("k", itself).noted == ()


def test_a_loader_whose_attributes_raise_is_looked_at_without_asking_it():
    class Loader:
        def __getattribute__(self, name):
            raise AssertionError(name)

        def __call__(self):
            return 7

    assert outside_names("k", Loader()).rebound() is None
