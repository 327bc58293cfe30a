"""Configuration: what is refused, options, the environment, and that no secret is ever shown."""

from __future__ import annotations

import copy
import functools
import math
import os
import pickle
import typing
from typing import Annotated, Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sansio_cache import (
    CacheConfig,
    CacheError,
    CacheOptions,
    ConfigurationError,
    InvalidKeyError,
    Policy,
    RedisConfig,
)
from sansio_cache.codecs import PYTHON, RAW, JsonCodec, RawCodec
from sansio_cache.config import redact_url
from sansio_cache.errors import InvalidTtlError

SECRET = "hunter2"
URL = f"rediss://admin:{SECRET}@cache.example:6380/2?ssl_cert_reqs=none"


def test_the_defaults_are_those_of_the_docs():
    config = CacheConfig(namespace="shop")
    assert config.enabled
    assert config.redis.url == "redis://localhost:6379/0"
    assert config.redis.operation_timeout_s == 0.25
    assert config.redis.silence_s == 0.1
    assert config.redis.connect_timeout_s == 30
    assert config.max_value_bytes == 8 * 2**20
    assert config.keys.namespace == "shop"
    assert config.effective_policy == Policy()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"enabled": 1}, "enabled is True or False; got 1"),
        ({"max_value_bytes": 0}, "max_value_bytes is a whole number from 1; got 0"),
        ({"chunk_keys": 1.5}, "chunk_keys is a whole number from 1; got 1.5"),
        (
            {"memory_max_entries": True},
            "memory_max_entries is None, for no limit, or a whole number from 1; got True",
        ),
        ({"memory_max_bytes": None}, "memory_max_bytes is a whole number from 1; got None"),
        ({"policy": {"ttl": 5}}, "policy is a Policy; got dict"),
        ({"redis": URL}, "redis is a RedisConfig; got str"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_sentence(options, message):
    with pytest.raises(ConfigurationError) as caught:
        CacheConfig(namespace="shop", **options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"enabled": "no"}, "enabled is True or False; got 'no'"),
        ({"url": ""}, "url is a text that is not empty; got str"),
        ({"url": 6379}, "url is a text that is not empty; got int"),
        ({"connect_timeout_s": 0}, "connect_timeout_s is a number above 0; got 0"),
        ({"operation_timeout_s": math.inf}, "operation_timeout_s is a number above 0; got inf"),
        ({"attempt_timeout_s": "1"}, "attempt_timeout_s is a number above 0; got '1'"),
        ({"attempt_timeout_s": True}, "attempt_timeout_s is a number above 0; got True"),
        ({"after_failover_s": -1}, "after_failover_s is seconds from 0 to 3600; got -1"),
        ({"clock_skew_s": "1"}, "clock_skew_s is seconds from 0 to 3600; got '1'"),
        ({"max_connections": 0}, "max_connections is a whole number from 1; got 0"),
        (
            {"address_map": 5},
            "address_map is a function of a host and a port that gives a host and a port, or None; got 5",
        ),
        (
            {"attempt_timeout_s": 0.3},
            (
                "attempt_timeout_s (0.3) is longer than operation_timeout_s (0.25): "
                "an operation is one attempt or more"
            ),
        ),
    ],
)
def test_what_makes_no_sense_about_the_server_is_refused_with_a_sentence(options, message):
    with pytest.raises(ConfigurationError) as caught:
        RedisConfig(**options)
    assert str(caught.value) == message


def test_the_namespace_is_checked_when_the_configuration_is_made():
    with pytest.raises(InvalidKeyError):
        CacheConfig(namespace="a b")


def test_a_default_time_to_live_is_checked_and_takes_the_policys_place():
    with pytest.raises(InvalidTtlError):
        CacheConfig(namespace="shop", default_ttl=0)
    config = CacheConfig(namespace="shop", default_ttl=60, policy=Policy(stale_for_s=5))
    assert config.effective_policy == Policy(ttl=60, stale_for_s=5)


def test_flat_options_go_to_the_cache_or_to_the_server():
    config = CacheConfig.from_options(namespace="shop", url="memory://", chunk_keys=7, attempt_timeout_s=0.05)
    assert config == CacheConfig(
        namespace="shop", chunk_keys=7, redis=RedisConfig(url="memory://", attempt_timeout_s=0.05)
    )


def test_options_without_a_url_keep_the_default():
    assert CacheConfig.from_options(namespace="shop", enabled=False).redis == RedisConfig()


def test_an_unknown_option_is_named_with_those_there_are():
    with pytest.raises(ConfigurationError, match=r"^unknown option socket_timeout, ttl.*; the options are "):
        CacheConfig.from_options(namespace="shop", ttl=60, socket_timeout=1)
    with pytest.raises(ConfigurationError, match="max_connections"):
        CacheConfig.from_options(namespace="shop", redis=None)


@attrs.define
class User:
    name: str


def from_older(older):
    return {"name": older}


async def too_late(older):
    return older


class TestMigrations:
    def test_there_are_none_unless_they_are_given(self):
        config = CacheConfig(namespace="shop")
        assert dict(config.migrations) == {}
        assert config.migration_for(User) is None

    def test_the_hook_of_a_type_is_found_by_what_calls_give_as_their_type(self):
        hooks = {User: from_older, list[User]: list, None: str, User | None: from_older}
        config = CacheConfig(namespace="shop", migrations=hooks)
        assert [config.migration_for(type_) for type_ in hooks] == list(hooks.values())
        assert config.migration_for(None | User) is from_older
        assert dict(config.migrations) == {User: from_older, list[User]: list, None: str}
        assert config.migration_for(Any) is None
        assert config.migration_for(dict[str, User]) is None
        assert config.migration_for(Annotated[int, []]) is None, "a type that cannot be hashed"

    @pytest.mark.parametrize("field", ["migrations", "codecs"])
    def test_two_for_one_type_are_refused(self, field):
        one, other = (str, list) if field == "migrations" else (RAW, PYTHON)
        with pytest.raises(ConfigurationError, match=rf"two keys of {field} are the type .*User"):
            CacheConfig(namespace="shop", **{field: {User: one, User | None: other}})

    def test_they_are_an_option_like_any_other(self):
        config = CacheConfig.from_options(namespace="shop", migrations={User: from_older})
        assert config == CacheConfig(namespace="shop", migrations={User: from_older})
        assert config != CacheConfig(namespace="shop")
        assert hash(config) == hash(attrs.evolve(config))
        assert CacheConfig.from_env({}, namespace="shop", migrations={User: from_older}) == config

    def test_they_cannot_be_changed_afterwards_neither_here_nor_there(self):
        given = {User: from_older}
        config = CacheConfig(namespace="shop", migrations=given)
        given[User] = given[int] = str
        assert dict(config.migrations) == {User: from_older}
        with pytest.raises(TypeError):
            config.migrations[int] = str

    def test_a_configuration_with_them_can_be_copied_and_sent_to_another_process(self):
        config = CacheConfig(namespace="shop", migrations={User: from_older}, chunk_keys=3)
        assert copy.deepcopy(config) == copy.copy(config) == config
        assert pickle.loads(pickle.dumps(CacheConfig(namespace="shop"))) == CacheConfig(namespace="shop")

    @pytest.mark.parametrize(
        ("migrations", "message"),
        [
            ([(User, from_older)], "migrations is a mapping of types to functions; got list"),
            (None, "migrations is a mapping of types to functions; got NoneType"),
            (
                {User: {"name": SECRET}},
                "migrations[User] is a function that takes the older value; got dict",
            ),
            (
                {int: str, None: None},
                "migrations[None] is a function that takes the older value; got NoneType",
            ),
            (
                {User: too_late},
                "migrations[User] is a coroutine function: values are read without waiting",
            ),
            (
                {User: functools.partial(too_late, older=SECRET)},
                "migrations[User] is a coroutine function: values are read without waiting",
            ),
        ],
    )
    def test_what_makes_no_sense_is_refused_with_a_sentence(self, migrations, message):
        with pytest.raises(ConfigurationError) as caught:
            CacheConfig(namespace="shop", migrations=migrations)
        assert str(caught.value) == message

    def test_no_hook_is_shown(self):
        config = CacheConfig(namespace="shop", migrations={User: functools.partial(str.join, SECRET)})
        assert SECRET not in repr(config)
        with pytest.raises(ConfigurationError) as caught:
            attrs.evolve(config, chunk_keys=0)
        assert SECRET not in str(caught.value)


VARIABLES = {
    "SANSIO_CACHE_NAMESPACE": "shop",
    "SANSIO_CACHE_ENABLED": "off",
    "SANSIO_CACHE_DEFAULT_TTL": "90.5",
    "SANSIO_CACHE_MAX_VALUE_BYTES": "1",
    "SANSIO_CACHE_MAX_KEY_BYTES": "200",
    "SANSIO_CACHE_CHUNK_KEYS": "3",
    "SANSIO_CACHE_MAX_BATCH_KEYS": "8",
    "SANSIO_CACHE_MEMORY_MAX_ENTRIES": "4",
    "SANSIO_CACHE_MEMORY_MAX_BYTES": "5",
    "SANSIO_CACHE_ON_UNSTORABLE": "raise",
    "SANSIO_CACHE_SIGNING_KEYS": "the new key of the shop, the old key of the shop",
    "SANSIO_CACHE_REDIS_ENABLED": "No",
    "SANSIO_CACHE_REDIS_URL": URL,
    "SANSIO_CACHE_REDIS_CONNECT_TIMEOUT_S": "6",
    "SANSIO_CACHE_REDIS_OPERATION_TIMEOUT_S": "0.7",
    "SANSIO_CACHE_REDIS_ATTEMPT_TIMEOUT_S": "0.6",
    "SANSIO_CACHE_REDIS_MAX_CONNECTIONS": "9",
    "SANSIO_CACHE_REDIS_AFTER_FAILOVER_S": "0.5",
    "SANSIO_CACHE_REDIS_CLOCK_SKEW_S": "0",
}


class TestFromEnv:
    def test_every_field_but_the_policy_migrations_and_codecs_has_its_variable(self):
        assert CacheConfig.from_env(VARIABLES) == CacheConfig(
            namespace="shop",
            enabled=False,
            default_ttl=90.5,
            max_value_bytes=1,
            max_key_bytes=200,
            chunk_keys=3,
            max_batch_keys=8,
            memory_max_entries=4,
            memory_max_bytes=5,
            on_unstorable="raise",
            signing_keys=[b"the new key of the shop", "the old key of the shop"],
            redis=RedisConfig(
                enabled=False,
                url=URL,
                connect_timeout_s=6,
                operation_timeout_s=0.7,
                attempt_timeout_s=0.6,
                max_connections=9,
                after_failover_s=0.5,
                clock_skew_s=0,
            ),
        )
        fields = {f"SANSIO_CACHE_{name.upper()}" for name in attrs.fields_dict(CacheConfig)}
        fields |= {f"SANSIO_CACHE_REDIS_{name.upper()}" for name in attrs.fields_dict(RedisConfig)}
        fields -= {"SANSIO_CACHE_REDIS_ADDRESS_MAP"}
        assert set(VARIABLES) == fields - {
            "SANSIO_CACHE_CODECS",
            "SANSIO_CACHE_MIGRATIONS",
            "SANSIO_CACHE_POLICY",
            "SANSIO_CACHE_REDIS",
        }

    @pytest.mark.parametrize(
        ("variable", "meant"),
        [
            ("SANSIO_CACHE_DEFAULT_TTL_S", "SANSIO_CACHE_DEFAULT_TTL"),
            ("SANSIO_CACHE_NAMESPCE", "SANSIO_CACHE_NAMESPACE"),
            (
                "SANSIO_CACHE_MAX_VALUE_BYTE",
                "SANSIO_CACHE_MAX_VALUE_BYTES or SANSIO_CACHE_MAX_KEY_BYTES",
            ),
            ("SANSIO_CACHE_REDIS_CONNECT_TIMEOUT", "SANSIO_CACHE_REDIS_CONNECT_TIMEOUT_S"),
            ("SANSIO_CACHE_REDIS_URI", "SANSIO_CACHE_REDIS_URL"),
        ],
    )
    def test_a_misspelt_variable_is_refused_with_what_is_meant(self, variable, meant):
        with pytest.raises(ConfigurationError) as raised:
            CacheConfig.from_env({variable: "secret"}, namespace="shop")
        assert str(raised.value) == f"{variable}: there is no such variable (is {meant} meant?)"

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("URL", " (is SANSIO_CACHE_REDIS_URL meant?)"),
            ("TTL", " (is SANSIO_CACHE_DEFAULT_TTL meant?)"),
            ("TTL_S", " (is SANSIO_CACHE_DEFAULT_TTL meant?)"),
            (
                "MAX_BYTES",
                (
                    " (is SANSIO_CACHE_MAX_VALUE_BYTES or SANSIO_CACHE_MAX_KEY_BYTES or "
                    "SANSIO_CACHE_MEMORY_MAX_BYTES meant?)"
                ),
            ),
            (
                "REDIS_TIMEOUT",
                (
                    " (is SANSIO_CACHE_REDIS_CONNECT_TIMEOUT_S or SANSIO_CACHE_REDIS_OPERATION_TIMEOUT_S or "
                    "SANSIO_CACHE_REDIS_ATTEMPT_TIMEOUT_S meant?)"
                ),
            ),
            ("REDIS_HOST", ": it is a part of SANSIO_CACHE_REDIS_URL"),
            ("REDIS_PASSWORD", ": it is a part of SANSIO_CACHE_REDIS_URL"),
            ("STALE_FOR_S", ": pass policy=Policy(stale_for_s=...)"),
            ("POLICY", ": pass policy="),
            ("REDIS_ADDRESS_MAP", ": pass redis=RedisConfig(address_map=...)"),
        ],
    )
    def test_a_variable_with_a_part_left_out_or_added_is_refused_with_what_to_do(self, name, said):
        with pytest.raises(ConfigurationError) as raised:
            CacheConfig.from_env({f"SANSIO_CACHE_{name}": SECRET}, namespace="shop")
        assert str(raised.value) == f"SANSIO_CACHE_{name}: there is no such variable{said}"

    def test_the_prefix_is_the_librarys_own(self):
        with pytest.raises(ConfigurationError, match=r"stands one of NAMESPACE, ENABLED, .*REDIS_URL"):
            CacheConfig.from_env({"SANSIO_CACHE_DIR": "/tmp"}, namespace="shop")
        other = {"SANSIO_CACHED": "1", "MY_SANSIO_CACHE_URL": "x", "SANSIO_CACHE_DIR": " "}
        assert CacheConfig.from_env(other, namespace="shop") == CacheConfig(namespace="shop")

    @pytest.mark.parametrize("service", ["SANSIO_CACHE", "SANSIO_CACHE_REDIS"])
    def test_what_kubernetes_says_of_a_service_of_that_name_is_no_mistake(self, service):
        variables = {
            f"{service}_SERVICE_HOST": "10.0.0.11",
            f"{service}_SERVICE_PORT": "6379",
            f"{service}_SERVICE_PORT_REDIS": "6379",
            f"{service}_PORT": "tcp://10.0.0.11:6379",
            f"{service}_PORT_6379_TCP_PROTO": "tcp",
        }
        assert CacheConfig.from_env(variables, namespace="shop") == CacheConfig(namespace="shop")
        with pytest.raises(ConfigurationError, match=r"REDIS_URL$"):
            CacheConfig.from_env({f"{service}_PORT": "6379"}, namespace="shop")
        with pytest.raises(ConfigurationError, match="SANSIO_CACHE_URL"):
            CacheConfig.from_env({**variables, "SANSIO_CACHE_URL": URL}, namespace="shop")

    def test_a_variable_cannot_give_functions(self):
        with pytest.raises(ConfigurationError, match=r"^SANSIO_CACHE_MIGRATIONS: .*: pass migrations=$"):
            CacheConfig.from_env({"SANSIO_CACHE_MIGRATIONS": "os:remove"}, namespace="shop")

    @pytest.mark.parametrize(
        ("default", "said"),
        [
            ("defualt_ttl", "unknown option defualt_ttl (is default_ttl meant?); the options are chunk_keys"),
            ("ttl", "unknown option ttl (is default_ttl meant?); "),
            ("zzz", "unknown option zzz; "),
            (
                "max_connections",
                (
                    "from_env takes fields of CacheConfig, and max_connections is one of RedisConfig: pass "
                    "redis=RedisConfig(max_connections=...)"
                ),
            ),
        ],
    )
    def test_a_default_that_is_no_field_is_refused_with_the_nearest(self, default, said):
        with pytest.raises(ConfigurationError) as raised:
            CacheConfig.from_env({}, namespace="shop", **{default: 1})
        assert str(raised.value).startswith(said)

    def test_a_variable_that_is_empty_counts_as_not_set(self):
        blank = dict.fromkeys(VARIABLES, " ") | {"SANSIO_CACHE_NAMESPACE": "shop"}
        assert CacheConfig.from_env(blank) == CacheConfig(namespace="shop")

    def test_defaults_give_way_to_variables_field_by_field(self):
        redis = RedisConfig(url="redis://elsewhere", max_connections=2)
        config = CacheConfig.from_env(
            {"SANSIO_CACHE_REDIS_MAX_CONNECTIONS": "3"}, namespace="shop", redis=redis, chunk_keys=5
        )
        assert config.redis == RedisConfig(url="redis://elsewhere", max_connections=3)
        assert config.chunk_keys == 5
        assert CacheConfig.from_env({}, namespace="shop", redis=redis).redis == redis

    def test_it_reads_the_environment_of_the_process_unless_given_another(self, monkeypatch):
        for name in list(os.environ):
            if name.startswith("SANSIO_CACHE_"):
                monkeypatch.delenv(name)
        monkeypatch.setenv("SANSIO_CACHE_NAMESPACE", "fromenv")
        assert CacheConfig.from_env() == CacheConfig(namespace="fromenv")

    def test_without_a_namespace_it_says_which_variable_to_set(self):
        with pytest.raises(ConfigurationError, match=r"^set SANSIO_CACHE_NAMESPACE, or pass namespace=$"):
            CacheConfig.from_env({})

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("NAMESPACE", "a b"),
            ("ENABLED", "maybe"),
            ("DEFAULT_TTL", "soon"),
            ("DEFAULT_TTL", "0"),
            ("DEFAULT_TTL", "nan"),
            ("MAX_VALUE_BYTES", "8M"),
            ("MAX_KEY_BYTES", "0"),
            ("CHUNK_KEYS", "1.5"),
            ("MEMORY_MAX_ENTRIES", "-1"),
            ("MEMORY_MAX_BYTES", "x"),
            ("ON_UNSTORABLE", "warn"),
            ("REDIS_ENABLED", "2"),
            ("REDIS_CONNECT_TIMEOUT_S", "inf"),
            ("REDIS_OPERATION_TIMEOUT_S", "-0.1"),
            ("REDIS_ATTEMPT_TIMEOUT_S", "fast"),
            ("REDIS_MAX_CONNECTIONS", "0"),
        ],
    )
    def test_a_bad_value_names_its_variable(self, name, text):
        variables = {"SANSIO_CACHE_NAMESPACE": "shop", f"SANSIO_CACHE_{name}": text}
        with pytest.raises(ConfigurationError, match=f"^SANSIO_CACHE_{name}: "):
            CacheConfig.from_env(variables)

    @pytest.mark.parametrize("text", ["1", "true", "YES", "on"])
    def test_on_is_said_in_four_ways(self, text):
        assert CacheConfig.from_env({"SANSIO_CACHE_ENABLED": text}, namespace="shop", enabled=False).enabled


class TestSecrets:
    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            (URL, "rediss://***@cache.example:6380/2"),
            ("redis://localhost:6379/0", "redis://localhost:6379/0"),
            (f"redis://:{SECRET}@host", "redis://***@host"),
            (f"redis://:p@{SECRET}@host", "redis://***@host"),
            (f"redis://:p/{SECRET}@host", "redis://***@host"),
            (f"redis://:p#{SECRET}@host", "redis://***@host"),
            (f"redis://:{SECRET}?more@host", "redis://***"),
            (f"redis://host/0?password={SECRET}", "redis://host/0"),
            (f"redis://host/0?password=p@{SECRET}", "redis://***"),
            (f"unix://:{SECRET}@/run/redis.sock?db=1", "unix://***@/run/redis.sock"),
            (f"host:6379:{SECRET}", "***"),
            ("memory://", "memory://"),
        ],
    )
    def test_a_url_is_shown_without_what_may_be_secret(self, url, shown):
        assert redact_url(url) == shown

    @settings(deadline=None)
    @given(st.text(alphabet="@:/?#=&a", max_size=6), st.text(alphabet="@:/?#=&a", max_size=6))
    def test_no_placing_of_separators_shows_a_password(self, before, after):
        assert SECRET not in redact_url(f"redis://user:{before}{SECRET}{after}@host:6379/0?db=1")
        assert SECRET not in redact_url(f"redis://host/0?password={before}{SECRET}{after}")

    def test_no_repr_shows_one(self):
        config = CacheConfig(namespace="shop", redis=RedisConfig(url=URL))
        assert SECRET not in repr(config)
        assert SECRET not in repr(config.redis)
        assert "cache.example" in repr(config)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: CacheConfig(namespace="shop", redis=URL),
            lambda: CacheConfig(namespace="shop", policy=URL),
            lambda: RedisConfig(url=[URL]),
            lambda: RedisConfig(url=URL, attempt_timeout_s=9),
            lambda: CacheConfig.from_options(namespace="shop", url=URL, chunk_keys=0),
            lambda: CacheConfig.from_options(namespace="shop", url=URL, password=SECRET),
            lambda: CacheConfig.from_env({"SANSIO_CACHE_REDIS_URL": URL}),
            lambda: CacheConfig.from_env({"SANSIO_CACHE_REDIS_URL": URL}, namespace="shop", chunk_keys=0),
        ],
    )
    def test_no_message_shows_one(self, make):
        with pytest.raises(CacheError) as caught:
            make()
        assert SECRET not in str(caught.value)
        assert SECRET not in repr(caught.value.args)


class TestCodecs:
    def test_there_are_none_unless_they_are_given(self):
        config = CacheConfig(namespace="shop")
        assert dict(config.codecs) == {}
        assert config.codec_of(bytes) is None

    def test_the_codec_of_a_type_is_found_by_what_calls_give_as_their_type(self):
        config = CacheConfig(namespace="shop", codecs={bytes: RAW, None: PYTHON})
        assert config.codec_of(bytes) is RAW
        assert config.codec_of(None) is PYTHON
        assert config.codec_of(str) is None
        assert config.codec_of(Annotated[int, []]) is None, "a type that cannot be hashed"

    def test_they_are_an_option_like_any_other(self):
        config = CacheConfig.from_options(namespace="shop", codecs={bytes: RAW})
        assert config == CacheConfig(namespace="shop", codecs={bytes: RAW})
        assert config != CacheConfig(namespace="shop")
        assert CacheConfig.from_env({}, namespace="shop", codecs={bytes: RAW}) == config
        assert copy.deepcopy(CacheConfig(namespace="shop", codecs={int: JsonCodec(int)})).codec_of(int)

    def test_they_cannot_be_changed_afterwards(self):
        with pytest.raises(TypeError):
            CacheConfig(namespace="shop", codecs={bytes: RAW}).codecs[int] = RAW

    @pytest.mark.parametrize(
        ("codecs", "message"),
        [
            ([RAW], "codecs is a mapping of types to codecs; got list"),
            ({bytes: "raw"}, "codecs[bytes] is a codec, with fingerprint, encode and decode; got str"),
            (
                {bytes: RawCodec},
                "codecs[bytes] is a codec, with fingerprint, encode and decode; got RawCodec",
            ),
        ],
    )
    def test_what_is_no_codec_is_refused_by_the_name_of_its_type(self, codecs, message):
        with pytest.raises(ConfigurationError) as raised:
            CacheConfig(namespace="shop", codecs=codecs)
        assert str(raised.value) == message


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("default_tll", "default_ttl"),
        ("max_connection", "max_connections"),
        ("ttl", "default_ttl"),
        ("zzz", None),
    ],
)
def test_of_an_unknown_option_the_nearest_name_is_said(given, meant):
    with pytest.raises(ConfigurationError, match=rf"^unknown option {given}") as raised:
        CacheConfig.from_options(namespace="shop", **{given: 1})
    said = str(raised.value).partition(";")[0]
    assert said == f"unknown option {given}" + (f" (is {meant} meant?)" if meant else "")


def test_the_options_are_the_fields_with_their_types():
    declared = typing.get_type_hints(CacheOptions)
    fields = typing.get_type_hints(RedisConfig) | typing.get_type_hints(CacheConfig)
    names = {*attrs.fields_dict(CacheConfig), *attrs.fields_dict(RedisConfig)} - {"namespace", "redis", "url"}
    assert declared == {name: fields[name] for name in names}
