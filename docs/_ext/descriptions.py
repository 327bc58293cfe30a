"""The first paragraph of a page is its description, for search engines and for what shows a link."""

import html
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

MOST = 300


def described(tree: nodes.document) -> str:
    """The first paragraph under the title, in one line; not one that stands in something else."""
    for node in tree.findall(nodes.paragraph):
        if isinstance(node.parent, nodes.section):
            text = " ".join(node.astext().split())
            return text if len(text) <= MOST else f"{text[:MOST].rpartition(' ')[0]} …"
    return ""


def describe(_: Sphinx, _page: str, _template: str, context: dict[str, Any], tree: Any) -> None:
    """Write it into the head of the page."""
    if tree is None or 'name="description"' in context.get("metatags", ""):
        return
    if text := html.escape(described(tree)):
        title = html.escape(str(context.get("title", "")))
        context["metatags"] = context.get("metatags", "") + (
            f'<meta name="description" content="{text}" />\n'
            f'<meta property="og:title" content="{title}" />\n'
            f'<meta property="og:description" content="{text}" />\n'
        )


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("html-page-context", describe)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
