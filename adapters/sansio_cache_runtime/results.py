"""Results: from the outcome of an operation to what a call of either cache gives back. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

import attrs

from sansio_cache.entry import MissReason
from sansio_cache.errors import (
    CacheConnectionError,
    CacheTimeoutError,
    ConfigurationError,
    NoEntryError,
    NotStoredError,
    UnknownOutcomeError,
)
from sansio_cache.events import FailureKind
from sansio_cache.keys import Key
from sansio_cache.lookup import EntryState, Lookup
from sansio_cache.step import (
    Added,
    Loaded,
    Locked,
    Looked,
    ManyFound,
    ManyInvalidated,
    ManyLoaded,
    ManyRead,
    ManyStored,
    Missing,
    NotAMapping,
    NotANumber,
    Outcome,
    PageFound,
    PatternRemoved,
    Raised,
    Refused,
    Swapped,
    TookTooLong,
    Unavailable,
    Unknown,
    Updated,
    Value,
)


@attrs.frozen
class InvalidateResult:
    """What became of an invalidation.

    Attributes:
        done: How many keys and tags the store was told of; they are gone, if they were there.
        remembered: How many it could not be told of. They are told when it is back; until then this
            cache does not read them from it, but others may.
        existed: Whether a value was among what went, fresh or not. None where that is not known: the answer
            was lost, or several keys went. A lease, and the answer that there is nothing, are no values.
    """

    done: int
    remembered: int
    existed: bool | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class WriteResult(InvalidateResult):
    """What became of a write of an entity, whose writer has committed.

    Attributes:
        stored: How many of the values the store holds now; under a strategy that invalidates, none.
        returned: What the writer has returned. Of `write_many` on an entity that has a `writer` and no
            `write_many`, that is a list, with an answer for each value.
    """

    stored: int
    returned: Any


@attrs.frozen
class PatternResult:
    """What became of a deletion by pattern.

    Attributes:
        deleted: How many keys were removed.
        complete: False where it broke off, as the store failed: some keys may be left.
        matched: How many keys were found; in a dry run they are all still there. The store may find a key
            twice.
    """

    deleted: int
    complete: bool
    matched: int = 0


@attrs.frozen
class ScannedEntry:
    """An entry that a scan has found.

    Attributes:
        key: Its key, complete: as `get` and `invalidate` take it.
        state: `"fresh"`, `"stale"` or `"absent"`, as in `Lookup`.
    """

    key: Key
    state: EntryState


def read(outcome: Outcome, default: Any) -> Any:
    """What `get` gives: the value, or the default."""
    if isinstance(outcome, Value):
        return outcome.value
    _raise_failure(outcome)
    return default


def loaded(outcome: Outcome) -> Any:
    """What `get_or_load` gives: a value that was there or was loaded; or it raises the loader's error."""
    if isinstance(outcome, Value | Loaded):
        return outcome.value
    if isinstance(outcome, Raised):
        raise outcome.error
    _raise_failure(outcome)
    raise AssertionError(f"{type(outcome).__name__} does not end a load")


def found(names: Iterable[Any], outcome: Outcome) -> dict[Any, Any]:
    """What the readers of many keys give: what there is, by the keys as the caller wrote them."""
    if isinstance(outcome, Raised):
        raise outcome.error
    if isinstance(outcome, ManyFound):
        return dict(zip(names, outcome.values, strict=True))
    _raise_failure(outcome)
    assert isinstance(outcome, ManyRead | ManyLoaded)
    pairs = zip(names, outcome.values, strict=True)
    return {name: each.value for name, each in pairs if isinstance(each, Value)}


def stored(names: Iterable[Any], outcome: Outcome) -> dict[Any, bool]:
    """What the writers of values give: whether each was stored. With nothing left to live, none was."""
    if isinstance(outcome, ManyInvalidated):
        return dict.fromkeys(names, False)
    assert isinstance(outcome, ManyStored)
    pairs = zip(names, outcome.results, strict=True)
    return {name: result is not None and result.is_accepted for name, result in pairs}


_OUT: Final = "the store does not serve, and is not asked until it does: the log says why"
_WHY_NOT: Final = {
    "outlived": "nothing is left of its time to live",
    "disabled": "the cache is switched off",
    "store_error": "the store is away. What it holds is invalidated, or will be",
    "overtaken": "another write of it came between",
}


def refuse_unstored(names: Iterable[Any], outcome: Outcome, *, is_disabled: bool) -> None:
    """Tell the caller, who asked for that, why values were not stored.

    Raises:
        NotStoredError: One was not.
    """
    refuse_reasons(why_not_stored(names, outcome, is_disabled=is_disabled))


def refuse_reasons(reasons: Mapping[Any, str]) -> None:
    """The same, where it is known why.

    Raises:
        NotStoredError: There is one.
    """
    if reasons:
        name, reason = next(iter(reasons.items()))
        others = f" ({len(reasons) - 1} more were not: see `reasons`)" if len(reasons) > 1 else ""
        raise NotStoredError(f"{name!r} was not stored: {_WHY_NOT[reason]}{others}", reason, reasons)


def why_not_stored(names: Iterable[Any], outcome: Outcome, *, is_disabled: bool) -> dict[Any, str]:
    """Why values were not stored, by their keys; without those that were."""
    if is_disabled:
        return dict.fromkeys(names, "disabled")
    if isinstance(outcome, ManyInvalidated):
        return dict.fromkeys(names, "outlived")
    assert isinstance(outcome, ManyStored)
    pairs = zip(names, outcome.results, strict=True)
    unstored = ((name, result) for name, result in pairs if result is None or not result.is_accepted)
    return {name: "store_error" if result is None else "overtaken" for name, result in unstored}


def invalidated(outcome: Outcome, unnamed: Collection[str] = (), *, raises: bool) -> InvalidateResult:
    """What an invalidation gives; it raises what the store could not be told of, where the policy says so.

    `unnamed` are keys that the caller has not named. They do not count; but where the store could not be told
    of them alone, one thing is remembered.
    """
    assert isinstance(outcome, ManyInvalidated)
    done, failed = (sum(key not in unnamed for key in keys) for keys in (outcome.done, outcome.failed))
    result = InvalidateResult(done, failed or int(bool(outcome.failed)), existed=outcome.existed)
    return told(result, outcome, raises=raises)


def told(result: InvalidateResult, outcome: ManyInvalidated, *, raises: bool) -> InvalidateResult:
    """The result; it raises what the store could not be told of, where the policy says so."""
    if result.remembered and raises:
        text = (
            f"the store could not be told of {result.remembered} of {result.done + result.remembered} "
            "invalidations; they are remembered, and it is told when it is back"
        )
        raise CacheConnectionError(_with(text, outcome.reason)) from outcome.cause
    return result


def removed(outcome: Outcome) -> PatternResult:
    """What a deletion by pattern gives."""
    assert isinstance(outcome, PatternRemoved)
    return PatternResult(outcome.deleted, outcome.complete, outcome.matched)


def looked(outcome: Outcome) -> Lookup[Any]:
    """What `lookup` gives."""
    _raise_failure(outcome)
    assert isinstance(outcome, Looked)
    return outcome.lookup


def renewed(outcome: Outcome, default: Any) -> Any:
    """What `get` gives that was to let the value live longer."""
    lookup = looked(outcome)
    return lookup.value if lookup.is_fresh else default


def touched(outcome: Outcome) -> bool:
    """What `touch` gives."""
    _raise_failure(outcome)
    assert isinstance(outcome, Looked)
    return outcome.touched


def page(outcome: Outcome) -> PageFound:
    """A page of a scan."""
    _raise_failure(outcome)
    assert isinstance(outcome, PageFound)
    return outcome


def scanned(found: PageFound) -> Iterator[ScannedEntry]:
    """The entries of a page, as a scan gives them."""
    return (ScannedEntry(Key(key), state) for key, state in found.entries)


def added(outcome: Outcome) -> bool:
    """What `add` gives."""
    if isinstance(outcome, TookTooLong):
        raise CacheTimeoutError(f"another writer has held the key for {outcome.waited_s:.3g} s")
    raise_uncertain(outcome)
    assert isinstance(outcome, Added)
    return outcome.is_ours


def swapped(outcome: Outcome) -> bytes | None:
    """What `swap` gives."""
    raise_uncertain(outcome)
    assert isinstance(outcome, Swapped)
    return outcome.version


def updated(outcome: Outcome, key: str) -> Any:
    """What `update` gives."""
    match outcome:
        case Updated(value=value):
            return value
        case Missing():
            raise NoEntryError(
                f"{key!r} has no fresh value that could be changed: add(…) makes one. One that was stored "
                "with another type=, codec or signing key counts as none"
            )
        case NotANumber(kind=kind):
            raise ConfigurationError(f"incr adds to numbers, and {key!r} has a value of class {kind}")
        case TookTooLong(waited_s=waited_s):
            raise CacheTimeoutError(f"others have changed {key!r} each time, for {waited_s:.3g} s")
        case Raised(error=error):
            raise error
        case _:
            raise_uncertain(outcome)
            raise AssertionError(f"{type(outcome).__name__} does not end an update")


def locked(outcome: Outcome, name: str) -> Locked:
    """What taking a lock gives."""
    if isinstance(outcome, TookTooLong):
        raise CacheTimeoutError(f"the lock {name!r} is still held by another after {outcome.waited_s:.3g} s")
    if isinstance(outcome, Missing):
        raise ConfigurationError(f"the key of the lock {name!r} holds what is no lock: remove it")
    raise_uncertain(outcome)
    assert isinstance(outcome, Locked)
    return outcome


def ready(outcome: Outcome, limit_s: float) -> None:
    """What `wait_ready` gives: nothing, or it raises."""
    if not isinstance(outcome, Unavailable):
        return
    assert outcome.kind is not None
    why = outcome.reason or "check the URL and the server"
    if outcome.kind is FailureKind.TIMEOUT:
        raise CacheTimeoutError(f"the store did not answer within {limit_s:g} s: {why}") from outcome.cause
    raise CacheConnectionError(
        f"the store did not serve within {limit_s:g} s ({outcome.kind.value}): {why}"
    ) from outcome.cause


def _with(text: str, reason: str) -> str:
    return f"{text}: {reason}" if reason else text


def raise_uncertain(outcome: Outcome) -> None:
    """Raise where nothing can be said for certain.

    Raises:
        UnknownOutcomeError: The answer of the store was lost.
        CacheConnectionError: The store does not serve, or is not to be asked.
    """
    match outcome:
        case Refused(reason=MissReason.BYPASSED):
            raise CacheConnectionError(
                "an invalidation of this key is pending, which the store was not told of yet: what it holds "
                "is not to be trusted until it was"
            )
        case Refused(reason=MissReason.DISABLED):
            raise CacheConnectionError("the cache is switched off, and no store says whose it is")
        case Refused():
            raise CacheConnectionError(_OUT)
        case Unknown(kind=None):
            raise UnknownOutcomeError(
                "an answer of the store was lost, and another write has come since: whether this one was "
                "done is unknown. Do not repeat it; look at the entry, and decide"
            )
        case Unknown(kind=kind, reason=reason, cause=cause):
            text = (
                f"the store failed ({kind}), and whether this was done is unknown. Do not repeat it; look "
                "at the entry, and decide"
            )
            raise UnknownOutcomeError(_with(text, reason)) from cause
        case _:
            _raise_failure(outcome)


def _raise_failure(outcome: Outcome) -> None:
    """Raise what the caller's policy asks to be told of, or what the loader did wrong.

    Raises:
        CacheTimeoutError: Another's load, or the store, took too long.
        CacheConnectionError: The store failed.
        ConfigurationError: A loader of many keys gave no mapping.
    """
    match outcome:
        case NotAMapping(kind=kind):
            raise ConfigurationError(f"a loader of many keys returns a mapping of keys to values; got {kind}")
        case TookTooLong(waited_s=waited_s):
            raise CacheTimeoutError(f"another caller's load had not ended after {waited_s:.3g} s")
        case Unavailable(kind=None):
            raise CacheConnectionError(_OUT)
        case Unavailable(kind=FailureKind.TIMEOUT, reason=reason, cause=cause):
            raise CacheTimeoutError(_with("the store did not answer in time", reason)) from cause
        case Unavailable(kind=kind, reason=reason, cause=cause):
            raise CacheConnectionError(_with(f"the store failed ({kind})", reason)) from cause
        case _:
            pass
