"""A snapshot as an OCI bundle, run by other people's runtimes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from cowstore.errors import InvalidArgument, NotFound
from cowstore.runtime.bundle import bundle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import cowstore

# crun refuses a host with both versions of control groups: it is shown version 2 alone.
ALONE = 'umount -l /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"'
RUNTIMES = {
    "runc": ["runc"],
    "crun": ["unshare", "--mount", "sh", "-c", ALONE, "sh", "crun", "--cgroup-manager=disabled"],
}


@pytest.fixture
def at(store: cowstore.Store, tmp_path: Path) -> Iterator[Path]:
    store.prepare("work", "host")
    directory = tmp_path / "bundle"
    yield directory
    if os.path.ismount(directory / "rootfs"):
        store.detach(directory / "rootfs")


@pytest.mark.parametrize("name", RUNTIMES)
def test_runtimes_run_it_unchanged(store: cowstore.Store, at: Path, name: str) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"not proven: {name} is not installed")
    script = (
        "id -u; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status | tr -d '\\n'; echo; "
        "cat /proc/sys/kernel/hostname; unshare -U true 2>/dev/null || echo refused; echo x > /srv/mark; exit 7"
    )
    bundle(store, "work", at, argv=["sh", "-c", script], hostname="inside")
    command = [*RUNTIMES[name], "run", "--bundle", str(at), f"cowstore-test-{os.getpid()}-{name}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 7, done
    assert done.stdout.splitlines() == [
        "0",
        "CapEff:\t00000000800405fbNoNewPrivs:\t1Seccomp:\t2",
        "inside",
        "refused",
    ]
    store.detach(at / "rootfs")
    assert [change.path for change in store.changes("work") if change.path not in {".", "srv"}] == ["srv/mark"]


def test_users_are_numbers_there(store: cowstore.Store, at: Path) -> None:
    with store.mounted("work") as root:
        (root / "etc/passwd").unlink()
        (root / "etc/passwd").write_text("app:x:1234:1235::/home/app:/bin/sh\n")
    bundle(store, "work", at, argv=["true"], user="app")
    process = json.loads((at / "config.json").read_text())["process"]
    assert (process["user"]["uid"], process["user"]["gid"]) == (1234, 1235)
    assert "HOME=/home/app" in process["env"]
    assert process["capabilities"]["effective"] == []


def test_wrong_use_leaves_nothing(store: cowstore.Store, at: Path) -> None:
    with pytest.raises(NotFound):
        bundle(store, "nobody", at, argv=["true"])
    with pytest.raises(InvalidArgument, match="no user 'app'"):
        bundle(store, "work", at, argv=["true"], user="app")
    assert not os.path.ismount(at / "rootfs")
    at.mkdir(exist_ok=True)
    (at / "file").touch()
    with pytest.raises(InvalidArgument, match="not empty"):
        bundle(store, "work", at, argv=["true"])
