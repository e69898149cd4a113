"""What /proc tells: the mount table, the file system types, and who is whose child.

Source: proc(5), proc_pid_mountinfo(5); fs/proc_namespace.c.
"""

from __future__ import annotations

import errno
import os

from cowstore._linux._call import oserror

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore._linux._call import Path


class MountInfo:
    """One line of a mountinfo file; every text is bytes, its octal escapes undone."""

    __slots__ = (
        "_raw_super_options",
        "fs_type",
        "major",
        "minor",
        "mount_id",
        "mount_point",
        "optional",
        "options",
        "parent_id",
        "root",
        "source",
    )

    mount_id: int
    #: The mount it sits on; its own id, or one that is not listed, for a root.
    parent_id: int
    #: st_dev of its files, where the file system does not make up others.
    major: int
    minor: int
    #: The directory of the file system that is its root.
    root: bytes
    #: Relative to the root directory of the process whose table this is.
    mount_point: bytes
    #: The mount's own, comma-separated: b"rw,nosuid".
    options: bytes
    #: b"shared:12", b"master:3", b"propagate_from:2", b"unbindable", and what later kernels add.
    optional: tuple[bytes, ...]
    fs_type: bytes
    source: bytes

    def __init__(self, line: bytes) -> None:
        """Parse one line, without its newline.

        Raises:
            OSError: EBADMSG, it is no line of a mountinfo file.
        """
        fields = line.split(b" ")  # single spaces only: an empty source leaves two in a row
        try:
            end = fields.index(b"-", 6)
            self.mount_id = int(fields[0])
            self.parent_id = int(fields[1])
            major, minor = fields[2].split(b":")
            self.major = int(major)
            self.minor = int(minor)
            self.fs_type = fields[end + 1]
            self.source = fields[end + 2]
        except (ValueError, IndexError) as error:
            raise oserror("read(2)", line, detail="no line of a mountinfo file", code=errno.EBADMSG) from error
        _, _, _, self.root, self.mount_point, self.options = fields[:6]
        self.optional = tuple(fields[6:end])
        self._raw_super_options = b" ".join(fields[end + 3 :])
        if b"\\" in line:
            self.root = unescape(self.root)
            self.mount_point = unescape(self.mount_point)
            self.options = unescape(self.options)
            self.fs_type = unescape(self.fs_type)
            self.source = unescape(self.source)

    @property
    def super_options(self) -> bytes:
        """The file system's options as one text; where a value may hold a comma, ask `super_option`."""
        return unescape(self._raw_super_options)

    def super_option(self, name: bytes) -> list[bytes]:
        """Tell the values of one of the file system's options, in order; b"" for one without a value."""
        found = []
        for option in self._raw_super_options.split(b","):
            key, _, value = option.partition(b"=")
            if unescape(key) == name:
                found.append(unescape(value))
        return found

    @property
    def shared(self) -> bool:
        """Whether mounts made on it appear elsewhere too."""
        return any(field.startswith(b"shared:") for field in self.optional)

    def __repr__(self) -> str:
        return (
            f"<MountInfo {self.mount_id} {os.fsdecode(self.fs_type)} {os.fsdecode(self.source)!r}"
            f" on {os.fsdecode(self.mount_point)!r}>"
        )


def unescape(field: bytes) -> bytes:
    r"""Undo the kernel's escapes (a backslash and three octal digits); a backslash before anything else stays one."""
    if b"\\" not in field:
        return field
    first, *rest = field.split(b"\\")
    parts = [first]
    for piece in rest:
        digits = piece[:3]
        if len(digits) == 3 and digits[0] in b"0123" and not digits.strip(b"01234567"):
            parts += (bytes((int(digits, 8),)), piece[3:])
        else:
            parts += (b"\\", piece)
    return b"".join(parts)


def parse_mountinfo(content: bytes) -> list[MountInfo]:
    """Parse a whole mountinfo file.

    Raises:
        OSError: EBADMSG, a line is not one of its kind.
    """
    # Only b"\n" ends a line: the kernel escapes it in names, but not what splitlines() takes for an end besides.
    return [MountInfo(line) for line in content.split(b"\n") if line]


def mountinfo(path: Path = "/proc/self/mountinfo") -> list[MountInfo]:
    """Read a mount table.

    The kernel hands it out a page at a time: what is mounted or unmounted meanwhile may be in it or not. A thread that
    has a mount namespace of its own reads /proc/thread-self/mountinfo; /proc/self is that of the first thread.

    Args:
        path: /proc/PID/mountinfo or the like.

    Raises:
        OSError: as open(2), read(2).
    """
    return parse_mountinfo(_read(path))


def filesystems(path: Path = "/proc/filesystems") -> dict[str, bool]:
    """Tell the file system types the kernel has right now, modules not loaded left out.

    Returns:
        for each name whether it is "nodev", which needs no block device.

    Raises:
        OSError: as open(2), read(2).
    """
    types = {}
    for line in _read(path).decode(errors="surrogateescape").split("\n"):
        attribute, tab, name = line.partition("\t")
        if tab:
            types[name] = attribute == "nodev"
    return types


def children(pid: int) -> list[int]:
    """List the children of all threads of a process, by their numbers here.

    Source: proc_pid_task(5); empty on a kernel without CONFIG_PROC_CHILDREN.

    Raises:
        OSError: ENOENT or ESRCH, the process has ended.
    """
    found: list[int] = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            found += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # the thread has ended
    return found


ACCOUNTS = "/proc/self/io"
"""There where the kernel counts what a process reads and writes (CONFIG_TASK_IO_ACCOUNTING)."""


def accounts() -> dict[str, int]:
    """What this process has read and written so far, in bytes and calls, by the kernel's names.

    Source: proc_pid_io(5).

    Raises:
        OSError: ENOENT, the kernel does not count.
    """
    pairs = (line.split(b":") for line in _read(ACCOUNTS).splitlines())
    return {name.decode("ascii"): int(number) for name, number in pairs}


def _read(path: Path) -> bytes:
    """Read a file of /proc to its end; its size is not known before."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        while chunk := os.read(fd, 1 << 16):
            chunks.append(chunk)
        return b"".join(chunks)
    except OSError as error:
        error.filename = path
        error.add_note("read(2)")
        raise
    finally:
        os.close(fd)
