"""``cowstore.run`` and ``cowstore.spawn`` for asyncio: the loop goes on while the program runs."""

from __future__ import annotations

import asyncio
import signal
import threading

from cowstore.runtime.api import spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Self, TypeVar

    from cowstore.runtime.handle import Handle, Stats
    from cowstore.runtime.result import Result
    from cowstore.store import Store

    T = TypeVar("T")

__all__ = ["AsyncHandle", "run_async", "spawn_async"]


async def run_async(store: Store, **arguments: Any) -> Result:
    """Do as :func:`cowstore.run`, without blocking the event loop; cancelled, it ends the container first.

    :param arguments: those of :func:`cowstore.run`.
    """
    async with await spawn_async(store, **arguments) as running:
        return await running.wait()


async def spawn_async(store: Store, **arguments: Any) -> AsyncHandle:
    """Do as :func:`cowstore.spawn`, without blocking the event loop.

    :param arguments: those of :func:`cowstore.spawn`.
    """
    return AsyncHandle(await _uncancelled(_in_thread(lambda: spawn(store, **arguments)), _close))


class AsyncHandle:
    """A running container, as :class:`~cowstore.runtime.handle.Handle`; what may take long is awaited.

    An asynchronous context manager at whose end the container is ended.

    :ivar handle: the same for who does not mind blocking.
    """

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.key = handle.key

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def pid(self) -> int:
        """Return the number of process 1, once the program runs."""
        return await _uncancelled(_in_thread(lambda: self.handle.pid))

    async def wait(self) -> Result:
        """Wait for the program's end; cancelled, it ends the container."""
        return await _uncancelled(_in_thread(self.handle.wait), lambda _: None, first=self._end)

    def _end(self) -> None:
        self.handle.kill(signal.SIGKILL)

    def kill(self, number: int = signal.SIGTERM) -> None:
        """Send a signal as if to the program; SIGKILL ends the container."""
        self.handle.kill(number)

    async def exec(self, argv: Any, **arguments: Any) -> Result:
        """Run one more program in the container, and wait for its end; see ``Handle.exec``."""
        return await _uncancelled(_in_thread(lambda: self.handle.exec(argv, **arguments)))

    def freeze(self) -> None:
        """Stop every process but the reaper, until :meth:`thaw`."""
        self.handle.freeze()

    def thaw(self) -> None:
        """Let the processes go on."""
        self.handle.thaw()

    async def stats(self) -> Stats:
        """Tell what the container uses right now."""
        return await _uncancelled(_in_thread(self.handle.stats))

    async def close(self) -> None:
        """End the container if it runs, and remove its snapshot if that is a throw-away one."""
        await _uncancelled(_in_thread(self.handle.close))


def _close(handle: Handle) -> None:
    handle.close()


def _in_thread(function: Callable[[], T]) -> asyncio.Future[T]:
    """Call a function in a thread of its own: the loop's own few would be taken by as many containers."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(how: Callable[[Any], None], what: object) -> None:
        def now() -> None:
            if not future.done():
                how(what)

        try:
            loop.call_soon_threadsafe(now)
        except RuntimeError:
            return  # the loop is closed, and nobody waits any more

    def go() -> None:
        try:
            value = function()
        except BaseException as error:  # noqa: BLE001  # raised where it is awaited
            tell(future.set_exception, error)
        else:
            tell(future.set_result, value)

    threading.Thread(target=go, name="cowstore", daemon=True).start()
    return future


async def _uncancelled(
    future: asyncio.Future[T],
    undo: Callable[[T], None] = lambda _: None,
    *,
    first: Callable[[], None] = lambda: None,
) -> T:
    """Wait for what cannot be interrupted; cancelled meanwhile, let it end, and undo what came of it.

    :param first: called at once when cancelled, so that it does end.
    """
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        first()
        await asyncio.wait([future])
        if future.exception() is None:
            undo(future.result())
        raise
