"""The few programs the library runs, all of them here: makers of file systems. And where programs are found.

Everything else is asked of the kernel. A program gets fixed arguments without a shell, messages in English, nothing
on its standard input, and no descriptor of ours.
"""

from __future__ import annotations

import os

from cowstore.errors import CowstoreError, DriverUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PACKAGES = {
    "mke2fs": "e2fsprogs",
    "tune2fs": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "mkfs.btrfs": "btrfs-progs",
}
"""Every program there is, and the package that has it on most distributions."""

_SYSTEM_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def find(program: str) -> str | None:
    """Return the path of a program: in PATH, then in the system's directories, which a user's PATH may lack."""
    return find_in([*os.environ.get("PATH", "").split(os.pathsep), *_SYSTEM_DIRECTORIES], program)


def find_in(directories: Iterable[str], program: str) -> str | None:
    """Return the path of a program in the first of the directories that has it."""
    for directory in directories:
        path = os.path.join(directory, program)
        if directory and os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def missing(program: str) -> str:
    """Say that a program is missing and what to do, for the list of a :class:`~cowstore.errors.DriverUnavailable`."""
    return f"the program {program} is not installed: install the package {PACKAGES[program]}"


def run(program: str, arguments: Sequence[str | bytes], *, timeout_seconds: float = 600) -> bytes:
    """Run a program to its end and return what it printed.

    :raises DriverUnavailable: it is not installed.
    :raises CowstoreError: it failed, or took too long; the message holds what it said.
    """
    import subprocess

    path = find(program)
    if path is None:
        raise DriverUnavailable(missing(program), missing=[missing(program)])
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    try:
        done = subprocess.run(
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CowstoreError(f"{path} was stopped: it took longer than {timeout_seconds:.0f} s") from error
    if done.returncode != 0:
        said = " ".join(done.stderr.decode(errors="replace").split()) or "nothing said"
        raise CowstoreError(f"{path} failed with status {done.returncode}: {said}")
    return done.stdout
