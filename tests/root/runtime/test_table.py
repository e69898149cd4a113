"""What a program sees of the machine, as a table: run by root, and by an ordinary user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.root.rootless.conftest import UID, User, user

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["user"]

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
PYTHON = "/usr/bin/python3"

LOOK = """
import json, os, socket, sys
fds = sorted(os.listdir("/proc/self/fd"), key=int)[:-1]  # the last is that of the listing
status = dict(line.rstrip("\\n").split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
print(json.dumps({
    "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
    "self": os.getpid(), "parent": os.getppid(), "session": os.getsid(0) == os.getpid(),
    "mounts": sorted({line.split()[1] for line in open("/proc/self/mounts")}),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "routes": len(open("/proc/net/route").readlines()) - 1,
    "hostname": os.uname().nodename,
    "queues": len(open("/proc/sysvipc/msg").readlines()) - 1,
    "devices": sorted(os.listdir("/dev")),
    "descriptors": fds,
    "groups": sorted({line.rstrip().split(":", 2)[2] for line in open("/proc/self/cgroup")}),
    "uid_map": open("/proc/self/uid_map").read().split(),
    "environment": sorted(os.environ),
    "namespaces": {name: os.readlink("/proc/self/ns/" + name) for name in sys.argv[1:]},
    **{name: status[name] for name in (
        "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "SigBlk", "SigIgn")},
}))
"""

DEVICES = [
    *("fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom"),
    "zero",
]
MOUNTS = {"/", "/dev", "/dev/pts", "/dev/shm", "/proc", "/proc/sys", "/sys"}

TABLE: dict[str, object] = {
    "processes": [1, 2],
    "self": 2,
    "parent": 1,
    "session": True,
    "interfaces": ["lo"],
    "routes": 0,
    "hostname": "inside",
    "queues": 0,
    "devices": DEVICES,
    "descriptors": ["0", "1", "2"],
    "groups": ["/"],
    "CapInh": "0000000000000000",
    "CapPrm": "00000000800405fb",
    "CapEff": "00000000800405fb",
    "CapBnd": "00000000800405fb",
    "CapAmb": "0000000000000000",
    "NoNewPrivs": "1",
    "Seccomp": "2",
    "SigBlk": "0000000000000000",
    "SigIgn": "0000000001001000",  # Python's own: SIGPIPE and SIGXFSZ
    "environment": ["HOME", "LC_CTYPE", "PATH"],  # LC_CTYPE is of Python's making
}
WORDS = ["--hostname", "inside", "--", PYTHON, "-I", "-S", "-c", LOOK, *NAMESPACES]


@pytest.fixture
def queue() -> Iterator[None]:
    """A message queue of this machine, which nobody inside shall see."""
    made = subprocess.run(["ipcmk", "-Q"], capture_output=True, text=True, check=True).stdout.split()[-1]
    yield
    subprocess.run(["ipcrm", "-q", made], check=True)


def differences(seen: dict[str, object], wanted: dict[str, object]) -> dict[str, tuple[object, object]]:
    return {name: (seen[name], value) for name, value in wanted.items() if seen[name] != value}


def outside() -> dict[str, str]:
    return {name: os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES}


@pytest.mark.usefixtures("queue")
def test_what_a_program_of_root_sees(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "cowstore.cli.run", "--store", str(tmp_path / "store"), *WORDS]
    environment = {name: value for name, value in os.environ.items() if name != "TERM"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert differences(seen, {**TABLE, "uid_map": Path("/proc/self/uid_map").read_text().split()}) == {}
    assert set(seen["mounts"]) >= MOUNTS
    assert not [point for point in seen["mounts"] if not point.startswith(("/proc", "/sys", "/dev")) and point != "/"
                and point != str(tmp_path / "store")]  # fmt: skip
    shared = {name for name, namespace in outside().items() if seen["namespaces"][name] == namespace}
    assert shared == {"user"}


@pytest.mark.usefixtures("queue")
def test_what_a_program_of_an_ordinary_user_sees(user: User) -> None:
    seen = json.loads(user.cowstore_run(*WORDS))
    assert differences(seen, {**TABLE, "uid_map": ["0", str(UID), "1"]}) == {}
    assert set(seen["mounts"]) >= MOUNTS
    shared = {name for name, namespace in outside().items() if seen["namespaces"][name] == namespace}
    assert shared == set()
