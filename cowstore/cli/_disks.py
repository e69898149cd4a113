"""The disks of this machine, for people who look for one to give to a store. Nothing decides anything by this list."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

SYSFS = "/sys/block"
_SECTOR_BYTES = 512
"""Unit of sizes in sysfs, whatever the disk's own. Source: the kernel's Documentation/ABI/stable/sysfs-block."""
_NO_DISKS = ("loop", "ram", "zram", "fd", "sr", "dm-", "md")


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """One disk.

    :ivar size_bytes: its size. :ivar used_by: what stands in the way of giving it away, in words; nothing if free.
    """

    name: str
    size_bytes: int
    model: str
    used_by: tuple[str, ...]

    def document(self) -> dict[str, object]:
        """Return it as JSON has it."""
        return {**asdict(self), "used_by": list(self.used_by), "free": not self.used_by}


def disks() -> list[Disk]:
    """List the disks, by blkinfo where it is installed and works, else from sysfs."""
    try:
        from blkinfo import BlkDiskInfo

        return from_blkinfo(BlkDiskInfo().get_disks())
    except Exception:  # noqa: BLE001  # it runs lsblk(8) and reads what that prints: whatever fails, there is sysfs
        return from_sysfs()


def from_blkinfo(found: Iterable[Mapping[str, Any]]) -> list[Disk]:
    """Make the list of what blkinfo tells."""
    made = []
    for entry in found:
        name = str(entry.get("name", ""))
        if name.startswith(_NO_DISKS):
            continue
        uses = [f"mounted at {entry['mountpoint']}"] if entry.get("mountpoint") else []
        uses += [
            f"holds {child.get('name', child) if hasattr(child, 'get') else child}"
            for child in entry.get("children") or ()
        ]
        if entry.get("fstype"):
            uses.append(f"a file system ({entry['fstype']})")
        if str(entry.get("ro", "0")) in {"1", "True"}:
            uses.append("read-only")
        model = str(entry.get("model") or "").strip()
        made.append(Disk(name=name, size_bytes=int(entry.get("size") or 0), model=model, used_by=tuple(uses)))
    return made


def from_sysfs(root: str = SYSFS) -> list[Disk]:
    """Make the list of what the kernel shows."""
    try:
        names = sorted(os.listdir(root))
    except OSError:
        return []
    return [_disk(root, name) for name in names if not name.startswith(_NO_DISKS)]


def _disk(root: str, name: str) -> Disk:
    path = os.path.join(root, name)
    uses = [f"mounted at {point}" for point in _mounted(_text(path, "dev"))]
    uses += [f"holds {entry}" for entry in sorted(os.listdir(path)) if entry.startswith(name)]
    holders = os.path.join(path, "holders")
    uses += [f"used by {entry}" for entry in sorted(os.listdir(holders))] if os.path.isdir(holders) else []
    if _text(path, "ro") == "1":
        uses.append("read-only")
    size = _text(path, "size")
    return Disk(
        name=name,
        size_bytes=int(size) * _SECTOR_BYTES if size.isdigit() else 0,
        model=_text(path, "device/model"),
        used_by=tuple(uses),
    )


def _mounted(number: str) -> list[str]:
    from cowstore._linux.procfs import mountinfo

    return sorted({os.fsdecode(entry.mount_point) for entry in mountinfo() if f"{entry.major}:{entry.minor}" == number})


def _text(path: str, name: str) -> str:
    try:
        with open(os.path.join(path, name), encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
