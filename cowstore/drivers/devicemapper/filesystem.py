"""The file system of the base and of all its snapshots: making, recognising, mounting and growing it.

Source: the kernel's Documentation/filesystems/ext4 (super block), fs/xfs/libxfs/xfs_format.h; ioctl numbers of
``linux/ext4.h`` (EXT4_IOC_RESIZE_FS) and ``xfs_fs.h`` (XFS_IOC_FSGROWFSDATA).
"""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass

from cowstore._linux._call import bind, number_of, oserror, retry
from cowstore._linux.fd import open_
from cowstore.drivers.devicemapper.options import FileSystem, Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore._linux._call import Fd

ROOT = b"rootfs"
"""Directory of the device that is a snapshot's root: what the file system itself puts beside it is never seen."""

BLKFLSBUF = 0x1261
EXT4_IOC_RESIZE_FS = 1 << 30 | 8 << 16 | ord("f") << 8 | 16
XFS_IOC_FSGROWFSDATA = 1 << 30 | 16 << 16 | ord("X") << 8 | 110
_EXT4_MAGIC = 0xEF53
_EXT4_NEEDS_RECOVERY = 0x4
_EXT4_64BIT = 0x80
_EXT4_ERROR_FS = 0x2
_EXT4_FEATURES = (
    "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,"
    "dir_nlink,extra_isize,metadata_csum"
)
""""none" leaves out what else mke2fs.conf may name; the rest is what e2fsprogs has made of an ext4 since 1.43."""
_ioctl = bind("ioctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)


@dataclass(frozen=True, slots=True)
class SuperBlock:
    """What a device says it holds; sizes in bytes.

    :ivar clean: nothing in the journal waits to be replayed; only ext4 tells, of xfs it is False.
    :ivar damaged: ext4 has noted an error, a write that was lost for example.
    """

    type: FileSystem
    uuid: str
    block_bytes: int
    size_bytes: int
    clean: bool
    damaged: bool = False


def forget_cached(device: Fd) -> None:
    """Drop what is cached of a block device, which may be older than what a device-mapper target wrote to it."""
    if retry(_ioctl, number_of(device), BLKFLSBUF, None) < 0:
        raise oserror("ioctl(2)", detail="BLKFLSBUF")


def text_of_uuid(raw: bytes) -> str:
    """Write a UUID the usual way."""
    digits = raw.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def read_super_block(fd: Fd) -> SuperBlock | None:
    """Read what a block device holds, or None where it is neither ext4 nor xfs.

    :raises OSError: it cannot be read, which is not the same.
    """
    return super_block_of(os.pread(number_of(fd), 4096, 0))


def super_block_of(head: bytes) -> SuperBlock | None:
    """Read the first 4096 bytes of what may be a file system; as :func:`read_super_block`."""
    if len(head) < 2048:
        return None
    if head[:4] == b"XFSB":
        block, blocks = struct.unpack_from(">IQ", head, 4)
        return SuperBlock(FileSystem.XFS, text_of_uuid(head[32:48]), block, block * blocks, clean=False)
    block = head[1024:]
    if struct.unpack_from("<H", block, 0x38)[0] != _EXT4_MAGIC:
        return None
    count, log_size = struct.unpack_from("<I", block, 4)[0], struct.unpack_from("<I", block, 24)[0]
    features = struct.unpack_from("<I", block, 0x60)[0]
    if features & _EXT4_64BIT:
        count |= struct.unpack_from("<I", block, 0x150)[0] << 32
    bytes_ = 1024 << log_size
    clean = not features & _EXT4_NEEDS_RECOVERY
    damaged = bool(struct.unpack_from("<H", block, 0x3A)[0] & _EXT4_ERROR_FS)
    return SuperBlock(FileSystem.EXT4, text_of_uuid(block[0x68:0x78]), bytes_, bytes_ * count, clean, damaged)


def program(options: Options) -> str:
    """Name the program that makes the chosen file system."""
    return "mke2fs" if options.file_system is FileSystem.EXT4 else "mkfs.xfs"


def make(node: str, uuid: str, options: Options) -> None:
    """Make an empty file system on a fresh thin device.

    ext4: the journal is written out, so that no block of a removed sibling's can ever be taken for part of it; the
    inode tables are not, since ext4 trusts none it has not written, and a fresh device need not be discarded. What our
    own reader (:mod:`~cowstore.drivers.devicemapper.ext4`) relies on is asked for, whatever mke2fs.conf says here.

    :raises DriverUnavailable: the program is missing. :raises CowstoreError: it failed.
    """
    from cowstore import _programs

    if options.file_system is FileSystem.XFS:
        _programs.run("mkfs.xfs", ["-q", "-f", "-K", "-m", f"uuid={uuid}", node])
        return
    block = options.block_bytes >> 12
    extended = f"nodiscard,lazy_itable_init=1,lazy_journal_init=0,stride={block},stripe_width={block}"
    _programs.run(
        "mke2fs",
        [
            "-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-G", "16", "-O", _EXT4_FEATURES, "-m", "0",
            "-U", uuid, "-i", str(options.bytes_per_inode), "-J", f"size={max(4, options.journal_bytes >> 20)}",
            "-E", extended, node,
        ],
    )  # fmt: skip
    if _is_checked_at_times(node):
        _programs.run("tune2fs", ["-c", "0", "-i", "0", node])


def _is_checked_at_times(node: str) -> bool:
    """Tell whether the kernel will ask for an e2fsck after some mounts or months, as mke2fs.conf may have it."""
    with open_(node, os.O_RDONLY) as device:
        head = os.pread(device.fileno(), 2048, 0)[1024:]
    mounts: int = struct.unpack_from("<h", head, 0x36)[0]
    seconds: int = struct.unpack_from("<I", head, 0x44)[0]
    return mounts > 0 or seconds > 0


def mount_options(kind: FileSystem, *, read_only: bool, volatile: bool) -> tuple[tuple[bytes, bytes], ...]:
    """List the options of a mount: of a device that cannot be written no journal is replayed.

    ext4 initialises no inode tables behind anybody's back (each snapshot would pay for a copy of its own), and notes
    it in its super block when data could not be written: a full pool must not make a committed layer of holes.
    """
    if kind is FileSystem.XFS:
        common: tuple[tuple[bytes, bytes], ...] = ((b"nouuid", b""),)
        return (*common, (b"ro", b""), (b"norecovery", b"")) if read_only else common
    if read_only:
        return ((b"ro", b""), (b"noload", b""))
    common = ((b"noinit_itable", b""), (b"errors", b"remount-ro"), (b"data_err", b"abort"))
    return (*common, (b"nobarrier", b"")) if volatile else common


def grow(kind: FileSystem, root: Fd, block_bytes: int, size_bytes: int) -> None:
    """Let a mounted file system take over a larger device.

    :param root: a directory of it. :param size_bytes: what the device has now.
    :raises OSError: as the kernel says.
    """
    blocks = size_bytes // block_bytes
    if kind is FileSystem.EXT4:
        argument, number = struct.pack("=Q", blocks), EXT4_IOC_RESIZE_FS
    else:
        argument, number = struct.pack("=QI4x", blocks, 25), XFS_IOC_FSGROWFSDATA
    buffer = ctypes.create_string_buffer(argument, 16)
    if retry(_ioctl, number_of(root), number, ctypes.addressof(buffer)) < 0:
        raise oserror("ioctl(2)", detail=f"growing {kind} to {blocks} blocks of {block_bytes}")
