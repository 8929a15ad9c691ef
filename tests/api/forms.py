"""The two forms of the API behind one face, so that each test runs on both."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

from pileus import AsyncProvider, Provider


class BlockingForm:
    """Calls as they are."""

    name = "blocking"
    provider_class: Callable[..., Any] = Provider

    def __call__(self, value: Any) -> Any:
        return value

    def each(self, iterator: Any) -> Iterator[Any]:
        yield from iterator

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def close(self, provider: Any) -> None:
        provider.close()

    @contextmanager
    def within(self, manager: Any) -> Iterator[Any]:
        with manager as inner:
            yield inner

    def end(self) -> None:
        pass


class AsyncForm:
    """Awaits what is awaitable, on one loop that runs only meanwhile."""

    name = "async"
    provider_class: Callable[..., Any] = AsyncProvider

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def __call__(self, value: Any) -> Any:
        if not inspect.isawaitable(value):
            return value

        async def awaited() -> Any:
            return await value

        return self._runner.run(awaited())

    def each(self, iterator: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self(anext(iterator))
                except StopAsyncIteration:
                    return
        finally:
            self(iterator.aclose())

    def sleep(self, seconds: float) -> None:
        self(asyncio.sleep(seconds))

    def close(self, provider: Any) -> None:
        self(provider.aclose())

    @contextmanager
    def within(self, manager: AbstractAsyncContextManager[Any]) -> Iterator[Any]:
        inner = self(manager.__aenter__())
        try:
            yield inner
        finally:
            self(manager.__aexit__(None, None, None))

    def end(self) -> None:
        self._runner.close()
