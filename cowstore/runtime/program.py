"""Steps that turn a process into the program: nothing of the launcher's is left, and it is executed."""

from __future__ import annotations

import errno
import os
import signal
import stat

from cowstore._linux._call import oserror
from cowstore._linux.fd import Descriptor
from cowstore._linux.files import Resolve, openat2
from cowstore._linux.signals import rt_sigaction_default
from cowstore._linux.spawn import posix_spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from cowstore.runtime.inside import Inside

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""Exit statuses: no such program, one that cannot be executed."""


class ProgramError(Exception):
    """The program cannot be executed.

    :ivar status: what a shell would exit with.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def enter_directory(inside: Inside, *, path: str, may_lack: bool) -> None:
    """Start the program in its working directory."""
    # Opened without magic links: /proc/self/fd/N would lead out through whatever is still open here.
    try:
        fd = openat2(
            inside.root, path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, Resolve.IN_ROOT | Resolve.NO_MAGICLINKS
        )
    except OSError as error:
        if may_lack and error.errno in {errno.ENOENT, errno.ENOTDIR, errno.EACCES}:
            return
        raise
    with Descriptor(fd):
        os.fchdir(fd)
    if not os.getcwd().startswith("/"):
        raise oserror("getcwd(3)", path, detail="outside the root", code=errno.EXDEV)


def own_session(inside: Inside) -> None:  # noqa: ARG001  # every step has the same signature
    """Give the program a session of its own: it can push no keys into the caller's terminal (TIOCSTI)."""
    os.setsid()


def reset_signals(inside: Inside) -> None:  # noqa: ARG001
    """Give every signal its default disposition; the program inherits that from process 1."""
    default_signals()


def default_signals() -> None:
    """Give every signal of this process its default disposition."""
    for number in range(1, signal.NSIG):
        # Python ignores SIGPIPE and SIGXFSZ, nohup(1) SIGHUP; some callers the two that the C library keeps to itself.
        if number in {32, 33}:
            rt_sigaction_default(number)
        elif number not in {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)


def unblock_signals(inside: Inside) -> None:  # noqa: ARG001
    """Let every signal through; one that came meanwhile arrives now."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def execute(inside: Inside, *, argv: tuple[str, ...], env: tuple[tuple[str, str], ...]) -> NoReturn:
    """Become the program.

    :raises ProgramError: there is none, or it cannot be executed.
    """
    inside.let_go()
    _try_each(inside, argv, env, os.execve)
    raise AssertionError("execve(2) does not return")


def start(inside: Inside, *, argv: tuple[str, ...], env: tuple[tuple[str, str], ...]) -> None:
    """Start the program as a child, with what process 1 may still do; no copy of process 1 is made for that.

    :raises ProgramError: there is none, or it cannot be executed.
    """
    inside.let_go()
    inside.program = _try_each(inside, argv, env, posix_spawn)
    os.chdir("/")


def _try_each(
    inside: Inside,
    argv: tuple[str, ...],
    env: tuple[tuple[str, str], ...],
    run: Callable[[str, tuple[str, ...], dict[str, str]], int],
) -> int:
    """Look for the program, and run what is found.

    :raises ProgramError: there is none, or it cannot be executed.
    """
    environment = dict(env)
    environment.setdefault("HOME", inside.home)
    name = argv[0]
    if not name:
        raise ProgramError(NOT_FOUND, "the program's name is empty")
    if "/" in name:
        candidates = [name]
    else:
        # An empty part of PATH is the working directory, as in every shell.
        candidates = [os.path.join(part or ".", name) for part in environment.get("PATH", "").split(":")]
    refused: ProgramError | None = None
    for path in candidates:
        try:
            _refuse_magic(path)
            return run(path, argv, environment)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR} and not _is_there(path):
                continue
            # As execvp(3): a name that may not be executed does not hide a later one that may.
            refused = refused or ProgramError(NOT_EXECUTABLE, _why(path, error))
            if error.errno not in {errno.EACCES, errno.ENOENT, errno.ENOTDIR}:
                break
    if refused is not None:
        raise refused
    where = f"there is no {name}" if "/" in name else f"{name} is not in the PATH {environment.get('PATH', '')!r}"
    raise ProgramError(NOT_FOUND, f"{name}: not found: {where} of the root")


def _is_there(path: str) -> bool:
    try:
        os.stat(path)
    except OSError:
        return False
    return True


def _refuse_magic(path: str) -> None:
    """Refuse a program, or an interpreter named in its first line, that is reached through a magic link.

    ``/proc/self/exe`` is the launcher's own interpreter here, a file of this machine: executed, it could be opened for
    writing from inside.

    :raises OSError: ELOOP.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = openat2(None, path, flags, 0, Resolve.NO_MAGICLINKS)
    except PermissionError:
        # Executable and not readable: a binary, then, since an interpreter would have to read it.
        os.close(openat2(None, path, os.O_PATH | os.O_CLOEXEC, 0, Resolve.NO_MAGICLINKS))
        return
    with Descriptor(fd):
        head = os.read(fd, 256) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    if head.startswith(b"#!"):
        words = head[2:].split(b"\n", 1)[0].split()
        if words:
            try:
                os.close(openat2(None, words[0], os.O_PATH | os.O_CLOEXEC, 0, Resolve.NO_MAGICLINKS))
            except FileNotFoundError:
                return  # execve(2) says so


def _why(path: str, error: OSError) -> str:
    if os.path.isdir(path):
        return f"{path}: cannot execute: it is a directory"
    if error.errno == errno.EACCES:
        return f"{path}: cannot execute: permission denied; is its executable bit set?"
    if error.errno == errno.ENOEXEC:
        return f"{path}: cannot execute: neither a binary for this machine nor a script with a #! line"
    if error.errno == errno.ENOENT:
        return f"{path}: cannot execute: the interpreter or loader it names is not in the root"
    if error.errno == errno.ELOOP:
        return f"{path}: cannot execute: it is, or is interpreted by, a link of /proc"
    return f"{path}: cannot execute: {error.strerror}"
