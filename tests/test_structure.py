"""The floor plan, by the project's own means: what may import what, and how much a module may hold.

Each check is a function of sources or of an import graph, and is shown to catch what it is there to catch.
The layers themselves are contracts of import-linter, in pyproject.toml.
"""

import ast
import graphlib
import io
import sys
import tokenize
from pathlib import Path

import grimp
import pytest

import sansio_cache
import sansio_cache_runtime

ROOT = Path(__file__).parents[1]
PACKAGES = {
    found.name: found
    for place in (ROOT, ROOT / "adapters")
    for found in sorted(place.iterdir())
    if found.name.startswith("sansio_cache") and (found / "__init__.py").is_file()
}
RUNTIME = Path(sansio_cache_runtime.__file__).parent
DRIVERS = {colour: RUNTIME / colour / "driver.py" for colour in ("sync", "anyio")}

MOST_STATEMENTS = 120
MOST_LINES = 400


def test_the_packages_are_found():
    assert {"sansio_cache", "sansio_cache_runtime", "sansio_cache_redis", "sansio_cache_cli"} <= set(PACKAGES)
    assert Path(sansio_cache.__file__).parent == PACKAGES["sansio_cache"]


def read(path):
    return path.read_text(encoding="utf-8")


# How much a module holds.


def is_docstring(node):
    match node:
        case ast.Expr(value=ast.Constant(value=str())):
            return True
    return False


def is_overload(node):
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and any(
        ast.unparse(each).rpartition(".")[2] == "overload" for each in node.decorator_list
    )


def statements(source):
    """How many statements a module has, nested ones and definitions too: without imports and docstrings."""
    return sum(
        isinstance(node, ast.stmt)
        and not (isinstance(node, ast.Import | ast.ImportFrom) or is_docstring(node))
        for node in ast.walk(ast.parse(source))
    )


_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(source):
    """How many lines of a module hold code: no docstrings, comments, blank lines or overloads."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if is_docstring(node):
            lines.difference_update(range(node.lineno, node.end_lineno + 1))
        elif is_overload(node):
            lines.difference_update(range(node.decorator_list[0].lineno, node.end_lineno + 1))
    return len(lines)


def too_long(sources):
    """The modules that hold too much, with their lines of code."""
    return {name: lines for name, source in sources.items() if (lines := code_lines(source)) > MOST_LINES}


@pytest.mark.parametrize("colour", DRIVERS)
def test_a_driver_has_few_statements(colour):
    assert 50 < statements(read(DRIVERS[colour])) <= MOST_STATEMENTS


@pytest.mark.parametrize("colour", DRIVERS)
def test_a_driver_that_grows_is_found(colour):
    grown = read(DRIVERS[colour]) + "\n".join(f"x = {number}" for number in range(MOST_STATEMENTS // 2))
    assert statements(grown) > MOST_STATEMENTS


@pytest.mark.parametrize("package", PACKAGES)
def test_a_module_can_be_read_in_one_sitting(package):
    sources = {str(path.relative_to(ROOT)): read(path) for path in PACKAGES[package].rglob("*.py")}
    assert sources
    assert too_long(sources) == {}


def test_statements_are_counted_at_any_depth():
    source = '"""A module."""\nimport a\ndef f():\n    """Says."""\n    if a:\n        return 1; x = 2\n'
    assert statements(source) == 4


def test_lines_are_counted_without_what_explains_them():
    source = '''"""A module.

With a paragraph.
"""

import typing  # a comment

# Another.


@typing.overload
def f(x: int) -> int: ...
@typing.overload
def f(
    x: str,
) -> str: ...
def f(x):
    """Of two
    lines."""
    text = """of two
    lines"""
    return text
'''
    assert code_lines(source) == 5
    assert too_long({"m": source}) == {}


def test_a_module_that_is_too_long_is_found():
    lines = "\n".join(f"x = {number}  # why" for number in range(MOST_LINES))
    assert too_long({"m": lines}) == {}
    assert too_long({"m": f"{lines}\ny = 1"}) == {"m": MOST_LINES + 1}


# What imports what.


def imported_in(source, module):
    """The modules, or names in modules, that a module imports anywhere in it."""
    package = module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            whence = ".".join(filter(None, (above, node.module)))
            found.add(whence)
            found.update(f"{whence}.{each.name}" for each in node.names)
    return found


def within(modules, *packages):
    """Those modules that are one of some packages, or in it."""
    return {each for each in modules if any(each == one or each.startswith(f"{one}.") for one in packages)}


def modules_in(package):
    """The sources of a package, by the names of its modules."""
    top = PACKAGES[package]
    found = {}
    for path in top.rglob("*.py"):
        parts = path.relative_to(top.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = read(path)
    return found


RUNTIME_MODULES = modules_in("sansio_cache_runtime")
PLAIN = [
    f"sansio_cache_runtime.{name}"
    for name in ("cache_base", "driver_base", "sync.driver", "anyio.driver", "sync.cache", "anyio.cache")
]


@pytest.mark.parametrize("colour", DRIVERS)
def test_a_driver_knows_no_operation(colour):
    """It runs whatever begins with a step; the request builder and the coordinator know which there are."""
    name = f"sansio_cache_runtime.{colour}.driver"
    assert not within(imported_in(RUNTIME_MODULES[name], name), "sansio_cache.operations")
    base = "sansio_cache_runtime.driver_base"
    assert not within(imported_in(RUNTIME_MODULES[base], base), "sansio_cache.operations")


@pytest.mark.parametrize("name", RUNTIME_MODULES)
def test_the_runtime_knows_no_redis(name):
    forbidden = ("redis", "hiredis", "sansio_cache_redis", "sansio_cache_cli")
    assert not within(imported_in(RUNTIME_MODULES[name], name), *forbidden)


@pytest.mark.parametrize("name", PLAIN)
def test_what_drives_imports_no_backend(name):
    """Not the one of the memory store either: a store is what a cache is given."""
    assert not within(imported_in(RUNTIME_MODULES[name], name), "sansio_cache_runtime.memory")


@pytest.mark.parametrize(
    "line",
    [
        "from sansio_cache.operations.get import get",
        "from sansio_cache.operations import get",
        "from sansio_cache import operations",
        "import sansio_cache.operations.get as wanted",
        "def f():\n    from sansio_cache import operations",
        "if TYPE_CHECKING:\n    from sansio_cache.operations.get import get",
    ],
)
def test_an_operation_that_a_driver_imports_is_found(line):
    assert within(imported_in(line, "sansio_cache_runtime.sync.driver"), "sansio_cache.operations")


@pytest.mark.parametrize(
    "line",
    [
        "import redis",
        "from redis.exceptions import RedisError",
        "def f():\n    import hiredis",
        "from sansio_cache_redis import wire",
    ],
)
def test_redis_in_the_runtime_is_found(line):
    assert within(imported_in(line, "sansio_cache_runtime.m"), "redis", "hiredis", "sansio_cache_redis")
    assert not within(imported_in(line.replace("redis", "redisx"), "m"), "redis", "hiredis")


@pytest.mark.parametrize(
    "line",
    [
        "from sansio_cache_runtime.memory import memory_for",
        "from sansio_cache_runtime import memory",
        "from .. import memory",
        "from ..memory import memory_for",
    ],
)
def test_a_backend_that_a_driver_imports_is_found(line):
    assert within(imported_in(line, "sansio_cache_runtime.sync.driver"), "sansio_cache_runtime.memory")


# Randomness.


def global_draws_in(source):
    """What a module draws from the generator that Python has for everybody, or does to it."""
    tree, found = ast.parse(source), []
    modules = {
        each.asname or each.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for each in node.names
        if each.name == "random"
    }
    own = {"Random", "SystemRandom"}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=drawn) if name in modules and drawn not in own:
                found.append(f"random.{drawn}")
            case ast.ImportFrom(module="random", names=names):
                found += [f"random.{each.name}" for each in names if each.name not in own]
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_is_drawn_from_the_generator_that_belongs_to_everybody(package):
    """A user's seed would no longer say what their program draws, and Hypothesis warns of who disturbs it."""
    drawn = {name: global_draws_in(source) for name, source in modules_in(package).items()}
    assert {name: found for name, found in drawn.items() if found} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import random\nrandom.random()",
        "import random as r\ndef f():\n    return r.choice([1])",
        "import random\ndraw = random.random",
        "from random import random, Random",
        "def f():\n    import random\n    random.seed(0)",
    ],
)
def test_what_is_drawn_from_it_is_found(source):
    assert len(global_draws_in(source)) == 1


def test_generators_of_ones_own_are_not_found():
    source = "import random\ndef f(random_of: random.Random):\n    return random.SystemRandom().random()"
    assert global_draws_in(source) == []


# Circles.


def circle_in(graph):
    """The modules of an import graph that import each other, in a circle; empty where there is none."""
    imports = {module: graph.find_modules_directly_imported_by(module) - {module} for module in graph.modules}
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def graph_of(*packages):
    """Who imports whom, imports for type checking included."""
    return grimp.build_graph(*packages, exclude_type_checking_imports=False, cache_dir=None)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_import_each_other(package):
    """Also not for type checking: who is to read the one has to read the other."""
    graph = graph_of(package)
    assert len(graph.modules) > 1
    assert circle_in(graph) == []


def test_no_packages_import_each_other():
    graph = graph_of(*PACKAGES)
    for package in PACKAGES:
        graph.squash_module(package)
    assert circle_in(graph) == []


CIRCLES = {
    "two": {"a": "from seeded import b", "b": "import seeded.a"},
    "three": {"a": "import seeded.b", "b": "import seeded.c", "c": "from seeded.a import x"},
    "in a function": {"a": "import seeded.b", "b": "def f():\n    import seeded.a"},
    "for type checking": {
        "a": "import seeded.b",
        "b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from seeded.a import x",
    },
}


@pytest.mark.parametrize("kind", [*CIRCLES, "none"])
def test_a_circle_is_found(kind, tmp_path, monkeypatch):
    package = tmp_path / "seeded"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for name, source in CIRCLES.get(kind, {"a": "import seeded.b", "b": "x = 1"}).items():
        (package / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    found = circle_in(graph_of("seeded"))

    names = {f"seeded.{name}" for name in CIRCLES.get(kind, ())}
    assert set(found) == names
