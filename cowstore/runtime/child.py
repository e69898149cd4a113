"""The warm launcher: a fork server that starts containers for one process, in an interpreter with ``-I -S``.

It is imported, not run as a script: that would be compiled each time.

Every message on the socket carries the descriptors of one container: a pipe with the request, a pipe for the answer,
the program's standard streams, and what process 1 shall hold. A spare launcher, forked beforehand, takes it; the
server forks the next. It has one thread and all modules loaded, and ends with its owner, who holds the other end of the
socket; a launcher ends, and its container with it, when the request's pipe ends.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import NoReturn

    from cowstore._linux.fd import Descriptor
    from cowstore.runtime.launcher import Container
    from cowstore.runtime.newborn import Newborn
    from cowstore.runtime.spec import Spec

MOST_DESCRIPTORS = 16
_FIRST_MS = 40
"""How long the server waits at most until it imports what the second launcher is to have."""


def main(number: int) -> NoReturn:
    """Serve until the owner is gone.

    :param number: descriptor of the socket to the owner.
    """
    import gc

    gc.disable()
    # The C module alone: all that socket adds costs more than the rest of this start.
    import _socket
    import array  # noqa: F401  # for the launchers
    import select
    import signal

    # What else was inheritable there is none of ours, and would be kept open for the server's whole life.
    os.closerange(3, number)
    os.closerange(number + 1, os.sysconf("SC_OPEN_MAX"))
    os.set_inheritable(number, False)
    if os.geteuid() != 0:
        _go_where_one_may_mount(number)
    own = _socket.socket(fileno=number)
    import cowstore.runtime.newborn
    import cowstore.runtime.outside  # all that the first launcher is made of

    # Nobody waits for the launchers.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    told, tell = os.pipe2(os.O_CLOEXEC)
    poll = select.poll()
    poll.register(told, select.POLLIN)
    # Only whether it ends: the messages are for the spare launcher.
    poll.register(number, select.POLLRDHUP)
    spare = _spare(own, tell)
    while True:
        poll.register(spare.fileno(), select.POLLIN)
        ready = {fd for fd, _ in poll.poll()}
        if number in ready:
            os._exit(0)
        poll.unregister(spare.fileno())
        if told in ready:
            os.read(told, 1)
        if "cowstore.runtime.launcher" not in sys.modules:
            _let_go_first(spare, number)
            _import_the_rest()
            import cowstore.runtime.init  # noqa: F401

        # It has work now, or was killed: either way the next one is due.
        spare.close()
        spare = _spare(own, tell)


def _let_go_first(launcher: Descriptor, owner: int) -> None:
    """Wait a little for the first run to be over: its launcher and its process 1 import what they need themselves.

    Each has a processor for that, and a third at the same work would keep them from it. All later ones have it from
    the server.
    """
    import select

    poll = select.poll()
    poll.register(launcher.fileno(), select.POLLIN)
    poll.register(owner, select.POLLRDHUP)
    poll.poll(_FIRST_MS)


def command(number: int) -> list[str]:
    """Return the command line that starts the server."""
    # The package this file is part of, whether installed or not; behind the standard library.
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    start = "import sys; sys.path.append(sys.argv[2]); from cowstore.runtime.child import main; main(int(sys.argv[1]))"
    return [sys.executable, "-I", "-S", "-c", start, str(number), package]


_refusal = ""
"""Why no container can be started."""


def _go_where_one_may_mount(number: int) -> None:
    """Enter a user namespace for an ordinary user, and begin anew there; where it is refused, so is every container.

    The memory of a process belongs to the namespace in which it was executed. If that were the outer one, nothing that
    process 1 hides from the program could be reached by the next launcher either, which is to enter the container.
    """
    global _refusal
    from cowstore._rootless.namespace import enter, may_mount
    from cowstore.errors import CowstoreError

    try:
        if may_mount():
            return
        enter()
        os.set_inheritable(number, True)
        os.execv(sys.executable, command(number))
    except (CowstoreError, OSError) as error:
        _refusal = str(error)


def _spare(own: _socket.socket, tell: int) -> Descriptor:
    """Fork a launcher that waits for work; returns its pidfd.

    It is there before it is asked for, so that a fork is not what the owner waits for.
    """
    from cowstore._linux.namespaces import CloneFlag, clone3

    # Killed at once, it would be gone before it could be opened by its number.
    pid, pidfd = clone3(CloneFlag.PIDFD)
    if pid:
        assert pidfd is not None, "asked for"
        return pidfd
    try:
        import _socket
        import array
        import signal

        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        size = _socket.CMSG_SPACE(MOST_DESCRIPTORS * array.array("i").itemsize)
        # Process 1 is born ahead too, and finds out on the other processor what every container needs.
        newborn = _newborn()
        _import_the_rest()
        content, ancillary, _, _ = own.recvmsg(1, size, _socket.MSG_CMSG_CLOEXEC)
        if content:
            os.write(tell, b"+")
            os.close(tell)
            own.close()
            fds = array.array("i")
            for _, _, data in ancillary:
                fds.frombytes(data)
            launch(newborn, *fds)
    finally:
        os._exit(0)


def _import_the_rest() -> None:
    """Import what a launcher needs on its way."""
    import resource  # noqa: F401  # wait4(2) makes its values

    import cowstore.runtime.launcher
    import cowstore.runtime.operations
    import cowstore.runtime.root  # noqa: F401


def _newborn() -> Newborn | None:
    from cowstore.errors import CowstoreError
    from cowstore.runtime.newborn import Newborn
    from cowstore.runtime.outside import born_in

    try:
        return None if _refusal else Newborn(born_in())
    except (CowstoreError, OSError):
        return None  # the next try is when somebody can be told


def launch(
    newborn: Newborn | None, request: int, result: int, stdin: int, stdout: int, stderr: int, *keep: int
) -> NoReturn:
    """Be the launcher of one container."""
    from cowstore.errors import CowstoreError
    from cowstore.runtime import messages
    from cowstore.runtime.launcher import Container
    from cowstore.runtime.messages import explain
    from cowstore.runtime.transport import unpack

    def before_unmount(root: int) -> None:
        """Let the owner, who has the driver, do what it has to while the root is mounted; or go on without."""
        messages.send(result, messages.ROOT, os.getpid(), root)
        while (said := os.read(request, 256)) and 0 not in said:
            pass

    try:
        length = int.from_bytes(_read(request, 8), "little")
        try:
            if _refusal:
                raise CowstoreError(_refusal)
            spec, more = unpack(_read(request, length))
            timeout_s = more["timeout_s"]
            process_1 = more.get("process_1")
            streams = (stdin, stdout, stderr)
            if spec.tty or isinstance(process_1, int):
                # Of the one, the terminal is connected with them; the other has the program as its child.
                for standard, fd in enumerate(streams):
                    os.dup2(fd, standard)
            if isinstance(process_1, int):
                container = _entered(spec, process_1, newborn)
            else:
                container = Container(spec, keep=keep, streams=streams, newborn=newborn)
            for fd in (*streams, *keep):
                os.close(fd)
            outcome = container.supervise(
                timeout_s=timeout_s if isinstance(timeout_s, (int, float)) else None,
                owner=request,
                measured=True,
                before_unmount=before_unmount if spec.holds_root else None,
                on_running=lambda: messages.send(result, messages.RUNNING, container.pid),
            )
            answer = outcome.summary()
        except OSError as error:
            answer = {"failure": f"cannot start a container: {explain(error)}"}
        except CowstoreError as error:
            answer = {"failure": str(error)}
        messages.send(result, messages.OUTCOME, answer)
    finally:
        os._exit(0)


def _entered(spec: Spec, process_1: int, newborn: Newborn | None) -> Container:
    """Start a program in a container that runs."""
    from cowstore.runtime.enter import Entered

    if newborn is not None:
        newborn.end()
    return Entered(spec, process_1)


def _read(fd: int, length: int) -> bytes:
    content = b""
    while len(content) < length:
        part = os.read(fd, length - len(content))
        if not part:
            os._exit(1)  # whom this is for is gone already
        content += part
    return content
