"""Letting the kernel send the difference of two subvolumes, without file data, while its stream is read."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress

from cowstore._linux import btrfs
from cowstore._linux.fd import Descriptor
from cowstore.drivers.btrfs import sendstream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

_PIPE_BYTES = 1 << 20


def difference(
    upper_fd: int, lower_id: int, *, version: int = 1
) -> Generator[tuple[sendstream.Command, Mapping[int, bytes]], None, None]:
    """Yield the commands that turn the read-only subvolume *lower_id* into that whose root is *upper_fd*.

    The kernel compares the two trees block by block and goes past what they share, so this takes the time of the
    difference. Of file data only the ranges are told.

    :raises OSError: EPERM, one of them is writable; others as ``BTRFS_IOC_SEND``.
    :raises StreamError: the stream is not understood.
    """
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    reader, writer = Descriptor(read_fd), Descriptor(write_fd)
    failure: list[OSError] = []
    flags = btrfs.SendFlag.NO_FILE_DATA | (btrfs.SendFlag.VERSION if version > 1 else btrfs.SendFlag.NONE)

    def work() -> None:
        # No signal is for this thread: one would cut the stream, and SIGPIPE end the process where somebody has
        # restored its default. EPIPE says as much.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        with writer:
            try:
                btrfs.send(upper_fd, writer, parent_id=lower_id, flags=flags, version=version)
            except OSError as error:
                failure.append(error)

    with reader:
        with suppress(OSError):
            _widen(read_fd)
        thread = threading.Thread(target=work, name="cowstore-btrfs-send")
        thread.start()
        try:
            yield from sendstream.commands(read_fd)
        except sendstream.StreamError:
            thread.join()
            if failure:
                raise failure[0] from None
            raise
        finally:
            reader.close()
            thread.join()


def _widen(pipe_fd: int) -> None:
    """Let the kernel run ahead: with the usual 64 KiB each side waits for the other all the time."""
    import fcntl

    fcntl.fcntl(pipe_fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
