"""Every name in code that the reference has becomes a link to it; a public name it has not is a warning."""

import builtins
import re
from collections.abc import Iterable, Iterator
from typing import Any

import public_names
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

_LOGGER = logging.getLogger(__name__)
_NAME = re.compile(r"(?P<name>[A-Za-z_][\w.]*)(?:\(.*\))?")
_OWNERS = (
    "sansio_cache_redis.sync.Cache",
    "sansio_cache.KeyBuilder",
    "sansio_cache_runtime.sync.cached.CachedFunction",
    "sansio_cache_runtime.sync.entity.Entity",
    "sansio_cache_runtime.mutation.Mutation",
)
"""Whose members are meant where only a member is named; those before win."""
_PREFIXES = ("cache.", "cache.key.", "key.", "users.", "Cache.", "self.")
_NOT_MEANT = {
    "entity",
    "set",
    "list",
    "key",
    "lock",
    "update",
    "bytes",
    "type",
    "int",
    "str",
    "dict",
    "namespace",
}
"""Words that are as often something of Python's: links only where they are called, or on a cache."""
_OTHERS = {*dir(builtins), "Database", "User", "Report", "main", "load", "get_user", "Entry"} - {"set"}
"""Names of the examples, and of Python."""


def targets(objects: Iterable[str]) -> dict[str, str]:
    """For each way in which the pages may write a name: what it is in the reference."""
    found: dict[str, str] = {}
    all_objects = sorted(objects, key=lambda name: (_rank(name), len(name), name))
    for name in all_objects:
        found.setdefault(name, name)
        parts = name.split(".")
        if parts[-1][0].isupper():
            found.setdefault(parts[-1], name)
        elif len(parts) > 1 and parts[-2][0].isupper():
            found.setdefault(".".join(parts[-2:]), name)
    for owner in _OWNERS:
        for name in all_objects:
            if name.rpartition(".")[0] == owner:
                found.setdefault(name.rpartition(".")[2], name)
    return found


def _rank(name: str) -> int:
    """What a program imports comes first, and threads before event loops."""
    order = ("sansio_cache_redis.sync.", "sansio_cache_redis.anyio.", "sansio_cache_redis.", "sansio_cache.")
    at = next((at for at, prefix in enumerate(order) if name.startswith(prefix)), len(order))
    return 2 * at + (name.count(".") > 1 and at >= 2)


def target_of(text: str, known: dict[str, str]) -> str | None:
    """What a piece of code names, if it is one name, or a call of one."""
    matched = _NAME.fullmatch(text)
    if matched is None:
        return None
    name, is_called = matched["name"], text.endswith(")")
    for prefix in _PREFIXES:
        if name.startswith(prefix) and name not in known:
            name, is_called = name.removeprefix(prefix), True
    if name in _OTHERS or (name in _NOT_MEANT and not is_called):
        return None
    return known.get(name)


def _literals(tree: nodes.document) -> Iterator[nodes.literal]:
    for node in tree.findall(nodes.literal):
        above: nodes.Element | None = node.parent
        while above is not None and not isinstance(above, nodes.reference | nodes.title):
            above = above.parent
        if above is None:
            yield node


def link(app: Sphinx, tree: nodes.document, page: str) -> None:
    """Make links of the names on a page."""
    places = dict(app.env.domains["py"].data["objects"])
    known = app.env.domaindata.setdefault("code_links", {})
    if not known:
        known.update(targets(places))
    for node in list(_literals(tree)):
        target = target_of(node.astext(), known)
        if target is None:
            continue
        place = places[target]
        uri = app.builder.get_relative_uri(page, place.docname) + f"#{place.node_id}"
        reference = nodes.reference("", "", internal=True, refuri=uri, reftitle=target, classes=["code-link"])
        node.replace_self(reference)
        reference += node


def check(_: Sphinx, env: BuildEnvironment) -> None:
    """Warn of what is public, and not in the reference."""
    names = [*public_names.exported()]
    names += [member for name in names for member in public_names.members(name)]
    for name in public_names.without_a_place(names, env.domains["py"].data["objects"]):
        _LOGGER.warning("the reference has no entry for %s", name)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("doctree-resolved", link)
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
