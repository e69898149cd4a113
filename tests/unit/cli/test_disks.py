"""`cowstore info --disks`: the same list from blkinfo and from sysfs."""

from __future__ import annotations

import json
import sys
import types
from typing import TYPE_CHECKING, Any

import pytest

from cowstore.cli import _disks, main

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30


def told(name: str, **more: object) -> dict[str, Any]:
    """What `BlkDiskInfo().get_disks()` of blkinfo 0.2 tells of a disk: all of it text, but the tree."""
    return {
        "name": name, "kname": name, "fstype": "", "label": "", "mountpoint": "", "size": str(GIB), "maj:min": "8:0",
        "rm": "0", "model": " ", "vendor": " ", "serial": "", "hctl": "", "tran": "", "rota": "1", "type": "disk",
        "ro": "0", "owner": "root", "group": "disk", "mode": "brw-rw----", "children": [], "parents": [],
        "statistics": {"major": "8", "minor": "0", "kname": name}, **more,
    }  # fmt: skip


PARTITION = told("sda1", type="part", fstype="ext4", mountpoint="/", parents=["sda"])
RECORDED = [
    told("zram0", size="0"),
    told("loop0", type="loop"),
    told("sda", model="ATA QEMU HARDDISK ", children=[PARTITION]),
    told("sdb", size=str(16 * GIB), model="Vendor Blank"),
    told("sdc", fstype="LVM2_member", ro="1"),
    told("sdd", size=0, mountpoint="/mnt", fstype="xfs"),
    told("dm-0", type="lvm"),
]


def test_what_blkinfo_tells() -> None:
    found = {disk.name: disk for disk in _disks.from_blkinfo(RECORDED)}
    assert list(found) == ["sda", "sdb", "sdc", "sdd"]
    assert (found["sda"].used_by, found["sda"].model) == (("holds sda1",), "ATA QEMU HARDDISK")
    assert found["sdb"] == _disks.Disk(name="sdb", size_bytes=16 * GIB, model="Vendor Blank", used_by=())
    assert found["sdc"].used_by == ("a file system (LVM2_member)", "read-only")
    assert (found["sdd"].used_by, found["sdd"].size_bytes) == (("mounted at /mnt", "a file system (xfs)"), 0)


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """As much of /sys/block as a disk with a partition, one that LVM has, an empty one and a loop device show."""
    for name, size in (("sda", 2 << 21), ("sdb", 32 << 20), ("sdc", 2 << 21), ("loop0", 8)):
        disk = tmp_path / name
        (disk / "device").mkdir(parents=True)
        (disk / "holders").mkdir()
        for file, text in (("dev", "240:9"), ("ro", "0"), ("size", str(size)), ("device/model", f"Model of {name} ")):
            (disk / file).write_text(text + "\n")
    (tmp_path / "sda/sda1").mkdir()
    (tmp_path / "sdc/holders/dm-0").mkdir()
    (tmp_path / "sdc/ro").write_text("1\n")
    return tmp_path


def test_what_the_kernel_shows(sysfs: Path) -> None:
    found = {disk.name: disk for disk in _disks.from_sysfs(str(sysfs))}
    assert list(found) == ["sda", "sdb", "sdc"]
    assert found["sda"].used_by == ("holds sda1",)
    assert found["sdb"] == _disks.Disk(name="sdb", size_bytes=16 * GIB, model="Model of sdb", used_by=())
    assert found["sdc"].used_by == ("used by dm-0", "read-only")
    assert _disks.from_sysfs(str(sysfs / "nowhere")) == []


@pytest.mark.parametrize("works", [True, False])
def test_blkinfo_is_asked_where_it_works(monkeypatch: pytest.MonkeyPatch, sysfs: Path, *, works: bool) -> None:
    """It runs lsblk(8), which may be missing: then there is sysfs."""

    class BlkDiskInfo:
        def get_disks(self) -> list[dict[str, Any]]:
            if not works:
                raise RuntimeError("lsblk command-line tool from util-linux package is not found.")
            return RECORDED

    module = types.ModuleType("blkinfo")
    module.BlkDiskInfo = BlkDiskInfo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "blkinfo", module)
    monkeypatch.setattr(_disks.from_sysfs, "__defaults__", (str(sysfs),))
    assert [disk.name for disk in _disks.disks()] == (["sda", "sdb", "sdc", "sdd"] if works else ["sda", "sdb", "sdc"])


def test_the_command_lists_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(_disks, "disks", lambda: _disks.from_blkinfo(RECORDED))
    store = str(tmp_path / "none")
    assert main.main(["info", "--disks", "--json", "--store", store]) == 0
    listed = json.loads(capsys.readouterr().out)["disks"]
    assert {entry["name"]: entry["free"] for entry in listed} == {"sda": False, "sdb": True, "sdc": False, "sdd": False}
    assert main.main(["info", "--disks", "--store", store]) == 0
    out = capsys.readouterr().out
    assert "sdb" in out
    assert "holds sda1" in out
