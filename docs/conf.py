"""How Sphinx builds the documentation: `sphinx-build -W -b html docs docs/_build/html`."""

import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import sansio_cache.commands
import sansio_cache_runtime.anyio.cache
import sansio_cache_runtime.anyio.entity
import sansio_cache_runtime.sync.cache
import sansio_cache_runtime.sync.entity
from sansio_cache.step import Step

# Some modules have names for type checkers only. A command may hold a step and a step a command.
vars(sansio_cache.commands)["Step"] = Step
# A cache imports entities with the first one.
for runtime in (sansio_cache_runtime.sync, sansio_cache_runtime.anyio):
    vars(runtime.cache)["Entity"] = runtime.entity.Entity

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "sansio-cache"
author = "the sansio-cache authors"
copyright = "the sansio-cache authors"
release = installed("sansio-cache")
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "code_links",
    "descriptions",
    "machine_tables",
    "drawings",
]
exclude_patterns = ["_build"]
nitpicky = True
# The build asks no other site for names. Of those in signatures, public ones have a place: see code_links.
nitpick_ignore_regex = [("py:.*", r"(?!sansio_cache).*"), ("py:class", ".*")]

myst_heading_anchors = 3
myst_enable_extensions = ["attrs_block", "colon_fence", "deflist"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_use_ivar = True
# Docstrings are written for people who read the source: a single backtick there is code.
default_role = "literal"

html_theme = "furo"
html_title = f"sansio-cache {release}"
html_short_title = "sansio-cache"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_js_files = ["tables.js"]
html_search_scorer = str(Path(__file__).parent / "scorer.js")
html_logo = "_static/logo.svg"
html_favicon = "_static/logo.svg"
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
# A console's prompt is not copied.
copybutton_prompt_text = "$ "
html_copy_source = False


def quote_indented(*arguments: Any) -> None:
    """Docstrings are plain text with indented diagrams and examples: mark these as literal for docutils."""
    lines: list[str] = arguments[-1]
    marked: list[str] = []
    for line in lines:
        is_begin = line.startswith("    ") and marked[-1:] == [""] and not marked[-2][:1].isspace()
        if is_begin and not marked[-2].endswith(":"):
            marked += ["::", ""]
        marked.append(line)
    lines[:] = marked


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", quote_indented, priority=100)  # before napoleon
