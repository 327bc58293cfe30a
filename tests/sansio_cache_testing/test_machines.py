"""The state machine for caches of users: it passes on ours, and catches a cache that is wrong."""

import subprocess
import sys

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from sansio_cache import Key, Policy
from sansio_cache_testing.caches import WorldCache
from sansio_cache_testing.machines import CacheMachine
from sansio_cache_testing.strategies import keys, policies, ttls

FEW = settings(
    max_examples=30,
    stateful_step_count=20,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


class OursMachine(CacheMachine):
    def make_cache(self):
        return self.world.cache(default_ttl=600)


class Forgetful(WorldCache):
    def invalidate(self, *keys, **options):
        return super().invalidate(*keys[1:], "something else", **options)


class ForgetfulMachine(CacheMachine):
    def make_cache(self):
        cache = self.world.cache()
        cache.__class__ = Forgetful
        return cache


def test_a_cache_of_ours_agrees_with_the_model():
    run_state_machine_as_test(OursMachine, settings=FEW)


class WithRulesMachine(OursMachine):
    @rule()
    def read_the_home_page(self):
        assert self.cache.get_or_load("home", lambda: "hi", ttl=60) == "hi"

    @rule()
    def count_a_visit(self):
        self.cache.add("visits", 0)
        self.cache.incr("visits")


def test_rules_of_ones_own_may_read_what_the_model_does_not_know():
    run_state_machine_as_test(WithRulesMachine, settings=FEW)


def test_a_cache_that_forgets_to_invalidate_is_caught():
    with pytest.raises(AssertionError):
        run_state_machine_as_test(ForgetfulMachine, settings=settings(FEW, max_examples=300))


@given(keys("shop"), ttls(), policies())
@settings(max_examples=50)
def test_strategies_give_what_a_cache_takes(key, ttl, policy):
    world = OursMachine().world
    cache = world.cache("shop")
    assert cache.set(key, 1, ttl=ttl)
    assert cache.get_or_load(key, int, policy=policy) == 1
    cache.close()


@given(st.from_type(Key), st.from_type(Policy))
@settings(max_examples=20)
def test_types_of_ours_are_known_to_from_type(key, policy):
    assert isinstance(key, Key)
    assert isinstance(policy, Policy)


def test_hypothesis_imports_little_of_ours_and_the_kit_gives_all_its_names():
    code = """
import sys, hypothesis
heavy = {"sansio_cache_testing.world", "sansio_cache_redis", "sansio_cache_runtime", "redis", "anyio"}
assert "sansio_cache_testing.registration" in sys.modules
assert not heavy & set(sys.modules), heavy & set(sys.modules)
import sansio_cache_testing
assert all(getattr(sansio_cache_testing, name) for name in sansio_cache_testing.__all__)
assert set(sansio_cache_testing.__all__) == set(dir(sansio_cache_testing))
try:
    sansio_cache_testing.nothing
except AttributeError:
    print("done")
"""
    ran = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert (ran.stdout.strip(), ran.stderr) == ("done", "")
