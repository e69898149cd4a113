"""Debian packages of the kernel tier: what each guest needs, installed when root, named when not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

COMMON = {
    "/bin/busybox": "busybox-static",
    "/sbin/modprobe": "kmod",
    "/sbin/dmsetup": "dmsetup",
    "/sbin/mke2fs": "e2fsprogs",
    "/sbin/mkfs.xfs": "xfsprogs",
    "/bin/btrfs": "btrfs-progs",
    "/usr/sbin/thin_check": "thin-provisioning-tools",
    "/sbin/lvcreate": "lvm2",
    "/bin/udevadm": "udev",
}
UML = {"/usr/bin/linux.uml": "user-mode-linux"}
UML_SHIM = {"/usr/bin/gcc": "gcc", "/usr/include/string.h": "libc6-dev"}
QEMU = {"/usr/bin/qemu-system-x86_64": "qemu-system-x86", "/usr/lib/qemu/virtiofsd": "qemu-system-common"}
CLOUD_KERNEL = "linux-image-cloud-amd64"


class Missing(Exception):
    """What the tier needs is not there and cannot be installed by this user."""


def ensure(wanted: dict[str, str], *, also: tuple[str, ...] = ()) -> None:
    """Install the packages whose file in ``wanted`` (path to package) is absent, and those of ``also``.

    Raises Missing when this is not root, not Debian, or the installation fails.
    """
    names = sorted({package for path, package in wanted.items() if not os.path.exists(path)} | set(also))
    if not names:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", *names]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Missing(f"the kernel tier needs: {' '.join(names)}; install them, for example: {' '.join(command)}")
    print(f"kernel tier: installing {' '.join(names)}", file=sys.stderr)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    if _apt(command, environment) != 0:
        _apt(["apt-get", "update"], environment)
        if _apt(command, environment) != 0:
            raise Missing(f"installing {' '.join(names)} failed; see the lines above")


def _apt(command: list[str], environment: dict[str, str]) -> int:
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False).returncode
