"""Modules that are copied beside the suites of other projects, and what those stand on."""

import os


def place() -> str:
    """The URL of the server of the run."""
    return os.environ["FRAMEWORKS_URL"]
