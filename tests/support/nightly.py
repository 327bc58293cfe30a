"""How much is run: little with every run of the tests, and much in the night (`nox -s nightly`)."""

import os
from collections.abc import Mapping
from typing import Final

IS_NIGHTLY: Final = os.environ.get("SANSIO_CACHE_NIGHTLY") == "1"


IS_ON_ALL_TOPOLOGIES: Final = IS_NIGHTLY or os.environ.get("SANSIO_CACHE_TOPOLOGIES") == "all"
"""Whether what runs on one server runs behind Sentinel and on a cluster as well."""


def many(few: int, name: str) -> int:
    """A few, or as many as the environment says under this name."""
    return int(os.environ.get(name, few))


EXAMPLES: Final = "SANSIO_CACHE_EXAMPLES"
"""How many sequences of commands memory and a server are compared by."""
CANCELLATIONS: Final = "SANSIO_CACHE_CANCELLATIONS"
"""How many operations are cancelled at random, for each backend."""
SIMULATE: Final = "SANSIO_CACHE_SIMULATE"
"""How many operations are simulated."""

_OF_THE_TESTS: Final = {
    "SANSIO_CACHE_NIGHTLY",
    "SANSIO_CACHE_SEED",
    "SANSIO_CACHE_TEST_REDIS_URL",
    "SANSIO_CACHE_TEST_SERVER",
    "SANSIO_CACHE_TOPOLOGIES",
    EXAMPLES,
    CANCELLATIONS,
    SIMULATE,
}


def for_programs(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment without the variables of these tests: the library refuses what it does not know."""
    return {name: value for name, value in environ.items() if name not in _OF_THE_TESTS}
