"""Sharing blocks where a file system can."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from cowstore._linux import mount
from cowstore._linux.files import FsMagic, ficlone, statfs, syncfs
from cowstore._linux.mount import MountFlag
from cowstore._linux.namespaces import CloneFlag, unshare
from tests.tiers import need_program
from tests.unit._linux.child import in_child

if TYPE_CHECKING:
    from pathlib import Path


def test_ficlone_shares_blocks(tmp_path: Path) -> None:
    """The loop device is mount(8)'s, which gives it up by itself with the last mount; that is the child's own."""
    need_program("mkfs.btrfs", "mount")
    image, target = tmp_path / "image", tmp_path / "target"
    target.mkdir()
    with image.open("wb") as file:
        file.truncate(128 << 20)
    subprocess.run(["mkfs.btrfs", "-q", image], check=True)

    def work() -> None:
        unshare(CloneFlag.NEWNS)
        mount.mount(None, "/", None, MountFlag.REC | MountFlag.PRIVATE)
        subprocess.run(["mount", "-n", "-o", "loop", image, target], check=True)
        try:
            assert statfs(os.fsdecode(target)).type == FsMagic.BTRFS
            (target / "source").write_bytes(os.urandom(1 << 20))
            with (target / "source").open("rb") as reader, (target / "copy").open("wb") as writer:
                syncfs(reader)
                used = statfs(reader)
                ficlone(writer, reader)
                syncfs(writer)
                assert abs(statfs(writer).free - used.free) * used.block_size < 1 << 19
            assert (target / "copy").read_bytes() == (target / "source").read_bytes()
        finally:
            mount.umount2(os.fsdecode(target))

    in_child(work)
