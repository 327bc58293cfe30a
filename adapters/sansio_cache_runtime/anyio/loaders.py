"""How a loader is called under an event loop."""

from __future__ import annotations

from collections.abc import Callable
from inspect import isawaitable, iscoroutinefunction
from typing import Any

import anyio.to_thread

from sansio_cache_runtime.loaders import is_coroutine_function


async def call_loader(loader: Callable[[], Any]) -> Any:
    """Call a loader: a coroutine function here, a plain one on a worker thread, as it may block."""
    if iscoroutinefunction(loader) or is_coroutine_function(loader):
        return await loader()
    # In a list: trio takes a function that returns a coroutine for a mistake.
    [value] = await anyio.to_thread.run_sync(lambda: [loader()])
    return await value if isawaitable(value) else value
