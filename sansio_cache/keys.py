r"""Keys: from what the caller says to the text that the store sees.

Theory of operation
-------------------
Everything a cache owns lies under ``{namespace}:``. What follows is one of

======================  ====================================  ==============================
`KeyBuilder.build`      ``{entity}:{id}``                     one thing
`KeyBuilder.list_key`   ``{entity}:list:{hex of a SHA-256}``  the answer to one query
`KeyBuilder.versioned`  ``{entity}:{id}:v{version}``          one version of a thing
`KeyBuilder.literal`    the caller's own text                 a key that the caller designed
internal                ``%t:…``  ``%g:…``  ``%w:…``          records of the cache itself
======================  ====================================  ==============================

**Building is injective**: different components, different keys. A component is its text with
``%XX`` for every byte of a character that separates (``:``), escapes (``%``), picks a cluster slot
(``{ }``), means something in a glob (``* ? [ ] ^ \``), or would be invisible. So a component never
holds a bare colon; the number of colons tells `build` from the other two, and these differ because
``v`` is no hex digit. It follows that an id can neither pose as another key nor widen a pattern,
and that internal keys are out of reach: what follows a ``%`` is always two hex digits. ``-`` is
left as it is, because globs read it within brackets only and UUIDs should stay readable.

A component is a str, int or UUID by its text: ``1`` and ``"1"`` are the same one on purpose, as an
id may come from a path or from a row. All else is refused rather than turned into text: a float has
several texts, ``None`` is an id that is missing, an enum member's text depends on the Python
version, and most objects' text is an address.

A query may be a mapping. It is brought into one canonical form: tagged, length-prefixed, sorted by
key, hence injective over *typed* values. It opens with a byte that UTF-8 never uses, so no str can
imitate it. Web frameworks' multi-dicts are refused: their ``items()`` shows one value of several,
so that two queries would share a key.

`Key` and `Pattern` mark text as complete, so that the rest of the library can tell ``"user:1"``,
which is to be put into the namespace, from ``cache.key.build("user", 1)``, which is in it.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Final
from uuid import UUID

from attrs import Factory, field, frozen

from sansio_cache.errors import ConfigurationError, InvalidKeyError
from sansio_cache.tags import GENERATION_MARKER, TAG_MARKER, tag_key

ONE_PART: Final = ""
"""The part of a store that all keys are in where it has only one: what can fail alone, as a node can."""
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")

# Separator, escape, slot braces, glob characters; then Unicode's Cc, Zs, Zl and Zp.
_ESCAPED: Final = re.compile(
    r"[:%{}*?\[\]^\\\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
)

_INTERNAL_MARKERS: Final = ("%t:", "%g:", "%w:", "%s:")

_MAX_TAG: Final = 16_000
"""Entries hold the names of their tags, with two bytes for the length of each in UTF-8."""

_MIN_DIGITS: Final = 8
_MAX_DIGITS: Final = 64

# Python may refuse to write longer numbers in decimal: its limit can be as low as 640 digits.
_MAX_INT_BITS: Final = 2_048

# Methods of mappings with several values for a key: Werkzeug, Django, Starlette; httpx; multidict.
_MULTI_VALUED: Final = ("getlist", "get_list", "getall")

# Deep enough for any query, and refuses one that contains itself.
_MAX_DEPTH: Final = 32


class Key(str):
    """A complete key, namespace included. A str to everyone else."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Key({super().__repr__()})"


class Pattern(str):
    """A complete Redis glob, namespace included. A str to everyone else."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Pattern({super().__repr__()})"


def _checked_namespace(namespace: str) -> str:
    """Return a namespace as a plain str, or raise InvalidKeyError."""
    if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
        raise InvalidKeyError(
            f"a namespace is 1 to 128 ASCII letters, digits, '_', '.' or '-'; got {namespace!r:.99}"
        )
    return str.__str__(namespace)


def _checked_limit(limit_bytes: int) -> int:
    """Return a limit as it is, or raise ConfigurationError."""
    if type(limit_bytes) is not int or limit_bytes < 1:
        raise ConfigurationError(f"max_key_bytes is a positive number of bytes; got {limit_bytes!r}")
    return limit_bytes


class TagName(str):
    """The name of a tag as the cache uses it inside, as of an entity's generation. A str to everyone else."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"TagName({super().__repr__()})"


@frozen
class KeyBuilder:
    """Builds the keys and patterns of one namespace.

    Attributes:
        namespace: 1 to 128 ASCII letters, digits, ``_``, ``.`` or ``-``.
        max_key_bytes: The longest key or pattern, in bytes of UTF-8. Patterns are capped because
            long ones crash unpatched servers (CVE-2024-31228).

    Raises:
        InvalidKeyError: The namespace cannot be used.
        ConfigurationError: `max_key_bytes` is not a positive int.
    """

    namespace: str = field(converter=_checked_namespace)
    max_key_bytes: int = field(default=1_024, kw_only=True, converter=_checked_limit)
    _root: str = field(
        init=False,
        repr=False,
        eq=False,
        default=Factory(lambda self: f"{self.namespace}:", takes_self=True),
    )
    _internal: tuple[str, ...] = field(
        init=False,
        repr=False,
        eq=False,
        default=Factory(
            lambda self: tuple(f"{self.namespace}:{marker}" for marker in _INTERNAL_MARKERS),
            takes_self=True,
        ),
    )

    def build(self, entity: str | int | UUID, id: str | int | UUID) -> Key:
        """Return the key of one thing: ``{namespace}:{entity}:{id}``.

        Raises:
            InvalidKeyError: A component is empty or not a str, int or UUID, or the key is too long.
        """
        thing = f"{_component('entity', entity)}:{_component('id', id)}"
        return Key(self._fitting(self._root + thing))

    def list_key(
        self, entity: str | int | UUID, query: str | Mapping[str, object], *, digits: int = 32
    ) -> Key:
        """Return the key of the answer to a query: ``{namespace}:{entity}:list:{hash}``.

        Args:
            entity: What is listed.
            query: A str, which is hashed as it stands, or a mapping, whose order does not matter
                but whose types do: ``{"page": 1}`` and ``{"page": "1"}`` differ. A mapping may nest
                mappings, lists and tuples of str, int, finite float and Decimal, bool, None, UUID,
                date and datetime.
            digits: How many hex digits of the SHA-256 to keep, 8 to 64. Eight are 32 bits: about
                9,000 queries make a collision 1 % likely, which serves one query the other's
                answer.

        Raises:
            InvalidKeyError: The entity or query cannot be used, `digits` is out of range, or the
                key is too long.
        """
        if type(digits) is not int or not _MIN_DIGITS <= digits <= _MAX_DIGITS:
            raise InvalidKeyError(f"digits is an int from {_MIN_DIGITS} to {_MAX_DIGITS}; got {digits!r:.40}")
        if isinstance(query, str) and not isinstance(query, Enum):
            hashed = _utf8("query", query)
        elif isinstance(query, Mapping):
            hashed = b"\xff" + _canonical("query", query, 0)
        else:
            raise _refusal("query", query, "a str or a mapping")
        digest = hashlib.sha256(hashed).hexdigest()[:digits]
        return Key(self._fitting(f"{self._root}{_component('entity', entity)}:list:{digest}"))

    def versioned(self, entity: str | int | UUID, id: str | int | UUID, version: str | int | UUID) -> Key:
        """Return the key of one version of a thing: ``{namespace}:{entity}:{id}:v{version}``.

        Raises:
            InvalidKeyError: A component is empty or not a str, int or UUID, or the key is too long.
        """
        thing = f"{_component('entity', entity)}:{_component('id', id)}"
        return Key(self._fitting(f"{self._root}{thing}:v{_component('version', version)}"))

    def literal(self, text: str) -> Key:
        """Return the key for a text of the caller's own design: ``{namespace}:{text}``.

        Raises:
            InvalidKeyError: Not a str, empty, not encodable, too long, already complete, or it
                starts like an internal key.
        """
        content = self._content("a key", text)
        if content.startswith(_INTERNAL_MARKERS):
            raise InvalidKeyError(
                f"a key may not start with {content[:3]!r}: the cache keeps its own records there"
            )
        return Key(self._fitting(self._root + content))

    def resolve(self, key: str) -> Key:
        """Return the key that an argument of the API stands for.

        Args:
            key: A `Key`, which stands as it is, or a str to be taken as `literal` does.

        Raises:
            InvalidKeyError: As `literal`.
        """
        return key if type(key) is Key else self.literal(key)

    def pattern(self, entity: str | int | UUID, *prefix: str | int | UUID) -> Pattern:
        """Return the pattern of all keys of an entity: ``{namespace}:{entity}:*``.

        Args:
            entity: What the keys are of.
            *prefix: Leading components that the keys must have:
                ``{namespace}:{entity}:{first}:…:*``.

        Raises:
            InvalidKeyError: A component is empty or not a str, int or UUID, or the pattern is too
                long.
        """
        parts = [_component("entity", entity)]
        parts += [_component(f"prefix[{index}]", part) for index, part in enumerate(prefix)]
        return Pattern(self._fitting(f"{self._root}{':'.join(parts)}:*"))

    def glob(self, pattern: str) -> Pattern:
        """Return the pattern that an argument of the API stands for.

        Args:
            pattern: A `Pattern`, which stands as it is, or a Redis glob to be read inside the
                namespace.

        Raises:
            InvalidKeyError: Not a str, empty, not encodable, too long, or a `Key`.
        """
        if type(pattern) is Pattern:
            return pattern
        return Pattern(self._fitting(self._root + self._content("a pattern", pattern)))

    @property
    def root(self) -> str:
        """What every key of the namespace begins with, its colon included."""
        return self._root

    def tag(self, tag: str | int | UUID) -> TagName:
        """Return the name that a tag has inside the cache: ``t:{tag}``. A `TagName` stands as it is.

        Raises:
            InvalidKeyError: It is empty or not a str, int or UUID, or too long.
        """
        return tag if type(tag) is TagName else self._tag_name(TAG_MARKER + _component("a tag", tag))

    def generation(self, entity: str | int | UUID) -> TagName:
        """Return the tag that all entries of an entity may share: ``g:{entity}``.

        Named in `tags=` where they are loaded and stored, and in `invalidate(tags=…)`, it makes all of them
        misses at once, at the price of one removal, however many there are.

        Raises:
            InvalidKeyError: It is empty or not a str, int or UUID, or too long.
        """
        return self._tag_name(GENERATION_MARKER + _component("an entity", entity))

    def _tag_name(self, name: str) -> TagName:
        if len(self._fitting(tag_key(self._root, name))) > _MAX_TAG:
            raise InvalidKeyError(f"a tag is at most {_MAX_TAG} characters; got {len(name)}")
        return TagName(name)

    def everything(self) -> Pattern:
        """Return the pattern of the whole namespace, internal keys included."""
        return Pattern(f"{self._root}*")

    def is_internal(self, key: str) -> bool:
        """Say whether a complete key is a record of the cache itself, which deletions skip."""
        return key.startswith(self._internal)

    def _content(self, name: str, text: str) -> str:
        """Return the content of a text to be put into the namespace, or raise InvalidKeyError."""
        if not isinstance(text, str):
            raise _refusal(name, text, "a str")
        if isinstance(text, Key | Pattern):
            # Put into the namespace a second time it would name nothing, without anyone noticing.
            raise InvalidKeyError(
                f"{name} cannot be a {type(text).__name__}, which is complete: {text!r:.200}"
            )
        if not text:
            raise InvalidKeyError(f"{name} is empty")
        return str.__str__(text)

    def _fitting(self, complete: str) -> str:
        """Return a key or pattern that the store can take, or raise InvalidKeyError."""
        size = len(complete) if complete.isascii() else len(_utf8("a key", complete))
        if size > self.max_key_bytes:
            raise InvalidKeyError(
                f"a key or pattern of {size} bytes is over the limit of {self.max_key_bytes}: "
                f"{complete[:64]!r}…"
            )
        return complete


def _component(name: str, value: object) -> str:
    """Return a component as it stands in a key, or raise InvalidKeyError with its name."""
    if type(value) is str:  # nearly always
        text = value
    else:
        tag, text = _typed_text(value) or ("", "")
        if tag not in {"str", "int", "uuid"}:
            raise _refusal(name, value, "a str, int or uuid.UUID")
    if not text:
        raise InvalidKeyError(f"{name} is empty: the key would say nothing about it")
    return _ESCAPED.sub(_percent, text)


def _percent(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode())


def _canonical(name: str, value: object, depth: int) -> bytes:
    """Return the one form of a query or a part of it: tag, length, content.

    Args:
        name: What to call the part in an error.
        value: The part.
        depth: How many levels it lies below the query.

    Raises:
        InvalidKeyError: It has no text of its own, or lies too deep.
    """
    if depth > _MAX_DEPTH:
        raise InvalidKeyError(f"query is nested deeper than {_MAX_DEPTH} levels, or contains itself")
    match value:
        case Mapping() if not any(hasattr(value, method) for method in _MULTI_VALUED):
            tag = "map"
            pairs = [
                (
                    _canonical(f"a key of {name}", key, depth + 1),
                    _canonical(f"{name}[{key!r}]", item, depth + 1),
                )
                for key, item in value.items()
            ]
            content = b"".join(key + item for key, item in sorted(pairs))
        case list() | tuple():
            tag = "list" if isinstance(value, list) else "tuple"
            content = b"".join(
                _canonical(f"{name}[{index}]", item, depth + 1) for index, item in enumerate(value)
            )
        case _:
            typed = _typed_text(value)
            if typed is None:
                raise _refusal(name, value, "a value whose text identifies it")
            tag, content = typed[0], _utf8(name, typed[1])
    return b"%s %d:%s" % (tag.encode(), len(content), content)


def _typed_text(value: object) -> tuple[str, str] | None:
    """Return a value's type and a text that no other value of it has, or None without such a text.

    Subclasses of str and int count by their content, not by what their ``__str__`` makes of it.
    """
    match value:
        case Enum():
            return None
        case str():
            return "str", str.__str__(value)
        case bool() | None:
            return "const", str(value)
        case int() if value.bit_length() <= _MAX_INT_BITS:
            return "int", int.__repr__(value)
        case UUID():
            return "uuid", UUID.__str__(value)
        case float() if math.isfinite(value):
            return "float", float.__repr__(value)
        case Decimal() if value.is_finite():
            # str() of a Decimal depends on the arithmetic context of the thread.
            sign, digits, exponent = value.as_tuple()
            return "decimal", f"{sign}/{''.join(map(str, digits))}/{exponent}"
        case datetime():
            # The subclass's own: pandas has nanoseconds that datetime's would drop.
            return "datetime", value.isoformat()
        case date():
            return "date", value.isoformat()
    return None


def _utf8(name: str, text: str) -> bytes:
    try:
        return str.encode(text)
    except UnicodeEncodeError as error:
        raise InvalidKeyError(f"{name} holds a lone surrogate, which UTF-8 cannot encode") from error


def _refusal(name: str, value: object, wanted: str) -> InvalidKeyError:
    """Return the error for a value that has no usable text: what it is, and what to do."""
    match value:
        case Enum():
            advice = "pass its .value"
        case None:
            advice = "handle what is missing before asking for its key"
        case bool():
            advice = "pass a word for what it stands for"
        case int():
            advice = f"it is longer than {_MAX_INT_BITS} bits; pass a hash of it"
        case float() | Decimal():
            advice = "pass text of a fixed format, such as f'{value:.2f}'"
        case bytes() | bytearray() | memoryview():
            advice = "pass text: .decode() or .hex() of it"
        case date():
            advice = "pass its isoformat()"
        case Mapping():
            advice = "it may hold several values for a key; pass the query string or a dict of lists"
        case _:
            advice = "its text would depend on object.__repr__; pass what identifies it"
    return InvalidKeyError(f"{name} is to be {wanted}, not {type(value).__qualname__}: {advice}")
