"""Compression, around any codec of values.

The first byte of a payload says how the rest is: as the codec gave it, or compressed. What is small, or would
not get smaller, stays as it is. Nothing is inflated beyond the limit that the cache sets for values, so a
kilobyte that would become a gigabyte (a decompression bomb) costs what the limit allows, and is a miss.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Generic, Literal, Protocol, TypeVar

from sansio_cache.codecs.value_codec import Checked, Undecodable, ValueCodec
from sansio_cache.errors import ConfigurationError
from sansio_cache.signals import let_through

T = TypeVar("T")

_PLAIN: Final = b"\0"
_SQUEEZED: Final = b"\1"


class _Inflater(Protocol):
    """What the standard library calls a decompressor, in `zlib` and in `compression.zstd`."""

    eof: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class Compressed(Generic[T]):
    """A codec whose payloads are compressed where that makes them smaller.

    Args:
        codec: Encodes the values.
        method: ``zlib``; or ``zstd``, from Python 3.14 on.
        threshold_bytes: A payload that is smaller is left as it is.
        level: How hard to try, as the method counts it; None for its own default.

    Raises:
        ConfigurationError: The method is unknown, or is not to be had in this Python.
    """

    def __init__(
        self,
        codec: ValueCodec[T],
        *,
        method: Literal["zlib", "zstd"] = "zlib",
        threshold_bytes: int = 1024,
        level: int | None = None,
    ) -> None:
        if not isinstance(codec, ValueCodec):
            raise ConfigurationError(
                f"Compressed takes a codec, as in Compressed(JsonCodec(User)); got {codec!r:.80}"
            )
        if not isinstance(threshold_bytes, int) or threshold_bytes < 0:
            raise ConfigurationError(f"threshold_bytes is a whole number from 0; got {threshold_bytes!r:.80}")
        self._codec = codec
        self._method: Literal["zlib", "zstd"] = method
        self._threshold_bytes = threshold_bytes
        self._level = level
        self._squeeze, self._inflater = _tools(method, level)
        self.change = codec.change if isinstance(codec, Checked) else _trusting
        self.fills_in: bool = getattr(codec, "fills_in", False)
        """Whether what is read may have more than what was stored, as `JsonCodec` may."""

    def __reduce__(self) -> tuple[Any, ...]:
        threshold_bytes, level = self._threshold_bytes, self._level
        again = partial(Compressed, method=self._method, threshold_bytes=threshold_bytes, level=level)
        return again, (self._codec,)

    def __repr__(self) -> str:
        return f"Compressed({self._codec!r}, method={self._method!r})"

    @property
    def fingerprint(self) -> str:
        """The method, and the codec within. How hard it tries, and when, is no reader's concern."""
        return f"{self._method} 1 {self._codec.fingerprint}"

    def encode(self, value: T) -> bytes:
        """The payload of a value.

        Raises:
            SerializationError: The codec within refuses it.
        """
        payload = self._codec.encode(value)
        if len(payload) >= self._threshold_bytes:
            squeezed = self._squeeze(payload)
            if len(squeezed) < len(payload):
                return _SQUEEZED + squeezed
        return _PLAIN + payload

    def decode(self, payload: bytes, max_bytes: int) -> T:
        """The value in a payload, which is inflated to at most `max_bytes`.

        Raises:
            Undecodable: It is larger, or nothing that this codec has written.
        """
        how, content = payload[:1], payload[1:]
        if how == _SQUEEZED:
            inflater = self._inflater()
            inflated = inflater.decompress(content, max_bytes + 1)
            if len(inflated) > max_bytes:
                raise Undecodable("too large")
            if not inflater.eof or inflater.unused_data:
                raise Undecodable("corrupt")
            content = inflated
        elif how != _PLAIN:
            raise Undecodable("corrupt")
        return self._codec.decode(content, max_bytes)


def _trusting(_given: Any, _back: Any) -> None:
    """Nothing is known to have changed: the codec within cannot tell."""


def _tools(method: str, level: int | None) -> tuple[Callable[[bytes], bytes], Callable[[], _Inflater]]:
    if method == "zlib":
        chosen = zlib.Z_DEFAULT_COMPRESSION if level is None else level
        _try("zlib", chosen, lambda: zlib.compress(b"", chosen))
        return lambda data: zlib.compress(data, chosen), _zlib_inflater
    if method != "zstd":
        raise ConfigurationError(f"method is 'zlib' or 'zstd'; got {method!r:.80}")
    try:
        zstd: Any = importlib.import_module("compression.zstd")
    except ImportError:
        raise ConfigurationError("method='zstd' needs Python 3.14 or later: use method='zlib'") from None
    _try("zstd", level, lambda: zstd.compress(b"", level))
    return lambda data: zstd.compress(data, level), zstd.ZstdDecompressor


def _try(method: str, level: int | None, compress: Callable[[], object]) -> None:
    try:
        compress()
    except (ValueError, TypeError, zlib.error) as error:
        let_through(error)
        raise ConfigurationError(f"level={level!r:.80} is none that {method} has: {error}") from error


def _zlib_inflater() -> Any:
    return zlib.decompressobj()
