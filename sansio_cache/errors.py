"""The errors that users see. Every one says what was wrong and what to do."""

from __future__ import annotations

from collections.abc import Mapping


class CacheError(Exception):
    """Base of every error that this library raises on its own account.

    A loader's exception passes through as it is and is never wrapped.
    """


class CacheConnectionError(CacheError):
    """The store cannot be reached, or refused to serve."""


class CacheTimeoutError(CacheConnectionError):
    """The store did not answer in time."""


class UnknownOutcomeError(CacheConnectionError):
    """Whether the store did what it was asked is not known: the answer was lost.

    The call must not be repeated as it is: it may have been done. Look (`lookup`) and decide.
    """


class NotStoredError(CacheError):
    """A value was not stored, and the caller asked to be told why.

    Attributes:
        reason: `"store_error"`: the store is away; what it holds of the key is invalidated, or will be.
            `"overtaken"`: another write of the key came between. `"outlived"`: nothing of its time to live
            was left. `"disabled"`: the cache is switched off.
        reasons: The same for each key that was not stored, as the caller wrote it.
    """

    def __init__(self, message: str, reason: str, reasons: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.reasons = dict(reasons or {})

    def __reduce__(self) -> tuple[type[NotStoredError], tuple[str, str, Mapping[str, str]]]:
        return type(self), (str(self), self.reason, self.reasons)


class NoEntryError(CacheError, LookupError):
    """There is no fresh value that could be changed."""


class LockLostError(CacheError, RuntimeError):
    """A lock is not held any more: its lease could not be renewed in time, and another may hold it."""


class SerializationError(CacheError):
    """A value cannot be stored so that it comes back equal, or is too large."""

    def of(self, key: str) -> SerializationError:
        """The same error, with the key that the value is of."""
        return SerializationError(f"{key}: {self}")


class InvalidKeyError(CacheError, ValueError):
    """A key, key component, namespace or pattern that cannot be used."""


class InvalidTtlError(CacheError, ValueError):
    """A time to live, or jitter range, that makes no sense."""


class ConfigurationError(CacheError, ValueError):
    """An option, URL, client or type that the cache cannot work with."""


class RecursiveLoadError(CacheError, RuntimeError):
    """A loader asked for the key that it is loading: waiting for it would never end."""


class CacheClosedError(CacheError, RuntimeError):
    """The cache was closed, or belongs to an event loop that is not this one."""


class ProtocolError(CacheError, RuntimeError):
    """A driver broke its contract: an event that does not answer the pending command."""
