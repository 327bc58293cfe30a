"""Names of variables and options: what may have been meant by one that there is not.

The environment is handed in: this module does not look at it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from sansio_cache.errors import ConfigurationError

ENV_PREFIX: Final = "SANSIO_CACHE_"
"""What the library's own variables begin with."""
_NEAR: Final = 0.6
"""How alike two names are that may have been confused, from 0 to 1."""
_MOST_NEAR: Final = 3
_OF_URLS: Final = frozenset(
    {"HOST", "HOSTNAME", "PORT", "DB", "DATABASE", "USER", "USERNAME", "PASSWORD", "SSL", "TLS"}
)
"""What other programs have variables of their own for, and a URL has as parts."""
_OF_SERVICES: Final = ("_SERVICE_HOST", "_SERVICE_PORT", "_PORT")
"""What Kubernetes puts behind the name of a service: see "Accessing the Service" in its documentation."""


def nearest(name: str, names: Sequence[str], most: int = 1) -> list[str]:
    """The names that may have been meant: those that are spelt alike, or else have it as a part."""
    from difflib import get_close_matches

    return get_close_matches(name, names, most, _NEAR) or [each for each in names if name in each][:most]


def refuse_unknown(environ: Mapping[str, str], known: Sequence[str], instead: Mapping[str, str]) -> None:
    """Refuse variables that begin with the prefix, hold something, and are none of those known.

    Args:
        environ: The variables.
        known: The names of those there are, without the prefix.
        instead: What to write where a name is not one of these, but something of the library's all the same.

    Raises:
        ConfigurationError: There is one; its name is said, and not what it holds.
    """
    for variable, text in environ.items():
        name = variable.removeprefix(ENV_PREFIX)
        if name == variable or name in known or not text.strip() or _is_of_a_service(variable, environ):
            continue
        raise ConfigurationError(f"{variable}: there is no such variable{_hint(name, known, instead)}")


def _hint(name: str, known: Sequence[str], instead: Mapping[str, str]) -> str:
    if name in instead:
        return f": {instead[name]}"
    if name.rpartition("_")[2] in _OF_URLS:
        return f": it is a part of {ENV_PREFIX}REDIS_URL"
    words = set(name.split("_")) - {"S"}
    with_all = [each for each in known if words <= set(each.split("_"))][:_MOST_NEAR]
    near = with_all or nearest(name, known, _MOST_NEAR)
    if near:
        return f" (is {' or '.join(ENV_PREFIX + each for each in near)} meant?)"
    return f"; behind {ENV_PREFIX} stands one of {', '.join(known)}"


def _is_of_a_service(variable: str, environ: Mapping[str, str]) -> bool:
    """Whether Kubernetes has made it: in every pod there are some of each service, by the service's name."""
    return any(
        f"{variable[:place]}_SERVICE_HOST" in environ
        for ending in _OF_SERVICES
        if (place := variable.find(ending, len(ENV_PREFIX) - 1)) > 0
    )
