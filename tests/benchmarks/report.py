"""The tables, for people at a terminal."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.case import Case
from benchmarks.machine import ONLY_RATIOS, in_one_line
from benchmarks.results import BASELINE, OURS, OWN, Group, Lost, where_slower

_STYLES = {OURS: "bold", OWN: "dim", BASELINE: "cyan"}


def show(cases: Sequence[Case], groups: Sequence[Group], machine: dict[str, Any], console: Console) -> None:
    """Print everything."""
    for case in cases:
        found = [group for group in groups if group.case == case.name]
        if found:
            console.print(f"\n[bold]{case.name}[/]  {case.about}", highlight=False)
            console.print(_table(found))
    _show_lost(where_slower(groups), console)
    console.print(f"\n{in_one_line(machine)}\n{ONLY_RATIOS}", style="dim", highlight=False)


def _table(groups: Sequence[Group]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", vertical="bottom")
    columns = groups[0].columns
    for column in columns:
        table.add_column(column.heading, justify="right", vertical="bottom")
    table.add_column("")
    table.add_column("")
    for group in groups:
        table.add_row(f"[italic]{group.said_conditions}[/]", *[""] * (len(columns) + 2))
        for row in group.rows:
            texts = [column.text(row.figures.get(column.name)) for column in columns]
            table.add_row(f"  {row.who}", *texts, row.verdict, row.note, style=_STYLES.get(row.role))
        for who, why in group.absent.items():
            table.add_row(f"  {who}", *[""] * (len(columns) + 1), why, style="dim")
        table.add_section()
    return table


def _show_lost(lost: Sequence[Lost], console: Console) -> None:
    if not lost:
        console.print("\nNothing in this run was faster than sansio-cache at the same job.", style="bold")
        return
    console.print("\n[bold]Where another is faster[/]\n")
    for each in lost:
        against = f"{each.other} is {each.times:.2f} times as fast as {each.ours}"
        console.print(f"  {each.case}, {each.conditions}: {against}", highlight=False)
