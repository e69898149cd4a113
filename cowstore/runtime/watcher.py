"""A process beside a launcher that ends the container when the launcher is gone and the kernel does not.

The kernel is asked to end process 1 with the launcher, and process 1 of ours does not take that back. A program that is
process 1 itself can; and a group of processes that is frozen takes no notice of any signal until it is thawed.
"""

from __future__ import annotations

import os
import select
import signal

from cowstore._linux.fd import Descriptor
from cowstore._linux.namespaces import pidfd_send_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import NoReturn

_FROZEN = {"freezer.state": b"THAWED", "cgroup.freeze": b"0"}
"""Files that thaw a group, version 1 and 2, and what to write. Source: the kernel's cgroup-v1/freezer-subsystem.rst."""


class Watcher:
    """Lives until the container has ended."""

    def __init__(self, pidfd: Descriptor, groups: Iterable[str]) -> None:
        """Start it.

        :param pidfd: of process 1. :param groups: directories of the container's control groups.
        """
        alive, self._alive = map(Descriptor, os.pipe2(os.O_CLOEXEC))
        with alive:
            self._pid = os.fork()
            if self._pid == 0:
                try:
                    _watch(pidfd.fileno(), alive.fileno(), list(groups))
                finally:
                    os._exit(0)

    def end(self) -> None:
        """Let it go: the container has ended."""
        if self._alive.closed:
            return
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._alive.close()


def _watch(pidfd: int, alive: int, groups: list[str]) -> NoReturn:
    from cowstore.runtime.init import close_all_but

    os.setsid()
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    close_all_but({pidfd, alive})
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(alive, 0)
    if alive in dict(poll.poll()):
        thaw(groups)
        try:
            with Descriptor(pidfd) as process_1:
                pidfd_send_signal(process_1, signal.SIGKILL)
        except ProcessLookupError:
            pass
    os._exit(0)


def thaw(groups: Iterable[str]) -> None:
    """Let the processes of control groups take notice of signals again, and of those below them."""
    for top in groups:
        for path in _with_those_below(top):
            for name, word in _FROZEN.items():
                try:
                    fd = os.open(os.path.join(path, name), os.O_WRONLY | os.O_CLOEXEC)
                except OSError:
                    continue
                with Descriptor(fd):
                    os.write(fd, word)


def _with_those_below(top: str) -> Iterator[str]:
    yield top
    try:
        with os.scandir(top) as entries:
            below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for path in below:
        yield from _with_those_below(path)


def can_freeze(groups: Iterable[str]) -> bool:
    """Tell whether a group of version 1 is among them that can be frozen: there SIGKILL waits for the thaw."""
    return any(os.path.exists(os.path.join(path, "freezer.state")) for path in groups)


def stop_tree(pid: int, number: int) -> None:
    """Send SIGSTOP or SIGCONT to a process and to all below it, also those that are born meanwhile."""
    sent: set[int] = set()
    while True:
        found = set(_tree(pid)) - sent
        if not found:
            return
        for each in found:
            try:
                os.kill(each, number)
            except ProcessLookupError:
                continue
        sent |= found


def _tree(pid: int) -> Iterator[int]:
    from cowstore._linux.procfs import children

    yield pid
    try:
        below = children(pid)
    except OSError:  # it has just ended
        return
    for child in below:
        yield from _tree(child)
