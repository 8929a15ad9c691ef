"""Every error that leaves the public API says on which provider and in which method it happened."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from pileus.errors import PileusError

Method = TypeVar("Method", bound=Callable[..., Coroutine[Any, Any, Any]])


def public(method: Method) -> Method:
    """Mark a public method of an object with a `_provider_name`.

    Errors that pass through are given that name and the method's, unless they have them.
    """

    @functools.wraps(method)
    async def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return await method(self, *args, **kwargs)
        except PileusError as problem:
            problem.within(self._provider_name, method.__name__)
            raise

    return cast(Method, called)
