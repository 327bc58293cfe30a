"""What decorated functions of both colours share: their plan, the cache they are bound to, their receiver.

A decorated function is an object that can be called, and is looked up on instances and classes as a
function is.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Generic, Self, TypeVar

from sansio_cache.errors import ConfigurationError
from sansio_cache.keys import Key, KeyBuilder
from sansio_cache.policy import Policy
from sansio_cache_runtime.call_plan import CallPlan, plan_calls
from sansio_cache_runtime.known import Known
from sansio_cache_runtime.request_builder import AnyTtl, RequestBuilder, listed

C = TypeVar("C")


class Bond(Generic[C]):
    """The cache that decorated functions use; it may come after they have been decorated.

    Args:
        requests_of: Gives a cache's request builder.
    """

    def __init__(self, requests_of: Callable[[C], RequestBuilder]) -> None:
        self._requests_of = requests_of
        self._plans: list[CallPlan] = []
        self.cache: C | None = None

    def bind(self, cache: C) -> None:
        """Bind all that has been decorated, and will be, to a cache; another takes the place of the first.

        Raises:
            ConfigurationError: A function cannot be cached with the cache's policy.
        """
        for plan in self._plans:
            self._check(plan, cache)
        self.cache = cache

    def plan(self, plan: CallPlan) -> CallPlan:
        """Take a function's plan in."""
        if self.cache is not None:
            self._check(plan, self.cache)
        self._plans.append(plan)
        return plan

    def bound(self, plan: CallPlan) -> tuple[C, Policy]:
        """The cache, and how a function's values are kept in it.

        Raises:
            ConfigurationError: There is no cache yet.
        """
        cache = self.cache
        if cache is None:
            raise ConfigurationError(
                f"{plan.name} has no cache yet: call bind(cache) when the program starts"
            )
        return cache, self._requests_of(cache).chosen_policy(plan.ttl, plan.policy)

    def _check(self, plan: CallPlan, cache: C) -> None:
        requests = self._requests_of(cache)
        plan.check_policy(requests.chosen_policy(plan.ttl, plan.policy))
        plan.check_type(requests.codec)
        requests.tag_names(plan.tags)


def refuse_other_caches(cache: object, cls: type) -> None:
    """Refuse what decorated functions of a colour cannot be bound to.

    Args:
        cache: What `bind` was given.
        cls: The caches of the colour.

    Raises:
        ConfigurationError: It is no such cache.
    """
    if not isinstance(cache, cls):
        got, colour = type(cache), cls.__module__.split(".")[1]
        raise ConfigurationError(
            f"bind() takes a Cache of sansio_cache_redis.{colour}, as these functions are for; got "
            f"{got.__module__}.{got.__qualname__}"
        )


class DecoratedFunction(Generic[C]):
    """A function whose calls are cached, and what it is bound to."""

    __wrapped__: Callable[..., Any]
    __qualname__: str
    refuse: Callable[[Any], object]
    """Refuses what is no loader for the caches of a colour."""

    def __init__(self, decorated: Any, plan: CallPlan, bond: Bond[C]) -> None:
        functools.update_wrapper(self, plan.function)  # type: ignore[arg-type]
        self._plan = plan
        self._bond = bond
        self._is_static = isinstance(decorated, staticmethod)
        self._is_of_class = isinstance(decorated, classmethod)
        self._receiver: tuple[Any, ...] = ()
        self._settings: tuple[C, Policy, Any, Known[Key]] | None = None

    def __repr__(self) -> str:
        return f"<cached {self._plan.name}>"

    def __reduce__(self) -> str:
        return self.__qualname__  # by its name, as functions are

    @property
    def __globals__(self) -> dict[str, Any]:
        """Where frameworks look up the names in annotations."""
        found: dict[str, Any] = getattr(self._plan.function, "__globals__", {})
        return found

    @property
    def __signature__(self) -> inspect.Signature:
        signature = self._plan.signature
        parameters = list(signature.parameters.values())[len(self._receiver) :]
        return signature.replace(parameters=parameters)

    def _of(self, instance: Any, owner: Any) -> Self:
        """The function as an instance or a class has it.

        Raises:
            ConfigurationError: A `classmethod` was put around it, which hides it from Python 3.13 on.
        """
        if instance is not None and instance is owner:  # as `classmethod` asks, up to Python 3.12
            raise ConfigurationError(f"put cached() above @classmethod, and not below it: {self._plan.name}")
        receiver = owner if self._is_of_class else instance
        if receiver is None or self._is_static:
            return self
        own = object.__new__(type(self))
        own.__dict__.update(self.__dict__)
        own._receiver = (receiver,)
        return own

    def _bound(self) -> tuple[C, Policy, Any, Known[Key]]:
        """What all calls share: the cache, the policy, the type, and the keys by plain arguments."""
        settings = self._settings
        if settings is None or settings[0] is not self._bond.cache:
            cache, policy = self._bond.bound(self._plan)
            keys: KeyBuilder = cache.key  # type: ignore[attr-defined]
            known = Known(lambda args: self._plan.key(keys, args, {}))
            settings = self._settings = (cache, policy, self._plan.type, known)
        return settings

    def _call(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[C, Policy, Any, Key, Callable[..., Any], tuple[Any, ...]]:
        """All of a call: the cache, the policy, the type, the key, the loader, and its arguments."""
        settings = self._settings
        if settings is None or settings[0] is not self._bond.cache:
            settings = self._bound()
        cache, policy, declared, known = settings
        if self._receiver:
            args = (*self._receiver, *args)
        is_plain = not kwargs
        for each in args:  # a generator takes a tenth of a hit
            if type(each) is not int and type(each) is not str:
                is_plain = False
        key = known[args] if is_plain else self._plan.key(cache.key, args, kwargs)  # type: ignore[attr-defined]
        function = self._plan.function
        load = functools.partial(function, **kwargs) if kwargs else function
        return cache, policy, declared, key, load, args

    def _keys(self, calls: Iterable[Any]) -> tuple[C, Policy, Any, dict[str, Any]]:
        """The same of many calls: their arguments, by their keys."""
        given: dict[str, Any] = {}
        for each in listed("many() takes", "argument", calls):
            given[self._call((each,), {})[3]] = each
        cache, policy, declared, _ = self._bound()
        return cache, policy, declared, given


def decorating(
    bond: Bond[Any],
    make: type[DecoratedFunction[Any]],
    template: str | None,
    ttl: AnyTtl | None,
    tags: Iterable[str],
    policy: Policy | None,
    ignore: Iterable[str],
    *,
    refresh_with_ignored: bool,
) -> Callable[[Any], Any]:
    """A decorator that makes decorated functions of a colour.

    Raises:
        ConfigurationError: It was given the function in the place of the template.
    """
    if callable(template) or isinstance(template, classmethod | staticmethod):
        raise ConfigurationError(
            "write @cache.cached() with parentheses: it takes a template, as 'user:{id}'"
        )

    def decorate(decorated: Any) -> Any:
        plan = plan_calls(decorated, template, ignore, ttl, policy, tags, keeps_ignored=refresh_with_ignored)
        make.refuse(plan.function)
        return make(decorated, bond.plan(plan), bond)

    return decorate
