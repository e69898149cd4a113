"""The launcher: gives birth to process 1 in its namespaces, stays with it, and tells what became of the program.

It must be a process of one thread. Killed at any moment, it takes the container with it: the kernel ends process 1 with
the thread that made it, all others inside with process 1, and every mount with the last of them.
"""

from __future__ import annotations

import os
import select
import signal
import time

from cowstore._linux.namespaces import CloneFlag, pidfd_send_signal
from cowstore._linux.signals import read_signals, signalfd
from cowstore.errors import CowstoreError
from cowstore.runtime import messages
from cowstore.runtime.forwarded import FORWARDED
from cowstore.runtime.inside import Inside
from cowstore.runtime.messages import LAUNCHER_FAILED, explain
from cowstore.runtime.newborn import Newborn
from cowstore.runtime.outside import namespaces, outside
from cowstore.runtime.passing import ENTRANCE, KEPT, Order
from cowstore.runtime.transport import pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Iterable

    from cowstore._linux.fd import Descriptor
    from cowstore.runtime.cgroups import Groups
    from cowstore.runtime.network import Helper
    from cowstore.runtime.operations import Operation
    from cowstore.runtime.spec import Spec
    from cowstore.runtime.terminal import Terminal
    from cowstore.runtime.watcher import Watcher

_END_GRACE_S = 2.0
"""Seconds between SIGTERM and SIGKILL when the time is over."""


class Outcome:
    """What became of a run.

    :ivar wait_status: of the program, as waitpid(2) has it; None if there was none.
    :ivar failure: why there was none. :ivar failure_status: what to exit with then.
    :ivar timed_out: it was ended because its time was over. :ivar warnings: lines to show.
    :ivar out_of_memory: the kernel ended a process of it for want of memory.
    :ivar peak_memory_bytes: the most memory it had at once; without a limit, that of its largest process.
    :ivar cpu_seconds: time that processors spent on it.
    """

    __slots__ = (
        "cpu_seconds",
        "failure",
        "failure_status",
        "out_of_memory",
        "peak_memory_bytes",
        "timed_out",
        "wait_status",
        "warnings",
    )

    def __init__(self) -> None:
        self.wait_status: int | None = None
        self.failure: str | None = None
        self.failure_status = LAUNCHER_FAILED
        self.timed_out = False
        self.warnings: list[str] = []
        self.out_of_memory = False
        self.peak_memory_bytes = 0
        self.cpu_seconds = 0.0

    @property
    def exit_status(self) -> int:
        """What a shell would say: the program's own status, or 128 and the signal that ended it."""
        if self.wait_status is None:
            return self.failure_status
        code = os.waitstatus_to_exitcode(self.wait_status)
        return code if code >= 0 else 128 - code

    def summary(self) -> dict[str, object]:
        """Return all of it as plain values, for another process."""
        made: dict[str, object] = {name: getattr(self, name) for name in self.__slots__}
        return made


class Container:
    """A container that was started: process 1, and the pipes to it.

    :ivar pid: of process 1 (of the program, where that is process 1). :ivar pidfd: the same, by descriptor.
    """

    _control: Descriptor | _socket.socket
    _groups: Groups | None
    _network: Helper | None
    _on_running: Callable[[], None] | None
    _root: Descriptor | None
    _terminal: Terminal | None
    _watcher: Watcher | None

    def __init__(
        self, spec: Spec, *, keep: Iterable[int] = (), streams: Iterable[int] = (), newborn: Newborn | None = None
    ) -> None:
        """Start *spec*.

        :param keep: descriptors that process 1 holds until its end: the lease, so that what is still mounted is busy.
        :param streams: the program's standard streams; none for those of this process.
        :param newborn: a process 1 that is there already; it is ended if it is not what *spec* needs.
        :raises OSError: no namespaces, processes or descriptors to be had. :raises CowstoreError: a step failed.
        """
        self._begin(spec)
        inside = Inside()
        flags = namespaces(spec)
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
        try:
            networked = spec.network == "user"
            if newborn is not None and not newborn.suits(flags, networked=networked):
                newborn.end()
                newborn = None
            if newborn is None and flags & CloneFlag.NEWCGROUP:
                newborn = Newborn(flags, networked=networked)
            for step in outside(spec):
                _take(step, inside)
            self._groups = inside.groups
            self._helper = inside.helper
            self.outcome.warnings += inside.warnings
            self._root = inside.held
            # With version 2 of control groups, no other process may be in our group when one is made below it.
            newborn = newborn or Newborn(flags, staged=not spec.runtime, networked=networked)
            self.pid, self.pidfd = newborn.pid, newborn.pidfd
            self._status, self._control = newborn.status, newborn.control
            self._watch()
            files = [(str(number), fd) for number, fd in enumerate(streams)]
            files += [(name, tree.fileno()) for name, tree in inside.tree.items()]
            files += [(ENTRANCE, fd) for fd in inside.entrances]
            files += [(KEPT, fd) for fd in keep]
            newborn.tell(Order(spec=pack(spec), hostname=os.uname().nodename, files=tuple(files)))
        except BaseException:
            if newborn is not None:
                newborn.end()
            if self._watcher is not None:
                self._watcher.end()
            if inside.groups is not None:
                inside.groups.remove()
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            raise
        finally:
            inside.let_go()
            for fd in inside.entrances:
                os.close(fd)

    def _watch(self) -> None:
        """Have somebody end the container where the kernel does not do it with this process."""
        groups = [] if self._groups is None else list(self._groups.made)
        if not self.as_pid_1 and not groups:
            return
        from cowstore.runtime.watcher import Watcher, can_freeze

        if self.as_pid_1 or can_freeze(groups):
            self._watcher = Watcher(self.pidfd, groups)

    def _begin(self, spec: Spec) -> None:
        """Set what is so before anything is started."""
        self.as_pid_1 = spec.as_pid_1 and not spec.runtime
        self._is_left_to_runtime = bool(spec.runtime)
        self._ended_by: int | None = None
        self._stop_signal = spec.stop_signal
        self._groups = None
        self._network = None
        self.outcome = Outcome()
        self.running = False
        self._ended = False
        self._measured = False
        self._on_running = None
        self._root = None
        self._terminal = None
        self._watcher = None

    def send(self, number: int) -> None:
        """Send a signal as if to the program; one to a container that has ended is lost."""
        if self.as_pid_1 and number in {signal.SIGTSTP, signal.SIGCONT}:
            from cowstore.runtime.watcher import stop_tree

            stop_tree(self.pid, signal.SIGSTOP if number == signal.SIGTSTP else signal.SIGCONT)
            return
        try:
            pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return
        if number not in FORWARDED:
            return
        # The kernel spares process 1 every signal it has no handler for; outside, this one would have ended it.
        if self.as_pid_1 and self._would_ignore(self.pid, number):
            pidfd_send_signal(self.pidfd, signal.SIGKILL)
            self.outcome.wait_status = number
        elif self._is_left_to_runtime:
            self._end_inner(number)

    def _end_inner(self, number: int) -> None:
        """End the program of another runtime, which is process 1 of a namespace of its own, if it ignores a signal."""
        from cowstore.runtime.oci import program_of

        inner = program_of(self.pid)
        if inner is not None and self._would_ignore(inner, number):
            os.kill(inner, signal.SIGKILL)
            self._ended_by = number

    def _would_ignore(self, pid: int, number: int) -> bool:
        """Tell whether a signal that ends a program is lost on process 1 because it has no handler."""
        if number in {signal.SIGWINCH, signal.SIGCONT, signal.SIGTSTP}:
            return False
        try:
            with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
                masks = dict(line.rstrip().split(":\t", 1) for line in file if line.startswith("Sig"))
        except OSError:
            return False
        bit = 1 << (number - 1)
        return not any(int(masks.get(name, "0"), 16) & bit for name in ("SigCgt", "SigIgn", "SigBlk"))

    def supervise(
        self,
        *,
        timeout_s: float | None = None,
        owner: int | None = None,
        before_unmount: Callable[[int], None] | None = None,
        measured: bool = False,
        on_running: Callable[[], None] | None = None,
    ) -> Outcome:
        """Stay with the container to its end: forward signals, watch the time and the owner.

        :param timeout_s: seconds after which the program gets SIGTERM, and two seconds later SIGKILL.
        :param owner: a descriptor that ends with whom the container is for; every byte from it is a signal to send.
        :param on_running: called when the program has been executed.
        :param measured: find out the processors' time and the memory that it took.
        :param before_unmount: called with the root's descriptor when all inside have ended and it is still mounted;
            for a spec that says so (``holds_root``).
        """
        self._measured = measured
        self._on_running = on_running
        with signalfd(FORWARDED) as signals:
            poll = select.poll()
            for fd in (self._status.fileno(), self.pidfd.fileno(), signals.fileno()):
                poll.register(fd, select.POLLIN)
            if owner is not None:
                poll.register(owner, select.POLLIN)
            clock = _Clock(timeout_s, self._stop_signal)
            reader = messages.Reader()
            while not self._ended:
                ready = dict(poll.poll(clock.wait_ms()))
                if signals.fileno() in ready:
                    self._pass_on(read_signals(signals))
                if self._terminal is not None:
                    self._terminal.relay(poll, ready)
                if self._status.fileno() in ready:
                    self._listen(poll, reader)
                if self._network is not None and self._network.fileno() in ready:
                    self._lose_network(poll, self._network)
                if self.pidfd.fileno() in ready or (owner is not None and owner in ready and not self._obey(owner)):
                    break
                if clock.over():
                    self.outcome.timed_out = True
                    self.send(clock.next_signal())
            outcome = self._finish(reader)
        if self._root is not None:
            with self._root as root:
                if before_unmount is not None:
                    before_unmount(root.fileno())
        return outcome

    def _obey(self, owner: int) -> bool:
        """Send the signals that the owner asks for; False when the owner is gone."""
        asked = os.read(owner, 256)
        for number in asked:
            if number == signal.SIGWINCH and self._terminal is not None:
                self._terminal.resize()
            else:
                self.send(number)
        return bool(asked)

    def _pass_on(self, received: list[tuple[int, int]]) -> None:
        for number, _ in received:
            if number == signal.SIGWINCH and self._terminal is not None:
                self._terminal.resize()
                continue
            self.send(number)
            if number == signal.SIGTSTP:
                # Stop as well, so that the shell gets its terminal back; it continues us, and we the container.
                os.kill(os.getpid(), signal.SIGSTOP)

    def _listen(self, poll: select.poll, reader: messages.Reader) -> None:
        content = os.read(self._status.fileno(), 65536)
        if not content:
            poll.unregister(self._status.fileno())
            if not self.running and self.outcome.failure is None:
                self._has_begun()
            return
        for message in reader.feed(content):
            if message[0] == messages.TERMINAL:
                self._connect_terminal(poll, message[1])
            elif message[0] == messages.NETWORK:
                self._connect_network(poll)
            self._take(message)

    def _connect_terminal(self, poll: select.poll, master: object) -> None:
        """Take over the other end of the container's terminal, and let process 1 go on."""
        from cowstore._linux.namespaces import pidfd_getfd
        from cowstore.runtime.terminal import Terminal

        assert isinstance(master, int), "it is what process 1 says"
        self._terminal = Terminal(pidfd_getfd(self.pidfd, master))
        self._terminal.connect(poll)
        os.write(self._control.fileno(), b"+")

    def _connect_network(self, poll: select.poll) -> None:
        """Start the helper that connects the container's network."""
        from cowstore.runtime.network import Helper

        self._network = Helper(self._helper, self.pid)
        poll.register(self._network.fileno(), select.POLLIN)

    def _lose_network(self, poll: select.poll, helper: Helper) -> None:
        """Say that the helper has ended, to process 1 if it still waits, and otherwise to people."""
        poll.unregister(helper.fileno())
        why = f"{helper.name}, which is to connect the network, has ended: {helper.remarks()}"
        if self.running:
            self.outcome.warnings.append(why)
        else:
            os.write(self._control.fileno(), why.encode()[:4096])

    def _take(self, message: tuple[object, ...]) -> None:
        match message:
            case (messages.RUNNING,):
                self._has_begun()
            case (messages.ENDED, int(wait_status)):
                self.outcome.wait_status = self._ended_by or wait_status
            case (messages.FAILED, int(status), str(text)):
                self.outcome.failure, self.outcome.failure_status = text, status
            case (messages.WARNING, str(text)):
                self.outcome.warnings.append(text)

    def _has_begun(self) -> None:
        """Note that the program was executed."""
        self.running = True
        if self._on_running is not None:
            self._on_running()

    def _finish(self, reader: messages.Reader) -> Outcome:
        """End what is left, wait for process 1, and read what it still said."""
        outcome = self.outcome
        if self._groups is not None:
            self._groups.thaw()
        try:
            pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        wait_status = self._wait(outcome)
        self._ended = True
        while content := os.read(self._status.fileno(), 65536):
            for message in reader.feed(content):
                self._take(message)
        if self._terminal is not None:
            self._terminal.close()
        if self._network is not None:
            self._network.end()
        if self._watcher is not None:
            self._watcher.end()
        self.close()
        if self._groups is not None:
            outcome.out_of_memory = self._groups.out_of_memory()
            outcome.peak_memory_bytes = self._groups.peak_memory() or outcome.peak_memory_bytes
            self._groups.remove()
        if outcome.wait_status is None and outcome.failure is None:
            if self.running or os.WIFSIGNALED(wait_status):
                outcome.wait_status = wait_status
            else:
                outcome.failure = "process 1 of the container ended without a word"
        return outcome

    def _wait(self, outcome: Outcome) -> int:
        if not self._measured:
            return os.waitpid(self.pid, 0)[1]
        _, wait_status, used = os.wait4(self.pid, 0)
        outcome.cpu_seconds = used.ru_utime + used.ru_stime
        outcome.peak_memory_bytes = used.ru_maxrss * 1024
        return wait_status

    def close(self) -> None:
        """Let go of the pipes and give the launcher its signals back."""
        self._control.close()
        self._status.close()
        self.pidfd.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)


def _take(step: Operation, inside: Inside) -> None:
    """Take a step of the launcher.

    :raises CowstoreError: it failed, and which it was.
    """
    try:
        step.execute(inside)
    except OSError as error:
        raise CowstoreError(f"cannot {step.name}: {explain(error)}") from error


class _Clock:
    """Says when the time is over, and what to send then."""

    def __init__(self, timeout_s: float | None, stop_signal: int) -> None:
        self._signals = [stop_signal, int(signal.SIGKILL)]
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s

    def wait_ms(self) -> int | None:
        if self._deadline is None:
            return None
        return max(0, int((self._deadline - time.monotonic()) * 1000) + 1)

    def over(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def next_signal(self) -> int:
        number = self._signals.pop(0)
        self._deadline = time.monotonic() + _END_GRACE_S if self._signals else None
        return number
