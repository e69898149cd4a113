"""The commands over this driver, on a root that is nothing but a busybox."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

HERE = Path(sys.executable).parent
BUSYBOX = "/bin/busybox"

# As the command makes and keeps them, but without an interpreter for each, which takes a second where this runs.
THE_OTHERS = """
import sys

import cowstore

with cowstore.open(sys.argv[1]) as store:
    (base,) = (snapshot.key for snapshot in store.walk() if snapshot.parent is None)
    for number in range(5, 50):
        store.prepare(f"kept-{number}", base)
        assert cowstore.run(store, key=f"kept-{number}", argv=sys.argv[2:]).status == 0
"""


def said(*command: str) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}: status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """An archive of the smallest root that runs something."""
    root = tmp_path / "root"
    for name in ("bin", "etc"):
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for name in ("sh", "cat", "grep"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/os-release").write_text("NAME=Busy\n")
    archive = tmp_path / "base.tar"
    with tarfile.open(archive, "w") as file:
        file.add(root, ".")
    return archive


def test_programs_run_on_snapshots(base: Path, tmp_path: Path) -> None:
    """One that is thrown away, several at once that are kept; the store is clean, and goes."""
    store = str(tmp_path / "store")
    run = [str(HERE / "cowstore-run"), "--store", store, "--driver", "devicemapper", "--base", str(base)]
    for name, mebibytes in (("base", 48), ("data", 256), ("metadata", 4)):
        run += ["--option", f"{name}_bytes={mebibytes << 20}"]
    cowstore = [str(HERE / "cowstore"), "--store", store]
    assert said(*run, "--", "cat", "/etc/os-release") == "NAME=Busy\n"
    children = [
        subprocess.Popen(
            [*run, "--keep", f"kept-{number}", "--", "sh", "-c", f"echo {number} > /etc/mine; cat /etc/os-release"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(4)
    ]  # fmt: skip
    for child in children:
        out, errors = child.communicate(timeout=300)
        assert (child.returncode, out) == (0, "NAME=Busy\n"), errors
    listed = said(*cowstore, "ls")
    assert all(f"kept-{number}" in listed for number in range(4)), listed
    assert "A etc/mine" in said(*cowstore, "changes", "kept-2").splitlines()
    said(*cowstore, "check")
    said(*cowstore, "destroy", "--yes")
    assert not os.path.exists(f"{store}/catalog.db")


def test_fifty_kept(base: Path, tmp_path: Path) -> None:
    """Each of fifty kept snapshots of one base takes 512 KiB at most: its changes, and what a mounted ext4 writes."""
    store = str(tmp_path / "store")
    run = [str(HERE / "cowstore-run"), "--store", store, "--driver", "devicemapper", "--base", str(base)]
    for name, mebibytes in (("base", 48), ("data", 256), ("metadata", 4)):
        run += ["--option", f"{name}_bytes={mebibytes << 20}"]
    program = ["sh", "-c", "echo mine > /etc/mine"]
    for number in range(5):
        said(*run, "--keep", f"kept-{number}", "--", *program)
    said(sys.executable, "-c", THE_OTHERS, store, *program)
    rows = json.loads(said(str(HERE / "cowstore"), "--store", store, "df", "--json"))["snapshots"]
    sizes = {row["key"]: row["size_bytes"] for row in rows if row["key"].startswith("kept-")}
    assert len(sizes) == 50
    assert 0 < min(sizes.values()) <= max(sizes.values()) <= 512 << 10
    said(str(HERE / "cowstore"), "--store", store, "destroy", "--yes")
