"""Owning a file descriptor."""

from __future__ import annotations

import errno
import os

from cowstore._linux._call import AT_FDCWD, number_of, oserror

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from cowstore._linux._call import Fd, Path

__all__ = ["AT_FDCWD", "Descriptor", "open_"]


class Descriptor:
    """The owner of one file descriptor, closed at the end of a `with` block, by `close`, or with the object.

    The number is forgotten before the kernel is asked to close it, and a close is never repeated: once close(2) has
    been entered the number may already belong to another thread's file, whatever it answered.
    """

    __slots__ = ("__weakref__", "_fd")

    def __init__(self, fd: int) -> None:
        """Take over fd (0 is as good as any other).

        Raises:
            OSError: EBADF, fd is negative.
        """
        self._fd = -1
        if fd < 0:
            raise oserror("close(2)", code=errno.EBADF, detail=f"{fd} is no descriptor to own")
        self._fd = fd

    def fileno(self) -> int:
        """Tell the number, which stays owned by this object.

        Raises:
            OSError: EBADF, it was closed or detached. A -1 handed on would do harm: `os.listdir(-1)` lists the current
                directory.
        """
        if self._fd == -1:
            raise oserror("close(2)", code=errno.EBADF, detail="came before this use")
        return self._fd

    @property
    def closed(self) -> bool:
        """Whether there is nothing left to close."""
        return self._fd == -1

    def close(self) -> None:
        """Close the descriptor; nothing happens the second time.

        Raises:
            OSError: EIO, ENOSPC, EDQUOT: what was written may be lost. The descriptor is closed all the same.
        """
        fd, self._fd = self._fd, -1
        if fd != -1:
            try:
                os.close(fd)
            except OSError as error:
                error.add_note("close(2)")
                raise

    def detach(self) -> int:
        """Give the number away; closing it is the caller's from now on.

        Raises:
            OSError: EBADF, as `fileno`.
        """
        fd = self.fileno()
        self._fd = -1
        return fd

    def __enter__(self) -> Descriptor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self, _close: object = os.close) -> None:
        # os may be gone when the interpreter ends, and nobody is left to be told of an error.
        fd, self._fd = getattr(self, "_fd", -1), -1
        if fd != -1 and callable(_close):
            try:  # contextlib may be gone as well
                _close(fd)
            except OSError:
                pass

    def __repr__(self) -> str:
        return f"<Descriptor {'closed' if self._fd == -1 else self._fd}>"


def open_(path: Path, flags: int, mode: int = 0o777, *, dir_fd: Fd | None = None) -> Descriptor:
    """Open a file with O_CLOEXEC.

    Args:
        path: relative to dir_fd unless absolute.
        flags: os.O_* bits.
        mode: permission of a file this creates, before the umask.
        dir_fd: a directory; None is the current one.

    Raises:
        OSError: as open(2).

    Source: openat(2).
    """
    try:
        if dir_fd is None:
            return Descriptor(os.open(path, flags | os.O_CLOEXEC, mode))
        return Descriptor(os.open(path, flags | os.O_CLOEXEC, mode, dir_fd=number_of(dir_fd)))
    except OSError as error:
        error.add_note("openat(2)")
        raise
    except ValueError as error:
        raise oserror("openat(2)", path, detail="a NUL cannot be part of it", code=errno.EINVAL) from error
