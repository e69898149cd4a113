"""A container that is running, in the hands of who started it."""

from __future__ import annotations

import os
import signal
import time
from _thread import RLock  # threading itself takes half a millisecond to import

from cowstore._frozen import frozen
from cowstore.errors import CowstoreError
from cowstore.runtime.messages import LAUNCHER_FAILED
from cowstore.runtime.result import Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from contextlib import ExitStack
    from types import TracebackType
    from typing import IO, Any, Self

    from cowstore.runtime.remote import Remote
    from cowstore.runtime.spec import Spec
    from cowstore.runtime.streams import Streams

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@frozen
class Stats:
    """What a container uses right now.

    :ivar processes: how many there are, process 1 included. :ivar memory_bytes: of their resident pages, shared ones
        counted for each. :ivar cpu_seconds: processors' time they have taken so far.
    """

    processes: int
    memory_bytes: int
    cpu_seconds: float


class Handle:
    """One container. A context manager at whose end it is ended, and its throw-away snapshot removed.

    All methods may be called from any thread; one at a time waits.

    :ivar key: the snapshot it runs on.
    """

    def __init__(self, key: str, spec: Spec, remote: Remote, streams: Streams, stack: ExitStack) -> None:
        self.key = key
        self._spec = spec
        self._remote = remote
        self._streams = streams
        self._stack = stack
        self._lock = RLock()
        self._result: Result | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Number of process 1, as it is seen here.

        :raises CowstoreError: there is none: the program could not be started, or has ended.
        """
        with self._lock:
            while (
                not self._remote.pid and self._result is None and not self._closed and self._streams.step(self._remote)
            ):
                pass
            if not self._remote.pid and not self._closed:
                self.wait()
            if not self._remote.pid or self._result is not None or self._closed:
                raise CowstoreError(f"the container on {self.key!r} is not running: {self._why()}")
            return self._remote.pid

    def _why(self) -> str:
        result = self._result
        return "it has ended" if result is None or result.failure is None else result.failure

    def pidfd(self) -> int:
        """Open process 1; the descriptor is the caller's to close, and readable when the container has ended."""
        from cowstore._linux.namespaces import pidfd_open

        return pidfd_open(self.pid).detach()

    def poll(self) -> Result | None:
        """Return the result if the program has ended."""
        try:
            return self.wait(timeout_s=0)
        except TimeoutError:
            return None

    def wait(self, timeout_s: float | None = None) -> Result:
        """Wait for the program's end, and tell what became of it. Waiting again gives the same.

        :raises TimeoutError: it has not ended; it goes on.
        :raises CowstoreError: the container could not be made, or its launcher was killed. :raises OutOfSpace: the
            program has ended, and some of what it wrote could not be kept.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._lock:
            while self._result is None:
                if self._closed:
                    raise CowstoreError(f"the container on {self.key!r} was closed before its program had ended")
                left_ms = None if deadline is None else max(0, int((deadline - time.monotonic()) * 1000))
                if not self._streams.step(self._remote, left_ms):
                    self._finish()
                elif deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError(f"the program on {self.key!r} has not ended within {timeout_s} seconds")
            if self._remote.trouble is not None:
                raise self._remote.trouble
            return self._result

    def _finish(self) -> None:
        self._streams.collect()
        out, err = self._streams.out, self._streams.err
        with self._stack.pop_all():
            pass
        self._result = _result(self._remote.outcome, self.key, out, err)

    def kill(self, number: int = signal.SIGTERM) -> None:
        """Send a signal as if to the program; SIGKILL ends the container. Nothing happens once it has ended."""
        self._remote.send(number)

    def exec(
        self,
        argv: Iterable[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout_s: float | None = None,
        capture: bool = False,
        stdin: bytes | int | IO[bytes] | None = None,
    ) -> Result:
        """Run one more program in the container, and wait for its end.

        :param argv: the program and its arguments. :param env: variables beside those of the first program.
        :param cwd: directory to start in; the first program's by default. :param user: whom to run as; likewise.
        :raises CowstoreError: the container is not running.
        """
        from dataclasses import replace

        from cowstore.runtime import compose
        from cowstore.runtime.remote import Remote
        from cowstore.runtime.streams import Streams

        compose.time_limit(timeout_s)
        pid = self.pid
        spec: Spec = replace(
            self._spec,
            mounts=(),
            binds=(),
            as_pid_1=False,
            tty=False,
            argv=compose.command(argv),
            env=compose.environment(env, self._spec.env),
            cwd=compose.directory(cwd or self._spec.cwd),
            user=compose.user(user, self._spec.user),
        )
        with Streams(stdin, capture=capture) as streams:
            remote = Remote(spec, streams.inside, timeout_s=timeout_s, process_1=pid)
            try:
                streams.attach(remote)
                while streams.step(remote):
                    pass
                streams.collect()
            finally:
                remote.end()
        return _result(remote.outcome, self.key, streams.out, streams.err)

    def freeze(self) -> None:
        """Stop every process but the reaper, until :meth:`thaw`."""
        self._remote.send(signal.SIGTSTP)

    def thaw(self) -> None:
        """Let the processes go on."""
        self._remote.send(signal.SIGCONT)

    def stats(self) -> Stats:
        """Tell what the container uses right now.

        :raises CowstoreError: it is not running.
        """
        found = list(_usage(self.pid))
        return Stats(
            processes=len(found),
            memory_bytes=sum(memory for memory, _ in found),
            cpu_seconds=sum(ticks for _, ticks in found) / _TICKS,
        )

    def close(self) -> None:
        """End the container if it runs, and remove its snapshot if that is a throw-away one. Closing twice is fine."""
        with self._lock:
            self._closed = True
            with self._stack.pop_all():
                pass


def _usage(pid: int) -> Iterator[tuple[int, int]]:
    """Yield resident bytes and clock ticks of a process and all below it."""
    from cowstore._linux.procfs import children

    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        below = children(pid)
    except OSError:  # it has just ended
        return
    # Of itself and of the children it has waited for. Source: proc(5), the fields counted from the third.
    yield int(fields[21]) * _PAGE, sum(map(int, fields[11:15]))
    for child in below:
        yield from _usage(child)


def _result(said: dict[str, Any] | None, key: str, out: bytes | None, err: bytes | None) -> Result:
    """Make the result of the launcher's answer.

    :raises CowstoreError: the container could not be made, or the launcher was killed.
    """
    if said is None:
        raise CowstoreError(
            f"the launcher of the container on {key!r} was killed or failed; its remarks are on standard error"
        )
    wait_status, failure_status, failure = (
        said.pop("wait_status", None),
        said.pop("failure_status", LAUNCHER_FAILED),
        said.pop("failure"),
    )
    if wait_status is None and failure_status == LAUNCHER_FAILED:
        raise CowstoreError(f"cannot run on {key!r}: {failure}")
    signal = os.WTERMSIG(wait_status) if wait_status is not None and os.WIFSIGNALED(wait_status) else None
    if wait_status is None:
        status = failure_status
    else:
        status = 128 + signal if signal is not None else os.WEXITSTATUS(wait_status)
    return Result(
        status=status,
        signal=signal,
        out=out,
        err=err,
        key=key,
        failure=failure,
        **(said | {"warnings": tuple(said["warnings"])}),
    )
