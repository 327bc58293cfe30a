"""The directive `machine`: a picture of the states and the table of transitions of one, from its code."""

from typing import Any

from docutils import nodes
from machines import MACHINES, as_markdown, as_picture
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def drawn(svg: str) -> nodes.raw:
    """A picture as a part of the page."""
    return nodes.raw("", f'<figure class="drawn">{svg}</figure>', format="html")


class MachineDirective(SphinxDirective):
    """`{machine} get_or_load` draws and writes down what the states of that module do."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The nodes of the picture and of the table."""
        name = self.arguments[0]
        if name not in MACHINES:
            raise self.error(f"no machine is called {name}: {', '.join(MACHINES)}")
        parts = self.parse_text_to_nodes(as_markdown(name))
        for table in parts:
            if isinstance(table, nodes.table):
                table["classes"].append("machine")
        return [drawn(as_picture(name)), *parts]


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("machine", MachineDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
