"""What is full is told apart: bytes or inodes of a snapshot's own file system, data or metadata of the pool."""

from __future__ import annotations

import io
import os
import tarfile
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore.drivers.devicemapper.options import MIB
from cowstore.errors import OutOfSpace
from tests.vm.drivers.devicemapper.conftest import SMALL

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def archive(*sizes: int) -> io.BytesIO:
    """A layer of files of these sizes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for number, size in enumerate(sizes):
            member = tarfile.TarInfo(f"f{number}")
            member.size = size
            file.addfile(member, io.BytesIO(os.urandom(size)))
    out.seek(0)
    return out


def refused(verb: Callable[[], object]) -> OutOfSpace:
    with pytest.raises(OutOfSpace) as told:
        verb()
    return told.value


def test_inodes_run_out(tmp_path: Path) -> None:
    """The snapshot's own, few by `bytes_per_inode`: told from bytes, though the store's file system has plenty."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(200):
        (source / f"f{number}").touch()
    options = {**SMALL, "bytes_per_inode": MIB}
    with cowstore.open(tmp_path / "store", driver="devicemapper", options=options) as store:
        store.prepare("top")
        with store.mounted("top") as root:
            inodes = os.statvfs(root).f_files
        assert 32 <= inodes <= 128
        store.prepare("large", size_bytes=256 * MIB)
        with store.mounted("large") as root:
            for number in range(inodes + 20):
                (root / f"f{number}").touch()
        store.commit("larger", "large")
        verbs: tuple[tuple[str, Callable[[], object]], ...] = (
            ("top", lambda: store.apply_layer("top", archive(*[0] * 200))),
            ("tar", lambda: store.import_tar(archive(*[0] * 200), name="tar")),
            ("directory", lambda: store.import_directory(source, name="directory")),
            ("squashed", lambda: store.squash("squashed", "larger")),
        )
        for key, verb in verbs:
            error = refused(verb)
            assert (error.what, error.total) == ("inodes", inodes), key
            assert "inodes" in str(error)
            assert f"'{key}'" in str(error)
        assert [snapshot.key for snapshot in store.walk()] == ["larger"]
        store.prepare("top", size_bytes=256 * MIB)
        store.apply_layer("top", archive(*[0] * (inodes + 20)))
        for key in ("top", "larger"):
            store.remove(key)
        store.destroy()


def test_a_snapshots_own_bytes_run_out(tmp_path: Path) -> None:
    """Its file system is full, and the pool is not: the way out is another."""
    with cowstore.open(tmp_path / "store", driver="devicemapper", options=SMALL) as store:
        error = refused(lambda: store.import_tar(archive(64 * MIB), name="tar"))
        assert error.what == "data"
        assert 32 * MIB < error.total < 64 * MIB
        assert "set_size" in str(error)
        store.prepare("top", size_bytes=128 * MIB)
        store.apply_layer("top", archive(64 * MIB))
        store.remove("top")
        store.destroy()
