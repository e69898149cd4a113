"""Process 1: makes the root from inside, starts the program, forwards signals to it, and reaps whatever it leaves.

It is a fork of the launcher, and the image's files are all around it once the root has changed. So it imports nothing
from there on, prints nothing, and holds no descriptor that leads out but a lock file's.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys

from cowstore._linux import prctl
from cowstore.runtime import messages
from cowstore.runtime.operations import Stage
from cowstore.runtime.program import LAUNCHER_FAILED, ProgramError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NoReturn

    from cowstore.runtime.inside import Inside
    from cowstore.runtime.operations import Operation

TO_GROUP = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH})
"""What a terminal sends to a whole process group, and we too."""
TO_PROGRAM = frozenset({signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM})
"""What is sent to one process."""
TO_ALL = frozenset({signal.SIGTSTP, signal.SIGCONT})
"""Stops and continues everything inside."""
FORWARDED = TO_GROUP | TO_PROGRAM | TO_ALL


def process_1(
    operations: tuple[Operation, ...], inside: Inside, *, status: int, control: int, keep: Iterable[int], as_pid_1: bool
) -> NoReturn:
    """Be process 1 of a new container; never returns.

    :param status: pipe to the launcher. :param control: pipe from the launcher; it ends with it.
    :param keep: descriptors to hold until the end. :param as_pid_1: become the program instead of starting it.
    """
    code = LAUNCHER_FAILED
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        prctl.set_pdeathsig(signal.SIGKILL)
        close_all_but({0, 1, 2, status, control, *keep, *inside.entrances})
        leave_if_alone(control)
        inside.status, inside.control = status, control
        if _set_up(operations, inside, status):
            if as_pid_1:
                become(operations, inside, status)
            else:
                code = start(operations, inside, status)
    finally:
        # Whatever happens, and be it a fault of ours: never return into the launcher's code, of which this is a copy.
        os._exit(code)


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


def _set_up(operations: tuple[Operation, ...], inside: Inside, status: int) -> bool:
    """Take the steps of process 1; False if one failed, which the launcher has been told."""
    before = os.umask(0)
    for step in operations:
        if step.stage is not Stage.INIT:
            continue
        if inside.entered:
            import_no_more()
        if not _attempt(step, inside, status):
            return False
    os.umask(before)
    for text in inside.warnings:
        messages.send(status, messages.WARNING, text)
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


def explain(error: OSError) -> str:
    """Say in one line what the kernel refused."""
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) and error.filename else ""
    notes = "; ".join(getattr(error, "__notes__", ()))
    return f"{where}{error.strerror}" + (f" ({notes})" if notes else "")


def become(operations: tuple[Operation, ...], inside: Inside, status: int) -> None:
    """Become the program; returns only if that fails, and the launcher has been told."""
    for step in operations:
        if step.stage is Stage.PROGRAM and not _attempt(step, inside, status):
            return


def start(operations: tuple[Operation, ...], inside: Inside, status: int, *, alone: bool = True) -> int:
    """Start the program and stay with it to its end; returns what to exit with.

    :param alone: this is process 1, and all processes there are to see are the container's. If not, only the program
        is ours to signal, and what it leaves is process 1's.
    """
    told, tell = os.pipe2(os.O_CLOEXEC)
    program = os.fork()
    if program == 0:
        try:
            os.close(told)
            os.close(status)
            become(operations, inside, tell)
        finally:
            os._exit(LAUNCHER_FAILED)
    os.close(tell)
    inside.let_go()
    if inside.terminal is not None:
        inside.terminal.close()
    # Ends when the program has been executed, or cannot be.
    refusal = b""
    while part := os.read(told, 65536):
        refusal += part
    os.close(told)
    if refusal:
        os.waitpid(program, 0)
        os.write(status, refusal)
        return LAUNCHER_FAILED
    messages.send(status, messages.RUNNING)
    ended = _watch(program, -1 if alone else -program)
    if alone:
        _end_all()
    if inside.bundle and not _was_a_program(inside.bundle):
        messages.fail(status, LAUNCHER_FAILED, "the runtime could not start the program: see what it says above")
    else:
        messages.send(status, messages.ENDED, ended)
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
