"""A network of the user's: a helper outside carries packets between the container and ordinary sockets of this machine.

The helper is pasta, or else slirp4netns. It runs beside the container, below the launcher, ends with it, and needs no
privilege on this machine. Inside there is one interface, ``eth0``, with the same addresses whichever helper it is.

Source: pasta(1), slirp4netns(1).
"""

from __future__ import annotations

import os
import select
import signal
import time

from cowstore import _programs
from cowstore._linux import prctl
from cowstore._linux.fd import Descriptor, open_
from cowstore._linux.mount import MountAttr, OpenTreeFlag, mount_setattr, open_tree
from cowstore._linux.namespaces import CloneFlag, clone3
from cowstore.errors import Unsupported
from cowstore.runtime import messages
from cowstore.runtime.messages import LAUNCHER_FAILED
from cowstore.runtime.program import ProgramError, default_signals
from cowstore.runtime.root import SECURED, attach, make_file_system
from cowstore.runtime.spec import DEFAULT_PATH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from cowstore.runtime.inside import Inside

ADDRESS, GATEWAY, RESOLVER = "10.0.2.100", "10.0.2.2", "10.0.2.3"
"""Of the container, of the way out, and of what answers for this machine's own resolver."""

INTERFACE = "eth0"
_PATIENCE_SECONDS = 10.0
_NAMESPACE_FD = 3


def find_helper(inside: Inside) -> None:
    """Find the program that carries the packets.

    :raises Unsupported: there is none.
    """
    for name in ("pasta", "slirp4netns"):
        path = _programs.find_in(DEFAULT_PATH.split(":"), name)
        if path is not None:
            inside.helper = path
            return
    raise Unsupported(
        "a network of the user's needs pasta or slirp4netns, and neither is installed: on Debian they are in the "
        "packages passt and slirp4netns",
        feature="network",
    )


class Helper:
    """The helper of one container, as the launcher has it."""

    def __init__(self, program: str, pid: int) -> None:
        """Start it.

        :param program: its path. :param pid: of process 1, whose network namespace it is.
        """
        self.name = os.path.basename(program)
        self._remarks = Descriptor(os.memfd_create("remarks", os.MFD_CLOEXEC))
        alive, self._alive = map(Descriptor, os.pipe2(os.O_CLOEXEC))
        with open_(f"/proc/{pid}/ns/net", os.O_RDONLY) as namespace, alive:
            self._pid, pidfd = clone3(CloneFlag.NEWPID | CloneFlag.PIDFD)
            if self._pid == 0:
                try:
                    _watch(program, pid, namespace.fileno(), self._remarks.fileno(), alive.fileno())
                finally:
                    os._exit(LAUNCHER_FAILED)
        assert pidfd is not None, "asked for by CloneFlag.PIDFD"
        self._pidfd = pidfd

    def fileno(self) -> int:
        """Return a descriptor that is readable when the helper has ended."""
        return self._pidfd.fileno()

    def remarks(self) -> str:
        """Return the last line that the helper has said."""
        content = os.pread(self._remarks.fileno(), 65536, 0).decode(errors="replace")
        said = [line.strip() for line in content.splitlines() if line.strip() and "syslog" not in line]
        return said[-1] if said else "it ended without a word"

    def end(self) -> None:
        """End it and let go of it."""
        if self._pidfd.closed:
            return
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._alive.close()
        self._pidfd.close()
        self._remarks.close()


def _watch(program: str, pid: int, namespace: int, remarks: int, alive: int) -> NoReturn:
    """Be process 1 of a process namespace with the helper alone in it, and end with the launcher or the helper.

    The helper itself cannot be asked to end with the launcher: as it changes its credentials the kernel forgets that.
    """
    from cowstore.runtime.init import close_all_but, leave_if_alone

    prctl.set_pdeathsig(signal.SIGKILL)
    close_all_but({0, 1, 2, namespace, remarks, alive})
    leave_if_alone(alive)
    helper = os.fork()
    if helper == 0:
        _become(program, pid, namespace, remarks)
    close_all_but(set())
    while os.waitpid(-1, 0)[0] != helper:
        pass
    os._exit(0)


def _become(program: str, pid: int, namespace: int, remarks: int) -> NoReturn:
    """Become the helper."""
    from cowstore.runtime.init import close_all_but

    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd, number in ((null, 0), (null, 1), (remarks, 2), (namespace, _NAMESPACE_FD)):
        os.dup2(fd, number)
    close_all_but({0, 1, 2, _NAMESPACE_FD})
    default_signals()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.execve(program, _words(program, pid), {"PATH": DEFAULT_PATH})


def _words(program: str, pid: int) -> list[str]:
    """Return the command line: what is on this machine's loopback stays out of reach, and no port leads in."""
    if os.path.basename(program) == "slirp4netns":
        options = "--configure --disable-host-loopback --enable-sandbox --enable-seccomp --mtu=65520"
        return [program, *options.split(), str(pid), INTERFACE]
    options = (
        "--foreground --quiet --config-net --ipv4-only --tcp-ports none --udp-ports none --tcp-ns none --udp-ns none "
        # Nobody else than the launcher's user: another one may not enter the namespace, and would outlive the launcher.
        f"--no-map-gw --no-netns-quit --runas {os.geteuid()}"
    )
    addresses = f"--address {ADDRESS} --netmask 24 --gateway {GATEWAY} --dns-forward {RESOLVER} --ns-ifname {INTERFACE}"
    # By descriptor: it has given up what it takes to look at process 1 by then.
    return [program, *options.split(), *addresses.split(), "--netns", f"/proc/self/fd/{_NAMESPACE_FD}"]


# Steps.


def join_network(inside: Inside) -> None:
    """Have the launcher start the helper, and wait until there is a way out.

    :raises ProgramError: the helper failed.
    """
    messages.send(inside.status, messages.NETWORK)
    poll = select.poll()
    poll.register(inside.control, select.POLLIN)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not _has_way_out():
        if poll.poll(5):
            why = os.read(inside.control, 4096).decode(errors="replace")
            if not why:
                os._exit(LAUNCHER_FAILED)  # the launcher is gone
            raise ProgramError(LAUNCHER_FAILED, why)
        if time.monotonic() > deadline:
            raise ProgramError(LAUNCHER_FAILED, f"there is no network after {_PATIENCE_SECONDS:.0f} seconds")


def _has_way_out() -> bool:
    """Tell whether there is a default route in this process's network namespace."""
    # As bytes: an encoding would have to be imported.
    with open("/proc/thread-self/net/route", "rb") as file:
        return any(line.split()[1:2] == [b"00000000"] for line in file)


def show_resolver(inside: Inside) -> None:
    """Cover the root's resolver file by one that names the helper's; a root that cannot have one goes without."""
    with make_file_system("tmpfs", (("mode", "755"), ("size", "4096"), ("nr_inodes", "2")), SECURED) as made:
        here = made.fileno()
        fd = os.open("resolv.conf", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=here)
        os.write(fd, f"nameserver {RESOLVER}\n".encode())
        os.close(fd)
        try:
            place = inside.place("/etc/resolv.conf", directory=False)
        except OSError as error:
            inside.warnings.append(f"the root has no /etc/resolv.conf and takes none ({error.strerror}): no names")
            return
        with place, open_tree(here, "resolv.conf", OpenTreeFlag.CLONE) as file:
            mount_setattr(file, "", OpenTreeFlag.EMPTY_PATH, set=SECURED | MountAttr.RDONLY)
            attach(file, place)
