"""What every guest has in common: the directory shared with it, running its launcher, bringing back what it said."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent.parent
LAUNCHER_FAILED = 125
TIMED_OUT = 124
GUEST_DIED = 123
# Directories over which guest-init mounts memory file systems (/dev is the guest kernel's own).
COVERED = ("/tmp", "/var/tmp", "/run", "/dev/shm")
# How long before its time is up a guest writes down where its processes are, and its launcher waits for that.
LAST_SECONDS = 60
PREFIX = "cowstore-guest-"
PASSED = ("CI", "COWSTORE_", "PYTHONPATH", "PYTEST_", "HYPOTHESIS_", "PY_COLORS", "NO_COLOR", "FORCE_COLOR")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Guest:
    """What to run and what to give it; sizes in bytes, time in seconds."""

    command: str
    working_directory: str
    memory_bytes: int
    timeout_seconds: float
    processors: int = 1
    udevd: bool = False
    scratch: str = "tmpfs"
    disks: tuple[int, ...] = ()
    results: str | None = None


class BootFailure(Exception):
    """The guest never got as far as running its command."""


@contextlib.contextmanager
def shared_directory(guest: Guest, kind: str, modules: str) -> Iterator[Path]:
    """Make the directory through which launcher and guest speak, filled for guest-init; removed at the end."""
    sweep()
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))
    lock = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        (directory / "command").write_text(guest.command + "\n")
        (directory / "cwd").write_text(guest.working_directory)
        (directory / "modules").write_text(modules)
        (directory / "results").write_text(guest.results or "")
        (directory / "seconds").write_text(str(int(guest.timeout_seconds)))
        (directory / "visible").write_text("".join(f"{path}\n" for path in visible()))
        (directory / "environment").write_text("".join(guest_environment(kind)))
        shutil.copy(HERE / "guest-init", directory / "guest-init")
        (directory / "memory").mkdir()
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def sweep() -> None:
    """Remove the directories of launchers that were killed: nobody locks them any more."""
    for directory in Path("/tmp").glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                found = os.fstat(fd)
                # One that was made a moment ago may not be locked yet.
                if found.st_uid == os.geteuid() and time.time() - found.st_mtime > 60:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(fd)


def processor_seconds() -> float:
    """What the guests that have ended used of this machine's processors."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def visible() -> list[str]:
    """Directories of the host a guest must show although a memory file system covers them: checkout and interpreter."""
    wanted = [str(CHECKOUT), sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent.parent)]
    covered = dict.fromkeys(path for path in wanted if any(path.startswith(top + "/") for top in COVERED))
    return sorted(covered, key=len)


def guest_environment(kind: str) -> Iterator[str]:
    """Lines of shell that give the guest's command its environment."""
    for name, value in sorted(os.environ.items()):
        if name.startswith(PASSED) and name.isidentifier():
            yield f"export {name}={shlex.quote(value)}\n"
    yield f"export COWSTORE_VM={kind} PYTHONDONTWRITEBYTECODE=1 HYPOTHESIS_STORAGE_DIRECTORY=/tmp/home/hypothesis\n"
    yield 'export PYTEST_ADDOPTS="-p no:cacheprovider ${PYTEST_ADDOPTS-}"\n'
    # The C library would give memory back and ask for it again; in user-mode Linux each page of it costs 80 us.
    yield "export MALLOC_TRIM_THRESHOLD_=1000000000 MALLOC_MMAP_THRESHOLD_=1000000000 MALLOC_TOP_PAD_=16000000\n"
    yield f"export PATH={shlex.quote(str(Path(sys.prefix) / 'bin'))}:$PATH\n"


def run(
    guest: Guest,
    directory: Path,
    argv: list[str],
    *,
    covered: tuple[str, ...] = (),
    extra_environment: dict[str, str] | None = None,
) -> int:
    """Run the isolated launcher ``argv`` to its end, passing on the guest's output; returns its exit status.

    ``covered`` are directories over which the launcher itself needs an empty memory file system.

    Raises BootFailure when the guest ended, or its time did, before the command began.
    """
    writable = [str(directory)] + ([guest.results] if guest.results else [])
    memory = directory / "memory"
    isolated = [sys.executable, str(HERE / "isolate.py")]
    for path in (str(memory), *covered):
        isolated += ["--memory", path]
    for path in writable:
        isolated += ["--writable", path]
    # Disks lie in memory too: a flush in the guest need not wait for this machine's disk.
    for index, size in enumerate(guest.disks):
        isolated += ["--sparse", f"{memory}/disk{index}={size}"]
    environment = {"PATH": os.environ.get("PATH", os.defpath), "TMPDIR": str(memory), "HOME": "/root"}
    with open(directory / "console", "wb") as console:
        process = subprocess.Popen(
            [*isolated, "--", *argv], stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
            cwd="/", env={**environment, **(extra_environment or {})},
        )  # fmt: skip
    try:
        timely = _follow(process, directory / "out", time.monotonic() + guest.timeout_seconds + LAST_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return _result(guest, directory, timely)


def _follow(process: subprocess.Popen[bytes], output: Path, deadline: float) -> bool:
    """Copy ``output`` to standard output while the process lives; False when the deadline came first."""
    position = 0
    while True:
        ended = process.poll() is not None
        with contextlib.suppress(FileNotFoundError), open(output, "rb") as file:
            file.seek(position)
            while block := file.read(1 << 16):
                position += len(block)
                sys.stdout.buffer.write(block)
        sys.stdout.flush()
        if ended or time.monotonic() > deadline:
            return ended
        time.sleep(0.05)


def _result(guest: Guest, directory: Path, timely: bool) -> int:
    if (directory / "status").exists():
        return int((directory / "status").read_text())
    tail = (directory / "console").read_text(errors="replace")[-4000:]
    with contextlib.suppress(FileNotFoundError):
        print((directory / "stacks").read_text(errors="replace"), file=sys.stderr)
        timely = False
    if not (directory / "booted").exists():
        raise BootFailure(f"the guest did not boot; the end of its console:\n{tail}")
    if not timely:
        print(
            f"kernel tier: the guest was stopped after {guest.timeout_seconds:.0f} s; the end of its console:\n{tail}",
            file=sys.stderr,
        )
        return TIMED_OUT
    print(f"kernel tier: the guest died; the end of its console:\n{tail}", file=sys.stderr)
    return GUEST_DIED
