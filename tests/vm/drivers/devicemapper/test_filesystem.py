"""The file system of the base, as it is made on any machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from cowstore.drivers.devicemapper import filesystem
from cowstore.drivers.devicemapper.options import MIB, Options

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_machine_s_own_defaults_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An mke2fs.conf that has other features, other sizes, and checks after so many mounts."""
    usual = shown(formatted(tmp_path))
    assert usual["Maximum mount count"] == "-1"
    assert usual["Check interval"].startswith("0 ")
    configuration = tmp_path / "mke2fs.conf"
    configuration.write_text(
        "[defaults]\n base_features = filetype,sparse_super2\n enable_periodic_fsck = 1\n blocksize = 1024\n"
        " inode_size = 512\n inode_ratio = 4096\n flex_bg_size = 4\n"
        "[fs_types]\n ext4 = {\n  features = extent,inline_data,casefold,ea_inode,bigalloc\n }\n"
    )
    program = shutil.which("mke2fs", path="/usr/sbin:/sbin")
    wrapper = tmp_path / "bin/mke2fs"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nMKE2FS_CONFIG={configuration} exec {program} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", str(wrapper.parent), prepend=os.pathsep)
    assert shown(formatted(tmp_path)) == usual


def formatted(tmp_path: Path) -> Path:
    image = tmp_path / "image"
    with open(image, "wb") as file:
        file.truncate(1024 * MIB)
    filesystem.make(str(image), "0c05f4b5-7c1e-4d3d-8f1c-2f4fd0d0b001", Options())
    return image


def shown(image: Path) -> dict[str, str]:
    """What dumpe2fs says of a file system, without what differs from one to the next."""
    done = subprocess.run(["dumpe2fs", "-h", str(image)], capture_output=True, text=True, check=True)
    lines = [line.partition(":") for line in done.stdout.splitlines() if ":" in line]
    differs = ("Directory Hash Seed", "Checksum", "Filesystem created", "Last write time", "Last checked")
    return {name: value.strip() for name, _, value in lines if name not in differs}
