"""``cowstore.run`` for asyncio: the loop goes on while the program runs."""

from __future__ import annotations

import asyncio
import signal

from cowstore.runtime.api import spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cowstore.runtime.handle import Handle
    from cowstore.runtime.result import Result
    from cowstore.store import Store

__all__ = ["run_async"]


async def run_async(store: Store, **arguments: Any) -> Result:
    """Do as :func:`cowstore.run`, without blocking the event loop; cancelled, it ends the container first.

    :param arguments: those of :func:`cowstore.run`.
    """
    handle: Handle = await asyncio.to_thread(spawn, store, **arguments)
    waiting = asyncio.ensure_future(asyncio.to_thread(handle.wait))
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        handle.kill(signal.SIGKILL)
        await asyncio.wait([waiting])
        raise
    finally:
        await asyncio.to_thread(handle.close)
