"""Directives that draw who does what in turn, what a database was asked, and how fast others are."""

import json
from pathlib import Path
from typing import Any

import pictures
from aims import PAGES, judged
from docutils import nodes
from machine_tables import drawn
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

DOCS = Path(__file__).parents[1]
STORY = DOCS / "_figures" / "story.json"
HEADLINE = DOCS / "benchmarks" / "headline.json"


class TimelineDirective(SphinxDirective):
    """`{timeline} reader | writer`, and a line for each moment, with the same bars in it."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self) -> list[nodes.Node]:
        """The picture."""
        parties = [name.strip() for name in self.arguments[0].split("|")]
        rows = [[part.strip() for part in line.split("|")] for line in self.content if line.strip()]
        for row in rows:
            if len(row) != len(parties):
                raise self.error(f"{len(parties)} parties need {len(parties) - 1} bars in each line: {row}")
        return [drawn(pictures.timeline(parties, rows))]


class QueriesDirective(SphinxDirective):
    """`{queries} by hand` draws what the database was asked in that step of the story's run."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """The picture."""
        self.env.note_dependency(str(STORY))
        figures = json.loads(STORY.read_text(encoding="utf-8"))
        for step in figures["steps"]:
            if step["name"] == self.arguments[0]:
                return [drawn(pictures.queries(step["title"], step["counts"], figures["bucket_s"]))]
        raise self.error(f"no step is called {self.arguments[0]}")


class HeadlineDirective(SphinxDirective):
    """`{headline}` draws hits a second beside others, as the benchmarks have found them."""

    def run(self) -> list[nodes.Node]:
        """A picture of each chart, and the day."""
        self.env.note_dependency(str(HEADLINE))
        found = json.loads(HEADLINE.read_text(encoding="utf-8"))
        parts: list[nodes.Node] = []
        for conditions, charts in found["charts"].items():
            figures = sorted(charts.items(), key=lambda each: -each[1])
            rows = [(name, figure, name.startswith("sansio-cache")) for name, figure in figures]
            parts.append(drawn(pictures.bars(f"hits, times redis-py: {conditions}", rows)))
        return [*parts, *self.parse_text_to_nodes(f"*Measured {found['day']}.*")]


class LostDirective(SphinxDirective):
    """`{lost}` gathers from the pages of all cases where another was faster."""

    def run(self) -> list[nodes.Node]:
        """The table."""
        rows = []
        for page in sorted((DOCS / "benchmarks").glob("*.md")):
            self.env.note_dependency(str(page))
            worst: dict[str, list[str]] = {}
            for row in lost_in(page.read_text(encoding="utf-8")):
                if (
                    float(row[3].split()[0]) > float(worst.get(row[2], row)[3].split()[0])
                    or row[2] not in worst
                ):
                    worst[row[2]] = row
            rows += [
                f"| [{case}](benchmarks/{page.name}) | {who} | {times.split()[0]} | {under} |"
                for case, under, who, times in worst.values()
            ]
        head = "| case | who is faster | at most, times | there |\n| --- | --- | ---: | --- |\n"
        return self.parse_text_to_nodes(head + "\n".join(rows) + "\n")


class AimsDirective(SphinxDirective):
    """`{aims}` shows what was aimed at and what was found, what is missed first."""

    def run(self) -> list[nodes.Node]:
        """The table."""
        rows = []
        for aim, found in judged():
            self.env.note_dependency(str(PAGES / f"{aim.page}.md"))
            bound = f"at least {aim.at_least:g}" if aim.at_least else f"at most {aim.at_most:g}"
            verdict = "**missed**" if aim.missed_by(found) > 1 else "reached"
            rows.append(f"| [{aim.what}](benchmarks/{aim.page}.md) | {bound} | {found:.2f} | {verdict} |")
        head = "| what | aim | found | |\n| --- | --- | ---: | --- |\n"
        return self.parse_text_to_nodes(head + "\n".join(rows) + "\n")


def lost_in(page: str) -> list[list[str]]:
    """The rows of a page's table of what another does faster."""
    section = page.partition("## Where another is faster\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def mark_figures(app: Sphinx, tree: nodes.document) -> None:
    """The wide tables of the benchmarks' pages."""
    if app.env.current_document.docname.startswith("benchmarks/"):
        for table in tree.findall(nodes.table):
            table["classes"].append("figures")


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("doctree-read", mark_figures)
    app.add_directive("timeline", TimelineDirective)
    app.add_directive("queries", QueriesDirective)
    app.add_directive("headline", HeadlineDirective)
    app.add_directive("lost", LostDirective)
    app.add_directive("aims", AimsDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
