"""Finds drivers by entry point, the built-in ones in the same way as strangers'."""

from __future__ import annotations

import os
from importlib.metadata import EntryPoint, entry_points

from pileus.drivers.base import Driver
from pileus.errors import BadProviderError, MissingEnvError

GROUP = "pileus.drivers"


def names() -> list[str]:
    """All installed providers, sorted."""
    return sorted(_found())


def load(name: str) -> type[Driver]:
    """The driver's class. Its SDK is not imported yet.

    Raises:
        BadProviderError: there is none of that name, two packages bring one, or it cannot be imported.
    """
    found = _found()
    if name not in found:
        raise BadProviderError(
            f"unknown provider {name!r}; installed are: {', '.join(sorted(found)) or 'none'}",
            setting="provider",
            hint="use one of those, or install the package that brings it",
        )
    try:
        loaded = found[name].load()
    except ImportError as problem:
        raise BadProviderError(
            f"the driver of provider {name!r} cannot be imported: {problem}", setting="provider", provider=name
        ) from problem
    if not (isinstance(loaded, type) and issubclass(loaded, Driver)):
        raise BadProviderError(
            f"the entry point {found[name].value!r} of provider {name!r} is no subclass of pileus.drivers.base.Driver",
            setting="provider",
        )
    return loaded


def required_env(name: str) -> list[str]:
    """Names of the environment variables that provider `name` needs before it works at all."""
    return list(load(name).required_env)


def maybe_env(name: str) -> list[str]:
    """Names of those that it may need."""
    return list(load(name).maybe_env)


def all_env(name: str) -> list[str]:
    """Both, the required ones first."""
    return required_env(name) + maybe_env(name)


def check_env(driver: type[Driver]) -> None:
    """Refuse a missing environment.

    Raises:
        MissingEnvError: variables that are required are unset or empty.
    """
    missing = [variable for variable in driver.required_env if not os.environ.get(variable)]
    if missing:
        raise MissingEnvError(
            f"missing environment variables: {', '.join(missing)}",
            missing=missing,
            provider=driver.name,
            hint="set them, for instance by sourcing the file that your provider's dashboard offers",
        )


def _found() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if point.name in found and found[point.name].value != point.value:
            raise BadProviderError(
                f"two packages bring a provider {point.name!r}: {found[point.name].value} and {point.value}",
                hint="remove one of them",
            )
        found[point.name] = point
    return found
