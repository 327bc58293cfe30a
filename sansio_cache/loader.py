"""What a loader may be told, and what it may give back besides a plain value.

    cache.get_or_load("token", lambda: Fresh(token, ttl=token.expires_in_s))
    cache.get_or_load("user:7", lambda: database.user(7))
    cache.get_or_load("user:8", lambda: database.user(8) or Absent(ttl=5))

`None` is nothing, from a loader and in a write: an answer with a shorter time to live (negative caching).
`Absent` says the same, and for how long.
"""

from __future__ import annotations

from types import FunctionType, UnionType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Protocol, TypeAlias, TypeVar, _SpecialForm

import attrs

from sansio_cache.ttl import Ttl, life_s

T_co = TypeVar("T_co", covariant=True)

Form: TypeAlias = UnionType | _SpecialForm | FunctionType
"""What type checkers take some types for that are no classes: `A | B`, `Annotated`, a `NewType`."""


class Storable(Protocol):
    """What a value is to type checkers: anything but `Fresh` and `Absent`, which lack what every object has.

    Without it they would take a loader that gives `User | Absent` for one whose values are `User | Absent`.
    """

    def __sizeof__(self) -> int:
        """As every object has it."""
        ...


def _optional_life(ttl: Ttl | None) -> float | None:
    return None if ttl is None else life_s(ttl)


@attrs.frozen
class Fresh(Generic[T_co]):
    """A loaded value with its own time to live.

    Args:
        value: The value.
        ttl: How long it is fresh, in seconds or as a timedelta or tier. It is not jittered: a token's life is
            what it is. Where nothing is left of it, the caller has the value, and it is not stored.

    Raises:
        InvalidTtlError: `ttl` is no number, or NaN.
    """

    if TYPE_CHECKING:
        __sizeof__: ClassVar[None]  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleMethodOverride]

    value: T_co = attrs.field(hash=False)
    ttl: float = attrs.field(converter=life_s, kw_only=True)


@attrs.frozen
class Absent:
    """There is nothing. Callers get None, and so do those who ask while that is kept. None says the same.

    Args:
        ttl: How long that is kept, in seconds or as a timedelta or tier; the policy's `negative_ttl`,
            or its `ttl` if that is shorter, where not given. Where nothing is left of it, that is not kept.

    Raises:
        InvalidTtlError: `ttl` is no number, or NaN.
    """

    if TYPE_CHECKING:
        __sizeof__: ClassVar[None]  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleMethodOverride]

    ttl: float | None = attrs.field(default=None, converter=_optional_life, kw_only=True)


def is_nothing(given: Any) -> bool:
    """Whether what a loader gave, or what is to be written, says that there is nothing."""
    return given is None or isinstance(given, Absent) or (isinstance(given, Fresh) and given.value is None)


@attrs.frozen
class LoadContext:
    """What a loader is told whose one parameter is called `context`, or declared as a `LoadContext`.

    Attributes:
        key: The full key that is to be loaded.
        previous: A copy of the value that is being replaced, where one is known and can be read; else None.
    """

    key: str
    previous: Any = attrs.field(default=None, hash=False)


FROM_LOADERS: Final = (Fresh, Absent)
"""What a loader alone may give: a value, or nothing, with a life of its own."""


def has_life(given: Any) -> bool:
    """Whether what a loader gave has something left to live."""
    return not (isinstance(given, FROM_LOADERS) and given.ttl == 0)
