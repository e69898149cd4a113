"""Mounting: mount(2), and the calls that make, change and attach mounts by descriptor.

Source: mount(2), umount2(2), pivot_root(2), mount_setattr(2), open_tree(2), move_mount(2), fsopen(2), fsconfig(2),
fsmount(2), fspick(2); include/uapi/linux/mount.h, include/uapi/linux/fcntl.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
from ctypes import c_char_p, c_int, c_size_t, c_uint, c_uint64, c_ulong, c_void_p

from cowstore._linux._call import bind, bind_syscall, number_of, oserror, path_bytes, retry
from cowstore._linux._flags import Flags
from cowstore._linux.fd import Descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore._linux._call import Fd, Path


class MountFlag(Flags):
    """For the flags argument of `mount` and the propagation argument of `mount_setattr`."""

    NONE = 0
    RDONLY = 0x1
    NOSUID = 0x2
    NODEV = 0x4
    NOEXEC = 0x8
    REMOUNT = 0x20
    NOSYMFOLLOW = 0x100
    NOATIME = 0x400
    NODIRATIME = 0x800
    BIND = 0x1000
    MOVE = 0x2000
    REC = 0x4000
    UNBINDABLE = 0x20000
    PRIVATE = 0x40000
    SLAVE = 0x80000
    SHARED = 0x100000
    RELATIME = 0x200000
    STRICTATIME = 0x1000000


class UmountFlag(Flags):
    """For the flags argument of `umount2`."""

    NONE = 0
    FORCE = 1
    DETACH = 2
    EXPIRE = 4
    NOFOLLOW = 8


class OpenTreeFlag(Flags):
    """For the flags arguments of `open_tree` (CLOEXEC is always added) and `mount_setattr` (CLONE is not for it)."""

    NONE = 0
    CLONE = 0x1
    SYMLINK_NOFOLLOW = 0x100
    NO_AUTOMOUNT = 0x800
    EMPTY_PATH = 0x1000
    RECURSIVE = 0x8000
    CLOEXEC = os.O_CLOEXEC


class MoveMountFlag(Flags):
    """For the flags argument of `move_mount`: F_ is about from_path, T_ about to_path."""

    NONE = 0
    F_SYMLINKS = 0x1
    F_AUTOMOUNTS = 0x2
    F_EMPTY_PATH = 0x4
    T_SYMLINKS = 0x10
    T_AUTOMOUNTS = 0x20
    T_EMPTY_PATH = 0x40
    SET_GROUP = 0x100
    BENEATH = 0x200


class FsmountFlag(Flags):
    """For the flags argument of `fsmount`; CLOEXEC is always added."""

    NONE = 0
    CLOEXEC = 0x1


class MountAttr(Flags):
    """For the attrs argument of `fsmount` and the set and clear arguments of `mount_setattr`.

    The access time is a field of values, not bits: to change it, clear ATIME and set NOATIME, STRICTATIME or neither,
    which is relatime.
    """

    NONE = 0
    RDONLY = 0x1
    NOSUID = 0x2
    NODEV = 0x4
    NOEXEC = 0x8
    NOATIME = 0x10
    STRICTATIME = 0x20
    ATIME = 0x70
    NODIRATIME = 0x80
    IDMAP = 0x100000
    NOSYMFOLLOW = 0x200000


class FspickFlag(Flags):
    """For the flags argument of `fspick`; CLOEXEC is always added."""

    NONE = 0
    CLOEXEC = 0x1
    SYMLINK_NOFOLLOW = 0x2
    NO_AUTOMOUNT = 0x4
    EMPTY_PATH = 0x8


class struct_mount_attr(ctypes.Structure):
    """The argument of mount_setattr(2)."""

    _fields_ = [("attr_set", c_uint64), ("attr_clr", c_uint64), ("propagation", c_uint64), ("userns_fd", c_uint64)]


# enum fsconfig_command
_SET_FLAG = 0
_SET_STRING = 1
_SET_FD = 5
_CMD_CREATE = 6
_CMD_RECONFIGURE = 7
#: strndup_user() in fsconfig(2) takes 256 bytes, its NUL included, for a key and for a value.
FSCONFIG_MAX = 255
#: copy_mount_options() takes one page and overwrites its last byte with NUL. Pages larger than 4096 are not counted on.
MOUNT_DATA_MAX = 4095

_mount = bind("mount", c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
_umount2 = bind("umount2", c_char_p, c_int)
_pivot_root = bind("pivot_root", c_char_p, c_char_p)
_open_tree = bind_syscall("open_tree", c_int, c_char_p, c_uint)
_move_mount = bind_syscall("move_mount", c_int, c_char_p, c_int, c_char_p, c_uint)
_fsopen = bind_syscall("fsopen", c_char_p, c_uint)
_fsconfig = bind_syscall("fsconfig", c_int, c_uint, c_char_p, c_char_p, c_int)
_fsmount = bind_syscall("fsmount", c_int, c_uint, c_uint)
_fspick = bind_syscall("fspick", c_int, c_char_p, c_uint)
_mount_setattr = bind_syscall("mount_setattr", c_int, c_char_p, c_uint, c_void_p, c_size_t)


def mount(
    source: Path | None, target: Path, fstype: Path | None, flags: MountFlag = MountFlag.NONE, data: Path | None = None
) -> None:
    """Mount, remount, bind, move, or change the propagation of target.

    Args:
        source: device or directory, or None where the flags need none.
        target: where.
        fstype: a name of /proc/filesystems, or None likewise.
        flags: what to do and with which properties.
        data: the file system's options, at most 4095 bytes.

    Raises:
        OSError: as mount(2); E2BIG, data is longer than the one page the kernel takes (it would cut it off silently).

    Source: mount(2).
    """
    call = "mount(2)"
    options = None if data is None else path_bytes(data, call)
    if options is not None and len(options) > MOUNT_DATA_MAX:
        detail = f"{len(options)} bytes of options; the kernel takes {MOUNT_DATA_MAX}"
        raise oserror(call, source, target, detail=detail, code=errno.E2BIG)
    origin = None if source is None else path_bytes(source, call)
    kind = None if fstype is None else path_bytes(fstype, call)
    if retry(_mount, origin, path_bytes(target, call), kind, flags, options) == -1:
        raise oserror(call, source, target, detail="" if fstype is None else f"type {os.fsdecode(fstype)}")


def umount2(target: Path, flags: UmountFlag = UmountFlag.NONE) -> None:
    """Take the topmost mount off target.

    Raises:
        OSError: EBUSY, it is in use; EINVAL, target is no mount point; others as umount2(2).

    Source: umount2(2).
    """
    if retry(_umount2, path_bytes(target, "umount2(2)"), flags) == -1:
        raise oserror("umount2(2)", target)


def pivot_root(new_root: Path, put_old: Path) -> None:
    """Make new_root the root of this mount namespace and attach the old one at put_old ("." for both is allowed).

    Raises:
        OSError: EINVAL, new_root is no mount point or something is shared; others as pivot_root(2).

    Source: pivot_root(2).
    """
    call = "pivot_root(2)"
    if retry(_pivot_root, path_bytes(new_root, call), path_bytes(put_old, call)) == -1:
        raise oserror(call, new_root, put_old)


def fsopen(fstype: Path) -> Descriptor:
    """Open a context in which a file system of this type is configured, piece by piece.

    Raises:
        OSError: ENODEV, the kernel has no such type; others as fsopen(2).

    Source: fsopen(2).
    """
    fd = retry(_fsopen, path_bytes(fstype, "fsopen(2)"), 1)  # 1 is FSOPEN_CLOEXEC
    if fd == -1:
        raise oserror("fsopen(2)", fstype)
    return Descriptor(fd)


def fspick(dir_fd: Fd | None, path: Path, flags: FspickFlag = FspickFlag.NONE) -> Descriptor:
    """Open a context that reconfigures the file system mounted at path.

    Args:
        dir_fd: where path starts; None is the current directory.
        path: a mount point; "" with EMPTY_PATH is dir_fd itself.
        flags: how path is looked up.

    Raises:
        OSError: as fspick(2).

    Source: fspick(2).
    """
    start = number_of(dir_fd)
    fd = retry(_fspick, start, path_bytes(path, "fspick(2)"), flags | FspickFlag.CLOEXEC)
    if fd == -1:
        raise oserror("fspick(2)", path or start)
    return Descriptor(fd)


def read_messages(fs: Fd) -> list[str]:
    """Take what the file system has said in its context so far: errors bare, others after "warning: " or "info: ".

    Source: fsopen(2), "Message retrieval interface".
    """
    messages: list[str] = []
    number = number_of(fs)
    while True:
        try:
            line = os.read(number, 8192)  # one message each; longer than that is EMSGSIZE and stays
        except OSError:  # ENODATA: no more. Whatever else it is must not hide the error being reported.
            return messages
        if not line:
            return messages
        text = line.decode(errors="backslashreplace").strip()
        prefix = {"w ": "warning: ", "i ": "info: "}.get(text[:2], "")
        messages.append(prefix + (text[2:] if text[:2] in ("e ", "w ", "i ") else text))


def _context_error(fs: Fd, call: str, what: str = "", name: Path | None = None, value: bytes = b"") -> OSError:
    """Make the error of a call on a context, with the kernel's own text."""
    code = ctypes.get_errno()  # before reading the messages makes another
    messages = read_messages(fs)
    if len(value) > FSCONFIG_MAX and code == errno.EINVAL:
        messages.append(f"a value of {len(value)} bytes; fsconfig takes {FSCONFIG_MAX}")
    text = "; ".join(messages)
    return oserror(call, name, detail=": ".join(part for part in (what, text) if part), code=code)


def fsconfig_set_string(fs: Fd, key: Path, value: Path) -> None:
    """Give the context an option with a value of at most 255 bytes.

    Raises:
        OSError: EINVAL, the file system does not know the option or like its value; others as fsconfig(2). The note
            holds what the kernel said, the file name is the value.

    Source: fsconfig(2), FSCONFIG_SET_STRING.
    """
    name = path_bytes(key, "fsconfig(2)")
    content = path_bytes(value, "fsconfig(2)")
    if retry(_fsconfig, number_of(fs), _SET_STRING, name, content, 0) == -1:
        raise _context_error(fs, "fsconfig(2)", os.fsdecode(name), value, content)


def fsconfig_set_flag(fs: Fd, key: Path) -> None:
    """Give the context an option that has no value.

    Raises:
        OSError: as `fsconfig_set_string`.

    Source: fsconfig(2), FSCONFIG_SET_FLAG.
    """
    name = path_bytes(key, "fsconfig(2)")
    if retry(_fsconfig, number_of(fs), _SET_FLAG, name, None, 0) == -1:
        raise _context_error(fs, "fsconfig(2)", os.fsdecode(name))


def fsconfig_set_fd(fs: Fd, key: Path, fd: Fd) -> None:
    """Give the context an option whose value is an open file.

    Raises:
        OSError: as `fsconfig_set_string`; EBADF for a descriptor it does not take (O_PATH ones, on most kernels).

    Source: fsconfig(2), FSCONFIG_SET_FD.
    """
    name = path_bytes(key, "fsconfig(2)")
    if retry(_fsconfig, number_of(fs), _SET_FD, name, None, number_of(fd)) == -1:
        raise _context_error(fs, "fsconfig(2)", f"{os.fsdecode(name)}=fd {number_of(fd)}")


def fsconfig_create(fs: Fd) -> None:
    """Make (or find) the superblock that was configured.

    A context does this once: it is of no use after a failure, not even after EINTR, which is therefore raised too.

    Raises:
        OSError: whatever the file system fails with; the note holds what it said.

    Source: fsconfig(2), FSCONFIG_CMD_CREATE.
    """
    if _fsconfig(number_of(fs), _CMD_CREATE, None, None, 0) == -1:
        raise _context_error(fs, "fsconfig(2)", "create")


def fsconfig_reconfigure(fs: Fd) -> None:
    """Apply what was configured in a context of `fspick` to the live file system; once, as `fsconfig_create`.

    Raises:
        OSError: as `fsconfig_create`.

    Source: fsconfig(2), FSCONFIG_CMD_RECONFIGURE.
    """
    if _fsconfig(number_of(fs), _CMD_RECONFIGURE, None, None, 0) == -1:
        raise _context_error(fs, "fsconfig(2)", "reconfigure")


def fsmount(fs: Fd, attrs: MountAttr = MountAttr.NONE, flags: FsmountFlag = FsmountFlag.CLOEXEC) -> Descriptor:
    """Make a detached mount of the superblock that was created; it goes with the last descriptor unless attached.

    Returns:
        an O_PATH descriptor of the mount's root, for `move_mount` with F_EMPTY_PATH and as a start of lookups.

    Raises:
        OSError: EPERM; EBUSY, nothing was created in the context; others as fsmount(2).

    Source: fsmount(2).
    """
    fd = retry(_fsmount, number_of(fs), flags | FsmountFlag.CLOEXEC, attrs)
    if fd == -1:
        raise _context_error(fs, "fsmount(2)")
    return Descriptor(fd)


def open_tree(dir_fd: Fd | None, path: Path, flags: OpenTreeFlag = OpenTreeFlag.NONE) -> Descriptor:
    """Open a mount or, with CLONE, a detached copy of it (with RECURSIVE, of all below it) starting at path.

    Args:
        dir_fd: where path starts; None is the current directory.
        path: any directory or file; "" with EMPTY_PATH is dir_fd itself.
        flags: CLONE, RECURSIVE and how path is looked up.

    Raises:
        OSError: EINVAL, the mount is unbindable or has locked children; others as open_tree(2).

    Source: open_tree(2).
    """
    start = number_of(dir_fd)
    fd = retry(_open_tree, start, path_bytes(path, "open_tree(2)"), flags | OpenTreeFlag.CLOEXEC)
    if fd == -1:
        raise oserror("open_tree(2)", path or start)
    return Descriptor(fd)


def move_mount(
    from_fd: Fd | None, from_path: Path, to_fd: Fd | None, to_path: Path, flags: MoveMountFlag = MoveMountFlag.NONE
) -> None:
    """Attach a detached mount, or move an attached one.

    Args:
        from_fd: where from_path starts; None is the current directory.
        from_path: the mount; "" with F_EMPTY_PATH is from_fd itself.
        to_fd: where to_path starts; None is the current directory.
        to_path: the mount point; "" with T_EMPTY_PATH is to_fd itself.
        flags: the two lookups.

    Raises:
        OSError: EINVAL, not the root of a mount, or the parent of either is shared; others as move_mount(2).

    Source: move_mount(2).
    """
    call = "move_mount(2)"
    start, end = number_of(from_fd), number_of(to_fd)
    if retry(_move_mount, start, path_bytes(from_path, call), end, path_bytes(to_path, call), flags) == -1:
        raise oserror(call, from_path or start, to_path or end)


def mount_setattr(
    dir_fd: Fd | None,
    path: Path,
    flags: OpenTreeFlag = OpenTreeFlag.NONE,
    *,
    set: MountAttr = MountAttr.NONE,  # noqa: A002  (the kernel's word, attr_set; a keyword here)
    clear: MountAttr = MountAttr.NONE,
    propagation: MountFlag = MountFlag.NONE,
    userns_fd: Fd | None = None,
) -> None:
    """Change the properties of a mount (with RECURSIVE, of all below it, or of none where one refuses).

    Args:
        dir_fd: where path starts; None is the current directory.
        path: a mount point; "" with EMPTY_PATH is dir_fd itself.
        flags: RECURSIVE and how path is looked up.
        set: properties to add, after clear.
        clear: properties to take away.
        propagation: one of SHARED, SLAVE, PRIVATE, UNBINDABLE; 0 leaves it.
        userns_fd: the user namespace whose mapping IDMAP uses.

    Raises:
        OSError: EPERM, a property is locked; EBUSY, RDONLY with files open for writing; others as mount_setattr(2).

    Source: mount_setattr(2).
    """
    start = number_of(dir_fd)
    attributes = struct_mount_attr(set, clear, propagation, 0 if userns_fd is None else number_of(userns_fd))
    size = ctypes.sizeof(attributes)
    target = path_bytes(path, "mount_setattr(2)")
    if retry(_mount_setattr, start, target, flags, ctypes.byref(attributes), size) == -1:
        raise oserror("mount_setattr(2)", path or start)
