"""What a case is."""

from collections.abc import Callable, Iterator

import attrs

from benchmarks.lab import Lab
from benchmarks.results import Group


@attrs.frozen(kw_only=True)
class Case:
    """Something that is measured: its name, what is asked, and how it is done."""

    name: str
    about: str
    run: Callable[[Lab], Iterator[Group]]
