"""Having a helper process do what needs a mount: starts it, gives it the job, passes on what it says.

No Python runs in this process between fork and exec. The helper ends with whoever called it: it watches the socket
that they share.
"""

from __future__ import annotations

import array
import os
import pickle
import select
import socket
import sys

from cowstore._rootless.streams import Feed, Streams
from cowstore.errors import CowstoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from typing import Any

    from cowstore._rootless.jobs import Job

ITEM, RESULT, ERROR, LOG, ITERATES = "item", "result", "error", "log", "iterates"
"""What the helper says: the first word of each of its messages."""

_PATIENCE_SECONDS = 5.0


def call(job: Job) -> Any:
    """Have *job* done in a helper; returns its result, or an iterator over what it yields.

    :raises Unsupported: there are no user namespaces for this user. :raises CowstoreError: as the job, or the helper
        was killed. :raises OSError: as the job.
    """
    helper = _Helper(job)
    try:
        kind, value = helper.next()
    except BaseException:
        helper.end()
        raise
    if kind == ITERATES:
        return _iterate(helper)
    helper.end()
    return value


def _iterate(helper: _Helper) -> Iterator[Any]:
    try:
        while True:
            kind, value = helper.next()
            if kind == RESULT:
                return
            yield from value
    finally:
        helper.end()


class _Helper:
    """One helper process with its job."""

    def __init__(self, job: Job) -> None:
        self._streams = Streams()
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = bytearray()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket = ours
        try:
            with theirs, self._streams.lent(job) as (plain, fds):
                content = pickle.dumps(sys.path) + pickle.dumps(plain)
                self._start(theirs.fileno())
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
                ours.sendmsg([len(content).to_bytes(8, "little")], ancillary)
                ours.sendall(content)
        except (BrokenPipeError, ConnectionResetError):
            self.end()
            raise CowstoreError("the helper in a user namespace ended as soon as it was started") from None
        except BaseException:
            self.end()
            raise

    def _start(self, number: int) -> None:
        if not sys.executable:
            raise CowstoreError("cannot start a helper: this interpreter does not know its own path (sys.executable)")
        import subprocess

        # In a session of its own: a key that interrupts the caller leaves it the time to undo what is half done.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", os.path.join(os.path.dirname(__file__), "helper.py"), str(number)],
            pass_fds=(number,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def next(self) -> tuple[str, Any]:
        """Return the next thing it says, feeding and emptying its streams meanwhile.

        :raises Exception: what the job raised.
        """
        while True:
            message = self._message()
            if message is None:
                raise CowstoreError(
                    "the helper in a user namespace was killed before it was done; what it had begun is undone when "
                    "the store is next opened"
                )
            kind, value = message
            if kind == LOG:
                _log(*value)
            elif kind == ERROR:
                self._streams.finish()
                _raise(*value)
            else:
                if kind == RESULT:
                    self._streams.finish()
                return kind, value

    def _message(self) -> tuple[str, Any] | None:
        """Wait for a whole message; None if there will be none."""
        while True:
            if len(self._buffer) >= 8:
                length = int.from_bytes(self._buffer[:8], "little")
                if len(self._buffer) >= 8 + length:
                    content = bytes(self._buffer[8 : 8 + length])
                    del self._buffer[: 8 + length]
                    message: tuple[str, Any] = pickle.loads(content)  # noqa: S301  # from our own helper
                    return message
            if not self._wait():
                return None

    def _wait(self) -> bool:
        """Wait until something has moved; False if the helper has ended."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        for fd, stream in self._streams.open.items():
            poll.register(fd, select.POLLOUT if isinstance(stream, Feed) else select.POLLIN)
        for fd, _ in poll.poll():
            if fd == self._socket.fileno():
                part = self._socket.recv(1 << 16)
                if not part:
                    return False
                self._buffer += part
            else:
                self._streams.move(fd)
        return True

    def end(self) -> None:
        """Let go; a helper that is still at work undoes what is half done, and ends."""
        self._streams.close()
        self._socket.close()
        process, self._process = self._process, None
        if process is None:
            return
        import subprocess

        try:
            process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _log(name: str, level: int, text: str) -> None:
    from cowstore._log import logger

    logger(name).log(level, "%s", text)


def _raise(error: BaseException, cause: BaseException | None) -> None:
    raise error from cause
