"""Decorated functions: which key a call has, and what can be told of it before there is a call.

    @cache.cached("user:{id}", ttl=HOT)
    def user(id: int) -> User: ...

*A template* is the key, part by part, as `key.build` takes it: `user(7)` is stored at `key.build("user",
7)`. A field is a parameter, or an attribute of one (`{self.id}`), and is the whole of its part but for text
before and after it.

*A name*, or that of the function where nothing is given, is a template without fields. The key is
`{name}:call:{module}.{function}:{hash}` then, of the arguments with their defaults, by type and value: 1,
True, 1.0 and "1" are four calls.

What can be said when a function is decorated is said then: a parameter that is nowhere in the key would
make one entry of several calls.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from string import Formatter
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import attrs
from msgspec import Struct

from sansio_cache.codecs import PYTHON
from sansio_cache.errors import ConfigurationError, InvalidKeyError, SerializationError
from sansio_cache.keys import Key, KeyBuilder
from sansio_cache.loader import Absent, Fresh
from sansio_cache.policy import Policy
from sansio_cache.signals import let_through
from sansio_cache_runtime.mutation import plain_tags
from sansio_cache_runtime.request_builder import AnyTtl

_DIGITS: Final = 32
_RECEIVERS: Final = ("self", "cls")
_STABLE: Final = (str, int, UUID)
"""Classes whose text tells one value from every other: see `sansio_cache.keys`."""
_FORMATTED: Final = re.compile(r"(?<!\{)\{[^{}:]+:[^{}]*\}")
"""A field with a format, which is told before the template is split at its colons."""
_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class _Part(Struct, frozen=True):
    """One part of a key: a text; or a field with texts before and after it."""

    before: str
    field: str | None = None
    after: str = ""


@attrs.define(eq=False)
class CallPlan:
    """What is known of a function whose calls are cached.

    Args:
        function: What is decorated; of a class method and a static method, what is within.
        name: What it is called in messages.
        signature: Its own.
        parts: The key's, where there is a template with fields.
        entity: The first part of the key, where there is none.
        ignored: Parameters that are not part of the key.
        keeps_ignored: Whether a refresh in the background may be given them.
        ttl: How long its values stay fresh, where the decorator says so.
        policy: How they are kept, where the decorator says so.
        tags: What else they depend on.
    """

    function: Callable[..., Any]
    name: str
    signature: inspect.Signature
    parts: tuple[_Part, ...]
    entity: str | None
    ignored: frozenset[str]
    keeps_ignored: bool
    ttl: AnyTtl | None
    policy: Policy | None
    tags: tuple[str, ...]
    _type: Any = attrs.field(default=None, init=False)
    _has_type: bool = attrs.field(default=False, init=False)

    def key(self, keys: KeyBuilder, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Key:
        """The key of a call.

        Raises:
            TypeError: The function does not take these arguments.
            InvalidKeyError: An argument has no text that tells it from every other.
        """
        call = self.signature.bind(*args, **kwargs)
        call.apply_defaults()
        make = self._built if self.entity is None else self._hashed
        return make(keys, call.arguments)

    def _built(self, keys: KeyBuilder, arguments: Mapping[str, Any]) -> Key:
        components: list[Any] = []
        for part in self.parts:
            if part.field is None:
                components.append(part.before)
                continue
            value = self._field(part.field, arguments)
            if part.before or part.after:
                self._refuse_textless(keys, part, value)
                value = f"{part.before}{value}{part.after}"
            components.append(value)
        try:
            return keys.build(*components)
        except InvalidKeyError:
            for part, value in zip(self.parts, components, strict=True):
                self._refuse_textless(keys, part, value)
            raise

    def _field(self, field: str, arguments: Mapping[str, Any]) -> Any:
        """The value of a field of the template.

        Raises:
            InvalidKeyError: The argument of this call has no such attribute or item.
        """
        try:
            return Formatter().get_field(field, (), arguments)[0]
        except (AttributeError, LookupError, TypeError) as error:
            root = re.split(r"[.\[]", field, maxsplit=1)[0]
            raise InvalidKeyError(
                f"{field!r} in the template of {self.name} is not in the {type(arguments[root]).__name__} "
                f"that {root!r} is in this call"
            ) from error

    def _refuse_textless(self, keys: KeyBuilder, part: _Part, value: Any) -> None:
        """Refuse what has no text of its own, or is too long, by the name of its parameter."""
        if part.field is None:
            return
        try:
            keys.build(part.field, value)
        except InvalidKeyError as error:
            said = str(error)
            if not said.startswith("id"):
                raise InvalidKeyError(f"{part.field!r} in the template of {self.name}: {said}") from None
            raise InvalidKeyError(
                f"{part.field!r} in the template of {self.name}: it {said.partition(' ')[2]}. Without a "
                f"template, arguments of all plain classes make a key, None and empty ones too"
            ) from None

    def _hashed(self, keys: KeyBuilder, arguments: Mapping[str, Any]) -> Key:
        told = [(name, value) for name, value in arguments.items() if name not in self.ignored]
        try:
            encoded = PYTHON.encode(told)
        except SerializationError:
            for name, value in told:
                self._refuse_untold(name, value)
            raise
        digest = hashlib.sha256(encoded).hexdigest()[:_DIGITS]
        assert self.entity is not None
        place = f"{self.function.__module__}.{self.function.__qualname__}"
        return keys.build(self.entity, "call", place, digest)

    def _refuse_untold(self, name: str, value: Any) -> None:
        try:
            PYTHON.encode(value)
        except SerializationError as error:
            why, has_class, _ = str(error).removeprefix("value").partition(". PYTHON stores")
            textless = ", which has no text that tells one from every other" if has_class else ""
            raise InvalidKeyError(
                f"argument {name!r} of {self.name} is not part of a key: {name}{why}{textless}. Pass what "
                f"identifies it, such as its id or value, name the parameter in ignore=, or give a template, "
                f"as in '{{{name}.{'value' if isinstance(value, Enum) else 'id'}}}'"
            ) from None

    @property
    def type(self) -> Any:
        """What the function gives, by its annotation; None where it has none.

        Raises:
            ConfigurationError: The annotation names what cannot be found.
        """
        if not self._has_type:
            try:
                hints = get_type_hints(self.function, include_extras=True)
            except Exception as error:  # evaluating annotations runs user code
                let_through(error)
                raise ConfigurationError(
                    f"the return annotation of {self.name} cannot be read: {error}. Names in it must "
                    f"be found in its module, and not under TYPE_CHECKING alone"
                ) from error
            self._type = given_type(hints.get("return"))
            self._has_type = True
        return self._type

    def check_policy(self, policy: Policy) -> None:
        """Refuse a policy that would keep what a call was given for longer than the call.

        Raises:
            ConfigurationError: It refreshes in the background, and there are ignored parameters.
        """
        may_refresh = policy.stale_for_s or policy.refresh_at is not None or policy.xfetch_beta is not None
        if self.ignored and may_refresh and not self.keeps_ignored:
            raise ConfigurationError(
                f"{self.name} has ignored parameters ({', '.join(sorted(self.ignored))}), and its "
                f"policy refreshes in the background, when the call that gave them is over: pass "
                f"refresh_with_ignored=True if they may be used then, or a policy without "
                f"stale_for_s, refresh_at and xfetch_beta"
            )

    def check_type(self, codec_of: Callable[[Any], object]) -> None:
        """Refuse a function that gives what cannot be stored. What is not known yet, the call tells.

        Args:
            codec_of: Gives how values of a type are stored.

        Raises:
            ConfigurationError: Values of its type cannot be stored so that they come back equal.
        """
        try:
            declared = self.type
        except ConfigurationError:
            return  # as a class that is defined further down
        try:
            codec_of(declared)
        except ConfigurationError as error:
            cause = error.__cause__
            if isinstance(cause, NameError) or getattr(cause, "code", "") == "class-not-fully-defined":
                return  # one of its fields is; pydantic has an error of its own for that
            raise ConfigurationError(f"what {self.name} gives cannot be stored: {error}") from cause


def given_type(annotation: Any) -> Any:
    """What is stored of what a function is declared to give: no `Fresh`, no `Absent`, no None."""
    if annotation in (None, types.NoneType, Any, inspect.Signature.empty):
        return None
    origin = get_origin(annotation)
    if origin is Annotated:
        inner = given_type(get_args(annotation)[0])
        return annotation if inner == get_args(annotation)[0] else inner
    if annotation is Fresh or origin is Fresh:
        return given_type(next(iter(get_args(annotation)), None))
    if origin in (Union, types.UnionType):
        members = [given_type(each) for each in get_args(annotation) if each not in (Absent, types.NoneType)]
        return Union[tuple(members)] if members else None  # noqa: UP007 - of a tuple
    return annotation


def plan_calls(
    decorated: Any,
    template: str | None,
    ignore: Iterable[str],
    ttl: AnyTtl | None,
    policy: Policy | None,
    tags: Iterable[str],
    *,
    keeps_ignored: bool,
) -> CallPlan:
    """Plan the calls of a function.

    Args:
        decorated: A function, a method, or a class method or static method around one.
        template: The key of a call; or a name; None for the function's own.
        ignore: Names of parameters that are not part of the key.
        ttl: How long values stay fresh.
        policy: In place of the cache's policy.
        tags: What else the values depend on.
        keeps_ignored: Whether a refresh in the background may be given ignored arguments.

    Raises:
        ConfigurationError: What is decorated cannot be cached so, or an argument of the decorator is no good.
        InvalidKeyError: The template makes no key.
    """
    function = decorated.__func__ if isinstance(decorated, classmethod | staticmethod) else decorated
    name = getattr(function, "__qualname__", None)
    if not callable(function) or name is None or inspect.isclass(function):
        raise ConfigurationError(f"cached() decorates functions and methods; got {decorated!r:.80}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(f"{name} is a generator: what it yields cannot be cached. Return a list")
    signature = inspect.signature(function)
    parameters = signature.parameters
    if "cls" in parameters and next(iter(parameters)) == "cls" and not isinstance(decorated, classmethod):
        raise ConfigurationError(f"put cached() above @classmethod, and not below it: {name}")
    ignored = _ignored(name, ignore, parameters)
    text = name.rpartition(".")[2] if template is None else template
    if not isinstance(text, str) or not text:
        raise ConfigurationError(
            f"cached() takes a template as 'user:{{id}}', or a name; got {template!r:.80}"
        )
    parts = _parts(name, text) if "{" in text or "}" in text else ()
    _check_parameters(name, function, parameters, parts, ignored)
    names = plain_tags(tags, parameters, "", "argument use cache.entity(…, tags=lambda id: […])")
    entity = None if parts else text
    return CallPlan(function, name, signature, parts, entity, ignored, keeps_ignored, ttl, policy, names)


def _ignored(name: str, ignore: Any, parameters: Mapping[str, Any]) -> frozenset[str]:
    if isinstance(ignore, str):
        raise ConfigurationError(f"ignore= takes a list of names, as in ignore=[{ignore!r:.40}]")
    ignored = frozenset(ignore)
    unknown = sorted(ignored - set(parameters))
    if unknown:
        raise ConfigurationError(f"ignore= names {', '.join(unknown)}, which {name} does not have")
    return ignored


def _parts(name: str, template: str) -> tuple[_Part, ...]:
    parts: list[_Part] = []
    if formatted := _FORMATTED.search(template):
        raise ConfigurationError(
            f"the template of {name} formats a field, {formatted.group()!r:.80}: name it only"
        )
    for text in template.split(":"):
        try:
            pieces = list(Formatter().parse(text))
        except ValueError as error:
            raise ConfigurationError(f"the template of {name} cannot be read: {error}") from None
        fields = [piece for piece in pieces if piece[1] is not None]
        if len(fields) > 1:
            raise ConfigurationError(
                f"the template of {name} has two fields in one part, {text!r:.80}: put a colon "
                f"between them, or several calls would have one key"
            )
        if any(each[2] or each[3] for each in fields):
            raise ConfigurationError(f"the template of {name} formats a field, {text!r:.80}: name it only")
        if any(not re.match(r"[^.\[]", each[1] or "") for each in fields):
            raise ConfigurationError(
                f"the template of {name} has a field without a name, {text!r:.80}: name a parameter in "
                "it, as in '{id}'"
            )
        if not text:
            raise ConfigurationError(
                f"the template of {name} has an empty part, {template!r:.80}: take out the colon that is at "
                "its beginning or end, or beside another"
            )
        if not fields:
            parts.append(_Part("".join(piece[0] for piece in pieces)))
            continue
        at = pieces.index(fields[0])
        parts.append(_Part(pieces[at][0], pieces[at][1], "".join(piece[0] for piece in pieces[at + 1 :])))
    if len(parts) < 2 or parts[0].field is not None:
        raise ConfigurationError(
            f"the template of {name} begins with the name of a kind of thing, as in 'user:{{id}}'; "
            f"got {template!r:.80}"
        )
    return tuple(parts)


def _check_parameters(
    name: str,
    function: Any,
    parameters: Mapping[str, inspect.Parameter],
    parts: tuple[_Part, ...],
    ignored: frozenset[str],
) -> None:
    fields = {part.field.partition(".")[0].partition("[")[0] for part in parts if part.field is not None}
    unknown = sorted(fields - set(parameters))
    if unknown:
        raise ConfigurationError(
            f"the template names {', '.join(unknown) or 'nothing'}, which {name} does not have; it has "
            f"{', '.join(parameters) or 'no parameters'}"
        )
    for part in parts:
        if part.field in ignored:
            raise ConfigurationError(
                f"parameter {part.field!r} of {name} is in the template and in ignore=: take it out of one"
            )
    for each, parameter in parameters.items():
        is_told = each in fields or (not parts and each not in _RECEIVERS)
        if not is_told and each not in ignored:
            raise ConfigurationError(
                f"parameter {each!r} of {name} is not part of the key, so calls that differ in it "
                f"would share an entry: put {{{each}}} into the template, or the name into ignore=[{each!r}]"
            )
        if each in fields and parameter.kind in _VARIADIC:
            raise ConfigurationError(
                f"parameter {each!r} of {name} is several values: leave the template out"
            )
    for part in parts:
        if part.field is not None and part.field in parameters:
            _check_default(name, parameters[part.field])
            _check_annotation(name, part.field, function)


def _check_default(name: str, parameter: inspect.Parameter) -> None:
    """Refuse a parameter whose default has no place in a key: each call without it would fail."""
    default = parameter.default
    if default is None or (isinstance(default, str) and not default):
        raise ConfigurationError(
            f"parameter {parameter.name!r} of {name} is {parameter.default!r} where it is not given, which "
            f"has no place in a key: leave the template out, and arguments of all plain classes make a key"
        )


def _check_annotation(name: str, parameter: str, function: Any) -> None:
    """Refuse a parameter declared as what has no stable text. What is not known yet, the call tells."""
    annotations = getattr(function, "__annotations__", {})
    if parameter not in annotations:
        return
    holder = types.SimpleNamespace(__annotations__={parameter: annotations[parameter]})
    try:
        hints = get_type_hints(holder, globalns=getattr(function, "__globals__", {}))
    except Exception as error:  # noqa: BLE001 - a class that comes later, or what is no type
        let_through(error)
        return
    unstable = _unstable(hints.get(parameter))
    if unstable is not None:
        is_enum = issubclass(unstable, Enum)
        part, else_ = ("value", "") if is_enum else ("id", ", or leave the template out")
        raise ConfigurationError(
            f"parameter {parameter!r} of {name} is a {unstable.__name__}, which has no text that "
            f"tells one from every other: name a part of it, as in {{{parameter}.{part}}}{else_}"
        )


def _unstable(declared: Any) -> type | None:
    """The class, among those of a declared type, whose values have no stable text.

    None has none either, and is refused by the call: a parameter that may be None mostly is not.
    """
    if get_origin(declared) in (Union, types.UnionType):
        members = (each for each in get_args(declared) if each is not types.NoneType)
        return next((found for each in members if (found := _unstable(each)) is not None), None)
    cls = get_origin(declared) or declared
    if not isinstance(cls, type) or cls in (Any, object):
        return None
    is_stable = issubclass(cls, _STABLE) and cls is not bool and not issubclass(cls, Enum)
    return None if is_stable else cls
