"""What a driver has to do while its tree is still mounted is done wherever the container's mount is."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore.errors import OutOfSpace
from cowstore.runtime.remote import server

if TYPE_CHECKING:
    from collections.abc import Iterator

DRIVER = '''
import os
from plain_driver import Plain

class Noting(Plain):
    """Notes what it finds in the tree that is about to be unmounted; fails where the tree asks for it."""

    name = "noting"

    def before_unmount(self, id, root_fd):
        with open(os.path.join(self.directory, "..", "noted"), "a") as file:
            mounted = os.fstat(root_fd).st_ino == os.stat(self.path(id)).st_ino
            file.write(f"{id} {mounted} {sorted(os.listdir(root_fd))}\\n")
        if os.access("fail", os.F_OK, dir_fd=root_fd):
            raise cowstore.OutOfSpace("what was written is lost")

import cowstore
'''
EXAMPLE = Path(__file__).resolve().parent.parent.parent.parent / "docs" / "examples" / "plain_driver.py"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A third party's driver, as an installer leaves it."""
    site = tmp_path_factory.mktemp("site")
    shutil.copy(EXAMPLE, site)
    (site / "noting_driver.py").write_text(DRIVER)
    info = site / "noting_driver-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: noting-driver\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cowstore.drivers]\nnoting = noting_driver:Noting\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        patch.setenv("PYTHONPATH", str(site), prepend=":")
        importlib.invalidate_caches()
        yield site
    for name in ("plain_driver", "noting_driver"):
        sys.modules.pop(name, None)


@pytest.fixture
def store(installed: Path, tmp_path: Path) -> Iterator[cowstore.Store]:
    """A store of that driver with a small root, ``base``."""
    root = tmp_path / "root"
    for name in ("proc", "sys", "dev", "bin"):
        (root / name).mkdir(parents=True)
    for program in ("/bin/sh", "/bin/true", "/bin/sleep", "/bin/touch"):
        linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for path in [program, *(word for word in linked.split() if word.startswith("/"))]:
            target = root / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    with cowstore.open(tmp_path / "store", driver="noting") as opened:
        opened.import_directory(root, name="base")
        noted(opened)
        yield opened
    server.stop()


def noted(store: cowstore.Store) -> list[str]:
    """Return what the driver noted since it was last asked."""
    path = Path(store.root) / "noted"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


@pytest.mark.parametrize("as_pid_1", [False, True])
def test_after_a_run(store: cowstore.Store, as_pid_1: bool) -> None:
    """Also after one that is over at once."""
    for argv in (["sh", "-c", "echo x > /new"], ["true"], ["sh", "-c", "sleep 0.1; kill -9 $$"], ["no-such"]):
        cowstore.run(store, parent="base", argv=argv, as_pid_1=as_pid_1)
        [line] = noted(store)
        assert " True " in line
        assert ("'new'" in line) == (argv[-1] == "echo x > /new")
    cowstore.run(store, parent="base", argv=["true"], read_only=True)
    assert noted(store) == []


def test_after_a_container_that_is_ended(store: cowstore.Store) -> None:
    with cowstore.spawn(store, parent="base", argv=["sh", "-c", "touch /new; sleep 100"]) as running:
        assert running.exec(["true"]).status == 0
        assert noted(store) == []
    [line] = noted(store)
    assert " True " in line
    assert [snapshot.key for snapshot in store.walk()] == ["base"]


def test_what_it_says_reaches_the_caller(store: cowstore.Store) -> None:
    store.prepare("work", "base")
    with cowstore.spawn(store, key="work", argv=["touch", "/fail"]) as running:
        for _ in range(2):
            with pytest.raises(OutOfSpace, match="lost"):
                running.wait()


@pytest.mark.parametrize("more", [[], ["--as-pid-1"]])
def test_after_the_command(store: cowstore.Store, more: list[str]) -> None:
    command = [sys.executable, "-m", "cowstore.cli.run", "--store", store.root, "--base", "base", *more, "--"]
    subprocess.run([*command, "true"], check=True, timeout=60)
    [line] = noted(store)
    assert " True " in line
    done = subprocess.run([*command, "touch", "/fail"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (125, "cowstore-run: what was written is lost\n")


def test_after_a_mount(store: cowstore.Store, tmp_path: Path) -> None:
    store.prepare("work", "base")
    with store.mounted("work") as root:
        (root / "new").touch()
    (tmp_path / "mnt").mkdir()
    store.attach("work", tmp_path / "mnt")
    store.detach(tmp_path / "mnt")
    assert [" True " in line and "'new'" in line for line in noted(store)] == [True, True]
