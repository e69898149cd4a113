"""The other end of the warm launcher: starts it once per process, and asks it for containers.

No Python runs in this process between fork and exec: posix_spawn(3) starts the server, and it forks. Threads may ask at
the same time; a forked child of this process starts a server of its own.
"""

from __future__ import annotations

import _socket  # socket itself takes longer to import than to use
import array
import os
import select
import signal
import sys
import time
from _thread import allocate_lock  # threading itself takes half a millisecond to import

from cowstore._linux.fd import Descriptor, open_
from cowstore.errors import CowstoreError
from cowstore.runtime import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cowstore.runtime.spec import Spec

_PATIENCE_SECONDS = 2.0
_THEIRS = 3
"""Descriptor of the socket in the server."""


class _Server:
    """The fork server of this process.

    :ivar pid: its number; None while there is none.
    """

    def __init__(self) -> None:
        self.pid: int | None = None
        self._lock = allocate_lock()
        self._socket: _socket.socket | None = None
        self._known_at_exit = False
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """In a forked child: the server is the parent's."""
        self._lock = allocate_lock()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self.pid = None

    def start(self) -> None:
        """Start it if it is not there; it gets ready while the caller goes on.

        :raises CowstoreError: it cannot be started.
        """
        with self._lock:
            if self._socket is None:
                self._start()

    def ask(self, fds: Sequence[int]) -> None:
        """Have a launcher forked that gets these descriptors.

        :raises CowstoreError: the server cannot be started.
        """
        ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", fds))]
        with self._lock:
            for _ in range(2):
                if self._socket is None:
                    self._start()
                assert self._socket is not None, "it was started"
                try:
                    self._socket.sendmsg([b"+"], ancillary)
                    return
                except (BrokenPipeError, ConnectionResetError):  # somebody killed it
                    self._stop()
        raise CowstoreError(
            "the launcher of containers ends as soon as it is started; its remarks are on standard error"
        )

    def _start(self) -> None:
        if not sys.executable:
            raise CowstoreError("cannot start a launcher: this interpreter does not know its own path (sys.executable)")
        import atexit

        from cowstore.runtime.child import command

        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            # The C library's own, which copies nothing of this process. The two signals that glibc leaves ignored by
            # it are reset for every program.
            self.pid = os.posix_spawn(
                sys.executable,
                command(_THEIRS),
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), _THEIRS),
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                ],
                # The signals of the owner's terminal are the owner's to judge.
                setsid=True,
                setsigmask=(),
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._socket = ours
        if not self._known_at_exit:
            self._known_at_exit = True
            atexit.register(self.stop)

    def _stop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        pid, self.pid = self.pid, None
        if pid is not None:
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                return  # this process ignores SIGCHLD, or waits for whatever ends

    def stop(self) -> None:
        """End the server; the next container starts another."""
        with self._lock:
            self._stop()


server = _Server()
"""Of this process."""


class Remote:
    """One container, started through the server.

    :ivar pid: of process 1, as it is seen here; 0 until :meth:`listen` has told that the program runs.
    :ivar outcome: what the launcher said at the end, or None.
    :ivar trouble: what went wrong with the root before it was unmounted, or None.
    """

    def __init__(
        self,
        spec: Spec,
        streams: Sequence[int],
        *,
        keep: Sequence[int] = (),
        timeout_s: float | None = None,
        process_1: int | None = None,
        before_unmount: Callable[[int], None] | None = None,
    ) -> None:
        """Start *spec*.

        :param streams: descriptors of the program's standard input, output and error. :param keep: descriptors for
            process 1 to hold. :param process_1: of the container to start it in, instead of a new one.
        :param before_unmount: called with the root's descriptor when all inside have ended and it is still mounted.
        """
        from cowstore.runtime.transport import pack

        self.pid = 0
        self.trouble: Exception | None = None
        self._before_unmount = before_unmount
        self.outcome: dict[str, object] | None = None
        self._reader = messages.Reader()
        request_inside, request = map(Descriptor, os.pipe2(os.O_CLOEXEC))
        result, result_inside = map(Descriptor, os.pipe2(os.O_CLOEXEC))
        with request_inside, result_inside:
            server.ask([request_inside.fileno(), result_inside.fileno(), *streams, *keep])
        self._request, self.result = request, result
        content = pack(spec, timeout_s=timeout_s, process_1=process_1)
        self._write(len(content).to_bytes(8, "little") + content)

    def _write(self, content: bytes) -> None:
        """Write to the launcher; one that has ended is noticed by its silence."""
        try:
            while content:
                content = content[os.write(self._request.fileno(), content) :]
        except BrokenPipeError:
            return

    def send(self, number: int) -> None:
        """Send a signal as if to the program."""
        if not self.result.closed:
            self._write(bytes((number,)))

    def listen(self) -> bool:
        """Take what the launcher says now; False when it has said all."""
        content = os.read(self.result.fileno(), 65536)
        for message in self._reader.feed(content):
            match message:
                case (messages.RUNNING, int(pid)):
                    self.pid = pid
                case (messages.ROOT, int(pid), int(fd)):
                    self._do_before_unmount(pid, fd)
                case (messages.OUTCOME, dict(outcome)):
                    self.outcome = outcome
        return bool(content)

    def _do_before_unmount(self, pid: int, fd: int) -> None:
        """Do what is to be done with the root, which the launcher holds, and let the launcher go on."""
        assert self._before_unmount is not None, "otherwise the launcher does not hold it"
        try:
            with open_(f"/proc/{pid}/fd/{fd}", os.O_RDONLY | os.O_DIRECTORY) as root:
                self._before_unmount(root.fileno())
        except Exception as error:  # noqa: BLE001  # told where the end of the run is
            self.trouble = error
        self._write(b"\0")

    def end(self) -> None:
        """End the container if it has not ended, and let go of the launcher."""
        if self.result.closed:
            return
        if self._before_unmount is None:
            self._request.close()
        else:
            # The end of the request would also be the end of the launcher's patience with the root.
            self.send(signal.SIGKILL)
        poll = select.poll()
        poll.register(self.result.fileno(), select.POLLIN)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while poll.poll(max(0, int((deadline - time.monotonic()) * 1000))):
            if not self.listen():
                break
        self._request.close()
        if self.outcome is None:
            self._await_process_1(deadline)
        self.result.close()

    def _await_process_1(self, deadline: float) -> None:
        """The launcher was killed: the kernel is ending the container, whoever reaps its process 1, and whenever."""
        if not self.pid:
            return
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.poll(max(0, int((deadline - time.monotonic()) * 1000)))
        finally:
            os.close(fd)
