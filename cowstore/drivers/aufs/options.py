"""Options of the AUFS driver."""

from __future__ import annotations

from dataclasses import dataclass

from cowstore.drivers.aufs.builder import MAX_BRANCHES


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of the AUFS driver.

    :ivar xino_directory: where a mount's table of inode numbers lies while it lives; it is invisible, and best on a
        tmpfs. Where there is no such directory, the store's is used.
    :ivar max_branches: branches the kernel was built for (127, 511, 1023 or 32767).
    :ivar ignore_xattrs: let a file be copied up although the writable branch cannot store an extended attribute of it,
        which is then lost; otherwise the program that writes gets an error.
    """

    xino_directory: str = "/dev/shm"
    max_branches: int = MAX_BRANCHES
    ignore_xattrs: bool = False

    def __post_init__(self) -> None:
        """Refuse what can never work."""
        if not 2 <= self.max_branches <= 32767:
            raise ValueError(f"max_branches is {self.max_branches}; AUFS has 2 to 32767")
        if not self.xino_directory.startswith("/") or any(sign in self.xino_directory for sign in ":,="):
            raise ValueError(
                f"xino_directory is {self.xino_directory!r}; give an absolute path without ':', ',' and '='"
            )
