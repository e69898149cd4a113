"""Loop devices of this machine's kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cowstore._linux import loop

if TYPE_CHECKING:
    from pathlib import Path

CHILD = """
import os, sys
from cowstore._linux import loop

path, rounds = sys.argv[1], int(sys.argv[2])
mine = os.stat(path)
with open(path, "r+b") as file:
    for _ in range(rounds):
        with loop.attach(file, file_name=os.fsencode(path)) as device:
            info = loop.get_status64(device)
            assert info.inode == mine.st_ino, (info, mine)
            assert os.pread(device.fileno(), 4, 0) == os.fsencode(path)[-4:]
"""


def make_file(path: Path, size: int = 1 << 20) -> Path:
    path.write_bytes(os.fsencode(path)[-4:])
    os.truncate(path, size)
    return path


@pytest.mark.slow
def test_sixteen_processes_attach_and_detach(tmp_path: Path) -> None:
    """DM-21: none fails, and none ever meets another's file behind its device."""
    files = [make_file(tmp_path / f"f{number:03}") for number in range(16)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    children = [
        subprocess.Popen([sys.executable, "-c", CHILD, str(file), "50"], env=environment, stderr=subprocess.PIPE)
        for file in files
    ]
    said = [child.communicate(timeout=100)[1].decode() for child in children]
    assert [child.returncode for child in children] == [0] * 16, "\n".join(said)
    names = {os.fsencode(file) for file in files}
    assert not [backing for _, backing in loop.attached() if backing in names]


def test_the_last_close_detaches(tmp_path: Path) -> None:
    """DM-21: the handle is the hold; a killed owner leaves nothing attached."""
    path = make_file(tmp_path / "file")
    with open(path, "r+b") as file:
        device = loop.attach(file, file_name=os.fsencode(path))
    with open(path, "rb"):
        assert os.fsencode(path) in [backing for _, backing in loop.attached()]
    assert os.stat(device.node).st_rdev == device.dev
    device.close()
    device.close()
    assert os.fsencode(path) not in [backing for _, backing in loop.attached()]


def test_capacity_follows_the_file(tmp_path: Path) -> None:
    path = make_file(tmp_path / "file")
    with open(path, "r+b") as file, loop.attach(file) as device:
        assert os.lseek(device.fileno(), 0, os.SEEK_END) == 1 << 20
        file.truncate(3 << 20)
        loop.set_capacity(device)
        assert os.lseek(device.fileno(), 0, os.SEEK_END) == 3 << 20


def test_a_read_only_device_refuses_writes(tmp_path: Path) -> None:
    path = make_file(tmp_path / "file")
    with open(path, "rb") as file, loop.attach(file, read_only=True) as device:
        assert loop.LoopFlag.READ_ONLY in loop.get_status64(device).flags
        with pytest.raises(PermissionError), open(device.node, "r+b", buffering=0) as node:
            node.write(b"x" * 512)


def test_a_missing_node_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DM-22: free in the kernel, but without a node here."""
    monkeypatch.setattr(loop, "device_number", lambda index, **_: os.makedev(7, 4000 + index))
    path = make_file(tmp_path / "file")
    with open(path, "r+b") as file, pytest.raises(FileNotFoundError, match="/dev/loop"):
        loop.attach(file)
