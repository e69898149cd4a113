"""Process 1 before it is known what it is to run: it is born, and prepares what every container needs, meanwhile.

So that nobody waits for that: `cowstore-run` starts it before it looks for its store, and a warm launcher has one ready
when it is asked.
"""

from __future__ import annotations

import os
import select
import signal

from cowstore._linux.fd import Descriptor
from cowstore._linux.namespaces import CloneFlag, clone3, pidfd_send_signal
from cowstore.errors import Unsupported
from cowstore.runtime import messages, passing
from cowstore.runtime.forwarded import FORWARDED

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import NoReturn

    from cowstore.runtime.passing import Order


class Newborn:
    """A process 1 in its namespaces, holding nothing of this machine, that waits for its order and ends with us.

    :ivar flags: its namespaces. :ivar networked: it knows how to wait for its network.
    :ivar pid: its number here. :ivar pidfd: the same, by descriptor.
    :ivar status: pipe from it. :ivar control: socket to it.
    """

    def __init__(self, flags: CloneFlag, *, staged: bool = True, networked: bool = False) -> None:
        """Give birth to it.

        :param flags: the namespaces it is born in. :param staged: it leaves this machine's tree.
        :param networked: a helper will connect its network.
        :raises Unsupported: this user may not make namespaces here. :raises OSError: no processes or descriptors left.
        """
        self.flags, self.networked = flags, networked
        status, status_inside = map(Descriptor, os.pipe2(os.O_CLOEXEC))
        control, control_inside = passing.pair()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
        try:
            pid, pidfd = clone3(flags | CloneFlag.PIDFD)
            if pid == 0:
                _live(flags, staged=staged, networked=networked, status=status_inside.fileno(), control=control_inside)
        except PermissionError as error:
            raise Unsupported(
                "new namespaces may not be made by this user here: run this as root "
                f"(in a container: with CAP_SYS_ADMIN); {'; '.join(getattr(error, '__notes__', ()))}",
                feature="namespaces",
            ) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        assert pidfd is not None, "asked for by CloneFlag.PIDFD"
        status_inside.close()
        control_inside.close()
        self.pid, self.pidfd, self.status, self.control = pid, pidfd, status, control
        self._is_ours = True

    def suits(self, flags: CloneFlag, *, networked: bool) -> bool:
        """Tell whether it lives, in these namespaces, and can have its network connected."""
        poll = select.poll()
        poll.register(self.pidfd.fileno(), select.POLLIN)
        return self.flags == flags and (self.networked or not networked) and not poll.poll(0)

    def tell(self, order: Order) -> None:
        """Let it begin; from now on it is the caller's to wait for. If it has ended, its status says why."""
        passing.send(self.control, order)
        self._is_ours = False

    def end(self) -> None:
        """End it, unless it has begun."""
        if not self._is_ours:
            return
        self._is_ours = False
        try:
            pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(self.pid, 0)
        self.control.close()
        self.status.close()
        self.pidfd.close()


def _live(flags: CloneFlag, *, staged: bool, networked: bool, status: int, control: _socket.socket) -> NoReturn:
    """Be process 1: import what that takes, while the launcher imports what it needs itself; never returns."""
    try:
        from cowstore.runtime.init import process_1

        # What only some need is imported now: on its stage it can import nothing.
        if not flags & CloneFlag.NEWCGROUP:
            import cowstore.runtime.cgroups
        if networked:
            import cowstore.runtime.network  # noqa: F401
        process_1(flags, staged=staged, status=status, control=control)
    except Exception as error:  # noqa: BLE001  # nobody else can tell of it
        messages.fail(status, messages.LAUNCHER_FAILED, f"cannot be process 1: {type(error).__name__}: {error}")
    finally:
        # Whatever happens: never return into the launcher's code, of which this is a copy.
        os._exit(messages.LAUNCHER_FAILED)
