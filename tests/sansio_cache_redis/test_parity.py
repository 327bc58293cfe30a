"""The two caches are one: the same names, signatures, sentences and lines, but for `async` (B5).

What differs between the twins on purpose is listed in docs/design.md, which these tests read.
"""

import ast
import difflib
import inspect
import re
import typing
from pathlib import Path

import pytest

from sansio_cache import commands
from sansio_cache_redis import anyio as redis_anyio
from sansio_cache_redis import queue_wire, wire
from sansio_cache_redis import sync as redis_sync
from sansio_cache_runtime.anyio import cache as cache_anyio
from sansio_cache_runtime.anyio import driver as driver_anyio
from sansio_cache_runtime.anyio import entity as entity_anyio
from sansio_cache_runtime.anyio import locks as locks_anyio
from sansio_cache_runtime.anyio import primitives as primitives_anyio
from sansio_cache_runtime.anyio import typed as typed_anyio
from sansio_cache_runtime.cache_base import CacheBase
from sansio_cache_runtime.sync import cache as cache_sync
from sansio_cache_runtime.sync import driver as driver_sync
from sansio_cache_runtime.sync import entity as entity_sync
from sansio_cache_runtime.sync import locks as locks_sync
from sansio_cache_runtime.sync import primitives as primitives_sync
from sansio_cache_runtime.sync import typed as typed_sync

RENAMED = {"close": "aclose", "__enter__": "__aenter__", "__exit__": "__aexit__"}
# What only the types of an asynchronous program say otherwise.
ASYNCHRONOUS = {
    "AsyncGenerator[": "Generator[",
    "AsyncIterator[": "Iterator[",
    "AbstractAsyncContextManager[": "AbstractContextManager[",
    "Callable[[T], T] | Callable[[T], Awaitable[T]]": "Callable[[T], T]",
    "Awaitable[T]": "T",
    "Awaitable[Fresh[T] | Absent | None]": "Fresh[T] | Absent | None",
    "Awaitable[Fresh[T]]": "Fresh[T]",
    "Awaitable[Outcome]": "Outcome",
    "Callable[[], AnyioBackend]": "Callable[[Background], SyncBackend]",
}
DESIGN = Path(__file__).parents[2] / "docs" / "design.md"
OF_THE_CLASS = {"__doc__", "__enter__", "__exit__", "__aenter__", "__aexit__"}


def public(cls):
    """The members of a class that its users call, in order; what is inherited comes first."""
    return {
        name: member
        for each in reversed(cls.__mro__[:-1])
        for name, member in vars(each).items()
        if not name.startswith("_") or name in {*RENAMED, *RENAMED.values()}
    }


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


def said(text):
    """A docstring as the blocking cache would have it."""
    for asynchronous, plain in {"await ": "", "async with": "with", "aclose": "close"}.items():
        text = text.replace(asynchronous, plain)
    return text


CLASSES = {
    "Cache": (redis_sync.Cache, redis_anyio.Cache),
    "runtime Cache": (cache_sync.Cache, cache_anyio.Cache),
    "Entity": (entity_sync.Entity, entity_anyio.Entity),
    "Typed": (typed_sync.Typed, typed_anyio.Typed),
    "Driver": (driver_sync.Driver, driver_anyio.Driver),
}
MEMBERS = [(twins, name) for twins, (ours, _) in CLASSES.items() for name in public(ours)]


def both(twins, name):
    """A member of a class, in both colours."""
    ours, theirs = map(public, CLASSES[twins])
    return ours[name], theirs[name if name in theirs else RENAMED[name]]


@pytest.mark.parametrize("twins", CLASSES)
def test_twins_have_the_same_public_members_in_the_same_order(twins):
    ours, theirs = map(public, CLASSES[twins])

    assert [name if name in theirs else RENAMED.get(name) for name in ours] == list(theirs)
    assert len(ours) >= (3 if twins == "Driver" else 8)


def test_the_caches_are_named_alike_and_have_all_that_a_user_calls():
    names = list(public(redis_sync.Cache))
    assert len(names) >= 25
    assert [cls.__name__ for pair in CLASSES.values() for cls in pair] == [
        *["Cache"] * 4,
        *["Entity"] * 2,
        *["Typed"] * 2,
        *["Driver"] * 2,
    ]
    assert issubclass(redis_sync.Cache, CacheBase)
    assert issubclass(redis_anyio.Cache, CacheBase)


@pytest.mark.parametrize(("twins", "name"), MEMBERS)
def test_a_method_has_the_same_signature_in_both_colours(twins, name):
    ours, theirs = both(twins, name)

    assert type(ours) is type(theirs)
    assert shape(unwrapped(ours)) == shape(unwrapped(theirs))


@pytest.mark.parametrize(("twins", "name"), MEMBERS)
def test_a_method_has_the_same_overloads_in_both_colours(twins, name):
    ours, theirs = (typing.get_overloads(unwrapped(member)) for member in both(twins, name))

    # A loader that is awaited has an overload of its own, that says the same.
    assert list(dict.fromkeys(map(shape, ours))) == list(dict.fromkeys(map(shape, theirs)))


@pytest.mark.parametrize(
    ("twins", "name"), [each for each in MEMBERS if each[0] != "Driver" and each[1] not in OF_THE_CLASS]
)
def test_a_method_has_the_same_docstring_in_both_colours(twins, name):
    ours, theirs = both(twins, name)

    assert inspect.getdoc(unwrapped(ours)) == said(inspect.getdoc(unwrapped(theirs)))


@pytest.mark.parametrize("name", public(redis_sync.Cache))
def test_what_waits_is_a_coroutine_function_in_the_asynchronous_cache_alone(name):
    ours, theirs = both("Cache", name)

    # What asks nobody for anything does not wait.
    is_plain = name in {
        "from_url",
        "from_client",
        "from_config",
        "from_backend",
        "mutate",  # its context manager waits, when it is entered and left
        "key",
        "stats",
        "subscribe",
        "explain",
        "entity",
        "typed",
        "cached",  # it decorates
    }
    function = unwrapped(theirs)
    assert is_plain != (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function))
    assert not inspect.iscoroutinefunction(unwrapped(ours))


# Line by line.

TWINS = {
    "cache": (cache_sync, cache_anyio),
    "driver": (driver_sync, driver_anyio),
    "entity": (entity_sync, entity_anyio),
    "typed": (typed_sync, typed_anyio),
    "primitives": (primitives_sync, primitives_anyio),
    "locks": (locks_sync, locks_anyio),
    "redis cache": (redis_sync, redis_anyio),
}
# The words of one colour for what the other has as well.
WORDS = {
    r"\bawait ": "",
    r"\basync (def|with|for)\b": r"\1",
    r"\bA(sync)?(Generator|ContextManager)\b": r"\2",
    r"\bAbstractAsyncContextManager\b": "AbstractContextManager",
    r"\basync_block\b": "block",
    r"\b(__)a(enter|exit)(__)\b": r"\1\2\3",
    r"\baclose\b": "close",
    r"\bAnyio(Memory)?Backend\b": r"Sync\1Backend",
    r"\b_backend\.answer\b": "_backend.perform",
    r"\bcall_loader\b": "call_blocking",
    r"\b_bound\(\)": "_driver",
    r"\bLoopEvent\b": "ThreadEvent",
    r"\bAwaitable\[(Outcome|T \| Fresh\[T\])\]": r"\1",
}


class _Bare(ast.NodeTransformer):
    """Takes away what other tests compare: docstrings, overloads and imports."""

    def visit(self, node):
        match node:
            case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant()):
                return None
            case ast.FunctionDef() | ast.AsyncFunctionDef() if "overload" in map(
                ast.unparse, node.decorator_list
            ):
                return None
        return self.generic_visit(node)


def bare(source):
    """The lines of a module as the blocking twin would have them, by the functions that they are in."""
    tree = _Bare().visit(ast.parse(source))
    lines = {}

    def put(name, node):
        text = ast.unparse(node)
        for asynchronous, plain in WORDS.items():
            text = re.sub(asynchronous, plain, text)
        lines[name] = text.splitlines()

    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in {
            "Cache",
            "Driver",
            "Entity",
            "Typed",
            "Primitives",
        }:
            for each in node.body:
                if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
                    put(re.sub("^(__)?a(close|enter|exit)", r"\1\2", each.name), each)
        else:
            put(getattr(node, "name", None) or ast.unparse(node).split(" ")[0].rstrip(":"), node)
    return lines


def differing(ours, theirs):
    """The functions that differ, and the share of lines that do not."""
    mine, other = bare(ours), bare(theirs)
    names = [*mine, *(name for name in other if name not in mine)]
    same = total = 0
    differ = set()
    for name in names:
        left, right = mine.get(name, []), other.get(name, [])
        matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
        same += 2 * sum(block.size for block in matcher.get_matching_blocks())
        total += len(left) + len(right)
        if left != right:
            differ.add(name)
    return differ, same / total


def listed():
    """What docs/design.md says that differs on purpose, by the names of the twins."""
    text = DESIGN.read_text(encoding="utf-8")
    section = text.partition("## What differs between the twins")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "`" in line
    ]
    found = {}
    for twins, names, reason in (row for row in rows if len(row) == 3):
        assert reason
        found.setdefault(twins, set()).update(re.findall("`([^`]+)`", names))
    return found


@pytest.mark.parametrize("twins", TWINS)
def test_what_differs_between_twins_is_listed_with_its_reason_and_nothing_else_does(twins):
    ours, theirs = (Path(module.__file__).read_text(encoding="utf-8") for module in TWINS[twins])
    differ, share = differing(ours, theirs)

    assert differ == listed().get(twins, set())
    least = {"cache": 0.65, "entity": 0.95, "primitives": 0.93, "locks": 0.4, "typed": 0.9}
    assert share >= least.get(twins, 0.75)


def test_a_line_that_only_one_twin_has_is_found():
    ours = Path(driver_sync.__file__).read_text(encoding="utf-8")
    theirs = Path(driver_anyio.__file__).read_text(encoding="utf-8")
    line = "        answer = self._join(command, call)\n"
    refresh = "        forget_loads()\n"
    assert ours.count(line) == ours.count(refresh) == 1

    differ, share = differing(ours, theirs)
    drifted, less = differing(ours.replace(line, line * 2).replace(refresh, refresh * 2), theirs)

    assert drifted - differ == {"_share", "_refresh"}
    assert less < share


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
    performed = getattr(module, "_PERFORMED", module.PERFORMED)
    assert {each.__name__ for each in performed} == matched
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


def _matched(module, *functions):
    return [
        {
            name
            for node in ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef) and node.name == function
            for each in ast.walk(node)
            if (name := _told_apart(each)) is not None
        }
        for function in functions
    ]


def test_the_store_s_commands_are_all_encoded_and_decoded():
    queues = {each.__name__ for each in typing.get_args(commands.QueueCommand)}
    the_store_s = {each.__name__ for each in typing.get_args(commands.StoreCommand)}

    assert _matched(wire, "encode", "_decode") == [the_store_s - queues] * 2
    assert _matched(queue_wire, "encode_queue", "decode_queue") == [queues] * 2
