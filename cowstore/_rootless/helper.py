"""The helper: a process that enters a user and a mount namespace, and does one job there; run by its path, with -I -S.

    helper.py SOCKET

The job comes by the socket, with the descriptors that it needs; what is yielded, returned, raised or logged goes back.
When the caller lets go of the socket, the job is interrupted, so that it undoes what is half done; a second later the
process ends in any case.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from contextlib import ExitStack
    from types import FrameType
    from typing import Any, NoReturn

    from cowstore._rootless.jobs import Job

_GRACE_SECONDS = 1.0
_BATCH = 256


class _AloneError(BaseException):
    """The caller is gone; raised wherever the job is."""


def main() -> NoReturn:
    """Do the job."""
    import array
    import io
    import pickle
    import socket

    number = int(sys.argv[1])
    os.set_inheritable(number, False)
    own = socket.socket(fileno=number)
    head, ancillary, _, _ = own.recvmsg(8, socket.CMSG_SPACE(16 * 4), socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for _, _, data in ancillary:
        fds.frombytes(data)
    content = _read(own, int.from_bytes(head, "little"))
    # The package this file is part of, whether installed or not; behind the standard library.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    both = io.BytesIO(content)
    # First the modules that the caller knows: a driver may be in another package.
    sys.path.extend(pickle.load(both))  # noqa: S301  # from the process that started this one
    job = pickle.load(both)  # noqa: S301
    status = 0
    try:
        _work(own, job, list(fds))
    except _AloneError:
        status = 1
    finally:
        os._exit(status)


def _read(own: socket.socket, length: int) -> bytes:
    content = bytearray()
    while len(content) < length:
        part = own.recv(min(length - len(content), 1 << 20))
        if not part:
            os._exit(1)  # whom this is for is gone already
        content += part
    return bytes(content)


def _work(own: socket.socket, job: Job, fds: list[int]) -> None:
    from cowstore._rootless.calls import ERROR, ITEM, ITERATES, RESULT

    try:
        from cowstore._rootless.namespace import enter, may_mount

        if not may_mount():
            enter()
        _watch(own)
        _forward_log(own)
        value = _do(own, job, fds, (ITERATES, ITEM))
    except Exception as error:  # noqa: BLE001  # raised again in the caller
        _tell(own, ERROR, _portable(error))
    else:
        _tell(own, RESULT, value)


def _do(own: socket.socket, job: Job, fds: list[int], iterating: tuple[str, str]) -> Any:
    """Do the job; what it yields is told at once."""
    from collections.abc import Iterator
    from contextlib import ExitStack

    with ExitStack() as stack:
        arguments = [_made(stack, value, fds) for value in job.arguments]
        named = {name: _made(stack, value, fds) for name, value in job.named.items()}
        if job.module:
            import importlib

            function = getattr(importlib.import_module(job.module), job.function)
        else:
            function = getattr(arguments.pop(0), job.function)
        value = function(*arguments, **named)
        if not isinstance(value, Iterator):
            return value
        _tell(own, iterating[0], None)
        _pass_on(own, value, iterating[1])
    return None


def _pass_on(own: socket.socket, items: Any, word: str) -> None:
    """Tell what an iterator yields, several at a time while they come fast."""
    import time

    batch: list[Any] = []
    last = time.monotonic()
    for item in items:
        batch.append(item)
        if len(batch) >= _BATCH or time.monotonic() - last > 0.05:
            _tell(own, word, batch)
            batch = []
            last = time.monotonic()
    if batch:
        _tell(own, word, batch)


def _made(stack: ExitStack, value: Any, fds: list[int]) -> Any:
    """Return what an argument stands for."""
    from cowstore._rootless import jobs

    if isinstance(value, jobs.Lent):
        import io

        raw = io.FileIO(fds[value.number], "wb" if value.writable else "rb")
        raw.name = value.name
        return stack.enter_context(io.BufferedWriter(raw) if value.writable else io.BufferedReader(raw))
    if isinstance(value, jobs.OpenStore):
        import cowstore

        opened = cowstore.open(
            value.root, options=value.options, volatile=value.volatile, read_only=value.read_only, create=False
        )
        return stack.enter_context(opened)._core  # noqa: SLF001  # the verbs' own functions take the inside
    if isinstance(value, jobs.OpenDriver):
        from cowstore.drivers import load

        driver = load(value.name)(value.directory, value.options, volatile=value.volatile, read_only=value.read_only)
        stack.callback(driver.close)
        return driver
    return value


def _portable(error: Exception) -> tuple[BaseException, BaseException | None]:
    """Return an error with its cause, as they can be sent."""
    from cowstore.errors import CowstoreError

    return _sendable(error) or CowstoreError(f"{type(error).__name__}: {error}"), _sendable(error.__cause__)


def _sendable(error: BaseException | None) -> BaseException | None:
    import pickle

    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301
    except Exception:  # noqa: BLE001  # of a class that says it can be pickled, and cannot
        return None
    return error


def _tell(own: socket.socket, word: str, value: Any) -> None:
    import pickle

    content = pickle.dumps((word, value))
    try:
        own.sendall(len(content).to_bytes(8, "little") + content)
    except (BrokenPipeError, ConnectionResetError):
        raise _AloneError from None


def _watch(own: socket.socket) -> None:
    """Have the job interrupted when the caller lets go."""
    import signal
    import threading
    import time

    def alone(_number: int, _frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _AloneError

    def watch() -> None:
        try:
            own.recv(1)  # nothing more is ever sent
        except OSError:
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    signal.signal(signal.SIGTERM, alone)
    threading.Thread(target=watch, daemon=True).start()


def _forward_log(own: socket.socket) -> None:
    """Let the caller log what is logged here."""
    import logging

    from cowstore._rootless.calls import LOG

    class Forward(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            _tell(own, LOG, (record.name, record.levelno, record.getMessage()))

    logging.getLogger().addHandler(Forward())


if __name__ == "__main__":
    main()
