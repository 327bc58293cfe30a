"""Configuration: everything that can be set about a cache, checked when it is made.

`CacheConfig` is what `Cache.from_config` takes; the keyword options of `Cache.from_url` and
`Cache.from_client` are its fields. `CacheConfig.from_env` reads the variables `SANSIO_CACHE_…`; it is the
one place where the core looks at the environment, and only because it was asked to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import iscoroutinefunction
from typing import (
    Any,
    Final,
    Literal,
    Self,
    TypeAlias,
    TypedDict,
    TypeVar,
    Unpack,
    get_origin,
    get_type_hints,
)

import attrs

from sansio_cache.codecs.value_codec import Migration, ValueCodec
from sansio_cache.errors import ConfigurationError
from sansio_cache.frozen import FrozenMapping
from sansio_cache.keys import KeyBuilder
from sansio_cache.policy import Policy, instance, one_of
from sansio_cache.schema import name_of, without_none
from sansio_cache.signing import Signer, own_secrets
from sansio_cache.ttl import Ttl, ttl_seconds
from sansio_cache.url import AddressMap, read_url, redact_url

C = TypeVar("C")

_LONGEST_PAUSE_S: Final = 3600.0

Migrations: TypeAlias = Mapping[Any, Migration]
"""Hooks by the type that they make values of."""

Codecs: TypeAlias = Mapping[Any, ValueCodec[Any]]
"""Codecs by the type whose values they encode."""

SigningKeys: TypeAlias = Sequence[str | bytes]
"""Keys that entries are signed with: the first one signs, all verify."""


def _shown(value: object) -> str:
    """A value in an error: its type where it may hold a password, as a URL that stands in the wrong place."""
    is_plain = isinstance(value, int | float) or (
        isinstance(value, str) and value.isascii() and len(value) < 9
    )
    return repr(value) if is_plain or value is None else type(value).__name__


def _positive(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise ConfigurationError(f"{attribute.name} is a number above 0; got {_shown(value)}")


def _not_negative(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= _LONGEST_PAUSE_S:
        raise ConfigurationError(
            f"{attribute.name} is seconds from 0 to {_LONGEST_PAUSE_S:g}; got {_shown(value)}"
        )


def _count(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"{attribute.name} is a whole number from 1; got {_shown(value)}")


def _limit(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ConfigurationError(
            f"{attribute.name} is None, for no limit, or a whole number from 1; got {_shown(value)}"
        )


def _address_map(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and not callable(value):
        raise ConfigurationError(
            f"{attribute.name} is a function of a host and a port that gives a host and a port, or None; got "
            f"{_shown(value)}"
        )


def _boolean(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{attribute.name} is True or False; got {_shown(value)}")


def _url(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str) or not value:
        kind = type(value).__name__
        raise ConfigurationError(f"{attribute.name} is a text that is not empty; got {kind}")
    read_url(value)


def _by_type(what: str, given: Mapping[Any, C]) -> FrozenMapping[Any, C]:
    """A copy that nobody can change, by types without None."""
    own: dict[Any, C] = {}
    for declared, value in given.items():
        if own.setdefault(without_none(declared), value) is not value:
            raise ConfigurationError(f"two keys of {what} are the type {name_of(declared)}: T | None is T")
    return FrozenMapping(own)


def _own_migrations(given: Migrations) -> Migrations:
    """A checked copy that nobody can change. No message shows a hook: a partial would show its arguments."""
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"migrations is a mapping of types to functions; got {type(given).__name__}")
    own = _by_type("migrations", given)
    for declared, hook in own.items():
        place = f"migrations[{name_of(declared)}]"
        if not callable(hook):
            raise ConfigurationError(
                f"{place} is a function that takes the older value; got {type(hook).__name__}"
            )
        if iscoroutinefunction(hook):
            raise ConfigurationError(f"{place} is a coroutine function: values are read without waiting")
    return own


def _own_codecs(given: Codecs) -> Codecs:
    """A checked copy that nobody can change."""
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"codecs is a mapping of types to codecs; got {type(given).__name__}")
    own = _by_type("codecs", given)
    for declared, codec in own.items():
        if isinstance(codec, type) or not isinstance(codec, ValueCodec):
            kind = name_of(codec) if isinstance(codec, type) else type(codec).__name__
            raise ConfigurationError(
                f"codecs[{name_of(declared)}] is a codec, with fingerprint, encode and decode; got {kind}"
            )
    return own


@attrs.frozen(kw_only=True)
class RedisConfig:
    """How to reach the server. Times are seconds.

    Args:
        enabled: False: there is no server; every read is a miss and loaders run.
        url: `redis://`, `rediss://`, `unix://`, `memory://` or `memory://name`; see `sansio_cache.url`.
        connect_timeout_s: How long `wait_ready` waits, and how long a connection may take to open in the
            background. No read ever waits that long.
        operation_timeout_s: How long one step (a read, an acquire, a fill) may spend on the store, with its
            retries, connecting and waiting for its turn included. Once it is over the operation does without
            the store. The one time-out that has to be set for a server that is further away.
        attempt_timeout_s: How long a connection may say nothing, while something is asked on it, before
            another is tried. None: two fifths of `operation_timeout_s`.
        max_connections: How many connections may be open at once; in a cluster, to each of its nodes.
        address_map: Of a cluster whose nodes know themselves by addresses that cannot be reached from here: a
            function that is given the host and the port which the cluster has for a node, and gives those
            under which it can be reached. It is called from any thread.
        after_failover_s: How long reads do without the store after another one has taken its place (a replica
            that was promoted, or the same server after a restart): in that time, processes tell it what they
            have written lately. 0: not at all.
        clock_skew_s: How far apart the clocks may be of servers that follow one another, or that of one
            before and after a restart. Where a server was started with a snapshot, nothing is read that was
            stored before its start, and so much longer.
    """

    enabled: bool = attrs.field(default=True, validator=_boolean)
    url: str = attrs.field(default="redis://localhost:6379/0", validator=_url, repr=redact_url)
    connect_timeout_s: float = attrs.field(default=30.0, validator=_positive)
    operation_timeout_s: float = attrs.field(default=0.25, validator=_positive)
    attempt_timeout_s: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(_positive)
    )
    max_connections: int = attrs.field(default=4, validator=_count)
    address_map: AddressMap | None = attrs.field(default=None, validator=_address_map, repr=False)
    after_failover_s: float = attrs.field(default=0.5, validator=_not_negative)
    clock_skew_s: float = attrs.field(default=1.0, validator=_not_negative)

    def __attrs_post_init__(self) -> None:
        if self.silence_s > self.operation_timeout_s:
            raise ConfigurationError(
                f"attempt_timeout_s ({self.silence_s:g}) is longer than operation_timeout_s "
                f"({self.operation_timeout_s:g}): an operation is one attempt or more"
            )

    @property
    def place(self) -> str:
        """Where the store is, for messages and logs. That is host and port, or the path of a socket."""
        return read_url(self.url).place

    @property
    def silence_s(self) -> float:
        """`attempt_timeout_s`, or what it is where it is not given."""
        given_s = self.attempt_timeout_s
        return 0.4 * self.operation_timeout_s if given_s is None else given_s


class CacheOptions(TypedDict, total=False):
    """The keyword options of `Cache.from_url` and its kin: fields of `CacheConfig` and of `RedisConfig`."""

    enabled: bool
    default_ttl: Ttl | None
    policy: Policy
    max_value_bytes: int
    max_key_bytes: int
    chunk_keys: int
    max_batch_keys: int
    memory_max_entries: int | None
    memory_max_bytes: int
    migrations: Migrations
    codecs: Codecs
    on_unstorable: Literal["log", "raise"]
    signing_keys: SigningKeys
    connect_timeout_s: float
    operation_timeout_s: float
    attempt_timeout_s: float | None
    max_connections: int
    address_map: AddressMap | None
    after_failover_s: float
    clock_skew_s: float


@attrs.frozen(kw_only=True)
class CacheConfig:
    """Everything about a cache.

    Args:
        namespace: The first part of every key: letters, digits, `_`, `.`, `-`.
        enabled: False: `get` gives the default, `set` does nothing, loaders run.
        redis: How to reach the server.
        default_ttl: The time to live of entries that are not given one; in place of the policy's.
        policy: How entries are kept and loaded.
        max_value_bytes: The largest encoded value that is stored, or read.
        max_key_bytes: The longest key.
        chunk_keys: How many keys a batch puts into one round trip.
        max_batch_keys: How many keys one call may name; more are refused before anything has happened.
        memory_max_entries: How many entries a memory store keeps at most; None for as many as the bytes
            allow.
        memory_max_bytes: How large a memory store may grow, in bytes of the process: keys, values, and what
            holds them, some 500 bytes an entry. The least recently used entries go first.
        migrations: Functions by type. Each is given what was stored as another type, or as another shape of
            it, as plain JSON values, and returns a value of its type, or a mapping with the fields of one.
            The key is what calls give as `type=`; None for calls that give none.
        codecs: Codecs by type, for types whose values are not to be JSON. The key is what calls give as
            `type=`; None for calls that give none.
        on_unstorable: What becomes of a loader's value that would not come back from the store as it is:
            `"log"` gives it to the caller, uncached, and logs the key and what is wrong with it; `"raise"`
            raises SerializationError, for tests and continuous integration.
        signing_keys: Keys, of 16 bytes or more each, that entries are signed with: the first one signs, all
            verify. What is not signed by one of them is a miss. Empty: entries are not signed.

    Raises:
        ConfigurationError: A value is out of range or contradicts another.
    """

    namespace: str
    enabled: bool = attrs.field(default=True, validator=_boolean)
    redis: RedisConfig = attrs.field(factory=RedisConfig, validator=instance(RedisConfig))
    default_ttl: Ttl | None = None
    policy: Policy = attrs.field(factory=Policy, validator=instance(Policy))
    max_value_bytes: int = attrs.field(default=8 * 2**20, validator=_count)
    max_key_bytes: int = attrs.field(default=1024, validator=_count)
    chunk_keys: int = attrs.field(default=500, validator=_count)
    max_batch_keys: int = attrs.field(default=10_000, validator=_count)
    memory_max_entries: int | None = attrs.field(default=None, validator=_limit)
    memory_max_bytes: int = attrs.field(default=64 * 2**20, validator=_count)
    # Not hashed, because a mapping cannot be.
    migrations: Migrations = attrs.field(factory=dict, converter=_own_migrations, hash=False, repr=False)
    codecs: Codecs = attrs.field(factory=dict, converter=_own_codecs, hash=False)
    on_unstorable: Literal["log", "raise"] = attrs.field(default="log", validator=one_of("log", "raise"))
    signing_keys: SigningKeys = attrs.field(default=(), converter=own_secrets, repr=False)

    def __attrs_post_init__(self) -> None:
        _ = self.keys  # the namespace is checked where keys are made
        if self.default_ttl is not None:
            ttl_seconds(self.default_ttl)

    def __reduce__(self) -> tuple[Callable[[], Self], tuple[()]]:
        # For deepcopy: hooks and codecs are taken as they are, as they may hold what cannot be copied.
        fields = {name: getattr(self, name) for name in attrs.fields_dict(type(self))}
        return partial(type(self), **fields), ()

    @property
    def keys(self) -> KeyBuilder:
        """The builder of this cache's keys."""
        return KeyBuilder(self.namespace, max_key_bytes=self.max_key_bytes)

    @property
    def effective_policy(self) -> Policy:
        """The policy, with `default_ttl` where that is given."""
        return self.policy if self.default_ttl is None else self.policy.with_ttl(self.default_ttl)

    @property
    def signer(self) -> Signer | None:
        """What signs and verifies entries; None where they are not signed."""
        if not self.signing_keys:
            return None
        policy = self.effective_policy
        late_ms = math.ceil(policy.max_lease_s * 1000)
        return Signer(own_secrets(self.signing_keys), policy.max_life_ms, late_ms)

    def migration_for(self, type: Any) -> Migration | None:
        """The hook that makes values of a type from what was stored as something else, if there is one."""
        return _chosen(self.migrations, type)

    def codec_of(self, type: Any) -> ValueCodec[Any] | None:
        """The codec that was chosen for a type; None where none was."""
        return _chosen(self.codecs, type)

    @classmethod
    def from_options(cls, *, namespace: str, url: str | None = None, **options: Unpack[CacheOptions]) -> Self:
        """A configuration from flat keyword options: the fields of this class and of `RedisConfig`.

        Raises:
            ConfigurationError: An option is unknown, or its value is no good.
        """
        own = set(attrs.fields_dict(cls)) - {"namespace", "redis"}
        theirs = set(attrs.fields_dict(RedisConfig)) - {"enabled", "url"}
        unknown = sorted(set(options) - own - theirs)
        if unknown:
            names = sorted(own | theirs)
            raise _unknown_options(unknown, names)
        redis: dict[str, Any] = {name: value for name, value in options.items() if name in theirs}
        rest: dict[str, Any] = {name: value for name, value in options.items() if name in own}
        if url is not None:
            redis["url"] = url
        return cls(namespace=namespace, redis=RedisConfig(**redis), **rest)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **defaults: Any) -> Self:
        """A configuration from the environment.

        `SANSIO_CACHE_NAMESPACE`, `SANSIO_CACHE_ENABLED`, `SANSIO_CACHE_DEFAULT_TTL` (seconds) and so on
        for the fields of this class; `SANSIO_CACHE_REDIS_URL`, `SANSIO_CACHE_REDIS_ENABLED`, … for those
        of `RedisConfig`. An empty variable counts as not set. `SANSIO_CACHE_SIGNING_KEYS` has keys with
        commas between them. A policy, migrations or codecs cannot be given this way.

        The prefix is this library's own: a variable that begins with it and is none of these is refused, but
        for those that Kubernetes makes of a service's name.

        Args:
            environ: In place of the process's environment.
            defaults: Fields of this class, each for where its variable is not set. Variables of `RedisConfig`
                take the place of single fields of `redis=`.

        Raises:
            ConfigurationError: A variable cannot be read, its value is no good, or there is none of its name;
                it is named. Or a default is no field of this class.
        """
        from sansio_cache.variables import ENV_PREFIX

        if environ is None:
            import os

            environ = os.environ
        check_variables(environ)
        if unknown := sorted(set(defaults) - set(attrs.fields_dict(cls))):
            raise _unknown_defaults(unknown, sorted(attrs.fields_dict(cls)))
        own = _from_variables(cls, ENV_PREFIX, environ)
        redis = _from_variables(RedisConfig, f"{ENV_PREFIX}REDIS_", environ)
        fields = {**defaults, **own}
        if redis:
            fields["redis"] = attrs.evolve(fields.get("redis", RedisConfig()), **redis)
        if "namespace" not in fields:
            raise ConfigurationError(f"set {ENV_PREFIX}NAMESPACE, or pass namespace=")
        return cls(**fields)


def _chosen(mapping: Mapping[Any, C], type: Any) -> C | None:
    """What a mapping has for a type."""
    try:
        return mapping.get(without_none(type)) if mapping else None
    except TypeError:  # unhashable, as Annotated with a list is: it is none of the keys
        return None


_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})


_WANTED: Final[Mapping[Any, str]] = {
    bool: "is true or false",
    int: "is a whole number from 1",
    int | None: "is a whole number from 1",
    float: "is a number of seconds above 0",
    float | None: "is a number of seconds above 0",
    Literal["log", "raise"]: "is 'log' or 'raise'",
    Ttl | None: "is a time to live in seconds, from 0.001 to ten years",
    str: "is 1 to 128 ASCII letters, digits, '_', '.' or '-'",
}


_NO_TEXTS: Final = frozenset({"redis", "policy", "migrations", "codecs", "address_map"})
"""Fields that no variable can hold."""


def check_variables(environ: Mapping[str, str]) -> None:
    """Refuse variables that begin as ours do, and are none that `CacheConfig.from_env` reads.

    Raises:
        ConfigurationError: There is one; its name is said, and not what it holds.
    """
    from sansio_cache.variables import refuse_unknown

    own = [name for name in attrs.fields_dict(CacheConfig) if name not in _NO_TEXTS]
    theirs = [name for name in attrs.fields_dict(RedisConfig) if name not in _NO_TEXTS]
    known = [*(name.upper() for name in own), *(f"REDIS_{name.upper()}" for name in theirs)]
    of_policies = set(attrs.fields_dict(Policy)) - {"ttl"}  # of which there is a variable, DEFAULT_TTL
    instead = {name.upper(): f"pass policy=Policy({name}=...)" for name in of_policies}
    instead |= {name.upper(): f"pass {name}=" for name in _NO_TEXTS - {"address_map"}}
    instead |= {"REDIS_ADDRESS_MAP": "pass redis=RedisConfig(address_map=...)"}
    refuse_unknown(environ, known, instead)


def _unknown_options(unknown: Sequence[str], names: Sequence[str]) -> ConfigurationError:
    from sansio_cache.variables import nearest

    near = [each for name in unknown for each in nearest(name, names)]
    hint = f" (is {', '.join(near)} meant?)" if near else ""
    return ConfigurationError(
        f"unknown option {', '.join(unknown)}{hint}; the options are {', '.join(names)}"
    )


def _unknown_defaults(unknown: Sequence[str], names: Sequence[str]) -> ConfigurationError:
    """The error for what no field of a cache's configuration is; one of the server's has its place there."""
    theirs = [name for name in unknown if name in attrs.fields_dict(RedisConfig)]
    if theirs:
        given = ", ".join(f"{name}=..." for name in theirs)
        return ConfigurationError(
            f"from_env takes fields of CacheConfig, and {', '.join(theirs)} is one of RedisConfig: pass "
            f"redis=RedisConfig({given})"
        )
    return _unknown_options(unknown, names)


def _from_variables(cls: type, prefix: str, environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    hints = get_type_hints(cls)
    for name in attrs.fields_dict(cls):
        variable = f"{prefix}{name.upper()}"
        text = environ.get(variable, "").strip()
        if text and name not in _NO_TEXTS:
            try:
                values[name] = _parse(hints[name], text)
                # Validate alone, so that the error can name the variable.
                _check_field(cls, name, values[name])
            except ValueError as error:
                # No other message is passed on: it may quote the value, and that may be a password.
                says_it = name in ("url", "signing_keys")
                what = str(error) if says_it else f"{name} {_WANTED[hints[name]]}"
                raise ConfigurationError(f"{variable}: {what}") from None
    return values


def _parse(hint: Any, text: str) -> Any:
    if hint is bool:
        if text.lower() not in _TRUE | _FALSE:
            raise ValueError("is true or false")
        return text.lower() in _TRUE
    if hint in (int, int | None):
        return int(text)
    if hint == SigningKeys:
        return [key.strip() for key in text.split(",") if key.strip()]
    if hint is str or get_origin(hint) is Literal:
        return text
    return float(text)


def _check_field(cls: type, name: str, value: Any) -> None:
    if name == "namespace":
        KeyBuilder(value)
    elif name == "default_ttl":
        ttl_seconds(value)
    elif name == "signing_keys":
        own_secrets(value)
    attribute = attrs.fields_dict(cls)[name]
    if attribute.validator is not None:
        attribute.validator(None, attribute, value)
