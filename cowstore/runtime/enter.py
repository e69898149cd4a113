"""One more program in a container that runs already.

A process of ours joins the container's namespaces, and starts the program there as its child. It stays outside of the
process namespace itself: nothing inside sees it. The program's process is not dumpable until it is executed,
imports nothing, and has no descriptor but the standard streams and a pipe.
"""

from __future__ import annotations

import os
import signal

from cowstore._linux import prctl
from cowstore._linux.fd import Descriptor
from cowstore._linux.namespaces import CloneFlag, pidfd_open, setns
from cowstore.runtime import messages
from cowstore.runtime.forwarded import FORWARDED
from cowstore.runtime.init import Program, close_all_but, import_no_more, leave_if_alone, stay
from cowstore.runtime.inside import Inside
from cowstore.runtime.launcher import Container
from cowstore.runtime.messages import LAUNCHER_FAILED, explain
from cowstore.runtime.program import reset_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from cowstore.runtime.spec import Spec

_JOINED = (
    CloneFlag.NEWNS | CloneFlag.NEWPID | CloneFlag.NEWUTS | CloneFlag.NEWIPC | CloneFlag.NEWNET | CloneFlag.NEWCGROUP
)


class Entered(Container):
    """A program that is started in another's container, supervised like one of its own.

    :ivar pid: of the process that entered; the program is its child.
    """

    def __init__(self, spec: Spec, process_1: int) -> None:
        """Start the program of *spec*, whose mounts do not count.

        :param process_1: of the container, as it is seen here.
        :raises OSError: the container has ended.
        """
        self._begin(spec)
        with pidfd_open(process_1) as target:
            status, status_inside = map(Descriptor, os.pipe2(os.O_CLOEXEC))
            control_inside, self._control = map(Descriptor, os.pipe2(os.O_CLOEXEC))
            self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
            pid = os.fork()
            if pid == 0:
                _enter(spec, process_1, target.fileno(), status_inside.fileno(), control_inside.fileno())
        status_inside.close()
        control_inside.close()
        self.pid, self._status, self.pidfd = pid, status, pidfd_open(pid)


def _enter(spec: Spec, process_1: int, target: int, status: int, control: int) -> NoReturn:
    """Join the container's groups and namespaces, start the program there, and stay with it."""
    code = LAUNCHER_FAILED
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        prctl.set_pdeathsig(signal.SIGKILL)
        prctl.set_dumpable(False)
        close_all_but({0, 1, 2, status, control, target})
        leave_if_alone(control)
        if spec.limits is not None:
            _join_groups(process_1)
        import_no_more()
        setns(target, _JOINED)
        os.close(target)
        inside = Inside()
        inside.take_root(Descriptor(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)))
        inside.status = status
        reset_signals(inside)
        code = stay(Program(inside, spec), inside, alone=False)
    except OSError as error:
        messages.fail(status, LAUNCHER_FAILED, f"cannot enter the container: {explain(error)}")
    finally:
        os._exit(code)


def _join_groups(process_1: int) -> None:
    from cowstore.runtime.cgroups import PREFIX, hierarchies

    for hierarchy in hierarchies(membership=f"/proc/{process_1}/cgroup"):
        if os.path.basename(hierarchy.own).startswith(PREFIX):
            fd = os.open(os.path.join(hierarchy.own, "cgroup.procs"), os.O_WRONLY | os.O_CLOEXEC)
            os.write(fd, b"0")
            os.close(fd)
