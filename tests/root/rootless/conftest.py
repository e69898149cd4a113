"""An ordinary user with a directory of his own, who calls the command and runs scripts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import cowstore

if TYPE_CHECKING:
    from collections.abc import Iterator

UID = 65534
PACKAGE = Path(cowstore.__file__).resolve().parent


class User:
    """User 65534, with Debian's interpreter: the one that runs the tests may be out of his reach.

    :ivar home: his directory. :ivar ranges: whether the administrator granted him further ids.
    """

    def __init__(self, home: Path, python: str) -> None:
        self.home = home
        self.python = python
        self.ranges = False
        self.packages = PACKAGE.parent
        self.before: list[str] = []
        if self.run("test", "-r", str(PACKAGE / "__init__.py")).returncode:
            self.packages = home / "packages"
            shutil.copytree(PACKAGE, self.packages / "cowstore", ignore=shutil.ignore_patterns("__pycache__"))

    def command(self, *words: str | os.PathLike[str]) -> list[str]:
        """Return the command line that runs a program as this user."""
        made = ["setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups", *self.before, *map(str, words)]
        if not self.ranges:
            return made
        granted = self.home / "granted"
        granted.write_text("nobody:100000:65536\n")
        script = 'for f in /etc/subuid /etc/subgid; do mount --bind "$0" $f || exit 1; done; exec "$@"'
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(granted), *made]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "XDG_DATA_HOME": str(self.home / "data"),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": str(self.packages),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
        }

    def run(
        self, *words: str | os.PathLike[str], data: bytes | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        done = subprocess.run(
            self.command(*words),
            input=data,
            capture_output=True,
            timeout=timeout,
            check=False,
            cwd=self.home,
            env=self.environment,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )

    def __call__(self, *words: str | os.PathLike[str], status: int = 0, data: bytes | None = None) -> str:
        """Run a program that must end with *status*; returns its standard output."""
        done = self.run(*words, data=data)
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        return done.stdout

    def cowstore(self, *words: str | os.PathLike[str], status: int = 0) -> str:
        """Call the command ``cowstore``."""
        return self(self.python, "-m", "cowstore.cli.main", *words, status=status)

    def cowstore_run(self, *words: str | os.PathLike[str], status: int = 0) -> str:
        """Call the command ``cowstore-run``."""
        return self(self.python, "-m", "cowstore.cli.run", *words, status=status)

    def script(self, text: str, *words: str | os.PathLike[str], unshared: bool = False) -> str:
        """Run a script, perhaps inside ``cowstore unshare``."""
        before = [self.python, "-m", "cowstore.cli.main", "unshare", "--"] if unshared else []
        return self(*before, self.python, "-c", text, *words)


@pytest.fixture
def user() -> Iterator[User]:
    python = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable
    home = Path(tempfile.mkdtemp(prefix="cowstore-rootless-", dir="/tmp"))
    try:
        home.chmod(0o755)
        os.chown(home, UID, UID)
        made = User(home, python)
        version = made.run(python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))")
        if version.returncode:
            pytest.skip(f"elsewhere: user {UID} has no Python 3.11 here")
        yield made
    finally:
        shutil.rmtree(home)


@pytest.fixture(params=["overlay", "copy"])
def driver(request: pytest.FixtureRequest) -> str:
    """A driver that works for an ordinary user."""
    name = request.param
    assert isinstance(name, str)
    return name


@pytest.fixture
def archive(user: User) -> Path:
    """A small root file system with a static shell, if this machine has one; foreign owners, a device and a fifo."""
    import io
    import tarfile

    path = user.home / "root.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind, owner in (
            ("etc", tarfile.DIRTYPE, 0),
            ("bin", tarfile.DIRTYPE, 0),
            ("tmp", tarfile.DIRTYPE, 0),
            ("home", tarfile.DIRTYPE, 1000),
            ("fifo", tarfile.FIFOTYPE, 0),
            ("null", tarfile.CHRTYPE, 0),
            ("disk", tarfile.BLKTYPE, 0),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.uid, entry.gid, entry.mode = kind, owner, owner, 0o755
            entry.devmajor, entry.devminor = 1, 3
            tar.addfile(entry)
        for name, text, mode, owner in (
            ("etc/os-release", b"NAME=small\n", 0o644, 0),
            ("etc/secret", b"x", 0, 0),
            ("home/file", b"home", 0o600, 1000),
        ):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.uid, entry.gid = len(text), mode, owner, owner
            tar.addfile(entry, io.BytesIO(text))
        busybox = Path("/bin/busybox")
        if busybox.exists():
            tar.add(busybox, "bin/busybox")
            for name in ("sh", "cat", "id", "ls", "touch", "rm", "mkdir", "sleep"):
                entry = tarfile.TarInfo(f"bin/{name}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
    path.chmod(0o644)
    return path
