"""RAW: bytes as they are, with nothing around them."""

from __future__ import annotations

from typing import Any, Final

from sansio_cache.errors import SerializationError
from sansio_cache.roundtrip import kind_of


class RawCodec:
    """Bytes, stored as they are: an image, a rendered page, what another program has serialised."""

    fingerprint: Final = "raw 1"

    def __reduce__(self) -> str | tuple[Any, ...]:
        return "RAW" if self is RAW else (RawCodec, ())

    def __repr__(self) -> str:
        return "RAW"

    def encode(self, value: bytes) -> bytes:
        """The same bytes.

        Raises:
            SerializationError: It is anything else, such as a bytearray, which its owner may change.
        """
        if type(value) is not bytes:
            raise SerializationError(f"value is {kind_of(value)}; RAW stores bytes, and no others")
        return value

    def decode(self, payload: bytes, max_bytes: int) -> bytes:
        """The same bytes. `max_bytes` is the caller's to check."""
        del max_bytes
        return payload


RAW: Final = RawCodec()
