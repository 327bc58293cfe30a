"""The two caches are one: the same names, signatures and commands, but for `async` (B5)."""

import ast
import inspect
import typing
from pathlib import Path

import pytest

from sansio_cache import commands
from sansio_cache_redis import anyio as cache_anyio
from sansio_cache_redis import sync as cache_sync
from sansio_cache_redis import wire
from sansio_cache_runtime.anyio import driver as driver_anyio
from sansio_cache_runtime.anyio import entity as entity_anyio
from sansio_cache_runtime.sync import driver as driver_sync
from sansio_cache_runtime.sync import entity as entity_sync

RENAMED = {"close": "aclose", "__enter__": "__aenter__", "__exit__": "__aexit__"}
# What only the types of an asynchronous program say otherwise.
ASYNCHRONOUS = {
    "AsyncIterator[Mutation]": "Iterator[Mutation]",
    "AsyncIterator[None]": "Iterator[None]",
    "AbstractAsyncContextManager[Mutation]": "AbstractContextManager[Mutation]",
    "AsyncEntity[T]": "Entity[T]",
    "Awaitable[T | Fresh[T]]": "T | Fresh[T]",
}


def public(cls):
    """The members of a class that its users call, in order."""
    names = [name for name in vars(cls) if not name.startswith("_") or name in {*RENAMED, *RENAMED.values()}]
    return {name: inspect.getattr_static(cls, name) for name in names}


def unwrapped(member):
    """The function behind a class method, property or context manager."""
    if isinstance(member, property):
        return member.fget
    function = getattr(member, "__func__", member)
    return inspect.unwrap(function)


def shape(function):
    """A signature as text, as a synchronous program would write it."""
    signature = inspect.signature(function)
    parts = [str(parameter) for parameter in signature.parameters.values()]
    text = f"({', '.join(parts)}) -> {signature.return_annotation}"
    for asynchronous, plain in ASYNCHRONOUS.items():
        text = text.replace(asynchronous, plain)
    return text


SYNC = public(cache_sync.Cache)
ANYIO = public(cache_anyio.Cache)


def test_both_caches_have_the_same_public_members_in_the_same_order():
    assert [RENAMED.get(name, name) for name in SYNC] == list(ANYIO)
    assert len(SYNC) >= 18


@pytest.mark.parametrize("name", SYNC)
def test_a_method_has_the_same_signature_in_both_caches(name):
    ours, theirs = SYNC[name], ANYIO[RENAMED.get(name, name)]

    assert type(ours) is type(theirs)
    assert shape(unwrapped(ours)) == shape(unwrapped(theirs))


@pytest.mark.parametrize("name", SYNC)
def test_a_method_has_the_same_overloads_in_both_caches(name):
    ours = typing.get_overloads(unwrapped(SYNC[name]))
    theirs = typing.get_overloads(unwrapped(ANYIO[RENAMED.get(name, name)]))

    # A loader that is awaited has an overload of its own, that says the same.
    assert list(dict.fromkeys(map(shape, ours))) == list(dict.fromkeys(map(shape, theirs)))


@pytest.mark.parametrize("name", [name for name in SYNC if not name.startswith("__")])
def test_a_method_documents_the_same_arguments_and_errors_in_both_caches(name):
    def said(function):
        lines = inspect.getdoc(function).splitlines()
        named = [line.split(":")[0].strip() for line in lines if line.startswith("    ") and ":" in line]
        return [line for line in lines if line in {"Args:", "Raises:"}], [
            each for each in named if each.isidentifier()
        ]

    assert said(unwrapped(SYNC[name])) == said(unwrapped(ANYIO[RENAMED.get(name, name)]))


def test_what_waits_is_a_coroutine_function_in_the_asynchronous_cache_alone():
    plain = {
        name
        for name, member in ANYIO.items()
        if not inspect.iscoroutinefunction(unwrapped(member))
        and not inspect.isasyncgenfunction(unwrapped(member))
    }

    # What asks nobody for anything does not wait.
    assert plain == {
        "from_url",
        "from_client",
        "from_config",
        "mutate",  # its context manager waits, when it is entered and left
        "key",
        "stats",
        "subscribe",
        "explain",
        "entity",
    }
    assert not [name for name, member in SYNC.items() if inspect.iscoroutinefunction(unwrapped(member))]


def test_both_entities_have_the_same_methods():
    ours, theirs = public(entity_sync.Entity), public(entity_anyio.AsyncEntity)

    assert list(ours) == list(theirs)
    for name, member in ours.items():
        assert shape(unwrapped(member)) == shape(unwrapped(theirs[name]))
        assert inspect.getdoc(member) == inspect.getdoc(theirs[name])


def commands_matched_in(module):
    """The names of the commands that a driver's `_perform` has cases for."""
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    [perform] = [
        node
        for driver in tree.body
        if isinstance(driver, ast.ClassDef) and driver.name == "Driver"
        for node in driver.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == "_perform"
    ]
    return {each.cls.id for each in ast.walk(perform) if isinstance(each, ast.MatchClass)}


@pytest.mark.parametrize("module", [driver_sync, driver_anyio], ids=["sync", "anyio"])
def test_a_driver_handles_every_command_that_is_not_the_store_s(module):
    """Those of the store it passes on, whatever they are; the type checker sees to it that no other is."""
    every = {each.__name__ for each in typing.get_args(commands.Command)}
    the_store_s = {each.__name__ for each in typing.get_args(commands.StoreCommand)}
    matched = commands_matched_in(module)

    assert matched <= every
    assert matched - the_store_s == every - the_store_s == {"Compute", "ComputeMany", "ShareLoad", "Sleep"}


def _told_apart(node):
    """The class that a pattern, or an isinstance, asks for."""
    match node:
        case ast.MatchClass(cls=ast.Name(id=name)):
            return name
        case ast.Call(func=ast.Name(id="isinstance"), args=[ast.Name(id="command"), ast.Name(id=name)]):
            return name
        case _:
            return None


def test_the_store_s_commands_are_all_encoded_and_decoded():
    matched = {
        function: {
            name
            for node in ast.parse(Path(wire.__file__).read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef) and node.name == function
            for each in ast.walk(node)
            if (name := _told_apart(each)) is not None
        }
        for function in ("encode", "_decode")
    }
    the_store_s = {each.__name__ for each in typing.get_args(commands.StoreCommand)}

    assert matched == {"encode": the_store_s, "_decode": the_store_s}
