"""Btrfs' own ioctls, one function each, named as in the kernel's header.

They go through ctypes, which lets other threads run meanwhile: the standard library's ``fcntl.ioctl`` keeps the
interpreter locked for any buffer over 1024 bytes, and most of these take 4096.

Source: ``linux/btrfs.h``, ``linux/btrfs_tree.h``, btrfs-ioctl(2).
"""

from __future__ import annotations

import ctypes
import errno
import struct

from cowstore._linux import _btrfs_abi as abi
from cowstore._linux._btrfs_abi import (
    BlockGroupFlag,
    QgroupLimitFlag,
    QuotaCommand,
    SendFlag,
    SubvolFlag,
    SubvolSyncMode,
)
from cowstore._linux._call import bind, number_of, oserror, path_bytes, retry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NamedTuple

    from cowstore._linux._call import Fd, Path

    class RootRef(NamedTuple):
        """One link from a subvolume to another that is nested in it."""

        subvol_id: int
        dir_inode: int
        name: bytes

    class SpaceInfo(NamedTuple):
        """Room for one kind of block group: what is set aside for it, and how much of that is in use, in bytes."""

        flags: BlockGroupFlag
        total_bytes: int
        used_bytes: int
else:
    from collections import namedtuple

    # Without the import of typing, which costs more than this whole module.
    RootRef = namedtuple("RootRef", ("subvol_id", "dir_inode", "name"))
    SpaceInfo = namedtuple("SpaceInfo", ("flags", "total_bytes", "used_bytes"))

__all__ = [
    "BlockGroupFlag",
    "QgroupLimitFlag",
    "QuotaCommand",
    "RootRef",
    "SendFlag",
    "SpaceInfo",
    "SubvolFlag",
    "SubvolSyncMode",
]

FIRST_FREE_OBJECTID = abi.FIRST_FREE_OBJECTID
EMPTY_SUBVOL_DIR_OBJECTID = abi.EMPTY_SUBVOL_DIR_OBJECTID
FS_TREE_OBJECTID = abi.FS_TREE_OBJECTID
QUOTA_TREE_OBJECTID = abi.QUOTA_TREE_OBJECTID
ROOT_TREE_OBJECTID = abi.ROOT_TREE_OBJECTID

# The kernel does not hand out larger pieces than the buffer; 64 KiB hold some 500 links at a time.
_SEARCH_BUFFER_BYTES = 65536
_SEARCH_HEADER = struct.Struct("=QQQII")
_ROOT_REF = struct.Struct("<QQH")
_INODE_REF = struct.Struct("<QH")
_INODE_EXTREF = struct.Struct("<QQH")

# A third argument of type void * takes None, an address and byref() alike.
_ioctl = bind("ioctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)


def _do(call: str, fd: Fd, request: int, argument: object = None, *names: Path) -> None:
    pointer = None if argument is None else ctypes.byref(argument)  # type: ignore[arg-type]
    if retry(_ioctl, number_of(fd), request, pointer) < 0:
        raise oserror(f"ioctl(2) {call}", *names)


def _named(structure: type[ctypes.Structure], name: Path, call: str) -> ctypes.Structure:
    encoded = path_bytes(name, call)
    if len(encoded) > abi.NAME_MAX:
        raise oserror(call, name, code=errno.ENAMETOOLONG)
    return structure(name=encoded)


def subvol_create(dir_fd: Fd, name: Path) -> None:
    """Make an empty subvolume called *name* in the directory.

    :raises OSError: EEXIST, EROFS, ENOSPC, EDQUOT; ENOTTY where the file system is not Btrfs.
    """
    call = "BTRFS_IOC_SUBVOL_CREATE_V2"
    _do(call, dir_fd, abi.IOC_SUBVOL_CREATE_V2, _named(abi.btrfs_ioctl_vol_args_v2, name, call), name)


def snap_create(dir_fd: Fd, name: Path, source_fd: Fd, *, read_only: bool = False) -> None:
    """Make a snapshot, called *name* in the directory, of the subvolume whose root is *source_fd*.

    Subvolumes nested in the source are left out: an empty directory stands for each. What was written to the source is
    flushed to the disk first.

    :raises OSError: EEXIST, EROFS, ENOSPC, EDQUOT; EINVAL, *source_fd* is not the root of a subvolume; EXDEV, it is on
        another file system.
    """
    call = "BTRFS_IOC_SNAP_CREATE_V2"
    argument = _named(abi.btrfs_ioctl_vol_args_v2, name, call)
    argument.fd = number_of(source_fd)
    argument.flags = SubvolFlag.RDONLY if read_only else SubvolFlag.NONE
    _do(call, dir_fd, abi.IOC_SNAP_CREATE_V2, argument, name)


def snap_destroy(dir_fd: Fd, name: Path) -> None:
    """Delete the subvolume called *name* in the directory; its space comes back later.

    :raises OSError: ENOENT; ENOTEMPTY, there are subvolumes in it; EPERM, it is being sent or is the default one;
        EINVAL, *name* is no subvolume.
    """
    call = "BTRFS_IOC_SNAP_DESTROY"
    _do(call, dir_fd, abi.IOC_SNAP_DESTROY, _named(abi.btrfs_ioctl_vol_args, name, call), name)


def snap_destroy_by_id(fd: Fd, subvol_id: int) -> None:
    """Delete the subvolume of that number, which must lie below the directory *fd* of the same mount.

    :raises OSError: as :func:`snap_destroy`; ENOTTY before Linux 5.7.
    """
    argument = abi.btrfs_ioctl_vol_args_v2(flags=SubvolFlag.SPEC_BY_ID)
    # The number stands where the name does.
    ctypes.c_uint64.from_buffer(argument, abi.btrfs_ioctl_vol_args_v2.name.offset).value = subvol_id
    _do("BTRFS_IOC_SNAP_DESTROY_V2", fd, abi.IOC_SNAP_DESTROY_V2, argument)


def subvol_getflags(fd: Fd) -> SubvolFlag:
    """Return the flags of the subvolume whose root is *fd*.

    :raises OSError: EINVAL, *fd* is no subvolume's root; ENOTTY where the file system is not Btrfs.
    """
    flags = ctypes.c_uint64()
    _do("BTRFS_IOC_SUBVOL_GETFLAGS", fd, abi.IOC_SUBVOL_GETFLAGS, flags)
    return SubvolFlag(flags.value)


def subvol_setflags(fd: Fd, flags: SubvolFlag) -> None:
    """Set the flags of the subvolume whose root is *fd*, and commit the transaction, so that they are on disk.

    Not even an open for writing made earlier can write to it once it is RDONLY.

    :raises OSError: EPERM, it is being sent; EROFS.
    """
    _do("BTRFS_IOC_SUBVOL_SETFLAGS", fd, abi.IOC_SUBVOL_SETFLAGS, ctypes.c_uint64(flags))


def get_subvol_info(fd: Fd) -> abi.btrfs_ioctl_get_subvol_info_args:
    """Return what is known of the subvolume that *fd* is in: number, parent, generation, flags and UUIDs.

    :raises OSError: ENOTTY before Linux 4.18, or where the file system is not Btrfs.
    """
    argument = abi.btrfs_ioctl_get_subvol_info_args()
    _do("BTRFS_IOC_GET_SUBVOL_INFO", fd, abi.IOC_GET_SUBVOL_INFO, argument)
    return argument


def ino_lookup(fd: Fd, tree_id: int = 0, inode: int = abi.FIRST_FREE_OBJECTID) -> tuple[int, bytes]:
    """Return a subvolume's number and the path of *inode* in it, ending in a slash (empty for the root).

    :param tree_id: the subvolume; 0 for the one *fd* is in, which needs no privilege when asked for its root.
    """
    argument = abi.btrfs_ioctl_ino_lookup_args(treeid=tree_id, objectid=inode)
    _do("BTRFS_IOC_INO_LOOKUP", fd, abi.IOC_INO_LOOKUP, argument)
    return argument.treeid, argument.name


def tree_search(
    fd: Fd,
    tree_id: int,
    *,
    objectid: tuple[int, int] = (0, abi.U64_MAX),
    type: tuple[int, int] = (0, 255),  # noqa: A002  # the kernel's word
    offset: tuple[int, int] = (0, abi.U64_MAX),
) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (objectid, type, offset, data) of the items of a tree, in the order of their keys.

    Only the two ends of the range are compared as a whole key; an item between them may lie outside *type* or *offset*,
    so those are tested again here.

    :param tree_id: number of the tree.
    :param objectid: the first and the last to look for; so are *type* and *offset*.
    :raises OSError: EPERM without CAP_SYS_ADMIN; ENOENT, there is no such tree.
    """
    head_bytes = ctypes.sizeof(abi.btrfs_ioctl_search_args_v2)
    buffer = ctypes.create_string_buffer(head_bytes + _SEARCH_BUFFER_BYTES)
    head = abi.btrfs_ioctl_search_args_v2.from_buffer(buffer)
    low = (objectid[0], type[0], offset[0])
    while True:
        head.key = abi.btrfs_ioctl_search_key(
            tree_id=tree_id, min_objectid=low[0], max_objectid=objectid[1], min_type=low[1], max_type=type[1],
            min_offset=low[2], max_offset=offset[1], max_transid=abi.U64_MAX, nr_items=2**32 - 1,
        )  # fmt: skip
        head.buf_size = _SEARCH_BUFFER_BYTES
        _do("BTRFS_IOC_TREE_SEARCH_V2", fd, abi.IOC_TREE_SEARCH_V2, buffer)
        if head.key.nr_items == 0:
            return
        at = head_bytes
        found = memoryview(buffer)
        for _ in range(head.key.nr_items):
            _transid, item_objectid, item_offset, item_type, length = _SEARCH_HEADER.unpack_from(buffer, at)
            at += _SEARCH_HEADER.size
            if type[0] <= item_type <= type[1] and offset[0] <= item_offset <= offset[1]:
                yield item_objectid, item_type, item_offset, bytes(found[at : at + length])
            at += length
            low = (item_objectid, item_type, item_offset)
        following = _next_key(low)
        if following is None or following > (objectid[1], type[1], offset[1]):
            return
        low = following


def _next_key(key: tuple[int, int, int]) -> tuple[int, int, int] | None:
    """Return the key after *key*; None after the last."""
    objectid, kind, offset = key
    if offset < abi.U64_MAX:
        return objectid, kind, offset + 1
    if kind < 255:
        return objectid, kind + 1, 0
    return None if objectid == abi.U64_MAX else (objectid + 1, 0, 0)


def root_refs(fd: Fd, subvol_id: int) -> Iterator[RootRef]:
    """Yield the subvolumes that lie directly in the subvolume of that number.

    :raises OSError: EPERM without CAP_SYS_ADMIN.
    """
    for _objectid, _type, child, data in tree_search(
        fd, abi.ROOT_TREE_OBJECTID, objectid=(subvol_id, subvol_id), type=(abi.ROOT_REF_KEY, abi.ROOT_REF_KEY)
    ):
        dir_inode, _sequence, length = _ROOT_REF.unpack_from(data)
        yield RootRef(child, dir_inode, data[_ROOT_REF.size : _ROOT_REF.size + length])


def dead_roots(fd: Fd) -> list[int]:
    """List the numbers of the subvolumes that are deleted and not yet cleaned.

    :raises OSError: EPERM without CAP_SYS_ADMIN.
    """
    own, kind = (abi.ORPHAN_OBJECTID, abi.ORPHAN_OBJECTID), (abi.ORPHAN_ITEM_KEY, abi.ORPHAN_ITEM_KEY)
    return [
        offset for _objectid, _type, offset, _data in tree_search(fd, abi.ROOT_TREE_OBJECTID, objectid=own, type=kind)
    ]


def inode_refs(fd: Fd, inode: int) -> Iterator[tuple[int, bytes]]:
    """Yield (directory's inode, name) of every link of *inode* in the subvolume that *fd* is in.

    Told by the tree on disk: complete for a read-only subvolume; the last changes to a writable one may be missing.

    :raises OSError: EPERM without CAP_SYS_ADMIN.
    """
    only = (inode, inode)
    for _objectid, kind, directory, data in tree_search(
        fd, 0, objectid=only, type=(abi.INODE_REF_KEY, abi.INODE_EXTREF_KEY)
    ):
        at = 0
        while at < len(data):
            if kind == abi.INODE_REF_KEY:
                _index, length = _INODE_REF.unpack_from(data, at)
                at += _INODE_REF.size
            else:
                directory, _index, length = _INODE_EXTREF.unpack_from(data, at)  # noqa: PLW2901  # stands in the item
                at += _INODE_EXTREF.size
            yield directory, data[at : at + length]
            at += length


def sync(fd: Fd) -> None:
    """Write the file system's dirty data and commit its transaction."""
    _do("BTRFS_IOC_SYNC", fd, abi.IOC_SYNC)


def start_sync(fd: Fd) -> int:
    """Begin to commit the transaction under way and return its number."""
    transid = ctypes.c_uint64()
    _do("BTRFS_IOC_START_SYNC", fd, abi.IOC_START_SYNC, transid)
    return transid.value


def wait_sync(fd: Fd, transid: int = 0) -> None:
    """Wait until the transaction of that number is on disk; 0 for the one under way."""
    _do("BTRFS_IOC_WAIT_SYNC", fd, abi.IOC_WAIT_SYNC, ctypes.c_uint64(transid))


def subvol_sync_wait(fd: Fd, subvol_id: int = 0, mode: SubvolSyncMode = SubvolSyncMode.WAIT_FOR_ONE) -> None:
    """Wait until a deleted subvolume, or all that are now, are cleaned and their space is back.

    :raises OSError: ENOENT, it is not waiting to be cleaned; ENOTTY before Linux 6.13.
    """
    argument = abi.btrfs_ioctl_subvol_wait(subvolid=subvol_id, mode=mode)
    _do("BTRFS_IOC_SUBVOL_SYNC_WAIT", fd, abi.IOC_SUBVOL_SYNC_WAIT, argument)


def quota_ctl(fd: Fd, command: QuotaCommand) -> None:
    """Turn quota groups on or off for the whole file system. Turning them on begins a rescan."""
    _do("BTRFS_IOC_QUOTA_CTL", fd, abi.IOC_QUOTA_CTL, abi.btrfs_ioctl_quota_ctl_args(cmd=command))


def qgroup_create(fd: Fd, qgroup_id: int, *, create: bool = True) -> None:
    """Make a quota group, or destroy it.

    :raises OSError: EEXIST; to destroy: ENOENT, EBUSY while its subvolume is there or not yet cleaned; ENOTCONN where
        quota is off.
    """
    argument = abi.btrfs_ioctl_qgroup_create_args(create=create, qgroupid=qgroup_id)
    _do("BTRFS_IOC_QGROUP_CREATE", fd, abi.IOC_QGROUP_CREATE, argument)


def qgroup_assign(fd: Fd, child: int, parent: int, *, assign: bool = True) -> None:
    """Put one quota group below another of a higher level, or take it away."""
    argument = abi.btrfs_ioctl_qgroup_assign_args(assign=assign, src=child, dst=parent)
    _do("BTRFS_IOC_QGROUP_ASSIGN", fd, abi.IOC_QGROUP_ASSIGN, argument)


def qgroup_limit(fd: Fd, qgroup_id: int, *, max_rfer: int | None = None, max_excl: int | None = None) -> None:
    """Limit what a quota group may refer to, and what it alone may, in bytes; None takes a limit away.

    :param qgroup_id: 0 for that of the subvolume that *fd* is in.
    :raises OSError: ENOTCONN where quota is off; ENOENT.
    """
    argument = abi.btrfs_ioctl_qgroup_limit_args(
        qgroupid=qgroup_id,
        flags=QgroupLimitFlag.MAX_RFER | QgroupLimitFlag.MAX_EXCL,
        max_rfer=abi.U64_MAX if max_rfer is None else max_rfer,
        max_excl=abi.U64_MAX if max_excl is None else max_excl,
    )
    _do("BTRFS_IOC_QGROUP_LIMIT", fd, abi.IOC_QGROUP_LIMIT, argument)


def quota_rescan(fd: Fd) -> None:
    """Begin to count all quota groups anew.

    :raises OSError: EINPROGRESS, that is under way.
    """
    _do("BTRFS_IOC_QUOTA_RESCAN", fd, abi.IOC_QUOTA_RESCAN, abi.btrfs_ioctl_quota_rescan_args())


def quota_rescan_wait(fd: Fd) -> None:
    """Wait until no rescan is under way."""
    _do("BTRFS_IOC_QUOTA_RESCAN_WAIT", fd, abi.IOC_QUOTA_RESCAN_WAIT)


def fs_info(fd: Fd) -> abi.btrfs_ioctl_fs_info_args:
    """Return the file system's UUID, number of devices and highest device number."""
    argument = abi.btrfs_ioctl_fs_info_args()
    _do("BTRFS_IOC_FS_INFO", fd, abi.IOC_FS_INFO, argument)
    return argument


def dev_info(fd: Fd, dev_id: int) -> abi.btrfs_ioctl_dev_info_args:
    """Return path, size and allocated bytes of one device.

    :raises OSError: ENODEV, there is none of that number.
    """
    argument = abi.btrfs_ioctl_dev_info_args(devid=dev_id)
    _do("BTRFS_IOC_DEV_INFO", fd, abi.IOC_DEV_INFO, argument)
    return argument


def resize(fd: Fd, size: str) -> None:
    """Change the size of a device of the file system.

    :param size: ``"max"``, or ``DEVID:max``, or bytes in digits.
    :raises OSError: EINPROGRESS, another exclusive operation is under way; ENOSPC; EFBIG.
    """
    _do("BTRFS_IOC_RESIZE", fd, abi.IOC_RESIZE, abi.btrfs_ioctl_vol_args(name=size.encode()))


def space_info(fd: Fd) -> list[SpaceInfo]:
    """List how much room each kind of block group has."""
    head = abi.btrfs_ioctl_space_args()
    _do("BTRFS_IOC_SPACE_INFO", fd, abi.IOC_SPACE_INFO, head)
    slots = head.total_spaces
    head_bytes, slot_bytes = ctypes.sizeof(head), ctypes.sizeof(abi.btrfs_ioctl_space_info)
    buffer = ctypes.create_string_buffer(head_bytes + slots * slot_bytes)
    head = abi.btrfs_ioctl_space_args.from_buffer(buffer)
    head.space_slots = slots
    _do("BTRFS_IOC_SPACE_INFO", fd, abi.IOC_SPACE_INFO, buffer)
    found = (abi.btrfs_ioctl_space_info * slots).from_buffer(buffer, head_bytes)
    return [SpaceInfo(BlockGroupFlag(one.flags), one.total_bytes, one.used_bytes) for one in found[: head.total_spaces]]


def send(fd: Fd, to_fd: Fd, *, parent_id: int = 0, flags: SendFlag = SendFlag.NONE, version: int = 1) -> None:
    """Write to *to_fd* the stream of commands that turns the subvolume *parent_id* into the one whose root is *fd*.

    Both must be read-only. Blocks until the reader has taken it all.

    :param parent_id: number of a subvolume, or 0 for the empty tree.
    :param version: of the stream; more than 1 only with ``SendFlag.VERSION``.
    :raises OSError: EPERM, one of them is not read-only or is deleted; EPIPE, the reader is gone; EINVAL, a flag the
        kernel does not know; EPROTO, a version it does not; EINTR, a signal cut it short.
    """
    argument = abi.btrfs_ioctl_send_args(
        send_fd=number_of(to_fd), parent_root=parent_id, flags=flags, version=version if version > 1 else 0
    )
    if parent_id:
        argument.clone_sources = (ctypes.c_uint64 * 1)(parent_id)
        argument.clone_sources_count = 1
    # Not begun again after a signal: half a stream is with the reader.
    if _ioctl(number_of(fd), abi.IOC_SEND, ctypes.byref(argument)) < 0:
        raise oserror("ioctl(2) BTRFS_IOC_SEND")
