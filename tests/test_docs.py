"""The documentation is true: its examples run, its tables are complete, its list of permissions is enough."""

import ast
import enum
import gc
import importlib
import inspect
import json
import re
import sqlite3
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from importlib.metadata import metadata
from pathlib import Path
from typing import Any, get_args

import anyio
import attrs
import pytest
import redis

import sansio_cache
from consumers.__main__ import PAGES as PROGRAMS
from consumers.__main__ import program_of
from sansio_cache import (
    NO_JITTER,
    CacheClosedError,
    CacheConfig,
    CacheStats,
    Jitter,
    Policy,
    ProtocolError,
    RedisConfig,
)
from sansio_cache.cell import Cell, parse_cell
from sansio_cache.commands import Command, StoreCommand
from sansio_cache.entry import MissReason
from sansio_cache.events import Event, FailureKind, Interrupted, StoreEvent
from sansio_cache.notices import OperationName
from sansio_cache_redis.sync import Cache
from support.clusters import ClusterServers
from support.pages import Block, blocks_of
from support.servers import Server, wait_until

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *(page for page in sorted(DOCS.rglob("*.md")) if "_build" not in page.parts)]
SERVER_URL = "redis://localhost:6379"
KNOWN_BLOCKS = {"python", "console", "text"}
"""Anything else, `py` or nothing for one, might be Python that nobody runs."""
MOST_NOT_RUN = 0


def compiled(block: Block, page: Path, replaced: dict[str, str]) -> types.CodeType:
    """The code of a block, with the page's own line numbers."""
    code = block.code
    for old, new in replaced.items():
        code = code.replace(old, new)
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    return compile("\n" * block.line + code, str(page), "exec", flags=flags, dont_inherit=True)


def is_async(code: types.CodeType) -> bool:
    return bool(code.co_flags & inspect.CO_COROUTINE)


def run_page(page: Path, text: str, backend: str | None, replaced: dict[str, str]) -> int:
    """Run the Python blocks of a page in one namespace, in order; returns how many there were.

    With a backend, in one run of its event loop.
    """
    blocks = [block for block in blocks_of(text) if block.language == "python" and block.not_run is None]
    codes = [compiled(block, page, replaced) for block in blocks]
    # A module that can be imported: annotations of the classes in it are looked up there.
    module = types.ModuleType("page_of_the_documentation")
    sys.modules[module.__name__] = module

    async def run() -> None:
        for code in codes:
            if is_async(code):
                await eval(code, module.__dict__)
            else:
                exec(code, module.__dict__)

    try:
        if backend is None:
            for code in codes:
                exec(code, module.__dict__)
        else:
            anyio.run(run, backend=backend)
    finally:
        del sys.modules[module.__name__]
        for each in list(module.__dict__.values()):
            if isinstance(each, sqlite3.Connection):
                each.close()  # the page is about the cache, and Python 3.13 complains
        module.__dict__.clear()
        gc.collect()  # what a page has left open is to be complained of here
    return len(codes)


def _runs() -> Iterator[Any]:
    """Each page once; those with `await` outside a function once for each event loop."""
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        blocks = [
            block for block in blocks_of(page.read_text(encoding="utf-8")) if block.language == "python"
        ]
        has_await = any(is_async(compiled(block, page, {})) for block in blocks)
        for backend in ("asyncio", "trio") if has_await else (None,):
            if blocks:
                yield pytest.param(page, backend, id=f"{name}-{backend}" if backend else name)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_page_on_a_kind_of_program_opens_with_it_and_says_what_it_promises(name: str) -> None:
    text = PROGRAMS[name].read_text(encoding="utf-8")
    opening, _, rest = re.sub(r"```\{index\}.*?```\n\n", "", text, flags=re.DOTALL).partition("```python")
    assert len(opening.strip().splitlines()) <= 3, "a title, and one sentence"
    promises = rest.partition("```\n")[2].strip()
    assert promises.startswith("What it promises:\n\n- ")


def test_the_application_is_short() -> None:
    assert len(program_of(PROGRAMS["application"]).strip().splitlines()) <= 28


def _forget(client: redis.Redis) -> None:
    """Remove what the pages store on the server: by agreement, under names that begin with docs-."""
    for key in client.scan_iter("docs-*"):
        client.unlink(key)


@pytest.mark.parametrize(("page", "backend"), list(_runs()))
def test_the_examples_of_a_page_run(page: Path, backend: str | None, request: pytest.FixtureRequest) -> None:
    text = page.read_text(encoding="utf-8")
    if not any(SERVER_URL in block.code for block in blocks_of(text) if block.language == "python"):
        assert run_page(page, text, backend, {})
        return
    url: str = request.getfixturevalue("redis_url")
    client: redis.Redis = request.getfixturevalue("redis_client")
    _forget(client)
    try:
        assert run_page(page, text, backend, {SERVER_URL: url})
    finally:
        _forget(client)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_says_what_it_is(page: Path) -> None:
    """So that no example escapes the test above by another name."""
    for block in blocks_of(page.read_text(encoding="utf-8")):
        is_directive = block.language.startswith("{") and not block.language.startswith("{code")
        assert is_directive or block.language in KNOWN_BLOCKS, f"line {block.line}: {block.language!r}"


def test_examples_are_short() -> None:
    """But for whole programs: those that pages open with, and those that stand on the core."""
    programs = {*PROGRAMS.values(), *DOCS.glob("howto/use-*.md"), *DOCS.glob("howto/write-a-*.md")}
    for page in {*PAGES} - programs:
        for block in blocks_of(page.read_text(encoding="utf-8")):
            lines = [line for line in block.code.splitlines() if line.strip()]
            assert block.language != "python" or len(lines) <= 24, f"{page}, line {block.line}"


def test_few_examples_are_not_run() -> None:
    blocks = [block for page in PAGES for block in blocks_of(page.read_text(encoding="utf-8"))]
    assert sum(block.language == "python" for block in blocks) > 60
    assert len([block for block in blocks if block.not_run]) <= MOST_NOT_RUN


@pytest.mark.parametrize("backend", [None, "asyncio", "trio"])
def test_a_page_with_an_example_that_raises_fails(backend: str | None) -> None:
    text = "```python\nx = 1\n```\ntext\n\n```python\nassert x == 2\n```\n"
    with pytest.raises(AssertionError) as caught:
        run_page(Path("page.md"), text, backend, {})
    assert caught.traceback[-1].lineno == 6  # from 0: the seventh line of the page


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_example_that_raises_after_an_await_fails_its_page(backend: str) -> None:
    text = "```python\nimport anyio\nawait anyio.sleep(0)\nraise ZeroDivisionError\n```\n"
    with pytest.raises(ZeroDivisionError):
        run_page(Path("page.md"), text, backend, {})


def test_a_block_marked_as_not_run_is_not_run_and_all_others_are() -> None:
    text = (
        "<!-- not run: it would delete everything -->\n\n```python\nraise ZeroDivisionError\n```\n"
        "- a list\n\n  ```python\n  if True:\n      x = 1\n  ```\n````text\n```python\n```\n````\n"
    )
    assert [block.not_run for block in blocks_of(text)] == ["it would delete everything", None, None]
    assert run_page(Path("page.md"), text, None, {}) == 1


# The page of the wheel.

README = (ROOT / "README.md").read_text(encoding="utf-8")
SITE = "https://sansio-cache.readthedocs.io/en/latest/"
SOURCE = "https://github.com/sansio-cache/sansio-cache/blob/main/"


def test_each_block_of_the_readme_runs_as_it_is_pasted(tmp_path: Path) -> None:
    blocks = [block for block in blocks_of(README) if block.language == "python"]
    assert len(blocks) == 2
    for number, block in enumerate(blocks):
        program = tmp_path / f"pasted_{number}.py"
        program.write_text(block.code, encoding="utf-8")
        done = subprocess.run([sys.executable, "-W", "error", program], capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")


def test_every_link_of_the_readme_leads_to_a_page_from_wherever_it_is_shown() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert len(links) > 10
    for link in links:
        if link.startswith(SITE):
            page, _, anchor = link.removeprefix(SITE).partition("#")
            path = DOCS / (page.removesuffix(".html") or "index")
            headings = re.findall(r"^#+ (.+)$", path.with_suffix(".md").read_text("utf-8"), re.MULTILINE)
            assert not anchor or anchor in {re.sub(r"\W+", "-", heading.lower()) for heading in headings}
        else:
            assert link.startswith(SOURCE), link
            assert (ROOT / link.removeprefix(SOURCE)).exists(), link


def test_an_index_of_packages_shows_the_readme_as_it_is_meant() -> None:
    from readme_renderer.markdown import render

    assert metadata("sansio-cache")["Description-Content-Type"] == "text/markdown"
    page = render(README) or ""
    assert page.count("<pre") == len(blocks_of(README))
    text = re.sub(r"<pre.*?</pre>|<code.*?</code>", "", page, flags=re.DOTALL)
    assert not re.search(r"\]\(|\*\*|^#|```", text, re.MULTILINE), "Markdown that was not understood"


# The pages say everything that there is.


@pytest.mark.parametrize("page", sorted((DOCS / "concepts").glob("*.md")), ids=lambda page: page.stem)
def test_a_concept_begins_with_two_lines_and_then_with_what_goes_wrong_without_it(page: Path) -> None:
    title, blank, first, second, third, heading = page.read_text(encoding="utf-8").splitlines()[:6]
    assert title.startswith("# ")
    assert (blank, third) == ("", "")
    assert first.strip()
    assert second.strip()
    assert heading == "## Without it"


def _page(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def _named(page: str) -> str:
    return _page(f"concepts/{page}")


def _extension(name: str) -> types.ModuleType:
    """A module of the build of the pages."""
    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(DOCS / "_ext"))


def _rows(text: str, name: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]


@pytest.mark.parametrize(
    ("cls", "prefix"), [(CacheConfig, "SANSIO_CACHE_"), (RedisConfig, "SANSIO_CACHE_REDIS_")]
)
def test_the_page_on_configuration_has_every_option_and_its_variable(cls: type, prefix: str) -> None:
    text = _named("configuration.md")
    for name in attrs.fields_dict(cls):
        rows = _rows(text, name)
        assert rows, name
        if name not in ("address_map", "codecs", "migrations", "policy", "redis"):
            assert any(f"`{prefix}{name.upper()}`" in row for row in rows), name


def test_the_page_on_policies_has_every_option_and_its_default() -> None:
    text = _named("policy.md")
    for name, field in attrs.fields_dict(Policy).items():
        [row] = _rows(text, name)
        default = field.default
        words = {None: "none", 3600.0: "1 hour"}
        shown = words.get(default) or (f"{default:g}" if isinstance(default, float) else None)
        if shown is None:
            shown = f'`"{default}"`' if isinstance(default, str) else "`Jitter(0.10, 0.20)`"
        assert row.split(" | ")[1] == shown, name
    assert Policy().jitter == Jitter(0.10, 0.20)


def test_the_page_on_statistics_has_every_counter_and_every_reason() -> None:
    text = _named("statistics.md")
    names = [name for name, _ in inspect.getmembers(CacheStats) if not name.startswith("_")]
    kinds: list[type[enum.Enum]] = [MissReason, FailureKind]
    names += [member.name for kind in kinds for member in kind]
    names += [operation.value for operation in OperationName]
    assert len(names) > 40
    missing = [name for name in names if f"`{name}`" not in text]
    assert missing == []


def test_the_guide_to_backends_has_every_store_command_and_every_answer() -> None:
    """So that a new command, or a new event, is told to those who have written a store."""
    text = (DOCS / "howto" / "write-a-backend.md").read_text(encoding="utf-8")
    rows = {name: _rows(text, name) for name in (command.__name__ for command in get_args(StoreCommand))}
    assert [name for name, found in rows.items() if len(found) != 1] == []
    answers = [word for [row] in rows.values() for word in re.findall(r"`(\w+)`", row.split(" | ")[2])]
    assert sorted([*answers, "StoreFailed"]) == sorted(event.__name__ for event in get_args(StoreEvent))


def test_the_figures_of_the_comparison_stand_on_the_pages_that_it_names() -> None:
    compared = 0
    for line in _page("comparison.md").splitlines():
        if matched := re.fullmatch(r"\| .+? \|(.+)\| \[.+?\]\((benchmarks/.+?\.md)\) \|", line):
            figures = [cell.strip() for cell in matched[1].split("|") if cell.strip()]
            page = _page(matched[2])
            assert [figure for figure in figures if f" {figure} |" not in page] == [], line
            compared += len(figures)
    assert compared > 25


def test_the_aims_stand_beside_figures_of_the_pages_and_what_is_missed_stands_first() -> None:
    aims = _extension("aims")
    judged = aims.judged()  # which finds a figure for each, or raises
    assert len(judged) == len(aims.AIMS) > 30
    missed = [aim.missed_by(found) for aim, found in judged]
    assert missed == sorted(missed, reverse=True)
    at_least, at_most = aims.Aim("", "", "", "", "", at_least=2.0), aims.Aim("", "", "", "", "", at_most=2.0)
    assert [aim.missed_by(found) > 1 for aim in (at_least, at_most) for found in (1.9, 2.0, 2.1)] == [
        *(True, False, False),
        *(False, False, True),
    ]
    of_all = f"of {len(judged)} aims {sum(each > 1 for each in missed)} are missed"
    assert of_all in (ROOT / "README.md").read_text(encoding="utf-8")
    with pytest.raises(LookupError, match=r"get-hit\.md has no figure of nobody"):
        aims.found_for(aims.Aim("", "get-hit", "", "nobody", aims.GLIDE, at_least=1.0))


def test_every_line_of_the_recipe_names_what_does_it_and_a_test_that_there_is(
    names: types.ModuleType,
) -> None:
    rows = re.findall(
        r"^\| .+ \| (`.+`) \| `(.+)::(.+)` \|$", _page("howto/from-the-recipe.md"), re.MULTILINE
    )
    assert len(rows) > 25
    homes = {"Cache": "sansio_cache_redis.sync.Cache", "Entity": "sansio_cache_runtime.sync.entity.Entity"}
    for apis, file, test in rows:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), test
        for api in re.findall(r"`([^`]+)`", apis):
            if api.startswith("sansio-cache "):
                assert f"## {api.split()[1]}\n" in _page("reference/command.md")
            else:
                owner, _, rest = api.partition(".")
                assert names.found(f"{homes.get(owner, f'sansio_cache.{owner}')}{'.' * bool(rest)}{rest}"), (
                    api
                )


def test_every_invariant_names_tests_that_there_are() -> None:
    rows = re.findall(r"^\| ([SLB]\d+f?) \| .+ \| (`.+`) \|$", _page("reference/invariants.md"), re.MULTILINE)
    promised = set(re.findall(r"\b(S\d+)\b", _page("promises.md")))
    named = [name for name, _ in rows]
    assert promised <= set(named)
    letters = {"S": 16, "L": 7, "B": 6}  # so many of each there are, and S1f
    assert sorted(named) == sorted(
        ["S1f", *(f"{letter}{n}" for letter, most in letters.items() for n in range(1, most + 1))]
    )
    for name, tests in rows:
        for file, test in re.findall(r"`(.+?)::(.+?)`", tests):
            assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), (name, test)


SEARCHED = {
    "decorator": "howto/cache-functions.md",
    "pydantic": "concepts/codecs.md",
    "stampede": "concepts/leases.md",
    "lock": "concepts/locks.md",
    "invalidate": "concepts/writing.md",
    "flask": "howto/use-with-flask.md",
    "django": "howto/use-with-django.md",
    "ttl": "concepts/time-to-live.md",
    "timeout": "concepts/failure.md",
}


def test_what_people_search_for_is_what_one_page_says_that_it_is_about() -> None:
    """The search puts such a page first."""
    found: dict[str, list[str]] = {}
    for page in PAGES:
        for words in re.findall(r"^```\{index\} (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            for word in words.split(","):
                assert word.strip().startswith("! "), page
                found.setdefault(word.strip(" !").lower(), []).append(str(page.relative_to(DOCS)))
    assert {word: found.get(word) for word in SEARCHED} == {word: [page] for word, page in SEARCHED.items()}


def _texts_of_the_packages() -> str:
    """All texts in the code, a line each; `…` stands for what is put into them."""
    texts = []
    for path in [*(ROOT / "sansio_cache").rglob("*.py"), *(ROOT / "adapters").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(re.sub(r"\{\w*\}|%[sd]|%\.\d[fg]", "…", node.value))
    return "\n".join(texts)


def test_the_messages_on_the_page_of_errors_are_those_that_are_raised() -> None:
    known = _texts_of_the_packages()
    rows = re.findall(r"^\| `(.+?)` \| .+ \| .+ \|$", _page("errors.md"), re.MULTILINE)
    assert len(rows) > 35
    wrong = [row for row in rows if not re.search(re.escape(row).replace("…", ".*?"), known)]
    assert wrong == []


def test_the_page_of_errors_has_every_error() -> None:
    errors = {
        name
        for name, cls in vars(sansio_cache).items()
        if isinstance(cls, type) and issubclass(cls, sansio_cache.CacheError)
    }
    assert set(re.findall(r"autoexception:: sansio_cache\.(\w+)", _page("errors.md"))) == errors


# Public names.


@pytest.fixture(scope="module")
def names() -> types.ModuleType:
    """The module that lists the public names for the build of the pages."""
    return _extension("public_names")


def test_every_public_name_has_a_docstring(names: types.ModuleType) -> None:
    public = [*names.exported()]
    public += [member for name in public for member in names.members(name)]
    assert len(public) > 200
    assert names.undocumented(public) == []


def test_a_public_name_without_a_docstring_or_a_place_is_found(
    names: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = types.ModuleType("bare_module")
    exec("class Told:\n    'Told.'\n    def method(self): ...\ndef untold(): ...", bare.__dict__)
    monkeypatch.setitem(sys.modules, bare.__name__, bare)
    public = ["bare_module.Told", "bare_module.Told.method", "bare_module.untold"]
    assert names.undocumented(public) == public[1:]
    assert names.without_a_place(public, public[:2]) == public[2:]
    assert names.without_a_place(["sansio_cache.Policy"], ["sansio_cache.policy.Policy"]) == []


# The generated tables.


@pytest.fixture(scope="module")
def machines() -> types.ModuleType:
    """The module that explores the machines for the page on design."""
    return _extension("machines")


def test_the_page_on_design_has_a_table_for_every_machine(machines: types.ModuleType) -> None:
    written = re.findall(
        r"^```\{machine\} (\w+)$", (DOCS / "design.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    modules = {path.stem for path in (ROOT / "sansio_cache" / "operations").glob("[!_]*.py")}
    beside = {name for names in machines.BESIDE.values() for name in names}
    assert set(written) == set(machines.MACHINES)
    assert set(written) | beside == {name for name in modules if _states(name)}
    assert not beside & set(written)


def _states(operation: str) -> dict[str, type]:
    """The states that a module of operations defines, by name."""
    module = importlib.import_module(f"sansio_cache.operations.{operation}")
    return {
        name: cls
        for name, cls in inspect.getmembers(module, inspect.isclass)
        if cls.__module__ == module.__name__ and hasattr(cls, "receive")
    }


def _modules(machines: types.ModuleType) -> set[str]:
    """The modules that hold states of machines."""
    return {*machines.MACHINES, *(name for names in machines.BESIDE.values() for name in names)}


def test_the_tables_have_every_state_of_every_machine(machines: types.ModuleType) -> None:
    shown = {name: {row.state for row in machines.explore(name)} for name in machines.MACHINES}
    beside = {name: set(_states(name)) for names in machines.BESIDE.values() for name in names}
    for name, states in shown.items():
        elsewhere = set[str]().union(*(beside[module] for module in machines.BESIDE.get(name, ())))
        assert set(_states(name)) == states - elsewhere, name
    for module, states in beside.items():
        users = [name for name, modules in machines.BESIDE.items() if module in modules]
        assert sorted(states) == sorted(state for name in users for state in shown[name] & states), module


def _next_of(state: type) -> set[str]:
    """The successors that the docstring of a state names in its last paragraph."""
    last = " ".join(inspect.cleandoc(state.__doc__ or "").split("\n\n")[-1].split())
    assert last.startswith("Next: "), state
    return set(last.removeprefix("Next: ").split(" | "))


def test_each_state_names_the_states_that_may_follow_it_and_no_others(machines: types.ModuleType) -> None:
    found: dict[str, set[str]] = {}
    for name in machines.MACHINES:
        for row in machines.explore(name):
            following = "done" if row.result.startswith("done") else row.result
            found.setdefault(row.state, set()).add(following)
    named = {name: _next_of(cls) for module in _modules(machines) for name, cls in _states(module).items()}
    assert named == found


def test_the_name_of_a_state_tells_its_machine(machines: types.ModuleType) -> None:
    names = [name for module in _modules(machines) for name in _states(module)]
    assert len(set(names)) == len(names)


def _any_event(kind: type) -> Any:
    return kind(*[None for _ in inspect.signature(kind).parameters])


def test_the_tables_leave_out_no_event_that_a_state_takes(machines: types.ModuleType) -> None:
    """Every state answers the events of its command, which the tables have, and refuses all others."""
    kinds = set(get_args(Event))
    tried = 0
    for name in machines.MACHINES:
        for step, now_s in machines.steps(name):
            written = {type(event) for _, event in machines.events(step, now_s)}
            assert Interrupted in written
            for kind in kinds - written:
                with pytest.raises(ProtocolError):
                    step.state.receive(_any_event(kind))
                tried += 1
    assert tried > 1000


def test_the_tables_have_every_command_but_those_of_no_machine(machines: types.ModuleType) -> None:
    asked = {row.command for name in machines.MACHINES for row in machines.explore(name)}
    assert asked == {command.__name__ for command in get_args(Command)}


def test_a_table_reads_as_it_should(machines: types.ModuleType) -> None:
    table = machines.as_markdown("get")
    assert "| **GetReading** `ReadCell` | CellRead (no key) | *done: Missing* | Missed |" in table
    assert "|  | CellRead (a fresh value) | *done: Value* | Hit |" in table
    assert "|  | Interrupted | *done: Abandoned* |  |" in table


# The pictures.

PICTURES = r'<svg .*? viewBox="0 0 (?P<width>[\d.]+) (?P<height>[\d.]+)".*?</svg>'


@pytest.fixture(scope="module")
def pictures() -> types.ModuleType:
    """The module that draws."""
    return _extension("pictures")


@pytest.fixture(scope="module")
def drawn_machines(machines: types.ModuleType) -> dict[str, str]:
    """The picture of each machine, by its name."""
    return {name: machines.as_picture(name) for name in machines.MACHINES}


def test_a_picture_of_a_machine_names_all_its_states_commands_and_ends(
    machines: types.ModuleType, drawn_machines: dict[str, str]
) -> None:
    for name, svg in drawn_machines.items():
        words = set(re.findall(r"\w+", " ".join(re.findall(r"<text[^>]*>([^<]*)", svg))))
        for row in machines.explore(name):
            assert {row.state, row.command, *re.findall(r"[A-Z]\w+", row.result)} <= words, (name, row)


def _places(svg: str) -> Iterator[tuple[float, float]]:
    """The corners of everything in a picture, as far as letters are not wider than they may be."""
    for box in re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', svg):
        x, y, width, height = map(float, box)
        yield from ((x, y), (x + width, y + height))
    for x, y, size, at, said in re.findall(
        r'<text x="([\d.]+)" y="([\d.]+)" font-size="([\d.]+)" text-anchor="(\w+)"[^>]*>([^<]*)', svg
    ):
        long = float(size) / 12 * 6.4 * len(said)
        left = float(x) - {"start": 0, "middle": long / 2, "end": long}[at]
        yield from ((left, float(y) - float(size)), (left + long, float(y)))
    for path in re.findall(r'<path d="M([-\d.]+) ([-\d.]+)', svg):
        yield float(path[0]), float(path[1])
    for x in re.findall(r"H([-\d.]+)", svg):
        yield float(x), 0


def _is_whole(svg: str) -> bool:
    matched = re.fullmatch(PICTURES, svg, re.DOTALL)
    assert matched is not None
    width, height = float(matched["width"]), float(matched["height"])
    return all(0 <= x <= width and 0 <= y <= height for x, y in _places(svg))


def test_nothing_of_a_picture_of_a_machine_is_cut_off(drawn_machines: dict[str, str]) -> None:
    assert [name for name, svg in drawn_machines.items() if not _is_whole(svg)] == []


def test_nothing_of_a_timeline_or_a_chart_is_cut_off(pictures: types.ModuleType) -> None:
    assert _is_whole(pictures.timeline(["a", "b"], [["long words " * 9, ""], ["", "! it goes wrong"]]))
    assert _is_whole(pictures.queries("by hand", [0, 4_000, 3], 0.1))
    assert _is_whole(pictures.bars("hits", [("sansio-cache, asyncio", 4.63, True), ("redis-py", 1.0, False)]))


def test_what_is_cut_off_of_a_picture_is_found(pictures: types.ModuleType) -> None:
    picture = pictures.Picture("too long", height=20)
    picture.text(300, 12, "thirty letters, and then more")
    assert not _is_whole(picture.svg())


def test_the_steps_of_the_story_ask_the_database_less_and_less_and_never_give_what_is_stale() -> None:
    figures = json.loads((DOCS / "_figures" / "story.json").read_text(encoding="utf-8"))
    steps = {step["name"]: step for step in figures["steps"]}
    assert re.findall(r"^```\{queries\} (.+)$", _page("story.md"), re.MULTILINE) == list(steps)
    totals = [step["queries"] for step in steps.values()]
    assert totals == sorted(set(totals), reverse=True)
    assert all(step["queries"] == sum(step["counts"]) for step in steps.values())
    assert [steps[name]["stale"] for name in ("invalidate", "batch")] == [0, 0]
    rows = re.findall(r"^\| \[.+?\]\(.+?\) \| ([\d,]+) \|", _page("story.md"), re.MULTILINE)
    assert rows == [f"{total:,}" for total in totals]


@pytest.mark.timing
def test_the_figures_of_the_story_can_be_taken_again(redis_url: str) -> None:
    from benchmarks import story

    [step] = story.figures(redis_url, 1.5, ["no cache"])
    assert step["requests"] == step["queries"] == sum(step["counts"]) > 0


# The list of permissions in the page on security.


def _documented_rules(page: str = "concepts/security.md") -> list[str]:
    [line] = [line for line in _page(page).splitlines() if line.startswith("ACL SETUSER ")]
    return re.sub("([~&])shop:", r"\1docs-acl:", line).split()[3:]


COMMANDS = [rule[1:] for rule in _documented_rules() if rule.startswith("+")]


@pytest.fixture(scope="module")
def guarded_server() -> Iterator[Server]:
    with Server.start() as server:
        yield server


def _as_user(server: Server, rules: list[str]) -> str:
    admin = server.client()
    admin.flushall()
    admin.script_flush()  # so that each is sent as text once
    admin.execute_command("ACL", "SETUSER", "shop", "reset", *rules)
    admin.execute_command("ACL", "LOG", "RESET")
    return server.url.replace("redis://", "redis://shop:password@")


def _everything_works(server: Server, url: str) -> bool:
    """Use every feature once; whether all of it did what it should."""
    stale = Policy(ttl=0.001, jitter=NO_JITTER, stale_for_s=60)
    admin = server.client()
    with Cache.from_url(url, namespace="docs-acl", operation_timeout_s=5, attempt_timeout_s=5) as cache:

        def deadline_ms() -> int:
            cell = parse_cell(admin.get("docs-acl:slow") or b"")
            return cell.lease_deadline_ms if isinstance(cell, Cell) else 0

        def load_until_renewed() -> int:
            first_ms = deadline_ms()
            wait_until(lambda: deadline_ms() > first_ms or cache.stats().errors or not first_ms)
            return 1

        def unlucky() -> int:
            raise ZeroDivisionError

        def refresh() -> bool:
            stored = cache.get_or_load("old", lambda: 1, policy=stale) == 1
            wait_until(lambda: cache.get("old") is None)
            before = cache.stats()
            served = cache.get_or_load("old", lambda: 2, policy=stale)
            wait_until(lambda: (cache.stats() - before).stored or (cache.stats() - before).errors)
            return stored and served == 1 and (cache.stats() - before).refreshes == 1

        def expire() -> bool:
            served = Policy(stale_for_s=60)
            stored = cache.get_or_load("soft", lambda: 1, policy=served) == cache.get("soft") == 1
            return stored and cache.expire("soft").done == 1 and cache.get("soft") is None

        def tags() -> bool:
            cache.get_or_load_many(["t", "u"], lambda keys: dict.fromkeys(keys, 1), tags=["group"])
            found = cache.get_many(["t", "u"]) == {"t": 1, "u": 1} and cache.get("t") == 1
            return found and cache.invalidate(tags=["group"]).done == 1 and cache.get("t") is None

        def fail() -> bool:
            with pytest.raises(ZeroDivisionError):
                cache.get_or_load("nothing", unlucky)
            return admin.get("docs-acl:nothing") is None

        def mutate() -> bool:
            with cache.mutate("a", "b") as mutation:
                mutation.set("a", 3)
            return cache.get_many(["a", "b"]) == {"a": 3}

        renewed = Policy(lease_s=1)  # long enough for a busy machine, too
        uses: list[Callable[[], bool]] = [
            lambda: cache.get_or_load("a", lambda: 1) == cache.get("a") == 1,
            lambda: cache.set("b", 2) and cache.get_many(["a", "b"]) == {"a": 1, "b": 2},
            lambda: cache.get_or_load("slow", load_until_renewed, policy=renewed) == cache.get("slow"),
            refresh,
            fail,
            mutate,
            expire,
            tags,
            lambda: cache.invalidate("a").remembered == 0,
            lambda: cache.clear().complete and not admin.keys("docs-acl:*"),
            lambda: not cache.stats().errors and not cache.stats().lost_leases,
        ]
        return all(use() for use in uses)


@pytest.mark.servers
def test_the_documented_permissions_are_enough(guarded_server: Server) -> None:
    url = _as_user(guarded_server, _documented_rules())
    assert _everything_works(guarded_server, url)
    with Cache.from_url(url, namespace="docs-acl") as cache:
        health = cache.health()
    assert health.ok, health.problems
    denied = {str(entry["object"]) for entry in guarded_server.client().acl_log()}
    assert denied <= {
        "info",
        "hello",
        "command|info",
        "client|setinfo",
        "ping",
        "publish",
        "subscribe",
    }  # the page says what is lost


@pytest.mark.servers
def test_the_user_of_the_check_list_is_refused_nothing(guarded_server: Server) -> None:
    rules = [rule.replace(">PASSWORD", ">password") for rule in _documented_rules("howto/secure.md")]
    assert {*_documented_rules()} < {*rules}
    url = _as_user(guarded_server, rules)
    assert _everything_works(guarded_server, url)
    with Cache.from_url(url, namespace="docs-acl") as cache:
        assert cache.health().ok
    assert {str(entry["object"]) for entry in guarded_server.client().acl_log()} <= {"client|setinfo"}


@pytest.mark.servers
def test_the_user_of_the_check_list_is_refused_nothing_in_a_cluster(cluster_servers: ClusterServers) -> None:
    said = re.search(r"In a cluster, put `(.+?)` in the place of `(.+?)`", _page("howto/secure.md"))
    assert said
    more, less = (each.split() for each in said.groups())
    rules = [rule.replace(">PASSWORD", ">password") for rule in _documented_rules("howto/secure.md")]
    assert {*less} < {*rules}
    admins = [each.client() for each in cluster_servers.primaries]
    for admin in admins:
        rest = [rule for rule in rules if rule not in less]
        admin.execute_command("ACL", "SETUSER", "shop", "reset", *rest, *more)
        admin.execute_command("ACL", "LOG", "RESET")
    url = cluster_servers.url.replace("redis+cluster://", "redis+cluster://shop:password@")
    keys = [f"k{number}" for number in range(20)]
    with Cache.from_url(url, namespace="docs-acl", operation_timeout_s=20) as cache:
        assert cache.get_or_load_many(keys, lambda keys: dict.fromkeys(keys, 1), tags=["group"])
        assert cache.get_many(keys) == dict.fromkeys(keys, 1)
        assert cache.set("k1", 2)
        assert cache.invalidate("k1", tags=["group"]).remembered == 0
        listener: Any = cache._backend.listener
        numbers = {key: listener.watch(key, lambda: None) for key in ("docs-acl:k1", "docs-acl:k2")}
        wait_until(lambda: all(map(listener.hears, numbers)), timeout_s=30)
        for key, number in numbers.items():
            listener.unwatch(key, number)
        wait_until(
            lambda: not any(each.execute_command("PUBSUB SHARDCHANNELS docs-acl:*") for each in admins),
            timeout_s=30,
        )
        health = cache.health()
        assert health.ok, health.problems
        assert not any("refused" in each for each in health.warnings)
        assert cache.clear().complete
    for admin in admins:
        assert {str(entry["object"]) for entry in admin.acl_log()} <= {"client|setinfo"}
        assert admin.execute_command("ACL", "DRYRUN", "shop", "ASKING") == b"OK", "no slot moves here"
        admin.execute_command("ACL", "DELUSER", "shop")


@pytest.mark.servers
@pytest.mark.parametrize("command", COMMANDS)
def test_no_documented_permission_can_be_left_out(guarded_server: Server, command: str) -> None:
    rules = [rule for rule in _documented_rules() if rule != f"+{command}"]
    assert not _everything_works(guarded_server, _as_user(guarded_server, rules))


@pytest.mark.servers
@pytest.mark.parametrize("command", COMMANDS)
def test_health_notices_a_permission_that_is_missing(guarded_server: Server, command: str) -> None:
    rules = [rule for rule in _documented_rules() if rule != f"+{command}"]
    with Cache.from_url(_as_user(guarded_server, rules), namespace="docs-acl") as cache:
        health = cache.health()
    assert not health.ok
    assert health.problems


def test_what_gunicorn_is_told_to_do_closes_the_cache(monkeypatch):
    page = (DOCS / "howto" / "use-with-flask.md").read_text(encoding="utf-8")
    [configuration] = [block.code for block in blocks_of(page) if "def worker_exit" in block.code]
    main = types.ModuleType("main")
    cache = Cache.from_url("memory://", namespace="docs-gunicorn")
    main.cache = cache  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "main", main)
    read: dict[str, Any] = {}
    exec(configuration, read)
    assert cache.get("user:1") is None
    read["worker_exit"](None, None)
    with pytest.raises(CacheClosedError):
        cache.get("user:1")
