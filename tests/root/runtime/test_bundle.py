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
from cowstore.runtime.cgroups import hierarchies
from cowstore.runtime.limits import Limits

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


def ran(at: Path, name: str) -> subprocess.CompletedProcess[str]:
    if shutil.which(name) is None:
        pytest.skip(f"not proven: {name} is not installed")
    command = [*RUNTIMES[name], "run", "--bundle", str(at), f"cowstore-test-{os.getpid()}-{name}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", RUNTIMES)
def test_an_image_says_how_it_is_run(store: cowstore.Store, at: Path, name: str) -> None:
    config = {
        "Env": ["A=1", "B=2"],
        "Entrypoint": ["sh", "-c"],
        "Cmd": ["id -u; pwd; echo $A $B $HOME; touch /x 2>/dev/null || echo refused"],
        "User": "app",
        "WorkingDir": "/usr",
        "StopSignal": "SIGINT",
    }
    with store.mounted("work") as root:
        (root / "etc/passwd").unlink()
        (root / "etc/passwd").write_text("app:x:1234:1235::/srv/app:/bin/sh\n")
    store.commit("image", "work", labels={"cowstore.image.config": json.dumps({"config": config})})
    bundle(store, "image", at, env={"B": "3"})
    done = ran(at, name)
    assert (done.returncode, done.stdout) == (0, "1234\n/usr\n1 3 /srv/app\nrefused\n"), done
    written = json.loads((at / "config.json").read_text())
    assert written["annotations"] == {"org.opencontainers.image.stopSignal": "SIGINT"}


@pytest.mark.parametrize("name", RUNTIMES)
def test_read_only_and_a_profile(store: cowstore.Store, at: Path, tmp_path: Path, name: str) -> None:
    """The profile is in the container runtimes' own form, with parts for other machines and for more capabilities."""
    profile = tmp_path / "profile.json"
    rules = [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 122},
        {"names": ["chroot"], "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["sync"], "action": "SCMP_ACT_ERRNO", "includes": {"arches": ["s390x"]}},
    ]
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "archMap": [], "syscalls": rules}))
    script = (
        "mkdir /scratch/x 2>&1 | grep -o 'quota exceeded'; touch /y 2>/dev/null || echo read-only; chroot / true && "
        "sync && touch /scratch/z && grep CapBnd /proc/self/status"
    )
    argv = ["sh", "-c", script]
    with store.mounted("work") as root:
        (root / "scratch").mkdir(exist_ok=True)
    bundle(
        store, "work", at, argv=argv, read_only=True, seccomp=str(profile), tmpfs=["/scratch"], cap_drop=["setpcap"]
    )
    done = ran(at, name)
    assert done.stdout.splitlines() == ["quota exceeded", "read-only", "CapBnd:\t00000000800404fb"], done


def test_limits_bite_there(store: cowstore.Store, at: Path) -> None:
    """With runc alone: crun refuses the control groups of this kind of host."""
    limits = Limits(memory_bytes=64 << 20, pids=20, cpus=0.5, io_weight=50)
    script = "x = bytearray(256 << 20)"
    bundle(store, "work", at, argv=["/usr/bin/python3", "-I", "-S", "-c", script], limits=limits)
    said = json.loads((at / "config.json").read_text())["linux"]["resources"]
    assert (said["cpu"], said["blockIO"]) == ({"quota": 50000, "period": 100000}, {"weight": 50})
    if "memory" not in {controller for each in hierarchies() for controller in each.controllers}:
        pytest.skip("not proven: this machine has no memory controller")
    assert ran(at, "runc").returncode == 137


def test_what_a_bundle_cannot_say_is_refused(store: cowstore.Store, at: Path) -> None:
    with pytest.raises(InvalidArgument, match="network"):
        bundle(store, "work", at, argv=["true"], network="user")
    with pytest.raises(InvalidArgument, match="seccomp profile"):
        bundle(store, "work", at, argv=["true"], seccomp="/no/such")
    assert not at.exists()
