"""Work that takes longer than a control loop can wait, done beside the event loop.

All of it is done by one thread: however many ask for it, who answers shares the interpreter with
no more than one of them, and gets it back within `service.server.server.SWITCH_SECONDS`.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")

_THREAD = ThreadPoolExecutor(1, "beside")


async def run_beside(work: Callable[[], Result]) -> Result:
    """Return what `work` returns, or raise what it raises. It begins after what came before it."""
    return await asyncio.get_running_loop().run_in_executor(_THREAD, work)
