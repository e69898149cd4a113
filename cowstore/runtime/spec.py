"""What is to be run, where, and how far apart from the rest of the machine: one frozen value."""

from __future__ import annotations

from cowstore._frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.model import Mount
    from cowstore.runtime.binds import Bind
    from cowstore.runtime.limits import Limits

DEFAULT_CAPS = 0x800405FB
"""Mask of what a program of root keeps: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
net_bind_service, sys_chroot and setfcap. None of them reaches out of the container. mknod is not among them: with it a
program could make itself any device of this machine."""

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH of a program that is given none."""


@frozen
class Spec:
    """One process on one root.

    :ivar mounts: the steps that realise the root.
    :ivar argv: the program, looked up in the PATH of *env* inside the root unless it holds a slash, and its arguments.
    :ivar env: the whole environment of the program, as pairs; HOME is added from the root's passwd file if missing.
    :ivar cwd: working directory, absolute and inside the root.
    :ivar cwd_may_lack: where *cwd* is not in the root, start in ``/`` instead of failing.
    :ivar hostname: name of the machine as seen inside; None leaves the one outside.
    :ivar network: ``"none"`` (a loopback interface and nothing else), ``"host"``, or ``"user"`` (one that a helper
        without privileges connects).
    :ivar read_only: nothing can be written to the root itself.
    :ivar hidden: absolute paths in the root that are covered by an empty directory, where they are there.
    :ivar binds: directories and files of this machine that show inside.
    :ivar tmpfs: places for empty file systems in memory, each with the most bytes it may hold.
    :ivar as_pid_1: the program is process 1 itself; nobody reaps for it.
    :ivar tty: the program has a terminal of its own, which the launcher connects with its standard streams.
    :ivar stop_signal: what asks the program to end when its time is over.
    :ivar limits: bounds for all its processes together.
    :ivar user: whom the program runs as: a name or number of the root's own, perhaps with ``:`` and a group.
    :ivar capabilities: mask of the capabilities that a program of root keeps.
    :ivar new_privileges: programs with set-user-ID bits or file capabilities gain what these say.
    :ivar seccomp: filter of system calls, as a program for the kernel; empty for none.
    :ivar runtime: another OCI runtime that is to make the container, by its path; for it the filter of system calls is
        in the words of the OCI specification. :ivar bundle: directory of this machine that is covered by its bundle.
    :ivar holds_root: the launcher keeps the root mounted for a moment when all inside have ended: the driver has
        something to do with it then.
    """

    mounts: tuple[Mount, ...]
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = (("PATH", DEFAULT_PATH),)
    cwd: str = "/"
    cwd_may_lack: bool = False
    hostname: str | None = None
    network: str = "none"
    read_only: bool = False
    hidden: tuple[str, ...] = ()
    binds: tuple[Bind, ...] = ()
    tmpfs: tuple[tuple[str, int | None], ...] = ()
    as_pid_1: bool = False
    tty: bool = False
    stop_signal: int = 15
    limits: Limits | None = None
    user: str = "0:0"
    capabilities: int = DEFAULT_CAPS
    new_privileges: bool = False
    seccomp: bytes = b""
    holds_root: bool = False
    runtime: str = ""
    bundle: str = ""
