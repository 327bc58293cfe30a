"""Goes beside Django's own tests of caches, as `cache/sansio_tests.py`."""

from cache import tests as django_tests
from cache.tests import BaseCacheTests, caches_setting_for_tests
from django.test import TestCase, override_settings

from frameworks.suites import place

BACKEND = "frameworks.django_cache.SansioCache"
EXCLUDED = {"cull", "zero_cull"}  # Django leaves these out for Redis: the server evicts
SETTINGS = caches_setting_for_tests(
    exclude=EXCLUDED, BACKEND=BACKEND, LOCATION=place(), OPTIONS={"namespace": "django"}
)


@override_settings(CACHES=SETTINGS)
class SansioCacheTests(BaseCacheTests, TestCase):
    incr_decr_type_error = TypeError


def on_top(tests):
    """What stands on a cache, tested on the backend: the same tests, with other settings."""
    own = {
        name: {**each, "BACKEND": BACKEND, "LOCATION": place(), "OPTIONS": {"namespace": f"django-{name}"}}
        for name, each in tests._overridden_settings["CACHES"].items()
    }
    made = type(f"Sansio{tests.__name__}", (tests,), {"tearDown": lambda self: _clear_all()})
    return override_settings(CACHES=own)(made)


def _clear_all():
    from django.core.cache import caches

    for cache in caches.all():
        cache.clear()


for each in ("CacheUtils", "PrefixedCacheUtils", "CacheHEADTest", "CacheI18nTest", "PrefixedCacheI18nTest"):
    globals()[f"Sansio{each}"] = on_top(getattr(django_tests, each))
for each in ("CacheMiddlewareTest", "TestWithTemplateResponse"):
    globals()[f"Sansio{each}"] = on_top(getattr(django_tests, each))
