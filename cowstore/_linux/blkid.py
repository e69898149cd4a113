"""Recognising what a block device or file holds, by the library libblkid where there is one.

Source: libblkid's documentation, ``blkid_do_safeprobe``.
"""

from __future__ import annotations

import ctypes
import errno
import os
from dataclasses import dataclass

from cowstore._linux._call import number_of, oserror

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore._linux._call import Fd

LIBRARY = "libblkid.so.1"
_SUBLKS = 1 << 1 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7
"""LABEL, UUID, TYPE, SECTYPE, USAGE."""
_NOTHING, _AMBIVALENT = 1, -2


@dataclass(frozen=True, slots=True)
class Signature:
    """What was found: a file-system, RAID or other type, or a partition table; empty text where it has none."""

    type: str
    usage: str
    label: str
    uuid: str


class Ambivalent(OSError):
    """Signatures of more than one thing were found."""


def _load() -> ctypes.CDLL:
    # By its soname: to search for the library runs a program.
    try:
        library = ctypes.CDLL(LIBRARY, use_errno=True)
    except OSError as error:
        raise oserror("dlopen(3)", LIBRARY, code=errno.ENOSYS, detail=str(error)) from error
    library.blkid_new_probe.restype = ctypes.c_void_p
    library.blkid_free_probe.argtypes = (ctypes.c_void_p,)
    library.blkid_probe_set_device.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    for name in ("superblocks", "partitions"):
        getattr(library, f"blkid_probe_enable_{name}").argtypes = (ctypes.c_void_p, ctypes.c_int)
    library.blkid_probe_set_superblocks_flags.argtypes = (ctypes.c_void_p, ctypes.c_int)
    library.blkid_do_safeprobe.argtypes = (ctypes.c_void_p,)
    library.blkid_probe_lookup_value.argtypes = (
        ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_char_p), ctypes.POINTER(ctypes.c_size_t),
    )  # fmt: skip
    return library


def do_safeprobe(device: Fd) -> Signature | None:
    """Look for a signature on an open device or file; None where there is none.

    Raises:
        Ambivalent: there is more than one, so nobody can say what it is.
        OSError: ENOSYS, there is no libblkid; EIO, the device could not be read.
    """
    library = _load()
    probe = library.blkid_new_probe()
    if not probe:
        raise oserror("blkid_new_probe()", code=errno.ENOMEM)
    try:
        if library.blkid_probe_set_device(probe, number_of(device), 0, 0) != 0:
            raise oserror("blkid_probe_set_device()", code=ctypes.get_errno() or errno.EIO)
        library.blkid_probe_enable_superblocks(probe, 1)
        library.blkid_probe_set_superblocks_flags(probe, _SUBLKS)
        library.blkid_probe_enable_partitions(probe, 1)
        result = library.blkid_do_safeprobe(probe)
        if result == _NOTHING:
            return None
        if result == _AMBIVALENT:
            raise Ambivalent(errno.EBUSY, "signatures of more than one thing")
        if result != 0:
            raise oserror("blkid_do_safeprobe()", code=ctypes.get_errno() or errno.EIO)
        kind = _value(library, probe, b"TYPE") or f"{_value(library, probe, b'PTTYPE')} partition table"
        uuid = _value(library, probe, b"UUID") or _value(library, probe, b"PTUUID")
        return Signature(kind, _value(library, probe, b"USAGE"), _value(library, probe, b"LABEL"), uuid)
    finally:
        library.blkid_free_probe(probe)


def _value(library: ctypes.CDLL, probe: int, name: bytes) -> str:
    data, length = ctypes.c_char_p(), ctypes.c_size_t()
    if library.blkid_probe_lookup_value(probe, name, ctypes.byref(data), ctypes.byref(length)) != 0:
        return ""
    return os.fsdecode(data.value or b"")
