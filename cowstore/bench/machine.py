"""What the figures were taken on: kernel, processor, memory, file system, interpreter, versions."""

from __future__ import annotations

import os
import sys

from cowstore._version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    Facts = dict[str, str | int | float | bool | None]


def below_home(path: str) -> str:
    """Return a path as others may read it: what lies in a person's home begins with ``~``."""
    home = os.path.expanduser("~").rstrip("/")
    return f"~{path[len(home) :]}" if home and path.startswith(f"{home}/") else path


def facts(scratch: str) -> Facts:
    """Return the facts of this machine, as far as they bear on a figure.

    :param scratch: the directory that is measured in.
    """
    import sqlite3

    name = os.uname()
    found = os.statvfs(scratch)
    kind, device, options = _mount_of(scratch)
    return {
        "cowstore": __version__,
        "kernel": name.release,
        "architecture": name.machine,
        "distribution": _distribution(),
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "interpreter": below_home(os.path.realpath(sys.executable)),
        "python": ".".join(map(str, sys.version_info[:3])),
        "sqlite": sqlite3.sqlite_version,
        "root": os.geteuid() == 0,
        "file_system": kind,
        "device": device,
        "mount_options": options,
        "free_bytes": found.f_bavail * found.f_frsize,
        "load": round(os.getloadavg()[0], 2),
        "caches_dropped": can_drop_caches(),
    }


def _mount_of(path: str) -> tuple[str, str, str]:
    """Return type, device and options of the mount that *path* is on."""
    from cowstore._linux.procfs import mountinfo

    device = os.stat(path).st_dev
    best = ("unknown", "unknown", "")
    longest = -1
    for entry in mountinfo():
        point = os.fsdecode(entry.mount_point)
        below = path == point or path.startswith(point.rstrip("/") + "/")
        if below and len(point) >= longest and os.stat(point).st_dev == device:
            longest = len(point)
            best = (_text(entry.fs_type), _text(entry.source), _text(entry.super_options))
    return best


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (tuple, list)):
        return ",".join(map(_text, value))
    return str(value)


def _distribution() -> str:
    try:
        with open("/etc/os-release", encoding="utf-8") as file:
            for line in file:
                if line.startswith("PRETTY_NAME="):
                    return line.partition("=")[2].strip().strip('"')
    except OSError:
        pass
    return "unknown"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith(("model name", "Model", "uarch")):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return os.uname().machine


def forget_peak() -> None:
    """Let what this process needs most be counted from now on. Source: proc(5), clear_refs."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def peak_bytes() -> int:
    """Tell the most memory that this process had at once, unlike getrusage(2) without what its parent had before exec.

    Source: proc(5), VmHWM.
    """
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return 0


def can_drop_caches() -> bool:
    """Tell whether cold figures can be had: only the machine's own root may empty its caches."""
    return os.access("/proc/sys/vm/drop_caches", os.W_OK)


def drop_caches() -> bool:
    """Write out and empty the page, dentry and inode caches; returns False where that is not allowed."""
    os.sync()
    try:
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
            file.write("3\n")
    except OSError:
        return False
    return True
