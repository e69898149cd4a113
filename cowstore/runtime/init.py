"""Process 1: makes the root from inside, starts the program, forwards signals to it, and reaps whatever it leaves.

It is a fork of the launcher, made before anybody knows what it is to run (see :mod:`cowstore.runtime.newborn`). At
first it prepares what every container needs; then it waits for its order. The image's files are all around it once the
root has changed. So it imports nothing from there on, prints nothing, and holds no descriptor that leads out but a lock
file's.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys

from cowstore._linux import prctl
from cowstore._linux.fd import Descriptor
from cowstore.runtime import messages, passing
from cowstore.runtime.forwarded import FORWARDED, TO_GROUP
from cowstore.runtime.inside import Inside
from cowstore.runtime.messages import LAUNCHER_FAILED, explain
from cowstore.runtime.passing import ENTRANCE, KEPT
from cowstore.runtime.plan import ahead, may_be_started, program_of, watch
from cowstore.runtime.plan import become as become_steps
from cowstore.runtime.plan import inside as inside_steps
from cowstore.runtime.program import ProgramError
from cowstore.runtime.transport import unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Iterable
    from typing import NoReturn

    from cowstore._linux.namespaces import CloneFlag
    from cowstore.runtime.operations import Operation
    from cowstore.runtime.passing import Order
    from cowstore.runtime.spec import Spec


def process_1(flags: CloneFlag, *, staged: bool, status: int, control: _socket.socket) -> NoReturn:
    """Be process 1 of a new container; never returns.

    :param flags: the namespaces it was born in. :param staged: it leaves this machine's tree.
    :param status: pipe to the launcher. :param control: connection to the launcher; it ends with it.
    """
    code = LAUNCHER_FAILED
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        prctl.set_pdeathsig(signal.SIGKILL)
        close_all_but({0, 1, 2, status, control.fileno()})
        leave_if_alone(control.fileno())
        inside = Inside()
        inside.status, inside.control = status, control.fileno()
        if _take(ahead(flags, staged=staged), inside):
            order = passing.receive(control)
            if order is not None:
                code = _obey(order, inside)
    finally:
        # Whatever happens, and be it a fault of ours: never return into the launcher's code, of which this is a copy.
        os._exit(code)


def _obey(order: Order, inside: Inside) -> int:
    """Do what is ordered; returns what to exit with."""
    _take_files(order, inside)
    spec, _ = unpack(order.spec)
    inside.hostname = order.hostname
    if not _take(inside_steps(spec), inside):
        return LAUNCHER_FAILED
    for text in inside.warnings:
        messages.send(inside.status, messages.WARNING, text)
    if spec.as_pid_1 and not spec.runtime:
        become(become_steps(spec), inside, inside.status)
        return LAUNCHER_FAILED
    if not may_be_started(spec):
        return stay(Program(inside, spec), inside)
    if not become(program_of(spec), inside, inside.status):
        return LAUNCHER_FAILED
    assert inside.program is not None, "the last step has started it"
    return stay(Started(inside.program), inside)


def _take_files(order: Order, inside: Inside) -> None:
    """Put the files of an order where the steps look for them. Those that are kept need nothing: they are open."""
    for name, fd in order.files:
        if name.isdigit():
            os.dup2(fd, int(name))
            os.close(fd)
        elif name == ENTRANCE:
            inside.entrances.append(fd)
        elif name != KEPT:
            inside.tree[name] = Descriptor(fd)


def close_all_but(kept: set[int]) -> None:
    """Close every descriptor but these."""
    start = 0
    for fd in sorted(kept):
        if fd > start:
            os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, os.sysconf("SC_OPEN_MAX"))


def leave_if_alone(control: int) -> None:
    """End if the launcher was gone before the kernel was asked to tell: its end of the pipe is closed then."""
    poll = select.poll()
    poll.register(control, 0)
    if poll.poll(0):
        os._exit(LAUNCHER_FAILED)


def import_no_more() -> None:
    """Let no module come from the image."""
    sys.meta_path.clear()
    sys.path.clear()
    sys.path_hooks.clear()


def _take(steps: Iterable[Operation], inside: Inside) -> bool:
    """Take steps of process 1; False if one failed, which the launcher has been told."""
    before = os.umask(0)
    for step in steps:
        if inside.entered:
            import_no_more()
        if not _attempt(step, inside, inside.status):
            return False
    os.umask(before)
    return True


def _attempt(step: Operation, inside: Inside, status: int) -> bool:
    try:
        step.execute(inside)
    except ProgramError as error:
        messages.fail(status, error.status, str(error))
    except OSError as error:
        messages.fail(status, LAUNCHER_FAILED, f"cannot {step.name}: {explain(error)}")
    except Exception as error:  # noqa: BLE001  # nobody else can tell of it
        messages.fail(status, LAUNCHER_FAILED, f"cannot {step.name}: {type(error).__name__}: {error}")
    else:
        return True
    return False


def become(steps: Iterable[Operation], inside: Inside, status: int) -> bool:
    """Take steps to become the program; False if one failed, and *status* has been told."""
    return all(_attempt(step, inside, status) for step in steps)


class Started:
    """The process of a program that was executed."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def refusal(self) -> bytes:
        """Say why it cannot be executed: it was."""
        return b""


class Program(Started):
    """A copy of this process that becomes the program, as its parent sees it."""

    def __init__(self, inside: Inside, spec: Spec) -> None:
        self._told, tell = os.pipe2(os.O_CLOEXEC)
        if inside.entered:
            import_no_more()
        super().__init__(os.fork())
        if self.pid == 0:
            try:
                os.close(self._told)
                os.close(inside.status)
                if inside.control != -1:
                    os.close(inside.control)
                become(become_steps(spec), inside, tell)
            finally:
                os._exit(LAUNCHER_FAILED)
        os.close(tell)

    def refusal(self) -> bytes:
        """Wait until it has been executed, or cannot be: then it says why."""
        said = b""
        while part := os.read(self._told, 65536):
            said += part
        os.close(self._told)
        return said


def stay(program: Started, inside: Inside, *, alone: bool = True) -> int:
    """Stay with the program to its end; returns what to exit with.

    :param alone: this is process 1, and all processes there are to see are the container's. If not, only the program
        is ours to signal, and what it leaves is process 1's.
    """
    inside.let_go()
    if inside.terminal is not None:
        inside.terminal.close()
    if alone:
        for step in watch():
            step.execute(inside)
    refusal = program.refusal()
    if refusal:
        os.waitpid(program.pid, 0)
        os.write(inside.status, refusal)
        return LAUNCHER_FAILED
    messages.send(inside.status, messages.RUNNING)
    ended = _watch(program.pid, -1 if alone else -program.pid)
    if alone:
        _end_all()
    if inside.bundle and not _was_a_program(inside.bundle):
        text = "the runtime could not start the program: see what it says above"
        messages.fail(inside.status, LAUNCHER_FAILED, text)
    else:
        messages.send(inside.status, messages.ENDED, ended)
    return 0


def _was_a_program(bundle: str) -> bool:
    """Tell whether a runtime got as far as a program."""
    from cowstore.runtime.oci import evidence

    return os.path.exists(evidence(bundle))


def _watch(program: int, everyone: int) -> int:
    """Forward signals and reap until the program has ended; returns its wait status."""
    awaited = FORWARDED | {signal.SIGCHLD}
    while True:
        number = signal.sigwait(awaited)
        if number == signal.SIGCHLD:
            ended = _reap(program)
            if ended is not None:
                return ended
        else:
            _forward(number, program, everyone)


def _reap(program: int) -> int | None:
    """Wait for every child that has ended; the wait status of the program if it is among them."""
    ended = None
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == program:
            return status
        if pid == 0:
            return ended


def _forward(number: int, program: int, everyone: int) -> None:
    """Pass a signal on; *everyone* is what kill(2) takes for all that are to be stopped and continued."""
    try:
        if number in TO_GROUP:
            os.killpg(program, number)
        elif number == signal.SIGTSTP:
            os.kill(everyone, signal.SIGSTOP)
        elif number == signal.SIGCONT:
            os.kill(everyone, signal.SIGCONT)
        else:
            os.kill(program, number)
    except ProcessLookupError:
        return


def _end_all() -> None:
    """As process 1, end and reap whatever the program left behind, so that nothing uses the root any more."""
    assert os.getpid() == 1, "outside a container that would end the machine"
    try:
        os.kill(-1, signal.SIGKILL)
        while True:
            os.waitpid(-1, 0)
    except OSError as error:
        if error.errno not in {errno.ESRCH, errno.ECHILD}:
            raise
