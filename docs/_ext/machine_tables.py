"""The directive `machine`: a state diagram and the table of transitions of one machine, from its code."""

from typing import Any

from docutils import nodes
from machines import MACHINES, as_diagram, as_markdown
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class MachineDirective(SphinxDirective):
    """`{machine} get_or_load` writes down what the states of that module do."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The nodes of the diagram and of the table."""
        name = self.arguments[0]
        if name not in MACHINES:
            raise self.error(f"no machine is called {name}: {', '.join(MACHINES)}")
        text = f"```text\n{as_diagram(name)}```\n\n{as_markdown(name)}"
        return self.parse_text_to_nodes(text)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("machine", MachineDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
