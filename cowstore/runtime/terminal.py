"""The launcher's end of a container's terminal, connected with the caller's."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cowstore._linux.fd import Descriptor

TIOCGWINSZ, TIOCSWINSZ = 0x5413, 0x5414
_CHUNK = 65536


class Terminal:
    """Carries keys in and output out; the caller's terminal is raw meanwhile, so that every key arrives.

    Nothing blocks but a reader of our output who is slow: keys that the program does not read wait here.
    """

    def __init__(self, master: Descriptor) -> None:
        """Take over the other end of the program's terminal."""
        self._master = master
        self._saved: list[Any] | None = None
        self._keys = b""
        self._hears = self._speaks = True
        os.set_blocking(master.fileno(), False)

    def connect(self, poll: select.poll) -> None:
        """Begin: the size of the caller's terminal, raw mode, and what to wait for."""
        if os.isatty(0):
            import termios
            import tty

            self._saved = termios.tcgetattr(0)
            tty.setraw(0)
        self.resize()
        poll.register(self._master.fileno(), select.POLLIN)
        poll.register(0, select.POLLIN)

    def resize(self) -> None:
        """Give the program's terminal the size of the caller's, if that is one."""
        for fd in (0, 1, 2):
            try:
                size = fcntl.ioctl(fd, TIOCGWINSZ, struct.pack("4H", 0, 0, 0, 0))
            except OSError:
                continue
            fcntl.ioctl(self._master.fileno(), TIOCSWINSZ, size)
            return

    def relay(self, poll: select.poll, ready: dict[int, int]) -> None:
        """Carry what there is."""
        master = self._master.fileno()
        if 0 in ready:
            self._hear(poll)
        if ready.get(master, 0) & select.POLLOUT or self._keys:
            self._type(poll)
        if ready.get(master, 0) & (select.POLLIN | select.POLLHUP | select.POLLERR) and not self._show():
            poll.unregister(master)
            self._speaks = False

    def _hear(self, poll: select.poll) -> None:
        content = os.read(0, _CHUNK)
        if content:
            self._keys += content
        else:
            # The end of a file or pipe is what the key for it says at a terminal.
            self._keys += b"\x04"
            self._hears = False
        poll.unregister(0)

    def _type(self, poll: select.poll) -> None:
        """Pass keys on, and listen for more only when all have been taken."""
        if not self._speaks:
            return
        try:
            self._keys = self._keys[os.write(self._master.fileno(), self._keys) :]
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self._keys = b""
        poll.modify(self._master.fileno(), select.POLLIN | (select.POLLOUT if self._keys else 0))
        if not self._keys and self._hears:
            poll.register(0, select.POLLIN)

    def _show(self) -> bool:
        """Pass output on; False when nobody has the terminal open any more."""
        try:
            content = os.read(self._master.fileno(), _CHUNK)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False
        try:
            while content:
                content = content[os.write(1, content) :]
        except BrokenPipeError:
            return True  # nobody reads; the program may go on
        return True

    def close(self) -> None:
        """Show what is left, and give the caller's terminal back as it was."""
        try:
            while self._speaks and self._has_more() and self._show():
                pass
        finally:
            self._master.close()
            if self._saved is not None:
                import termios

                termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
                self._saved = None

    def _has_more(self) -> bool:
        poll = select.poll()
        poll.register(self._master.fileno(), select.POLLIN)
        return any(events & select.POLLIN for _, events in poll.poll(0))
