"""Sizes, numbers and the reading of sysfs; the devices themselves are in the root tier."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cowstore._linux import loop

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_struct_sizes() -> None:
    """``struct loop_info64`` is 232 bytes, ``struct loop_config`` 304."""
    assert loop._INFO.size == 232
    assert loop._CONFIG_SIZE == 304


def test_ioctl_numbers() -> None:
    names = ("CLR_FD", "GET_STATUS64", "SET_CAPACITY", "SET_DIRECT_IO", "CONFIGURE")
    assert [getattr(loop, f"LOOP_{name}") for name in names] == [0x4C01, 0x4C05, 0x4C07, 0x4C08, 0x4C0A]
    assert loop.LOOP_CTL_GET_FREE == 0x4C82


def fake_sysfs(root: Path) -> Path:
    """loop0 in use; loop3 in use with a shifted minor; loop5 free; and what is no loop device."""
    for name, number, backing in (("loop0", "7:0", b"/a"), ("loop3", "7:24", b"/b \n"), ("loop5", "7:5", None)):
        directory = root / "block" / name
        directory.mkdir(parents=True)
        (directory / "dev").write_text(f"{number}\n")
        if backing is not None:
            (directory / "loop").mkdir()
            (directory / "loop" / "backing_file").write_bytes(backing + b"\n")
    (root / "block" / "loopback").mkdir()
    (root / "block" / "sda").mkdir()
    return root


def test_the_number_comes_from_sysfs_not_from_the_name(tmp_path: Path) -> None:
    """DM-22: with partitions enabled loop3 is 7:24."""
    assert loop.device_number(3, sysfs=str(fake_sysfs(tmp_path))) == os.makedev(7, 24)


def test_listing_names_those_in_use(tmp_path: Path) -> None:
    listed = loop.attached(sysfs=str(fake_sysfs(tmp_path)))
    assert listed == [(os.makedev(7, 0), b"/a"), (os.makedev(7, 24), b"/b \n")]


def test_a_device_that_vanishes_while_listing_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DM-22: the entry is there when the directory is read and gone when it is opened."""
    fake_sysfs(tmp_path)
    real = os.listdir

    def with_a_ghost(path: str) -> list[str]:
        return [*real(path), "loop9"]

    monkeypatch.setattr(os, "listdir", with_a_ghost)
    assert [number for number, _ in loop.attached(sysfs=str(tmp_path))] == [os.makedev(7, 0), os.makedev(7, 24)]
