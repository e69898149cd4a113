"""What a block device is, and who uses it, on loop devices of this machine."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from cowstore._linux import loop
from cowstore.drivers import _guard
from cowstore.errors import Busy, InvalidArgument, Unsupported
from tests.tiers import need_program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def device(path: Path, size: int = 64 << 20) -> Iterator[loop.LoopDevice]:
    path.touch()
    os.truncate(path, size)
    with open(path, "r+b") as file, loop.attach(file, file_name=os.fsencode(path)) as attached:
        yield attached


def test_a_blank_device_may_be_had(tmp_path: Path) -> None:
    with device(tmp_path / "disk") as disk:
        found = _guard.claim(disk.node)
    assert (found.size_bytes, found.uses, found.holds, found.read_only) == (64 << 20, (), "", False)


def test_what_is_no_block_device(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", "/dev/null"):
        with pytest.raises(InvalidArgument, match="no block device"):
            _guard.claim(str(path))


def test_a_foreign_file_system_is_named_by_label_and_uuid(tmp_path: Path) -> None:
    need_program("mkfs.ext4")
    with device(tmp_path / "disk") as disk:
        uuid = "12345678-1234-1234-1234-123456789abc"
        subprocess.run(["mkfs.ext4", "-q", "-L", "family photos", "-U", uuid, disk.node], check=True)
        with pytest.raises(Unsupported) as refused:
            _guard.claim(disk.node)
        assert "family photos" in str(refused.value)
        assert uuid in str(refused.value)
        assert _guard.claim(disk.node, force=True).holds.startswith("ext4")


def test_a_mounted_device_is_refused_even_by_force(tmp_path: Path) -> None:
    need_program("mkfs.ext4", "mount")
    with device(tmp_path / "disk") as disk:
        subprocess.run(["mkfs.ext4", "-q", disk.node], check=True)
        place = tmp_path / "place"
        place.mkdir()
        subprocess.run(["mount", disk.node, str(place)], check=True)
        try:
            with pytest.raises(Busy, match=f"mounted at {place}"):
                _guard.claim(disk.node, force=True)
        finally:
            subprocess.run(["umount", str(place)], check=True)


def test_a_btrfs_member_is_refused_though_its_mount_names_another_number(tmp_path: Path) -> None:
    """Btrfs reports an anonymous device number; its source, and the exclusive open, still tell."""
    need_program("mkfs.btrfs", "mount")
    with device(tmp_path / "one", 128 << 20) as one, device(tmp_path / "two", 128 << 20) as two:
        subprocess.run(["mkfs.btrfs", "-q", "-f", one.node, two.node], check=True)
        place = tmp_path / "place"
        place.mkdir()
        subprocess.run(["mount", "-o", f"device={one.node},device={two.node}", one.node, str(place)], check=True)
        try:
            for disk in (one, two):
                with pytest.raises(Busy):
                    _guard.claim(disk.node, force=True)
        finally:
            subprocess.run(["umount", str(place)], check=True)


def test_swap_space_is_refused(tmp_path: Path) -> None:
    need_program("mkswap", "swapon")
    with device(tmp_path / "disk") as disk:
        subprocess.run(["mkswap", disk.node], check=True, capture_output=True)
        if subprocess.run(["swapon", disk.node], check=False, capture_output=True).returncode != 0:
            with pytest.raises(Unsupported, match="swap"):
                _guard.claim(disk.node)
            return
        try:
            with pytest.raises(Busy, match="swap space"):
                _guard.claim(disk.node, force=True)
        finally:
            subprocess.run(["swapoff", disk.node], check=True)


def test_two_signatures_are_refused(tmp_path: Path) -> None:
    """What nobody can name is not blank."""
    need_program("mkfs.ext4", "mkfs.xfs")
    with device(tmp_path / "disk", 512 << 20) as disk:
        subprocess.run(["mkfs.ext4", "-q", disk.node], check=True)
        subprocess.run(["mkfs.xfs", "-q", "-f", "-K", disk.node], check=True)
        with pytest.raises(Unsupported):
            _guard.claim(disk.node)


def test_pool_metadata_is_recognised(tmp_path: Path) -> None:
    """A thin pool's metadata has no signature that libblkid knows."""
    with device(tmp_path / "disk") as disk:
        os.pwrite(disk.fileno(), (27022010).to_bytes(8, "little"), 32)
        with pytest.raises(Unsupported, match="thin pool"):
            _guard.claim(disk.node)
