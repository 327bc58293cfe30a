"""What a codec is: three members, and a fourth for one that can tell whether a value comes back as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

T = TypeVar("T")

Migration: TypeAlias = Callable[[Any], Any]
"""From a payload that was stored as another type, or as another shape of it, as plain JSON values; to a value
of the type, or a mapping with its fields. It raises, whatever it likes, where it can make none."""


class Undecodable(Exception):  # noqa: N818 - an outcome of decoding, not an error that users see
    """A payload that is not a value of the codec's type. The cache counts it as a miss.

    Attributes:
        reason: ``too large`` (not looked at, or larger than it may be once inflated), ``corrupt`` (not of
            this codec, or nested too deeply) or ``schema`` (of this codec, but not of this type, and no hook
            has made it so).
    """

    def __init__(self, reason: Literal["too large", "corrupt", "schema"]) -> None:
        super().__init__(reason)
        self.reason = reason


@runtime_checkable
class ValueCodec(Protocol[T]):
    """How values become bytes, and come back.

    A codec is pure: the same argument gives the same result, in every process, and nothing else happens. The
    cache calls it from any thread, and in the middle of an operation, so it does not wait.
    """

    @property
    def fingerprint(self) -> str:
        """A text that names the codec, its settings, and the structure of its values.

        Entries carry a digest of it. Another one is a miss, so it changes whenever older payloads are not to
        be read any more, and in no other case.
        """
        ...

    def encode(self, value: T, /) -> bytes:
        """The payload of a value.

        Raises:
            SerializationError: The value would not come back as it is. Any other exception means the same.
        """
        ...

    def decode(self, payload: bytes, max_bytes: int, /) -> T:
        """The value in a payload, which may be anything at all. It is the caller's own.

        Args:
            payload: Bytes from the store, at most `max_bytes` of them.
            max_bytes: How large the payload may become where it is inflated.

        Raises:
            Undecodable: The payload holds no value. Any other exception but MemoryError means ``corrupt``.
        """
        ...


@runtime_checkable
class Checked(Protocol):
    """A codec that can tell what becomes of a value. One that cannot is trusted."""

    def change(self, given: Any, back: Any, /) -> str | None:
        """Where and how `back`, which was decoded, differs from `given`; None where it does not.

        Returns:
            The end of a sentence that begins with "value", such as "[0] would come back changed". It quotes
            no value.
        """
        ...
