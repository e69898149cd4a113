"""What XFS is told after a mount."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from cowstore._linux.fd import Descriptor, open_
from cowstore.mounting import xfs

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """As much of sysfs as tells of the file system that *tmp_path* is on, as if it were XFS on dm-3."""
    dev = os.stat(tmp_path).st_dev
    (tmp_path / "dev/block").mkdir(parents=True)
    (tmp_path / f"dev/block/{os.major(dev)}:{os.minor(dev)}").symlink_to("../../devices/virtual/block/dm-3")
    for name in xfs.ERRORS:
        (tmp_path / "fs/xfs/dm-3/error/metadata" / name).mkdir(parents=True)
        (tmp_path / "fs/xfs/dm-3/error/metadata" / name / "max_retries").write_text("-1\n")
    return tmp_path


@pytest.fixture
def tree(tmp_path: Path) -> Descriptor:
    return open_(str(tmp_path), os.O_PATH)


def test_no_write_is_repeated(sysfs: Path, tree: Descriptor) -> None:
    xfs.fail_soon(tree, sysfs=str(sysfs))
    told = [path.read_text() for path in sorted((sysfs / "fs").rglob("max_retries"))]
    assert told == ["0", "0"]


def test_a_machine_without_sysfs_is_told_what_that_means(
    tmp_path: Path, tree: Descriptor, caplog: pytest.LogCaptureFixture
) -> None:
    xfs.fail_soon(tree, sysfs=str(tmp_path / "none"))
    assert "may hang" in caplog.text


def test_any_other_refusal_is_an_error(sysfs: Path, tree: Descriptor) -> None:
    (sysfs / "fs/xfs/dm-3/error/metadata/EIO/max_retries").unlink()
    (sysfs / "fs/xfs/dm-3/error/metadata/EIO/max_retries").mkdir()
    with pytest.raises(IsADirectoryError):
        xfs.fail_soon(tree, sysfs=str(sysfs))
