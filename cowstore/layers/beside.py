"""An iterator that works in a thread of its own, a few steps ahead."""

from __future__ import annotations

import threading
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: Chunks made before they are asked for: enough to bridge a large file's write, few enough to stay small.
_AHEAD = 8
_JOIN_SECONDS = 1.0


class Beside:
    """The chunks of an iterator, which runs in another thread from now on; nobody else may use it.

    Decompression and hashing leave the interpreter's lock, so that with a second processor they cost no time.
    """

    __slots__ = ("_done", "_error", "_free", "_ready", "_stopped", "_thread", "_waiting")

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._waiting: deque[bytes] = deque()
        self._free = threading.Semaphore(_AHEAD)
        self._ready = threading.Semaphore(0)
        self._error: BaseException | None = None
        self._done = False
        self._stopped = False
        # A daemon, for the one case in which it cannot be stopped: a read from a pipe that nobody writes to.
        self._thread = threading.Thread(target=self._work, args=(chunks,), name="cowstore-layer", daemon=True)
        self._thread.start()

    def _work(self, chunks: Iterator[bytes]) -> None:
        """Make chunks until there are no more, or nobody wants them."""
        try:
            for chunk in chunks:
                self._free.acquire()
                if self._stopped:
                    return
                self._waiting.append(chunk)
                self._ready.release()
        except BaseException as error:  # noqa: BLE001  (raised where the chunk is asked for)
            self._error = error
        finally:
            self._done = True
            self._ready.release()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._ready.acquire()
        if self._waiting:
            chunk = self._waiting.popleft()
            self._free.release()
            return chunk
        self._ready.release()  # for whoever asks again
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        raise StopIteration

    def close(self) -> None:
        """Stop the thread."""
        self._stopped = True
        self._free.release()
        self._thread.join(_JOIN_SECONDS)
        self._waiting.clear()
