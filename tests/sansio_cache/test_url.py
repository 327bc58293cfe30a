"""URLs of stores: understood or refused, by sentences that show no password."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sansio_cache import CacheConfig, ConfigurationError, RedisConfig
from sansio_cache.url import address_of, host_and_port, read_url

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "scheme", "place", "database"),
    [
        ("redis://h", "redis", "h:6379", 0),
        ("redis://h/", "redis", "h:6379", 0),
        ("redis://h:7000", "redis", "h:7000", 0),
        ("redis://h:/3", "redis", "h:6379", 3),
        ("redis://h/3", "redis", "h:6379", 3),
        ("redis://h/3/", "redis", "h:6379", 3),
        ("redis://h/03", "redis", "h:6379", 3),
        ("redis://h?db=3", "redis", "h:6379", 3),
        ("redis://h/?db=3", "redis", "h:6379", 3),
        ("redis://h/3?db=3", "redis", "h:6379", 3),
        ("redis://h/3?client_name=x&", "redis", "h:6379", 3),
        ("REDIS://h/3", "redis", "h:6379", 3),
        ("Rediss://h", "rediss", "h:6379", 0),
        ("rediss://h?ssl_cert_reqs=none", "rediss", "h:6379", 0),
        ("redis://my_redis-1.example.org:1", "redis", "my_redis-1.example.org:1", 0),
        ("redis://127.0.0.1:65535", "redis", "127.0.0.1:65535", 0),
        ("redis://[::1]", "redis", "[::1]:6379", 0),
        ("redis://[fe80::1%eth0]:7000/2", "redis", "[fe80::1%eth0]:7000", 2),
        ("redis://user@h", "redis", "h:6379", 0),
        ("redis://us%40er:p%2F%23%3F@h:1/2", "redis", "h:1", 2),
        ("redis://:p+=&!$,;'()*~@h", "redis", "h:6379", 0),
        ("unix:///run/redis.sock", "unix", "/run/redis.sock", 0),
        ("unix:///run/a@b.sock?db=2", "unix", "/run/a@b.sock", 2),
        ("UNIX://user:pw@/run/redis.sock?db=2", "unix", "/run/redis.sock", 2),
        ("memory://", "memory", "memory", 0),
        ("memory://name", "memory", "memory", 0),
        ("MEMORY://name/", "memory", "memory", 0),
        ("redis+sentinel://h/mymaster", "redis", "mymaster (h:26379)", 0),
        ("redis+sentinel://h/my.master-1/", "redis", "my.master-1 (h:26379)", 0),
        ("redis+sentinel://:pw@a:1,b,[::1]:2,a:1/m_1/3", "redis", "m_1 (a:1, b:26379, [::1]:2)", 3),
        ("rediss+sentinel://h/m?ssl_cert_reqs=none&db=2", "rediss", "m (h:26379)", 2),
        ("REDIS+Sentinel://h/m?sentinel_tls=yes&sentinel_ssl_cert_reqs=none", "redis", "m (h:26379)", 0),
    ],
)
def test_what_a_url_says_is_understood(url, scheme, place, database):
    read = read_url(url)
    assert (read.scheme, read.place, read.database) == (scheme, place, database)
    assert RedisConfig(url=url).place == place


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "must begin with redis://, rediss://, unix:// or memory://"),
        ("h:6379", "must begin with"),
        ("http://h", "must begin with"),
        ("redis:/h", "must begin with"),
        (" redis://h", "a space or an invisible character"),
        ("redis://h ", "a space or an invisible character"),
        ("redis://h/0\n", "a space or an invisible character"),
        ("redis://my host", "a space or an invisible character"),
        ("redis://h\x00", "a space or an invisible character"),
        ("redis://", "it names no host"),
        ("redis:///0", "it names no host"),
        ("redis://:6379", "it names no host"),
        ("redis://:pw@/0", "it names no host"),
        ("redis://:pw@:6379/0", "it names no host"),
        ("redis://h:port", "the port is a number from 1 to 65535"),
        ("redis://user:pw", "the port is a number from 1 to 65535; .* `@` and the host are missing"),
        ("redis://h:0", "the port is a number from 1 to 65535"),
        ("redis://h:-1", "the port is a number"),
        ("redis://h:65536", "the port is a number"),
        ("redis://h:٣", "the port is a number"),
        ("redis://h:" + "9" * 5000, "the port is a number"),
        ("redis://::1:6379", "an IPv6 address in brackets"),
        ("redis://[::1", "an IPv6 address in brackets"),
        ("redis://[::1]6379", "an IPv6 address in brackets"),
        ("redis://${HOST}:6379", "what stands for the host can be none"),
        ("redis://<host>", "what stands for the host can be none"),
        ("redis://a,b:6379", "what stands for the host can be none"),
        ("redis://redis://h", "number of a database"),
        ("redis://h/cache", "the path is the number of a database"),
        ("redis://h/db", "the path is the number of a database"),
        ("redis://h/0/shop", "the path is the number of a database"),
        ("redis://h/1/2", "the path is the number of a database"),
        ("redis://h//", "the path is the number of a database"),
        ("redis://h/-1", "the path is the number of a database"),
        ("redis://h/%33", "the path is the number of a database"),
        ("redis://h/٣", "the path is the number of a database"),
        ("redis://h/" + "9" * 5000, "the path is the number of a database"),
        ("redis://h/3?db=4", "name two databases"),
        ("redis://h?db=cache", "the option 'db' is the number of a database"),
        ("redis://h?db=-1", "the option 'db' is the number of a database"),
        ("redis://h?db=1&db=1", "the option 'db' is given twice"),
        ("redis://h?db=", "the option 'db' has no value"),
        ("redis://h?db", "the option 'db' has no value"),
        ("redis://h?=1", "an option has no value, or no name"),
        ("redis://h?%64b=3", "an option has no value, or no name"),
        ("redis://h?host=other", "the option 'host' stands before the `\\?`"),
        ("redis://h?port=1", "the option 'port' stands before"),
        ("unix:///s?path=/t", "the option 'path' stands before"),
        ("redis://:pw@h?password=pw", "the option 'password' stands before the host as well"),
        ("redis://h?ssl_cert_reqs=none", "the option 'ssl_cert_reqs' is for TLS: begin with rediss://"),
        ("redis://h#0", "a raw `#`: .*%23"),
        ("redis://:p#w@h", "a raw `#`: .*%23"),
        ("redis://:p/w@h", "a raw `/` before an `@`: .*%2F"),
        ("redis://:p?w@h", "an `@` behind a `\\?`: .*%3F"),
        ("redis://:p@w@h", "write `@` as %40"),
        ("redis://:p[w@h", r"`\[` as %5B"),
        ("unix://", "the whole path of a socket, as in unix:///run/redis.sock"),
        ("unix:///", "the whole path of a socket"),
        ("unix://run/redis.sock", "the whole path of a socket"),
        ("unix://user:p/w@/run/redis.sock", "write `@` as %40, `/` as %2F"),
        ("unix:///s?db=x", "the option 'db' is the number of a database"),
        ("unix:///s#1", "a raw `#`"),
        ("redis+sentinel://h", "the name that sentinels have for the server, as in redis.sentinel://host-1"),
        ("redis+sentinel://h/", "the name that sentinels have for the server"),
        ("redis+sentinel://h/0", "the name that sentinels have for the server"),
        ("redis+sentinel://h/my master", "a space or an invisible character"),
        ("redis+sentinel://h/my%20master", "the name that sentinels have for the server"),
        ("redis+sentinel://h/m/x", "the path is the number of a database"),
        ("redis+sentinel://h/m/1/2", "the path is the number of a database"),
        ("redis+sentinel://a,,b/m", "it names no host"),
        ("redis+sentinel:///m", "it names no host"),
        ("redis+sentinel://a,b:x/m", "the port is a number"),
        ("redis+sentinel://h/m?ssl_cert_reqs=none", "'ssl_cert_reqs' is for TLS"),
        ("redis+sentinel://h/m?sentinel_db=1", "the option 'sentinel_db' is none: those for sentinels are"),
        ("redis+sentinel://h/m?sentinel_tls=true", "the option 'sentinel_tls' is yes or no"),
        ("memory:///a", "a name follows two, as in memory://sessions"),
        ("memory:////a/", "a name follows two, as in memory://sessions"),
        ("memory://a/b", "it takes a name and nothing else"),
        ("memory://a//", "it takes a name and nothing else"),
        ("memory://a?db=1", "it takes a name and nothing else"),
        ("memory://user:pw@a", "it takes a name and nothing else"),
    ],
)
def test_what_a_url_cannot_say_is_refused_with_what_to_write(url, why):
    with pytest.raises(ConfigurationError, match=why):
        read_url(url)
    if url:
        with pytest.raises(ConfigurationError, match=why):
            RedisConfig(url=url)


@pytest.mark.parametrize("url", [None, 6379, b"redis://h"])
def test_a_url_is_a_text(url):
    with pytest.raises(ConfigurationError, match=f"a URL is a text; got {type(url).__name__}"):
        read_url(url)


def test_what_redis_py_is_given_has_one_reading():
    assert read_url("REDIS://user:pw@h").text == "redis://user:pw@h:6379?db=0"
    assert read_url("redis://h/3/?client_name=a+b").text == "redis://h:6379?db=3&client_name=a%2Bb"
    assert read_url("unix://u:p@/s?db=1").text == "unix://u:p@/s?db=1"
    assert "pw" not in repr(read_url("redis://:pw@h"))
    read = read_url("redis+sentinel://:pw@a,b/m/1?sentinel_password=pw+2&client_name=c")
    assert read.text == "redis://:pw@a:26379?db=1&client_name=c"
    assert (read.service, read.seeds) == ("m", ("a:26379", "b:26379"))
    assert read.sentinel_options == (("password", "pw%2B2"),)
    assert "pw" not in repr(read)


@pytest.mark.parametrize(
    ("address", "host", "port"), [("h:1", "h", 1), ("[::1]:6379", "::1", 6379), ("10.0.0.1:2", "10.0.0.1", 2)]
)
def test_an_address_is_a_host_and_a_port(address, host, port):
    assert host_and_port(address) == (host, port)


pieces = st.text(alphabet="@:/?#[]=&%+ 0", max_size=5)


@given(
    st.sampled_from(
        ["redis://", "REDISS://", "redis+sentinel://", "unix://", "unix:///", "memory://", "http://", ""]
    ),
    pieces,
    pieces,
)
@example("redis://", ":", "/")
@example("redis://", "u:", "?")
@example("redis://", "u:", "")
@example("unix://", "u:", "/x@/s")
def test_no_refusal_shows_a_piece_of_a_password(start, before, after):
    """Wherever the separators are that it holds, and whether or not a host follows."""
    for rest in (
        f"u:{before}{SECRET}{after}@host:6379/0",
        f"{before}{SECRET}{after}",
        f"h/0?password={SECRET}",
    ):
        url = f"{start}{rest}"
        refused: ConfigurationError | None = None
        try:
            read = read_url(url)
        except ConfigurationError as error:
            refused = error
        if refused is None:
            # In the other two, what stands where a host stands is one.
            assert not rest.endswith("@host:6379/0") or read.place in {"host:6379", f"/{rest}"}, read.place
        else:
            assert SECRET not in str(refused).replace(f"the option '{SECRET}'", "")
            assert refused.__cause__ is refused.__context__ is None


def test_the_environment_is_never_quoted():
    """What stands in a variable may be a password that belongs to another."""
    for name in ("NAMESPACE", "ENABLED", "DEFAULT_TTL", "CHUNK_KEYS", "REDIS_MAX_CONNECTIONS", "REDIS_URL"):
        variables = {"SANSIO_CACHE_NAMESPACE": "shop", f"SANSIO_CACHE_{name}": f"http://u:{SECRET}@h"}
        with pytest.raises(ConfigurationError, match=f"^SANSIO_CACHE_{name}: ") as raised:
            CacheConfig.from_env(variables)
        assert SECRET not in str(raised.value)
        assert raised.value.__cause__ is None
    with pytest.raises(ConfigurationError) as raised:
        CacheConfig.from_env({"SANSIO_CACHE_REDIS_ATTEMPT_TIMEOUT_S": SECRET}, namespace="shop")
    assert SECRET not in str(raised.value)


def test_a_url_in_the_wrong_place_is_not_quoted():
    url = f"redis://:{SECRET}@h"
    for make in (
        lambda: CacheConfig(namespace=url),
        lambda: CacheConfig(namespace="n", enabled=url),
        lambda: CacheConfig(namespace="n", chunk_keys=url),
        lambda: RedisConfig(operation_timeout_s=url),
    ):
        with pytest.raises(ValueError, match="got str") as raised:
            make()
        assert SECRET not in str(raised.value)


CLUSTERS = [
    ("redis+cluster://h", "redis", ("h:6379",)),
    ("redis+cluster://a,b:7000,[::1]:7001", "redis", ("a:6379", "b:7000", "[::1]:7001")),
    ("redis+cluster://a,a:6379", "redis", ("a:6379",)),
    ("Redis+Cluster://user:p%40w@a,b/0?client_name=x", "redis", ("a:6379", "b:6379")),
    ("rediss+cluster://a,b?ssl_cert_reqs=none", "rediss", ("a:6379", "b:6379")),
    ("valkey+cluster://a,b", "redis", ("a:6379", "b:6379")),
    ("valkeys+cluster://a", "rediss", ("a:6379",)),
]


@pytest.mark.parametrize(("text", "scheme", "seeds"), CLUSTERS)
def test_the_url_of_a_cluster_names_some_of_its_nodes(text, scheme, seeds):
    url = read_url(text)
    assert (url.scheme, url.seeds, url.is_cluster, url.database) == (scheme, seeds, True, 0)
    assert url.place == ", ".join(seeds)
    assert url.text.startswith(f"{scheme}://")
    assert seeds[0] in url.text
    assert "p%40w" not in repr(url)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("redis+cluster://", "it names no host"),
        ("redis+cluster://a,,b", "it names no host"),
        ("redis+cluster://a,b:port", "the port is a number"),
        ("redis+cluster://a/1", "a cluster has database 0 only"),
        ("redis+cluster://a?db=2", "a cluster has database 0 only"),
        ("redis+cluster://a?ssl_cert_reqs=none", r"for TLS: begin with rediss\+cluster://"),
        ("redis+cluster://a/b", "the path is the number of a database"),
    ],
)
def test_the_url_of_a_cluster_that_says_what_cannot_be_is_refused(text, why):
    with pytest.raises(ConfigurationError, match=why):
        read_url(text)


@pytest.mark.parametrize(
    ("alias", "meant"), [("valkey://h:7000/3", "redis://h:7000/3"), ("valkeys://h", "rediss://h")]
)
def test_valkey_is_another_word_for_redis(alias, meant):
    assert read_url(alias) == read_url(meant)
    assert not read_url(alias).is_cluster


@pytest.mark.parametrize("host", ["a", "127.0.0.1", "::1", "fe80::1%eth0"])
def test_an_address_is_a_host_and_a_port_again(host):
    assert host_and_port(address_of(host, 7000)) == (host, 7000)
