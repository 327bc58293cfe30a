r"""Keys: from what the caller says to the text that the store sees.

Theory of operation
-------------------
Everything a cache owns lies under ``{namespace}:``. What follows is one of

======================  ====================================  ==============================
`KeyBuilder.build`      ``{entity}:{id}``, or more parts      one thing
`KeyBuilder.list_key`   ``{entity}:list:{hex of a SHA-256}``  the answer to one query
`KeyBuilder.versioned`  ``{entity}:{id}:v{version}``          one version of a thing
`KeyBuilder.literal`    the caller's own text                 a key that the caller designed
internal                ``%t:…``  ``%g:…``  ``%w:…``          records of the cache itself
======================  ====================================  ==============================

**Building is injective**: different components, different keys. A component is its text with
``%XX`` for every byte of a character that separates (``:``), escapes (``%``), picks a cluster slot
(``{ }``), means something in a glob (``* ? [ ] ^ \``), or would be invisible. So a component never
holds a bare colon, and the number of colons tells how many components there are. Of three, the second
could pose as the ``list`` of a list key and the third as a version: where more follows it, a second
component that is ``list`` begins with ``%6C``, and a third one that begins with ``v`` begins with
``%76``, in patterns too. `list_key` and `versioned` differ because ``v`` is no hex digit. It follows
that an id can neither pose as another key nor widen a pattern, and that internal keys are out of
reach: what follows a ``%`` is always two hex digits. ``-`` is left as it is, because globs read it
within brackets only and UUIDs should stay readable.

A component is a str, int or UUID by its text: ``1`` and ``"1"`` are the same one on purpose, as an
id may come from a path or from a row. All else is refused rather than turned into text: a float has
several texts, ``None`` is an id that is missing, an enum member's text depends on the Python
version, and most objects' text is an address.

A query may be a mapping. It is brought into one canonical form: tagged, length-prefixed, sorted by
key, hence injective over *typed* values. It opens with a byte that UTF-8 never uses, so no str can
imitate it. Web frameworks' multi-dicts are refused: their ``items()`` shows one value of several,
so that two queries would share a key.

`Key` and `Pattern` mark text as complete, so that the rest of the library can tell ``"user:1"``,
which is to be put into the namespace, from ``cache.key.build("user", 1)``, which is in it. JSON, an
f-string or a queue lose the mark. Put into the namespace once more, such a text would name nothing, and
its invalidation would seem done: so `resolve` and `glob` refuse a text that begins with their own
namespace. `Key.parse` gives the mark back.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Final, Self, TypeAlias
from uuid import UUID

from attrs import Factory, field, frozen

from sansio_cache.errors import ConfigurationError, InvalidKeyError
from sansio_cache.tags import GENERATION_MARKER, TAG_MARKER, tag_key

Component: TypeAlias = str | int | UUID
"""What keys are built of."""

ONE_PART: Final = ""
"""The part of a store that all keys are in where it has only one: what can fail alone, as a node can."""
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")

# Separator, escape, slot braces, glob characters; then Unicode's Cc, Zs, Zl and Zp.
_ESCAPED: Final = re.compile(
    r"[:%{}*?\[\]^\\\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
)

LOCK_MARKER: Final = "%l:"
QUEUE_MARKER: Final = "%w:"
_INTERNAL_MARKERS: Final = ("%t:", "%g:", QUEUE_MARKER, "%s:", LOCK_MARKER)

_MARKER_LENGTH: Final = 2
"""That of `%t`: no component can be one, as an escape has two digits."""
_LIST: Final = "%6Cist"
_VERSION: Final = re.compile("v.", re.DOTALL)
_SECOND: Final = 2

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

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the key that a text was before JSON, `str()`, a queue or redis-cli made it one.

        Args:
            text: A complete key, namespace included.

        Raises:
            InvalidKeyError: No key can be this text.
        """
        rest = _completed("Key.parse", text)
        if rest.startswith(_INTERNAL_MARKERS):
            raise _internal_refusal(rest)
        return cls(str.__str__(text))


class Pattern(str):
    """A complete Redis glob, namespace included. A str to everyone else."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Pattern({super().__repr__()})"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the pattern that a text was before JSON, `str()` or a file made it one.

        Args:
            text: A complete Redis glob, namespace included.

        Raises:
            InvalidKeyError: No pattern can be this text.
        """
        _completed("Pattern.parse", text)
        return cls(str.__str__(text))


def _checked_namespace(namespace: str) -> str:
    """Return a namespace as a plain str, or raise InvalidKeyError."""
    if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
        raise InvalidKeyError(
            "a namespace is 1 to 128 ASCII letters, digits, '_', '.' or '-'; got "
            + _namespace_shown(namespace)
        )
    return str.__str__(namespace)


def _namespace_shown(namespace: object) -> str:
    """A namespace in an error: its type where it may be a URL, which may hold a password."""
    may_be_a_url = isinstance(namespace, str) and ("://" in namespace or "@" in namespace)
    return type(namespace).__name__ if may_be_a_url else f"{namespace!r:.99}"


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
    _refused: tuple[str, ...] = field(
        init=False,
        repr=False,
        eq=False,
        default=Factory(lambda self: (self._root, *_INTERNAL_MARKERS), takes_self=True),
    )
    """What no text may begin with that is to be put into the namespace."""

    def build(self, entity: Component, *components: Component) -> Key:
        """Return the key of one thing: ``{namespace}:{entity}:{id}``, or of more or fewer components.

        Raises:
            InvalidKeyError: A component is empty or not a str, int or UUID, or the key is too long.
        """
        try:
            root = self._root
        except AttributeError:
            raise _no_builder("build") from None
        if len(components) == 1:  # nearly always
            thing = f"{_component('entity', entity)}:{_component('id', components[0])}"
        else:
            thing = _joined(("entity", entity), *_named("id", components))
        return Key(self._fitting(root + thing))

    def list_key(self, entity: Component, query: str | Mapping[str, object], *, digits: int = 32) -> Key:
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
        root = _root_of(self, "list_key")
        if type(digits) is not int or not _MIN_DIGITS <= digits <= _MAX_DIGITS:
            raise InvalidKeyError(f"digits is an int from {_MIN_DIGITS} to {_MAX_DIGITS}; got {digits!r:.40}")
        if isinstance(query, str) and not isinstance(query, Enum):
            hashed = _utf8("query", query)
        elif isinstance(query, Mapping):
            hashed = b"\xff" + _canonical("query", query, 0)
        else:
            raise _refusal("query", query, "a str or a mapping")
        digest = hashlib.sha256(hashed).hexdigest()[:digits]
        return Key(self._fitting(f"{root}{_component('entity', entity)}:list:{digest}"))

    def versioned(self, entity: Component, id: Component, version: Component) -> Key:
        """Return the key of one version of a thing: ``{namespace}:{entity}:{id}:v{version}``.

        Raises:
            InvalidKeyError: A component is empty or not a str, int or UUID, or the key is too long.
        """
        root = _root_of(self, "versioned")
        thing = _joined(("entity", entity), ("id", id), is_whole=False)
        return Key(self._fitting(f"{root}{thing}:v{_component('version', version)}"))

    def literal(self, text: str) -> Key:
        """Return the key for a text of the caller's own design: ``{namespace}:{text}``.

        Raises:
            InvalidKeyError: Not a str, empty, not encodable, too long, already complete, or it
                starts like an internal key.
        """
        root = _root_of(self, "literal")
        content = self._content("a key", text)
        if content.startswith(_INTERNAL_MARKERS):
            raise _internal_refusal(content)
        return Key(self._fitting(root + content))

    def resolve(self, key: str) -> Key:
        """Return the key that an argument of the API stands for.

        Args:
            key: A `Key`, which stands as it is, or a str to be taken as `literal` does.

        Raises:
            InvalidKeyError: As `literal`; or a `Key` is of another namespace, or a str begins with this
                one's.
        """
        if type(key) is Key:
            if not key.startswith(self._root):
                raise self._stranger("key", key, "cache.key.build(…)")
            return key
        if type(key) is str and key and key.isascii() and not key.startswith(self._refused):  # mostly
            complete = self._root + key
            if len(complete) <= self.max_key_bytes:
                return Key(complete)
        literal = self.literal(key)
        if key.startswith(self._root):
            raise InvalidKeyError(
                f"{_shown(key)} begins with the namespace of this cache, as a built key does that was made a "
                "text (by JSON, str() or an f-string); inside the namespace it would be the key "
                f"{_shown(literal)}. Key.parse(text) takes a built key back; where that is really meant, use "
                "cache.key.literal(text)"
            )
        return literal

    def pattern(self, entity: Component, *prefix: Component) -> Pattern:
        """Return the pattern of all keys of an entity: ``{namespace}:{entity}:*``.

        Args:
            entity: What the keys are of.
            *prefix: Leading components that the keys must have:
                ``{namespace}:{entity}:{first}:…:*``.

        Raises:
            InvalidKeyError: A component is empty or not a str, int or UUID, or the pattern is too
                long.
        """
        root = _root_of(self, "pattern")
        leading = _joined(("entity", entity), *_named("prefix", prefix), is_whole=False)
        return Pattern(self._fitting(f"{root}{leading}:*"))

    def glob(self, pattern: str) -> Pattern:
        """Return the pattern that an argument of the API stands for.

        Args:
            pattern: A `Pattern`, which stands as it is, or a Redis glob to be read inside the
                namespace.

        Raises:
            InvalidKeyError: Not a str, empty, not encodable, too long, or a `Key`; or a `Pattern` is of
                another namespace, or a str begins with this one's.
        """
        if type(pattern) is Pattern:
            if not pattern.startswith(self._root):
                raise self._stranger("pattern", pattern, "cache.key.pattern(…)")
            return pattern
        complete = self._root + self._content("a pattern", pattern)
        if pattern.startswith(self._root):
            raise InvalidKeyError(
                f"{_shown(pattern)} begins with the namespace of this cache, as a built pattern does that "
                "was made a text; inside the namespace it would match nothing but keys that begin with "
                f"{_shown(self._root * 2)}. Leave the namespace out, build it with cache.key.pattern(…), or "
                "take a built one back with Pattern.parse(text); for keys that cache.key.literal(…) has "
                f"made of such texts, Pattern.parse({_shown(complete)})"
            )
        return Pattern(self._fitting(complete))

    @property
    def root(self) -> str:
        """What every key of the namespace begins with, its colon included."""
        return self._root

    def tag(self, tag: Component) -> TagName:
        """Return the name that a tag has inside the cache: ``t:{tag}``. A `TagName` stands as it is.

        Raises:
            InvalidKeyError: It is empty or not a str, int or UUID, or too long.
        """
        if type(tag) is TagName:
            return tag
        text = str.__str__(tag) if isinstance(tag, Key | Pattern) else tag  # an entry may depend on another
        _root_of(self, "tag")
        return self._tag_name(TAG_MARKER + _component("a tag", text))

    def generation(self, entity: Component) -> TagName:
        """Return the tag that all entries of an entity may share: ``g:{entity}``.

        Named in `tags=` where they are loaded and stored, and in `invalidate(tags=…)`, it makes all of them
        misses at once, at the price of one removal, however many there are.

        Raises:
            InvalidKeyError: It is empty or not a str, int or UUID, or too long.
        """
        _root_of(self, "generation")
        return self._tag_name(GENERATION_MARKER + _component("an entity", entity))

    def lists(self, entity: Component) -> TagName:
        """Return the tag that all lists of an entity have: ``g:{entity}:list``.

        Whatever is written through an entity invalidates it. Who writes past it names it in
        `invalidate(tags=…)`.

        Raises:
            InvalidKeyError: It is empty or not a str, int or UUID, or too long.
        """
        _root_of(self, "lists")
        return self._tag_name(f"{GENERATION_MARKER}{_component('an entity', entity)}:list")

    def lock(self, name: Component) -> str:
        """Return the full key of a lock, which no key, pattern or deletion reaches.

        Raises:
            InvalidKeyError: It is empty or not a str, int or UUID, or too long.
        """
        return self._fitting(f"{_root_of(self, 'lock')}{LOCK_MARKER}{_component('a lock', name)}")

    def queue(self, name: Component) -> str:
        """Return the name of a queue as it stands in its keys, which no key, pattern or deletion reaches.

        Raises:
            InvalidKeyError: It is empty or not a str, int or UUID, or too long.
        """
        part = _component("a queue", name)
        self._fitting(f"{_root_of(self, 'queue')}{QUEUE_MARKER}{{{part}:000}}:stream")
        return part

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
            raise _text_refusal(name, text)
        if isinstance(text, Pattern):
            raise InvalidKeyError(
                f"{name} cannot be a Pattern, which is complete: pass it to delete_pattern(…); got "
                f"{text!r:.200}"
            )
        if isinstance(text, Key):
            # Put into the namespace a second time it would name nothing, without anyone noticing.
            raise InvalidKeyError(
                f"{name} cannot be a {type(text).__name__}, which is complete: {text!r:.200}"
            )
        if isinstance(text, TagName):
            raise InvalidKeyError(f"{name} cannot be a TagName: pass it as tags=[…]; got {text!r:.200}")
        if not text:
            raise InvalidKeyError(f"{name} is empty")
        return str.__str__(text)

    def _stranger(self, what: str, complete: str, remedy: str) -> InvalidKeyError:
        """Return the error for what was built for another namespace."""
        return InvalidKeyError(
            f"the {what} {_shown(complete)} belongs to another namespace than {self.namespace!r}: build it "
            f"with {remedy} of this cache"
        )

    def _fitting(self, complete: str) -> str:
        """Return a key or pattern that the store can take, or raise InvalidKeyError."""
        size = len(complete) if complete.isascii() else len(_utf8("a key", complete))
        if size > self.max_key_bytes:
            raise InvalidKeyError(
                f"a key or pattern of {size} bytes is over the limit of {self.max_key_bytes}: "
                f"{complete[:64]!r}…"
            )
        return complete


def entity_of(key: str) -> str:
    """What kind of thing a full key, or a full pattern, is about: its part after the namespace, as written.

    It is empty where there is none: for the library's own keys, which are those of tags and the like.
    """
    parts = key.split(":", 2)
    entity = parts[1] if len(parts) > 1 else ""
    return "" if len(entity) == _MARKER_LENGTH and entity[0] == "%" else entity


def _root_of(builder: KeyBuilder, method: str) -> str:
    """Return what a builder's keys begin with, or raise InvalidKeyError where there is no builder."""
    try:
        return builder._root  # noqa: SLF001
    except AttributeError:
        raise _no_builder(method) from None


def _no_builder(method: str) -> InvalidKeyError:
    """Return the error for ``KeyBuilder.build("app", "user", 1)``, the form of some recipes."""
    return InvalidKeyError(
        f"KeyBuilder.{method} needs a builder, which knows the namespace: write "
        f"KeyBuilder('app').{method}(…), or cache.key.{method}(…)"
    )


def _named(name: str, components: Iterable[Component]) -> Iterator[tuple[str, Component]]:
    """Yield components with what to call them in an error."""
    return ((f"{name}[{index}]", each) for index, each in enumerate(components))


def _joined(*components: tuple[str, Component], is_whole: bool = True) -> str:
    """Return components as they stand in a key.

    Args:
        *components: What to call each in an error, and the component.
        is_whole: Whether these are all that the key has.

    Raises:
        InvalidKeyError: One is empty or not a str, int or UUID.
    """
    parts = [_component(name, each) for name, each in components]
    if parts[1:2] == ["list"] and (len(parts) > _SECOND or not is_whole):
        parts[1] = _LIST
    if len(parts) > _SECOND and _VERSION.match(parts[2]):
        parts[2] = f"%76{parts[2][1:]}"
    return ":".join(parts)


def _completed(method: str, text: object) -> str:
    """Return what follows the namespace in a complete text, or raise InvalidKeyError."""
    if not isinstance(text, str):
        hint = ": pass .decode() of it" if isinstance(text, bytes | bytearray) else ""
        raise InvalidKeyError(f"{method} takes a complete text; got {type(text).__qualname__}{hint}")
    namespace, _, rest = text.partition(":")
    if not (rest and _NAMESPACE.fullmatch(namespace)):
        raise InvalidKeyError(
            f"{method} takes a complete text, such as 'app:user:1'; {_shown(text)} does not begin with a "
            "namespace and a colon"
        )
    _utf8(method, text)
    return rest


def _internal_refusal(content: str) -> InvalidKeyError:
    return InvalidKeyError(f"a key may not start with {content[:3]!r}: the cache keeps its own records there")


def _shown(text: str) -> str:
    """Return a text for an error."""
    return f"{str.__repr__(text):.200}"


def _component(name: str, value: object) -> str:
    """Return a component as it stands in a key, or raise InvalidKeyError with its name."""
    if type(value) is str:  # nearly always
        if value.isalnum():  # nothing of it is escaped, and that is known in a tenth of the time
            return value
        text = value
    elif isinstance(value, Key | Pattern | TagName):
        raise InvalidKeyError(
            f"{name} cannot be a {type(value).__name__}, which is complete: pass what it was built of, or "
            f"its text, str(…); got {value!r:.200}"
        )
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
        case int() if value.bit_length() > _MAX_INT_BITS:
            advice = f"it is longer than {_MAX_INT_BITS} bits; pass a hash of it"
        case int():
            advice = "pass the text of the query, or a mapping of what it asks for"
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


def _text_refusal(name: str, value: object) -> InvalidKeyError:
    """Return the error for what is no key or pattern at all: what it is, and what to write."""
    match value:
        case Enum():
            advice = "pass its .value"
        case None:
            advice = "handle what is missing before asking for its key"
        case bytes() | bytearray() | memoryview():
            advice = "pass text: .decode() of it"
        case tuple():
            advice = "build a key of its parts, cache.key.build(*parts)"
        case Iterable():
            advice = "pass several keys one by one, as in invalidate(*keys), or to get_many(keys)"
        case _:
            advice = "build a key of what identifies the thing, as in cache.key.build('user', 7)"
    return InvalidKeyError(f"{name} is to be a str, not {type(value).__qualname__}: {advice}")
