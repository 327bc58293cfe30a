"""`sansio-cache export-dashboard`: the dashboard for Grafana, and rules for alerts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from sansio_cache_cli.failures import OK, CommandError

DESCRIPTION: Final = """\
Prints a dashboard for Grafana, as JSON to be imported, or the rules for alerts, as YAML
for the rule_files of Prometheus. Both are of what sansio_cache_prometheus exports.
"""
EXAMPLES: Final = """\
examples:
  sansio-cache export-dashboard > sansio-cache.json
  sansio-cache export-dashboard --alerts --output sansio-cache.yml
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `export-dashboard`."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--alerts", action="store_true", help="the rules for alerts instead, as YAML")
    what.add_argument("--json", action="store_true", help="print the dashboard as one line of JSON")
    parser.add_argument("--output", metavar="FILE", help="write to a file instead; one that is there stays")


def run(options: argparse.Namespace) -> int:
    """Print what was asked for."""
    import msgspec

    from sansio_cache_prometheus import alert_rules, dashboard

    text = alert_rules() if options.alerts else dashboard()
    if options.json:
        text = msgspec.json.format(text, indent=-1)
    if not text.endswith("\n"):
        text += "\n"
    if options.output is None:
        sys.stdout.write(text)
        return OK
    try:
        with Path(options.output).open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise CommandError(f"{options.output} is there already: remove it, or name another file") from None
    except OSError as error:
        raise CommandError(f"{options.output} cannot be written: {error.strerror}") from None
    return OK
