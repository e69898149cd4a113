"""Where the root cannot be pivoted away: an initramfs, and a chroot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

UNPIVOTABLE = """
import errno, os, sys
import cowstore.cli.run, cowstore.runtime.root

def refuse(new, old): raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

cowstore.runtime.root.pivot_root = refuse
sys.exit(cowstore.cli.run.run(sys.argv[1:]))
"""
"""Runs the command where pivot_root(2) says what it says of the kernel's first root file system."""

PROBE = """
import os, sys
secret, outside = sys.argv[1:]
for path in ("/proc/1/root", "/proc/self/root/..", "/..", "/../.."):
    assert not os.path.exists(path + secret), path
for _ in range(50): os.chdir("..")
assert not os.path.exists("." + secret)
mounts = [line.split()[4] for line in open("/proc/self/mountinfo")]
assert not [point for point in mounts if point.startswith(outside)], mounts
try: os.chroot("/srv")
except PermissionError: print("kept")
"""


@pytest.mark.parametrize("more", [[], ["--as-pid-1"]])
def test_a_root_that_cannot_be_pivoted(tmp_path: Path, more: list[str]) -> None:
    """RT-09: a warning says what is done instead; nobody gets back to the old root, as chroot(2) would."""
    base = tmp_path / "base"
    for name in ("usr", "proc", "sys", "dev", "srv"):
        (base / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        if not Path(f"/{name}").is_symlink():
            pytest.skip("not proven: this machine's root is laid out in an older way")
        (base / name).symlink_to(f"usr/{name}")
    (tmp_path / "secret").write_text("secret")
    outside = tmp_path / "outside"
    outside.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "cowstore-test", outside], check=True)
    try:
        command = [sys.executable, "-P", "-c", UNPIVOTABLE, "--store", str(tmp_path / "store"), "--base", str(base)]
        inside = ["/usr/bin/python3", "-I", "-S", "-c", PROBE, str(tmp_path / "secret"), str(outside)]
        done = subprocess.run(
            [*command, *more, "--bind", "/usr:/usr:ro", "--", *inside],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    finally:
        subprocess.run(["umount", outside], check=True)
    assert (done.returncode, done.stdout) == (0, "kept\n"), done.stderr
    assert done.stderr == (
        "cowstore-run: the root could not be pivoted (this machine runs from an initramfs): used chroot(2), "
        "without CAP_SYS_CHROOT inside\n"
    )


def test_a_chroot(tmp_path: Path) -> None:
    """One that is a mount point is as good as any root; one that is not is refused with the way out."""
    script = (
        'for d in /*; do if test -L $d; then cp -d $d "$0$d"; elif test -d $d; then mkdir -p "$0$d" && '
        'mount --rbind $d "$0$d"; fi; done; exec chroot "$0" "$@"'
    )
    command = [sys.executable, "-P", "-m", "cowstore.cli.run", "--store", str(tmp_path / "store")]
    command += ["--with-mounts", "--", "echo", "ran"]
    for before, status, says in (
        ('mount -t tmpfs cowstore-test "$0"; ', 0, ""),
        ("", 125, "this runs in a chroot whose directory is no mount point: mount it on itself before"),
    ):
        new = tmp_path / f"new{status}"
        new.mkdir()
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", before + script, str(new), *command],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (status, "ran\n" if status == 0 else ""), done.stderr
        assert says in done.stderr
